"""The contract between the kernel and the inference program: what to predict, where to put it. Standard library only.

In: JSON text. Out: frozen dataclasses, checked field by field.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

MANIFEST_VERSION = 1
ENGINES = ("none", "mean", "shift", "weighted")
RESULT_SUFFIX = ".result.json"  # written beside each output, after it: its presence means the output is whole
ERROR_SUFFIX = ".error.json"  # written beside where the output would be when its task failed; gone once it succeeds


class ManifestError(ValueError):
    """The manifest cannot be run as written; the message says which field and what is allowed."""


@dataclass(frozen=True)
class Task:
    """One prediction: transform ``query`` as ``prompt`` differs from ``control``; all are h5ad URIs."""

    id: str
    prompt: str
    query: str
    output: str
    seed: int
    engine: str
    control: str | None = None  # matched unperturbed cells; None: the engine must not need them


@dataclass(frozen=True)
class Manifest:
    """All tasks of one job."""

    tasks: tuple[Task, ...]
    model: str | None = None  # checkpoint URI; None for the engines that need none
    genelist: str | None = None
    diffusion_steps: int = 5
    batch_size: int = 32
    precision: str = "auto"
    version: int = MANIFEST_VERSION


@dataclass(frozen=True)
class TaskResult:
    """What is written beside an output once it is published."""

    id: str
    engine: str
    output: str
    sha256: str
    n_cells: int
    n_genes: int
    seconds: float
    frac_genes_found: float  # share of the query's genes that the engine could change
    peak_memory_gib: float
    seed: int
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)  # role -> sha256 of the file read: a rerun skips on equality
    notes: tuple[str, ...] = ()


def dump_manifest(manifest: Manifest) -> str:
    """Write ``manifest`` as JSON text, keys sorted so that equal manifests give equal bytes."""
    return json.dumps(asdict(manifest), indent=1, sort_keys=True)


def parse_manifest(text: str | bytes) -> Manifest:
    """Read a manifest and check every field.

    Raises
    ------
    ManifestError
        Not JSON, another version, unknown or missing fields, an unknown engine, repeated task ids or outputs.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        msg = f"the manifest is not valid JSON ({error}); write it with inference.manifest.dump_manifest"
        raise ManifestError(msg) from error
    if not isinstance(raw, dict):
        msg = f"the manifest must be a JSON object, got {type(raw).__name__}"
        raise ManifestError(msg)
    version = raw.get("version")
    if version != MANIFEST_VERSION:
        msg = f"manifest version {version!r}, this program reads {MANIFEST_VERSION}: install matching versions of both"
        raise ManifestError(msg)
    tasks = raw.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        msg = "the manifest needs a non-empty list 'tasks'"
        raise ManifestError(msg)
    manifest = _build(Manifest, {**raw, "tasks": tuple(_parse_task(task) for task in tasks)})
    for name in ("diffusion_steps", "batch_size"):
        value = getattr(manifest, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            msg = f"{name!r} must be a whole number of at least 1, got {value!r}"
            raise ManifestError(msg)
    for name in ("id", "output"):
        values = [getattr(task, name) for task in manifest.tasks]
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            msg = f"tasks must differ in {name!r}; repeated: {repeated}"
            raise ManifestError(msg)
    return manifest


def dump_result(result: TaskResult) -> str:
    """Write a task's result as JSON text."""
    return json.dumps(asdict(result), indent=1, sort_keys=True)


def parse_result(text: str | bytes) -> TaskResult:
    """Read a task's result; raises :class:`ManifestError` when it is not one."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        msg = f"the result file is not valid JSON ({error}); delete it and run the task again"
        raise ManifestError(msg) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("notes", []), list):
        msg = "the result file is not the JSON object of a task; delete it and run the task again"
        raise ManifestError(msg)
    return _build(TaskResult, {**raw, "notes": tuple(raw.get("notes", []))})


def _parse_task(raw: object) -> Task:
    if not isinstance(raw, dict):
        msg = f"each task must be a JSON object, got {type(raw).__name__}"
        raise ManifestError(msg)
    task = _build(Task, raw)
    for name in ("id", "prompt", "query", "output"):
        if not isinstance(getattr(task, name), str) or not getattr(task, name):
            msg = f"task {task.id!r}: {name!r} must be a non-empty string, got {getattr(task, name)!r}"
            raise ManifestError(msg)
    if not (task.control is None or (isinstance(task.control, str) and task.control)):
        msg = f"task {task.id!r}: 'control' must be a non-empty string or null, got {task.control!r}"
        raise ManifestError(msg)
    if not isinstance(task.seed, int) or isinstance(task.seed, bool):
        msg = f"task {task.id!r}: 'seed' must be a whole number, got {task.seed!r}"
        raise ManifestError(msg)
    if task.engine not in ENGINES:
        msg = f"task {task.id!r}: unknown engine {task.engine!r}; possible: {', '.join(ENGINES)}"
        raise ManifestError(msg)
    return task


def _build(kind: type[Any], raw: dict[str, Any]) -> Any:  # noqa: ANN401 - one of the three dataclasses above
    known = kind.__dataclass_fields__
    if unknown := sorted(set(raw) - set(known)):
        msg = f"{kind.__name__} has no field {unknown}; it has {sorted(known)}"
        raise ManifestError(msg)
    try:
        return kind(**raw)
    except TypeError as error:
        msg = f"{kind.__name__} is incomplete: {error}"
        raise ManifestError(msg) from error
