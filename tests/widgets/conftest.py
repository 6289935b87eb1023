"""Parts on the tiny atlas: the jobs are those of a test, and the ports of every call are the same."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.schema import JobStatus
from haystack_kernel.store import new_run_id
from haystack_kernel.widgets.asking import Ask

QUESTION = "How would B cells respond to IFN-beta?"


class Jobs:
    """Implements the Executor port without doing anything: a job is what ``status_now`` says."""

    name = "local"

    def __init__(self):
        self.status_now, self.submitted, self.consents = JobStatus(state="running"), [], []

    def of(self, consent):
        self.consents.append(consent)
        return self

    def submit(self, spec):
        self.submitted.append(spec)

    def status(self, job):
        return self.status_now

    tend = status

    def cancel(self, job):
        self.status_now = self.status_now.model_copy(update={"state": "cancelled"})
        return self.status_now


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_atlas_root):
    folder = tmp_path_factory.mktemp("widgets")
    batch = {"project": "p", "region": "us-central1", "orchestrator_image": "o", "inference_image": "i"}
    return load_settings(
        layer="test",
        storage=str(folder / "store"),
        atlas_root=str(tiny_atlas_root),
        knowledge=str(folder / "knowledge"),
        cache=str(folder / "cache"),
        atlases=["tiny"],
        inference={"n_prompt": 60, "n_query": 24, "engine": "weighted"},
        batch={**batch, "insecure": True},
    )


@pytest.fixture
def jobs():
    return Jobs()


@pytest.fixture
def open_ports(settings, jobs):
    def start(consent):
        ports = connect(settings, consent=consent)
        return replace(ports, executors={"local": jobs.of(consent), "batch": jobs})

    return start


@pytest.fixture
def ask(settings, open_ports):
    """Makes the form of a question, and does actions on it to their end."""

    def make(question=QUESTION, **options):
        return Ask(question, settings=settings, open_ports=open_ports, **options)

    return make


@pytest.fixture(scope="module")
def look_once(settings):
    """A question that was looked at, with its first answer."""
    asked = Ask(QUESTION, settings=settings)
    asked.act("look")
    asked.settle()
    return asked


@pytest.fixture
def looked(ask, look_once):
    """A form of its own for a test, as it is after a look."""
    made = ask()
    record = look_once.seen.record.model_copy(update={"run_id": new_run_id(datetime.now(UTC))})
    made.seen, made.quick, made.looked_at = replace(look_once.seen, record=record), look_once.quick, look_once.looked_at
    return made


@pytest.fixture
def do():
    """Does what a front end asks for, and waits until it is done."""

    def act(part, name, arg="", **values):
        part.act(name, arg, values)
        part.settle()
        return part

    return act
