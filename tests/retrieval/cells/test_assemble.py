import numpy as np
import pytest

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, NoCandidateError
from haystack_kernel.retrieval import assemble_cells, choose_query_cells, search_candidates
from haystack_kernel.schema import RunConfig

CD4, B, CD14, CD16 = "CL:0000624", "CL:0000236", "CL:0001054", "CL:0002396"


@pytest.fixture
def assemble(knowledge, settings):
    """Search, choose and assemble the candidates of the given keys (all of them where none is given)."""

    def run(query, atlas, *, only=(), round_number=1, **config):
        config = RunConfig(**config)
        found = search_candidates(query, atlas=atlas, knowledge=knowledge, settings=settings, config=config)
        query_set = choose_query_cells(query, atlas=atlas, knowledge=knowledge, candidates=found, config=config)
        used = [one for one in found if one.key in only] if only else found
        return assemble_cells(used, query_set=query_set, atlas=atlas, config=config, round_number=round_number)

    return run


def test_assemble_pools_roles_with_whole_obs_and_raw_counts(blood, ask, assemble):
    cells = assemble(ask(CD16), blood, only=(f"tiny/pbmc/IFN-beta/{CD14}", f"tiny/pbmc/IFN-beta/{B}"))
    assert (cells.prompt_cells.n_obs, cells.control_cells.n_obs, cells.query_cells.n_obs) == (150, 150, 42)
    for role in (keys.PROMPT, keys.CONTROL, keys.QUERY):
        adata = cells.by_role[role]
        assert {*keys.CELL_COLUMNS, keys.ATLAS, "role"} <= set(adata.obs.columns)
        assert set(adata.obs["role"]) == {role}
        assert adata.obs_names.is_unique
        np.testing.assert_array_equal(adata.X[:, 0].toarray().ravel(), adata.obs[keys.CELL_INDEX])  # rows kept order
    assert not cells.prompt_cells.obs[keys.IS_CONTROL].any()
    assert cells.control_cells.obs[keys.IS_CONTROL].all()
    assert set(cells.prompt_cells.obs[keys.DONOR]) == set(cells.control_cells.obs[keys.DONOR]) == {"pbmc:d1", "pbmc:d2"}
    assert cells.notes == ()


def test_assemble_samples_to_the_numbers_asked_for_and_keeps_every_donor(blood, ask, assemble):
    cells = assemble(ask(CD16), blood, n_prompt=40, n_query=30)
    assert (cells.prompt_cells.n_obs, cells.control_cells.n_obs, cells.query_cells.n_obs) == (40, 40, 30)
    assert set(cells.query_cells.obs[keys.DONOR]) == {"pbmc:d1", "pbmc:d2", "pbmc:d3"}


def test_assemble_is_the_same_for_the_same_seed_and_prompts_change_with_the_round(blood, ask, assemble):
    key = (f"tiny/pbmc/IFN-beta/{CD14}",)
    names = [
        assemble(ask(CD16), blood, only=key, n_prompt=40, n_query=20, **more)
        for more in ({}, {}, {"round_number": 2}, {"seed": 1})
    ]
    assert list(names[0].prompt_cells.obs_names) == list(names[1].prompt_cells.obs_names)
    assert list(names[0].prompt_cells.obs_names) != list(names[2].prompt_cells.obs_names)
    assert list(names[0].query_cells.obs_names) == list(names[2].query_cells.obs_names)
    assert list(names[0].query_cells.obs_names) != list(names[3].query_cells.obs_names)


def test_assemble_when_query_and_control_are_the_same_cells_then_halves_them_within_donors(blood, ask, assemble):
    # 80 shared cells of d1 and d2 and 40 cells of d3 that are free: too few for half of the 120
    cells = assemble(ask(CD4), blood, only=(f"tiny/pbmc/IFN-beta/{CD4}",), n_query=100)
    assert set(cells.query_cells.obs_names).isdisjoint(cells.control_cells.obs_names)
    assert cells.query_cells.obs[keys.DONOR].value_counts().to_dict() == {"pbmc:d3": 40, "pbmc:d1": 20, "pbmc:d2": 20}
    assert cells.control_cells.obs[keys.DONOR].value_counts().to_dict() == {"pbmc:d1": 20, "pbmc:d2": 20}
    assert cells.notes == ()


def test_assemble_when_enough_query_cells_are_no_controls_then_they_serve_alone(row, make_atlas, ask, assemble):
    atlas = make_atlas([row("s", B, "IFN-beta", "a", 30), row("s", B, "", "a", 30), row("s", B, "", "b", 60)])
    for n_query in (10, 50, 300):
        cells = assemble(ask(B), atlas, n_query=n_query)
        assert set(cells.query_cells.obs[keys.DONOR]) == {"s:b"}
        assert cells.control_cells.n_obs == 30


def test_assemble_when_more_or_fewer_query_cells_are_asked_for_then_nothing_else_changes(blood, ask, assemble):
    """What describes the cells asked about, from which genes are called, does not depend on how many are predicted."""
    found = [
        assemble(ask(CD4), blood, only=(f"tiny/pbmc/IFN-beta/{CD4}",), n_query=n_query) for n_query in (5, 40, 2000)
    ]
    assert [one.query_cells.n_obs for one in found] == [5, 40, 80]
    for one in found[1:]:
        assert list(one.prompt_cells.obs_names) == list(found[0].prompt_cells.obs_names)
        assert list(one.control_cells.obs_names) == list(found[0].control_cells.obs_names)
        for name in (keys.QUERY_MEAN, keys.QUERY_DETECTION, keys.QUERY_ERROR):
            assert one.query_cells.var[name].tolist() == found[0].query_cells.var[name].tolist()


def test_assemble_when_too_few_to_keep_apart_then_says_so(row, make_atlas, ask, assemble):
    atlas = make_atlas([row("s", B, "IFN-beta", "a", 30), row("s", B, "", "a", 30)])
    cells = assemble(ask(B), atlas)
    assert set(cells.query_cells.obs_names) == set(cells.control_cells.obs_names)
    assert "query and control cells overlap" in cells.notes[0]


def test_assemble_when_no_candidate_has_a_control_then_gives_none_and_the_reason(blood, ask, assemble):
    cells = assemble(ask(CD16), blood, only=(f"tiny/far/IFN-beta/{B}",))
    assert cells.control_cells is None
    assert "1 of 1 candidates have no control cells" in cells.notes[0]
    assert "dataset far has no control B cells" in cells.notes[0]


def test_assemble_of_an_imputation_keeps_query_and_prompt_apart(row, make_atlas, ask, assemble):
    rows = [row("s", one, "", donor, 50) for one in (CD16, CD14) for donor in ("a", "b")]
    cells = assemble(ask(CD16, None, task="cell_type_imputation"), make_atlas(rows))
    assert set(cells.prompt_cells.obs[keys.CELL_TYPE_ID]) == {CD16}
    assert set(cells.control_cells.obs[keys.CELL_TYPE_ID]) == set(cells.query_cells.obs[keys.CELL_TYPE_ID]) == {CD14}
    assert set(cells.query_cells.obs_names).isdisjoint(cells.control_cells.obs_names)
    assert cells.query_cells.n_obs == cells.control_cells.n_obs == 50


def test_assemble_when_nothing_is_given_or_left_then_refuses(blood, ask, knowledge, settings, config):
    with pytest.raises(InvalidInputError, match="at least one candidate"):
        assemble_cells((), query_set=None, atlas=blood, config=config, round_number=1)
    (one, *_) = search_candidates(ask(CD16), atlas=blood, knowledge=knowledge, settings=settings, config=config)
    with pytest.raises(InvalidInputError, match="no query cells"):
        assemble_cells([one], query_set=None, atlas=blood, config=config, round_number=1)
    gone = one.prompt.model_copy(update={"dataset": "gone"})
    with pytest.raises(NoCandidateError, match=r"query cell sets hold no cells.*gone"):
        assemble_cells([one], query_set=gone, atlas=blood, config=config, round_number=1)


def test_assemble_leaves_candidates_without_control_out_beside_those_that_have_one(blood, ask, assemble):
    cells = assemble(ask(CD16), blood, only=(f"tiny/far/IFN-beta/{B}", f"tiny/pbmc/IFN-beta/{CD14}"))
    assert set(cells.prompt_cells.obs[keys.DATASET]) == {"pbmc"}
    assert "1 of 2 candidates have no control cells and are left out" in cells.notes[0]
