import pytest

from haystack_kernel.errors import NoCandidateError
from haystack_kernel.retrieval import choose_query_cells, describe_query_cells, search_candidates
from haystack_kernel.schema import HiddenPair, RunConfig

CD4, CD8, T, TREG, B, NK, CD14, CD16, DC, FIBRO = (
    "CL:0000624",
    "CL:0000625",
    "CL:0000084",
    "CL:0000792",
    "CL:0000236",
    "CL:0000623",
    "CL:0001054",
    "CL:0002396",
    "CL:0000451",
    "CL:0000057",
)
LUNG, SKIN = ("UBERON:0002048", "lung"), ("UBERON:0002097", "skin of body")


@pytest.fixture
def choose(knowledge):
    def run(query, atlas, *, candidates=(), **config):
        return choose_query_cells(
            query, atlas=atlas, knowledge=knowledge, candidates=candidates, config=RunConfig(**config)
        )

    return run


def test_query_cells_are_controls_of_the_type_even_when_the_pair_is_hidden(blood, choose, ask):
    hide = (HiddenPair(cell_type_id=CD16, perturbation="IFN-beta"),)
    chosen = choose(ask(CD16), blood, hide=hide)
    assert (chosen.dataset, chosen.is_control, chosen.cell_type_ids) == ("pbmc", True, (CD16,))
    assert chosen.donor_ids == ()
    assert chosen.n_cells == len(blood.select(chosen)) == 42


def test_query_cells_when_a_donor_is_named_by_its_bare_id_then_come_from_that_donor(blood, choose, ask):
    for text in ("D3", "donor d3", "pbmc:d3"):
        chosen = choose(ask(CD16, donor_id=text), blood)
        assert (chosen.donor_ids, chosen.n_cells) == (("pbmc:d3",), 14)


def test_query_cells_when_the_donor_is_unknown_then_lists_donors(blood, choose, ask):
    with pytest.raises(NoCandidateError, match=r"no donor '99'.*far:x2.*pbmc:d1"):
        choose(ask(CD16, donor_id="99"), blood)


def test_query_cells_prefer_the_dataset_of_the_best_candidate(
    row, make_atlas, choose, ask, knowledge, config, settings
):
    atlas = make_atlas(
        [row("big", CD4, "", "a", 500), row("small", CD4, "", "a", 30), row("small", B, "IFN-beta", "a", 30)]
    )
    found = search_candidates(ask(CD4), atlas=atlas, knowledge=knowledge, settings=settings, config=config)
    assert choose(ask(CD4), atlas, candidates=found).dataset == "small"
    assert choose(ask(CD4), atlas).dataset == "big"


def test_query_cells_when_the_best_candidates_dataset_has_hardly_any_then_take_the_fullest(
    row, make_atlas, choose, ask, knowledge, config, settings
):
    atlas = make_atlas(
        [row("big", CD4, "", "a", 500), row("small", CD4, "", "a", 3), row("small", B, "IFN-beta", "a", 9)]
    )
    found = search_candidates(ask(CD4), atlas=atlas, knowledge=knowledge, settings=settings, config=config)
    assert choose(ask(CD4), atlas, candidates=found).dataset == "big"


def test_query_cells_when_a_tissue_is_named_then_come_from_it(row, make_atlas, choose, ask, knowledge):
    atlas = make_atlas([row("s", FIBRO, "", "a", 500, tissue=SKIN), row("s", FIBRO, "", "b", 40, tissue=LUNG)])
    query = ask(FIBRO, tissue_id=LUNG[0], tissue_name="lung")
    chosen = choose(query, atlas)
    assert (chosen.tissue_ids, chosen.n_cells) == ((LUNG[0],), 40)
    assert "not restricted" not in describe_query_cells(chosen, query=query, knowledge=knowledge)


def test_query_cells_when_the_tissue_is_not_held_then_come_from_anywhere_and_say_so(
    row, make_atlas, choose, ask, knowledge
):
    atlas = make_atlas([row("s", FIBRO, "", "a", 500, tissue=SKIN)])
    query = ask(FIBRO, tissue_id=LUNG[0], tissue_name="lung")
    chosen = choose(query, atlas)
    assert chosen.tissue_ids == ()
    assert describe_query_cells(chosen, query=query, knowledge=knowledge) == (
        "500 unperturbed fibroblasts from dataset s; "
        "the query cells are not restricted to lung, from which none are held"
    )


def test_query_cells_when_a_disease_is_named_then_come_from_it(row, make_atlas, choose, ask):
    lupus = ("MONDO:0007915", "systemic lupus erythematosus")
    atlas = make_atlas([row("s", B, "", "a", 50), row("s", B, "", "b", 20, disease=lupus)])
    chosen = choose(ask(B, disease_id=lupus[0]), atlas)
    assert (chosen.disease_ids, chosen.n_cells) == ((lupus[0],), 20)


def test_query_cells_when_only_subtypes_or_parents_exist_then_take_them_and_say_so(
    row, make_atlas, choose, ask, knowledge
):
    below = make_atlas([row("s", TREG, "", "a", 30), row("s", B, "", "a", 30)])
    chosen = choose(ask(T), below)
    assert chosen.cell_type_ids == (TREG,)
    assert "subtypes of T cell" in describe_query_cells(chosen, query=ask(T), knowledge=knowledge)
    above = make_atlas([row("s", T, "", "a", 30), row("s", CD8, "", "a", 30)])
    chosen = choose(ask(CD4), above)
    assert chosen.cell_type_ids == (T,)
    assert "nearest broader type" in describe_query_cells(chosen, query=ask(CD4), knowledge=knowledge)


def test_query_cells_when_the_type_is_not_held_then_names_the_nearest_with_counts(blood, choose, ask):
    with pytest.raises(NoCandidateError, match=r"no unperturbed fibroblasts to transform. There are .*\(\d+ cells\)"):
        choose(ask(FIBRO), blood)
    with pytest.raises(NoCandidateError, match=r"There are B cell \(.*query h5ad"):
        choose(ask(NK), blood)


def test_query_cells_when_the_target_dataset_is_named_then_come_from_it_alone(blood, choose, ask):
    query = ask(CD14, task="cross_dataset_generation", target_dataset="far")
    assert choose(query, blood).dataset == "far"
    with pytest.raises(NoCandidateError, match=r"no dataset 'nowhere'.*far, drug, pbmc"):
        choose(ask(CD14, task="cross_dataset_generation", target_dataset="nowhere"), blood)


def test_query_cells_when_the_query_atlas_holds_none_then_names_that_atlas(blood, choose, ask):
    with pytest.raises(NoCandidateError, match="in atlas other"):
        choose(ask(CD14), blood, query_atlas="other")
