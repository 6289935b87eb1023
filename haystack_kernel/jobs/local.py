"""Jobs as subprocesses of this machine, with the same entry point and manifest as in the cloud.

In: a JobSpec. Out: a process group that outlives the kernel, found again from any process through its attempt folder.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from haystack_kernel.errors import StorageError
from haystack_kernel.jobs.spec import expected_handle
from haystack_kernel.schema import JobStatus
from haystack_kernel.store import hide_home

if TYPE_CHECKING:
    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import JobHandle, JobKind, JobSpec, JobState

_PROGRAMS: dict[JobKind, str] = {"inference": "inference.run_inference", "orchestrator": "haystack_kernel"}
_START_GRACE_S = 20.0  # an attempt folder without a process id is being started by somebody for this long
_LOG_TAIL_BYTES = 4000
# The shell notes how the program ended, for whoever looks later; exec would lose that.
_SCRIPT = '"$@" >result.txt 2>log.txt; code=$?; echo $code >exit.tmp && mv exit.tmp exit; exit $code'


class LocalExecutor:
    """Implements :class:`haystack_kernel.ports.Executor` with one process group a job.

    Parameters
    ----------
    scratch
        Folder of the attempt folders ``<job_id>/attempt-<n>`` (process id, log, exit code).
    clock
        Used while a cancelled process is given time to end.
    """

    name = "local"

    def __init__(self, scratch: str, *, clock: Clock) -> None:
        self._scratch = Path(scratch)
        self._clock = clock
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or attach to it when it runs or has succeeded already.

        Raises
        ------
        StorageError
            The attempt folder cannot be made.
        """
        folder = self._scratch / spec.job_id
        newest = _newest_attempt(folder)
        if newest is None or self._look(newest).state in ("failed", "cancelled"):
            newest = self._start(folder, spec)
        return expected_handle(spec, executor="local", now=self._clock.now())

    def status(self, job: JobHandle) -> JobStatus:
        """State of the newest attempt, with the end of its log."""
        newest = _newest_attempt(self._scratch / job.job_id)
        if newest is None:
            return self._untraced(job)
        return self._look(newest)

    def tend(self, job: JobHandle) -> JobStatus:
        """State now; a process of this machine needs nothing to go on."""
        return self.status(job)

    def cancel(self, job: JobHandle) -> JobStatus:
        """Ask the process group to end, then end it; returns when it has."""
        newest = _newest_attempt(self._scratch / job.job_id)
        status = self.status(job)
        if newest is None or status.is_terminal:
            return status
        (newest / "cancelled").touch()
        process = _find_process(newest)
        if process is not None:
            for signal_number, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal_number)
                if self._ended_within(newest, patience_s):
                    break
        return self.status(job)

    def _untraced(self, job: JobHandle) -> JobStatus:
        """Failed, so that it is started again; but the orchestrator of another machine may well be at work there."""
        if job.kind == "orchestrator" and job.location not in ("", platform.node()):
            detail = f"it is a process of {job.location}, which cannot be seen from here"
            return JobStatus(state="unknown", detail=detail)
        detail = f"no trace of the job in {hide_home(str(self._scratch))} (never started, or the cache was emptied)"
        return JobStatus(state="failed", detail=detail)

    def _start(self, folder: Path, spec: JobSpec) -> Path:
        before = _newest_attempt(folder)
        attempt = folder / f"attempt-{int(before.name.rpartition('-')[2]) + 1 if before else 1}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            attempt.mkdir()
        except FileExistsError:
            return attempt  # another process is starting the same attempt right now: attach to it
        except OSError as error:
            msg = f"cannot make {attempt} for the job's log ({error}); set HAYSTACK_CACHE to a folder with space"
            raise StorageError(msg, path=str(attempt)) from error
        settings = [f"{name}={value}" for name, value in spec.environment.items()]
        program = ["/usr/bin/env", *settings, sys.executable, "-m", _PROGRAMS[spec.kind], *spec.command]
        child = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "sh", *program],
            cwd=attempt,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._children[child.pid] = child
        identity = {"pid": child.pid, "created": _creation_time(child.pid)}
        temporary = attempt / "pid.tmp"
        temporary.write_text(json.dumps(identity), encoding="utf-8")
        temporary.replace(attempt / "pid.json")
        return attempt

    def _look(self, attempt: Path) -> JobStatus:
        tail = _log_tail(attempt)
        if (attempt / "exit").exists():
            code = int((attempt / "exit").read_text(encoding="utf-8"))
            self._reap(attempt)
            cancelled = code != 0 and (attempt / "cancelled").exists()
            state: JobState = "succeeded" if code == 0 else "cancelled" if cancelled else "failed"
            detail = "" if code == 0 else _last_line(tail) or f"exit code {code}"
            return JobStatus(state=state, detail=detail, exit_code=code, log_tail=tail)
        process = _find_process(attempt)
        if process is not None:
            return JobStatus(state="running", detail=_last_line(tail), log_tail=tail)
        age_s = self._clock.now().timestamp() - attempt.stat().st_mtime
        if not (attempt / "pid.json").exists() and age_s < _START_GRACE_S:
            return JobStatus(state="queued", detail="starting")
        if (attempt / "exit").exists():  # it ended between the two looks
            return self._look(attempt)
        self._reap(attempt)
        if (attempt / "cancelled").exists():
            return JobStatus(state="cancelled", detail="cancelled", log_tail=tail)
        detail = "the process vanished without an exit code (killed, out of memory, or the machine restarted)"
        return JobStatus(state="failed", detail=detail, log_tail=tail)

    def _reap(self, attempt: Path) -> None:
        """Collect our own child so that it leaves no zombie and no ResourceWarning."""
        identity = _identity(attempt)
        child = self._children.get(identity[0]) if identity else None
        if child is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=1.0)
                del self._children[child.pid]

    def _ended_within(self, attempt: Path, patience_s: float) -> bool:
        deadline = self._clock.monotonic() + patience_s
        while self._clock.monotonic() < deadline:
            if _find_process(attempt) is None:
                return True
            self._clock.sleep(0.05)
        return _find_process(attempt) is None


def _newest_attempt(folder: Path) -> Path | None:
    attempts = sorted(folder.glob("attempt-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return attempts[-1] if attempts else None


def _identity(attempt: Path) -> tuple[int, float] | None:
    try:
        raw = json.loads((attempt / "pid.json").read_text(encoding="utf-8"))
        return int(raw["pid"]), float(raw["created"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _find_process(attempt: Path) -> psutil.Process | None:
    """Return the attempt's live process; a reused process id or a zombie is not it."""
    identity = _identity(attempt)
    if identity is None:
        return None
    try:
        process = psutil.Process(identity[0])
        same = abs(process.create_time() - identity[1]) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _creation_time(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def _log_tail(attempt: Path) -> str:
    try:
        with (attempt / "log.txt").open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(handle.tell() - _LOG_TAIL_BYTES, 0))
            return handle.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
