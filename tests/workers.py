"""Processes that work on a run, for tests that kill them.

They are forked from a server that has imported everything, which spares each of them seconds of imports.
"""

import multiprocessing
import os
import sys

PRELOAD = (
    "haystack_kernel.run",
    "haystack_kernel.flow",
    "haystack_kernel.config.connect",
    "anndata",
    "duckdb",
    "pandas",
    "scipy.stats",
)


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
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOAD, __name__])
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
