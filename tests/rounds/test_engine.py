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
from haystack_kernel.rounds.engine import decide, standard_error
from haystack_kernel.run import open_run
from haystack_kernel.schema import EngineFigure, RunRecord
from haystack_kernel.widgets.asking import cost_words

QUESTION = "How would B cells respond to IFN-beta?"
AT = datetime(2026, 1, 2, tzinfo=UTC)


def _figure(engine, z, *, n=30, error=0.05, backtest="b"):
    return EngineFigure(engine=engine, n_pairs=n, z=z, error=error, backtest=backtest)


@pytest.mark.parametrize(
    ("figures", "engine", "says"),
    [
        ([], "weighted", "no back-test of atlas kang as it is now has pairs predicted from"),
        ([_figure("shift", 0.9)], "weighted", "has no 10 pairs of engine weighted"),
        ([_figure("weighted", 0.5, n=9), _figure("shift", 0.9)], "weighted", "has no 10 pairs of engine weighted"),
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
