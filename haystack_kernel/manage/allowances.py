"""What one person may have a service do: runs at once, dollars a day.

In: a person and what a run may spend. Out: a reservation in the storage, or LimitError.

A reservation is one small file per run, made before the limits are counted, so that of two requests at the same moment
each sees the other: both may be refused, never both let through. It is no consent: what is spent needs that of the
call that spends it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from haystack_kernel.errors import LimitError
from haystack_kernel.jobs import in_usd
from haystack_kernel.store import layout
from haystack_kernel.store.buckets import open_files

if TYPE_CHECKING:
    from haystack_kernel.manage.catalogue import Catalogue
    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import ServiceSettings

_STARTING_S = 60.0  # a run that was reserved so recently and has no record yet counts as running


@dataclass(frozen=True)
class Allowance:
    """What a person uses now, and may use."""

    running: int
    runs_at_once: int
    spent_today_usd: float
    usd_per_day: float
    running_here: int
    here_at_once: int


class Allowances:
    """Counts and reserves what people have a service do.

    Parameters
    ----------
    catalogue
        Says what runs now and what runs have cost; reservations lie in its storage.
    limits
        Settings of the service.
    clock
        Wall time; a day is one of UTC.
    """

    def __init__(self, *, catalogue: Catalogue, limits: ServiceSettings, clock: Clock) -> None:
        store = catalogue.store
        self._files, self._root = open_files(store.storage, patience=store.patience)
        self._catalogue, self._limits, self._clock = catalogue, limits, clock

    def of(self, person: str) -> Allowance:
        """Return what the person uses of the limits now."""
        running, spent = self._used(person, but="")
        limits = self._limits
        return Allowance(
            running=running,
            runs_at_once=limits.runs_at_once,
            spent_today_usd=spent,
            usd_per_day=limits.usd_per_day,
            running_here=len(self._here()),
            here_at_once=limits.local_runs_at_once,
        )

    def reserve(self, person: str, run_id: str, *, usd: float) -> None:
        """Reserve a run that may spend so much, before it is made or goes on.

        Raises
        ------
        LimitError
            The person's limit, or that of this machine, is reached; nothing is reserved.
        """
        path = self._path(person, run_id)
        now = self._clock.now()
        before = self._read(path)
        usd_in_all = usd + (float(before["usd"]) if before else 0.0)  # a run that goes on may spend again
        self._files.write(path, json.dumps({"usd": usd_in_all, "at": now.isoformat()}).encode())
        try:
            self._check(person, run_id, usd=usd_in_all)
        except LimitError:
            if before is None:
                self._files.remove(path)
            else:
                self._files.write(path, json.dumps(before).encode())
            raise

    def give_back(self, person: str, run_id: str) -> None:
        """Undo a reservation of a run that was not made after all."""
        self._files.remove(self._path(person, run_id))

    def _check(self, person: str, run_id: str, *, usd: float) -> None:
        limits = self._limits
        running, spent = self._used(person, but=run_id)
        if running >= limits.runs_at_once:
            msg = (
                f"{running} of your runs are being worked on, and {limits.runs_at_once} may be at once; wait until one "
                "ends, or cancel one"
            )
            raise LimitError(msg, limit="runs_at_once", retry_after_s=60)
        if usd and spent + usd > limits.usd_per_day:
            msg = (
                f"this may cost {in_usd(usd)}; {in_usd(spent)} of the {in_usd(limits.usd_per_day)} that you may spend "
                "a day are spent or reserved. Lower the highest cost, or wait until tomorrow (UTC)"
            )
            raise LimitError(msg, limit="usd_per_day", retry_after_s=self._until_tomorrow())
        n_here = len(self._here() - {run_id})
        if n_here >= limits.local_runs_at_once:
            msg = (
                f"{n_here} runs are being worked on by this machine, and {limits.local_runs_at_once} may be at once; "
                "try again when one has ended"
            )
            raise LimitError(msg, limit="local_runs_at_once", retry_after_s=60)

    def _here(self) -> set[str]:
        """Runs of everybody that this machine works on."""
        rows = self._catalogue.running_of(None)
        return {row.summary.run_id for row in rows if row.summary.orchestrator == "local"}

    def _used(self, person: str, *, but: str) -> tuple[int, float]:
        """Runs of the person that are worked on, and dollars spent or reserved today."""
        now = self._clock.now()
        indexed = self._catalogue.index.rows()  # once: a run that appears between two looks would be in neither
        running = {row.summary.run_id for row in self._catalogue.running_of(person, rows=indexed)}
        rows = {row.summary.run_id: row.summary for row in indexed}
        spent = 0.0
        folder = self._folder(person, now)
        for name in self._files.names(folder):
            run_id = name.removesuffix(".json")
            held = self._read(f"{folder}/{name}") if run_id != but else None
            if held is None:
                continue
            summary = rows.get(run_id)
            is_new = now - datetime.fromisoformat(held["at"]) < timedelta(seconds=_STARTING_S)
            if summary is None and is_new:
                running.add(run_id)
            is_open = run_id in running or (summary is None and is_new)
            spent += max(float(held["usd"]) if is_open else 0.0, summary.cost_usd if summary else 0.0)
        return len(running - {but}), spent

    def _read(self, path: str) -> dict[str, str] | None:
        try:
            found: dict[str, str] = json.loads(self._files.read(path))
        except (FileNotFoundError, ValueError):
            return None
        return found

    def _path(self, person: str, run_id: str) -> str:
        return f"{self._folder(person, self._clock.now())}/{run_id}.json"

    def _folder(self, person: str, now: datetime) -> str:
        name = hashlib.sha256(person.encode()).hexdigest()[:32]  # no address of a person in a path
        return f"{self._root}/{layout.PEOPLE}/{name}/{now:%Y%m%d}"

    def _until_tomorrow(self) -> int:
        now = self._clock.now()
        tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return int((tomorrow - now).total_seconds()) + 1
