"""A screen of the demo atlas with one worker and with several: wall time, processor seconds, memory.

python tests/benchmarks/screens.py --questions 294 --workers 1 2

In: numbers. Out: one line for each number of workers, as a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes share the cores, not the threads of one

from haystack_kernel import keys
from haystack_kernel.campaign.screening import plan_screen, run_screen
from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings

TYPES = ("B cell", "monocyte", "natural killer cell", "CD4 T cell", "CD8 T cell", "dendritic cell")


def seconds() -> float:
    """Processor seconds of this process and of those that it waited for."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=294)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engine", default="weighted")
    given = parser.parse_args()
    print("| workers | questions | predicted | plan s | wall s | processor s a question | peak MiB of a process |")
    print("|---|---|---|---|---|---|---|")
    for workers in given.workers:
        with tempfile.TemporaryDirectory(prefix="screens-") as storage:
            ports = connect(load_settings(storage=storage), progress=lambda event: None)
            begun, used = time.monotonic(), seconds()
            held = ports.open_atlas(["demo"]).conditions()
            names = sorted(set(held.loc[~held[keys.IS_CONTROL], keys.PERTURBATION]))
            names = names[: -(-given.questions // len(TYPES))]
            plan = plan_screen(names, TYPES, ports=ports, atlases=["demo"], engine=given.engine)
            planned = time.monotonic() - begun
            begun = time.monotonic()
            table = run_screen(plan, ports=ports, workers=workers).table
            wall, n = time.monotonic() - begun, len(table)
            peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            done = (table["status"] == "predicted").sum()
            each = (seconds() - used) / n
            print(
                f"| {workers} | {n} | {done} | {planned:.1f} | {wall:.1f} | {each:.2f} | {peak / 1024:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
