"""Row backtest: a back-test of the demo atlas by one worker and by two, whole commands in turn.

In: a folder. Out: the row. Wall seconds hold for a machine without other work; processor seconds (user and system, with
all processes that were started) say how much of a difference is work, and how busy two cores were.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ENGINES = ("none", "mean", "shift", "weighted", "additive")
N_PAIRS = {True: 150, False: 12}  # full size or not
BIN = Path(sys.executable).parent


def whole_command(words, environment):
    """Wall and processor seconds of a command with all that it starts, and the most memory of one process in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), words)
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def backtest(folder, *, full, n_pairs=None, rounds=2):
    """The row; ``rounds`` runs of each in turn, the shortest counts."""
    n = n_pairs or N_PAIRS[full]
    found = {1: [], 2: []}
    for _ in range(rounds):
        for workers, runs in found.items():
            storage = folder / "backtests"
            words = [str(BIN / "haystack"), "backtest", "demo", "--pairs", str(n), "--workers", str(workers)]
            words += [word for engine in ENGINES for word in ("--engine", engine)]
            runs.append(whole_command([*words, "--storage", str(storage)], os.environ))
            shutil.rmtree(storage)
            sys.stderr.write(f"{workers} workers: {runs[-1][0]:.1f} s, {runs[-1][1]:.1f} processor s\n")
    one, two = min(found[1]), min(found[2])
    each = two[0] / (n * len(ENGINES))
    return {
        "work": f"haystack backtest demo, {n} pairs, {len(ENGINES)} simple engines, by one worker and by two",
        "ours": {"two_s": two[0], "processor_s": two[1], "cores": two[1] / two[0], "each_s": each, "peak_mib": two[2]},
        "reference": {"one_s": one[0], "processor_s": one[1], "cores": one[1] / one[0]},
        "ratio": one[0] / two[0],
        "goal": ">= 1.8x; <= 2 s a pair and engine",
        "met": one[0] / two[0] >= 1.8 and each <= 2,
    }
