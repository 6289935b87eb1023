import pytest

from haystack_kernel.retrieval import search_candidates
from haystack_kernel.schema import RetrievalSettings

CD4, B, CD14, DC = "CL:0000624", "CL:0000236", "CL:0001054", "CL:0000451"
LUNG = ("UBERON:0002048", "lung")


@pytest.fixture
def find(knowledge, ask, config):
    def search(atlas, cl_id, key):
        settings = RetrievalSettings(n_top=50)
        found = search_candidates(ask(cl_id), atlas=atlas, knowledge=knowledge, settings=settings, config=config)
        return next(one for one in found if one.key == f"tiny/{key}")

    return search


def test_control_when_donors_have_both_then_is_matched_by_donor(blood, find):
    one = find(blood, CD14, f"pbmc/IFN-beta/{CD14}")
    assert one.donor_matched
    assert one.prompt.donor_ids == one.control.donor_ids == ("pbmc:d1", "pbmc:d2")  # d3 has no treated cells
    assert (one.control.is_control, one.control.cell_type_ids, one.control.n_cells) == (True, (CD14,), 120)


def test_control_when_one_treated_donor_lacks_controls_then_the_prompt_drops_that_donor(row, make_atlas, find):
    atlas = make_atlas(
        [row("s", CD4, "IFN-beta", "a", 20), row("s", CD4, "IFN-beta", "b", 50), row("s", CD4, "", "a", 10)]
    )
    one = find(atlas, CD4, f"s/IFN-beta/{CD4}")
    assert one.donor_matched
    assert (one.prompt.donor_ids, one.prompt.n_cells) == (("s:a",), 20)


def test_control_when_the_matched_part_is_too_small_then_keeps_all_donors_unmatched(row, make_atlas, find):
    atlas = make_atlas(
        [
            row("s", CD4, "IFN-beta", "a", 2),
            row("s", CD4, "IFN-beta", "b", 50),
            row("s", CD4, "", "a", 10),
            row("s", CD4, "", "c", 10),
        ]
    )
    one = find(atlas, CD4, f"s/IFN-beta/{CD4}")
    assert not one.donor_matched
    assert one.prompt.n_cells == 52
    assert one.control.donor_ids == ("s:a", "s:c")
    assert "have too few" in one.control_reason


def test_control_when_donors_differ_then_says_so(blood, find):
    one = find(blood, CD14, f"far/IFN-beta/{CD14}")
    assert not one.donor_matched
    assert one.control.donor_ids == ("far:x2",)
    assert "other donors" in one.control_reason


def test_control_when_donors_are_not_recorded_then_is_not_called_matched(blood, find):
    one = find(blood, B, f"drug/interferon beta/{B}")
    assert not one.donor_matched
    assert (one.prompt.donor_ids, one.control.donor_ids) == ((), ())
    assert "donors are not recorded" in one.control_reason


def test_control_when_the_dataset_has_none_of_the_type_then_lists_what_it_has(blood, find):
    one = find(blood, B, f"far/IFN-beta/{B}")
    assert one.control is None
    assert "no control B cells; its control cells are CD14-positive monocyte (30)" in one.control_reason


def test_control_when_the_dataset_has_no_controls_then_says_so(row, make_atlas, find):
    one = find(make_atlas([row("s", CD4, "IFN-beta", "a", 20)]), CD4, f"s/IFN-beta/{CD4}")
    assert one.control is None
    assert "no control cells at all" in one.control_reason


def test_control_when_tissues_differ_then_both_sides_keep_the_common_tissue(row, make_atlas, find):
    atlas = make_atlas(
        [
            row("s", CD4, "IFN-beta", "a", 20),
            row("s", CD4, "", "a", 10),
            row("s", CD4, "", "a", 30, tissue=LUNG),
        ]
    )
    one = find(atlas, CD4, f"s/IFN-beta/{CD4}")
    assert one.control.tissue_ids == one.prompt.tissue_ids == ("UBERON:0000178",)
    assert one.control.n_cells == 10


def test_control_is_ranked_by_how_well_it_matches(blood, find):
    matched, unmatched, none = (
        find(blood, B, f"{key}/{B}") for key in ("pbmc/IFN-beta", "drug/interferon beta", "far/IFN-beta")
    )
    shares = {0.4: matched, 0.2: unmatched, 0.0: none}  # quality = .4 n/(n+50) + .2 d/(d+1000) + control share
    for share, one in shares.items():
        n_cells = one.prompt.n_cells
        assert one.quality == pytest.approx(0.4 * n_cells / (n_cells + 50) + 0.2 * 1500 / 2500 + share)


def kinds_of(row, make_atlas, find, *, treated="", **controls):
    """Control of IFN-beta in B cells where a data set has controls of several kinds, each with some cells."""
    rows = [row("s", B, "IFN-beta", "a", 40, kind=treated)]
    rows += [row("s", B, "", "a", n_cells, kind=kind) for kind, n_cells in controls.items()]
    return find(make_atlas(rows), B, f"s/IFN-beta/{B}")


def test_control_when_the_file_states_the_vehicle_then_is_of_that_kind(row, make_atlas, find):
    one = kinds_of(row, make_atlas, find, treated="DMSO", DMSO=30, PBS=50, untreated=60)
    assert (one.control.control_kinds, one.control.n_cells) == (("DMSO",), 30)
    assert one.control_reason == "30 control B cells of the same 1 donor in dataset s (DMSO)"


def test_control_of_a_cytokine_is_a_solvent_of_proteins_where_the_file_states_none(row, make_atlas, find):
    one = kinds_of(row, make_atlas, find, DMSO=30, PBS=50)
    assert (one.control.control_kinds, one.control.n_cells) == (("PBS",), 50)


def test_control_when_the_stated_kind_is_missing_then_says_so(row, make_atlas, find):
    one = kinds_of(row, make_atlas, find, treated="ethanol", untreated=30, mock=50)
    assert (one.control.control_kinds, one.control.n_cells) == ((), 80)
    assert "(mock and untreated together; too few are ethanol, the kind stated for the treatment)" in one.control_reason


def test_control_of_one_kind_is_taken_as_before(row, make_atlas, find):
    one = kinds_of(row, make_atlas, find, DMSO=30)
    assert (one.control.control_kinds, one.control_reason) == (
        (),
        "30 control B cells of the same 1 donor in dataset s",
    )
