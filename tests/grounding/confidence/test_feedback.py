from haystack_kernel.grounding import find_feedback
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.schema import (
    Aspect,
    Candidate,
    CellSet,
    Choice,
    Component,
    Composite,
    Confidence,
    Feedback,
    Perturbation,
    Round,
    StructuredQuery,
)
from haystack_kernel.schema.score import _EARLIER_DETAIL, _EARLIER_KIND

NAN = float("nan")
B, PLASMA, FIBROBLAST = "CL:0000236", "CL:0000786", "CL:0002553"
QUERY = StructuredQuery(
    question="How would B cells respond to IFN-beta?",
    task_type="perturbation_novel_cell_types",
    cell_type_id=B,
    cell_type_name="B cell",
    perturbation=Perturbation(text="IFN-beta", name="IFN-beta"),
)


def candidate(cell_type=PLASMA, *, control=True, matched=True):
    prompt = CellSet(atlas="a", dataset="d", is_control=False, perturbation="IFN-beta", cell_type_ids=(cell_type,))
    return Candidate(
        key=cell_type,
        strategy="direct",
        prompt=prompt,
        control=prompt.model_copy(update={"is_control": True, "perturbation": None}) if control else None,
        control_reason="no control: the dataset has none",
        donor_matched=matched,
        relevance=0.5,
        evidence_distance="other_cell_type",
        reason="",
    )


def component(name, score, *, statistic=1.0, **detail):
    return Component(name=name, weight=0.25, score=score, statistic=statistic, reason="", detail=detail)


GOOD = (
    component("pathway_coherence", 9.0),
    component("target_activation", 9.0, ridge_asked=0.5, ridge_competing_value=0.1),
)


def scored(*components, value=3.0, intervals=1.0, coverage=1.0, used=None, **changes):
    aspects = (Aspect(name="gene intervals", value=intervals, reason=""),)
    fields = {
        "number": 1,
        "choice": Choice(candidate_keys=("k",), reason=""),
        "candidates": used or (candidate(),),
        "n_control": 10,
        "components": components or GOOD,
        "composite": Composite(value=value, weight_computed=1),
        "confidence": Confidence(aspects=aspects),
        "frac_genes_found": coverage,
    }
    return Round(**(fields | changes))


def find(one, query=QUERY):
    return find_feedback(one, query=query, knowledge=load_knowledge(), threshold=7)


def kinds(one, query=QUERY):
    return [(item.kind, item.action) for item in find(one, query)]


def test_feedback_when_nothing_is_wrong_or_the_threshold_is_reached_then_none():
    assert kinds(scored()) == []
    assert kinds(scored(value=7.0, coverage=0.1, intervals=0.0)) == []


def test_feedback_when_one_thing_is_wrong_then_it_is_named_alone():
    led = component("target_activation", 5.0, ridge_asked=0.1, ridge_competing="TNF", ridge_competing_value=0.4)
    cases = {
        ("low_coverage", "other_dataset"): scored(coverage=0.5),
        ("unstable", "wider_pool"): scored(intervals=0.5),
        ("donor_unmatched", "matched_control"): scored(used=(candidate(matched=False),)),
        ("control_mismatch", "matched_control"): scored(used=(candidate(control=False),), n_control=0),
        ("weak_pathway", "nearer_evidence"): scored(component("pathway_coherence", 2.0), GOOD[1]),
        ("competing_signature_leads", "nearer_evidence"): scored(led),
    }
    for expected, one in cases.items():
        assert kinds(one) == [expected]
        assert find(one)[0].sentence


def test_names_of_earlier_records_are_translated_when_read():
    for old, new in _EARLIER_KIND.items():
        text = Feedback(kind=new, sentence="s", action="nearer_evidence").model_dump_json()
        assert Feedback.model_validate_json(text.replace(new, old)).kind == new
    earlier = component("target_activation", 5.0, **dict.fromkeys(_EARLIER_DETAIL, 1))
    assert set(earlier.detail) == set(_EARLIER_DETAIL.values())
    assert kinds(scored(earlier)) == [("competing_signature_leads", "nearer_evidence")]


def test_feedback_when_the_intervals_are_not_known_then_none():
    assert kinds(scored(intervals=NAN, coverage=NAN)) == []


def test_feedback_when_the_prompt_is_of_another_lineage_and_the_score_weak_then_other_cells():
    weak = (component("pathway_coherence", 2.0), component("target_activation", 2.0))
    assert kinds(scored(*weak, used=(candidate(FIBROBLAST),)))[0] == ("wrong_lineage", "other_cells")
    assert kinds(scored(*weak)) == [("weak_pathway", "nearer_evidence")]  # plasma cells are near enough
    assert kinds(scored(used=(candidate(FIBROBLAST),))) == []  # far, but it works


def test_feedback_when_the_prediction_is_more_similar_to_another_type_then_it_is_named():
    query = QUERY.model_copy(update={"task_type": "cell_type_imputation", "perturbation": None})
    found = find(scored(component("cell_type_coherence", 1.0, statistic=-0.2, nearest_other="NK cell")), query)
    assert [(item.kind, item.about) for item in found] == [("wrong_lineage", "NK cell")]
    assert "more similar to NK cell than to B cell" in found[0].sentence
