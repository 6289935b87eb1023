"""Ctrl-C while DuckDB works: its query ends first, and what asked sees a request to stop."""

import os
import signal
import threading

import duckdb
import pytest

from haystack_kernel.atlas.shield import shielded

SLOW = "SELECT count(*) AS n FROM range(10000) a(i), range(12000) b(j) WHERE i * j % 7 = 3"
seen = []


@shielded
def query():
    with duckdb.connect(":memory:") as connection:
        seen.append(int(connection.execute(SLOW).df()["n"][0]))


def ask_and_stop():
    asked = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    asked.start()
    try:
        query()
    finally:
        asked.join()


def test_a_request_to_stop_within_a_query_stops_what_asked_when_the_query_has_ended():
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        ask_and_stop()
    assert len(seen) == 1


def test_answers_and_failures_come_through():
    assert shielded(lambda one, *, two: one + two)(1, two=2) == 3
    with duckdb.connect(":memory:") as connection, pytest.raises(duckdb.CatalogException):
        shielded(connection.execute)("SELECT * FROM nowhere")
