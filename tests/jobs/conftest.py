"""A Batch service of this machine and executors that speak to it; no real time passes."""

import importlib.util
import sys
from pathlib import Path

import pytest

from haystack_kernel.config.settings import load_settings
from haystack_kernel.jobs import BatchExecutor, build_job_spec, wait
from haystack_kernel.ports import Consent
from inference.manifest import Manifest, Task, dump_manifest

RUN_ID = "run-20260102t030405-abcdef"
APPROVED = Consent(approve=True)


def load_server_module():
    """The module of the local service."""
    name = "batch_server_module"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "servers" / "batch.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def served():
    """The server's module: plans, wordings of events."""
    return load_server_module()


@pytest.fixture
def cloud(served, tmp_path, monkeypatch):
    """A running service whose containers do the light inference; see tests/servers/batch.py."""
    monkeypatch.setenv("LIGHT_LOG", str(tmp_path / "computed.txt"))
    with served.batch_server() as server:
        yield server


@pytest.fixture
def batch_settings(cloud, tmp_path):
    """Settings for the service: ``batch_settings(spot=True)``."""

    def make(cost=None, **batch):
        given = {
            "project": "lab",
            "region": "us-central1",
            "inference_image": "registry/haystack-inference:1",
            "orchestrator_image": "registry/haystack-orchestrator:1",
            "endpoint": cloud.address,
            "insecure": True,
        }
        return load_settings(
            layer="test",
            storage=str(tmp_path / "store"),
            batch={**given, **batch},
            cost=cost or {},
            knowledge=str(tmp_path),
        )

    return make


@pytest.fixture
def make_spec(tmp_path):
    """A job with so many tasks, its manifest in the run folder: ``make_spec(5)``."""

    def make(n_tasks=3):
        folder = tmp_path / "store" / "runs" / RUN_ID / "rounds" / "1"
        folder.mkdir(parents=True, exist_ok=True)
        tasks = tuple(
            Task(
                id=f"task{number}",
                prompt="p.h5ad",
                query="q.h5ad",
                output=f"{folder}/outputs/task{number}.h5ad",
                seed=0,
                engine="shift",
            )
            for number in range(n_tasks)
        )
        manifest = Manifest(tasks=tasks)
        (folder / "manifest.json").write_text(dump_manifest(manifest))
        spec = build_job_spec(
            manifest, run_id=RUN_ID, round_number=1, manifest_uri=f"{folder}/manifest.json", timeout_s=1800
        )
        return spec.model_copy(update={"needs_gpu": True})

    return make


@pytest.fixture
def start(batch_settings, clock):
    """An executor as a new process would have it, with consent: ``start(spot=True)``."""

    def make(consent=APPROVED, **batch):
        return BatchExecutor(batch_settings(**batch), clock=clock, consent=consent)

    return make


@pytest.fixture
def finish(clock):
    """Wait for a job as a run does."""

    def make(executor, job, **limits):
        given = {"timeout_s": 3600, "poll_s": 10, "queue_timeout_s": 7200, **limits}
        return wait(job, executor=executor, clock=clock, **given)

    return make


@pytest.fixture
def computed(tmp_path):
    """Ids of the tasks that were computed so far, in order, each as often as it was paid for."""

    def read():
        path = tmp_path / "computed.txt"
        return path.read_text().split() if path.exists() else []

    return read
