"""All runs of a storage in one file, so that ten thousand are listed without opening ten thousand folders.

In: a storage. Out: :class:`RunIndex`, which holds one row per run in memory and keeps the file of the storage.

The file is a copy: what is true stands in the run folders. Whoever saves a record or changes who may read a run leaves
an empty mark beside the file. A reader looks at the marks, reads those runs again, and now and then folds them into the
file and removes the marks it folded. Marks are never used twice, and the file is replaced only as it was read, so that
of several readers and writers none loses what another wrote. A mark may be lost with the process that was about to
leave it: runs that count as running are therefore looked at, and all folders are counted now and then.
"""

from __future__ import annotations

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import ValidationError

from haystack_kernel.errors import HaystackError, NotFoundError
from haystack_kernel.schema import Access, RunSummary, is_run_id
from haystack_kernel.store import layout
from haystack_kernel.store.buckets import open_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from haystack_kernel.ports import Clock
    from haystack_kernel.store.runs import RunStore

VERSION = 2
_DAMAGED = (ValueError, KeyError, TypeError, OSError, EOFError)  # of a file of another version, too, or of one removed
_N_THREADS = 16
_MANY_MARKS = 100  # then they are folded at once
_FOLD_S = 60.0  # a mark waits so long at most
_COUNT_S = 600.0  # between two comparisons with the folders there are
_REFRESH_S = 0.5  # what was looked at less long ago is served as it is
_STALE_S = 5.0  # what was looked at less long ago is served while somebody looks again


@dataclass(frozen=True)
class IndexedRun:
    """One run of the index: its summary, and whose it is (None: of nobody that a service knows)."""

    summary: RunSummary
    access: Access | None = None

    @cached_property
    def order(self) -> tuple[str, str]:
        """Sorts runs by age; the id tells those of the same moment apart."""
        return f"{self.summary.created_at:%Y-%m-%dT%H:%M:%S.%f}", self.summary.run_id

    @cached_property
    def words(self) -> tuple[str, str, str, str]:
        """What is searched, ignoring case: question and id, cell type, treatment, owner."""
        summary = self.summary
        texts = (f"{summary.question}\n{summary.run_id}", summary.cell_type, summary.treatment)
        first, second, third = (text.casefold() for text in texts)
        return first, second, third, self.access.owner.casefold() if self.access else ""

    @cached_property
    def line(self) -> str:
        """The row as a line of the file."""
        access = self.access.model_dump_json() if self.access else "null"
        return f"[{json.dumps(self.summary.run_id)},{self.summary.model_dump_json()},{access}]"


class RunIndex:
    """The runs of a storage, in memory and in one file.

    Parameters
    ----------
    store
        The run folders.
    clock
        Says when the index is due to be looked at again.
    """

    def __init__(self, store: RunStore, *, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._files, self._root = open_files(store.storage, patience=store.patience)
        self._rows: dict[str, IndexedRun] = {}
        self._ordered: list[IndexedRun] | None = None
        self._stamp: str | None = None
        self._seen: set[str] = set()
        self._refreshed_at = self._counted_at = float("-inf")
        self._folded_at = clock.monotonic()
        self._n_begun = 0  # refreshes, of which the newest failed with:
        self._failure: HaystackError | None = None
        self._lock = threading.Lock()

    def rows(self) -> list[IndexedRun]:
        """Return all runs, newest first, as they were a few seconds ago at most.

        Returns
        -------
        One row per run. What was looked at seconds ago is returned at once, and looked at again behind the caller.
        """
        now = self._clock.monotonic()
        ordered = self._ordered
        if ordered is None or now - self._refreshed_at >= _STALE_S:
            return self.refresh()
        if now - self._refreshed_at >= _REFRESH_S and self._lock.acquire(blocking=False):
            try:
                self._refreshed_at = now  # so that one look is under way
            finally:
                self._lock.release()
            threading.Thread(target=self._refresh_quietly, name="run index", daemon=True).start()
        return ordered

    def refresh(self) -> list[IndexedRun]:
        """Bring the rows up to date; several callers at once share what one of them finds, or its failure.

        Returns
        -------
        One row per run, newest first.
        """
        n_begun = self._n_begun
        with self._lock:
            if self._n_begun > n_begun:  # one began after this call, and has ended
                if self._failure is not None:
                    raise self._failure
                return self._sorted()
            self._n_begun += 1
            now = self._clock.monotonic()
            self._failure = None
            try:
                self._refresh(now)
            except HaystackError as error:
                self._failure = error
                raise
            self._refreshed_at = now
            return self._sorted()

    def _refresh_quietly(self) -> None:
        with suppress(HaystackError):  # the next caller that has to wait is told
            self.refresh()

    def _sorted(self) -> list[IndexedRun]:
        if self._ordered is None:
            self._ordered = sorted(self._rows.values(), key=lambda row: row.order, reverse=True)
        return self._ordered

    def look_again(self, run_ids: Iterable[str]) -> None:
        """Read some runs again, e.g. those that count as running and were found otherwise."""
        with self._lock:
            self._read(run_ids)
            self._sorted()

    def rebuild(self) -> int:
        """Read every run folder again and replace the file.

        Returns
        -------
        The number of runs.
        """
        with self._lock:
            self._rows, self._ordered = {}, None
            self._read(self._run_ids())
            self._fold(self._marks(), replace=True)
            return len(self._rows)

    def _refresh(self, now: float) -> None:
        """Bring the rows up to date: marks before the file, so that what another reader folds is not missed."""
        marks = self._marks()
        stamp = self._files.stamp(self._path(layout.INDEX_FILE))
        is_new = stamp is None
        if stamp is not None and stamp != self._stamp:
            try:
                self._merge(_decode(self._files.read(self._path(layout.INDEX_FILE)), known=self._rows))
                self._stamp = stamp
            except _DAMAGED:
                is_new = True
        if is_new or now - self._counted_at >= _COUNT_S:
            self._count(everything=is_new)
            self._counted_at = now
        self._read({mark.partition(".")[0] for mark in marks - self._seen})
        self._seen = set(marks)
        if is_new or len(marks) >= _MANY_MARKS or (marks and now - self._folded_at >= _FOLD_S):
            self._fold(marks, replace=is_new)
            self._folded_at = now

    def _count(self, *, everything: bool) -> None:
        """Compare the rows with the folders there are; runs that count as running are read again."""
        there = self._run_ids()
        gone = self._rows.keys() - set(there)
        for run_id in gone:
            del self._rows[run_id]
        self._ordered = None if gone else self._ordered
        running = {row.summary.run_id for row in self._rows.values() if row.summary.status == "running"}
        self._read(there if everything else [name for name in there if name not in self._rows or name in running])

    def _run_ids(self) -> list[str]:
        try:
            return self._store.list_runs()
        except NotFoundError:  # a storage that the first run will make
            return []

    def _read(self, run_ids: Iterable[str]) -> None:
        wanted = [run_id for run_id in run_ids if is_run_id(run_id)]
        if not wanted:
            return
        for run_id, found in zip(wanted, self._store.summaries(wanted), strict=True):
            if found is not None:
                self._keep(IndexedRun(*found))
            elif run_id in self._rows:  # deleted
                del self._rows[run_id]
        self._ordered = None

    def _keep(self, row: IndexedRun) -> None:
        """Take a row over unless a newer one is known."""
        known = self._rows.get(row.summary.run_id)
        if known is not None:
            summary = row.summary if row.summary.serial >= known.summary.serial else known.summary
            serials = [one.access.serial if one.access else 0 for one in (row, known)]
            row = IndexedRun(summary, row.access if serials[0] >= serials[1] else known.access)
        self._rows[row.summary.run_id] = row

    def _merge(self, rows: Mapping[str, IndexedRun]) -> None:
        for row in rows.values():
            self._keep(row)
        self._ordered = None

    def _fold(self, marks: set[str], *, replace: bool) -> None:
        """Write the rows to the file, with what others wrote there, and remove the marks that it holds now."""

        def change(found: bytes | None) -> bytes:
            if found is not None and not replace:
                with suppress(*_DAMAGED):
                    self._merge(_decode(found, known=self._rows))
            return _encode(self._rows)

        self._files.update(self._path(layout.INDEX_FILE), change)
        self._stamp = self._files.stamp(self._path(layout.INDEX_FILE))
        with ThreadPoolExecutor(_N_THREADS) as pool:
            list(pool.map(lambda mark: self._files.remove(self._path(f"{layout.CHANGED}/{mark}")), marks))
        self._seen -= marks

    def _marks(self) -> set[str]:
        return {name for name in self._files.names(self._path(layout.CHANGED)) if not name.startswith(".")}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _encode(rows: Mapping[str, IndexedRun]) -> bytes:
    lines = [json.dumps({"version": VERSION}), *(row.line for row in rows.values())]
    return gzip.compress("\n".join(lines).encode(), compresslevel=3, mtime=0)


def _decode(data: bytes, *, known: Mapping[str, IndexedRun]) -> dict[str, IndexedRun]:
    """Rows by run id, but for those that are known as they are; ValueError for a damaged file or another version."""
    head, *lines = gzip.decompress(data).decode().split("\n")
    if json.loads(head)["version"] != VERSION:
        msg = f"version {head[:40]}"
        raise ValueError(msg)
    seen = {row.line for row in known.values()}
    rows = {}
    for line in lines:
        if line in seen:
            continue
        run_id, summary, access = json.loads(line)
        try:
            row = IndexedRun(RunSummary.model_validate(summary), Access.model_validate(access) if access else None)
        except ValidationError:  # of a version with other fields: its folder is read when the folders are counted
            continue
        rows[run_id] = row
    return rows
