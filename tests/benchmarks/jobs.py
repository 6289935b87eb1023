"""Rows jobs.*: what a run on Google Cloud Batch costs, and how far an array spreads; a local service stands in for it.

In: a folder. Out: rows. Jobs are counted by the service, dollars come from the packaged list prices and the typical
times of the estimate (nothing is bought here), and the array's tasks only wait, so that eight workers fit any machine.
"""

import os
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))
import batch as served

from haystack_kernel.config.settings import load_settings
from haystack_kernel.jobs import (
    BatchExecutor,
    build_job_spec,
    build_manifest,
    estimate_cost,
    wait,
)
from haystack_kernel.schema import RunConfig
from inference.manifest import DEMO_MODEL, Manifest, Task, dump_manifest

N_CANDIDATES, N_ROUNDS = 4, 5
N_DRUGS, N_WORKERS = 147, 8
RUN_ID = "run-20260102t030405-abcdef"


class FastClock:
    """Sleeping takes no time: only the work is measured."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


def run_job(manifest, folder, *, round_number, server, **batch):
    """One job to its end; returns its spec and the wall seconds it took."""
    inside = folder / "store" / "runs" / RUN_ID / "rounds" / str(round_number)
    inside.mkdir(parents=True, exist_ok=True)
    (inside / "manifest.json").write_text(dump_manifest(manifest), encoding="utf-8")
    uri = f"{inside}/manifest.json"
    spec = build_job_spec(manifest, run_id=RUN_ID, round_number=round_number, manifest_uri=uri, timeout_s=1800)
    given = {"project": "p", "region": "us-central1", "inference_image": "i", "endpoint": server.address}
    settings = load_settings("default", storage=str(folder / "store"), batch={**given, "insecure": True, **batch})
    clock = FastClock()
    executor = BatchExecutor(settings, clock=clock)
    start = time.perf_counter()
    wait(executor.submit(spec), executor=executor, clock=clock, timeout_s=3600, poll_s=10, queue_timeout_s=7200)
    return spec, time.perf_counter() - start


def cost(folder):
    """Jobs and dollars of a five-round run: candidates pooled into one job a round, against two jobs a candidate."""
    os.environ["LIGHT_LOG"] = str(folder / "cost.txt")
    config = RunConfig(engine="stack", model=DEMO_MODEL)
    settings = load_settings("default").batch
    with served.batch_server() as server:
        ours = 0.0
        for number in range(1, N_ROUNDS + 1):
            manifest = build_manifest(
                str(folder / "cost" / str(number)), config=config, strategy="synthetic_control", has_control=True
            )
            spec, _ = run_job(manifest, folder / "cost", round_number=number, server=server)
            ours += estimate_cost(spec, settings).likely_usd
        n_ours, n_loads = len(server.started), sum(len(held.processes) for held in server.jobs.values())
    one = spec.model_copy(update={"n_tasks": 1})
    n_design = 2 * N_CANDIDATES * N_ROUNDS
    design = n_design * estimate_cost(one, settings).likely_usd
    return {
        "work": f"{N_ROUNDS} rounds, synthetic control, {N_CANDIDATES} candidates; {spec.n_tasks} tasks a job; dollars "
        f"from list prices and typical times",
        "ours": {"jobs_a_round": n_ours / N_ROUNDS, "loads_a_round": n_loads / N_ROUNDS, "usd": ours},
        "reference": {"jobs_a_round": n_design / N_ROUNDS, "usd": design},
        "ratio": design / ours,
        "goal": "1 job, 1 load a round; <= 1/4 of the cost",
        "met": n_ours == n_loads == N_ROUNDS and ours <= design / 4,
    }


def array(folder, *, full):
    """A screen's tasks over eight workers, against one after the other; both through the service."""
    os.environ["LIGHT_LOG"] = str(folder / "array.txt")
    os.environ["LIGHT_TASK_S"] = "1.0" if full else "0.25"

    def tasks(name):
        return tuple(
            Task(
                id=f"{drug}-{arm}",
                prompt="p",
                query="q",
                output=f"{folder}/{name}/{drug}-{arm}.h5ad",
                seed=0,
                engine="shift",
            )
            for drug in range(N_DRUGS)
            for arm in ("treated", "control")
        )

    manifest = Manifest(tasks=tasks("spread"))
    with served.batch_server() as server:
        spread = run_job(manifest, folder / "spread", round_number=1, server=server, max_shards=N_WORKERS)[1]
        alone = replace(manifest, tasks=tasks("alone"))
        single = run_job(alone, folder / "alone", round_number=2, server=server, max_shards=1)[1]
        shards = [held.job.task_groups[0].task_count for held in server.jobs.values()]
    n_done = len((folder / "array.txt").read_text(encoding="utf-8").split())
    del os.environ["LIGHT_TASK_S"]
    return {
        "work": f"{N_DRUGS} x 2 tasks that wait, {N_WORKERS} workers as processes of this machine",
        "ours": {"wall_s": spread, "shards": shards[0]},
        "reference": {"one_after_the_other_s": single},
        "ratio": single / spread,
        "goal": ">= 7x",
        "met": single >= 7 * spread and n_done == 2 * 2 * N_DRUGS,
    }


def rows(*, full):
    """Rows by id."""
    return {"jobs.cost": cost, "jobs.array": partial(array, full=full)}
