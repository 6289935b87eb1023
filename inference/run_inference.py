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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from inference.engines import default_engine, find_engine
from inference.errors import EngineError, InputError, StorageError, UriError
from inference.files import check_uri, read_bytes, shard, write_text
from inference.manifest import ERROR_SUFFIX, Manifest, ManifestError, Task, parse_manifest
from inference.tasks import Inputs, Stop, StoppedError, input_uris, run_task

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, USAGE, STORAGE, STOPPED = 0, 1, 2, 3, 143
SINGLE_TASK = "predictions"  # task id of a run from flags

_NEEDED = ("prompt_gcs", "query_gcs", "output_gcs")
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
    tasks: tuple[Task, ...] = ()
    try:
        tasks = _read_tasks(arguments)
        code = run_tasks(tasks, tally=tally)
        if arguments.manifest is None and tally.failed and isinstance(next(iter(tally.failed.values())), _BAD_INPUT):
            code = USAGE
    except (*_BAD_INPUT, FileNotFoundError, StorageError) as error:
        _say(f"error: {error}")
        tally.failed["start"] = error
        code = STORAGE if isinstance(error, StorageError) else USAGE
    sys.stdout.write(tally.summary(n_tasks=len(tasks), seconds=time.monotonic() - start) + "\n")
    return code


def run_tasks(tasks: Sequence[Task], *, tally: Tally) -> int:
    """Run the tasks in order; a failing one is recorded beside its output and does not stop the others.

    Parameters
    ----------
    tasks
        What to run.
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
            inputs = Inputs(tasks, folder=folder)
            for number, task in enumerate(tasks, start=1):
                _say(f"task {number} of {len(tasks)}: {task.id} ({task.engine})")
                _run_one(task, inputs=inputs, folder=folder, stop=stop, tally=tally)
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


def _run_one(task: Task, *, inputs: Inputs, folder: Path, stop: Stop, tally: Tally) -> None:
    try:
        result = run_task(task, inputs=inputs, folder=folder, stop=stop)
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


def _read_tasks(arguments: argparse.Namespace) -> tuple[Task, ...]:
    """Tasks of this process, every address checked before anything is read."""
    if arguments.manifest is None:
        manifest = _manifest_of_flags(arguments)
    else:
        manifest = parse_manifest(read_bytes(arguments.manifest))
    outputs = {check_uri(task.output) for task in manifest.tasks}
    for task in manifest.tasks:
        find_engine(task.engine)
        if clash := outputs.intersection(input_uris(task).values()):
            msg = f"{sorted(clash)} is both an input and an output; give each output a path of its own"
            raise UriError(msg)
    for uri in (manifest.model, manifest.genelist):
        if uri is not None:
            check_uri(uri)
    index, count = shard()
    return manifest.tasks[index::count] if arguments.manifest is not None else manifest.tasks


def _manifest_of_flags(arguments: argparse.Namespace) -> Manifest:
    task = Task(
        id=SINGLE_TASK,
        prompt=arguments.prompt_gcs,
        query=arguments.query_gcs,
        output=arguments.output_gcs,
        seed=arguments.seed,
        engine=arguments.engine or default_engine(arguments.model_gcs),
        control=arguments.control_gcs,
    )
    return Manifest(
        tasks=(task,),
        model=arguments.model_gcs,
        genelist=arguments.genelist_gcs,
        diffusion_steps=arguments.diffusion_steps,
        batch_size=arguments.batch_size,
    )


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
    parser.add_argument("--model-gcs", help="model checkpoint; the baselines need none")
    parser.add_argument("--genelist-gcs", help="the model's genes")
    parser.add_argument("--engine", help="none, mean, shift or weighted (default: weighted while no model is given)")
    parser.add_argument("--diffusion-steps", type=_positive, default=5, help="steps of the model (default: 5)")
    parser.add_argument("--batch-size", type=_positive, default=32, help="cells per model batch (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="fixes the sampled counts (default: 0)")
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
