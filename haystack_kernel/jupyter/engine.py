"""The papermill engine ``haystack``: debounced saves, phase progress, run id and storage from the output path.

In: a parameterised notebook. Out: the executed one, saved at most every few seconds and whole at the end; to a bucket
by way of a local file. Imported by papermill at its own import, so this module stays light.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbclient.util import ensure_async, run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.log import logger
from traitlets.config import Config

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jupyter.kernels import QUIET, kernel_transport
from haystack_kernel.jupyter.parameters import INJECTED_TAG, TAG, check_notebook, withhold_consent
from haystack_kernel.jupyter.stopping import StopRequest, listen
from haystack_kernel.progress import METADATA_KEY
from haystack_kernel.store.layout import RUNS

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbformat import NotebookNode

SAVE_INTERVAL_S = 2.0
_KERNEL_START_S = 600  # papermill's 60 s are too short on a busy machine; a kernel that dies is noticed earlier
_STOP_S = 30.0  # for a cell that was asked to stop, before its kernel is ended; it may be writing to a bucket
_RUN_PATH = re.compile(rf"^(?P<storage>.+)/{RUNS}/(?P<run_id>[a-z][a-z0-9-]{{7,44}})/[^/]+\.ipynb$")


class DebouncedManager(NotebookExecutionManager):
    """Saves at most every ``SAVE_INTERVAL_S`` seconds, and always at the end."""

    def save(self, **kwargs: object) -> None:
        """Save now if the last save is old enough."""
        if getattr(self, "_saved", False) and (self.now() - self.last_save_time).total_seconds() < SAVE_INTERVAL_S:
            return
        super().save(**kwargs)
        self._saved = True

    def notebook_complete(self, **kwargs: object) -> None:
        """Finish, and save whatever is still unsaved."""
        self._saved = False
        super().notebook_complete(**kwargs)


class RefusedParameterError(InvalidInputError, click.ClickException):
    """A parameter that the notebook does not have; papermill's command line shows the message without a traceback."""

    exit_code = 2

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message, **facts)
        click.ClickException.__init__(self, message)  # ValueError, which comes first, does not call it


class HaystackEngine(NBClientEngine):
    """``papermill --engine haystack``: see the module."""

    @classmethod
    def execute_notebook(  # noqa: PLR0917 - papermill's signature
        cls,
        nb: NotebookNode,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool | dict[str, object] = True,  # noqa: FBT001, FBT002
        log_output: bool = False,  # noqa: FBT001, FBT002
        autosave_cell_every: int = 2,
        **kwargs: Any,  # noqa: ANN401 - passed on to papermill
    ) -> NotebookNode:
        """Execute ``nb``; see :meth:`papermill.engines.Engine.execute_notebook`.

        Parameters that the notebook does not have are refused before anything runs. Consent to spend reaches the kernel
        but never the saved notebook.
        """
        try:
            check_notebook(nb)
        except InvalidInputError as error:
            raise RefusedParameterError(str(error), **error.facts) from None
        inject_run_folder(nb, output_path)
        sources = withhold_consent(nb)
        upload = None
        if str(output_path or "").startswith("gs://"):
            from papermill.iorw import papermill_io

            from haystack_kernel.jupyter.upload import open_upload

            # Our handler goes before papermill's for this one address; papermill itself writes there at the end.
            upload = open_upload(str(output_path), warn=logger.warning)
            papermill_io.register(str(output_path), upload)
        if output_path and "://" not in str(output_path):
            Path(output_path).parent.mkdir(parents=True, exist_ok=True)  # a run's folder is new; papermill makes none
        manager = DebouncedManager(
            nb,
            output_path=output_path,
            progress_bar=progress_bar,
            log_output=log_output,
            autosave_cell_every=min(autosave_cell_every, 2),
        )
        manager.notebook_start()
        try:
            kwargs["sources"] = sources
            cls.execute_managed_notebook(manager, kernel_name, log_output=log_output, **kwargs)
        except BaseException:  # also an interrupt: what was not executed must not count as completed
            unfinished = [cell for cell in nb.cells if cell.metadata.papermill["status"] != manager.COMPLETED]
            if unfinished:
                manager.cell_exception(unfinished[0])
            raise
        finally:
            manager.cleanup_pbar()
            withhold_consent(nb)  # a second interrupt may have ended the execution while a cell held it
            if upload is not None:
                upload.is_last = True
            manager.notebook_complete()
        return manager.nb

    @classmethod
    def execute_managed_notebook(  # noqa: PLR0917 - papermill's signature
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        log_output: bool = False,  # noqa: FBT001, FBT002
        stdout_file: object = None,
        stderr_file: object = None,
        start_timeout: int = _KERNEL_START_S,
        execution_timeout: int | None = None,
        **kwargs: Any,  # noqa: ANN401 - four are ours, see below
    ) -> NotebookNode:
        """Run the cells.

        Progress events go to ``on_event``; ``kernel`` is the manager of a kernel that was started before; ``stop`` is
        the caller's :class:`StopRequest`, without it the engine listens to signals itself; ``sources`` are executed
        instead of the cells in whose places they stand.
        """
        given = kwargs.get("stop")
        with (
            nullcontext(given) if given else listen() as stop,
            tempfile.TemporaryDirectory(prefix="haystack-kernel-") as folder,
        ):
            client = _ProgressClient(
                nb_man,
                km=kwargs.get("kernel"),
                timeout=execution_timeout,
                startup_timeout=max(start_timeout, _KERNEL_START_S),
                kernel_name=kernel_name,
                log=logger,
                log_output=log_output,
                stdout_file=stdout_file,
                stderr_file=stderr_file,
                config=Config({"KernelManager": kernel_transport(folder)}),
                extra_arguments=[QUIET],
                # every cell has saved what it made, so a kernel of our own need not take itself apart
                shutdown_kernel="immediate" if kwargs.get("kernel") else "graceful",
            )
            client.on_event = kwargs.get("on_event") or _log_event
            client.stop = stop
            # nbclient calls the first just before a cell is sent to the kernel and the second just after: no save comes
            # between them.
            sources = kwargs.get("sources") or {}
            client.on_cell_execute = lambda cell, cell_index: cell.update(source=sources.get(cell_index, cell.source))
            client.on_cell_complete = lambda **_: withhold_consent(nb_man.nb)
            return client.execute(cleanup_kc=True)


class _ProgressClient(PapermillNotebookClient):
    """Reads progress events from the metadata of displays as they pass, and hands a request to stop to the kernel.

    A cell that is asked to stop is interrupted, so that the run can save its state and give up its lease, and the
    notebook shows what it said. Only a cell that does not end then loses its kernel.
    """

    on_event: Callable[[dict[str, Any]], None]
    stop: StopRequest

    def papermill_execute_cells(self) -> None:
        """Execute cell by cell as papermill does; a cell that was interrupted counts as failed."""
        for index, cell in enumerate(self.nb.cells):
            if self.stop.number is not None:
                raise KeyboardInterrupt
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self.nb_man.cell_exception(self.nb.cells[index], cell_index=index, exception=error)
                break
            except BaseException as error:
                self.nb_man.cell_exception(self.nb.cells[index], cell_index=index, exception=error)
                raise
            finally:
                self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)

    async def async_execute_cell(self, cell: NotebookNode, cell_index: int, **options: Any) -> NotebookNode:  # noqa: ANN401
        """Execute a cell while requests to stop are passed on to the kernel."""
        loop = asyncio.get_running_loop()
        execution = loop.create_task(super().async_execute_cell(cell, cell_index, **options))
        stopping: list[asyncio.Task[None]] = []  # keeps the task alive

        async def interrupt() -> None:
            await ensure_async(self.km.interrupt_kernel())
            await asyncio.wait([execution], timeout=_STOP_S)
            execution.cancel()

        self.stop.pass_on = lambda: loop.call_soon_threadsafe(lambda: stopping.append(loop.create_task(interrupt())))
        try:
            return await execution
        except (asyncio.CancelledError, DeadKernelError):
            if self.stop.number is None:
                raise
            raise KeyboardInterrupt from None
        finally:
            self.stop.pass_on = None
            await asyncio.gather(*stopping)

    execute_cell = run_sync(async_execute_cell)

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        event = (msg.get("content", {}).get("metadata") or {}).get(METADATA_KEY)
        if event and msg.get("msg_type") in ("display_data", "update_display_data"):
            self.on_event(event)
        return super().process_message(msg, cell, cell_index)


def inject_run_folder(nb: NotebookNode, output_path: str | None) -> None:
    """Set the parameters ``storage`` and ``run_id`` from ``<storage>/runs/<run_id>/run.ipynb``, unless given.

    The kernel cannot see papermill's output path, so the engine tells it. Other output paths change nothing.
    """
    match = _RUN_PATH.match(output_path or "")
    cell = _tagged(nb, INJECTED_TAG) or _tagged(nb, TAG)
    if match is None or cell is None:
        return
    given = nb.metadata.get("papermill", {}).get("parameters", {})
    storage = match["storage"] if "://" in match["storage"] else str(Path(match["storage"]).absolute())
    found = {"storage": storage, "run_id": match["run_id"]}  # absolute: the kernel may work in another folder
    lines = [f"{name} = {value!r}" for name, value in found.items() if not given.get(name)]
    if lines:
        cell.source = "\n".join([cell.source, "# from the output path", *lines])


def _tagged(nb: NotebookNode, tag: str) -> NotebookNode | None:
    return next((cell for cell in nb.cells if tag in cell.metadata.get("tags", [])), None)


def _log_event(event: dict[str, Any]) -> None:
    logger.info("%s: %s", event.get("phase"), event.get("message"))
