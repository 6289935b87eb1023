"""Look at a finished run: its cells on a map, its genes, pathways and evidence, linked with each other.

In: a run record and its ports. Out: :class:`Explorer`, a widget in notebooks and pictures elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.explorer.load import RUN_SIDE, TRUTH_SIDE, load_data
from haystack_kernel.explorer.state import ExplorerState
from haystack_kernel.explorer.view import Explorer

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunRecord

__all__ = ["Explorer", "ExplorerState", "open_explorer"]


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
