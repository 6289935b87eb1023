"""``engine=auto``: the engine that the back-test of the atlas favours for the evidence that the question has."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from haystack_kernel.atlas import calibrations
from haystack_kernel.backtest.calibrate import CalibrationPairs, calibrate
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config, changed_options
from haystack_kernel.manage import preview
from haystack_kernel.manage.changes import change_config
from haystack_kernel.manage.watching import Usual
from haystack_kernel.mcp.results import estimate
from haystack_kernel.rounds.engine import compare, decide, standard_error
from haystack_kernel.run import open_run
from haystack_kernel.schema import CalibrationPair, EngineFigure, RunRecord
from haystack_kernel.widgets.asking import cost_words

QUESTION = "How would B cells respond to IFN-beta?"
AT = datetime(2026, 1, 2, tzinfo=UTC)


def _figure(engine, z, *, n=30, error=0.05, backtest="b", **lead):
    return EngineFigure(engine=engine, n_pairs=n, z=z, error=error, backtest=backtest, **lead)


def _lead(lead, error, needed=1.0):
    return {"lead": lead, "lead_error": error, "needed": needed}


@pytest.mark.parametrize(
    ("figures", "engine", "says"),
    [
        ([], "weighted", "no back-test of atlas kang as it is now has pairs predicted from"),
        ([_figure("shift", 0.9)], "weighted", "has no 5 pairs of engine weighted"),
        ([_figure("weighted", 0.5, n=4), _figure("shift", 0.9)], "weighted", "has no 5 pairs of engine weighted"),
        ([_figure("weighted", 0.5, n=9), _figure("shift", 0.9)], "weighted", "no other engine was back-tested so"),
        # on the same pairs the differences decide, however far the pairs lie apart
        ([_figure("weighted", 0.5), _figure("shift", 0.51, **_lead(0.01, 0.002))], "shift", "(lead 0.010 on atanh(r)"),
        ([_figure("weighted", 0.5), _figure("shift", 0.6, **_lead(0.1, 0.12))], "weighted", "by more than a standard"),
        (
            [_figure("weighted", 0.5, n=6), _figure("shift", 0.6, n=6, **_lead(0.1, 0.09, 1.3))],
            "weighted",
            "by more than 1.3 standard errors, as so few pairs need",
        ),
        (  # the highest lead is no clear one, the second is
            [
                _figure("weighted", 0.5),
                _figure("shift", 0.7, **_lead(0.2, 0.3)),
                _figure("mine", 0.6, **_lead(0.1, 0.02)),
            ],
            "mine",
            "mine 0.54 (30 pairs) against weighted",
        ),
        ([_figure("weighted", 0.5)], "weighted", "no other engine was back-tested so"),
        (
            [_figure("weighted", 0.5), _figure("shift", 0.4)],
            "weighted",
            "weighted 0.46 (30 pairs), before shift 0.38",
        ),
        (
            [_figure("weighted", 0.5), _figure("shift", 0.54)],
            "weighted",
            "shift does not lead it by more than a",
        ),
        ([_figure("weighted", 0.5), _figure("shift", 0.56)], "shift", "lead 0.060 on atanh(r), standard error 0.050"),
        ([_figure("weighted", 0.5), _figure("shift", 0.9, n=9)], "weighted", "no other engine was back-tested so"),
        # pairs of another back-test are other pairs: the errors of both means count
        ([_figure("weighted", 0.5), _figure("shift", 0.56, backtest="c")], "weighted", "standard error 0.071"),
        (
            [_figure("weighted", 0.5), _figure("shift", 0.9), _figure("mine", 0.8)],
            "shift",
            "shift 0.72 (30 pairs)",
        ),
    ],
)
def test_the_default_is_left_only_for_an_engine_that_leads_it_by_a_standard_error(figures, engine, says):
    pick = decide(figures, default="weighted", atlas="kang", evidence="other_cell_type")
    assert (pick.engine, pick.default) == (engine, "weighted")
    assert says in pick.reason
    assert pick.words.startswith(f"engine auto took {engine}, ")


def _calibration(engine, rows, *, backtest="b"):
    """A calibration of pairs ``(evidence, treatment, part, z)``, as a back-test leaves it."""
    pairs = tuple(
        CalibrationPair(evidence=evidence, perturbation=name, part=part, r=math.tanh(z), features=())
        for evidence, name, part, z in rows
    )
    found = CalibrationPairs.of(pairs, names=())
    return calibrate(found, atlas="tiny", digest="d", engine=engine, backtest=backtest, made_at=AT)


def _compared(rows, leads, *, evidence="same_pair", default="weighted"):
    """Figures where engine ``shift`` is at the pairs of ``weighted`` plus ``leads``."""
    own = _calibration("weighted", rows)
    other = _calibration("shift", [(*row[:3], row[3] + lead) for row, lead in zip(rows, leads, strict=True)])
    figures = compare({"weighted": own, "shift": other}, default=default, evidence=evidence)
    return {one.engine: one for one in figures}, decide(figures, default=default, atlas="tiny", evidence=evidence)


def test_the_lead_is_the_mean_difference_on_the_same_pairs_with_the_error_of_treatments():
    """Recomputed by hand: three treatments of two pairs each, whose differences are alike within a treatment."""
    leads = [0.1, 0.1, 0.2, 0.2, 0.0, 0.0]
    rows = [("same_pair", f"t{number // 2}", f"type{number}", 0.2 * number) for number in range(6)]
    found, pick = _compared(rows, leads)
    assert found["shift"].lead == pytest.approx(0.1)
    # sums over each treatment of (difference - 0.1) are 0, .2 and -.2; 3/2 of their squares, over 6 pairs
    assert found["shift"].lead_error == pytest.approx(math.sqrt(1.5 * 0.08) / 6)
    assert found["shift"].needed == pytest.approx(1.3213, abs=1e-3)  # Student's t of two degrees of freedom
    assert pick.engine == "shift"  # .1 exceeds 1.32 times .058, though the pairs themselves lie from 0 to 1 apart
    assert math.isnan(found["weighted"].lead)


def test_of_one_treatment_donors_and_types_are_the_groups_and_all_evidence_counts_where_one_has_few():
    rows = [("same_pair", "ifn", f"donor{number}", 0.8) for number in range(4)]
    rows += [("other_cell_type", "ifn", f"type{number}", 0.9) for number in range(3)]
    leads = [-0.4, -0.5, -0.45, -0.4, -0.6, -0.5, -0.55]
    found, pick = _compared(rows, leads, evidence="other_cell_type", default="shift")
    assert {one.n_pairs for one in found.values()} == {7}
    assert pick.engine == "weighted"
    assert "over all pairs of the back-test of atlas tiny, which has too few predicted from the same" in pick.reason
    # two donors are no spread to speak of, whatever they say
    few = [("same_pair", "ifn", f"donor{number % 2}", 0.8) for number in range(6)]
    found, pick = _compared(few, [-0.4] * 6, default="shift")
    assert math.isnan(found["weighted"].lead)
    assert pick.engine == "shift"


def test_a_sealed_prediction_or_a_failed_pair_is_no_pair_of_two_engines():
    rows = [("same_pair", f"t{number}", "type", 0.5) for number in range(8)]
    own = _calibration("weighted", rows)
    other = _calibration("shift", [(*row[:3], 0.7) for row in rows[:5]])
    (figure,) = [
        one
        for one in compare({"weighted": own, "shift": other}, default="weighted", evidence="same_pair")
        if one.engine == "shift"
    ]
    assert figure.lead == pytest.approx(0.2)
    sealed = other.model_copy(
        update={"pairs": tuple(one.model_copy(update={"outcome": "o"}) for one in other.pairs[:1]) + other.pairs[1:]}
    )
    found = compare({"weighted": own, "shift": sealed}, default="weighted", evidence="same_pair")
    assert [math.isnan(one.lead) for one in found] == [True, True]  # four pairs are too few


@pytest.mark.parametrize("n", [8, 60])
def test_the_standard_error_is_that_of_the_mean(n):
    z = np.random.default_rng(n).normal(0.6, 0.3, n)
    names = np.array([f"t{number}" for number in range(n)])
    outcomes = CalibrationPairs(np.tanh(z), np.full(n, "same_pair"), names, names, np.zeros((n, 0)), ())
    made = calibrate(outcomes, atlas="tiny", digest="d", engine="shift", backtest="b", made_at=AT)
    expected = z.std(ddof=1) / math.sqrt(n)
    assert standard_error(made.strata[0]) == pytest.approx(expected, rel=1e-6 if n < 20 else 0.15)


@pytest.fixture
def calibrated(tiny_settings):
    """Calibrations of the tiny atlas in which shift is best on other cell types and mean on other donors."""
    stamp = calibrations.stamp_of("tiny", root=tiny_settings.atlas_root, cache=tiny_settings.cache)
    levels = {"weighted": (0.5, 0.5), "shift": (0.9, 0.4), "mean": (0.3, 0.8)}
    n, written = 12, []
    for engine, both in levels.items():
        z = np.concatenate([level + np.linspace(-0.2, 0.2, n) for level in both])
        evidence = np.repeat(["other_cell_type", "same_pair"], n)
        names = np.array([f"t{number}" for number in range(2 * n)])
        outcomes = CalibrationPairs(np.tanh(z), evidence, names, names, np.zeros((2 * n, 0)), ())
        made = calibrate(outcomes, atlas="tiny", digest=stamp, engine=engine, backtest="b", made_at=AT)
        written.append(calibrations.save(made, root=tiny_settings.atlas_root))
    yield
    for path in written:  # the atlas is shared by the session
        Path(path).unlink()


def test_auto_takes_the_best_engine_for_the_evidence_and_says_so_everywhere(tiny_settings, calibrated):
    seen = preview(QUESTION, settings=tiny_settings, engine="auto")
    record = seen.record
    nearest = record.engine_pick.evidence
    expected = {"other_cell_type": "shift", "same_pair": "mean"}[nearest]
    assert (record.config.engine, record.config.engine_default) == (expected, "weighted")
    assert record.engine_pick.engine == expected
    assert {one.engine: one.n_pairs for one in record.engine_pick.figures} == {"weighted": 12, "shift": 12, "mean": 12}
    words = record.engine_pick.words
    assert "(12 pairs)" in words
    assert any(words[1:] in text for text in cost_words(seen, Usual()))
    assert estimate(seen, Usual(), left_usd=1.0)["engine_chosen"] == words
    assert RunRecord.model_validate_json(record.model_dump_json()) == record


def test_without_a_back_test_auto_is_the_default_with_the_reason(tiny_settings):
    record = preview(QUESTION, settings=tiny_settings, engine="auto").record
    assert (record.config.engine, record.engine_pick.engine) == ("weighted", "weighted")
    assert (
        "no back-test of atlas tiny as it is now has pairs predicted from the same treatment"
        in record.engine_pick.words
    )
    assert preview(QUESTION, settings=tiny_settings).record.engine_pick is None  # the default is not auto


def test_a_run_of_auto_goes_on_as_what_it_was_asked_and_a_name_ends_auto(tiny_settings):
    asked = build_config(tiny_settings, engine="auto")
    taken = asked.model_copy(update={"engine": "shift"})
    assert changed_options(taken, tiny_settings, engine="auto") == ""
    assert "engine is 'shift', not 'mean'" in changed_options(taken, tiny_settings, engine="mean")
    assert change_config(taken, {"engine": "mean"}, settings=tiny_settings).engine_default is None
    for changes in ({"threshold": 9}, {"engine": "auto", "threshold": 9}):
        changed = change_config(taken, changes, settings=tiny_settings)
        assert (changed.engine, changed.engine_default) == ("shift", "weighted")
    by_settings = tiny_settings.model_copy(
        update={"inference": tiny_settings.inference.model_copy(update={"engine": "auto"})}
    )
    assert build_config(by_settings).engine_default == "weighted"


def test_a_run_keeps_what_auto_took_and_its_status_says_so(tiny_settings, calibrated):
    run = open_run(QUESTION, settings=tiny_settings, engine="auto").retrieve()
    record = connect(tiny_settings).store.load(run.run_id)
    assert record.config.engine == record.engine_pick.engine != record.config.engine_default
    assert run.status()["engine_chosen"] == record.engine_words
