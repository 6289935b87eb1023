"""Which predictions of a job are still to be made, so that another attempt costs only those.

In: a manifest's address. Out: ids of tasks, and the manifest of the tasks that are missing.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError, NotFoundError
from haystack_kernel.store.files import open_filesystem, storage_errors, write_atomically
from inference.manifest import RESULT_SUFFIX, Manifest, ManifestError, dump_manifest, parse_manifest, parse_result

if TYPE_CHECKING:
    from collections.abc import Collection


def missing_tasks(manifest: Manifest) -> tuple[str, ...]:
    """Ids of the tasks without a whole output: the program writes the result file beside it last."""
    present: dict[str, set[str]] = {}
    missing = []
    for task in manifest.tasks:
        folder, _, name = task.output.rpartition("/")
        if folder not in present:
            present[folder] = _names(folder)
        if not {name, name + RESULT_SUFFIX} <= present[folder]:
            missing.append(task.id)
    return tuple(missing)


def is_complete(manifest: Manifest) -> bool:
    """Whether every output is there and has the digest that its result file states; reads them all if so."""
    if missing_tasks(manifest):
        return False
    try:
        return all(
            hashlib.sha256(_read(task.output)).hexdigest() == parse_result(_read(task.output + RESULT_SUFFIX)).sha256
            for task in manifest.tasks
        )
    except (FileNotFoundError, ManifestError):
        return False


def read_manifest(uri: str) -> Manifest:
    """The manifest at an address.

    Raises
    ------
    NotFoundError, ContractError
        It is not there, or no manifest of this version.
    """
    try:
        manifest: Manifest = parse_manifest(_read(uri))
    except FileNotFoundError as error:
        msg = f"the job's manifest {uri} is gone; ask the question again as a new run"
        raise NotFoundError(msg, uri=uri) from error
    except ManifestError as error:
        msg = f"the job's manifest {uri} cannot be used: {error}. Ask the question again as a new run"
        raise ContractError(msg, uri=uri) from error
    return manifest


def write_part(uri: str, manifest: Manifest, *, tasks: Collection[str]) -> None:
    """Write the manifest that has only ``tasks``."""
    fs, path = open_filesystem(uri)
    kept = tuple(task for task in manifest.tasks if task.id in tasks)
    write_atomically(fs, path, dump_manifest(replace(manifest, tasks=kept)).encode())


def _read(uri: str) -> bytes:
    fs, path = open_filesystem(uri)
    with storage_errors(path):
        data: bytes = fs.cat_file(path)
    return data


def _names(folder: str) -> set[str]:
    fs, path = open_filesystem(folder)
    try:
        with storage_errors(path):
            names = fs.ls(path, detail=False)
    except FileNotFoundError:
        return set()
    return {name.rstrip("/").rsplit("/", 1)[-1] for name in names}
