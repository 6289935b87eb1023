"""Which predictions of a job are still to be made, so that another attempt costs only those.

In: a manifest's address. Out: ids of tasks, and the manifest of the tasks that are missing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError, NotFoundError
from haystack_kernel.store.buckets import open_files
from inference.manifest import RESULT_SUFFIX, Manifest, ManifestError, dump_manifest, parse_manifest

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


def read_manifest(uri: str) -> Manifest:
    """The manifest at an address.

    Raises
    ------
    NotFoundError, ContractError
        It is not there, or no manifest of this version.
    """
    files, path = open_files(uri)
    try:
        manifest: Manifest = parse_manifest(files.read(path))
    except FileNotFoundError as error:
        msg = f"the job's manifest {uri} is gone; ask the question again as a new run"
        raise NotFoundError(msg, uri=uri) from error
    except ManifestError as error:
        msg = f"the job's manifest {uri} cannot be used: {error}. Ask the question again as a new run"
        raise ContractError(msg, uri=uri) from error
    return manifest


def write_part(uri: str, manifest: Manifest, *, tasks: Collection[str]) -> None:
    """Write the manifest that has only ``tasks``."""
    files, path = open_files(uri)
    kept = tuple(task for task in manifest.tasks if task.id in tasks)
    files.write(path, dump_manifest(replace(manifest, tasks=kept)).encode())


def _names(folder: str) -> set[str]:
    files, path = open_files(folder)
    return set(files.names(path))
