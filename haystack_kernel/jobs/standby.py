"""A process that has loaded a model's packages before there is a job for it.

In: nothing, then a job's attempt. Out: the process, which the attempt owns from then on. It spares a run of this
machine the seconds that torch takes to load, which pass while the cells are found and read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from inference.manifest import MODEL_PACKAGES

if TYPE_CHECKING:
    from pathlib import Path

RESULT, LOG, EXIT, CANCELLED = "result.txt", "log.txt", "exit", "cancelled"  # files of an attempt
_MODULES = ("inference.run_inference", "inference.job", "pandas", "h5py", "torch", "inference.stack.engine")
_waiting: list[subprocess.Popen[bytes]] = []


def start_standby(modules: tuple[str, ...] = _MODULES) -> None:
    """Start a process that loads packages and waits for the next job of this process.

    It ends by itself when this process ends, however that comes about. Nothing is started where a model's packages are
    not installed.

    Parameters
    ----------
    modules
        What it imports.
    """
    if all(find_spec(package) for package in MODEL_PACKAGES):
        child = subprocess.Popen(
            [sys.executable, "-m", "inference.standby", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _waiting.append(child)


def take_standby() -> subprocess.Popen[bytes] | None:
    """Return the process that waits, which nobody else gets; None where there is none."""
    while _waiting:
        child = _waiting.pop()
        if child.poll() is None:
            return child
        _close(child)
    return None


def give_job(child: subprocess.Popen[bytes], *, attempt: Path, words: tuple[str, ...]) -> bool:
    """Tell a process that waited what its job is; False where it has ended meanwhile."""
    order = {
        "folder": str(attempt.resolve()),
        "words": words,
        "result": RESULT,
        "log": LOG,
        "exit": EXIT,
        "cancelled": CANCELLED,
    }
    try:
        if child.stdin is not None:
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()
    except OSError:
        return False
    finally:
        _close(child)
    return True


def _close(child: subprocess.Popen[bytes]) -> None:
    """Close our end of the pipe, which may hold what the process did not read."""
    if child.stdin is not None:
        try:
            child.stdin.close()
        except OSError:
            return
