"""Progress as lines and as one display a cell: one line per change, times told, an honest end."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from types import SimpleNamespace

import pytest

from haystack_kernel.config.pace import paced
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.progress import CellDisplay, progress_line, stream_progress


def event(phase, message, **changes):
    return ProgressEvent(run_id="run-a", phase=phase, message=message, **changes)


def test_a_phase_says_nothing_twice_and_steps_of_no_time_end_in_silence():
    stream = io.StringIO()
    show = stream_progress(stream)
    for one in (
        event("choose", "choosing the prompt", round=1),
        event("choose", "done", round=1, elapsed_s=0.001),
        event("collect", "job queued", round=1),
        event("collect", "job running", round=1),
        event("literature", "asking"),
        event("collect", "job running", round=1, fraction=0.5),  # another phase spoke in between
        event("collect", "job queued", round=1),  # lost its machine
        event("collect", "job running", round=1),
        event("collect", "done", round=1, elapsed_s=2.0),
    ):
        show(one)
    assert stream.getvalue().splitlines() == [
        "[round 1] choose: choosing the prompt",
        "[round 1] collect: job queued",
        "[round 1] collect: job running",
        "literature: asking",
        "[round 1] collect: job queued",
        "[round 1] collect: job running",
        "[round 1] collect: done (2.0 s)",
    ]


def test_what_acts_on_a_terminal_is_shown_and_a_line_stays_one_line():
    line = progress_line(event("understand", "taken as \x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}B cell\r\nnext"))
    assert line == "understand: taken as \u27e8U+001B\u27e9[2J\u27e8U+202E\u27e9B cell next"


@pytest.fixture
def cell():
    """A display in a shell that counts cells, with a clock that the test sets; ``shown`` is its newest state."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    ends = []
    InteractiveShell.instance()
    shell = SimpleNamespace(execution_count=1, events=SimpleNamespace(register=lambda name, call: ends.append(call)))
    made = SimpleNamespace(time=datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC), shown={})
    display = CellDisplay(shell, now=lambda: made.time)

    def call(action, *arguments):
        with capture_output() as captured:
            action(*arguments)
        made.shown = captured.outputs[-1].data if captured.outputs else made.shown

    made.tell = lambda one: call(display, one)
    made.end = lambda result: call(ends[0], result)
    yield made
    InteractiveShell.clear_instance()


def test_display_tells_when_a_phase_began_how_long_it_took_and_what_is_left(cell):
    cell.tell(event("collect", "job running", round=1, fraction=0.0))
    cell.time += timedelta(seconds=30)
    cell.tell(event("collect", "job running", round=1, fraction=0.25))
    assert cell.shown["text/plain"] == (
        "12:00:00 [round 1] collect: job running, 25%, 30 s so far, about 1 min 30 s left"
    )
    assert "width:25%" in cell.shown["text/html"]
    cell.tell(event("collect", "done", round=1, elapsed_s=40.0, fraction=1.0))
    assert cell.shown["text/plain"] == "12:00:00 [round 1] collect: done (40.0 s)"
    assert "width:" not in cell.shown["text/html"].partition("<li>")[2]


def test_a_cell_that_ends_early_says_so_in_what_is_saved(cell):
    cell.tell(event("ground", "scoring <against> known biology", round=1))
    cell.time += timedelta(seconds=5)
    cell.end(SimpleNamespace(error_in_exec=KeyboardInterrupt()))
    line = "12:00:00 [round 1] ground: scoring <against> known biology, stopped by KeyboardInterrupt after 5 s"
    assert cell.shown["text/plain"] == line
    assert "&lt;against&gt;" in cell.shown["text/html"]
    assert 'class="bar"' not in cell.shown["text/html"]


def test_a_step_without_a_share_says_what_earlier_runs_took_and_the_display_its_age(cell):
    cell.tell(event("ground", "scoring", round=1, usual_s=65.4))
    assert cell.shown["text/plain"] == "12:00:00 [round 1] ground: scoring, about 1 min 5 s by earlier runs"
    age = 'Drawn at 12:00:00. haystack.attach("run-a") shows the run as it is.'
    assert age in cell.shown["text/html"]
    cell.tell(event("ground", "done", round=1, elapsed_s=3.0))
    assert "haystack-age" not in cell.shown["text/html"]


@pytest.mark.slow
def test_steps_are_told_the_median_of_finished_runs_like_theirs(finished):
    ports, record = finished
    heard = []
    tell = paced(heard.append, ports.store)
    tell(event("ground", "scoring"))  # of no run of this storage
    tell(replace(event("ground", "scoring"), run_id=record.run_id))
    taken = [one.seconds for one in record.steps if one.step.startswith("ground")]
    assert [one.usual_s for one in heard] == [0.0, pytest.approx(median(taken))]
