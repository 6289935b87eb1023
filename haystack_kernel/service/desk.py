"""What the routes share: the runs, what was seen of them a moment ago, the atlases, how fresh the service is.

In: settings and who is trusted. Out: :class:`Desk`, one per application.
"""

from __future__ import annotations

import threading
import time
from pathlib import PurePosixPath
from statistics import median
from typing import TYPE_CHECKING, Any

from haystack_kernel import __version__
from haystack_kernel.atlas import atlas_info, list_atlases, local_root
from haystack_kernel.errors import HaystackError, NotFoundError
from haystack_kernel.flow import STEPS
from haystack_kernel.manage.tenancy import Tenancy
from haystack_kernel.report.words import counted
from haystack_kernel.schema import DEMO_ATLAS
from haystack_kernel.service.slow_work import SlowWork

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.manage.tenancy import Person
    from haystack_kernel.ports import Consent, Ports
    from haystack_kernel.schema import RunConfig, RunRecord, Settings

_SEEN_S = 1.0  # so many readers of one run cost one look a second
_MAX_SEEN = 1000
_N_EARLIER = 20  # finished runs that an estimate of the time left rests on


class Desk:
    """The state of the application.

    Parameters
    ----------
    settings
        Of the installation.
    trusts_inputs
        See :class:`haystack_kernel.manage.tenancy.Tenancy`.
    open_ports
        See there.
    """

    def __init__(
        self, settings: Settings, *, trusts_inputs: bool, open_ports: Callable[[Consent], Ports] | None = None
    ) -> None:
        self.settings = settings
        self.runs = Tenancy(settings, trusts_inputs=trusts_inputs, open_ports=open_ports)
        self.ports = self.runs.ports
        self.slow = SlowWork(settings.service.answer_timeout_s)
        self.started_at = self.ports.clock.now()
        self._seen: dict[str, tuple[float, dict[str, Any]]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def look(self, person: Person, run_id: str) -> dict[str, Any]:
        """Where a run stands, as it was a second ago at most; whether the person may read it is asked now."""
        access = self.runs.access(person, run_id)
        with self._lock:
            if len(self._locks) > _MAX_SEEN:
                self._locks.clear()
                self._seen.clear()
            lock = self._locks.setdefault(run_id, threading.Lock())
        with lock:
            known = self._seen.get(run_id)
            if known is None or time.monotonic() - known[0] >= _SEEN_S:
                known = (time.monotonic(), self._describe(person, run_id))
                self._seen[run_id] = known
        steers = person.is_admin or (access is not None and access.owner == person.name)
        return {**known[1], "owner": access.owner if access else None, "may_steer": steers}

    def forget(self, run_id: str) -> None:
        """Look again at a run that was just changed."""
        self._seen.pop(run_id, None)

    def _describe(self, person: Person, run_id: str) -> dict[str, Any]:
        record = self.runs.read(person, run_id).record
        found = self.runs.status(person, run_id)
        now = self.ports.clock.now()
        ended = record.steps[-1].finished_at if record.steps and found["status"] != "running" else now
        elapsed_s = max((ended - record.created_at).total_seconds(), 0.0)
        return {
            **found,
            "question": record.question,
            "created_at": f"{record.created_at:%Y-%m-%dT%H:%M:%SZ}",
            "elapsed_s": round(elapsed_s, 1),
            "left_s": self._left_s(record, elapsed_s) if found["status"] == "running" else None,
            "doing": doing(found["next_step"]) if found["next_step"] else "",
            "steps": [
                {
                    "step": step.step,
                    "doing": doing(step.step),
                    "seconds": round(step.seconds, 2),
                    "finished_at": f"{step.finished_at:%H:%M:%S}",
                }
                for step in record.steps
            ],
            "headline": record.interpretation.headline if record.interpretation else "",
            "serial": record.serial,
        }

    def _left_s(self, record: RunRecord, elapsed_s: float) -> float | None:
        usual_s = self.usual_s(record.config)
        return None if usual_s is None else round(max(usual_s - elapsed_s, 1.0), 0)

    def usual_s(self, config: RunConfig) -> float | None:
        """Seconds that a run takes, by the median of earlier ones with the same engine and executor."""
        earlier = [
            row.summary.seconds
            for row in self.runs.catalogue.index.rows()
            if row.summary.status == "done"
            and (row.summary.engine, row.summary.executor) == (config.engine, config.executor)
        ][:_N_EARLIER]
        return median(earlier) if earlier else None

    def log(self, person: Person, run_id: str) -> dict[str, str]:
        """The ends of the logs of a run's orchestrator and of its newest job."""
        run = self.runs.read(person, run_id)
        texts = {}
        for name, ask in (("orchestrator", run.orchestrator_status), ("job", run.job_status)):
            try:
                status = ask()
            except HaystackError as error:  # a job that cannot be asked from here has no log to show
                texts[name] = str(error)
            else:
                texts[name] = status.log_tail if status else ""
        return texts

    def atlases(self) -> list[dict[str, Any]]:
        """The atlases of this installation, each in one line."""
        found, root = [], self._atlas_root()
        for name in list_atlases(root):
            one = self._atlas(name, root)
            found.append({**one, "datasets": list(one["datasets"])})
        if DEMO_ATLAS not in [one["name"] for one in found]:
            found.append({"name": DEMO_ATLAS, "n_cells": 0, "n_control": 0, "datasets": []})
        return found

    def atlas(self, name: str) -> dict[str, Any]:
        """What an atlas holds; the demo atlas is made when it is first asked for.

        Raises
        ------
        NotFoundError
            There is no such atlas; the message names those there are.
        """
        root = self._atlas_root()
        known = list_atlases(root)
        if name == DEMO_ATLAS and name not in known:
            self.ports.open_atlas([name])
        elif name not in known:
            possible = sorted({*known, DEMO_ATLAS})
            msg = f"there is no atlas {name[:80]!r}; possible: {', '.join(possible)}"
            raise NotFoundError(msg, given=name[:80], possible=possible)
        return self._atlas(name, root)

    def _atlas_root(self) -> str:
        """The local folder of all atlases; of atlases in a bucket it has copies of what describes them."""
        return local_root(self.settings.atlas_root, cache=self.settings.cache)

    def _atlas(self, name: str, root: str) -> dict[str, Any]:
        """What an atlas holds, without the places of this machine."""
        found = atlas_info(name, root)
        found.pop("path", None)
        shown: dict[str, Any] = _without_places(found)
        return shown

    def health(self) -> list[dict[str, Any]]:
        """What the service needs, and whether it is there."""
        lines: list[dict[str, Any]] = [{"check": "version", "ok": True, "found": f"HAYSTACK {__version__}"}]
        try:
            rows = self.runs.catalogue.index.rows()
        except HaystackError as error:
            lines.append({"check": "storage", "ok": False, "found": str(error)})
        else:
            running = self.runs.catalogue.running_of(None, rows=rows)
            here = sum(row.summary.orchestrator == "local" for row in running)
            most = self.settings.service.local_runs_at_once
            elsewhere = f"; {len(running) - here} elsewhere" if len(running) > here else ""
            found = f"{counted(here, 'run')} of {most} that this machine may work on at once{elsewhere}"
            lines.append({"check": "storage", "ok": True, "found": f"{counted(len(rows), 'run')}; it can be read"})
            lines.append({"check": "running now", "ok": True, "found": found})
        try:
            names = list_atlases(self._atlas_root())
        except HaystackError as error:
            lines.append({"check": "atlases", "ok": False, "found": str(error)})
        else:
            found = ", ".join(names) or f"none; {DEMO_ATLAS} can be made"
            lines.append({"check": "atlases", "ok": True, "found": found})
        lines.append({"check": "running since", "ok": True, "found": f"{self.started_at:%Y-%m-%d %H:%M} UTC"})
        return lines


def doing(step: str) -> str:
    """What a step does, in words, for example "reading the cells, round 2"."""
    name, _, number = step.partition(" ")
    words = STEPS[name][1] if name in STEPS else name
    return f"{words}, round {number}" if number else words


def _without_places(value: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON values in which every ``source`` is a file's name, without its folder."""
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: PurePosixPath(item).name if key == "source" and isinstance(item, str) else _without_places(item)
        for key, item in value.items()
    }
