"""Engines of other packages on a Batch service: an image with the example, one that lacks it, one that is a program."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace

import anndata as ad
import pytest

from haystack_kernel import flow
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import JobFailedError
from haystack_kernel.jobs import TREATED, BatchExecutor
from haystack_kernel.ports import Consent
from haystack_kernel.rounds.score import model_of
from haystack_kernel.schema import RunRecord
from haystack_kernel.store import layout, new_run_id
from tests.packages import EXAMPLE
from tests.test_batch_run import served

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"
INFERENCE, WITH_EXAMPLE, PROGRAM = "registry/inference:1", "registry/with-example:1", "registry/program:1"


@pytest.fixture
def site(tmp_path):
    """What pip puts into an image: the worked example. It is not installed here."""
    folder = tmp_path / "site"
    info = folder / "example_engine-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(EXAMPLE / "nearest_type.py", folder)
    (info / "entry_points.txt").write_text("[haystack.engines]\nnearest_type = nearest_type:NearestType\n")
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: example-engine\nVersion: 1.0\n")
    return folder


@pytest.fixture
def cloud(site):
    """A service whose containers are what their image is."""

    def start(container, _variables):
        python, words = [sys.executable], list(container.commands)
        if container.image_uri == PROGRAM:
            return [*python, str(EXAMPLE / "program.py"), *words]
        path = os.pathsep.join([*([str(site)] if container.image_uri == WITH_EXAMPLE else []), str(served.ROOT)])
        return ["env", f"PYTHONPATH={path}", *python, "-m", "inference.run_inference", *words]

    with served.batch_server(start, patience_s=300) as server:
        yield server


@pytest.fixture
def ask(ports, cloud, clock):
    """Work a run of one round with an engine in an image: ``ask("nearest_type", image=…, until="collect")``."""

    def work(engine, *, image, until, gpu_engines=(), n_resamples=1):
        section = type(ports.settings.batch)(
            project="lab",
            region="us-central1",
            inference_image=INFERENCE,
            engine_images={engine: image},
            gpu_engines=gpu_engines,
            endpoint=cloud.address,
            insecure=True,
        )
        quick = ports.settings.grounding.model_copy(update={"n_resamples": n_resamples})
        settings = ports.settings.model_copy(update={"batch": section, "grounding": quick})
        consent = Consent(approve=True)
        executor = BatchExecutor(settings, clock=ports.clock, consent=consent)
        there = replace(ports, settings=settings, executors={"batch": executor}, consent=consent)
        config = build_config(settings, executor="batch", engine=engine, max_rounds=1)
        record = RunRecord(run_id=new_run_id(clock.now()), question=QUESTION, config=config, created_at=clock.now())
        return flow.work(there.store.create(record), there, until=until), there

    return work


def test_the_worked_example_predicts_in_the_image_that_has_it(ask, cloud):
    record, ports = ask("nearest_type", image=WITH_EXAMPLE, until="ground", n_resamples=0)
    (held,), (only,) = cloud.jobs.values(), record.rounds
    container = held.job.task_groups[0].task_spec.runnables[0].container
    assert container.image_uri == WITH_EXAMPLE
    assert list(container.commands) == ["--manifest", only.spec.placed_in(ports.store.uri(record.run_id)).manifest_uri]
    assert only.spec.engines == ("nearest_type",)
    folder = ports.store.uri(record.run_id)
    made = model_of(ad.read_h5ad(f"{folder}/{layout.output_file(layout.round_folder(1), TREATED)}"))
    assert (made.name, made.licence) == ("example-engine 1.0", "Apache-2.0")
    assert made.citation == "Example engine of HAYSTACK's documentation, version 1.0"
    assert "none measured yet of nearest_type" in only.estimate.basis


def test_an_image_that_lacks_the_engine_ends_its_job_with_what_to_do(ask, cloud):
    with pytest.raises(JobFailedError) as caught:
        ask("nearest_type", image=INFERENCE, until="ground")
    said = f"{caught.value} {json.dumps(caught.value.facts, default=str)}"
    assert "engine 'nearest_type' is unknown; possible: none, mean" in said
    assert "in the image that batch.engine_images names for it" in said
    assert len(cloud.started) == 1  # another attempt would lack it, too


def test_a_program_that_is_no_package_reads_the_manifest_and_its_run_is_scored(ask, cloud):
    record, _ = ask("half_shift", image=PROGRAM, until="publish", gpu_engines=("half_shift",))
    (held,) = cloud.jobs.values()
    (instance,) = held.job.allocation_policy.instances
    assert instance.policy.machine_type == "a2-highgpu-1g"  # as asked for by gpu_engines
    assert instance.install_gpu_drivers
    (only,) = record.rounds
    assert {"treated", "control", "treated-resample-1", "baseline-weighted"} <= set(only.task_seconds)
    assert 1 <= only.composite.value <= 10
    assert only.n_de > 0
