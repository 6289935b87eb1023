"""The explorer in a notebook: a widget where the front end has widgets, and a static picture everywhere.

In: :class:`ExplorerState`. Out: :class:`Explorer`. The widget only shows and asks; what is chosen lives in the state.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.explorer.messages import (
    Reply,
    answer,
    gene_reply,
    pathway_reply,
    selection_reply,
    side_reply,
)
from haystack_kernel.explorer.twin import static_html
from haystack_kernel.report.html import Html

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import ArrayLike

    from haystack_kernel.explorer.evidence import GeneEvidence
    from haystack_kernel.explorer.state import ExplorerState

_STATIC = Path(__file__).parent / "static"
_SETTLE_S = 0.7  # of rest after a choice before the static picture is drawn again
_INSTALL = "The interactive explorer needs anywidget: pip install 'haystack-kernel[lab]'"


class _Words(str):
    """A text that is displayed without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Explorer:
    """The cells, genes, pathways and evidence of a run, linked with each other.

    Displayed in a notebook it is interactive; the same content stands in the saved notebook as pictures and tables.
    Every choice can also be made here, without a browser.

    Parameters
    ----------
    state
        What is shown and chosen.

    Examples
    --------
    >>> explorer = run.explore()  # doctest: +SKIP
    >>> explorer.gene = "SERPINE1"  # doctest: +SKIP
    >>> explorer.selected_cells()  # doctest: +SKIP
    """

    def __init__(self, state: ExplorerState) -> None:
        self.state = state
        self._name = f"haystack-twin-{uuid.uuid4().hex[:12]}"
        self._widget: Any = None
        self._twin: Any = None  # handle of the static picture in the notebook
        self._due: Any = None  # call that will draw it again
        self._listeners: list[Callable[[], object]] = []

    # --- choices ---

    @property
    def gene(self) -> str:
        """The chosen gene; set it to choose another one."""
        return self.state.gene

    @gene.setter
    def gene(self, gene: str) -> None:
        self.state.choose_gene(gene)
        self._tell(gene_reply(self.state))

    @property
    def pathway(self) -> str:
        """The pathway whose genes are marked, "" for none; set it to mark another one."""
        return self.state.pathway

    @pathway.setter
    def pathway(self, pathway: str | None) -> None:
        self.state.choose_pathway(pathway)
        self._tell(pathway_reply(self.state))

    @property
    def side(self) -> str:
        """Key of the response that the prediction is set beside, "" for none; set it to one of ``sides``."""
        return self.state.side.name if self.state.side else ""

    @side.setter
    def side(self, side: str | None) -> None:
        self.state.choose_side(side)
        self._tell(side_reply(self.state), gene_reply(self.state))

    @property
    def sides(self) -> dict[str, str]:
        """What the prediction can be set beside: key and label."""
        return {key: label for key, (label, _) in self.state.data.sides.items()}

    def select(self, cells: ArrayLike | None = None) -> None:
        """Select cells, as a lasso does.

        Parameters
        ----------
        cells
            One truth value per row of ``cells()``; None selects nothing.
        """
        self.state.select(cells)
        self._tell(selection_reply(self.state))

    def select_group(self, role: str, cell_type: str | None = None) -> None:
        """Select the cells of a role, or of a role and cell type.

        Parameters
        ----------
        role
            ``prompt``, ``control``, ``query`` or ``predicted``.
        cell_type
            Name of the cell type; None takes all.
        """
        self.state.select_group(role, cell_type)
        self._tell(selection_reply(self.state))

    # --- tables ---

    def cells(self) -> pd.DataFrame:
        """All cells of the run that the explorer holds, one row each, with their places on the map."""
        return self.state.data.arms.table.copy()

    def selected_cells(self) -> pd.DataFrame:
        """The selected cells, or all on the map, with the expression of the chosen gene (log1p CP10k)."""
        return self.state.selected_cells()

    def genes(self) -> pd.DataFrame:
        """All genes: the DE table with marks of the pathway, the selection's difference and the side's effect."""
        return self.state.genes()

    def groups(self) -> pd.DataFrame:
        """The chosen gene by role and cell type among the selected cells."""
        return self.state.groups()

    def evidence(self) -> GeneEvidence:
        """What is known about the chosen gene: expectation, pathways, regulators, papers."""
        return self.state.evidence()

    # --- showing ---

    def html(self) -> Html:
        """The explorer as it stands, as static HTML."""
        # where the live view is gone, a notebook would say so in its place: that is hidden
        gone = f".jp-OutputArea-child:has(.{self._name}) + .jp-OutputArea-child:not(:has(.hx)){{display:none}}"
        return Html(f'<div class="{self._name}"><style>{gone}</style>{static_html(self.state)}</div>')

    @property
    def widget(self) -> Any:  # noqa: ANN401 - anywidget is optional
        """The widget, made at first use; None where anywidget is not installed."""
        if self._widget is None:
            self._widget = self._make_widget()
        return self._widget

    def listen(self, listener: Callable[[], object]) -> None:
        """Call ``listener`` once nothing was chosen for a moment, so that it can draw the static picture again."""
        self._listeners.append(listener)

    def __repr__(self) -> str:
        state = self.state
        n = "all cells" if state.mask is None else f"{int(state.mask.sum()):,} cells selected"
        return f"Explorer({state.data.record.run_id!r}, gene {state.gene!r}, {n})"

    def _repr_html_(self) -> str:
        return self.html()._repr_html_()

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        if self.widget is None:
            display(HTML(self._repr_html_()), _Words(_INSTALL))
            return
        # Two outputs: a front end that cannot show the widget, or not any more, still shows the picture.
        self._twin = display(HTML(self._repr_html_()), display_id=self._name)
        data, metadata = self.widget._repr_mimebundle_()
        display({**data, "text/plain": repr(self)}, raw=True, metadata=metadata or {})

    # --- own ---

    def _make_widget(self) -> Any:  # noqa: ANN401
        try:
            import anywidget
            import traitlets
        except ImportError:
            return None

        class ExplorerWidget(anywidget.AnyWidget):
            """Pictures of an explorer; everything travels as messages."""

            _esm = (_STATIC / "explorer.js").read_text(encoding="utf-8")
            _css = (_STATIC / "explorer.css").read_text(encoding="utf-8")
            twin = traitlets.Unicode("").tag(sync=True)  # class of the static picture, which the live one hides

        widget = ExplorerWidget(twin=self._name)
        widget.on_msg(self._hear)
        return widget

    def _hear(self, _: object, content: dict[str, Any], buffers: list[bytes]) -> None:
        replies = answer(self.state, content, buffers)
        self._send(replies)
        if content.get("kind") != "hello":
            self._redraw_soon()

    def _tell(self, *replies: Reply) -> None:
        self._send(replies)
        self._redraw_soon()

    def _send(self, replies: list[Reply] | tuple[Reply, ...]) -> None:
        if self._widget is not None:
            for reply in replies:
                self._widget.send(reply.content, reply.buffers)

    def _redraw_soon(self) -> None:
        """Draw the static picture again once nothing was chosen for a moment, so that a saved notebook shows it."""
        import asyncio

        if self._twin is None and not self._listeners:
            return
        if self._due is not None:
            self._due.cancel()
        try:
            self._due = asyncio.get_running_loop().call_later(_SETTLE_S, self._redraw)
        except RuntimeError:  # no event loop: no front end that could choose again at once
            self._redraw()

    def _redraw(self) -> None:
        from IPython.display import HTML

        self._due = None
        if self._twin is not None:
            self._twin.update(HTML(self._repr_html_()))
        for listener in self._listeners:
            listener()
