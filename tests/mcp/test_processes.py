"""`haystack mcp` as clients use it, over stdio and over HTTP: processes of their own, and a run that outlives them."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import anyio
import httpx
import pytest

from tests.mcp.conftest import QUESTION, Person, value_of

pytestmark = pytest.mark.slow

PATIENCE_S = 300  # ends hangs
COMMAND = [sys.executable, "-m", "haystack_kernel", "mcp"]


async def over_stdio(work, *, person, options=()):
    """What ``work`` makes of a client that starts the server itself."""
    from mcp import Client, StdioServerParameters

    server = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], *options], env=dict(os.environ))
    with anyio.fail_after(PATIENCE_S):
        async with Client(server, elicitation_callback=person) as client:
            return await work(client)


async def over_http(address, headers, work, *, person=None, mode="auto"):
    """What ``work`` makes of a client of a server that runs."""
    from httpx2 import AsyncClient
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    with anyio.fail_after(PATIENCE_S):
        async with (
            AsyncClient(headers=headers, timeout=PATIENCE_S) as sender,
            Client(
                streamable_http_client(address, http_client=sender), elicitation_callback=person, mode=mode
            ) as client,
        ):
            return await work(client)


@contextmanager
def http_server(log):
    """`haystack mcp --http` on a free port: its address and the headers that its configuration names."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*COMMAND, "--http", "--port", "0"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            entry = json.loads(process.stdout.readline())["mcpServers"]["haystack"]
            yield entry["url"], entry["headers"]
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


def test_a_client_drives_a_whole_run_which_outlives_the_server_that_started_it(few_cells, tmp_path):
    asked = {"question": QUESTION, "options": {"threshold": 1, "max_rounds": 1}}
    seen = {}

    async def ask_and_start(client):
        seen["look"] = value_of(await client.call_tool("ask", {**asked, "n_candidates": 1}))
        unsure.answer = "decline"
        seen["declined"] = value_of(await client.call_tool("start", asked))
        seen["runs"] = value_of(await client.call_tool("list_runs", {}))
        unsure.answer = {"approve": True}
        return value_of(await client.call_tool("start", asked))

    unsure = Person("decline")
    started = anyio.run(lambda: over_stdio(ask_and_start, person=unsure))
    assert seen["look"]["candidates"]
    assert (seen["declined"]["started"], seen["runs"]["n_runs"], len(unsure.asked)) == (False, 0, 2)
    assert started["started"] is True

    async def follow_and_read(client):
        state = {"is_over": False}
        while not state["is_over"]:
            state = value_of(await client.call_tool("status", {"run_id": started["run_id"], "wait_s": 20}))
        names = {"run_id": started["run_id"]}
        found = [value_of(await client.call_tool(name, names)) for name in ("result", "explain_score")]
        return state, *found

    async def start_another(client):
        return value_of(await client.call_tool("start", {**asked, "options": {"seed": 5}}))

    with http_server(tmp_path / "errors.txt") as (address, headers):
        for status, given in refused(address, headers):
            assert httpx.post(address, json={}, headers=given, timeout=PATIENCE_S).status_code == status, given
        state, result, score = anyio.run(lambda: over_http(address, headers, follow_and_read))
        cannot = anyio.run(lambda: over_http(address, headers, start_another))
        wary = Person("decline")
        for mode in ("auto", "legacy"):  # a client that asks between two requests, and one that asks within one
            found = anyio.run(lambda: over_http(address, headers, start_another, person=wary, mode=mode))  # noqa: B023
            assert (found["started"], found["why"]) == (False, "the person did not approve it")
    assert state["status"] == "done"
    assert result["run_id"] == started["run_id"]
    assert result["limits"]
    assert score["components"]
    assert (cannot["started"], "cannot ask" in cannot["why"]) == (False, True)
    assert len(wary.asked) == 2
    token = headers["Authorization"].removeprefix("Bearer ")
    told = json.dumps([seen, state, result, score, cannot]) + (tmp_path / "errors.txt").read_text()
    assert token not in told


def refused(address, headers):
    """Requests that nobody may send: the status they get, and their headers."""
    return [
        (401, {}),
        (401, {"Authorization": "Bearer wrong"}),
        (401, {"Authorization": headers["Authorization"].lower()}),
        (403, {**headers, "Origin": "https://example.org", "Content-Type": "application/json"}),
        (421, {**headers, "Host": "example.org", "Content-Type": "application/json"}),
    ]
