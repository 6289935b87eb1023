"""What a terminal and a log show while a campaign works."""

import io

from haystack_kernel.batches.live import watch_steps
from haystack_kernel.ports import ProgressEvent
from tests.conftest import FakeClock


def event(phase, message, fraction=None):
    return ProgressEvent(run_id="backtest-0123456789ab", phase=phase, message=message, fraction=fraction)


def test_a_terminal_has_one_line_a_step_that_changes_and_says_what_is_left():
    stream, clock = io.StringIO(), FakeClock()
    stream.isatty = lambda: True
    hear = watch_steps(stream, clock=clock)
    hear(event("plan", "4 pairs are hidden"))
    hear(event("prepare", "4 of 4 to do"))
    for n in range(1, 4):
        clock.sleep(10)
        hear(event("prepare", f"pair {n}", n / 4))
        hear(event("prepare", f"pair {n} again", n / 4))  # at once after the other: not shown
    hear(event("prepare", "done", 1.0))
    plan, told, *rest, end = [line.rstrip() for line in stream.getvalue().split("\r")[1:]]
    assert (plan, told) == ("plan: 4 pairs are hidden", "prepare: 4 of 4 to do")
    assert rest == [
        " 25% prepare: pair 1, about 30 s left",
        " 50% prepare: pair 2, about 20 s left",
        " 75% prepare: pair 3, about 10 s left",
    ]
    assert end == "prepare: done in 30 s"
    assert stream.getvalue().count("\n") == 3


def test_a_log_gets_one_line_for_each_tenth_of_a_step():
    stream = io.StringIO()
    hear = watch_steps(stream, clock=FakeClock())
    for n in range(1, 151):
        hear(event("judge", f"pair {n}", n / 150))
    assert stream.getvalue().splitlines()[0] == "judge: pair 1"
    assert len(stream.getvalue().splitlines()) == 11
