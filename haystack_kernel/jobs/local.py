"""Run jobs as subprocesses of this machine, with the same entry point and manifest as in the cloud.

In: a JobSpec. Out: processes that outlive the kernel and that any process finds again through the attempt's folder.
Every process of an attempt inherits an environment variable that names the folder, even one that begins its own
session, as the kernels of notebooks do. An attempt runs as long as any of its processes does.
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
from haystack_kernel.jobs.consent import Spending, SpendingGate
from haystack_kernel.jobs.cost import FREE
from haystack_kernel.jobs.spec import expected_handle
from haystack_kernel.jobs.standby import CANCELLED, EXIT, LOG, RESULT, give_job, take_standby
from haystack_kernel.schema import JobStatus
from haystack_kernel.store import hide_home

if TYPE_CHECKING:
    from haystack_kernel.ports import Clock, Consent
    from haystack_kernel.schema import JobHandle, JobKind, JobSpec, JobState

_PROGRAMS: dict[JobKind, str] = {"inference": "inference.run_inference", "orchestrator": "haystack_kernel"}
_START_GRACE_S = 20.0  # for this long an attempt folder without a process counts as being started
_LOG_TAIL_BYTES = 4000
_MARK = "ATTEMPT_OF_HAYSTACK"  # variable of every process of an attempt; not HAYSTACK_…, which would be a setting
_PID = "pid.json"
# The shell records how the program ended, for later looks; exec would lose that. It does not start a program that was
# cancelled before: a call that cancels writes the marker first and then looks for processes, so it misses neither.
_SCRIPT = (
    f'if [ -e {CANCELLED} ]; then code=143; else "$@" >{RESULT} 2>{LOG}; code=$?; fi; '
    f"echo $code >exit.tmp && mv exit.tmp {EXIT}; exit $code"
)


class LocalExecutor:
    """Implements :class:`haystack_kernel.ports.Executor` with processes of this machine.

    Parameters
    ----------
    scratch
        Folder of the attempt folders ``<job_id>/attempt-<n>`` (process id, log, exit code).
    clock
        Measures the time that a cancelled job is given to end.
    consent
        Consent of the current call. Jobs of this machine cost nothing and need none; an orchestrator passes it on to
        the jobs that it starts.
    """

    name = "local"

    def __init__(self, scratch: str, *, clock: Clock, consent: Consent | None = None) -> None:
        self._scratch = Path(scratch)
        self._clock = clock
        self._gate = SpendingGate(consent)
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def submit(self, spec: JobSpec) -> JobHandle:
        """Start the job, or attach to it if any of its processes runs or it has already succeeded.

        Raises
        ------
        StorageError
            The attempt folder cannot be created.
        """
        newest = _newest_attempt(self._scratch / spec.job_id)
        if newest is None or self._look(newest).state in ("failed", "cancelled"):
            self._gate.check(spec, FREE, Spending())
            if newest is not None:  # processes that the last attempt left behind must not disturb the next one
                self._end_all(newest)
            self._start(spec, after=newest)
        return expected_handle(spec, executor="local", now=self._clock.now())

    def status(self, job: JobHandle) -> JobStatus:
        """Return the state of the newest attempt, with the end of its log."""
        newest = _newest_attempt(self._scratch / job.job_id)
        if newest is not None:
            return self._look(newest)
        # A job without a trace counts as failed, so that it is started again; but an orchestrator may run elsewhere.
        if job.kind == "orchestrator" and job.location not in ("", platform.node()):
            detail = f"it is a process of {job.location}, which cannot be seen from here"
            return JobStatus(state="unknown", detail=detail)
        detail = f"no trace of the job in {hide_home(str(self._scratch))} (never started, or the cache was emptied)"
        return JobStatus(state="failed", detail=detail)

    def tend(self, job: JobHandle) -> JobStatus:
        """Return the state now; a process of this machine needs no help to go on."""
        return self.status(job)

    def cancel(self, job: JobHandle) -> JobStatus:
        """Ask all processes of the job to end, kill those that do not, and return once all have ended."""
        newest = _newest_attempt(self._scratch / job.job_id)
        status = self.status(job)
        if newest is None or status.is_terminal:
            return status
        (newest / CANCELLED).touch()  # before looking for processes, see _SCRIPT
        self._end_all(newest)
        return self.status(job)

    def _start(self, spec: JobSpec, *, after: Path | None) -> None:
        """Start the attempt that follows ``after``, unless another process is starting it."""
        number = 1 if after is None else _number(after) + 1
        attempt = self._scratch / spec.job_id / f"attempt-{number}"
        try:
            attempt.parent.mkdir(parents=True, exist_ok=True)
            attempt.mkdir()
        except FileExistsError:
            return
        except OSError as error:
            msg = f"cannot make {attempt} for the job's log ({error}); set HAYSTACK_CACHE to a folder with space"
            raise StorageError(msg, path=str(attempt)) from error
        waiting = take_standby() if spec.kind == "inference" and not spec.environment else None
        if waiting is not None:
            self._own(waiting, attempt)
            if give_job(waiting, attempt=attempt, words=spec.command):
                return
        settings = [f"{name}={value}" for name, value in spec.environment.items()]
        command = spec.command
        if spec.kind == "orchestrator":
            command = (command[0], *self._gate.consent.words, *command[1:])
        program = ["/usr/bin/env", *settings, sys.executable, "-m", _PROGRAMS[spec.kind], *command]
        child = subprocess.Popen(
            ["/usr/bin/env", f"{_MARK}={attempt.resolve()}", "/bin/sh", "-c", _SCRIPT, "sh", *program],
            cwd=attempt,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._own(child, attempt)

    def _own(self, child: subprocess.Popen[bytes], attempt: Path) -> None:
        """Keep a process as the attempt's first, so that every process can find it."""
        self._children[child.pid] = child
        try:
            created = psutil.Process(child.pid).create_time()
        except psutil.NoSuchProcess:
            created = 0.0
        temporary = attempt / "pid.tmp"
        temporary.write_text(json.dumps({"pid": child.pid, "created": created}), encoding="utf-8")
        temporary.replace(attempt / _PID)

    def _look(self, attempt: Path) -> JobStatus:
        """The state of an attempt, from its files and its processes."""
        if (attempt / EXIT).exists():
            return self._ended(attempt)
        tail = _log_tail(attempt)
        if _leader(attempt) is not None:
            return JobStatus(state="running", detail=_last_line(tail), log_tail=tail)
        if others := _processes(attempt):
            detail = f"its leading process is gone, {len(others)} other(s) of it go on"
            return JobStatus(state="running", detail=detail, log_tail=tail)
        if (attempt / EXIT).exists():  # it ended between the two looks
            return self._ended(attempt)
        self._reap(attempt)
        if (attempt / CANCELLED).exists():  # even if it has not started yet, since its script then starts nothing
            return JobStatus(state="cancelled", detail="cancelled", log_tail=tail)
        age_s = self._clock.now().timestamp() - attempt.stat().st_mtime
        if not (attempt / _PID).exists() and age_s < _START_GRACE_S:
            return JobStatus(state="queued", detail="starting")
        detail = "the process vanished without an exit code (killed, out of memory, or the machine restarted)"
        return JobStatus(state="failed", detail=detail, log_tail=tail)

    def _ended(self, attempt: Path) -> JobStatus:
        """The state of an attempt whose program has ended, from its exit code."""
        tail, code = _log_tail(attempt), int((attempt / EXIT).read_text(encoding="utf-8"))
        self._reap(attempt)
        state: JobState = "succeeded" if code == 0 else "failed"
        detail = "" if code == 0 else _last_line(tail) or f"exit code {code}"
        if code != 0 and (attempt / CANCELLED).exists():
            state, detail = "cancelled", "cancelled"
        return JobStatus(state=state, detail=detail, exit_code=code, log_tail=tail)

    def _end_all(self, attempt: Path) -> None:
        """End every process of the attempt, including those that appear in the meantime."""
        for signal_number, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
            deadline = self._clock.monotonic() + patience_s
            told: set[int] = set()
            while alive := _processes(attempt):
                for process in alive:
                    if process.pid not in told:
                        told.add(process.pid)
                        with suppress(psutil.Error):
                            process.send_signal(signal_number)
                if self._clock.monotonic() >= deadline:
                    break
                self._clock.sleep(0.05)
            else:
                return

    def _reap(self, attempt: Path) -> None:
        """Collect a child of this process, so that it leaves no zombie and no ResourceWarning."""
        identity = _identity(attempt)
        child = self._children.get(identity[0]) if identity else None
        if child is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=1.0)
                del self._children[child.pid]


def _number(attempt: Path) -> int:
    return int(attempt.name.rpartition("-")[2])


def _newest_attempt(folder: Path) -> Path | None:
    return max(folder.glob("attempt-*"), key=_number, default=None)


def _processes(attempt: Path) -> list[psutil.Process]:
    """All live processes of the attempt: the first one, and those whose environment names the attempt."""
    mark, leader, found = str(attempt.resolve()), _leader(attempt), []
    for process in psutil.process_iter():
        try:
            is_own = process == leader or process.environ().get(_MARK) == mark
            if is_own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):  # it ended in the meantime, or belongs to another user
            continue
    return found


def _identity(attempt: Path) -> tuple[int, float] | None:
    try:
        raw = json.loads((attempt / _PID).read_text(encoding="utf-8"))
        return int(raw["pid"]), float(raw["created"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _leader(attempt: Path) -> psutil.Process | None:
    """The attempt's first process, found cheaply by its id; None if it has ended, is a zombie, or the id was reused."""
    identity = _identity(attempt)
    if identity is None:
        return None
    try:
        process = psutil.Process(identity[0])
        same = abs(process.create_time() - identity[1]) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _log_tail(attempt: Path) -> str:
    try:
        with (attempt / LOG).open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(handle.tell() - _LOG_TAIL_BYTES, 0))
            return handle.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
