"""Look at a finished run: its cells on a map, its genes, pathways and evidence, linked with each other.

In: a run record and its ports. Out: :class:`Explorer`, a widget in notebooks and pictures elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError, NotFoundError
from haystack_kernel.explorer.load import RUN_SIDE, TRUTH_SIDE, load_data, load_folder
from haystack_kernel.explorer.state import ExplorerState
from haystack_kernel.explorer.twin import static_html
from haystack_kernel.explorer.view import Explorer

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Ports, Store
    from haystack_kernel.report.html import Html
    from haystack_kernel.schema import RunRecord

__all__ = ["Explorer", "ExplorerState", "open_explorer", "report_part"]


def open_explorer(
    record: RunRecord,
    ports: Ports,
    *,
    other: RunRecord | None = None,
    truth: ad.AnnData | str | Path | None = None,
) -> Explorer:
    """Open the explorer of a run's best round.

    Parameters
    ----------
    record
        The run; it must have a scored round.
    ports
        Its storage and atlases.
    other
        A second run of the same storage to set it beside.
    truth
        A measured response that the caller holds, to set it beside.

    Returns
    -------
    The explorer, with the called gene of the largest change chosen; with ``truth`` or ``other``, set beside that.

    Raises
    ------
    InvalidInputError
        One of the runs has no scored round yet, or the cells of ``truth`` are refused.

    Examples
    --------
    >>> open_explorer(run.record, ports)  # doctest: +SKIP
    """
    state = ExplorerState(load_data(record, ports, other=other, truth=truth))
    if truth is not None:
        state.choose_side(TRUTH_SIDE)
    elif other is not None:
        state.choose_side(RUN_SIDE)
    return Explorer(state)


def report_part(record: RunRecord, store: Store, *, knowledge: Knowledge) -> Html | None:
    """Return the explorer of a run for its report: pictures of cells and genes that belong together, and evidence.

    Parameters
    ----------
    record
        The run.
    store
        Its storage.
    knowledge
        Pathways and networks.

    Returns
    -------
    The gene of the largest change, the best expected pathway and the nearest baseline are chosen. None where there is
    no scored round, or its cells are no longer in the run folder.

    Examples
    --------
    >>> report_part(run.record, store, knowledge=load_knowledge())  # doctest: +SKIP
    """
    best = record.best
    if best is None or best.composite is None:
        return None
    try:
        data = load_folder(record, store, knowledge=knowledge)
        if not data.is_whole:
            return None
        state = ExplorerState(data)
        expected = data.pathways[data.pathways["is_expected"].astype(bool)]
        if len(expected):
            state.choose_pathway(str(expected["pathway"].iloc[0]))
        nearest = sorted(best.agreement, key=lambda one: -one.pearson if one.pearson == one.pearson else 2.0)
        state.choose_side(next((key for one in nearest if (key := f"baseline {one.engine}") in data.sides), None))
        return static_html(state, in_report=True)
    except (NotFoundError, ContractError):  # files of the round were deleted
        return None
