"""Run folders: ``<storage>/runs/<run_id>/`` on a disk or in a bucket, through the same code.

In: records and files. Out: a folder whose ``record/000N.json`` sequence cannot be written by two, ``run.json`` the
newest of them, and the artifacts.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pydantic import ValidationError

from haystack_kernel.errors import ConflictError, ContractError, NotFoundError
from haystack_kernel.schema import SCHEMA_VERSION, FileRef, RunRecord, is_run_id
from haystack_kernel.store.files import create_exclusively, open_filesystem, storage_errors, write_atomically
from haystack_kernel.store.uris import check_inner_path, check_run_id, check_storage

if TYPE_CHECKING:
    from collections.abc import Sequence


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
