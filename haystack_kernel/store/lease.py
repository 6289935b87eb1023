"""Who works on a run: one file per worker, renewed while it works, so that a run left by its worker can be told.

In: a store, a run id, a clock. Out: a :class:`Lease` that one worker holds, or the :class:`Worker` that others see.

A worker creates ``lease/000N.json`` exclusively, and only when the lease before it was released, has run out, or
belongs to a process of this machine that has ended. It rewrites its own file alone. A worker that takes over from one
that never released its lease saves a record at once, so that the next save of the old one, should it wake up, is a
conflict.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import threading
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from haystack_kernel.errors import ConflictError, NotFoundError
from haystack_kernel.schema import Frozen
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from types import TracebackType

    from haystack_kernel.ports import Clock, Store

TTL_S = 30.0  # a lease that was not renewed for so long has run out
BUCKET_TTL_S = 90.0  # renewed three times in it: far below the one write per second that an object allows
_RELEASE_TRIES = 3

_held: set[str] = set()  # tokens of the leases that this process holds now
_paused: WeakKeyDictionary[Store, dict[str, int]] = WeakKeyDictionary()  # run id -> lease that was released last


class Worker(Frozen):
    """A worker as its lease describes it; also the content of the lease file."""

    token: str
    host: str
    machine: str
    pid: int
    process: str
    since: datetime
    renewed_at: datetime
    ttl_s: float
    ended: Literal["", "paused", "interrupted", "left"] = ""

    def is_alive(self, now: datetime) -> bool:
        """Whether the worker holds its lease: not released, renewed in time, its process there if it can be seen."""
        if self.ended or abs((now - self.renewed_at).total_seconds()) > self.ttl_s:
            return False
        if self.machine != _machine():
            return True
        if self.pid == os.getpid() and self.process == _process(self.pid):
            return self.token in _held
        return self.process == _process(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since:%Y-%m-%d %H:%M:%S} UTC)"


def find_worker(store: Store, run_id: str) -> tuple[int, Worker | None]:
    """Find who works on a run, or worked on it last.

    Parameters
    ----------
    store, run_id
        The run.

    Returns
    -------
    Number of the newest lease and the worker it names; 0 and None where nobody has worked on the run yet.
    """
    stems = [name.removesuffix(".json") for name in store.names(run_id, layout.LEASES)]
    number = max((int(stem) for stem in stems if stem.isdigit()), default=0)
    if number == 0:
        return 0, None
    try:
        return number, Worker.model_validate_json(store.read(run_id, layout.lease_file(number)))
    except (NotFoundError, ValidationError):  # written by another version: its worker cannot be told
        return number, None


class Lease:
    """The right to work on a run, held by one worker; a context manager that renews and releases it.

    Parameters
    ----------
    store, run_id
        The run.
    clock
        Its wall time goes into the lease.
    number
        Number of the lease file, which this worker has created.
    worker
        What the file says.
    took_over
        Whether the worker before never released its lease.
    """

    def __init__(
        self, store: Store, run_id: str, *, clock: Clock, number: int, worker: Worker, took_over: bool
    ) -> None:
        self._store, self._run_id, self._clock = store, run_id, clock
        self._number, self._worker = number, worker
        self._confirmed = worker.renewed_at  # last time when surely no other worker had the lease
        self.took_over = took_over
        self._stopping = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._keep_renewing, name=f"lease of {run_id}", daemon=True)

    @classmethod
    def acquire(cls, store: Store, run_id: str, *, clock: Clock, ttl_s: float | None = None) -> Lease:
        """Become the worker of a run.

        Parameters
        ----------
        store, run_id
            The run.
        clock
            Wall time of the lease.
        ttl_s
            How long the lease holds without renewal; None: 30 s on a disk, 90 s in a bucket.

        Returns
        -------
        The lease; use it as a context manager.

        Raises
        ------
        ConflictError
            Another worker holds the lease, or was given it at this moment; the message names its process.
        """
        now = clock.now()
        worker = Worker(
            token=secrets.token_hex(8),
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            process=_process(os.getpid()),
            since=now,
            renewed_at=now,
            ttl_s=ttl_s or (BUCKET_TTL_S if "://" in store.uri(run_id) else TTL_S),
        )

        def creates(number: int) -> bool:
            _held.add(worker.token)  # first, so that whoever reads the file sees a worker that is alive
            if store.create_file(run_id, layout.lease_file(number), worker.model_dump_json().encode()):
                return True
            _held.discard(worker.token)
            return False

        # after a lease that this process released itself nothing needs to be read: creation fails if another came since
        number, before = _paused.get(store, {}).pop(run_id, 0), None
        if number == 0 or not creates(number + 1):
            number, before = find_worker(store, run_id)
            if before is not None and before.is_alive(now):
                raise taken(run_id, before)
            if not creates(number + 1):
                raise taken(run_id, find_worker(store, run_id)[1])
        own = (worker.machine, worker.pid, worker.process)
        is_own = before is not None and (before.machine, before.pid, before.process) == own
        took_over = before is not None and not before.ended and not is_own
        return cls(store, run_id, clock=clock, number=number + 1, worker=worker, took_over=took_over)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release("paused" if kind is None else "interrupted")

    def check(self) -> None:
        """Raise ConflictError where another worker has taken the run over; called before every save.

        Nothing is read while the lease cannot have run out: another worker may take it over only after ``ttl_s``
        without renewal. Half of that is left for clocks that differ; a worker that takes over saves a record first.
        """
        if abs((self._clock.now() - self._confirmed).total_seconds()) < self._worker.ttl_s / 2:
            return
        if self._store.exists(self._run_id, layout.lease_file(self._number + 1)):
            raise taken(self._run_id, find_worker(self._store, self._run_id)[1])

    def release(self, ended: Literal["paused", "interrupted", "left"]) -> None:
        """Say in the lease how the work has ended, as well as the storage allows; repeating it does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with self._writing:  # the thread writes no more after this
            last = self._worker.model_copy(update={"ended": ended, "renewed_at": self._clock.now()})
            for _ in range(_RELEASE_TRIES):  # a bucket takes one write of an object per second
                if self._store.try_write(
                    self._run_id, layout.lease_file(self._number), last.model_dump_json().encode()
                ):
                    break
                self._clock.sleep(1.0)
        _held.discard(self._worker.token)
        _paused.setdefault(self._store, {})[self._run_id] = self._number

    def _keep_renewing(self) -> None:
        while not self._stopping.wait(self._worker.ttl_s / 3):
            with self._writing:
                if self._stopping.is_set():
                    return
                now, path = self._clock.now(), layout.lease_file(self._number)
                self._worker = self._worker.model_copy(update={"renewed_at": now})
                is_written = self._store.try_write(self._run_id, path, self._worker.model_dump_json().encode())
                # a renewal that comes too late proves nothing: another worker may hold the lease by now
                if is_written and abs((now - self._confirmed).total_seconds()) < self._worker.ttl_s:
                    self._confirmed = now


def taken(run_id: str, worker: Worker | None) -> ConflictError:
    """Say that another worker holds a run.

    Parameters
    ----------
    run_id
        The run.
    worker
        Who holds it; None where that cannot be read.

    Returns
    -------
    The error to raise.
    """
    who = str(worker) if worker else "another process"
    msg = (
        f"run {run_id} is being worked on by {who}; follow it with `haystack attach {run_id}`, "
        f"or stop it with `haystack cancel {run_id}` first"
    )
    facts = {"host": worker.host, "pid": worker.pid, "since": f"{worker.since:%Y-%m-%dT%H:%M:%SZ}"} if worker else {}
    return ConflictError(msg, run_id=run_id, **facts)


def _machine() -> str:
    """Identify the machine, its boot and the space of process ids, within which a process id means one process."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # no Linux: the name has to do
        pass
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _process(pid: int) -> str:
    """When the process of that id was started, in the kernel's own count, which no change of the clock touches.

    Empty where there is none, or only a zombie: a reused process id is another process.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if state in ("Z", "X") else fields[18]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    import psutil

    try:
        found = psutil.Process(pid)
        return "" if found.status() == psutil.STATUS_ZOMBIE else f"{found.create_time():.0f}"
    except psutil.NoSuchProcess:
        return ""
