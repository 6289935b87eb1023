"""Three cell types and four donors, each with genes of its own; what is predicted is X cells of donor d1."""

import functools
import math
import zlib

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from haystack_kernel import keys
from haystack_kernel.grounding import GroundingCells, GroundingContext
from haystack_kernel.grounding.components.observational import nearest_type
from haystack_kernel.grounding.signatures.reference import build_reference
from haystack_kernel.schema import StructuredQuery

pytestmark = pytest.mark.slow
CONTEXT = GroundingContext(seed=0, control_strategy="query_as_control", engine="weighted")

N_GENES = 1500  # of the designed world
GENES = [f"G{i}" for i in range(N_GENES)]
TYPES = {name: dict.fromkeys(GENES[start::31][:40], 6.0) for name, start in (("X", 2), ("Y", 9), ("Z", 17))}
DONORS = ("d1", "d2", "d3", "d4")
OWN = {donor: GENES[start::43][:30] for donor, start in zip(DONORS, (3, 13, 23, 33), strict=True)}


def factors(donor, strength=2.5):
    effect = np.ones(N_GENES)
    effect[[GENES.index(gene) for gene in OWN[donor]]] = strength
    return effect


@pytest.fixture(scope="module")
def make(world_of_seed):
    """``make("Y", "d1")``: 30 cells of one type and donor, with the genes of both; ``number`` draws other cells."""

    @functools.cache
    def build(cell_type, donor, *, strength=2.5, number=0):
        world = world_of_seed(zlib.crc32(repr((cell_type, donor, strength, number)).encode()))
        effects = {donor: factors(donor, strength)}
        adata = world.cells(30, shift=TYPES[cell_type], donors=(donor,), donor_effects=effects, cell_type=cell_type)
        adata.obs[keys.TISSUE], adata.obs[keys.DATASET] = "lung", "study"
        return adata

    return build


@pytest.fixture(scope="module")
def reference(make):
    """Every type in every donor, but for X in d1, which is asked for; donors differ unless ``strength`` is 1."""

    def build(*, strength=2.5, target="d1"):
        pairs = [(name, donor) for name in TYPES for donor in DONORS if (name, donor) != ("X", "d1")]
        cells = ad.concat([make(*pair, strength=strength, number=1) for pair in pairs])
        cells.obs[keys.KINSHIP] = np.where(cells.obs[keys.CELL_TYPE] == "X", "asked", "other")
        cells.obs[keys.IS_TARGET_DONOR] = cells.obs[keys.DONOR] == target
        cells.obs[keys.IS_TARGET_TISSUE] = False
        return cells

    return build


def ask(**changes):
    values = {"question": "What do X cells look like?", "task_type": "cell_type_imputation", "cell_type_name": "X"}
    return StructuredQuery(**(values | {"donor_id": "d1", "marker_genes": tuple(TYPES["X"])} | changes))


@pytest.fixture(scope="module")
def judge(make, score, reference):
    def run(predicted, *, query=None, prompt=("X", "d2"), cells=None, start=("Y", "d1"), control="Y", donors=("d2",)):
        began = make(*start)
        predicted = predicted.copy()
        predicted.obs = began.obs.copy()
        kind, *shown = prompt
        arms = [ad.concat([make(name, donor) for donor in of]) for name, of in ((kind, shown), (control, donors))]
        roles = GroundingCells(predicted, None, began, *arms)
        cells = reference() if cells is None else cells
        found = score(roles, query or ask(), context=CONTEXT, reference=cells)
        parts = {item.name: item for item in found.components}
        return parts | {"composite": found.composite, "expected": found.confidence.expected}

    return run


def test_observational_when_the_cells_are_right_then_all_that_can_be_scored_is_high(judge, make):
    found = judge(make("X", "d1"))
    assert found[keys.MARKER].score > 9
    assert found[keys.CELL_TYPE_COHERENCE].score > 9
    assert found[keys.CELL_TYPE_COHERENCE].statistic > 0
    assert found[keys.DONOR_EFFECT].score > 9
    assert found[keys.TISSUE_SIGNATURE].reason == "the question names no tissue"
    assert found["composite"].value == pytest.approx(10 - 6 * 2 ** -(30 / 50))  # one donor shows it


def test_observational_when_donors_show_it_then_they_are_the_replicates(judge, make):
    three = ("d2", "d3", "d4")
    found = judge(make("X", "d1"), prompt=("X", *three), donors=three)
    assert found[keys.MARKER].p_donors < 0.005
    assert found["composite"].replication == pytest.approx(3 * 30 / 50)
    assert found["composite"].value == pytest.approx(10 - 6 * 2 ** -(3 * 30 / 50))
    assert (found["expected"].left_out, found["expected"].n_left_out) == ("donor", 3)
    assert 0.8 < found["expected"].low + 0.1 < found["expected"].value


def test_coherence_when_another_type_is_predicted_then_one_and_it_is_named(judge, make):
    found = judge(make("Z", "d1"), prompt=("Z", "d2"))[keys.CELL_TYPE_COHERENCE]
    assert found.score == pytest.approx(1)
    assert found.statistic < 0
    assert found.reason.startswith("more similar to Z than to X")
    assert found.detail["nearest_other"] == "Z"


def test_coherence_when_nothing_was_changed_then_one(judge, make):
    assert judge(make("Y", "d1"))[keys.CELL_TYPE_COHERENCE].score == pytest.approx(1)


def test_coherence_when_the_prompt_shows_another_type_then_the_prompt_denies_it(judge, make):
    found = judge(make("X", "d1"), prompt=("Z", "d2"))[keys.CELL_TYPE_COHERENCE]
    assert found.p_specificity < 0.005
    assert found.p_signal > 0.05
    assert found.score < 5


def test_donor_effect_when_another_donor_is_predicted_then_that_one_leads(judge, make):
    found = judge(make("X", "d3"))[keys.DONOR_EFFECT]
    assert found.score == 1
    assert "d3 fits the prediction better than d1" in found.reason


def test_donor_effect_when_donors_do_not_differ_then_low(judge, make, reference):
    assert judge(make("X", "d1", strength=1), cells=reference(strength=1))[keys.DONOR_EFFECT].score < 4


def test_donor_signal_when_labels_are_drawn_at_random_within_the_type_then_small_p_values_are_rare(reference):
    cells, rng, found = reference(strength=1), np.random.default_rng(2), []
    for _ in range(24):
        drawn = cells.obs.groupby(keys.CELL_TYPE)[keys.IS_TARGET_DONOR].transform(rng.permutation)
        cells.obs[keys.IS_TARGET_DONOR] = np.where(cells.obs[keys.KINSHIP] == "other", drawn, False)
        found.append(build_reference(cells, asked="X", prompt_ids=(), n_draws=199, seed=0).donor.self_contained.up)
    assert np.mean(np.array(found) <= 0.05) <= 4 / 24
    assert np.median(found) > 0.2


def test_donor_effect_when_the_donor_has_no_other_cells_then_nan_with_the_reason(judge, make, reference):
    cells = reference()
    alone = cells[cells.obs[keys.DONOR] != "d1"].copy()
    found = judge(make("X", "d1"), cells=alone)[keys.DONOR_EFFECT]
    assert math.isnan(found.score)
    assert "holds no other cells of the donor asked for" in found.reason


def test_donor_prediction_when_the_donor_is_wrong_then_keeping_the_type_earns_nothing(judge, make):
    query = ask(task_type="donor_expression_prediction")
    right = judge(make("X", "d1"), query=query, prompt=("Y", "d1"), start=("X", "d2"))
    wrong = judge(make("X", "d3"), query=query, prompt=("Y", "d3"), start=("X", "d2"))
    assert right["composite"].value == pytest.approx(10 - 6 * 2 ** -(30 / 50))  # one donor beside one other
    three = judge(make("X", "d1"), query=query, prompt=("Y", "d1"), start=("X", "d2"), donors=("d2", "d3", "d4"))
    assert three[keys.DONOR_EFFECT].p_donors < 0.05  # one donor beside the spread of three
    assert three["composite"].replication == pytest.approx(2 / (50 / 30 + 50 / 90))
    assert wrong["composite"].value == 1
    assert "no more than the donor effect" in wrong[keys.CELL_TYPE_COHERENCE].reason
    assert math.isnan(wrong[keys.MARKER].score)


def test_tissue_when_too_few_types_are_shared_then_the_known_genes_stand_in(judge, make, reference):
    query = ask(donor_id=None, tissue_id="UBERON:1", tissue_name="liver", tissue_genes=tuple(OWN["d1"]))
    found = judge(make("X", "d1"), query=query)[keys.TISSUE_SIGNATURE]
    assert found.score > 9
    assert "tested against the competitive null alone" in found.reason
    lost = judge(make("Z", "d1"), query=query, prompt=("Z", "d2"))[keys.TISSUE_SIGNATURE]
    assert lost.score == 1
    assert "more similar to Z" in lost.reason


def test_tissue_when_two_types_show_it_then_it_is_measured(judge, make, reference):
    cells = reference(target="none")
    cells.obs[keys.TISSUE] = np.where(cells.obs[keys.DONOR] == "d2", "liver", "lung")
    cells.obs[keys.IS_TARGET_TISSUE] = cells.obs[keys.TISSUE] == "liver"
    cells = cells[~((cells.obs[keys.CELL_TYPE] == "X") & cells.obs[keys.IS_TARGET_TISSUE])].copy()
    query = ask(donor_id=None, tissue_id="UBERON:1", tissue_name="liver")
    found = judge(make("X", "d2"), query=query, cells=cells, prompt=("X", "d3"))[keys.TISSUE_SIGNATURE]
    assert found.detail["n_types"] == 2
    assert found.score > 9


def test_observational_when_there_is_no_reference_then_nan_with_the_reason(make, score):
    cells = make("X", "d1")
    roles = GroundingCells(cells, None, cells, make("X", "d2"), make("Y", "d2"))
    reasons = {item.name: item.reason for item in score(roles, ask(), context=CONTEXT).components}
    assert "no reference cells" in reasons[keys.DONOR_EFFECT]
    assert "no reference cells" in reasons[keys.CELL_TYPE_COHERENCE]


def test_reference_when_built_then_centroids_are_means_and_prompt_cells_are_left_out(reference):
    cells = reference()
    shown = cells.obs_names[(cells.obs[keys.CELL_TYPE] == "X") & (cells.obs[keys.DONOR] == "d2")]
    found = build_reference(cells, asked="X", prompt_ids=shown, n_draws=99, seed=0)
    assert found.types == ("X", "Y", "Z")
    assert not found.own_prompt
    dense = cells[(cells.obs[keys.CELL_TYPE] == "X") & ~cells.obs_names.isin(shown)].X.toarray().astype(float)
    expected = np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(found.centroids[0], expected)
    assert len(set(found.signatures["X"]) & set(TYPES["X"])) >= 38
    assert len(set(found.donor.signature) & set(OWN["d1"])) >= 25
    every = cells.obs_names[cells.obs[keys.CELL_TYPE] == "X"]
    assert build_reference(cells, asked="X", prompt_ids=every, n_draws=99, seed=0).own_prompt


def test_reference_when_one_type_is_all_there_is_then_none(reference):
    cells = reference()
    alone = cells[cells.obs[keys.CELL_TYPE] == "X"].copy()
    assert build_reference(alone, asked="X", prompt_ids=(), n_draws=99, seed=0) is None


def test_nearest_type_when_given_a_centroid_then_it_is_found_and_correlation_is_one(reference):
    profiles = build_reference(reference(), asked="X", prompt_ids=(), n_draws=99, seed=0)
    similarity = nearest_type(pd.Series(profiles.centroids[1], index=GENES), reference=profiles)
    assert similarity.other == "Y"
    assert similarity.other_value == pytest.approx(1)
    assert similarity.margin < -1
