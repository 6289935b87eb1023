from __future__ import annotations

import threading

import pytest

from inference.behind import Behind

PATIENCE_S = 600


def test_an_item_is_finished_in_a_thread_while_the_next_one_is_computed():
    computed, done, at_once = threading.Event(), [], threading.Semaphore(1)

    def finish(item):
        assert at_once.acquire(blocking=False)  # one at a time
        assert computed.wait(PATIENCE_S)  # not before the main thread has gone on
        done.append((item, threading.current_thread()))
        at_once.release()

    with Behind(finish) as behind:
        behind.put("a")
        assert not done
        computed.set()
        behind.put("b")
        assert done[0][0] == "a"
    assert [item for item, _ in done] == ["a", "b"]
    assert all(thread.daemon and thread is not threading.main_thread() for _, thread in done)


@pytest.mark.parametrize("n_items", [1, 2])
def test_an_error_is_raised_where_the_next_item_is_put_or_the_block_ends(n_items):
    done = []

    def finish(item):
        done.append(item)
        raise OSError(f"no space for {item}")

    def run():
        with Behind(finish) as behind:
            for item in range(n_items):
                behind.put(item)

    with pytest.raises(OSError, match="no space for 0"):
        run()
    assert done == [0]


def test_an_error_of_the_block_waits_for_the_item_in_work_and_stays_the_error():
    going, done = threading.Event(), []

    def finish(item):
        assert going.wait(PATIENCE_S)
        done.append(item)
        raise OSError("of the item")

    def compute(behind):
        behind.put("a")
        going.set()
        raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"), Behind(finish) as behind:
        compute(behind)
    assert done == ["a"]
