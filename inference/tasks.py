"""The parts of a task: its cells are read, it is computed, its output is published, and then its result file.

In: a task, or several that are computed together. Out: an h5ad at each output address and ``<output>.result.json``, or
nothing.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import inference
from inference.baselines import Prediction
from inference.files import exists, local_copy, publish, read_bytes, remove, sha256_of, write_text
from inference.inputs import input_uris
from inference.manifest import (
    EMBED,
    ERROR_SUFFIX,
    MODEL_ENGINE,
    RESULT_SUFFIX,
    ManifestError,
    TaskResult,
    dump_result,
    parse_result,
)
from inference.outputs import write_embedding, write_prediction
from inference.resample import resample_cells
from inference.stack.asked import Asked
from inference.stack.genes import coverage_warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inference.baselines import Cells
    from inference.engines import Engines
    from inference.inputs import Inputs, Loaded
    from inference.manifest import Task
    from inference.stack.embed import Embedding
    from inference.stop import Stop

Made: TypeAlias = "Prediction | Embedding"  # what comes of a task


@dataclass(frozen=True)
class Prepared:
    """A task with its inputs."""

    digests: dict[str, str]  # of every input, the model's files and the settings
    loaded: dict[str, Loaded]  # role -> cells; empty for a task that is done
    is_done: bool


def prepare(task: Task, *, engines: Engines, inputs: Inputs, folder: Path) -> Prepared:
    """Download and read the inputs of a task, unless its output already exists and was made from the same inputs.

    Raises
    ------
    InputError, ModelError, UriError, StorageError
        A file is missing, unusable or out of reach.
    """
    uris = input_uris(task)
    digests = {role: inputs.digest(uri) for role, uri in uris.items()} | engines.digests(task.engine, kind=task.kind)
    if is_done(task, digests=digests, folder=folder):
        return Prepared(digests, {}, is_done=True)
    return Prepared(digests, {role: inputs.cells(uri) for role, uri in uris.items()}, is_done=False)


def compute(tasks: Sequence[tuple[Task, Prepared]], *, engines: Engines) -> list[Callable[[], Made]]:
    """Predict or embed, tasks of the model in common batches.

    Returns
    -------
    For each task a function that puts its result together, or raises its error. It may be called in another thread.
    """
    (first, prepared), *others = tasks
    if not others and first.kind == EMBED:
        embedding = engines.embed(prepared.loaded["query"].cells)
        return [lambda: embedding]
    if first.engine == MODEL_ENGINE:
        asked = [Asked(_prompt(task, item), item.loaded["query"].cells, task.seed) for task, item in tasks]
        return [*engines.predict(asked)]
    control, more = prepared.loaded.get("control"), prepared.loaded.get("others")
    prediction = engines.find(first.engine)(
        prompt=_prompt(first, prepared),
        control=control.cells if control else None,
        query=prepared.loaded["query"].cells,
        seed=first.seed,
        **({} if more is None else {"others": more.as_others()}),
    )
    return [lambda: prediction]


def finish_task(
    task: Task,
    prepared: Prepared,
    made: Made,
    *,
    engines: Engines,
    folder: Path,
    stop: Stop,
    seconds: Callable[[], float],
) -> TaskResult:
    """Write and publish what was made for a task.

    Parameters
    ----------
    task
        What to predict and where to write it.
    prepared
        Inputs of the task, which is not done yet.
    made
        What was made of them.
    engines
        The job's engines.
    folder
        Local scratch space.
    stop
        Ends the work before output and result are published, but not between them.
    seconds
        Returns the seconds that the task has taken so far.

    Returns
    -------
    The published result.

    Raises
    ------
    StorageError
        The storage cannot be used; nothing is published.
    """
    path = folder / "output.h5ad"
    if isinstance(made, Prediction):
        record, shape = _write_prediction(task, prepared, made, engines=engines, path=path)
    else:
        record, shape = _write_embedding(task, prepared, made, engines=engines, path=path)
    result = TaskResult(
        id=task.id,
        engine=task.engine,
        kind=task.kind,
        output=task.output,
        sha256=sha256_of(path),
        n_cells=shape[0],
        n_genes=shape[1],
        seconds=round(seconds(), 3),
        frac_genes_found=record["frac_genes_found"],
        peak_memory_gib=round(engines.peak_memory_gib, 3),
        seed=task.seed,
        versions=record["versions"],
        inputs=prepared.digests,
        notes=tuple(record["notes"]),
    )
    stop.check()
    remove(task.output + RESULT_SUFFIX)  # an older result must not stand beside the new output
    publish(path, task.output)
    write_text(dump_result(result), task.output + RESULT_SUFFIX, folder=folder)
    remove(task.output + ERROR_SUFFIX)
    return result


def is_done(task: Task, *, digests: dict[str, str], folder: Path) -> bool:
    """Whether the output exists, is complete, and was made by this task from these inputs."""
    try:
        result = parse_result(read_bytes(task.output + RESULT_SUFFIX))
    except (FileNotFoundError, ManifestError):
        return False
    asked = (task.id, task.engine, task.kind, task.seed, digests)
    found = (result.id, result.engine, result.kind, result.seed, result.inputs)
    if found != asked or not exists(task.output):
        return False
    path = local_copy(task.output, folder=folder)
    is_same = sha256_of(path) == result.sha256
    if path.parent == folder:
        path.unlink()
    return is_same


def _prompt(task: Task, prepared: Prepared) -> Cells:
    cells = prepared.loaded["prompt"].cells
    return resample_cells(cells, seed=task.seed) if task.resample else cells


def _write_prediction(
    task: Task, prepared: Prepared, prediction: Prediction, *, engines: Engines, path: Path
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Write a prediction; returns its record and its shape."""
    query = prepared.loaded["query"]
    record = {
        **prediction.record,
        **_record(task, prepared, engines, notes=(*prediction.notes, *coverage_warnings(prediction.record))),
        "frac_genes_found": float(np.mean(prediction.changeable)),
        "weights": prediction.weights,
    } | ({"resampled": True} if task.resample else {})
    known = engines.known_genes(task.engine, query.cells.genes)
    write_prediction(prediction, query, known=known, record=json.dumps(record, sort_keys=True), path=path)
    return record, prediction.counts.shape


def _write_embedding(
    task: Task, prepared: Prepared, embedding: Embedding, *, engines: Engines, path: Path
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Write an embedding; returns its record and the shape of the query."""
    query = prepared.loaded["query"]
    record = {
        **embedding.record,
        **_record(task, prepared, engines, notes=(*embedding.notes, *coverage_warnings(embedding.record))),
        "frac_genes_found": float(np.mean(embedding.known)),
    }
    write_embedding(
        embedding.vectors, query, known=embedding.known, record=json.dumps(record, sort_keys=True), path=path
    )
    return record, query.checked.counts.shape


def _record(task: Task, prepared: Prepared, engines: Engines, *, notes: tuple[str, ...]) -> dict[str, Any]:
    """Entries that every output's record has."""
    versions = {name: _version_of(name) for name in ("anndata", "h5py", "numpy", "scipy")}
    versions |= {"inference": inference.__version__, "python": platform.python_version()}
    of_inputs = [note for item in prepared.loaded.values() for note in item.notes]
    return {
        "engine": task.engine,
        "inputs": prepared.digests,
        "kind": task.kind,
        "notes": list(dict.fromkeys([*of_inputs, *notes])),
        "program": inference.__version__,
        "seed": task.seed,
        "source": {role: item.checked.source for role, item in prepared.loaded.items()},
        "versions": versions | engines.versions(task.engine),
    }


@cache
def _version_of(package: str) -> str:
    """Version of a package; reading its metadata takes some milliseconds."""
    return version(package)
