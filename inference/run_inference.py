"""The inference program: one prediction from flags, or every task of a manifest.

In: ``--prompt-gcs --query-gcs --output-gcs …`` or ``--manifest URI``; every address may be local or gs://.
Out: outputs and result files; progress on stderr, one JSON line on stdout. Exit codes: 0 done, 1 a task failed, 2 wrong
usage or input, 3 storage failed, 143 ended by SIGTERM (run again to finish the remaining tasks).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from inference.ahead import Ahead
from inference.behind import Behind
from inference.engines import Engines, default_engine, require_installed
from inference.errors import EngineError, InputError, StorageError, UriError
from inference.files import check_uri, read_bytes, shard, write_text
from inference.flags import add_model_flags, model_fields
from inference.imports import wait_passively
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
from inference.tasks import Prepared, compute, finish_task, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.tasks import Made

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
    wait_passively()
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

    While some tasks compute, one thread downloads and reads the inputs of the next, and another writes the outputs of
    those before. Memory holds these three groups at most, and files that later tasks share. Tasks of the model are
    computed together where its batches hold several; else a group is one task.

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
            job = Job.of(manifest, folder=Path(name), stop=stop)
            with Behind(partial(_finish_group, job=job, tally=tally)) as behind:
                first = 0
                while first < len(job.tasks):
                    _say(f"task {first + 1} of {len(job.tasks)}: {job.tasks[first].id} ({job.tasks[first].engine})")
                    group = job.ahead.take(first)
                    first += len(group)
                    if first < len(job.tasks) and not stop.is_asked:
                        job.ahead.begin(first)
                    behind.put(_compute_group(group, engines=job.engines))
                    for task, _ in group:
                        job.inputs.release(task)
                    del group  # what is finished lets go of its cells
    except StoppedError:
        tally.is_stopped = True
        _say("stopped on request; run again to finish the remaining tasks")
        return STOPPED
    if not tally.failed:
        return DONE
    return STORAGE if all(isinstance(error, StorageError) for error in tally.failed.values()) else FAILED


Group: TypeAlias = "list[tuple[Task, Prepared | Exception]]"  # tasks that are computed together


@dataclass(frozen=True)
class Job:
    """What all tasks of one process share."""

    tasks: tuple[Task, ...]
    inputs: Inputs
    engines: Engines
    ahead: Ahead[int, Group]
    folder: Path
    stop: Stop

    @classmethod
    def of(cls, manifest: Manifest, *, folder: Path, stop: Stop) -> Job:
        """Set up a job without reading any file."""
        inputs = Inputs(manifest.tasks, folder=folder)
        engines = Engines(manifest, folder=folder, progress=_say)
        make = partial(_prepare_group, tasks=manifest.tasks, engines=engines, inputs=inputs, folder=folder)
        return cls(manifest.tasks, inputs, engines, Ahead(make), folder, stop)


@dataclass(frozen=True)
class _Computed:
    """A task on its way to its output; an error stands in the place of what failed."""

    task: Task
    prepared: Prepared | Exception
    make: Callable[[], Made] | None  # None: done already
    seconds: float  # its share of the time that its group took


def _prepare_group(first: int, *, tasks: Sequence[Task], engines: Engines, inputs: Inputs, folder: Path) -> Group:
    """Read the inputs of the task at ``first``, and of as many after it as the model computes together."""
    group: Group = []
    n_windows = 0
    for task in tasks[first:]:
        is_alone = task.engine != MODEL_ENGINE or task.kind == EMBED
        if group and is_alone:
            break
        try:
            prepared = prepare(task, engines=engines, inputs=inputs, folder=folder)
            group.append((task, prepared))
            # The first task is computed while the next ones are read: the model is loaded by then.
            if is_alone or prepared.is_done or first == 0:
                break
            n_together = engines.n_together(task.engine)
            if n_together > 1:
                n_windows += engines.model.count_windows(prepared.loaded["query"].cells.counts.shape[0])
        except Exception as error:  # noqa: BLE001 - any failure is recorded, and the other tasks run
            group.append((task, error))
            break
        if n_together == 1 or n_windows >= n_together:
            break
    return group


def _compute_group(group: Group, *, engines: Engines) -> list[_Computed]:
    start = time.monotonic()
    going = [(task, item) for task, item in group if isinstance(item, Prepared) and not item.is_done]
    makes: list[Callable[[], Made]] = []
    try:
        if going:
            makes = compute(going, engines=engines)
    except Exception as error:  # noqa: BLE001 - any failure is recorded, and the other tasks run
        makes = [partial(_fail, error) for _ in going]
    seconds = (time.monotonic() - start) / max(1, len(going))
    of_task = dict(zip([task.id for task, _ in going], makes, strict=True))
    return [_Computed(task, item, of_task.get(task.id), seconds) for task, item in group]


def _fail(error: Exception) -> Made:
    raise error


def _finish_group(group: list[_Computed], *, job: Job, tally: Tally) -> None:
    while group:
        _finish_one(group.pop(0), job=job, tally=tally)


def _finish_one(item: _Computed, *, job: Job, tally: Tally) -> None:
    task, start = item.task, time.monotonic()
    try:
        if isinstance(item.prepared, Exception):
            raise item.prepared
        result = None
        if item.make is not None:
            result = finish_task(
                task,
                item.prepared,
                item.make(),
                engines=job.engines,
                folder=job.folder,
                stop=job.stop,
                seconds=lambda: item.seconds + time.monotonic() - start,
            )
    except Exception as error:  # noqa: BLE001 - any failure is recorded, and the next task runs
        tally.failed[task.id] = error
        _say(f"task {task.id} failed: {type(error).__name__}: {error}")
        record = {"id": task.id, "engine": task.engine, "class": type(error).__name__, "message": str(error)}
        try:
            job.stop.check()
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
    for name in sorted({task.engine for task in manifest.tasks} - set(ENGINES)):
        require_installed(name)
    index, count = shard()
    return replace(manifest, tasks=manifest.tasks[index::count]) if arguments.manifest is not None else manifest


def _manifest_of_flags(arguments: argparse.Namespace) -> Manifest:
    engine = arguments.engine or (MODEL_ENGINE if arguments.embed else default_engine(arguments.model_gcs))
    task = Task(
        id=SINGLE_TASK,
        prompt=arguments.prompt_gcs,
        query=arguments.query_gcs,
        output=arguments.output_gcs,
        seed=arguments.seed,
        engine=engine,
        control=arguments.control_gcs,
        others=arguments.others_gcs,
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
    add("--others-gcs", help="cells of other treatments and their controls, h5ad; read by engine additive")
    add("--output-gcs", help="output file of the predicted cells, h5ad")
    add("--model-gcs", help="model checkpoint: .ckpt, .pt or .safetensors; baselines need none")
    add("--genelist-gcs", help="the model's genes: JSON, text or pickled list")
    add("--engine", help=f"{', '.join(ENGINES)}, or an installed one (default: stack with a model, otherwise weighted)")
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
    exit_code = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(exit_code)  # everything is published; taking torch apart would take half a second
