import re

from haystack_kernel import get, report
from haystack_kernel.report import parts
from haystack_kernel.report.html import MISSING

NASTY = "<script>alert(1)</script>"


def test_part_escapes_the_texts_of_the_record(make_run, subtests):
    for part in ["query_card", "rounds_table", "score_table", "agreement_table"]:
        with subtests.test(part=part):
            assert NASTY not in getattr(report, part)(make_run(NASTY))
            assert NASTY not in getattr(report, part)(make_run(NASTY))._repr_html_()


def test_run_card_escapes_and_shows_state_and_score(make_run, failed_run):
    card = report.run_card(make_run(NASTY))
    assert NASTY not in card
    assert "7.3 of at most 7.3" in card
    assert "failure: at step 'retrieve': no atlas 'x'" in repr(report.run_card(failed_run))


def test_query_card_shows_ids_directions_doubts_and_unknown_words(make_run):
    card = repr(parts.query_card(make_run()))
    assert "B cell (CL:0000236)" in card
    assert "▲ rise: UP1; ▼ fall: DOWN1" in card
    assert "▲ type I interferon response" in card
    assert "'mono' was read as monocyte; it may also mean macrophage" in card
    assert "'blorb' is not a known perturbation; closest known terms: TNF" in card


def test_cards_show_what_the_question_was_taken_as_and_the_words_not_used(make_run):
    record = make_run()
    query = record.query.model_copy(update={"unused": ("smokers", "<b>"), "condition": "6 h"})
    record = record.model_copy(update={"query": query})
    assert "noted only: 6 h; not used: 'smokers', '<b>'" in repr(parts.query_card(record))
    assert "Not used from the question: 'smokers', '<b>'" in repr(parts.query_card(record))
    assert "6 h (not used to choose cells)" in parts.query_card(record)
    assert "not used: &#x27;smokers&#x27;, &#x27;&lt;b&gt;&#x27;" in report.run_card(record)


def test_query_card_counts_the_expected_genes_it_leaves_out(make_run):
    record = make_run()
    many = record.query.model_copy(update={"expected_targets": {f"G{n}": 1 for n in range(25)}})
    assert "G19 and 5 more" in parts.query_card(record.model_copy(update={"query": many}))


def test_rounds_show_a_dash_for_what_is_not_known_yet(make_run):
    """A round that was chosen, one whose cells were read, and one that found no gene are told apart."""
    first = make_run().rounds[0]
    chosen = first.before("cells").model_copy(update={"number": 2, "decision": ""})
    none = first.model_copy(update={"n_de": 0})
    record = make_run().model_copy(update={"rounds": (none, chosen)})
    one, two = (re.split(r" {2,}", row) for row in repr(parts.rounds_table(record)).splitlines()[2:])
    assert one[2:6] == ["0", "40", "30", "20"]
    assert two[1:6] == [MISSING] * 5
    table = get.rounds(record)
    assert table[["n_de", "n_prompt", "n_query", "seconds"]].isna().to_numpy().tolist() == [
        [False] * 3 + [True],
        [True] * 4,
    ]


def test_score_table_says_why_a_component_is_missing(make_run):
    rows = repr(parts.score_table(make_run())).splitlines()
    (missing,) = [row for row in rows if row.startswith("literature support")]
    assert "not computed" in missing
    assert "no paper was searched" in missing
    (wrong_way,) = [row for row in rows if row.startswith("target activation")]
    assert "1.0 30% -0.500" in " ".join(wrong_way.split())
    assert "moves against expectation" in wrong_way


def test_score_table_names_the_edges_that_speak_most_for_a_component(make_run):
    record = make_run()
    best = record.best
    found = best.components[0].model_copy(update={"detail": {"leading_edges": ["TFA activates G1", "TFA inhibits G2"]}})
    changed = best.model_copy(update={"components": (found, *best.components[1:])})
    shown = repr(parts.score_table(record.model_copy(update={"rounds": (changed,)})))
    assert "led by TFA activates G1, TFA inhibits G2" in shown


def test_rounds_table_marks_the_best_round(make_run):
    record = make_run()
    second = record.rounds[0].model_copy(update={"number": 2, "composite": None, "decision": ""})
    rows = re.findall(
        r"<tr>(.*?)</tr>", parts.rounds_table(record.model_copy(update={"rounds": (*record.rounds, second)}))
    )
    assert "1 (best)" in rows[1]
    assert "(best)" not in rows[2]
    assert "in progress" in rows[2]


def test_agreement_table_shows_nan_as_a_dash(make_run):
    made = parts.agreement_table(make_run())
    assert f'data-value="nan">{MISSING}' in made
    assert 'data-value="0.875">0.875' in made


def test_parts_of_a_run_that_only_began_say_so(failed_run):
    fresh = failed_run.model_copy(update={"query": None})
    assert "not been parsed" in parts.query_card(fresh)
    assert "No round" in parts.rounds_table(fresh)
    assert "No round" in parts.score_table(fresh)
    assert parts.agreement_table(fresh) == ""
