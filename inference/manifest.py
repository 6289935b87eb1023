"""The contract between the kernel and the inference program: what to predict, where to put it. Standard library only.

In: JSON text. Out: frozen dataclasses, checked field by field.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

MANIFEST_VERSION = 1
BASELINES = ("none", "mean", "shift", "weighted")
MODEL_ENGINE = "stack"  # the one that needs ``model`` and ``genelist``
MODEL_PACKAGES = ("torch", "safetensors")  # what it needs beyond the baselines
DEMO_MODEL = "demo"  # as ``model``: the one that comes with the package, gene list included (a file is "./demo")
DEMO_STEPS = 1  # of its generation: it predicts best at once, and loses accuracy where it reads its own output again
ENGINES = (*BASELINES, MODEL_ENGINE)
MODES = ("mdm", "vanilla")
OUTPUT_MODES = ("sampled", "expected", "exact")
PRECISIONS = ("auto", "fp32", "bf16")
GENERATE, EMBED = "generate", "embed"  # predict the query cells under the prompt; describe them as vectors
KINDS = (GENERATE, EMBED)
DEVICES = "auto, cpu, cuda or cuda:<number>"
OUTPUT_UNS = "haystack_inference"  # uns key of an output: how it was made, as one JSON text
RESULT_SUFFIX = ".result.json"  # written beside each output, after it: its presence means the output is whole
ERROR_SUFFIX = ".error.json"  # written beside where the output would be when its task failed; gone once it succeeds

_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


class ManifestError(ValueError):
    """The manifest cannot be run as written; the message says which field and what is allowed."""


@dataclass(frozen=True)
class Task:
    """One prediction: transform ``query`` as ``prompt`` differs from ``control``; all are h5ad URIs.

    Of kind ``embed`` it only describes the query cells by the model's vectors; it reads no prompt then.
    """

    id: str
    prompt: str | None
    query: str
    output: str
    seed: int
    engine: str
    control: str | None = None  # matched unperturbed cells; None: the engine must not need them
    kind: str = GENERATE


@dataclass(frozen=True)
class Manifest:
    """All tasks of one job."""

    tasks: tuple[Task, ...]
    model: str | None = None  # checkpoint URI or "demo"; None for the engines that need none
    genelist: str | None = None
    diffusion_steps: int = 5
    batch_size: int = 32  # windows the model sees at once
    precision: str = "auto"  # of the model's arithmetic: "fp32", "bf16", or what the runtime holds for best
    prompt_ratio: float = 0.25  # share of a window's rows that see only each other
    context_ratio: float = 0.4  # share that is context besides, at the last step
    context_ratio_min: float = 0.2  # the same at the first step
    mode: str = "mdm"  # "mdm" rewrites some of the query cells a step, "vanilla" all of them
    output_mode: str = "sampled"  # counts; "expected": their means; "exact": counts by the reference's random stream
    fixed_prompt: bool = False  # the same prompt cells in every window and step: faster, fewer prompt cells are seen
    device: str = "auto"
    threads: int | None = None  # of the processor; None: as many as torch finds
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
    inputs: dict[str, str] = field(default_factory=dict)  # role -> sha256 of what was read: a rerun skips on equality
    notes: tuple[str, ...] = ()
    kind: str = GENERATE


def dump_manifest(manifest: Manifest) -> str:
    """Write ``manifest`` as JSON text, keys sorted so that equal manifests give equal bytes."""
    return json.dumps(asdict(manifest), indent=1, sort_keys=True)


def parse_manifest(text: str | bytes) -> Manifest:
    """Read a manifest and check every field.

    Raises
    ------
    ManifestError
        Not JSON, another version, unknown or missing fields, an unknown engine, repeated task ids or outputs, a
        parameter out of its range, engine ``stack`` without a model.
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
    manifest: Manifest = _build(Manifest, {**raw, "tasks": tuple(_parse_task(task) for task in tasks)})
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check the fields that concern all tasks; raises :class:`ManifestError`."""
    for name, least in (("diffusion_steps", 1), ("batch_size", 1), ("threads", 1)):
        value = getattr(manifest, name)
        if name == "threads" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            msg = f"{name!r} must be a whole number of at least {least}, got {value!r}"
            raise ManifestError(msg)
    _check_ratios(manifest)
    if not isinstance(manifest.fixed_prompt, bool):
        msg = f"'fixed_prompt' must be true or false, got {manifest.fixed_prompt!r}"
        raise ManifestError(msg)
    if manifest.fixed_prompt and manifest.output_mode == "exact":
        msg = "'fixed_prompt' cannot be with output mode 'exact', which takes the prompt cells that the reference takes"
        raise ManifestError(msg)
    for name, possible in (("mode", MODES), ("output_mode", OUTPUT_MODES), ("precision", PRECISIONS)):
        if getattr(manifest, name) not in possible:
            msg = f"{name!r} is {getattr(manifest, name)!r}; possible: {', '.join(possible)}"
            raise ManifestError(msg)
    if not (isinstance(manifest.device, str) and _DEVICE.fullmatch(manifest.device)):
        msg = f"'device' is {manifest.device!r}; possible: {DEVICES}"
        raise ManifestError(msg)
    for field_name in ("id", "output"):
        values = [getattr(task, field_name) for task in manifest.tasks]
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            msg = f"tasks must differ in {field_name!r}; repeated: {repeated}"
            raise ManifestError(msg)
    _check_model(manifest)


def _check_ratios(manifest: Manifest) -> None:
    for name in ("prompt_ratio", "context_ratio", "context_ratio_min"):
        value = getattr(manifest, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
            msg = f"{name!r} must be a number from 0 to below 1, got {value!r}"
            raise ManifestError(msg)
    low, high = (manifest.prompt_ratio + value for value in (manifest.context_ratio_min, manifest.context_ratio))
    if not (0 < low < 1 and 0 < high < 1):
        msg = (
            f"'prompt_ratio' + 'context_ratio' ({high:g}) and 'prompt_ratio' + 'context_ratio_min' ({low:g}) must lie "
            f"between 0 and 1: each window needs room for both prompt and query cells"
        )
        raise ManifestError(msg)


def _check_model(manifest: Manifest) -> None:
    for name in ("model", "genelist"):
        value = getattr(manifest, name)
        if not (value is None or (isinstance(value, str) and value)):
            msg = f"{name!r} must be an address or null, got {value!r}"
            raise ManifestError(msg)
    needing = [task.id for task in manifest.tasks if task.engine == MODEL_ENGINE]
    missing = [name for name in ("model", "genelist") if getattr(manifest, name) is None]
    missing = [] if manifest.model == DEMO_MODEL else missing
    if needing and missing:
        msg = (
            f"engine {MODEL_ENGINE!r} (task {needing[0]!r}) needs {' and '.join(map(repr, missing))}: give the "
            f"checkpoint and its gene list (--model-gcs, --genelist-gcs), or choose another engine: "
            f"{', '.join(BASELINES)}"
        )
        raise ManifestError(msg)


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
    task: Task = _build(Task, raw)
    check_task(task)
    return task


def check_task(task: Task) -> None:
    """Check the fields of one task; raises :class:`ManifestError`."""
    for name in ("id", "query", "output"):
        if not isinstance(getattr(task, name), str) or not getattr(task, name):
            msg = f"task {task.id!r}: {name!r} must be a non-empty string, got {getattr(task, name)!r}"
            raise ManifestError(msg)
    _check_kind(task)
    if not (task.control is None or (isinstance(task.control, str) and task.control)):
        msg = f"task {task.id!r}: 'control' must be a non-empty string or null, got {task.control!r}"
        raise ManifestError(msg)
    if not isinstance(task.seed, int) or isinstance(task.seed, bool):
        msg = f"task {task.id!r}: 'seed' must be a whole number, got {task.seed!r}"
        raise ManifestError(msg)
    if task.engine not in ENGINES:
        msg = f"task {task.id!r}: unknown engine {task.engine!r}; possible: {', '.join(ENGINES)}"
        raise ManifestError(msg)
    if task.kind == EMBED and task.engine != MODEL_ENGINE:
        msg = f"task {task.id!r}: engine {task.engine!r} has no embedding; kind {EMBED!r} needs engine {MODEL_ENGINE!r}"
        raise ManifestError(msg)


def _check_kind(task: Task) -> None:
    if task.kind not in KINDS:
        msg = f"task {task.id!r}: unknown kind {task.kind!r}; possible: {', '.join(KINDS)}"
        raise ManifestError(msg)
    is_address = isinstance(task.prompt, str) and bool(task.prompt)
    if not (is_address or (task.kind == EMBED and task.prompt is None)):
        msg = f"task {task.id!r}: 'prompt' must be a non-empty string, got {task.prompt!r}"
        raise ManifestError(msg)
    if task.kind == EMBED and (task.prompt is not None or task.control is not None):
        msg = f"task {task.id!r}: kind {EMBED!r} reads the query cells alone; leave out 'prompt' and 'control'"
        raise ManifestError(msg)


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
