"""200 readers and 20 submitters a minute on the loopback, over a storage of 10,000 runs.

    python tests/benchmarks/service_load.py [--seconds 60] [--readers 200] [--runs 10000]

The service is `uvicorn` in a process of its own; its jobs are handed over to an executor that starts nothing, so that
what is measured is the service. Prints answers by status and the median, p99 and longest time of each kind of request.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

TOKEN = "t" * 40
QUESTION = "How would B cells respond to IFN-beta?"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


def fill(storage, n_runs):
    """Write ``n_runs`` finished runs as records and summaries."""
    from haystack_kernel.schema import Access, RunConfig, RunRecord, RunSummary

    folder = Path(storage) / "runs"
    for number in range(n_runs):
        begun = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
        run_id = f"run-{begun:%Y%m%dt%H%M%S}-{number:06x}"
        record = RunRecord(
            run_id=run_id,
            question=f"{QUESTION} ({number})",
            config=RunConfig(),
            created_at=begun,
            status="done",
            serial=1,
        )
        access = Access(owner="local", submitted_at=begun, serial=1)
        data = record.model_dump_json()
        files = {"record/0001.json": data, "run.json": data, "access.json": access.model_dump_json()}
        files["summary.json"] = RunSummary.of(record).model_dump_json()
        for path, text in files.items():
            target = folder / run_id / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


class Nothing:
    """Implements the Executor port: every job runs for ever and does nothing."""

    name = "local"

    def submit(self, spec):
        pass

    def status(self, job):
        from haystack_kernel.schema import JobStatus

        return JobStatus(state="running", log_tail="working")

    tend = cancel = status


def serve(storage):
    """Run the service; its first line of output is its address."""
    from haystack_kernel.config.connect import connect
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.service.app import build
    from haystack_kernel.service.identity import TokenIdentity
    from haystack_kernel.service.serve import listen, server_of

    limits = {
        "runs_at_once": 1000,
        "local_runs_at_once": 1000,
        "requests_per_minute": 1_000_000,
        "submits_per_minute": 100,
    }
    settings = load_settings(layer="test", storage=storage, service=limits)

    def open_ports(consent):
        ports = connect(settings, consent=consent)
        return replace(ports, executors={**ports.executors, "local": Nothing()})

    app = build(settings, identity=TokenIdentity(TOKEN), open_ports=open_ports)
    app.state.desk.runs.catalogue.page()
    listener = listen("127.0.0.1", 0)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server_of(app).run(sockets=[listener])


async def load(address, *, seconds, n_readers):
    """Readers look at lists, runs and pages, each about every five seconds; a submitter asks every three seconds."""
    times, statuses = defaultdict(list), Counter()
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=address, headers=HEADERS, timeout=30, limits=limits) as client:
        ids = [row["run_id"] for row in (await client.get("/api/v1/runs", params={"limit": 200})).json()["runs"]]

        async def ask(kind, method, path, **more):
            began = time.monotonic()
            try:
                status = (await client.request(method, path, **more)).status_code
            except httpx.HTTPError as error:
                status = type(error).__name__
            times[kind].append(time.monotonic() - began)
            statuses[kind, status] += 1

        async def reader():
            await asyncio.sleep(random.uniform(0, 5))
            while time.monotonic() < end:
                run_id = random.choice(ids)
                kind, path = random.choice(
                    [
                        ("list", "/api/v1/runs"),
                        ("search", f"/api/v1/runs?text=({random.randrange(9999)})"),
                        ("run", f"/api/v1/runs/{run_id}"),
                        ("page of runs", "/runs"),
                        ("page of a run", f"/runs/{run_id}"),
                    ]
                )
                await ask(kind, "GET", path)
                await asyncio.sleep(random.uniform(2, 8))

        async def submitter():
            number = 0
            while time.monotonic() < end:
                number += 1
                await ask("submit", "POST", "/api/v1/runs", json={"question": QUESTION, "options": {"seed": number}})
                await asyncio.sleep(3)

        await asyncio.gather(submitter(), *(reader() for _ in range(n_readers)))
    return times, statuses


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        fill(folder, given.runs)
        server = subprocess.Popen([sys.executable, __file__, "--serve", folder], stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().strip()
            times, statuses = asyncio.run(load(address, seconds=given.seconds, n_readers=given.readers))
        finally:
            server.terminate()
            server.wait(20)
    for kind, found in sorted(times.items()):
        found.sort()
        shown = {status: number for (one, status), number in statuses.items() if one == kind}
        p99 = found[min(int(0.99 * len(found)), len(found) - 1)]
        p50, p99 = found[len(found) // 2], found[min(int(0.99 * len(found)), len(found) - 1)]
        print(f"{kind:14} {len(found):5} {shown}  p50 {p50:.3f} s  p99 {p99:.3f} s  max {found[-1]:.3f} s")


if __name__ == "__main__":
    main()
