"""Find the predictions of a job that are still missing, so that another attempt costs only those.

In: a manifest's address. Out: ids of tasks, and the manifest of the missing tasks.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError, NotFoundError
from inference.manifest import RESULT_SUFFIX, Manifest, ManifestError, dump_manifest, parse_manifest, parse_result

if TYPE_CHECKING:
    from collections.abc import Collection

    from haystack_kernel.jobs.places import Places


def missing_tasks(manifest: Manifest, places: Places) -> tuple[str, ...]:
    """Return the ids of the tasks without a whole output, which the result file, written last, shows."""
    present: dict[str, set[str]] = {}
    missing = []
    for task in manifest.tasks:
        folder, _, name = task.output.rpartition("/")
        if folder not in present:
            present[folder] = set(places.names(folder))
        if not {name, name + RESULT_SUFFIX} <= present[folder]:
            missing.append(task.id)
    return tuple(missing)


def is_complete(manifest: Manifest, places: Places) -> bool:
    """Whether every output exists and has the digest that its result file states; this reads all of them."""
    if missing_tasks(manifest, places):
        return False
    try:
        return all(
            hashlib.sha256(places.read(task.output)).hexdigest()
            == parse_result(places.read(task.output + RESULT_SUFFIX)).sha256
            for task in manifest.tasks
        )
    except (FileNotFoundError, ManifestError):
        return False


def read_manifest(uri: str, places: Places) -> Manifest:
    """Read the manifest at an address.

    Raises
    ------
    NotFoundError
        It does not exist.
    ContractError
        It is not a manifest of this version.
    """
    try:
        manifest: Manifest = parse_manifest(places.read(uri))
    except FileNotFoundError as error:
        msg = f"the job's manifest {uri} is gone; ask the question again as a new run"
        raise NotFoundError(msg, uri=uri) from error
    except ManifestError as error:
        msg = f"the job's manifest {uri} cannot be used: {error}. Ask the question again as a new run"
        raise ContractError(msg, uri=uri) from error
    return manifest


def write_part(uri: str, manifest: Manifest, *, tasks: Collection[str], places: Places) -> None:
    """Write a manifest that contains only ``tasks``."""
    kept = tuple(task for task in manifest.tasks if task.id in tasks)
    places.write(uri, dump_manifest(replace(manifest, tasks=kept)).encode())
