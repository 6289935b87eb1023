"""The response null: only what a treatment causes points the same way in every donor."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from haystack_kernel.grounding.nulls.response import response_null
from haystack_kernel.grounding.uncertainty.prompt import PromptEffects

N_GENES, N_CELLS = 300, 12


def draw_prompt(rng, n_donors, *, effect=0.0, well=0.4, types=("a", "b"), n_modules=12):
    """A prompt whose wells differ in modules of genes; the treatment adds ``effect`` to a tenth of the genes."""
    modules = rng.normal(size=(n_modules, N_GENES)) / np.sqrt(n_modules)
    change = effect * (np.arange(N_GENES) % 10 == 0)
    entries = [(name, donor) for donor in range(n_donors) for name in types]
    wells = {(donor, side): well * rng.normal(size=n_modules) @ modules for donor in range(n_donors) for side in (0, 1)}
    sums, squares = np.zeros((2, 2, len(entries), N_GENES))
    for place, (_, donor) in enumerate(entries):
        for side in (0, 1):  # 0: treated
            mean = 1 + wells[donor, side] + change * (side == 0) + rng.normal(0, 1, N_GENES) / np.sqrt(N_CELLS)
            sums[side, place], squares[side, place] = N_CELLS * mean, N_CELLS * (mean**2 + 1)
    names = np.array([(name, f"d{donor}") for name, donor in entries])
    return PromptEffects(names[:, 0], names[:, 1], np.full((2, len(entries)), N_CELLS), sums, squares)


@pytest.mark.parametrize("n_donors", [3, 4, 8])
def test_response_null_when_only_wells_differ_then_small_p_are_as_rare_as_they_say(n_donors):
    rng = np.random.default_rng(n_donors)
    p = np.array([response_null(draw_prompt(rng, n_donors)).p for _ in range(80)])
    for level in (0.02, 0.1, 0.3):
        assert stats.binomtest(int((p <= level).sum()), p.size, level, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize("n_donors", [3, 4, 8])
def test_response_null_when_every_donor_responds_then_small(n_donors):
    found = response_null(draw_prompt(np.random.default_rng(0), n_donors, effect=1.5, well=0.2))
    assert found.p < {3: 0.02, 4: 1e-3, 8: 1e-6}[n_donors]
    assert found.agreement > 0.1
    assert (found.n_donors, found.reason) == (n_donors, "")


def test_response_null_is_the_share_of_signs_that_agree_as_well():
    prompt = draw_prompt(np.random.default_rng(2), 5)
    treated, control = (prompt.sums[side] / N_CELLS for side in (0, 1))
    n = prompt.n_cells.sum()
    mean = prompt.sums.sum(axis=(0, 1)) / n
    sd = np.sqrt(prompt.squares.sum(axis=(0, 1)) / n - mean**2)
    effects = []
    for donor in np.unique(prompt.donors):
        own = prompt.donors == donor
        effects.append((treated - control)[own].mean(axis=0) / (sd + np.median(sd)))
    cosines = 1 - cdist(effects, effects, "cosine")
    pairs = list(itertools.combinations(range(5), 2))
    sums = [sum(s[i] * s[j] * cosines[i, j] for i, j in pairs) for s in itertools.product((1, -1), repeat=5)]
    found = response_null(prompt)
    assert found.p == pytest.approx(np.mean(np.array(sums) >= sums[0] - 1e-12))
    assert found.p > 1 / 16
    assert found.agreement == pytest.approx(sums[0] / 10)


def test_response_null_when_a_cell_type_lacks_one_side_then_it_takes_no_part():
    prompt = draw_prompt(np.random.default_rng(3), 4)
    n_cells, sums = prompt.n_cells.copy(), prompt.sums.copy()
    alone = prompt.types == "b"
    n_cells[1, alone], sums[1][alone] = 0, 0.0
    sums[0][alone] += 1e3 * N_CELLS  # what has nothing to be compared with could be anything
    squares = prompt.squares.copy()
    squares[1][alone] = 0.0
    squares[0][alone] += 1e7 * N_CELLS
    found = response_null(PromptEffects(prompt.types, prompt.donors, n_cells, sums, squares))
    assert abs(found.agreement) < 0.5
    assert found.n_donors == 4


def test_response_null_when_two_donors_then_no_test_and_a_reason():
    found = response_null(draw_prompt(np.random.default_rng(0), 2))
    assert np.isnan(found.p)
    assert found.reason == "2 donors hold treated and control cells, and a test of the response needs 3"
