"""The score on real cells: IFN-beta on CD14+ monocytes (Kang et al. 2018), where the answer is known."""

import anndata as ad
import numpy as np
import pytest

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingCells, GroundingContext, score_prediction
from haystack_kernel.grounding.components.compute import compute_components
from haystack_kernel.grounding.components.expected import expected_sets
from haystack_kernel.grounding.de.table import compute_de
from haystack_kernel.grounding.nulls.self_contained import self_contained_null
from haystack_kernel.grounding.records import Basis
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.schema import GroundingSettings, Perturbation, StructuredQuery

pytestmark = pytest.mark.slow
SCORED = (keys.PATHWAY, keys.TARGET, keys.NETWORK)
CONTEXT = GroundingContext(seed=0, control_strategy="query_as_control")


@pytest.fixture(scope="module")
def arms(shared):
    adata = ad.read_h5ad(shared / "data" / "perturbation" / "kang2018_ifnb_public.h5ad")
    adata = adata[adata.obs["cell_type"] == "CD14+ monocyte"].copy()
    adata.obs[keys.DONOR] = adata.obs["donor_id"].astype(str)
    adata.obs[keys.CELL_TYPE] = "monocyte"
    treated = (adata.obs["perturbation"] != "control").to_numpy()
    return adata[treated].copy(), adata[~treated].copy()


def ask(name):
    entry = load_knowledge().perturbations[name]
    return StructuredQuery(
        question=f"How would monocytes respond to {name}?",
        task_type="perturbation_novel_cell_types",
        perturbation=Perturbation(text=name, name=name, type=entry.type, targets=entry.targets),
        expected_targets=entry.response,
        expected_pathways=entry.pathways,
    )


def judge(treated, control, name):
    return score_prediction(
        GroundingCells(treated, None, control, treated, control),
        query=ask(name),
        knowledge=load_knowledge(),
        settings=GroundingSettings(),
        context=CONTEXT,
    )


def score_only(treated, control, basis):
    """The three components without the table of all pathways."""
    genes = treated.var_names
    de = compute_de(treated.X, control.X, genes=genes, padded=np.zeros(len(genes), bool), settings=basis.settings)
    tested, sets = set(de.loc[de[keys.IS_TESTED], keys.GENE]), expected_sets(basis)
    null = self_contained_null(treated, control, sets=sets, tested=tested, n_draws=basis.settings.n_draws, seed=0)
    components = compute_components(de, self_contained=null, basis=basis)
    return [component.score for component in components if component.name in SCORED]


def scores(result):
    return [component.score for component in result.components if component.name in SCORED]


def test_kang_when_the_right_question_is_asked_then_ten_and_interferon_leads(arms):
    result = judge(*arms, "IFN-beta")
    assert scores(result) == [10, 10, 10]
    assert result.composite.value == pytest.approx(8.5)
    assert result.pathways["pathway"][0] == "type I interferon response"
    by_effect = result.de.sort_values("delta", ascending=False)[keys.GENE].tolist()
    assert by_effect[0] == "ISG15"
    by_rank = result.de.sort_values("rank_z", ascending=False)[keys.GENE].tolist()[:20]
    assert {"ISG15", "IFIT3", "IFIT1", "CXCL10", "MX1"} <= set(by_rank)


def test_kang_when_labels_are_swapped_then_one(arms):
    assert scores(judge(*arms[::-1], "IFN-beta")) == [1, 1, 1]


def test_kang_when_a_wrong_question_is_asked_then_below_the_threshold(arms):
    for name, at_most in {"TNF-alpha": 5.5, "IL-6": 3, "IL-2": 3, "TGF-beta1": 3}.items():
        result = judge(*arms, name)
        assert max(scores(result)) <= at_most
        assert result.composite.value < 4


def test_kang_when_controls_play_the_treatment_then_high_scores_are_rare(arms):
    control, rng = arms[1], np.random.default_rng(5)
    basis = Basis(ask("IFN-beta"), load_knowledge(), GroundingSettings(n_draws=999), CONTEXT)
    halves = [rng.random(control.n_obs) < 0.5 for _ in range(25)]
    found = [score_only(control[half].copy(), control[~half].copy(), basis) for half in halves]
    assert np.mean(np.array(found) >= 7) <= 0.02
