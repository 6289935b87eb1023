"""The kernel of a run on the command line, started while the question is still being checked.

In: nothing. Out: a kernel of this interpreter for the papermill engine, which has loaded what the first steps need.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inference.imports import load_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_client.manager import AsyncKernelManager

QUIET = "--log-level=50"  # the kernel's own chatter is not the run's log
_MAX_SOCKET_PATH = 100  # the system allows 103 to 107 bytes, and the number of the channel follows
_FIRST_STEPS = (
    "haystack_kernel.run",
    "haystack_kernel.report",
    "haystack_kernel.planners.offline",
    "haystack_kernel.retrieval",
    "haystack_kernel.atlas.index",
    "anndata",
)
# an expression, so that the notebook's names stay its own
_LOAD = f'__import__("{__name__}", fromlist=["load_first_steps"]).load_first_steps(for_model=%s)'


@contextmanager
def early_kernel(*, for_model: bool = False) -> Iterator[AsyncKernelManager]:
    """Start a kernel at once, without waiting until it answers; it ends with the block at the latest.

    With ``for_model``, the process of a model's job starts with it.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.util import run_sync
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="haystack-kernel-") as folder:
        # without folders of specs there is only this interpreter's own: a kernel "python3" of the user's may belong to
        # a Python without haystack_kernel
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            config=Config({"AsyncKernelManager": kernel_transport(folder)}),
        )
        words = [QUIET, f"--IPKernelApp.exec_lines={_LOAD % for_model}", "--HistoryManager.hist_file=:memory:"]
        try:
            run_sync(manager.start_kernel)(extra_arguments=words)
            yield manager
        finally:
            if manager.has_kernel:
                run_sync(manager.shutdown_kernel)(now=True)


def load_first_steps(*, for_model: bool = False) -> None:
    """Import what the cells up to the prediction use; with ``for_model``, have the job's process do so, too."""
    if for_model:
        from haystack_kernel.jobs import start_standby

        start_standby()
    load_modules(_FIRST_STEPS, for_good=True)


def kernel_transport(folder: str) -> dict[str, str]:
    """How to talk to the kernel: sockets in ``folder`` (no open port, no clash with other kernels) where they fit.

    Without an address of their own, all kernels started in one working directory would share their sockets.
    """
    address = f"{folder}/k"
    fits = os.name == "posix" and len(address) <= _MAX_SOCKET_PATH
    return {"transport": "ipc", "ip": address} if fits else {}
