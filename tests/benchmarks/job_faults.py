"""Every fault of the cloud in one table: what was injected, what came of it, GPU jobs started and needed.

In: nothing, or words that the names of the cases must contain. Out: a Markdown table on stdout; exit code 1 where a
case ends otherwise than it must, or more is paid than is needed. The cases are those of tests/servers/job_faults.py.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))
import batch as served
import job_faults


def run(case, folder):
    """One case in a world of its own; returns the table's row and whether all is as it must be."""
    os.environ["LIGHT_LOG"] = str(Path(folder) / "computed.txt")
    with job_faults.world(folder, served) as here:
        ended = case.run(here)
        n_jobs, computed = len(here.server.started), here.computed
    is_right = bool(re.search(case.ends, ended, re.DOTALL))
    is_right &= n_jobs == case.n_jobs and len(computed) == len(set(computed)) == case.n_tasks
    shown = re.sub(r"\s+", " ", ended).replace("|", "/")
    shown = shown if len(shown) <= 160 else f"{shown[:157]}…"
    cells = (case.name, shown, f"{n_jobs} / {case.n_jobs}", f"{len(computed)} / {case.n_tasks}")
    return f"| {' | '.join(cells)} | {'yes' if is_right else 'NO'} |", is_right


def main():
    """Run the cases asked for and print the table."""
    wanted = [case for case in job_faults.CASES if all(word in case.name for word in sys.argv[1:])]
    print("| injected | seen by the user | GPU jobs started / needed | tasks computed / needed | as it must be |")
    print("|---|---|---|---|---|")
    all_right = True
    for case in wanted:
        with tempfile.TemporaryDirectory() as folder:
            row, is_right = run(case, folder)
        all_right &= is_right
        print(row)
    return 0 if all_right else 1


if __name__ == "__main__":
    sys.exit(main())
