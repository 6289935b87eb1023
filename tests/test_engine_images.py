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
def there(ports, cloud):
    """Ports whose jobs run in the image of an engine: ``there("nearest_type", image=…)``."""

    def make(engine, *, image, gpu_engines=(), n_resamples=0):
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
        return replace(ports, settings=settings, executors={"batch": executor}, consent=consent)

    return make


def ask(engine, ports):
    """A saved record of one round that has no step yet."""
    options = {"max_rounds": 1, "control_strategy": "query_as_control"}
    config = build_config(ports.settings, executor="batch", engine=engine, **options)
    now = ports.clock.now()
    return ports.store.create(RunRecord(run_id=new_run_id(now), question=QUESTION, config=config, created_at=now))


def test_an_image_that_lacks_the_engine_says_what_to_do_and_the_run_goes_on_in_one_that_has_it(there, cloud):
    lacking = there("nearest_type", image=INFERENCE)
    record = ask("nearest_type", lacking)
    with pytest.raises(JobFailedError) as caught:
        flow.work(record, lacking, until="ground")
    said = f"{caught.value} {json.dumps(caught.value.facts, default=str)}"
    assert "engine 'nearest_type' is unknown; possible: none, mean" in said
    assert "in the image that batch.engine_images names for it" in said
    assert len(cloud.started) == 1  # another attempt would lack it, too
    ports = there("nearest_type", image=WITH_EXAMPLE)
    record = flow.work(flow.revive(ports.store.load(record.run_id), ports), ports, until="ground")
    (_, held), (only,) = cloud.jobs.values(), record.rounds
    container = held.job.task_groups[0].task_spec.runnables[0].container
    folder = ports.store.uri(record.run_id)
    assert container.image_uri == WITH_EXAMPLE
    assert list(container.commands) == ["--manifest", only.spec.placed_in(folder).manifest_uri]
    assert only.spec.engines == ("nearest_type",)
    made = model_of(ad.read_h5ad(f"{folder}/{layout.output_file(layout.round_folder(1), TREATED)}"))
    assert (made.name, made.licence) == ("example-engine 1.0", "Apache-2.0")
    assert made.citation == "Example engine of HAYSTACK's documentation, version 1.0"
    assert "none measured yet of nearest_type" in only.estimate.basis


def test_a_program_that_is_no_package_reads_the_manifest_and_its_run_is_scored(there, cloud):
    ports = there("half_shift", image=PROGRAM, gpu_engines=("half_shift",), n_resamples=1)
    record = flow.work(ask("half_shift", ports), ports, until="interpret")
    (held,), (only,) = cloud.jobs.values(), record.rounds
    (instance,) = held.job.allocation_policy.instances
    assert instance.policy.machine_type == "a2-highgpu-1g"  # as asked for by gpu_engines
    assert instance.install_gpu_drivers
    assert {"treated", "treated-resample-1", "baseline-weighted"} <= set(only.task_seconds)
    assert 1 <= only.composite.value <= 10
    assert only.n_de > 0
