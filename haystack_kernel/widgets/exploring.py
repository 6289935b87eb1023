"""The explorer of a finished run as a part of a desk: opened by a press, since it reads all of the run's cells.

In: a run. Out: :class:`Explore`; its still picture is the one that the explorer draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from haystack_kernel.report.html import paragraph
from haystack_kernel.widgets import markup
from haystack_kernel.widgets.part import Part

if TYPE_CHECKING:
    from haystack_kernel.explorer import Explorer
    from haystack_kernel.run import Run


class Explore(Part):
    """The cells, genes and pathways of a run, once somebody asks for them.

    Parameters
    ----------
    run
        A run with a scored round.

    Examples
    --------
    >>> part = Explore(run)  # doctest: +SKIP
    >>> part.act("open")  # doctest: +SKIP
    """

    actions: ClassVar[tuple[str, ...]] = ("open",)

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.explorer: Explorer | None = None
        self._still: str | None = None

    @property
    def is_about(self) -> tuple[str, str] | None:
        """It explores its run."""
        return "explore", self.run.run_id

    def open(self, arg: str = "", values: dict[str, Any] | None = None) -> None:
        """Read the cells and show them."""
        del arg, values

        def read() -> None:
            explorer = self.run.explore()
            explorer.listen(self._chosen)
            self.explorer = explorer

        if self.explorer is None:
            self.work("Reading the cells", read)

    def _chosen(self) -> None:
        self._still = None
        self.changed()

    def picture(self, *, live: bool) -> str:
        """The way in; with an open explorer nothing, since that is a view of its own, or its still picture."""
        heading = "Cells, genes and pathways"
        if self.explorer is None:
            if not live:
                return ""
            go = markup.button("Explore", "open", kind="main", off=bool(self.busy))
            what = "Cells on a map, genes, pathways and evidence, linked with each other; beside the baselines."
            busy = markup.status_line(self.busy)
            buttons = f'<div class="buttons">{go}</div>'
            parts = (paragraph(what, kind="small"), buttons, busy, markup.problem_box(self.problem))
            return markup.page(markup.section("explore", heading, *parts), kind="explore")
        if live:
            return markup.page(markup.section("explore", heading), kind="explore")
        if self._still is None:
            self._still = str(self.explorer.html())
        return markup.page(markup.section("explore", heading, self._still), kind="explore")
