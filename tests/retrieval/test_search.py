import pytest

from haystack_kernel.errors import NoCandidateError
from haystack_kernel.retrieval import search_candidates
from haystack_kernel.schema import HiddenPair, Resolution, RetrievalSettings, RunConfig

CD4, T, B, CD14, CD16, DC, FIBRO = (
    "CL:0000624",
    "CL:0000084",
    "CL:0000236",
    "CL:0001054",
    "CL:0002396",
    "CL:0000451",
    "CL:0000057",
)
ALL = RetrievalSettings(n_top=50)


def by_key(found):
    return {one.key: one for one in found}


def test_search_when_the_type_has_no_treated_cells_then_proposes_the_nearest_types_first(blood, knowledge, ask, config):
    found = search_candidates(ask(CD16), atlas=blood, knowledge=knowledge, settings=ALL, config=config)
    best = found[0]
    assert best.key == f"tiny/pbmc/IFN-beta/{CD14}"
    assert best.relevance == pytest.approx(0.9 / 3)  # CD16 - monocyte - CD14: two steps
    assert (best.strategy, best.evidence_distance, best.donor_matched) == ("direct", "other_cell_type", True)
    assert not any(CD16 in one.prompt.cell_type_ids for one in found)
    relevance = [one.relevance for one in sorted(found, key=lambda one: -one.relevance)]
    assert relevance[-1] == 0.2  # types that are not connected keep the floor
    assert not any("natural killer" in one.reason for one in found)  # two cells are below min_cells


def test_search_names_cell_type_and_dataset_in_every_reason(blood, knowledge, ask, config):
    found = search_candidates(ask(CD16), atlas=blood, knowledge=knowledge, settings=ALL, config=config)
    for one in found:
        label = knowledge.cell_types[one.prompt.cell_type_ids[0]].name
        assert label in one.reason
        assert label in one.control_reason
        assert f"dataset {one.prompt.dataset}" in one.reason
        assert f"dataset {one.prompt.dataset}" in one.control_reason


def test_search_when_the_pair_is_measured_then_gives_it_relevance_one(blood, knowledge, ask, config):
    found = by_key(search_candidates(ask(B), atlas=blood, knowledge=knowledge, settings=ALL, config=config))
    exact = found[f"tiny/pbmc/IFN-beta/{B}"]
    assert (exact.relevance, exact.evidence_distance) == (1.0, "same_pair")
    synonym = found[f"tiny/drug/interferon beta/{B}"]
    assert (synonym.relevance, synonym.evidence_distance) == (0.9, "same_pair")
    assert "another name of IFN-beta" in synonym.reason


def test_search_when_a_subtype_is_measured_then_gives_it_relevance_of_a_label(row, make_atlas, knowledge, ask, config):
    atlas = make_atlas(
        [row("s", CD4, "IFN-beta", "d", 10), row("s", "", "IFN-beta", "d", 8, label="T cell"), row("s", DC, "", "d", 9)]
    )
    found = by_key(search_candidates(ask(T), atlas=atlas, knowledge=knowledge, settings=ALL, config=config))
    assert [found[f"tiny/s/IFN-beta/{key}"].relevance for key in (CD4, "T cell")] == [0.9, 0.9]
    assert found["tiny/s/IFN-beta/T cell"].prompt.cell_type_names == ("T cell",)
    assert found["tiny/s/IFN-beta/T cell"].prompt.cell_type_ids == ()


def test_search_never_takes_another_perturbation(blood, knowledge, ask, config):
    found = search_candidates(ask(CD14), atlas=blood, knowledge=knowledge, settings=ALL, config=config)
    assert {one.prompt.perturbation for one in found} == {"IFN-beta", "interferon beta"}


def test_search_when_the_sample_is_novel_then_leaves_the_target_donor_out(blood, knowledge, ask, config):
    query = ask(CD4, task="perturbation_novel_samples", donor_id="d1")
    found = search_candidates(query, atlas=blood, knowledge=knowledge, settings=ALL, config=config)
    assert found
    assert not any("pbmc:d1" in one.prompt.donor_ids for one in found)
    assert by_key(found)[f"tiny/pbmc/IFN-beta/{CD4}"].prompt.donor_ids == ("pbmc:d2",)


def test_search_when_cross_dataset_then_prompts_come_from_other_datasets(blood, knowledge, ask, config):
    query = ask(CD14, task="cross_dataset_generation", target_dataset="pbmc")
    found = search_candidates(query, atlas=blood, knowledge=knowledge, settings=ALL, config=config)
    assert {one.prompt.dataset for one in found} == {"far", "drug"}


def test_search_is_unique_by_key_and_keeps_the_limits(blood, knowledge, ask, config):
    few = RetrievalSettings(max_candidates=3, n_top=2)
    found = search_candidates(ask(CD16), atlas=blood, knowledge=knowledge, settings=few, config=config)
    assert len(found) == 2
    found = search_candidates(ask(CD16), atlas=blood, knowledge=knowledge, settings=ALL, config=config)
    assert len({one.key for one in found}) == len({one.prompt.key for one in found}) == len(found)
    again = search_candidates(ask(CD16), atlas=blood, knowledge=knowledge, settings=ALL, config=config)
    assert again == found


def test_search_counts_the_cells_that_the_prompt_selects(blood, knowledge, ask, config):
    for one in search_candidates(ask(CD16), atlas=blood, knowledge=knowledge, settings=ALL, config=config):
        assert len(blood.select(one.prompt)) == one.prompt.n_cells > 0
        if one.control is not None:
            assert len(blood.select(one.control)) == one.control.n_cells > 0


def test_search_when_the_perturbation_is_not_held_then_takes_one_with_the_same_targets(blood, knowledge, ask, config):
    found = search_candidates(ask(CD14, "IFN-omega"), atlas=blood, knowledge=knowledge, settings=ALL, config=config)
    first = found[0]
    assert (first.prompt.perturbation, first.prompt.cell_type_ids) == ("IFN-beta", (CD14,))
    assert (first.strategy, first.evidence_distance) == ("mechanistic", "shared_target")
    assert "IFN-beta shares targets IFNAR1, IFNAR2 with IFN-omega" in first.reason
    assert first.relevance >= 0.6


def test_search_when_nothing_is_related_then_names_those_held(blood, knowledge, ask, config, settings):
    with pytest.raises(NoCandidateError, match=r"treated with IL-99.*Nearest in the atlases: "):
        search_candidates(ask(CD14, "IL-99"), atlas=blood, knowledge=knowledge, settings=settings, config=config)


def test_search_when_the_perturbation_is_unknown_then_names_it_and_those_held(blood, knowledge, ask, config, settings):
    query = ask(CD14, None, unresolved=(Resolution(text="TNFalpha", kind="perturbation"),))
    with pytest.raises(NoCandidateError, match=r"'TNFalpha' is not known.*TNF-alpha, IFN-beta"):
        search_candidates(query, atlas=blood, knowledge=knowledge, settings=settings, config=config)


def test_search_when_everything_is_hidden_then_says_so(row, make_atlas, knowledge, ask, settings):
    atlas = make_atlas(
        [row("s", CD4, "IFN-beta", "d", 30), row("s", T, "IFN-beta", "d", 30), row("s", CD4, "", "d", 9)]
    )
    config = RunConfig(hide=(HiddenPair(cell_type_id=CD4, perturbation="IFN-beta"),))
    with pytest.raises(NoCandidateError, match=r"all 60 cells treated with IFN-beta are hidden.*T cell.*Hide fewer"):
        search_candidates(ask(CD4), atlas=atlas, knowledge=knowledge, settings=settings, config=config)


def test_search_when_everything_is_banned_then_says_so(row, make_atlas, knowledge, ask, settings):
    atlas = make_atlas([row("s", CD4, "IFN-beta", "d", 30), row("s", CD4, "", "d", 9)])
    config = RunConfig(ban=(f"tiny/s/IFN-beta/{CD4}",))
    with pytest.raises(NoCandidateError, match=r"all 1 candidates.*banned"):
        search_candidates(ask(CD4), atlas=atlas, knowledge=knowledge, settings=settings, config=config)


def test_search_when_all_sets_are_small_then_says_how_small(row, make_atlas, knowledge, ask, settings, config):
    atlas = make_atlas([row("s", CD4, "IFN-beta", "d", 3), row("s", CD4, "", "d", 9)])
    with pytest.raises(NoCandidateError, match=r"fewer than 5 in every cell type \(CD4-positive.*\(3 cells\)"):
        search_candidates(ask(CD4), atlas=atlas, knowledge=knowledge, settings=settings, config=config)
