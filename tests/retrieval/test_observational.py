"""Shift = prompt - control applied to the query must answer the question: the roles are checked on designed donors."""

import pytest

from haystack_kernel import keys
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.retrieval import choose_query_cells, fetch_hidden, hide_patients, search_candidates
from haystack_kernel.schema import RetrievalSettings

CD4, CD8, T, B, NK, CD14, CD16, DC = (
    "CL:0000624",
    "CL:0000625",
    "CL:0000084",
    "CL:0000236",
    "CL:0000623",
    "CL:0001054",
    "CL:0002396",
    "CL:0000451",
)
LUNG = ("UBERON:0002048", "lung")


@pytest.fixture
def donors(row, make_atlas):
    """Donors r1 and r2 have CD16, CD14 and B cells; donor t lacks CD16; dataset "far" has CD16 alone."""
    rows = [row("s", one, "", donor, 20) for one in (CD16, CD14, B) for donor in ("r1", "r2")]
    rows += [row("s", CD14, "", "t", 25), row("s", B, "", "t", 70), row("s", DC, "", "t", 90)]
    rows += [row("s", CD16, "IFN-beta", "r1", 33), row("far", CD16, "", "f", 50)]
    return make_atlas(rows)


@pytest.fixture
def work(knowledge, config):
    def run(query, atlas):
        settings = RetrievalSettings(n_top=50)
        found = search_candidates(query, atlas=atlas, knowledge=knowledge, settings=settings, config=config)
        chosen = choose_query_cells(query, atlas=atlas, knowledge=knowledge, candidates=found, config=config)
        return {one.key: one for one in found}, chosen

    return run


def test_imputation_prompts_with_the_type_in_other_donors_against_the_source_type_of_the_same_donors(donors, ask, work):
    found, query_set = work(ask(CD16, None, task="cell_type_imputation", donor_id="t"), donors)
    best = found[f"tiny/s/control/{CD16}"]
    assert best.prompt.is_control  # unperturbed
    assert (best.prompt.donor_ids, best.prompt.n_cells) == (("s:r1", "s:r2"), 40)
    assert (best.control.cell_type_ids, best.control.donor_ids) == ((CD14,), ("s:r1", "s:r2"))
    assert (best.donor_matched, best.relevance, best.evidence_distance) == (
        True,
        0.625,
        "same_cell_type",
    )  # blood; three facts not recorded
    # CD14 is nearer than B, though the target has more B cells; DC is no source: no reference donor has it
    assert (query_set.cell_type_ids, query_set.donor_ids, query_set.n_cells) == ((CD14,), ("s:t",), 25)


def test_imputation_proposes_datasets_without_the_source_type_with_the_reason(donors, ask, work):
    found, _ = work(ask(CD16, None, task="cell_type_imputation", donor_id="t"), donors)
    far = found[f"tiny/far/control/{CD16}"]
    assert far.control is None
    assert "dataset far has no control" in far.control_reason


def test_imputation_proposes_nearby_types_by_ontology_but_never_the_source(donors, ask, work):
    found, _ = work(ask(CD16, None, task="cell_type_imputation", donor_id="t"), donors)
    assert f"tiny/s/control/{CD14}" not in found
    assert not any(one.strategy == "ontology" for one in found.values())  # CD14 is the only type within two steps


def test_imputation_of_a_tissue_takes_prompt_and_control_from_other_tissues(row, make_atlas, ask, work):
    rows = [row("s", one, "", "a", 30) for one in (CD16, CD14)] + [row("s", CD14, "", "a", 40, tissue=LUNG)]
    found, query_set = work(ask(CD16, None, task="cell_type_imputation", tissue_id=LUNG[0]), make_atlas(rows))
    best = found[f"tiny/s/control/{CD16}"]
    assert best.prompt.tissue_ids == best.control.tissue_ids == ("UBERON:0000178",)
    assert (query_set.cell_type_ids, query_set.tissue_ids, query_set.n_cells) == ((CD14,), (LUNG[0],), 40)


def test_donor_prediction_prompts_with_the_donors_other_types_against_reference_donors(donors, ask, work):
    found, query_set = work(ask(CD16, None, task="donor_expression_prediction", donor_id="t"), donors)
    near = found[f"tiny/s/control/{CD14}"]
    assert (near.prompt.donor_ids, near.control.donor_ids) == (("s:t",), ("s:r1", "s:r2"))
    assert near.prompt.cell_type_ids == near.control.cell_type_ids == (CD14,)
    assert not near.donor_matched
    assert "by design" in near.control_reason
    assert near.relevance > found[f"tiny/s/control/{B}"].relevance
    assert found[f"tiny/s/control/{DC}"].control is None
    assert (query_set.cell_type_ids, query_set.donor_ids, query_set.dataset) == ((CD16,), ("s:r1", "s:r2"), "s")


def test_donor_prediction_never_prompts_with_cells_that_may_hold_the_answer(row, make_atlas, ask, work):
    rows = [row("s", one, "", "r", 30) for one in (CD4, CD8, B)]
    rows += [row("s", one, "", "t", 30) for one in (CD4, T, CD8, B)]
    found, query_set = work(ask(CD4, None, task="donor_expression_prediction", donor_id="t"), make_atlas(rows))
    assert set(found) == {f"tiny/s/control/{CD8}", f"tiny/s/control/{B}"}
    assert query_set.donor_ids == ("s:r",)


def test_donor_prediction_without_a_donor_is_refused(donors, ask, work):
    with pytest.raises(NoCandidateError, match="names none"):
        work(ask(CD16, None, task="donor_expression_prediction"), donors)


def test_donor_prediction_when_no_other_donor_has_the_type_then_says_so(donors, ask, work):
    with pytest.raises(NoCandidateError, match="natural killer cells of donor t some other donor must have them"):
        work(ask(NK, None, task="donor_expression_prediction", donor_id="t"), donors)


def test_imputation_when_the_tissue_is_not_held_then_lists_tissues(donors, ask, work):
    query = ask(CD16, None, task="cell_type_imputation", tissue_id="UBERON:0000955", tissue_name="brain")
    with pytest.raises(NoCandidateError, match="no cells of tissue 'brain' in the atlases; those there are of blood"):
        work(query, donors)


LUPUS, HEALTHY = ("MONDO:0007915", "systemic lupus erythematosus"), ("PATO:0000461", "normal")


@pytest.fixture
def cohort(row):
    """Study s: CD16, CD14 and B cells of two patients (p1, p2) and two healthy donors; h2 lacks CD16."""
    rows = [row("s", one, "", donor, 20, disease=LUPUS) for one in (CD16, CD14, B) for donor in ("p1", "p2")]
    rows += [row("s", one, "", donor, 20, disease=HEALTHY) for one in (CD14, B) for donor in ("h1", "h2")]
    return [*rows, row("s", CD16, "", "h1", 30, disease=HEALTHY), row("s", CD14, "", "x", 90, disease=("", ""))]


@pytest.fixture
def of_lupus(ask):
    return ask(CD16, None, task="donor_expression_prediction", disease_id=LUPUS[0], disease_name=LUPUS[1])


def test_patients_are_compared_with_healthy_donors_by_their_other_cell_types(cohort, make_atlas, of_lupus, work):
    found, query_set = work(of_lupus, make_atlas(cohort))
    assert set(found) == {f"tiny/s/control/{CD14}", f"tiny/s/control/{B}"}  # never the patients' own cells of the type
    near = found[f"tiny/s/control/{CD14}"]
    assert near.prompt.donor_ids == ("s:p1", "s:p2")
    assert (near.control.donor_ids, near.control.disease_ids) == (("s:h1", "s:h2"), (HEALTHY[0],))  # x is not recorded
    assert "2 healthy donors" in near.control_reason
    assert (query_set.cell_type_ids, query_set.donor_ids) == ((CD16,), ("s:h1",))


def test_the_measured_difference_of_patients_is_found_and_kept_apart(cohort, make_atlas, of_lupus, knowledge, config):
    (hidden,) = hide_patients(of_lupus, atlas=make_atlas(cohort), knowledge=knowledge, config=config)
    assert (hidden.n_cells, hidden.cells.donor_ids, hidden.against.donor_ids) == (40, ("s:p1", "s:p2"), ("s:h1",))
    assert hidden.pair.endswith(" : systemic lupus erythematosus")
    arms = fetch_hidden(hidden, atlas=make_atlas(cohort), config=config)
    assert set(arms.treated.obs[keys.DONOR]) == {"s:p1", "s:p2"}
    used = list(arms.control.obs_names[:20])  # query cells
    rest = fetch_hidden(hidden, atlas=make_atlas(cohort), config=config, without=used)
    assert rest.control.n_obs == 10
    assert not set(rest.control.obs_names) & set(used)


def test_another_data_set_of_patients_and_healthy_donors_shows_the_type_itself(cohort, row, make_atlas, of_lupus, work):
    more = [row("far", CD16, "", name, 12, disease=state) for name, state in (("p", LUPUS), ("h", HEALTHY))]
    found, query_set = work(of_lupus, make_atlas([*cohort, *more]))
    far = found[f"tiny/far/control/{CD16}"]
    assert (far.evidence_distance, far.control.donor_ids) == ("same_cell_type", ("far:h",))
    assert query_set.dataset == "s"


def test_a_donor_who_was_a_patient_once_is_on_both_sides_with_the_cells_of_each_state(row, make_atlas, of_lupus, work):
    rows = [row("s", one, "", "p", 20, disease=state) for one in (CD16, CD14) for state in (LUPUS, HEALTHY)]
    found, query_set = work(of_lupus, make_atlas(rows))
    near = found[f"tiny/s/control/{CD14}"]
    assert near.prompt.disease_ids == (LUPUS[0],)
    assert near.control.disease_ids == query_set.disease_ids == (HEALTHY[0],)


def test_patients_whose_data_set_has_no_healthy_donors_are_refused_with_what_could_be_compared(
    row, make_atlas, of_lupus, work
):
    rows = [row("s", one, "", "p", 20, disease=LUPUS) for one in (CD16, CD14)]
    rows += [row("far", one, "", "h", 20, disease=HEALTHY) for one in (CD16, CD14)]
    rows += [row("far", CD14, "", "q", 20, disease=("MONDO:0008383", "rheumatoid arthritis"))]
    words = "patients are in s, donors recorded as healthy in far; compared could be: rheumatoid arthritis in far"
    with pytest.raises(NoCandidateError, match=words):
        work(of_lupus, make_atlas(rows))


def test_imputation_in_a_disease_takes_the_type_from_donors_without_it(cohort, make_atlas, ask, work):
    query = ask(CD16, None, task="cell_type_imputation", disease_id=LUPUS[0], disease_name=LUPUS[1])
    found, query_set = work(query, make_atlas(cohort))
    assert found[f"tiny/s/control/{CD16}"].prompt.donor_ids == ("s:h1",)
    assert (query_set.donor_ids, query_set.disease_ids) == ((), (LUPUS[0],))
