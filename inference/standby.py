"""The inference program, started ahead of its job: it loads what a model needs, then waits to be told the job.

In: names of modules, and later one line of JSON on standard input: ``folder`` to work in, ``words`` of the command, and
the names of the files in it. The input's end without a line says that whoever started this is gone, and the program
ends, too. Out: as of :mod:`inference.run_inference`, in these files.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from pathlib import Path

from inference.imports import load_modules, wait_passively

STOPPED, CRASHED = 143, 1


def main() -> None:
    """Wait for the job and do it; the exit code goes into the file that the order names."""
    wait_passively()
    given = os.fdopen(sys.stdin.fileno(), "rb", closefd=False)
    for name in sys.argv[1:]:
        if select.select([given], [], [], 0)[0] and not given.peek(1):  # nobody waits for the job any more
            return
        load_modules([name], for_good=True)
    line = given.readline()
    if not line.endswith(b"\n"):
        return
    order = json.loads(line)
    os.chdir(order["folder"])
    code = STOPPED
    # who cancels writes the marker first and then looks for processes, and finds this one
    if not Path(order["cancelled"]).exists():
        code = _work(order)
    temporary = Path(order["exit"] + ".tmp")
    temporary.write_text(f"{code}\n", encoding="utf-8")
    temporary.replace(order["exit"])
    os._exit(code)


def _work(order: dict[str, object]) -> int:
    """Run the program with its standard streams in the files of the order; returns the exit code."""
    from inference.run_inference import main as run

    for number, name in ((1, "result"), (2, "log")):
        file = os.open(str(order[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    words = order["words"]
    try:
        code = run([str(word) for word in words] if isinstance(words, list) else None)
    except Exception:  # noqa: BLE001 - as the interpreter would report it
        traceback.print_exc()
        code = CRASHED
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


if __name__ == "__main__":
    main()
