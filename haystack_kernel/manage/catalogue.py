"""Pages of the runs of a storage that a person may see, quickly also where there are ten thousand.

In: the index of the storage, filters, who asks. Out: a page of rows, newest first, and where the next page begins.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.manage.finding import VisibleRuns
from haystack_kernel.manage.listing import STATUSES, parse_since
from haystack_kernel.steering import observed_status
from haystack_kernel.store import RunIndex, RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunSummary
    from haystack_kernel.store import IndexedRun

MAX_LIMIT = 200
_MAX_VIEWS = 32  # people whose runs are kept apart
_LOOK_S = 3.0  # what was seen of a running run is served for so long


@dataclass(frozen=True)
class RunFilter:
    """Which runs are wanted; None and empty text mean "any".

    Parameters
    ----------
    status
        As in :func:`haystack_kernel.manage.list_summaries`.
    text
        Part of the question or of the id, ignoring case.
    cell_type, treatment, owner
        Part of the name, ignoring case.
    min_score
        Lowest composite; runs without a score are left out.
    since, until
        A date, a time (UTC), or an age such as ``7d``; ``until`` is exclusive.
    """

    status: str | None = None
    text: str = ""
    cell_type: str = ""
    treatment: str = ""
    owner: str = ""
    min_score: float | None = None
    since: str | None = None
    until: str | None = None

    def checked(self, now: datetime) -> _Wanted:
        """Read dates and refuse what no run can be.

        Raises
        ------
        InvalidInputError
            An unknown status, or a date that is none.
        """
        if self.status and self.status not in STATUSES:
            msg = f"status {self.status!r} is unknown; possible: {', '.join(STATUSES)}"
            raise InvalidInputError(msg, status=self.status, possible=list(STATUSES))
        given = (self.text, self.cell_type, self.treatment, self.owner)
        words = tuple(word.strip().casefold() for word in given)
        return _Wanted(
            status=self.status or None,
            words=words,
            min_score=self.min_score,
            since=parse_since(self.since, now=now) if self.since else None,
            until=parse_since(self.until, now=now) if self.until else None,
        )


@dataclass(frozen=True)
class _Wanted:
    status: str | None
    words: tuple[str, ...]  # an empty one is in every text
    min_score: float | None
    since: datetime | None
    until: datetime | None

    def may_accept(self, row: IndexedRun) -> bool:
        """Whether a row that holds the words would be wanted with another status."""
        summary = row.summary
        return (
            (self.min_score is None or summary.score >= self.min_score)
            and (self.since is None or summary.created_at >= self.since)
            and (self.until is None or summary.created_at < self.until)
        )


@dataclass(frozen=True)
class Page:
    """Some runs, newest first; ``following`` is the cursor of the next page, None after the last one."""

    rows: tuple[IndexedRun, ...]
    n_found: int
    following: str | None = None


class Catalogue:
    """The runs of a storage, as the people who use a service see them.

    Parameters
    ----------
    ports
        What the runs talk to; its store must be a :class:`haystack_kernel.store.RunStore`.

    Examples
    --------
    >>> catalogue = Catalogue(connect(settings))  # doctest: +SKIP
    >>> page = catalogue.page(RunFilter(status="done"), person="ada@example.org")  # doctest: +SKIP
    """

    def __init__(self, ports: Ports) -> None:
        if not isinstance(ports.store, RunStore):
            msg = "an index of runs needs a storage on a disk or in a bucket"
            raise InvalidInputError(msg)
        self._ports, self.store = ports, ports.store
        self.index = RunIndex(ports.store, clock=ports.clock)
        self._looks: dict[str, tuple[float, IndexedRun]] = {}
        self._views: OrderedDict[str | None, VisibleRuns] = OrderedDict()
        self._lock = threading.Lock()

    def page(
        self,
        wanted: RunFilter | None = None,
        *,
        person: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Return a page of the runs that fit and that the person may see.

        Parameters
        ----------
        wanted
            Filters; None: all runs.
        person
            Who asks; None sees every run.
        after
            Cursor of an earlier page.
        limit
            Rows of a page, 200 at most.

        Returns
        -------
        The page; its statuses are as :func:`haystack_kernel.steering.describe` shows them.

        Raises
        ------
        InvalidInputError
            A filter, the cursor or the limit is refused.
        """
        if not 1 <= limit <= MAX_LIMIT:
            msg = f"limit {limit} must be between 1 and {MAX_LIMIT}"
            raise InvalidInputError(msg, limit=limit)
        checked = (wanted or RunFilter()).checked(self._ports.clock.now())
        start = _read_cursor(after) if after else None
        found: list[IndexedRun] = []
        n_found = 0
        for row in self._fitting(checked, person=person):
            n_found += 1
            if (start is None or row.order < start) and len(found) <= limit:
                found.append(row)
        rows = found[:limit]
        if checked.status is None:  # with a status every row was looked at already
            rows = [self._seen(row) for row in rows]
        following = _cursor(rows[-1]) if len(found) > limit else None
        return Page(rows=tuple(rows), n_found=n_found, following=following)

    def running_of(self, person: str | None, *, rows: Sequence[IndexedRun] | None = None) -> list[IndexedRun]:
        """Runs of a person that are being worked on, or of everybody; ``rows`` are those of the index, if known."""
        found = [
            row
            for row in (self.index.rows() if rows is None else rows)
            if row.summary.status == "running" and (person is None or (row.access and row.access.owner == person))
        ]
        return [row for row in map(self._seen, found) if row.summary.status == "running"]

    def find(self, run_id: str, *, afresh: bool = False) -> IndexedRun:
        """Return one run as it is now; ``afresh`` believes no look of the last seconds.

        Raises
        ------
        NotFoundError
            There is no such run.
        """
        if afresh:
            with self._lock:
                self._looks.pop(run_id, None)
        self.index.look_again([run_id])
        for row in self.index.rows():
            if row.summary.run_id == run_id:
                return self._seen(row)
        msg = f"there is no run {run_id!r}"
        raise NotFoundError(msg, run_id=run_id)

    def _visible(self, person: str | None) -> VisibleRuns:
        """The runs that a person may see, found anew when the index has changed."""
        rows = self.index.rows()
        with self._lock:
            known = self._views.get(person)
            if known is not None and known.source is rows:
                self._views.move_to_end(person)
                return known
        made = VisibleRuns(rows, person=person, now=self._ports.clock.now())
        with self._lock:
            self._views[person] = made
            if len(self._views) > _MAX_VIEWS:
                self._views.popitem(last=False)
        return made

    def _fitting(self, wanted: _Wanted, *, person: str | None) -> Iterator[IndexedRun]:
        for row in self._visible(person).holding(wanted.words):
            if not wanted.may_accept(row):
                continue
            if wanted.status is not None:
                if row.summary.status == "running":  # it may have ended or been left since
                    row = self._seen(row)
                if row.summary.status != wanted.status:
                    continue
            yield row

    def _seen(self, row: IndexedRun) -> IndexedRun:
        """The row with the status that a look at the run shows."""
        summary = row.summary
        if summary.status != "running":
            return row
        now = self._ports.clock.monotonic()
        with self._lock:
            known = self._looks.get(summary.run_id)
        if known is not None and now - known[0] < _LOOK_S and known[1].summary.serial >= summary.serial:
            return known[1]
        try:
            status = observed_status(summary.run_id, self._ports, now=self._ports.clock.now())
            fresh = self._ports.store.summary(summary.run_id)
        except NotFoundError:  # deleted meanwhile; the index will find out
            return row
        if fresh.status != "running":  # it ended, and its mark was not read yet or was lost
            self.index.look_again([summary.run_id])
            status = fresh.status
        looked = replace(row, summary=_with_status(fresh, status))
        with self._lock:
            if len(self._looks) > 10 * MAX_LIMIT:
                self._looks.clear()
            self._looks[summary.run_id] = (now, looked)
        return looked


def _with_status(summary: RunSummary, status: str) -> RunSummary:
    return summary.model_copy(update={"status": status})


def _cursor(row: IndexedRun) -> str:
    return base64.urlsafe_b64encode("|".join(row.order).encode()).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[str, str]:
    try:
        when, separator, run_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition("|")
        datetime.fromisoformat(when)
    except (ValueError, binascii.Error, UnicodeDecodeError) as error:
        msg = f"{text[:80]!r} is no cursor; take the one that the page before names, or leave it out"
        raise InvalidInputError(msg, after=text[:80]) from error
    if not separator:
        msg = f"{text[:80]!r} is no cursor; take the one that the page before names, or leave it out"
        raise InvalidInputError(msg, after=text[:80])
    return when, run_id
