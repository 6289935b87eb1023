"""Runs the tasks of a job: each is read, computed, written and published.

In: a manifest. Out: outputs and result files, and the outcome of each task.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from inference.ahead import Ahead
from inference.behind import Behind
from inference.engines import Engines
from inference.errors import StorageError
from inference.files import write_text
from inference.inputs import Inputs
from inference.manifest import EMBED, ERROR_SUFFIX, MODEL_ENGINE, Manifest, Task
from inference.stop import Stop, StoppedError
from inference.tally import DONE, FAILED, STOPPED, STORAGE
from inference.tasks import Prepared, compute, finish_task, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.apart import Apart
    from inference.tally import Tally
    from inference.tasks import Made


def run_tasks(manifest: Manifest, *, tally: Tally, apart: Apart | None = None) -> int:
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
    apart
        A process that predicts with the model; None: this one.

    Returns
    -------
    The exit code.
    """
    stop = Stop()
    try:
        # The thread may still be writing a download when the program is told to end, so cleaning up may fail.
        with stop.listening(), tempfile.TemporaryDirectory(prefix="haystack-", ignore_cleanup_errors=True) as name:
            job = Job.of(manifest, folder=Path(name), stop=stop, apart=apart)
            with Behind(partial(_finish_group, job=job, tally=tally)) as behind:
                first = 0
                while first < len(job.tasks):
                    _say(f"task {first + 1} of {len(job.tasks)}: {job.tasks[first].id} ({job.tasks[first].engine})")
                    group = job.ahead.take(first)
                    first += len(group)
                    if first < len(job.tasks) and not stop.is_asked:
                        job.ahead.begin(first)
                    computed = _compute_group(group, engines=job.engines)
                    if first == len(job.tasks):
                        job.engines.close()
                    behind.put(computed)
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
    def of(cls, manifest: Manifest, *, folder: Path, stop: Stop, apart: Apart | None) -> Job:
        """Set up a job without reading any file."""
        inputs = Inputs(manifest.tasks, folder=folder)
        engines = Engines(manifest, folder=folder, progress=_say, apart=apart)
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


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
