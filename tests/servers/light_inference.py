"""The inference program without its arithmetic: the same manifest, shards, whole outputs, result files and skipping.

In: ``--manifest PATH`` and the variables of a Batch array. Out: outputs of a few bytes; a line in ``LIGHT_LOG`` for
each task that was computed, not skipped. ``LIGHT_STOP_AFTER`` ends it after so many tasks with code 143, ``LIGHT_HALF``
lets it write half an output and die with code 137, ``LIGHT_FAIL`` fails the task of that id, ``LIGHT_TASK_S`` is the
time a task takes.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

from inference.manifest import RESULT_SUFFIX, ManifestError, TaskResult, dump_result, parse_manifest, parse_result


def is_done(task):
    try:
        result = parse_result(Path(task.output + RESULT_SUFFIX).read_text(encoding="utf-8"))
        return hashlib.sha256(Path(task.output).read_bytes()).hexdigest() == result.sha256
    except (FileNotFoundError, ManifestError):
        return False


def write_whole(path, data):
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)


def compute(task):
    time.sleep(float(os.environ.get("LIGHT_TASK_S", "0")))
    path, data = Path(task.output), f"cells of {task.id}".encode() * 10
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.environ.get("LIGHT_HALF"):
        path.write_bytes(data[: len(data) // 2])
        sys.exit(137)
    write_whole(path, data)
    result = TaskResult(
        id=task.id,
        engine=task.engine,
        output=task.output,
        sha256=hashlib.sha256(data).hexdigest(),
        n_cells=1,
        n_genes=1,
        seconds=0.5,
        frac_genes_found=1.0,
        peak_memory_gib=0.1,
        seed=task.seed,
    )
    write_whole(Path(task.output + RESULT_SUFFIX), dump_result(result).encode())


def main():
    manifest = parse_manifest(Path(sys.argv[sys.argv.index("--manifest") + 1]).read_bytes())
    index, count = (int(os.environ[name]) for name in ("BATCH_TASK_INDEX", "BATCH_TASK_COUNT"))
    stop_after = int(os.environ.get("LIGHT_STOP_AFTER", "1000000"))
    code = n_computed = 0
    for task in manifest.tasks[index::count]:
        if is_done(task):
            continue
        if n_computed == stop_after:
            return 143
        if task.id == os.environ.get("LIGHT_FAIL"):
            sys.stderr.write(f"task {task.id} failed: no such prompt\n")
            code = 1
            continue
        compute(task)
        n_computed += 1
        with Path(os.environ["LIGHT_LOG"]).open("a", encoding="utf-8") as log:
            log.write(f"{task.id}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
