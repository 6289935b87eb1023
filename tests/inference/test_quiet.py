from __future__ import annotations

import threading
import warnings

import pytest

from inference.quiet import no_warnings


def test_warnings_are_silent_inside_and_the_filters_are_put_back_when_two_threads_ask():
    """One thread enters while the other is inside; unguarded, the last one out would put back the first one's."""
    before = list(warnings.filters)
    entered, waiting = threading.Event(), threading.Event()

    def other():
        waiting.set()
        with no_warnings():
            entered.set()

    with no_warnings():
        thread = threading.Thread(target=other)
        thread.start()
        waiting.wait(600)
        assert not entered.wait(0.05)
        warnings.warn("unheard", UserWarning, stacklevel=1)
    thread.join(600)
    assert entered.is_set()
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
