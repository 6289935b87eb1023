"""The contract between the kernel and the inference program: what to predict, and where to put it.

In: JSON text. Out: frozen dataclasses, checked field by field. It needs the standard library only.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

MANIFEST_VERSION = 1
BASELINES = ("none", "mean", "shift", "weighted")
MODEL_ENGINE = "stack"  # the engine that needs ``model`` and ``genelist``
MODEL_PACKAGES = ("torch", "safetensors")  # packages that only this engine needs
DEMO_MODEL = "demo"  # as ``model``: the packaged model and its genes (a file is "./demo")
DEMO_STEPS = 1  # steps of its generation: more steps read its own output again and lose accuracy
ADDITIVE = "additive"  # the engine that also reads cells of other treatments
ENGINES = (*BASELINES, ADDITIVE, MODEL_ENGINE)  # of this program; other packages may bring more
AUTO = "auto"  # no engine: whoever asks has one chosen
_OTHER_WORDS = (AUTO, "decoy", "replicate", "baseline", "treated", "control")  # that name outputs beside engines
MODES = ("mdm", "vanilla")
OUTPUT_MODES = ("sampled", "expected", "exact")
PRECISIONS = ("auto", "fp32", "bf16")
GENERATE, EMBED = "generate", "embed"  # predict the query cells under the prompt; compute their vectors
KINDS = (GENERATE, EMBED)
DEVICES = "auto, cpu, cuda or cuda:<number>"
OUTPUT_UNS = "haystack_inference"  # uns key of an output: how it was made, as JSON text
# The file beside each output, written after it: its presence means that the output is complete.
RESULT_SUFFIX = ".result.json"
ERROR_SUFFIX = ".error.json"  # file beside the output of a failed task, removed once the task succeeds

_ENGINE_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


class ManifestError(ValueError):
    """The manifest cannot be run as written; the message says which field and what is allowed."""


_RETIRED = (("fixed_prompt", False),)  # fields of earlier manifests, and their value that changed nothing


@dataclass(frozen=True)
class Task:
    """One prediction: transform the query cells as the prompt differs from its control; all by the address of an h5ad.

    A task of kind ``embed`` computes the model's vectors of the query cells and reads no prompt.
    """

    id: str
    prompt: str | None
    query: str
    output: str
    seed: int
    engine: str
    control: str | None = None  # matched control cells; None where the engine does not need them
    kind: str = GENERATE
    resample: bool = False  # draw the prompt's donors and cells with replacement, by the seed
    # cells of other treatments with their control cells, told apart in obs by "perturbation" and "is_control"
    others: str | None = None


@dataclass(frozen=True)
class Manifest:
    """All tasks of one job."""

    tasks: tuple[Task, ...]
    model: str | None = None  # address of a checkpoint, or "demo"; None for engines without a model
    genelist: str | None = None
    diffusion_steps: int = 5
    batch_size: int = 32  # windows computed at once
    precision: str = "auto"  # of the model's arithmetic: "fp32", "bf16", or the faster one that fits the device
    prompt_ratio: float = 0.25  # share of a window's rows that attend only to each other
    context_ratio: float = 0.4  # further share that is context, at the last step
    context_ratio_min: float = 0.2  # the further share at the first step
    mode: str = "mdm"  # "mdm" rewrites some of the query cells in each step, "vanilla" all of them
    # "sampled": counts; "expected": their means; "exact": counts from the reference's random stream
    output_mode: str = "sampled"
    device: str = "auto"
    threads: int | None = None  # processor threads; None: torch decides
    engine_limit_s: float | None = None  # of one prediction by an engine of another package; None: 900
    version: int = MANIFEST_VERSION


@dataclass(frozen=True)
class TaskResult:
    """The result file of a task, written beside its output once that is published."""

    id: str
    engine: str
    output: str
    sha256: str
    n_cells: int
    n_genes: int
    seconds: float
    frac_genes_found: float  # share of the query cells' genes that the engine could change
    peak_memory_gib: float
    seed: int
    versions: dict[str, str] = field(default_factory=dict)
    # role -> sha256 of the input; a rerun skips the task where all are equal
    inputs: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kind: str = GENERATE


def dump_manifest(manifest: Manifest) -> str:
    """Write ``manifest`` as JSON text; keys are sorted, so that equal manifests give equal bytes.

    Fields that later versions added are left out where they are None, so that programs of earlier versions read it.
    """
    whole = asdict(manifest)
    for record, name in ((whole, "engine_limit_s"), *((task, "others") for task in whole["tasks"])):
        if record[name] is None:
            del record[name]
    return json.dumps(whole, indent=1, sort_keys=True)


def is_engine_name(name: object) -> bool:
    """Whether ``name`` may be that of an engine: one of this program, or 2 to 40 of a-z, 0-9 and _."""
    return isinstance(name, str) and _ENGINE_NAME.fullmatch(name) is not None and name not in _OTHER_WORDS


def parse_manifest(text: str | bytes) -> Manifest:
    """Read a manifest and check every field.

    Raises
    ------
    ManifestError
        The text is no JSON or of another version; fields are unknown, missing or out of range; task ids or outputs
        repeat; the engine's name is none; or engine ``stack`` has no model.
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
    parsed: list[Task] = []
    for one in tasks:
        if not isinstance(one, dict):
            msg = f"each task must be a JSON object, got {type(one).__name__}"
            raise ManifestError(msg)
        parsed.append(_build(Task, one))
        check_task(parsed[-1])
    raw = {name: value for name, value in raw.items() if (name, value) not in _RETIRED}
    manifest: Manifest = _build(Manifest, {**raw, "tasks": tuple(parsed)})
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check the fields that concern all tasks; raises :class:`ManifestError`."""
    _check_numbers(manifest)
    _check_limit(manifest)
    _check_choices(manifest)
    for name in ("id", "output"):
        values = [getattr(task, name) for task in manifest.tasks]
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            msg = f"tasks must differ in {name!r}; repeated: {repeated}"
            raise ManifestError(msg)
    for name in ("model", "genelist"):
        value = getattr(manifest, name)
        if value is not None and not _is_text(value):
            msg = f"{name!r} must be an address or null, got {value!r}"
            raise ManifestError(msg)
    _check_model(manifest)


def _check_numbers(manifest: Manifest) -> None:
    whole: dict[str, Any] = {"diffusion_steps": manifest.diffusion_steps, "batch_size": manifest.batch_size}
    if manifest.threads is not None:
        whole["threads"] = manifest.threads
    for name, value in whole.items():
        if not _is_whole(value) or value < 1:
            msg = f"{name!r} must be a whole number of at least 1, got {value!r}"
            raise ManifestError(msg)
    for name in ("prompt_ratio", "context_ratio", "context_ratio_min"):
        value = getattr(manifest, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
            msg = f"{name!r} must be a number from 0 to below 1, got {value!r}"
            raise ManifestError(msg)
    low = manifest.prompt_ratio + manifest.context_ratio_min
    high = manifest.prompt_ratio + manifest.context_ratio
    if not (0 < low < 1 and 0 < high < 1):
        msg = (
            f"'prompt_ratio' + 'context_ratio' ({high:g}) and 'prompt_ratio' + 'context_ratio_min' ({low:g}) must lie "
            f"between 0 and 1: each window needs room for both prompt and query cells"
        )
        raise ManifestError(msg)


def _check_limit(manifest: Manifest) -> None:
    limit = manifest.engine_limit_s
    if limit is not None and not (isinstance(limit, int | float) and not isinstance(limit, bool) and limit > 0):
        msg = f"'engine_limit_s' must be a number above 0 or null, got {limit!r}"
        raise ManifestError(msg)


def _check_choices(manifest: Manifest) -> None:
    for name, possible in (("mode", MODES), ("output_mode", OUTPUT_MODES), ("precision", PRECISIONS)):
        if getattr(manifest, name) not in possible:
            msg = f"{name!r} is {getattr(manifest, name)!r}; possible: {', '.join(possible)}"
            raise ManifestError(msg)
    if not (isinstance(manifest.device, str) and _DEVICE.fullmatch(manifest.device)):
        msg = f"'device' is {manifest.device!r}; possible: {DEVICES}"
        raise ManifestError(msg)


def _check_model(manifest: Manifest) -> None:
    needing = [task.id for task in manifest.tasks if task.engine == MODEL_ENGINE]
    missing = [name for name in ("model", "genelist") if getattr(manifest, name) is None]
    if needing and missing and manifest.model != DEMO_MODEL:  # the packaged model brings its gene list
        msg = (
            f"engine {MODEL_ENGINE!r} (task {needing[0]!r}) needs {' and '.join(map(repr, missing))}: give the "
            f"checkpoint and its gene list (--model-gcs, --genelist-gcs), or choose another engine: "
            f"{', '.join(BASELINES)}"
        )
        raise ManifestError(msg)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def dump_result(result: TaskResult) -> str:
    """Write a task's result as JSON text."""
    return json.dumps(asdict(result), indent=1, sort_keys=True)


def parse_result(text: str | bytes) -> TaskResult:
    """Read a task's result; raises :class:`ManifestError` where the text is none."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        msg = f"the result file is not valid JSON ({error}); delete it and run the task again"
        raise ManifestError(msg) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("notes", []), list):
        msg = "the result file is not the JSON object of a task; delete it and run the task again"
        raise ManifestError(msg)
    return _build(TaskResult, {**raw, "notes": tuple(raw.get("notes", []))})


def check_task(task: Task) -> None:
    """Check the fields of one task; raises :class:`ManifestError`."""
    is_embedding = task.kind == EMBED
    texts: dict[str, object] = {"id": task.id, "query": task.query, "output": task.output}
    if not is_embedding:
        texts["prompt"] = task.prompt
    faults = {
        f"{name!r} must be a non-empty string, got {value!r}": not _is_text(value) for name, value in texts.items()
    }
    maybe: dict[str, object] = {"control": task.control, "others": task.others}
    faults |= {
        f"{name!r} must be a non-empty string or null, got {value!r}": value is not None and not _is_text(value)
        for name, value in maybe.items()
    }
    faults |= {
        f"unknown kind {task.kind!r}; possible: {', '.join(KINDS)}": task.kind not in KINDS,
        f"kind {EMBED!r} reads the query cells alone; leave out 'prompt', 'control' and 'others'": (
            is_embedding and (task.prompt, task.control, task.others) != (None, None, None)
        ),
        f"'seed' must be a whole number, got {task.seed!r}": not _is_whole(task.seed),
        f"'resample' must be true or false, got {task.resample!r}": not isinstance(task.resample, bool),
        f"unknown engine {task.engine!r}; possible: {', '.join(ENGINES)}, or the name of an installed engine": (
            not is_engine_name(task.engine)
        ),
        f"engine {task.engine!r} has no embedding; kind {EMBED!r} needs engine {MODEL_ENGINE!r}": (
            is_embedding and task.engine != MODEL_ENGINE
        ),
    }
    fault = next((fault for fault, is_there in faults.items() if is_there), None)  # the first one is told
    if fault is not None:
        msg = f"task {task.id!r}: {fault}"
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
