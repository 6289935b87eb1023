import math

from haystack_kernel.report.summary import answer, notices, summary
from haystack_kernel.schema import Composite


def tile(record, name, **tables):
    (found,) = [item for item in summary(record, **{"de": None, "pathways": None, **tables}) if name in item.name]
    return str(found.value), found.note


def test_strip_leads_with_the_score_and_what_holds_it_back(make_run):
    record = make_run()
    first = summary(record, de=None, pathways=None)[0]
    assert first.name == "score (1 = chance)"
    assert first.value.startswith("7.3 of at most 7.3")
    assert first.note == "at or above the threshold of 7; 2 of 3 components computed; capped at 7.3"


def test_strip_of_a_run_without_score_gives_the_reason(make_run):
    record = make_run(composite=Composite(value=math.nan, weight_computed=0.2, reason="too few genes were tested"))
    assert tile(record, "score") == ("not scored", "too few genes were tested")


def test_strip_counts_rising_and_falling_genes_from_the_table(make_run, de):
    value, note = tile(make_run(), "DE genes", de=de)
    assert value.split() == ["▲", "2", "▼", "2"]
    assert note == "of 7 tested genes; led by UP1, UP2"
    assert tile(make_run(), "DE genes") == ("4", "led by UP1, UP2")


def test_strip_names_the_leading_pathway_and_its_direction(make_run, pathways):
    assert tile(make_run(), "pathway", pathways=pathways) == (
        "▲ type I interferon response",
        "score 10.0; expected by the question",
    )
    falling = pathways.assign(statistic=-pathways["statistic"])
    assert tile(make_run(), "pathway", pathways=falling)[0] == "▼ type I interferon response"
    chance = pathways.assign(score=1.0)
    assert tile(make_run(), "pathway", pathways=chance)[0] == "none"
    assert tile(make_run(), "pathway", pathways=pathways.head(0))[0] == "none"


def test_strip_says_how_far_the_evidence_is(make_run):
    assert tile(make_run(), "evidence") == (
        "the same treatment in other cell types",
        "40 prompt cells; donor-matched control cells",
    )
    assert "40 simulated prompt cells" in tile(make_run(atlas="demo"), "evidence")[1]


def test_strip_shows_the_baseline_that_comes_closest(make_run):
    assert tile(make_run(), "baseline") == ("shift, r = 0.88", "correlation with this prediction; baseline score 6.5")


def test_strip_says_which_round_and_why_it_stopped(make_run):
    assert tile(make_run(), "best round") == ("1 of 1", "stopped: the score reached the threshold of 7")


def test_notices_name_simulated_atlases_only_where_their_cells_were_used(make_run):
    (only,) = notices(make_run(atlas="demo"))
    assert only.startswith("Simulated data: the cells of atlas 'demo'")
    record = make_run()
    searched = record.model_copy(update={"config": record.config.model_copy(update={"atlases": ("kang", "demo")})})
    assert notices(searched) == []


def test_notices_tell_that_a_run_did_not_end(make_run, subtests):
    for status, words in [("running", "is not finished"), ("cancelled", "was cancelled")]:
        with subtests.test(status=status):
            (only,) = notices(make_run(status=status))
            assert words in only
            assert "haystack resume run-20260102t030405-abcdef" in only


def test_answer_of_a_failed_run_is_its_failure(failed_run):
    made = repr(answer(failed_run))
    assert "failed at step 'retrieve': no atlas 'x'." in made
    assert "No interpretation is available yet." in made


def test_answer_puts_score_before_words_and_escapes_them(make_run, de, pathways):
    made = answer(make_run("<b>x</b>"), de=de, pathways=pathways)
    assert made.index("7.3 of at most 7.3") < made.index("Headline of &lt;b&gt;x&lt;/b&gt;") < made.index("A limit")
    assert "<b>" not in made


def test_a_score_is_shown_with_what_was_possible_and_never_rounded_beyond_it(subtests):
    for value, cap, text in [
        (8.5, 8.5, "8.5 of at most 8.5"),
        (7.49, 10.0, "7.5 of 10"),
        (1.0, 9.96, "1.0 of 10"),
        (1.0, 9.9, "1.0 of at most 9.9"),
    ]:
        with subtests.test(value=value, cap=cap):
            assert Composite(value=value, weight_computed=1.0, cap=cap).shown == text
