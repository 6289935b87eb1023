"""The null of two groups of people: what sets people apart is no disease, however many cells and types show it."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from haystack_kernel.grounding.nulls.people import people_null, people_without
from haystack_kernel.grounding.uncertainty.between import between_donors
from haystack_kernel.grounding.uncertainty.prompt import PromptEffects

N_GENES, N_CELLS = 300, 40
TYPES = ("a", "b", "c")


def draw_people(rng, n_patients, n_healthy, *, effect=0.0, spread=0.3):
    """People who differ in every gene, alike in all their cell types; a disease adds ``effect`` to a tenth of them."""
    change = effect * (np.arange(N_GENES) % 10 == 0)
    names = [(f"p{i}", 0) for i in range(n_patients)] + [(f"h{i}", 1) for i in range(n_healthy)]
    entries = [(kind, name, side) for name, side in names for kind in TYPES]
    own = {name: spread * rng.normal(size=N_GENES) for name, _ in names}
    sums, squares = np.zeros((2, 2, len(entries), N_GENES))
    n_cells = np.zeros((2, len(entries)), dtype=np.int64)
    for place, (_, name, side) in enumerate(entries):
        mean = 2 + own[name] + change * (side == 0) + 0.5 * rng.normal(size=N_GENES) / np.sqrt(N_CELLS)
        sums[side, place], squares[side, place] = N_CELLS * mean, N_CELLS * (mean**2 + 0.25)
        n_cells[side, place] = N_CELLS
    labels = np.array([(kind, name) for kind, name, _ in entries])
    return PromptEffects(labels[:, 0], labels[:, 1], n_cells, sums, squares)


@pytest.mark.parametrize("sizes", [(3, 3), (4, 6)])
def test_people_null_when_people_only_differ_from_each_other_then_small_p_are_as_rare_as_they_say(sizes):
    rng = np.random.default_rng(sum(sizes))
    p = np.array([people_null(draw_people(rng, *sizes)).p for _ in range(30)])
    for level in (0.02, 0.1, 0.3):
        assert stats.binomtest(int((p <= level).sum()), p.size, level, alternative="greater").pvalue > 1e-3


def test_people_null_when_a_disease_acts_in_all_patients_then_small_and_with_two_patients_there_is_none():
    prompt = draw_people(np.random.default_rng(0), 4, 5, effect=1.0)
    assert people_null(prompt).p < 0.005
    assert people_null(people_without(prompt, "p0")).n_donors == 3
    few = people_null(people_without(people_without(prompt, "p0"), "p1"))
    assert np.isnan(few.p)
    assert "2 patients and 5 healthy donors; 3 of each" in few.reason


def test_between_donors_is_the_variance_of_a_difference_of_two_means_of_people():
    rng = np.random.default_rng(1)
    prompt = draw_people(rng, 6, 5)
    found = between_donors(prompt, engine="weighted", base=np.full(N_GENES, 2.0))
    cells = prompt.respond("weighted", prompt.everything, base=np.full(N_GENES, 2.0)).variance
    wanted = 0.3**2 * (1 / 6 + 1 / 5)
    assert 0.9 * wanted < found.mean() < 1.7 * wanted
    assert (found > 2 * cells).all()
    # the plain jackknife of one gene, by hand
    means = [
        np.array([(prompt.sums[side] / N_CELLS)[prompt.donors == name].mean(axis=0) for name in names])
        for side, names in ((0, [f"p{i}" for i in range(6)]), (1, [f"h{i}" for i in range(5)]))
    ]
    plain = sum(side.var(axis=0, ddof=1) / len(side) for side in means)
    assert found == pytest.approx(np.maximum(plain, (10 * plain_trend(plain, prompt) + 9 * plain) / 19), rel=0.05)


def plain_trend(variance, prompt):
    """All genes have the same level here, so that bins follow the order of the genes."""
    del prompt
    return np.concatenate([np.full(len(part), part.mean()) for part in np.array_split(variance, 6)])


def test_between_donors_when_one_side_is_one_person_then_it_has_the_spread_of_the_other_and_of_two_there_is_none():
    prompt = draw_people(np.random.default_rng(2), 1, 6)
    found = between_donors(prompt, engine="weighted", base=np.full(N_GENES, 2.0))
    assert found.mean() > 0.8 * 0.3**2 * (1 + 1 / 6)
    kept = np.isin(prompt.donors, ["p0", "h0"])
    changes = {name: getattr(prompt, name)[..., kept] for name in ("types", "donors", "n_cells")}
    changes |= {name: getattr(prompt, name)[:, kept] for name in ("sums", "squares")}
    alone = dataclasses.replace(prompt, **changes)
    assert "one donor on each side" in between_donors(alone, engine="weighted", base=np.full(N_GENES, 2.0))
