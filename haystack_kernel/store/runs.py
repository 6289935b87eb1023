"""Run folders: ``<storage>/runs/<run_id>/`` on a disk or in a bucket, through the same code.

In: records and files. Out: a folder whose ``record/000N.json`` sequence cannot be written by two, ``run.json`` the
newest of them, and the artifacts.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError

from haystack_kernel.errors import (
    ConflictError,
    ContractError,
    InvalidInputError,
    NotFoundError,
    ServiceError,
    StorageError,
)
from haystack_kernel.schema import SCHEMA_VERSION, Access, FileRef, RunRecord, RunSummary, is_run_id
from haystack_kernel.store import layout
from haystack_kernel.store.buckets import open_files
from haystack_kernel.store.uris import check_inner_path, check_run_id, check_storage
from inference.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


_PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class StoredFile:
    """A file of a run folder as it was when it was found; ``stamp`` tells it from what may replace it."""

    path: str
    n_bytes: int
    stamp: str
    read: Callable[[int, int], bytes]

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes ``start`` to ``stop`` (exclusive) in pieces, so that no large file is held whole.

        Raises
        ------
        ConflictError
            The file was replaced meanwhile, or is shorter than it was.
        """
        for first in range(start, stop, _PIECE):
            last = min(first + _PIECE, stop)
            try:
                data = self.read(first, last)
            except FileNotFoundError:
                data = b""
            if len(data) != last - first:
                msg = f"{self.path} was replaced while it was read; read it again"
                raise ConflictError(msg, path=self.path)
            yield data


class RunStore:
    """Implements :class:`haystack_kernel.ports.Store` on a disk (or any fsspec file system) and in Cloud Storage.

    Parameters
    ----------
    storage
        Local folder or ``gs://bucket/prefix``.
    patience
        How long a failing bucket is waited for; None: five minutes by the real clock.

    Raises
    ------
    InvalidInputError
        ``storage`` is no usable address.
    MissingExtraError
        ``gs://`` without the extra ``gcp``.
    """

    def __init__(self, storage: str, *, patience: Patience | None = None) -> None:
        self.storage, self.patience = check_storage(storage), patience
        self._files, self._root = open_files(self.storage, patience=patience)
        self._impatient, _ = open_files(self.storage, patience=Patience(seconds=0))
        self._is_indexed: bool | None = None

    def create(self, record: RunRecord) -> RunRecord:
        """Save the first record of a run; ConflictError when the run exists."""
        return self.save(record.model_copy(update={"serial": 0}))

    def save(self, record: RunRecord) -> RunRecord:
        """Save ``record`` as the next of its run and copy it to ``run.json``.

        Raises
        ------
        ConflictError
            Another process saved a record with this number first; nothing was written.
        StorageError, ServiceError
            The folder cannot be written; the records before this one are whole.
        """
        saved = record.model_copy(update={"serial": record.serial + 1})
        data = saved.model_dump_json(indent=1).encode()
        path = self._record_path(saved.run_id, saved.serial)
        if not self._files.create(path, data):
            msg = (
                f"another process is working on run {saved.run_id} (it wrote record {saved.serial} first); "
                f"follow it with `haystack attach {saved.run_id}`"
            )
            raise ConflictError(msg, run_id=saved.run_id, serial=saved.serial)
        copies = {layout.NEWEST: data, layout.SUMMARY: RunSummary.of(saved).model_dump_json().encode()}
        for name, copy in copies.items():  # another process may have saved the next record, and copied it, meanwhile
            there = self._path(saved.run_id, name)
            self._files.write_newer(
                there, copy, is_older=lambda found: _serial(found) < saved.serial, is_new=saved.serial == 1
            )
        self._mark_changed(saved.run_id, "r", saved.serial)
        return saved

    def load(self, run_id: str) -> RunRecord:
        """Newest record of a run.

        Raises
        ------
        NotFoundError
            No such run; the message names the newest runs there are.
        ContractError
            The record was written by another schema version.
        """
        check_run_id(run_id)
        stems = [name.removesuffix(".json") for name in self._files.names(self._path(run_id, layout.RECORDS))]
        newest = max((int(stem) for stem in stems if stem.isdigit()), default=0)
        if newest == 0:
            known = [name for name in self._run_ids() if name != run_id][:5]
            there = f"the newest there: {', '.join(known)}" if known else "there is none yet"
            msg = f"no run {run_id!r} in {self.storage} ({there}); check --storage"
            raise NotFoundError(msg, run_id=run_id, known=known)
        path = self._record_path(run_id, newest)
        data = self._files.read(path)
        try:
            return RunRecord.model_validate_json(data)
        except ValidationError as error:
            msg = (
                f"{path} is not a run record of schema version {SCHEMA_VERSION} "
                f"({error.error_count()} fields differ); open it with the version of HAYSTACK that wrote it"
            )
            raise ContractError(msg, path=path) from error

    def has(self, run_id: str) -> bool:
        """Whether the run has a record."""
        return self.exists(run_id, layout.record_file(1))

    def summary(self, run_id: str) -> RunSummary:
        """The run in one line, from one small file; of a run without one (older, or just begun) from its record.

        Raises
        ------
        NotFoundError, ContractError
            As :meth:`load`.
        """
        path = self._path(run_id, layout.SUMMARY)
        try:
            found = RunSummary.model_validate_json(self._files.read(path))
        except (FileNotFoundError, ValidationError):
            return RunSummary.of(self.load(run_id))
        # a copy whose record is not the newest was left by a process that ended between the two, or is about to follow
        is_stale = self._files.exists(self._record_path(run_id, found.serial + 1))
        return RunSummary.of(self.load(run_id)) if is_stale else found

    def summaries(self, run_ids: Sequence[str]) -> list[tuple[RunSummary, Access | None] | None]:
        """Many runs in one line each and who may read them; None for those that are not there or cannot be read."""
        paths = [self._path(run_id, name) for run_id in run_ids for name in (layout.SUMMARY, layout.ACCESS)]
        found = self._files.read_many(paths)
        known: list[RunSummary | None] = []
        for data in found[::2]:
            try:
                known.append(RunSummary.model_validate_json(data) if data else None)
            except ValidationError:
                known.append(None)
        # as in summary(): a copy whose record is not the newest is made anew
        later = [self._record_path(run_id, one.serial + 1) for run_id, one in zip(run_ids, known, strict=True) if one]
        is_stale = iter(self._files.read_many(later))
        rows: list[tuple[RunSummary, Access | None] | None] = []
        for run_id, one, access in zip(run_ids, known, found[1::2], strict=True):
            try:
                whole = one if one is not None and next(is_stale) is None else RunSummary.of(self.load(run_id))
                rows.append((whole, _access(run_id, access)))
            except (NotFoundError, ContractError):
                rows.append(None)
        return rows

    def access(self, run_id: str) -> Access | None:
        """Whose run it is and with whom it is shared; None where no service has served it."""
        try:
            return _access(run_id, self._files.read(self._path(run_id, layout.ACCESS)))
        except FileNotFoundError:
            return None

    def claim(self, run_id: str, access: Access | None) -> None:
        """Save whose run it is, unless that is known or there is nobody to name."""
        if access is not None:
            self.change_access(run_id, lambda before: before or access)

    def change_access(self, run_id: str, change: Callable[[Access | None], Access]) -> Access:
        """Save who may read a run as ``change`` makes it of what is there; no other change is lost."""
        made: list[Access] = []

        def replace(found: bytes | None) -> bytes:
            before = None if found is None else Access.model_validate_json(found)
            serial = before.serial + 1 if before else 1
            made[:] = [change(before).model_copy(update={"serial": serial})]
            return made[0].model_dump_json().encode()

        self._files.update(self._path(run_id, layout.ACCESS), replace)
        self._mark_changed(run_id, "a", made[0].serial)
        return made[0]

    def _mark_changed(self, run_id: str, kind: str, serial: int) -> None:
        """Leave a mark for the index of all runs, where the storage has one; the index does without a mark that fails.

        Whether there is an index is asked once: a run that began before it is in it as running, and is looked at.
        """
        if self._is_indexed is None:
            self._is_indexed = self._files.exists(f"{self._root}/{layout.INDEX_FILE}")
        if self._is_indexed:
            with suppress(StorageError, ServiceError):
                self._impatient.write(f"{self._root}/{layout.change_file(run_id, kind, serial)}", b"")

    def list_runs(self) -> list[str]:
        """Return the run ids of this storage, newest first; none where it holds no run yet.

        Returns
        -------
        Run ids.

        Raises
        ------
        NotFoundError
            The storage does not exist. A bucket without any file under the prefix does.
        """
        found = self._run_ids()
        if not found and not self.storage.startswith("gs://") and not self._files.exists(self._root):
            msg = f"storage {self.storage} does not exist, so it holds no runs; check --storage or HAYSTACK_STORAGE"
            raise NotFoundError(msg, storage=self.storage)
        return found

    def uri(self, run_id: str, path: str = "") -> str:
        """Address of the run folder, or of a file in it."""
        check_run_id(run_id)
        folder = f"{self.storage}/{layout.RUNS}/{run_id}"
        return f"{folder}/{check_inner_path(path)}" if path else folder

    def write(self, run_id: str, path: str, data: bytes) -> FileRef:
        """Write a file of the run folder atomically and return its reference."""
        self._files.write(self._path(run_id, path), data)
        return FileRef(path=path, sha256=hashlib.sha256(data).hexdigest(), n_bytes=len(data))

    def create_file(self, run_id: str, path: str, data: bytes) -> bool:
        """Write a file of the run folder unless it exists; returns whether this call wrote it."""
        return self._files.create(self._path(run_id, path), data)

    def try_write(self, run_id: str, path: str, data: bytes) -> bool:
        """Write a file of the run folder without waiting for a storage that fails; returns whether it was written."""
        try:
            self._impatient.write(self._path(run_id, path), data)
        except (StorageError, ServiceError):
            return False
        return True

    def names(self, run_id: str, folder: str) -> list[str]:
        """Return the names directly below a folder of the run folder; none where there is no such folder."""
        return self._files.names(self._path(run_id, folder))

    def read(self, run_id: str, path: str) -> bytes:
        """Bytes of a file of the run folder; NotFoundError when it is not there."""
        try:
            return self._files.read(self._path(run_id, path))
        except FileNotFoundError as error:
            msg = (
                f"run {run_id} has no file {path!r} in {self.storage}; `haystack resume {run_id}` makes what is missing"
            )
            raise NotFoundError(msg, run_id=run_id, path=path) from error

    def open(self, run_id: str, path: str) -> StoredFile:
        """Find a file of the run folder, to be read piece by piece.

        Raises
        ------
        NotFoundError
            It is not there.
        """
        there = self._path(run_id, path)
        found = self._files.info(there)
        if found is None:
            msg = f"run {run_id} has no file {path!r} in {self.storage}"
            raise NotFoundError(msg, run_id=run_id, path=path)
        n_bytes, stamp = found
        return StoredFile(path, n_bytes, stamp, read=partial(self._files.read_range, there, stamp=stamp))

    def exists(self, run_id: str, path: str) -> bool:
        """Whether the run folder holds the file."""
        return self._files.exists(self._path(run_id, path))

    def files(self, run_id: str) -> dict[str, int]:
        """Every file of the run folder by its path in it, with its size in bytes; temporary ones as well."""
        folder = f"{self._root}/{layout.RUNS}/{check_run_id(run_id)}"
        return dict(sorted(self._files.sizes(folder).items()))

    def copy(self, source: str, path: str, target: str) -> None:
        """Copy a file of run ``source`` to the same path of run ``target``; in a bucket no byte passes through here.

        Raises
        ------
        NotFoundError
            The source has no such file.
        """
        there, here = self._path(source, path), self._path(target, path)
        try:
            self._files.copy(there, here)
        except FileNotFoundError as error:
            msg = f"run {source} has no file {path!r} in {self.storage}"
            raise NotFoundError(msg, run_id=source, path=path) from error

    def remove(self, run_id: str, paths: Iterable[str]) -> None:
        """Delete files of a run folder; those that are gone already are no error. Records are never deleted.

        Raises
        ------
        InvalidInputError
            A path is part of the run's record.
        """
        wanted = list(paths)
        if kept := [path for path in wanted if layout.is_record(path)]:
            msg = f"{', '.join(kept)} of run {run_id} is its record, which is never deleted"
            raise InvalidInputError(msg, run_id=run_id)
        for path in wanted:
            self._files.remove(self._path(run_id, path))

    def _run_ids(self) -> list[str]:
        names = self._files.names(f"{self._root}/{layout.RUNS}")
        return sorted((name for name in names if is_run_id(name)), reverse=True)

    def _path(self, run_id: str, path: str) -> str:
        return f"{self._root}/{layout.RUNS}/{check_run_id(run_id)}/{check_inner_path(path)}"

    def _record_path(self, run_id: str, serial: int) -> str:
        return self._path(run_id, layout.record_file(serial))


def _access(run_id: str, data: bytes | None) -> Access | None:
    if data is None:
        return None
    try:
        return Access.model_validate_json(data)
    except ValidationError as error:
        msg = f"who may read run {run_id} cannot be told: its access file is damaged, or of another version"
        raise ContractError(msg, run_id=run_id) from error


def _serial(data: bytes) -> int:
    """Serial of a stored record; -1 of what is none, which any record may replace."""
    try:
        return int(json.loads(data)["serial"])
    except (ValueError, KeyError, TypeError):
        return -1
