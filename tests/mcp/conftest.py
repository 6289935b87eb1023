"""Tools on the tiny atlas, and a client of the SDK in this process whose person answers as a test says."""

from dataclasses import replace

import anyio
import pytest

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.schema import JobStatus

pytest.importorskip("mcp")

QUESTION = "How would B cells respond to IFN-beta?"


class Jobs:
    """Implements the Executor port without doing anything, and keeps what was to be started and with what consent."""

    def __init__(self):
        self.status_now, self.submitted, self.consents = JobStatus(state="running"), [], []

    def of(self, consent):
        self.consents.append(consent)
        return self

    def submit(self, spec):
        self.submitted.append(spec)

    def status(self, job):
        return self.status_now

    tend = cancel = status


@pytest.fixture
def jobs():
    return Jobs()


@pytest.fixture
def settings(tmp_path, tiny_atlas_root):
    batch = {"project": "p", "region": "us-central1", "orchestrator_image": "o", "inference_image": "i"}
    return load_settings(
        layer="test",
        storage=str(tmp_path / "store"),
        atlas_root=str(tiny_atlas_root),
        knowledge=str(tmp_path / "knowledge"),
        cache=str(tmp_path / "cache"),
        atlases=["tiny"],
        inference={"n_prompt": 60, "n_query": 24, "engine": "weighted"},
        batch={**batch, "insecure": True},
    )


@pytest.fixture
def bench_of(jobs):
    """Make the bench of some settings, whose jobs are those of the test."""
    from haystack_kernel.mcp.bench import Bench

    def make(settings):
        def start(consent):
            return replace(connect(settings, consent=consent), executors={"local": jobs.of(consent), "batch": jobs})

        return Bench(settings, open_ports=start)

    return make


@pytest.fixture
def bench(bench_of, settings):
    return bench_of(settings)


class Person:
    """Answers what a client shows: with a form that is filled in, or with "decline" or "cancel"."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def __call__(self, context, params):
        from mcp_types import ElicitResult

        self.asked.append(params)
        if isinstance(self.answer, str):
            return ElicitResult(action=self.answer)
        return ElicitResult(action="accept", content=self.answer)


def call(bench, name, arguments=None, *, person=None, mode="auto"):
    """Call a tool as a client does: its value, or the message of its error."""
    from mcp import Client

    from haystack_kernel.mcp.server import build_server

    async def work():
        async with Client(build_server(bench), mode=mode, elicitation_callback=person) as client:
            return await client.call_tool(name, arguments or {})

    return value_of(anyio.run(work))


def value_of(found):
    """The value of a result, or the message of its error."""
    if found.is_error:
        return found.content[0].text
    return found.structured_content
