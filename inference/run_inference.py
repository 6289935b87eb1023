"""The inference program: one prediction from flags, or every task of a manifest.

In: ``--prompt-gcs --query-gcs --output-gcs …`` or ``--manifest URI``; every address may be local or gs://.
Out: outputs and result files; progress on stderr, one JSON line on stdout. Exit codes: 0 done, 1 a task failed, 2 wrong
usage or input, 3 storage failed, 143 ended by SIGTERM (run again to finish the remaining tasks).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from inference.apart import start_apart
from inference.errors import EngineError, InputError, StorageError, UriError
from inference.files import check_uri, read_bytes, shard
from inference.flags import add_model_flags, default_engine, model_fields
from inference.imports import load_modules, wait_passively
from inference.manifest import (
    EMBED,
    ENGINES,
    GENERATE,
    MODEL_ENGINE,
    Manifest,
    ManifestError,
    Task,
    check_manifest,
    check_task,
    parse_manifest,
)
from inference.tally import STORAGE, USAGE, Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

SINGLE_TASK = "predictions"  # task id where flags describe the task

_NEEDED = ("prompt_gcs", "query_gcs", "output_gcs")
_NEEDED_TO_EMBED = ("query_gcs", "output_gcs")
_BAD_INPUT = (InputError, EngineError, UriError, ManifestError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    wait_passively()
    start = time.monotonic()
    arguments = _parse(argv)
    tally = Tally()
    n_tasks = 0
    try:
        manifest = _read_manifest(arguments)
        # before anything else is loaded, as loading torch takes the longest
        with start_apart() if _is_for_another_process(manifest) else nullcontext() as apart:
            load_modules(["inference.job"])
            from inference.job import run_tasks

            _check_addresses(manifest)
            if arguments.manifest is not None:
                index, count = shard()
                manifest = replace(manifest, tasks=manifest.tasks[index::count])
            n_tasks = len(manifest.tasks)
            code = run_tasks(manifest, tally=tally, apart=apart)
        if arguments.manifest is None and tally.failed and isinstance(next(iter(tally.failed.values())), _BAD_INPUT):
            code = USAGE
    except (*_BAD_INPUT, FileNotFoundError, StorageError) as error:
        _say(f"error: {error}")
        tally.failed["start"] = error
        code = STORAGE if isinstance(error, StorageError) else USAGE
    sys.stdout.write(tally.summary(n_tasks=n_tasks, seconds=time.monotonic() - start) + "\n")
    return code


def _is_for_another_process(manifest: Manifest) -> bool:
    """Whether the model may as well be in a process of its own: on a processor, where it takes tasks one by one."""
    of_model = [task for task in manifest.tasks if task.engine == MODEL_ENGINE]
    return manifest.device == "cpu" and bool(of_model) and all(task.kind == GENERATE for task in of_model)


def _read_manifest(arguments: argparse.Namespace) -> Manifest:
    """Tasks and parameters, of all processes of a Batch array."""
    if arguments.manifest is None:
        return _manifest_of_flags(arguments)
    manifest = parse_manifest(read_bytes(arguments.manifest))
    if arguments.device != Manifest.device:  # of the machine, which whoever wrote the manifest need not know
        manifest = replace(manifest, device=arguments.device)
        check_manifest(manifest)
    return manifest


def _check_addresses(manifest: Manifest) -> None:
    """Check all addresses and engines before any file of cells is read."""
    from inference.engines import require_installed
    from inference.inputs import input_uris

    outputs = {check_uri(task.output) for task in manifest.tasks}
    model = {check_uri(uri) for uri in (manifest.model, manifest.genelist) if uri is not None}
    for task in manifest.tasks:
        if clash := outputs.intersection(model.union(input_uris(task).values())):
            msg = f"{sorted(clash)} is both an input and an output; give each output a path of its own"
            raise UriError(msg)
    for name in sorted({task.engine for task in manifest.tasks} - set(ENGINES)):
        require_installed(name)


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
