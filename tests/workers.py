"""The programs and processes that work on a run, for tests that start or kill many.

They are forked from a server that has imported everything, which spares each of them seconds of imports. That the
programs start by themselves is for tests/cli and tests/inference to show.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

KERNEL = "haystack_kernel.cli"
PRELOAD = (
    "haystack_kernel.run",
    "haystack_kernel.flow",
    "haystack_kernel.config.connect",
    "haystack_kernel.cli.runs",
    "haystack_kernel.jupyter.execute",
    "haystack_kernel.atlas.index",
    "haystack_kernel.planners.offline",
    "haystack_kernel.report.render",
    "haystack_kernel.retrieval",
    "inference.run_inference",
    "nbconvert",
    "papermill",
    "anndata",
    "duckdb",
    "pandas",
    "scipy.stats",
)


def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, __name__])
    return context


def run_program(module, environment, folder, out, err, words):
    """Be ``python -m module words…`` in a session of its own, with its standard output and error in files."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdout.flush()
    for number, place in ((1, out), (2, err)):
        os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    sys.argv = ["haystack" if module == KERNEL else module, *words]
    sys.exit(import_module(module).main())


class Program:
    """``haystack words…`` with what tests use of :class:`subprocess.Popen`.

    ``out``: where its output goes instead; ``module``: the program, if it is another one; ``is_merged``: what it says
    on standard error is part of its output.
    """

    stdout = None  # what it says is kept in a file

    def __init__(self, *words, out=None, environment=None, module=KERNEL, is_merged=False):
        self._folder = tempfile.TemporaryDirectory(prefix="program-")
        self._files = [Path(self._folder.name) / name for name in ("out", "err")]
        for path in self._files:
            path.touch()
        out = str(out or self._files[0])
        given = (dict(os.environ if environment is None else environment), str(Path.cwd()))
        places = (out, out if is_merged else str(self._files[1]))
        self.process = _context().Process(target=run_program, args=(module, *given, *places, words))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def kill(self):
        self.process.kill()

    def wait(self, timeout=None):
        """Wait for its end: its exit code."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("haystack", timeout)
        return self.process.exitcode

    def communicate(self, timeout=None):
        """Wait for its end: standard output and error."""
        self.wait(timeout)
        out, err = (path.read_text(encoding="utf-8") for path in self._files)
        self._folder.cleanup()
        return out, err


def work_until_told(environment, told, stderr, run_id, question, step):
    """Work on a run; say "at" at the beginning of a step and wait there for a word."""
    os.environ.clear()
    os.environ.update(environment)
    sys.stderr.flush()
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    from haystack_kernel.run import open_run

    def listen(event):
        if event.phase == step and event.message != "done":
            told.send("at")
            told.recv()

    open_run(question, run_id=run_id, progress=listen, approve=True).work()


class Worker:
    """One such process: ``pid``, signals, what it says and its standard error."""

    def __init__(self, stderr, *arguments):
        context = _context()
        self._stderr = stderr
        self.told, there = context.Pipe()
        given = (dict(os.environ), there, str(stderr), *arguments)
        self.process = context.Process(target=work_until_told, args=given, daemon=True)
        self.process.start()
        there.close()
        self.pid = self.process.pid

    def said(self):
        """What it says next; "" when it ended without a word."""
        try:
            return self.told.recv()
        except EOFError:
            return ""

    def send_signal(self, number):
        os.kill(self.pid, number)

    def end(self, timeout_s):
        """Wait for its end: exit status and standard error."""
        self.process.join(timeout_s)
        return self.process.exitcode, self._stderr.read_text(encoding="utf-8")

    def kill(self):
        self.process.kill()
        self.process.join()
