"""Ctrl-C while DuckDB works: it says RuntimeError, and what asked must still see a request to stop."""

import os
import signal
import threading

import duckdb
import pytest

from haystack_kernel.atlas.interrupts import stoppable

ENDLESS = "SELECT count(*) FROM range(10000000) a(i), range(10000000) b(j) WHERE i * j % 7 = 3"


def ask_and_stop():
    asked = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        asked.start()
        with duckdb.connect(":memory:") as connection, stoppable():
            connection.execute(ENDLESS)
    finally:
        asked.join()


def test_a_request_to_stop_within_a_query_stops_what_asked():
    with pytest.raises(KeyboardInterrupt):
        ask_and_stop()


def test_another_failure_of_a_query_stays_what_it_is():
    with pytest.raises(RuntimeError, match="disk"), stoppable():
        raise RuntimeError("disk full")
    with duckdb.connect(":memory:") as connection, pytest.raises(duckdb.CatalogException), stoppable():
        connection.execute("SELECT * FROM nowhere")
