"""The inference program: one prediction from flags, or every task of a manifest.

In: ``--prompt-gcs --query-gcs --output-gcs …`` or ``--manifest URI``; local paths wherever gs:// is.
Out: outputs and result files; progress on stderr, one JSON line on stdout. Exit 0 done, 1 a task failed, 2 usage or
bad input, 3 storage failed, 143 ended by SIGTERM (a rerun does what is left).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inference.engines import Engines, default_engine
from inference.errors import EngineError, InputError, StorageError, UriError
from inference.files import check_uri, read_bytes, shard, write_text
from inference.manifest import (
    DEVICES,
    ENGINES,
    ERROR_SUFFIX,
    MODES,
    OUTPUT_MODES,
    Manifest,
    ManifestError,
    Task,
    check_manifest,
    parse_manifest,
)
from inference.tasks import Inputs, Stop, StoppedError, input_uris, run_task

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, USAGE, STORAGE, STOPPED = 0, 1, 2, 3, 143
SINGLE_TASK = "predictions"  # task id of a run from flags

_NEEDED = ("prompt_gcs", "query_gcs", "output_gcs")
_OUTPUT_HELP = "counts, their means, or counts by the reference's random stream (default: %(default)s)"
_MANIFEST_FLAGS = (  # flags named like the manifest's field, which also holds their default
    "diffusion_steps",
    "batch_size",
    "prompt_ratio",
    "context_ratio",
    "context_ratio_min",
    "mode",
    "output_mode",
    "device",
    "threads",
)
_BAD_INPUT = (InputError, EngineError, UriError, ManifestError)


@dataclass
class Tally:
    """What became of the tasks; printed as the summary line."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)
    is_stopped: bool = False

    def summary(self, *, n_tasks: int, seconds: float) -> str:
        """Return one line of JSON."""
        failed = {name: {"class": type(error).__name__, "message": str(error)} for name, error in self.failed.items()}
        record = {
            "n_tasks": n_tasks,
            "done": self.done,
            "skipped": self.skipped,
            "failed": failed,
            "stopped": self.is_stopped,
            "seconds": round(seconds, 3),
        }
        return json.dumps(record, sort_keys=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    start = time.monotonic()
    arguments = _parse(argv)
    tally = Tally()
    n_tasks = 0
    try:
        manifest = _read_manifest(arguments)
        n_tasks = len(manifest.tasks)
        code = run_tasks(manifest, tally=tally)
        if arguments.manifest is None and tally.failed and isinstance(next(iter(tally.failed.values())), _BAD_INPUT):
            code = USAGE
    except (*_BAD_INPUT, FileNotFoundError, StorageError) as error:
        _say(f"error: {error}")
        tally.failed["start"] = error
        code = STORAGE if isinstance(error, StorageError) else USAGE
    sys.stdout.write(tally.summary(n_tasks=n_tasks, seconds=time.monotonic() - start) + "\n")
    return code


def run_tasks(manifest: Manifest, *, tally: Tally) -> int:
    """Run the tasks in order; a failing one is recorded beside its output and does not stop the others.

    Parameters
    ----------
    manifest
        What to run, and with which model.
    tally
        Filled as tasks end.

    Returns
    -------
    The exit code.
    """
    stop = Stop()
    before = signal.signal(signal.SIGTERM, stop.handle)
    try:
        with tempfile.TemporaryDirectory(prefix="haystack-") as name:
            folder = Path(name)
            inputs = Inputs(manifest.tasks, folder=folder)
            engines = Engines(manifest, folder=folder, progress=_say)
            for number, task in enumerate(manifest.tasks, start=1):
                _say(f"task {number} of {len(manifest.tasks)}: {task.id} ({task.engine})")
                _run_one(task, engines=engines, inputs=inputs, folder=folder, stop=stop, tally=tally)
                inputs.release(task)
    except StoppedError:
        tally.is_stopped = True
        _say("stopped on request; run again for the rest")
        return STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)
    if not tally.failed:
        return DONE
    return STORAGE if all(isinstance(error, StorageError) for error in tally.failed.values()) else FAILED


def _run_one(task: Task, *, engines: Engines, inputs: Inputs, folder: Path, stop: Stop, tally: Tally) -> None:
    try:
        result = run_task(task, engines=engines, inputs=inputs, folder=folder, stop=stop)
    except Exception as error:  # noqa: BLE001 - the container's outer door: recorded, and the next task runs
        tally.failed[task.id] = error
        _say(f"task {task.id} failed: {type(error).__name__}: {error}")
        record = {"id": task.id, "engine": task.engine, "class": type(error).__name__, "message": str(error)}
        try:
            with stop.finishing():
                write_text(json.dumps(record, indent=1), task.output + ERROR_SUFFIX, folder=folder)
        except StorageError as second:
            _say(f"its error file could not be written: {second}")
        return
    if result is None:
        tally.skipped.append(task.id)
        _say(f"task {task.id}: already done, skipped")
        return
    tally.done.append(task.id)
    _say(f"task {task.id}: {result.n_cells} cells x {result.n_genes} genes in {result.seconds:.1f} s -> {task.output}")


def _read_manifest(arguments: argparse.Namespace) -> Manifest:
    """Tasks of this process and their parameters, every address checked before anything is read."""
    if arguments.manifest is None:
        manifest = _manifest_of_flags(arguments)
    else:
        manifest = parse_manifest(read_bytes(arguments.manifest))
    outputs = {check_uri(task.output) for task in manifest.tasks}
    model = {check_uri(uri) for uri in (manifest.model, manifest.genelist) if uri is not None}
    for task in manifest.tasks:
        if clash := outputs.intersection(model.union(input_uris(task).values())):
            msg = f"{sorted(clash)} is both an input and an output; give each output a path of its own"
            raise UriError(msg)
    index, count = shard()
    return replace(manifest, tasks=manifest.tasks[index::count]) if arguments.manifest is not None else manifest


def _manifest_of_flags(arguments: argparse.Namespace) -> Manifest:
    engine = arguments.engine or default_engine(arguments.model_gcs)
    if engine not in ENGINES:
        msg = f"engine {engine!r} is unknown; possible: {', '.join(ENGINES)}"
        raise EngineError(msg)
    task = Task(
        id=SINGLE_TASK,
        prompt=arguments.prompt_gcs,
        query=arguments.query_gcs,
        output=arguments.output_gcs,
        seed=arguments.seed,
        engine=engine,
        control=arguments.control_gcs,
    )
    same = {name: getattr(arguments, name) for name in _MANIFEST_FLAGS}
    manifest = Manifest(tasks=(task,), model=arguments.model_gcs, genelist=arguments.genelist_gcs, **same)
    check_manifest(manifest)
    return manifest


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags; ends the program with exit code 2 where they do not fit together."""
    parser = _parser()
    found = parser.parse_args(argv)
    flags = {action.dest: action for action in parser._actions if action.dest not in {"manifest", "help"}}
    if found.manifest is None:
        if missing := [flags[name].option_strings[0] for name in _NEEDED if not getattr(found, name)]:
            parser.error(f"missing {', '.join(missing)}; give all three, or --manifest alone")
    elif given := [flag.option_strings[0] for name, flag in flags.items() if getattr(found, name) != flag.default]:
        parser.error(f"--manifest says everything itself; leave out {', '.join(given)}")
    return found


def _parser() -> argparse.ArgumentParser:
    text = "Predict how cells respond to a prompt."
    parser = argparse.ArgumentParser(prog="python -m inference.run_inference", description=text)
    parser.add_argument("--manifest", help="JSON of many tasks: path or gs:// address; excludes all other flags")
    parser.add_argument("--prompt-gcs", help="treated cells, h5ad (path or gs:// address, as all below)")
    parser.add_argument("--query-gcs", help="cells to transform, h5ad")
    parser.add_argument("--control-gcs", help="untreated counterparts of the prompt cells, h5ad")
    parser.add_argument("--output-gcs", help="where to put the predicted cells, h5ad")
    parser.add_argument("--model-gcs", help="model checkpoint: .ckpt, .pt or .safetensors; the baselines need none")
    parser.add_argument("--genelist-gcs", help="the model's genes: JSON, text or pickled list")
    parser.add_argument("--engine", help=f"{', '.join(ENGINES)} (default: stack with a model, else weighted)")
    parser.add_argument("--seed", type=int, default=0, help="fixes the sampled counts (default: 0)")
    model = parser.add_argument_group("the model")
    model.add_argument("--diffusion-steps", type=_positive, help="steps of the generation (default: %(default)s)")
    model.add_argument("--batch-size", type=_positive, help="windows of cells at once (default: %(default)s)")
    model.add_argument(
        "--prompt-ratio", type=float, help="share of a window that is fixed prompt (default: %(default)s)"
    )
    model.add_argument("--context-ratio", type=float, help="share of further context, last step (default: %(default)s)")
    model.add_argument("--context-ratio-min", type=float, help="the same at the first step (default: %(default)s)")
    model.add_argument("--mode", choices=MODES, help="rewrite cells little by little, or all each step (%(default)s)")
    model.add_argument("--output-mode", choices=OUTPUT_MODES, help=_OUTPUT_HELP)
    model.add_argument("--device", help=f"{DEVICES} (default: %(default)s)")
    model.add_argument("--threads", type=_positive, help="processor threads (default: as many as there are)")
    parser.set_defaults(**{name: Manifest.__dataclass_fields__[name].default for name in _MANIFEST_FLAGS})
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = f"{text} is below 1"
        raise argparse.ArgumentTypeError(msg)
    return value


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
