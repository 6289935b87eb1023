"""Run folders: ``<storage>/runs/<run_id>/`` on a disk or in a bucket, through the same code.

In: records and files. Out: a folder whose ``record/000N.json`` sequence cannot be written by two, ``run.json`` the
newest of them, and the artifacts.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from haystack_kernel.errors import ConflictError, ContractError, InvalidInputError, NotFoundError
from haystack_kernel.schema import SCHEMA_VERSION, FileRef, RunRecord, RunSummary, is_run_id
from haystack_kernel.store.files import create_exclusively, is_local, open_filesystem, storage_errors, write_atomically
from haystack_kernel.store.uris import check_inner_path, check_run_id, check_storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUMMARY = "summary.json"


class RunStore:
    """Implements :class:`haystack_kernel.ports.Store` over fsspec.

    Parameters
    ----------
    storage
        Local folder or ``gs://bucket/prefix``.

    Raises
    ------
    InvalidInputError
        ``storage`` is no usable address.
    MissingExtraError
        ``gs://`` without gcsfs.
    """

    def __init__(self, storage: str) -> None:
        self.storage = check_storage(storage)
        self._fs, self._root = open_filesystem(self.storage)

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
        if not create_exclusively(self._fs, path, data):
            msg = (
                f"another process is working on run {saved.run_id} (it wrote record {saved.serial} first); "
                f"follow it with `haystack attach {saved.run_id}`"
            )
            raise ConflictError(msg, run_id=saved.run_id, serial=saved.serial)
        write_atomically(self._fs, self._path(saved.run_id, "run.json"), data)
        summary = RunSummary.of(saved).model_dump_json().encode()
        write_atomically(self._fs, self._path(saved.run_id, SUMMARY), summary)
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
        serials = self._serials(run_id)
        if not serials:
            known = [name for name in self.list_runs() if name != run_id][:5]
            there = f"the newest there: {', '.join(known)}" if known else "there is none yet"
            msg = f"no run {run_id!r} in {self.storage} ({there}); check --storage"
            raise NotFoundError(msg, run_id=run_id, known=known)
        return self._parse(self._record_path(run_id, serials[-1]))

    def has(self, run_id: str) -> bool:
        """Whether the run has a record."""
        return self.exists(run_id, "record/0001.json")

    def summary(self, run_id: str) -> RunSummary:
        """The run in one line, from one small file; of a run without one (older, or just begun) from its record.

        Raises
        ------
        NotFoundError, ContractError
            As :meth:`load`.
        """
        path = self._path(run_id, SUMMARY)
        try:
            with storage_errors(path):
                return RunSummary.model_validate_json(self._fs.cat_file(path))
        except (FileNotFoundError, ValidationError):
            return RunSummary.of(self.load(run_id))

    def list_runs(self) -> list[str]:
        """Run ids in this storage, newest first."""
        folder = f"{self._root}/runs"
        try:
            with storage_errors(folder):
                names: Sequence[str] = self._fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        ids = [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
        return sorted((name for name in ids if is_run_id(name)), reverse=True)

    def uri(self, run_id: str, path: str = "") -> str:
        """Address of the run folder, or of a file in it."""
        check_run_id(run_id)
        folder = f"{self.storage}/runs/{run_id}"
        return f"{folder}/{check_inner_path(path)}" if path else folder

    def write(self, run_id: str, path: str, data: bytes) -> FileRef:
        """Write a file of the run folder atomically and return its reference."""
        write_atomically(self._fs, self._path(run_id, path), data)
        return FileRef(path=path, sha256=hashlib.sha256(data).hexdigest(), n_bytes=len(data))

    def read(self, run_id: str, path: str) -> bytes:
        """Bytes of a file of the run folder; NotFoundError when it is not there."""
        full = self._path(run_id, path)
        try:
            with storage_errors(full):
                data: bytes = self._fs.cat_file(full)
        except FileNotFoundError as error:
            msg = (
                f"run {run_id} has no file {path!r} in {self.storage}; `haystack resume {run_id}` makes what is missing"
            )
            raise NotFoundError(msg, run_id=run_id, path=path) from error
        return data

    def exists(self, run_id: str, path: str) -> bool:
        """Whether the run folder holds the file."""
        full = self._path(run_id, path)
        with storage_errors(full):
            return bool(self._fs.exists(full))

    def files(self, run_id: str) -> dict[str, int]:
        """Every file of the run folder by its path in it, with its size in bytes; temporary ones as well."""
        folder = f"{self._root}/runs/{check_run_id(run_id)}"
        try:
            with storage_errors(folder):
                found = self._fs.find(folder, detail=True)
        except FileNotFoundError:
            return {}
        return {name.removeprefix(folder + "/"): int(info["size"] or 0) for name, info in sorted(found.items())}

    def copy(self, source: str, path: str, target: str) -> None:
        """Copy a file of run ``source`` to the same path of run ``target``; in a bucket no byte passes through here.

        Raises
        ------
        NotFoundError
            The source has no such file.
        """
        there, here = self._path(source, path), self._path(target, path)
        try:
            with storage_errors(there):
                if is_local(self._fs):
                    write_atomically(self._fs, here, self._fs.cat_file(there))
                else:
                    self._fs.cp_file(there, here)
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
        if kept := [path for path in wanted if path.startswith("record/") or path in ("run.json", SUMMARY)]:
            msg = f"{', '.join(kept)} of run {run_id} is its record, which is never deleted"
            raise InvalidInputError(msg, run_id=run_id)
        for path in wanted:
            full = self._path(run_id, path)
            with suppress(FileNotFoundError), storage_errors(full):
                self._fs.rm_file(full)

    def _path(self, run_id: str, path: str) -> str:
        return f"{self._root}/runs/{check_run_id(run_id)}/{check_inner_path(path)}"

    def _record_path(self, run_id: str, serial: int) -> str:
        return self._path(run_id, f"record/{serial:04d}.json")

    def _serials(self, run_id: str) -> list[int]:
        folder = self._path(run_id, "record")
        try:
            with storage_errors(folder):
                names = self._fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        stems = [name.rsplit("/", 1)[-1].removesuffix(".json") for name in names]
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def _parse(self, path: str) -> RunRecord:
        with storage_errors(path):
            data = self._fs.cat_file(path)
        try:
            return RunRecord.model_validate_json(data)
        except ValidationError as error:
            msg = (
                f"{path} is not a run record of schema version {SCHEMA_VERSION} "
                f"({error.error_count()} fields differ); open it with the version of HAYSTACK that wrote it"
            )
            raise ContractError(msg, path=path) from error
