import re
from datetime import UTC, datetime

import pandas as pd

from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.schema import (
    NAN,
    Aspect,
    Candidate,
    CellSet,
    Choice,
    Component,
    Composite,
    Confidence,
    EngineAgreement,
    Failure,
    HiddenCells,
    Match,
    Perturbation,
    Resolution,
    Round,
    RunConfig,
    RunRecord,
    StructuredQuery,
)

GENES = ["ISG15", "IFIT3", "MX1", "FOS", "ACTB", "CXCL8"]
DE = pd.DataFrame(
    {
        "gene": GENES,
        "delta": [2.0, 1.5, 1.2, -0.4, 0.0, -0.9],
        "log2fc": [4.0, 3.0, 2.5, -1.5, 0.1, -3.0],
        "padj": [1e-9, 1e-8, 1e-7, 1e-3, 0.9, 1e-4],
        "is_tested": [True] * 6,
        "is_de": [True, True, True, True, False, True],
    }
)
INERT = DE.assign(is_de=False)
PATHWAYS = pd.DataFrame(
    {
        "pathway": ["Interferon alpha response", "TNF signalling", "Oxidative phosphorylation", "JAK-STAT"],
        "statistic": [1.8, -0.4, 0.1, NAN],
        "score": [9.5, 5.5, 1.5, NAN],
        "p_signal": [1e-4, 0.01, 0.3, NAN],
        "p_specificity": [1e-4, 0.02, 0.4, NAN],
        "is_expected": [True, False, True, False],
    }
)
NO_PATHWAYS = PATHWAYS.iloc[:0]


def candidate(**changes):
    prompt = CellSet(
        atlas="demo", dataset="kang", is_control=False, perturbation="IFN-beta", cell_type_names=("B cell",)
    )
    values = {
        "key": "b",
        "strategy": "direct",
        "prompt": prompt,
        "control": prompt.model_copy(update={"is_control": True, "perturbation": None}),
        "control_reason": "same donor and cell type",
        "donor_matched": True,
        "relevance": 1.0,
        "evidence_distance": "other_cell_type",
        "reason": "same treatment",
    }
    return Candidate(**{**values, **changes})


def round_of(number=1, **changes):
    values = {
        "number": number,
        "choice": Choice(candidate_keys=("b",), reason=""),
        "candidates": (candidate(),),
        "n_prompt": 400,
        "n_query": 256,
        "query_cells": "untreated NK cells of kang",
        "frac_genes_found": 0.97,
        "components": (
            Component(name="pathway_coherence", weight=0.25, score=9.5, statistic=1.8),
            Component(name="literature_support", weight=0.25, score=NAN, reason="no literature source was asked"),
        ),
        "composite": Composite(value=7.84, weight_computed=0.75),
        "agreement": (
            EngineAgreement(engine="shift", pearson=0.91, n_de=40, composite=NAN),
            EngineAgreement(engine="none", pearson=NAN, n_de=0, composite=NAN, note="it changes nothing"),
        ),
        "n_de": 5,
    }
    return Round(**{**values, **changes})


QUERY = StructuredQuery(
    question="How would NK cells respond to IFN-beta?",
    task_type="perturbation_novel_cell_types",
    cell_type_name="natural killer cell",
    perturbation=Perturbation(text="IFN-beta", name="IFN-beta"),
    expected_targets={"ISG15": 1, "MX1": 1, "ACTB": -1, "GBP1": 1},
)


def record_of(*rounds, query=QUERY, best=1, **changes):
    values = {
        "run_id": "r-20260101-test",
        "question": query.question,
        "config": RunConfig(),
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "query": query,
        "rounds": rounds,
        "best_round": best,
        "termination": "threshold",
    }
    return RunRecord(**{**values, **changes})


def interpret(record, *, de=DE, pathways=PATHWAYS):
    return OfflinePlanner(knowledge=None).interpret(record, de=de, pathways=pathways).value


def all_words(answer):
    return " ".join([answer.headline, *answer.paragraphs, *answer.limitations])


def test_interpret_a_scored_round_then_headline_says_cells_genes_and_score():
    answer = interpret(record_of(round_of()))
    assert answer.headline == (
        "Predicted for natural killer cell under IFN-beta: 3 genes higher and 2 lower, led by ISG15, IFIT3 and MX1; "
        "score 7.8 of 10, consistent with known biology."
    )
    assert answer.planner == "offline"
    assert 2 <= len(answer.paragraphs) <= 4


def test_interpret_then_genes_are_ordered_by_size_and_counts_follow_the_table():
    genes = interpret(record_of(round_of())).paragraphs[0]
    assert "Of 6 tested genes, 3 are called higher and 2 lower" in genes
    assert "Highest: ISG15 (+4.0), IFIT3 (+3.0), MX1 (+2.5)" in genes
    assert "Lowest: CXCL8 (-3.0), FOS (-1.5)" in genes
    # GBP1 is not in the table; ACTB should fall but rises by 0.1
    assert "Of the 4 genes known to respond, 3 were tested, 2 change in the known direction and 2 are called" in genes


def test_interpret_then_support_names_pathways_with_direction_and_the_threshold():
    support = interpret(record_of(round_of())).paragraphs[1]
    assert "at or above the threshold of 7" in support
    assert "Interferon alpha response up (score 9.5, expected), TNF signalling down (score 5.5)" in support
    assert "Expected but weakly supported: Oxidative phosphorylation." in support
    assert "JAK-STAT" not in support
    assert "Oxidative phosphorylation up" not in support
    assert "pathway coherence 9.5" in support


def test_interpret_without_a_supported_pathway_then_says_so(subtests):
    for table, words in [
        (PATHWAYS.iloc[2:3], "No pathway stands out"),
        (PATHWAYS.iloc[3:], "No pathway could be tested"),
    ]:
        with subtests.test(table=table):
            assert words in interpret(record_of(round_of()), pathways=table).paragraphs[1]


def test_interpret_then_says_how_it_was_made_and_how_baselines_agree():
    making, agreement = interpret(
        record_of(round_of(1), round_of(2, control_note="No matched control"), best=2)
    ).paragraphs[2:]
    assert "The prompt was B cell of kang (400 cells), which show the same treatment in other cell types." in making
    assert "256 query cells (untreated NK cells of kang)" in making
    assert "No matched control." in making
    assert (
        "Round 2 of 2 is the best and is shown; the run ended because the score reached the threshold of 7." in making
    )
    assert "shift: correlation 0.91, 40 DE genes; none: it changes nothing." in agreement


def test_interpret_when_another_treatment_stands_in_then_it_is_named():
    shown = candidate().prompt.model_copy(update={"perturbation": "IFN-alpha2"})
    stand_in = candidate(prompt=shown, evidence_distance="shared_target")
    making = interpret(record_of(round_of(candidates=(stand_in,)))).paragraphs[2]
    assert "which show a treatment with shared targets or pathways (IFN-alpha2)." in making


def test_interpret_then_the_wording_follows_the_score(subtests):
    cases = [
        (7.0, "consistent with known biology"),
        (5.0, "partly consistent"),
        (2.0, "little support from known biology"),
    ]
    for value, words in cases:
        with subtests.test(value=value):
            answer = interpret(record_of(round_of(composite=Composite(value=value, weight_computed=1))))
            assert words in answer.headline


def test_interpret_without_a_score_then_says_not_scored_and_why():
    composite = Composite(value=NAN, weight_computed=0.25, reason="only a quarter of the weight could be computed")
    answer = interpret(record_of(round_of(composite=composite)), pathways=NO_PATHWAYS)
    assert answer.headline.endswith("not scored: only a quarter of the weight could be computed.")
    assert "The prediction is not scored: only a quarter" in answer.paragraphs[1]
    assert "nan" not in all_words(answer).lower()


def test_interpret_when_nothing_is_called_then_says_why_and_whether_anything_changes():
    held = Aspect(name="gene intervals", value=0.75, words="Nothing can be called: their effects differ by 71%.")
    one = round_of(n_de=0)
    known = one.model_copy(update={"confidence": Confidence(aspects=(held,))})
    answer = interpret(record_of(known), de=INERT)
    assert "no gene can be called" in answer.headline
    assert (
        "the direction of any single change may be wrong. Nothing can be called: their effects" in answer.paragraphs[0]
    )
    assert "hardly differs" not in answer.paragraphs[0]
    reason = "No gene is called: their effects differ by 71%; the scores"
    assert any(line.startswith(reason) for line in answer.limitations)
    still = interpret(record_of(one), de=INERT.assign(delta=0.01))
    assert "The prediction hardly differs from" in still.paragraphs[0]
    assert any(line.startswith("No gene is called, so the scores") for line in still.limitations)


def test_interpret_then_limitations_name_everything_that_applies():
    query = QUERY.model_copy(
        update={
            "unresolved": (Resolution(text="frobnicatol", kind="perturbation"),),
            "resolutions": (
                Resolution(
                    text="monos",
                    kind="cell_type",
                    match=Match(id="CL:1", name="monocyte", score=0.9, how="fuzzy"),
                    alternatives=(Match(id="CL:2", name="monoblast", score=0.89, how="fuzzy"),),
                    ambiguous=True,
                ),
                Resolution(
                    text="TNF", kind="perturbation", match=Match(id="TNF-alpha", name="TNF-alpha", score=1, how="name")
                ),
            ),
        }
    )
    bad = round_of(
        candidates=(
            candidate(control=None, control_reason="kang has no control cells", evidence_distance="text_only"),
        ),
        n_prompt=20,
        n_query=12,
        frac_genes_found=0.4,
        composite=Composite(value=4.0, weight_computed=0.75, cap=4.0, reason="no donor-matched control"),
    )
    limits = interpret(record_of(bad, query=query)).limitations
    expected = [
        "Only 12 query cells",
        "prompt has only 20 cells",
        "Only 40% of the genes",
        "no matched control cells, so treatment and batch effects cannot be separated: kang has no control cells.",
        "similar descriptions only",
        "Not computed: literature support (no literature source was asked).",
        "capped at 4.0: no donor-matched control.",
        "The term 'frobnicatol' was not recognised and was ignored.",
        "'monos' was read as monocyte; it may also mean monoblast.",
        "One treatment at a time is predicted: IFN-beta. TNF-alpha is not included.",
        "Generated cells are not replicates",
    ]
    missing = [words for words in expected if not any(words in line for line in limits)]
    assert missing == []


def test_interpret_of_other_donors_controls_then_says_so():
    limits = interpret(record_of(round_of(candidates=(candidate(donor_matched=False),)))).limitations
    assert any("control cells come from other donors" in line for line in limits)


def test_interpret_never_claims_truth_nor_uses_markup():
    for answer in (interpret(record_of(round_of())), interpret(record_of(round_of(n_de=0)), de=INERT)):
        words = all_words(answer)
        assert not re.search(r"\b(accura\w+|prove[sn]?|confirm\w*|certain)\b", words, re.IGNORECASE)
        assert not re.search(r"[*_#`<>]", words)


def test_interpret_a_failed_run_then_gives_its_message():
    failed = record_of(
        best=None, failure=Failure(kind="NoCandidateError", message="no candidate was found.", step="search")
    )
    assert interpret(failed).headline == "No prediction was made: no candidate was found."


def test_interpret_an_imputation_then_names_donor_and_tissue():
    query = StructuredQuery(
        question="What would NK cells look like in donor 3?",
        task_type="cell_type_imputation",
        cell_type_name="natural killer cell",
        donor_id="3",
        tissue_name="liver",
    )
    answer = interpret(record_of(round_of(), query=query))
    assert answer.headline.startswith("Predicted for natural killer cell in donor 3 in liver:")
    assert "genes known to respond" not in answer.paragraphs[0]


def test_interpret_then_the_largest_mean_change_comes_before_the_largest_fold_change():
    barely_detected = DE.assign(delta=[0.3, 1.5, 1.2, -0.4, 0.0, -0.9])
    assert "led by IFIT3, MX1 and ISG15" in interpret(record_of(round_of()), de=barely_detected).headline


def test_interpret_of_patients_then_says_whom_they_are_compared_with_and_what_people_differ_by():
    changes = {"task_type": "donor_expression_prediction", "perturbation": None, "expected_targets": {}}
    changes |= {"disease_id": "MONDO:0007915", "disease_name": "systemic lupus erythematosus", "donor_id": None}
    lupus = QUERY.model_copy(update=changes)
    kept = CellSet(atlas="a", dataset="s", is_control=True, n_cells=40)
    hidden = HiddenCells(
        atlas="a",
        dataset="s",
        perturbation="systemic lupus erythematosus",
        cell_type="NK cell",
        n_cells=40,
        pair="natural killer cell : systemic lupus erythematosus",
        cells=kept,
        against=kept,
    )
    best = round_of(composite=Composite(value=2.0, weight_computed=1))
    record = record_of(best, query=lupus, hidden=(hidden,))
    answer = interpret(record)
    assert "in systemic lupus erythematosus against healthy donors" in answer.headline
    assert "not clearly beyond what sets people apart" in answer.headline
    assert any("different people" in text for text in answer.limitations)
    assert "other cell types of the same donors" in answer.paragraphs[2]
    assert "40 cells (NK cell) of patients with systemic lupus erythematosus" in record.measured_words
