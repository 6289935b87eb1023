"""List many runs quickly: one small file per run is read, in threads, newest first.

Only for runs that count as running the newest lease, and the orchestrator if there is one, are looked at as well.

In: filters. Out: summaries.
"""

from __future__ import annotations

import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ContractError, InvalidInputError, NotFoundError
from haystack_kernel.schema import ShownStatus
from haystack_kernel.steering import observed_status

if TYPE_CHECKING:
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunSummary, Settings

STATUSES: tuple[ShownStatus, ...] = get_args(ShownStatus)
_N_THREADS, _N_CHUNK = 16, 64
_TIMED = re.compile(r"^run-(\d{8}t\d{6})-")
_EVER = datetime(1, 1, 2, tzinfo=UTC)
_AGO = re.compile(r"(\d+)\s*([hdw])")


def list_summaries(
    *,
    storage: str | None = None,
    settings: Settings | None = None,
    status: str | None = None,
    since: str | None = None,
    text: str | None = None,
    limit: int | None = None,
    now: datetime | None = None,
) -> list[RunSummary]:
    """List the runs of a storage, newest first.

    A run that was written by another version is left out with a warning.

    Parameters
    ----------
    storage
        Where the run folders are; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    status
        Only runs with this status: ``running``, ``done``, ``failed``, ``cancelled``, or ``interrupted`` for a run that
        was not finished and that nobody works on.
    since
        Only runs that began at this time or later: a date, a time (UTC), or an age such as ``12h``, ``7d``, ``2w``.
    text
        Only runs whose question or id contains this text, ignoring case.
    limit
        Maximum number of runs; older ones are not read.
    now
        The time that ages and leases are counted from; None asks the clock.

    Returns
    -------
    One summary per run.

    Raises
    ------
    InvalidInputError
        The status is unknown, ``since`` is neither a date nor an age, or the limit is below 1.
    NotFoundError
        The storage does not exist.

    Examples
    --------
    >>> from haystack_kernel.manage import list_summaries
    >>> for row in list_summaries(status="done", since="7d"):  # doctest: +SKIP
    ...     print(row.run_id, row.score)
    run-20260102t030405-1a2b3c 8.5
    """
    if status is not None and status not in STATUSES:
        msg = f"status {status!r} is unknown; possible: {', '.join(STATUSES)}"
        raise InvalidInputError(msg, status=status)
    if limit is not None and limit < 1:
        msg = f"limit {limit} must be at least 1"
        raise InvalidInputError(msg, limit=limit)
    ports = connect(settings or load_settings(storage=storage))
    now = now or ports.clock.now()
    earliest = parse_since(since, now=now) if since else _EVER
    wanted = _Filter(status=status, earliest=earliest, text=(text or "").lower())
    named, timed = _by_age(ports.store.list_runs(), earliest=earliest)
    found = _read(named, ports=ports, wanted=wanted, limit=None, now=now)
    found += _read(timed, ports=ports, wanted=wanted, limit=limit, now=now)
    found.sort(key=lambda row: (row.created_at, row.run_id), reverse=True)
    return found[:limit]


@dataclass(frozen=True)
class _Filter:
    status: str | None
    earliest: datetime
    text: str

    def accepts(self, row: RunSummary) -> bool:
        """Whether the row is wanted as it is."""
        return self.may_accept(row) and self.status in (None, row.status)

    def may_accept(self, row: RunSummary) -> bool:
        """Whether the row would be wanted with another status."""
        return row.created_at >= self.earliest and self.text in f"{row.question}\n{row.run_id}".lower()


def parse_since(text: str, *, now: datetime) -> datetime:
    """Convert a date, a time or an age to a time; a time without a time zone counts as UTC.

    Raises
    ------
    InvalidInputError
        The text is none of them.
    """
    if age := _AGO.fullmatch(text.strip().lower()):
        unit = {"h": "hours", "d": "days", "w": "weeks"}[age[2]]
        return now - timedelta(**{unit: int(age[1])})
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        msg = f"since {text!r} is neither a date nor an age; give 2026-01-31, 2026-01-31T12:00, 12h, 7d or 2w"
        raise InvalidInputError(msg, since=text) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _by_age(run_ids: list[str], *, earliest: datetime) -> tuple[list[str], list[str]]:
    """Ids chosen by a user, which say nothing about the age, and ids made from a time not before ``earliest``."""
    named, timed = [], []
    for run_id in run_ids:
        match = _TIMED.match(run_id)
        if match is None:
            named.append(run_id)
            continue
        try:
            begun = datetime.strptime(match[1], "%Y%m%dt%H%M%S").replace(tzinfo=UTC)
        except ValueError:  # the digits are no time, so the record has to be read
            timed.append(run_id)
            continue
        if begun >= earliest - timedelta(seconds=1):  # the id leaves out fractions of a second
            timed.append(run_id)
    return named, timed


def _read(run_ids: list[str], *, ports: Ports, wanted: _Filter, limit: int | None, now: datetime) -> list[RunSummary]:
    """Read summaries in threads, in the given order, until ``limit`` of them are wanted."""

    def read(run_id: str) -> RunSummary | None:
        try:
            row = ports.store.summary(run_id)
            # a summary cannot know that its worker has gone; whose status cannot matter is not looked at further
            if row.status == "running" and wanted.status not in ("done", "cancelled") and wanted.may_accept(row):
                row = row.model_copy(update={"status": observed_status(run_id, ports, now=now)})
        except NotFoundError:  # a folder whose first record is not written yet
            return None
        except ContractError as error:
            warnings.warn(f"run {run_id} is left out: {error}", stacklevel=2)
            return None
        return row

    found: list[RunSummary] = []
    with ThreadPoolExecutor(_N_THREADS) as pool:
        for start in range(0, len(run_ids), _N_CHUNK):
            if limit is not None and len(found) >= limit:
                break
            rows = pool.map(read, run_ids[start : start + _N_CHUNK])
            found += [row for row in rows if row is not None and wanted.accepts(row)]
    return found
