"""What stands behind the wall of a back-test cannot be found, selected or fetched."""

import pandas as pd
import pytest

from haystack_kernel import keys
from haystack_kernel.backtest.pairs import choose_pairs, list_pairs
from haystack_kernel.backtest.split import split_pair
from haystack_kernel.backtest.wall import WalledAtlas
from haystack_kernel.errors import ContractError, InvalidInputError, NoCandidateError
from haystack_kernel.retrieval.view import build_view
from haystack_kernel.schema import CellSet, RetrievalSettings, RunConfig
from tests.retrieval.conftest import CD4, CD8, MONO, B

TREATED, DONORS = ("IFN-beta", "TNF-alpha"), ("d1", "d2", "d3")
OF_S = {f"s:{donor}" for donor in DONORS}
IFN = CellSet(atlas="tiny", dataset="s", is_control=False, perturbation="IFN-beta")


@pytest.fixture
def atlas(make_atlas, row):
    """Four types, two treatments and control cells, three donors of 30 cells each, in two data sets."""
    rows = [
        row(dataset, one, name, donor, 30)
        for dataset in ("s", "t")
        for one in (CD4, CD8, B, MONO)
        for name in ("", *TREATED)
        for donor in DONORS
    ]
    rows += [row("s", "", "IFN-beta", "d1", 30, label="T cell (unresolved)"), row("s", "", "stim", "d1", 30, label="7")]
    return make_atlas(rows)


@pytest.fixture
def find(atlas, knowledge):
    """The pair of CD4 T cells and IFN-beta in data set s, with one thing held out, split."""
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=RunConfig())

    def split(held, cell_type=CD4):
        pairs = list_pairs(view.conditions, held=[held])
        wanted = [p for p in pairs if (p.dataset, p.cell_type_id, p.perturbation) == ("s", cell_type, "IFN-beta")]
        return split_pair(wanted[0], atlas=atlas, knowledge=knowledge)

    return split


def visible(split):
    """Visible treated conditions as (dataset, label, treatment, donor)."""
    table = split.atlas.conditions()
    table = table[~table[keys.IS_CONTROL]]
    columns = [keys.DATASET, keys.CELL_TYPE_ID, keys.PERTURBATION, keys.DONOR]
    return set(table[columns].itertuples(index=False, name=None))


def test_a_cell_type_that_is_held_out_is_hidden_with_its_relatives_and_with_labels_that_leave_it_open(find):
    split = find("cell_type")
    left = visible(split)
    assert not [one for one in left if one[1] in (CD4, "") and one[2] in ("IFN-beta", "stim")]
    assert {one[1] for one in left if one[2] == "IFN-beta"} == {CD8, B, MONO}
    assert {one[1] for one in left if one[2] == "TNF-alpha"} == {CD4, CD8, B, MONO}
    assert split.hide is not None
    assert split.hide.cell_type_id == CD4


def test_donors_that_are_held_out_keep_nothing_of_the_treatment_in_any_cell_type(find):
    split = find("donor")
    assert 0 < len(split.pair.donors) < len(DONORS)
    left = visible(split)
    assert not [one for one in left if one[3] in split.pair.donors and one[2] == "IFN-beta"]
    assert {one[3] for one in left if one[1] == CD4 and one[2] == "IFN-beta"} == (
        OF_S | {f"t:{d}" for d in DONORS}
    ) - set(split.pair.donors)
    assert set(split.treated[keys.DONOR]) == set(split.pair.donors) == set(split.control[keys.DONOR])


def test_a_treatment_that_is_held_out_is_hidden_in_every_cell_type_and_data_set(find):
    left = visible(find("perturbation"))
    assert {one[2] for one in left} == {"TNF-alpha"}


@pytest.mark.parametrize("held", ["donor", "cell_type", "perturbation"])
def test_truth_and_everything_that_may_predict_it_share_no_cell(find, held):
    split = find(held)
    query = split.atlas.select(split.query_set)
    assert len(query)
    assert len(split.control)
    assert not set(query[keys.CELL_ID]) & set(split.control[keys.CELL_ID])
    whole = CellSet(atlas="tiny", dataset="s", is_control=True)
    assert not set(split.atlas.select(whole)[keys.CELL_ID]) & set(split.control[keys.CELL_ID])
    seen = split.atlas.conditions()
    controls = seen[seen[keys.IS_CONTROL] & (seen[keys.DATASET] == "s") & (seen[keys.CELL_TYPE_ID] == CD4)]
    assert controls["n_cells"].sum() == 90 - len(split.control)


def test_hidden_cells_cannot_be_selected_nor_fetched_by_id(find, atlas):
    split = find("cell_type")
    assert not (split.atlas.select(IFN)[keys.CELL_TYPE_ID] == CD4).any()
    for cells in (split.treated, split.control):
        with pytest.raises(ContractError, match="the truth of a back-test"):
            split.atlas.fetch(cells)
    assert split.atlas.fetch(split.atlas.select(IFN)).n_obs == len(split.atlas.select(IFN))
    assert split.atlas.digests() == atlas.digests()


def test_the_same_control_cells_are_the_truth_of_every_treatment_of_a_type(atlas, knowledge):
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=RunConfig())
    pairs = [p for p in list_pairs(view.conditions, held=["cell_type"]) if (p.dataset, p.cell_type_id) == ("s", B)]
    splits = [split_pair(pair, atlas=atlas, knowledge=knowledge) for pair in pairs]
    assert len(splits) == 2
    assert list(splits[0].control[keys.CELL_ID]) == list(splits[1].control[keys.CELL_ID])


def test_a_pair_that_the_atlas_no_longer_holds_is_refused(find, atlas, knowledge):
    gone = find("cell_type").pair.model_copy(update={"perturbation": "IL-2"})
    with pytest.raises(NoCandidateError, match=r"IL-2 in .* cannot be back-tested: no such cells"):
        split_pair(gone, atlas=atlas, knowledge=knowledge)


def test_pairs_are_spread_over_what_is_held_out_treatments_and_types(atlas, knowledge):
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=RunConfig())
    pairs = list_pairs(view.conditions, held=["donor", "cell_type", "perturbation"])
    chosen = choose_pairs(pairs, n=12)
    assert len(chosen) == 12 == len(set(chosen))
    held = [pair.held for pair in chosen]
    assert {kind: held.count(kind) for kind in set(held)} == {"donor": 4, "cell_type": 4, "perturbation": 4}
    for kind in ("cell_type", "perturbation"):
        some = [pair for pair in chosen if pair.held == kind]
        assert {pair.cell_type_id for pair in some} == {CD4, CD8, B, MONO}
        assert sorted(pair.perturbation for pair in some) == ["IFN-beta"] * 2 + ["TNF-alpha"] * 2
    assert choose_pairs(pairs, n=12) == chosen
    assert len(choose_pairs(pairs, n=10_000)) == len(pairs)


def test_an_atlas_without_a_pair_says_what_is_needed(make_atlas, row, knowledge):
    atlas = make_atlas([row("s", CD4, "IFN-beta", "d", 90), row("s", CD4, "", "d", 90), row("s", B, "", "d", 90)])
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=RunConfig())
    pairs = list_pairs(view.conditions, held=["donor", "cell_type", "perturbation"])
    assert pairs == ()
    with pytest.raises(InvalidInputError, match="at least 20 treated and 20 control cells"):
        choose_pairs(pairs, n=5)
    with pytest.raises(InvalidInputError, match="at least one pair"):
        choose_pairs(pairs, n=0)


def test_a_wall_without_anything_behind_it_changes_nothing(atlas):
    table = atlas.conditions()
    wall = WalledAtlas(atlas, hidden=table.iloc[:0], kept=atlas.select(IFN).iloc[:0])
    assert wall.conditions().equals(table.reset_index(drop=True))
    assert wall.select(IFN).equals(atlas.select(IFN))


def test_cells_with_the_name_of_a_hidden_treatment_or_without_one_are_compared_by_all_their_labels(atlas):
    table = atlas.conditions()
    own = {keys.PERTURBATION: "IFN-beta", keys.DONOR: "s:d1", keys.CELL_TYPE_ID: CD4}
    hidden = table[(table[keys.DATASET] == "s") & (table[list(own)] == own).all(axis=1)]
    wall = WalledAtlas(atlas, hidden=hidden, kept=atlas.select(IFN).iloc[:0])
    cells = atlas.select(IFN)
    is_hidden = (cells[list(own)] == own).all(axis=1)
    assert list(wall.select(IFN)[keys.CELL_ID]) == list(cells.loc[~is_hidden, keys.CELL_ID])
    nameless = WalledAtlas(atlas, hidden=hidden.assign(**{keys.PERTURBATION: ""}), kept=cells.iloc[:0])
    with pytest.raises(ContractError, match="30 of 60 cells are the truth"):  # missing text is the empty string
        nameless.fetch(pd.concat([cells[is_hidden].assign(**{keys.PERTURBATION: None}), cells[is_hidden]]))
