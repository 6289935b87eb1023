"""The inference program: one prediction from flags, or every task of a manifest.

In: ``--prompt-gcs --query-gcs --output-gcs …`` or ``--manifest URI``; every address may be local or gs://.
Out: outputs and result files; progress on stderr, one JSON line on stdout. Exit codes: 0 done, 1 a task failed, 2 wrong
usage or input, 3 storage failed, 143 ended by SIGTERM (run again to finish the remaining tasks).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inference.ahead import Ahead
from inference.engines import Engines, default_engine
from inference.errors import EngineError, InputError, StorageError, UriError
from inference.files import check_uri, read_bytes, shard, write_text
from inference.flags import add_model_flags, model_fields
from inference.inputs import Inputs, input_uris
from inference.manifest import (
    EMBED,
    ENGINES,
    ERROR_SUFFIX,
    GENERATE,
    MODEL_ENGINE,
    Manifest,
    ManifestError,
    Task,
    check_manifest,
    check_task,
    parse_manifest,
)
from inference.stop import Stop, StoppedError
from inference.tasks import Prepared, prepare, run_task

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, USAGE, STORAGE, STOPPED = 0, 1, 2, 3, 143
SINGLE_TASK = "predictions"  # task id where flags describe the task

_NEEDED = ("prompt_gcs", "query_gcs", "output_gcs")
_NEEDED_TO_EMBED = ("query_gcs", "output_gcs")
_BAD_INPUT = (InputError, EngineError, UriError, ManifestError)


@dataclass
class Tally:
    """The outcome of all tasks, printed as the summary line."""

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
    """Run the tasks in order; a failure is recorded beside the task's output and does not stop the other tasks.

    While one task computes, a thread downloads and reads the inputs of the next. Disk and memory hold the files of at
    most two tasks at once, and files that later tasks share.

    Parameters
    ----------
    manifest
        What to run, and with which model.
    tally
        Receives the outcome of each task.

    Returns
    -------
    The exit code.
    """
    stop = Stop()
    try:
        # The thread may still be writing a download when the program is told to end, so cleaning up may fail.
        with stop.listening(), tempfile.TemporaryDirectory(prefix="haystack-", ignore_cleanup_errors=True) as name:
            job, tasks = Job.of(manifest, folder=Path(name), stop=stop), manifest.tasks
            for number, task in enumerate(tasks, start=1):
                _say(f"task {number} of {len(tasks)}: {task.id} ({task.engine})")
                following = tasks[number] if number < len(tasks) else None
                _run_one(task, following=following, job=job, tally=tally)
                job.inputs.release(task)
    except StoppedError:
        tally.is_stopped = True
        _say("stopped on request; run again to finish the remaining tasks")
        return STOPPED
    if not tally.failed:
        return DONE
    return STORAGE if all(isinstance(error, StorageError) for error in tally.failed.values()) else FAILED


@dataclass(frozen=True)
class Job:
    """What all tasks of one process share."""

    inputs: Inputs
    engines: Engines
    ahead: Ahead[Task, Prepared]
    folder: Path
    stop: Stop

    @classmethod
    def of(cls, manifest: Manifest, *, folder: Path, stop: Stop) -> Job:
        """Set up a job without reading any file."""
        inputs = Inputs(manifest.tasks, folder=folder)
        engines = Engines(manifest, folder=folder, progress=_say)
        ahead = Ahead(partial(prepare, engines=engines, inputs=inputs, folder=folder))
        return cls(inputs, engines, ahead, folder, stop)


def _run_one(task: Task, *, following: Task | None, job: Job, tally: Tally) -> None:
    start = time.monotonic()
    try:
        try:
            prepared = job.ahead.take(task)
        finally:
            if following is not None and not job.stop.is_asked:
                job.ahead.begin(following)
        result = None
        if not prepared.is_done:
            result = run_task(task, prepared, engines=job.engines, folder=job.folder, stop=job.stop, start=start)
    except Exception as error:  # noqa: BLE001 - any failure is recorded, and the next task runs
        tally.failed[task.id] = error
        _say(f"task {task.id} failed: {type(error).__name__}: {error}")
        record = {"id": task.id, "engine": task.engine, "class": type(error).__name__, "message": str(error)}
        try:
            with job.stop.finishing():
                write_text(json.dumps(record, indent=1), task.output + ERROR_SUFFIX, folder=job.folder)
        except StorageError as second:
            _say(f"its error file could not be written: {second}")
        return
    if result is None:
        tally.skipped.append(task.id)
        _say(f"task {task.id}: already done, skipped")
        return
    tally.done.append(task.id)
    for note in result.notes:
        _say(f"task {task.id}: {note}")
    _say(f"task {task.id}: {result.n_cells} cells x {result.n_genes} genes in {result.seconds:.1f} s -> {task.output}")


def _read_manifest(arguments: argparse.Namespace) -> Manifest:
    """Tasks and parameters of this process; all addresses are checked before any file is read."""
    if arguments.manifest is None:
        manifest = _manifest_of_flags(arguments)
    else:
        manifest = parse_manifest(read_bytes(arguments.manifest))
        if arguments.device != Manifest.device:  # of the machine, which whoever wrote the manifest need not know
            manifest = replace(manifest, device=arguments.device)
            check_manifest(manifest)
    outputs = {check_uri(task.output) for task in manifest.tasks}
    model = {check_uri(uri) for uri in (manifest.model, manifest.genelist) if uri is not None}
    for task in manifest.tasks:
        if clash := outputs.intersection(model.union(input_uris(task).values())):
            msg = f"{sorted(clash)} is both an input and an output; give each output a path of its own"
            raise UriError(msg)
    index, count = shard()
    return replace(manifest, tasks=manifest.tasks[index::count]) if arguments.manifest is not None else manifest


def _manifest_of_flags(arguments: argparse.Namespace) -> Manifest:
    engine = arguments.engine or (MODEL_ENGINE if arguments.embed else default_engine(arguments.model_gcs))
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
        kind=EMBED if arguments.embed else GENERATE,
    )
    check_task(task)
    same = model_fields(arguments)
    manifest = Manifest(tasks=(task,), model=arguments.model_gcs, genelist=arguments.genelist_gcs, **same)
    check_manifest(manifest)
    return manifest


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags; ends the program with exit code 2 where they do not fit together."""
    text = "Predict how query cells respond to the effect that prompt cells show."
    parser = argparse.ArgumentParser(prog="python -m inference.run_inference", description=text)
    add = parser.add_argument
    add("--manifest", help="JSON file with many tasks: path or gs:// address; excludes all other flags but --device")
    add("--prompt-gcs", help="treated cells, h5ad (path or gs:// address, as for all files below)")
    add("--query-gcs", help="cells to transform, h5ad")
    add("--control-gcs", help="control cells of the prompt cells, h5ad")
    add("--output-gcs", help="output file of the predicted cells, h5ad")
    add("--model-gcs", help="model checkpoint: .ckpt, .pt or .safetensors; baselines need none")
    add("--genelist-gcs", help="the model's genes: JSON, text or pickled list")
    add("--engine", help=f"{', '.join(ENGINES)} (default: stack with a model, otherwise weighted)")
    add("--seed", type=int, default=0, help="random seed of the sampled counts (default: 0)")
    add("--embed", action="store_true", help="compute vectors of the query cells instead; reads no prompt")
    add_model_flags(parser)
    found = parser.parse_args(argv)
    if found.manifest is not None:
        alone = parser.parse_args([f"--manifest={found.manifest}", f"--device={found.device}"])
        if given := dict(vars(found).items() - vars(alone).items()):
            parser.error(f"--manifest contains everything; leave out {', '.join(map(_flag, sorted(given)))}")
        return found
    needed = _NEEDED_TO_EMBED if found.embed else _NEEDED
    if missing := [name for name in needed if not getattr(found, name)]:
        named = ", ".join(map(_flag, missing))
        parser.error(f"missing {named}; give {' and '.join(map(_flag, needed))}, or --manifest alone")
    return found


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
