"""Many runs in a table, fast: one small file a run, in threads, newest first.

In: filters. Out: summaries.
"""

from __future__ import annotations

import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ContractError, InvalidInputError, NotFoundError
from haystack_kernel.store import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.schema import RunStatus, RunSummary

STATUSES: tuple[RunStatus, ...] = ("running", "done", "failed", "cancelled")
_N_THREADS, _N_CHUNK = 16, 64
_TIMED = re.compile(r"^run-(\d{8}t\d{6})-")
_AGO = re.compile(r"(\d+)\s*([hdw])")


def list_summaries(
    *,
    storage: str | None = None,
    status: str | None = None,
    since: str | None = None,
    text: str | None = None,
    limit: int | None = None,
    now: datetime | None = None,
) -> list[RunSummary]:
    """Runs of a storage, newest first; a run of another version is left out with a warning.

    Parameters
    ----------
    status
        Only runs in this state.
    since
        Only runs begun then or later: a date, a time (UTC), or an age like ``12h``, ``7d``, ``2w``.
    text
        Only runs whose question or id holds this, in any case.
    limit
        At most so many; the rest is not read.
    now
        What an age is counted from; None asks the clock.

    Raises
    ------
    InvalidInputError
        An unknown status, a date that is none, a limit below 1.
    """
    if status is not None and status not in STATUSES:
        msg = f"status {status!r} is unknown; possible: {', '.join(STATUSES)}"
        raise InvalidInputError(msg, status=status)
    if limit is not None and limit < 1:
        msg = f"limit {limit} must be at least 1"
        raise InvalidInputError(msg, limit=limit)
    earliest = parse_since(since, now=now or datetime.now(UTC)) if since else None
    store = RunStore(load_settings(storage=storage).storage)

    def is_wanted(row: RunSummary) -> bool:
        is_recent = earliest is None or row.created_at >= earliest
        is_named = text is None or text.lower() in f"{row.question}\n{row.run_id}".lower()
        return is_recent and is_named and status in (None, row.status)

    timed: list[str] = []  # ids made from the time sort by it
    named: list[str] = []  # others say nothing of their age
    for run_id in store.list_runs():
        (timed if _TIMED.match(run_id) else named).append(run_id)
    timed = [run_id for run_id in timed if earliest is None or _begun(run_id) >= earliest - timedelta(seconds=1)]
    with ThreadPoolExecutor(_N_THREADS) as pool:
        found = [row for row in pool.map(_reader(store), named) if row is not None and is_wanted(row)]
        n_timed = 0
        for start in range(0, len(timed), _N_CHUNK):
            if limit is not None and n_timed >= limit:
                break
            rows = pool.map(_reader(store), timed[start : start + _N_CHUNK])
            wanted = [row for row in rows if row is not None and is_wanted(row)]
            found, n_timed = [*found, *wanted], n_timed + len(wanted)
    found.sort(key=lambda row: (row.created_at, row.run_id), reverse=True)
    return found[:limit]


def parse_since(text: str, *, now: datetime) -> datetime:
    """A date, a time or an age as a moment; without a zone it is UTC.

    Raises
    ------
    InvalidInputError
        It is none of them.
    """
    if age := _AGO.fullmatch(text.strip().lower()):
        unit = {"h": "hours", "d": "days", "w": "weeks"}[age[2]]
        return now - timedelta(**{unit: int(age[1])})
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        msg = f"since {text!r} is no date; give 2026-01-31, 2026-01-31T12:00, or an age like 12h, 7d, 2w"
        raise InvalidInputError(msg, since=text) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _reader(store: RunStore) -> Callable[[str], RunSummary | None]:
    def read(run_id: str) -> RunSummary | None:
        try:
            return store.summary(run_id)
        except NotFoundError:  # a folder whose first record is not written yet
            return None
        except ContractError as error:
            warnings.warn(f"run {run_id} is left out: {error}", stacklevel=2)
            return None

    return read


def _begun(run_id: str) -> datetime:
    match = _TIMED.match(run_id)
    stamp = match[1] if match else "00010101t000000"
    try:
        return datetime.strptime(stamp, "%Y%m%dt%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # digits that are no time: read it, and see
        return datetime.max.replace(tzinfo=UTC)
