"""How far effects move cells toward a state, on designed effects whose alignment is known."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from haystack_kernel.campaign.toward import TargetState, compute_toward
from haystack_kernel.errors import InvalidInputError

N_GENES = 400
GENES = [f"G{number}" for number in range(N_GENES)]


def effects_of(rows, *, sd=0.05, genes=GENES):
    made = ad.AnnData(X=np.array(rows, dtype=float), var=pd.DataFrame(index=pd.Index(genes)))
    made.obs_names = [f"{number:04d}" for number in range(1, len(rows) + 1)]
    made.layers["effect_sd"] = np.broadcast_to(sd, made.shape).copy()
    return made


@pytest.fixture(scope="module")
def wanted():
    """A direction of 40 genes: 25 up, 15 down."""
    direction = np.zeros(N_GENES)
    direction[:200:5] = np.r_[np.full(25, 1.0), np.full(15, -0.5)]
    return direction


def state_of(direction, **options):
    return TargetState("wanted", pd.Series(direction, index=GENES), **options)


def test_an_effect_in_the_direction_is_the_cosine_with_it_and_the_opposite_its_negative(wanted):
    rng = np.random.default_rng(0)
    other = rng.normal(0, 0.3, N_GENES)
    table = compute_toward(effects_of([wanted, -wanted, 0.3 * wanted + other], sd=0.0), state_of(wanted), n_draws=199)
    third = 0.3 * wanted + other
    by_hand = wanted @ third / np.linalg.norm(wanted) / np.linalg.norm(third)
    assert table["toward"].tolist() == pytest.approx([1.0, -1.0, by_hand])
    assert table["share"].tolist()[:2] == pytest.approx([1.0, -1.0])
    assert table["p_toward"].tolist()[0] == pytest.approx(1 / 200)  # no random state fits as well
    assert table["p_toward"].iloc[1] > 0.9


def test_what_is_uncertain_is_less_aligned_and_has_a_wider_interval(wanted):
    rows = effects_of([wanted, wanted], sd=np.array([[0.02], [0.3]]))
    sure, unsure = compute_toward(
        rows, state_of(wanted), structure=pd.DataFrame(columns=GENES), n_draws=19
    ).itertuples()
    norm = np.linalg.norm(wanted)
    assert unsure.toward == pytest.approx(norm / np.sqrt(norm**2 + N_GENES * 0.09))
    # without structure half of the errors' variance is that of independent genes
    assert unsure.toward_sd == pytest.approx(np.sqrt(0.09 * norm**2) / norm / np.sqrt(norm**2 + N_GENES * 0.09))
    assert sure.toward_low > unsure.toward_high - 0.5 * (unsure.toward_high - unsure.toward_low)
    assert unsure.toward_low < unsure.toward - 1.28 * unsure.toward_sd + 1e-9


def test_a_noisy_state_aligns_less_than_the_same_state_known_exactly(wanted):
    noisy = state_of(wanted, variance=pd.Series(0.05, index=GENES))
    exact, blurred = (
        compute_toward(effects_of([wanted]), one, n_draws=19).iloc[0] for one in (state_of(wanted), noisy)
    )
    assert blurred.toward < exact.toward
    assert blurred.toward_sd > exact.toward_sd


def test_random_effects_have_uniform_p_values_also_where_genes_move_together(wanted):
    # 20 modules of 20 genes: effects and wanted states are drawn from the same modules, without any relation
    rng = np.random.default_rng(1)
    module = np.repeat(np.arange(20), N_GENES // 20)

    def draw(n):
        return rng.normal(size=(n, 20))[:, module] + rng.normal(size=(n, N_GENES))

    rows = effects_of(draw(60), sd=0.1)
    states = [state_of(draw(1)[0]) for _ in range(6)]
    found = [compute_toward(rows, one, n_draws=199)["p_toward"] for one in states]
    alone = pd.DataFrame(columns=GENES)
    naive = [compute_toward(rows, one, structure=alone, n_draws=199)["p_toward"] for one in states]
    assert (np.concatenate(found) <= 0.05).mean() < 0.09
    assert (np.concatenate(naive) <= 0.05).mean() > 0.15  # what random genes alone would have claimed


def test_a_gene_set_is_compared_with_all_genes_and_its_share_is_their_mean_change(wanted):
    signs = pd.Series({gene: float(np.sign(value)) for gene, value in zip(GENES, wanted, strict=True) if value})
    state = TargetState("set", signs, kind="genes")
    table = compute_toward(effects_of([wanted, np.ones(N_GENES)]), state, n_draws=199)
    assert table["share"].iloc[0] == pytest.approx((25 * 1.0 + 15 * 0.5) / 40)
    assert table["n_genes_toward"].tolist() == [40, 40]
    assert table["p_toward"].iloc[0] == pytest.approx(1 / 200)
    assert table["p_toward"].iloc[1] > 0.05  # everything goes up: nothing of this set


def test_genes_that_a_row_does_not_know_are_left_out_of_it_and_few_genes_are_nan(wanted):
    partly, hardly = wanted.copy(), np.full(N_GENES, np.nan)
    partly[100:] = np.nan
    hardly[:6] = wanted[:6]
    table = compute_toward(effects_of([partly, hardly], sd=0.0), state_of(wanted), n_draws=19)
    assert table["toward"].iloc[0] == pytest.approx(1.0)
    assert table["n_genes_toward"].tolist() == [20, 2]
    assert np.isnan(table.iloc[1][["toward", "toward_sd", "toward_low", "p_toward", "share"]].to_numpy(float)).all()


def test_a_state_without_a_common_gene_is_refused_with_its_genes():
    with pytest.raises(InvalidInputError, match=r"no gene of the state 'wanted' \(2 genes: ENSG1, ENSG2"):
        compute_toward(effects_of([np.ones(N_GENES)]), TargetState("wanted", pd.Series({"ENSG1": 1.0, "ENSG2": 1.0})))


def test_the_same_seed_gives_the_same_p_values_whatever_else_is_compared(wanted):
    rows = np.random.default_rng(2).normal(0, 0.2, (4, N_GENES)) + 0.1 * wanted
    structure = pd.DataFrame(rows, columns=GENES)
    both = compute_toward(effects_of(rows), state_of(wanted), structure=structure, n_draws=99)
    one = compute_toward(effects_of(rows[:1]), state_of(wanted), structure=structure, n_draws=99)
    pd.testing.assert_frame_equal(both.iloc[:1], one)
