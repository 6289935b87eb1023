"""Which cells say what types, donors and tissues look like: never those that are asked for."""

import pytest

from haystack_kernel import keys
from haystack_kernel.retrieval import fetch_reference
from haystack_kernel.schema import CellSet

CD4, T, B, CD14, CD16 = "CL:0000624", "CL:0000084", "CL:0000236", "CL:0001054", "CL:0002396"
LUNG = ("UBERON:0002048", "lung")


@pytest.fixture
def fetch(knowledge, config):
    def run(query, atlas, query_set=None):
        return fetch_reference(query, atlas=atlas, knowledge=knowledge, query_set=query_set, config=config)

    return run


@pytest.fixture
def donors(row, make_atlas):
    """CD4 T cells are asked for: donor t has them, T cells of an unclear kind, B cells and treated CD4 T cells."""
    rows = [row("s", one, "", donor, 30) for one in (CD4, B, CD14) for donor in ("r1", "r2", "t")]
    rows += [row("s", T, "", donor, 12, label="T cell") for donor in ("r1", "t")]
    rows += [row("s", CD4, "IFN-beta", "r1", 40), row("far", CD4, "", "f", 400)]
    return make_atlas(rows)


def test_reference_when_a_donor_is_asked_for_then_its_cells_of_the_type_or_of_a_label_above_it_are_left_out(
    donors, ask, fetch
):
    obs = fetch(ask(CD4, None, task="donor_expression_prediction", donor_id="t"), donors).obs
    assert set(obs[keys.DATASET]) == {"s"}  # the donor's own dataset, though another has more
    own = obs[obs[keys.DONOR] == "s:t"]
    assert set(own[keys.CELL_TYPE_ID]) == {B, CD14}
    assert own[keys.IS_TARGET_DONOR].all()
    assert not obs.loc[obs[keys.DONOR] != "s:t", keys.IS_TARGET_DONOR].any()
    kinship = obs.groupby(keys.CELL_TYPE_ID)[keys.KINSHIP].unique().map(list).to_dict()
    assert kinship == {CD4: ["asked"], T: ["related"], B: ["other"], CD14: ["other"]}
    assert obs[keys.IS_CONTROL].all()


def test_reference_when_a_tissue_is_asked_for_then_the_type_is_taken_from_elsewhere(row, make_atlas, ask, fetch):
    rows = [row("s", B, "", "r1", 30), row("s", B, "", "r1", 30, tissue=LUNG)]
    rows += [row("s", CD14, "", "r1", 30), row("s", CD14, "", "r1", 30, tissue=LUNG)]
    query = ask(B, None, task="cell_type_imputation", tissue_id=LUNG[0], tissue_name="lung")
    obs = fetch(query, make_atlas(rows)).obs
    held = obs.groupby([keys.CELL_TYPE_ID, keys.IS_TARGET_TISSUE]).size().to_dict()
    assert held == {(B, False): 30, (CD14, False): 30, (CD14, True): 30}


def test_reference_when_there_are_many_cells_then_each_type_is_sampled_and_the_seed_repeats_it(
    row, make_atlas, ask, fetch
):
    atlas = make_atlas([row("s", one, "", donor, 150) for one in (B, CD14) for donor in ("r1", "r2", "t")])
    query = ask(B, None, task="cell_type_imputation", donor_id="t")
    one, two = fetch(query, atlas), fetch(query, atlas)
    sizes = one.obs.groupby([keys.CELL_TYPE_ID, keys.IS_TARGET_DONOR]).size().to_dict()
    assert sizes == {(B, False): 100, (CD14, False): 100, (CD14, True): 50}
    assert one.obs_names.equals(two.obs_names)


def test_reference_when_only_the_target_holds_the_type_then_none(row, make_atlas, ask, fetch):
    atlas = make_atlas([row("s", B, "", "t", 30), row("s", CD14, "", "r1", 30)])
    assert fetch(ask(B, None, task="cell_type_imputation", donor_id="t"), atlas) is None


def test_reference_when_the_query_cells_are_of_a_dataset_then_it_is_preferred(donors, ask, fetch):
    query = ask(CD4, None, task="cell_type_imputation")
    far = fetch(query, donors)
    assert set(far.obs[keys.DATASET]) == {"far"}  # the most cells
    place = CellSet(atlas="tiny", dataset="s", is_control=True)
    assert set(fetch(query, donors, place).obs[keys.DATASET]) == {"s"}
