from __future__ import annotations

import threading

import pytest

from inference.ahead import Ahead
from inference.errors import InputError

PATIENCE_S = 600


def test_next_item_is_prepared_in_a_thread_while_this_one_is_worked_on():
    made, threads = threading.Event(), []

    def prepare(item):
        threads.append(threading.current_thread())
        made.set()
        return f"<{item}>"

    ahead = Ahead(prepare)
    ahead.begin("b")
    assert made.wait(PATIENCE_S)  # without anybody asking for it
    assert ahead.take("b") == "<b>"
    assert ahead.take("c") == "<c>"
    assert threads[0].daemon
    assert threads == [threads[0], threading.main_thread()]


def test_no_more_than_one_item_is_begun():
    ahead = Ahead(str)
    ahead.begin("b")
    with pytest.raises(RuntimeError, match="take it first"):
        ahead.begin("c")


def test_fault_of_the_thread_is_raised_where_the_item_is_taken_and_only_there():
    def prepare(item):
        if item == "bad":
            msg = "bad.h5ad: no such file"
            raise InputError(msg)
        return item

    ahead = Ahead(prepare)
    ahead.begin("bad")
    with pytest.raises(InputError, match="bad"):
        ahead.take("bad")
    ahead.begin("good")
    assert ahead.take("good") == "good"
