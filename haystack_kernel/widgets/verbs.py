"""The verbs that put a desk into a notebook.

In: a question, a run or its id, a storage. Out: a :class:`Desk`, shown live where somebody sits at the notebook.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from haystack_kernel import run as verbs_of_runs
from haystack_kernel.config.settings import load_settings
from haystack_kernel.run import Run
from haystack_kernel.widgets.asking import Ask
from haystack_kernel.widgets.desk import Desk
from haystack_kernel.widgets.listing import ForkForm, RunList
from haystack_kernel.widgets.watching import Monitor

if TYPE_CHECKING:
    from haystack_kernel.schema import Settings


class AttachedRun(Run):
    """A run that may go on in another process: a notebook shows it live then, else as every run."""

    def _ipython_display_(self) -> None:
        from haystack_kernel.widgets.still import is_attended

        if self.record.status != "running" or not is_attended():
            raise NotImplementedError  # by which IPython goes on to the usual display
        settings = self._ports.settings
        Desk(Monitor(self.run_id, settings=settings), settings=settings, live=True)._ipython_display_()


@functools.wraps(verbs_of_runs.attach)
def attach(run_id: str, **places: Any) -> Run:  # noqa: ANN401 - as the wrapped verb takes them
    """As :func:`haystack_kernel.run.attach`; the notebook that calls shows a run that goes on live."""
    found = verbs_of_runs.attach(run_id, **places)
    return AttachedRun(found.record, ports=found._ports)


def ask(
    question: str | None = None,
    *,
    storage: str | None = None,
    settings: Settings | None = None,
    live: bool | None = None,
    **options: Any,  # noqa: ANN401 - fields of RunConfig, validated by it
) -> Desk:
    """Ask a question by hand: see how it reads, which cells it would use, a first answer and the cost; then start it.

    Parameters
    ----------
    question
        What to ask; None leaves the field empty.
    storage
        Where run folders live; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    live
        Show fields and buttons. None shows them where somebody sits at the notebook, and still pictures where a program
        executes it.
    **options
        Fields of :class:`haystack_kernel.schema.RunConfig`; they fill the form.

    Returns
    -------
    A desk. Without a front end ``desk.start().wait()`` does what its buttons do.

    Examples
    --------
    >>> haystack.widgets.ask("How would NK cells respond to IL-15?")  # doctest: +SKIP
    >>> haystack.widgets.ask("How would NK cells respond to IL-15?").start().wait()  # doctest: +SKIP
    """
    settings = settings or load_settings(storage=storage)
    return Desk(Ask(question or "", settings=settings, **options), settings=settings, live=live)


def monitor(
    run: Run | str, *, storage: str | None = None, settings: Settings | None = None, live: bool | None = None
) -> Desk:
    """Watch a run that any process works on, from any notebook, however often the kernel was restarted.

    Parameters
    ----------
    run
        The run or its id.
    storage
        Where run folders live; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    live
        As in :func:`ask`.

    Returns
    -------
    A desk that shows the run.

    Raises
    ------
    NotFoundError
        No such run in this storage.

    Examples
    --------
    >>> haystack.widgets.monitor("run-20260102t030405-abcdef")  # doctest: +SKIP
    """
    settings = settings or load_settings(storage=storage)
    run_id = run.run_id if isinstance(run, Run) else run
    return Desk(Monitor(run_id, settings=settings), settings=settings, live=live)


def runs(*, storage: str | None = None, settings: Settings | None = None, live: bool | None = None) -> Desk:
    """List the newest runs of a storage: find one, show it, compare two.

    Parameters
    ----------
    storage
        Where run folders live; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    live
        As in :func:`ask`.

    Returns
    -------
    A desk that shows the list, and below it what was chosen.

    Examples
    --------
    >>> haystack.widgets.runs()  # doctest: +SKIP
    """
    settings = settings or load_settings(storage=storage)
    return Desk(RunList(settings=settings), settings=settings, live=live)


def fork(
    run: Run | str, *, storage: str | None = None, settings: Settings | None = None, live: bool | None = None
) -> Desk:
    """Make a new run from an old one by hand, with one option changed.

    Parameters
    ----------
    run
        The old run or its id.
    storage
        Where run folders live; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    live
        As in :func:`ask`.

    Returns
    -------
    A desk with the form; :func:`haystack_kernel.fork` is the same without one.

    Examples
    --------
    >>> haystack.widgets.fork("run-20260102t030405-abcdef")  # doctest: +SKIP
    """
    settings = settings or load_settings(storage=storage)
    run_id = run.run_id if isinstance(run, Run) else run
    return Desk(ForkForm(run_id, settings=settings), settings=settings, live=live)
