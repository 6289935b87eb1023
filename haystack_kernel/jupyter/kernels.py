"""The kernel of a run on the command line, started before the command has loaded what it needs itself.

In: where the run will be and its options. Out: a kernel of this interpreter for the papermill engine, which has loaded
what the first steps need. Until its manager is asked for, only the standard library is needed here.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.imports import load_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_client.manager import AsyncKernelManager

QUIET = "--log-level=50"  # the kernel's own chatter is not the run's log
_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
_MAX_SOCKET_PATH = 100  # the system allows 103 to 107 bytes, and the number of the channel follows
_SETTINGS = ("haystack_kernel.config.options", "haystack_kernel.config.settings")
_FIRST_STEPS = (
    "haystack_kernel.run",
    "haystack_kernel.report",
    "haystack_kernel.planners.offline",
    "haystack_kernel.retrieval",
    "haystack_kernel.atlas.index",
    "anndata",
)
_CONNECTION, _GIVEN = "kernel.json", "given.json"  # files in the kernel's folder
# an expression, so that the notebook's names stay its own
_LOAD = f'__import__("{__name__}", fromlist=["load_first_steps"]).load_first_steps(%r)'


@dataclass(frozen=True)
class EarlyKernel:
    """A kernel that may not answer yet.

    Attributes
    ----------
    process
        The kernel's process.
    connection
        Path of the file that says how to talk to it.
    """

    process: subprocess.Popen[bytes]
    connection: str

    def manager(self) -> AsyncKernelManager:
        """Return a manager of the process, which ends it where it is told to."""
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager
        from jupyter_client.provisioning import LocalProvisioner

        # without folders of specs there is only this interpreter's own: a kernel "python3" of the user's may belong to
        # a Python without haystack_kernel
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            connection_file=self.connection,
        )
        manager.load_connection_file()
        provisioner = LocalProvisioner(parent=manager, kernel_spec=manager.kernel_spec)
        provisioner.process, provisioner.pid = self.process, self.process.pid
        provisioner.pgid = self.process.pid  # the process leads its own session
        provisioner.connection_info = manager.get_connection_info()
        manager.provisioner = provisioner
        return manager


@contextmanager
def early_kernel(*, storage: str | None = None, options: dict[str, Any] | None = None) -> Iterator[EarlyKernel]:
    """Start a kernel at once, without waiting until it answers; it ends with the block at the latest.

    With the options of a run whose job loads a model on this machine, the process of that job starts with it.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haystack-kernel-")))
        connection = folder / _CONNECTION
        connection.write_text(json.dumps(_new_connection(str(folder))), encoding="utf-8")
        given = {"storage": storage, "options": options}
        (folder / _GIVEN).write_text(json.dumps(given, default=str), encoding="utf-8")
        ends_with_us = f"--IPKernelApp.parent_handle={os.getpid()}"
        words = [
            ends_with_us,
            f"--IPKernelApp.exec_lines={_LOAD % str(folder / _GIVEN)}",
            "--HistoryManager.hist_file=:memory:",
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", str(connection), QUIET, *words],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield EarlyKernel(process, str(connection))
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def load_first_steps(run: str) -> None:
    """Import what the cells up to the prediction use; where that needs a model, have the job's process do so, too.

    ``run`` is the file that says where the run will be and what its options are.
    """
    load_modules(_SETTINGS)
    if needs_model(run):
        from haystack_kernel.jobs import start_standby

        start_standby()
    load_modules(_FIRST_STEPS, for_good=True)


def needs_model(run: str) -> bool:
    """Whether the job of a new run loads a model here; False where the options or settings will be refused."""
    from haystack_kernel.config.options import needs_model_here
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.errors import HaystackError

    given = json.loads(Path(run).read_text(encoding="utf-8"))
    if given["options"] is None:
        return False
    try:
        return needs_model_here(load_settings(storage=given["storage"]), given["options"])
    except HaystackError:  # which the command says
        return False


def kernel_transport(folder: str) -> dict[str, str]:
    """How to talk to the kernel: sockets in ``folder`` (no open port, no clash with other kernels) where they fit.

    Without an address of their own, all kernels started in one working directory would share their sockets.
    """
    address = f"{folder}/k"
    fits = os.name == "posix" and len(address) <= _MAX_SOCKET_PATH
    return {"transport": "ipc", "ip": address} if fits else {}


def _new_connection(folder: str) -> dict[str, Any]:
    """What the connection file of a kernel says: its channels, and the key that signs their messages."""
    address = kernel_transport(folder)
    ports = list(range(1, len(_CHANNELS) + 1))
    if not address:
        address = {"transport": "tcp", "ip": "127.0.0.1"}
        with ExitStack() as stack:  # all are held at once, so that no two are the same
            held = [stack.enter_context(socket.socket()) for _ in _CHANNELS]
            for one in held:
                one.bind((address["ip"], 0))
            ports = [one.getsockname()[1] for one in held]
    channels = {f"{name}_port": port for name, port in zip(_CHANNELS, ports, strict=True)}
    key = secrets.token_hex(32)
    return {**channels, **address, "key": key, "signature_scheme": "hmac-sha256", "kernel_name": "python3"}
