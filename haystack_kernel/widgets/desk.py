"""One place to work at: ask, watch, read the answer, explore, fork; and the verbs that put parts into a notebook.

In: a question, or the id of a run. Out: :class:`Desk`, and parts that a notebook shows live or as still pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.errors import HaystackError, NotFoundError
from haystack_kernel.report.html import Html
from haystack_kernel.widgets.asking import Ask
from haystack_kernel.widgets.exploring import Explore
from haystack_kernel.widgets.listing import ForkForm
from haystack_kernel.widgets.part import Part
from haystack_kernel.widgets.watching import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Consent, Ports
    from haystack_kernel.run import Run
    from haystack_kernel.schema import Settings


class Desk(Part):
    """Parts that follow from one another: a started question is watched, a finished run can be forked.

    Parameters
    ----------
    first
        The part it begins with: :class:`Ask`, :class:`Monitor` or :class:`RunList`.
    settings
        Where run folders are.
    open_ports
        Makes the ports of a call from its consent to spending; None connects as the settings say.
    live
        Show fields and buttons; None decides by whether somebody sits at the notebook.

    Examples
    --------
    >>> desk = ask("How would NK cells respond to IL-15?")  # doctest: +SKIP
    >>> desk.run.score  # doctest: +SKIP
    """

    def __init__(
        self,
        first: Part,
        *,
        settings: Settings,
        open_ports: Callable[[Consent], Ports] | None = None,
        live: bool | None = None,
    ) -> None:
        super().__init__()
        self.settings, self._open_ports, self._live = settings, open_ports, live
        self.parts: list[Part] = []
        self._add(first)
        self._follow_on()

    @property
    def first(self) -> Part:
        """The part it began with."""
        return self.parts[0]

    @property
    def monitor(self) -> Monitor | None:
        """The newest run that is watched here; None before one was started or opened."""
        return next((part for part in reversed(self.parts) if isinstance(part, Monitor)), None)

    @property
    def run(self) -> Run:
        """The newest run of this desk.

        Raises
        ------
        NotFoundError
            None was started or opened here yet.
        """
        if self.monitor is None:
            msg = "no run was started or opened here yet; start one above, or use haystack.attach(run_id)"
            raise NotFoundError(msg)
        return self.monitor.run

    def look(self) -> Desk:
        """Look at the question and wait for it, as the first button does; for notebooks that nobody sits at."""
        if isinstance(self.first, Ask):
            self.first.act("look")
            self.first.settle()
            self._raise_problem()
        return self

    def start(self, *, approve: bool = False, max_cost: float | None = None) -> Desk:
        """Look at the question unless that was done, and start the run.

        Parameters
        ----------
        approve
            Consent to jobs that cost money, for this call.
        max_cost
            Dollars that all jobs of the run together may cost.

        Returns
        -------
        This desk; the run works in a process of its own or as a job.

        Examples
        --------
        >>> ask("How would NK cells respond to IL-15?", live=False).start().wait().score  # doctest: +SKIP
        8.5
        """
        asked = self.first
        if isinstance(asked, Ask):
            if asked.seen is None:
                self.look()
            asked.act("start", values={"approve": approve, "max_cost": "" if max_cost is None else max_cost})
            asked.settle()
            self._raise_problem()
        return self

    def wait(self, *, timeout_s: float | None = None) -> Run | None:
        """Wait until the newest run is over; interrupting ends the waiting, not the run. None where there is none."""
        return self.monitor.wait(timeout_s=timeout_s) if self.monitor is not None else None

    def close(self) -> None:
        """Stop watching; runs go on."""
        for part in self.parts:
            if isinstance(part, Monitor):
                part.close()

    def _raise_problem(self) -> None:
        if self.first.problem:
            raise HaystackError(self.first.problem)

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        part.listen(self._follow_on)
        if isinstance(part, Monitor):
            part.follow()

    def _follow_on(self) -> None:
        """Add the part that what has just happened leads to."""
        with self._lock:  # parts change in threads of their own
            while (following := self._next()) is not None:
                self._add(following)
        self.changed()

    def _next(self) -> Part | None:
        shown = {part.is_about for part in self.parts}
        for part in self.parts:
            for what, run_id in part.leads_to:
                if (what, run_id) not in shown:
                    return self._make(what, run_id, max_cost=part.max_cost if isinstance(part, Ask) else None)
        return None

    def _make(self, what: str, run_id: str, *, max_cost: float | None) -> Part:
        if what == "watch":
            return Monitor(run_id, settings=self.settings, max_cost=max_cost, open_ports=self._open_ports)
        if what == "fork":
            return ForkForm(run_id, settings=self.settings, open_ports=self._open_ports)
        watched = (part for part in self.parts if isinstance(part, Monitor))
        return Explore(next(part.run for part in watched if part.run.run_id == run_id))

    @property
    def is_moving(self) -> bool:
        """Whether a run that is shown goes on."""
        return any(part.is_moving for part in self.parts)

    def _ipython_display_(self) -> None:
        from haystack_kernel.widgets.still import display_part, is_attended

        display_part(self, live=is_attended() if self._live is None else self._live)

    def picture(self, *, live: bool) -> str:
        """All parts, one below the other."""
        return Html("".join(part.picture(live=live) for part in self.parts))
