"""The conversation of an explorer with its pictures: what is asked, and what is sent back.

In: messages of a view (plain JSON and bytes). Out: replies of the same kind, for every view. Cells and genes are
numbered as in :class:`~haystack_kernel.explorer.arms.Arms`; expression travels gene by gene, one byte a cell.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from haystack_kernel import get, keys
from haystack_kernel.errors import HaystackError, InvalidInputError
from haystack_kernel.explorer.arms import ROLE, X, Y, quantise
from haystack_kernel.pl.style import GREY, ROLE_COLOURS, VERMILION

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.explorer.state import ExplorerState

_TESTED, _CALLED, _PADDED = 1, 2, 4  # bits of a gene
COLOURS = {  # of arms beside the roles of the map
    **ROLE_COLOURS,
    "predicted control": "#56B4E9",
    "predicted, other run": "#CC79A7",
    "measured, treated": VERMILION,
    "measured, control": GREY,
}


class Reply(NamedTuple):
    """One message to the views: plain JSON values, and arrays as bytes."""

    content: dict[str, Any]
    buffers: list[bytes]


def answer(state: ExplorerState, content: dict[str, Any], buffers: Sequence[bytes | memoryview]) -> list[Reply]:
    """Do what a view asks, and return what all views must know.

    Parameters
    ----------
    state
        What is chosen; it is changed.
    content
        ``kind``: ``hello`` (a view that knows nothing yet), ``gene``, ``pathway``, ``side``, ``group`` or ``select``,
        with ``value``.
    buffers
        For ``select``: one bit per cell, lowest bit first; none clears the selection.

    Returns
    -------
    Replies in the order in which they must arrive; a choice that is refused becomes one that says why.

    Examples
    --------
    >>> answer(state, {"kind": "gene", "value": "STAT1"}, [])[0].content["gene"]  # doctest: +SKIP
    'STAT1'
    """
    kind, value = content.get("kind"), content.get("value")
    try:
        if kind == "hello":
            return everything(state)
        if kind == "gene":
            state.choose_gene(str(value))
            return [gene_reply(state)]
        if kind == "pathway":
            state.choose_pathway(str(value) if value else None)
            return [pathway_reply(state)]
        if kind == "side":
            state.choose_side(str(value) if value else None)
            return [side_reply(state), gene_reply(state)]
        if kind == "group":
            state.select_group(str(content.get("role")), str(content.get("type")))
            return [selection_reply(state)]
        if kind == "select":
            state.select(_unpacked(buffers, n=len(state.data.arms)))
            reply = selection_reply(state)
            asked = {name: content.get(name) for name in ("serial", "view")}
            return [Reply({**reply.content, **asked}, reply.buffers)]
    except HaystackError as error:
        return [Reply({"kind": "problem", "message": str(error), "about": str(kind)}, [])]
    return [Reply({"kind": "problem", "message": f"An explorer does not know how to {kind!r}.", "about": ""}, [])]


def everything(state: ExplorerState) -> list[Reply]:
    """Return all that a new view must know."""
    found = [base_reply(state)]
    if state.side is not None:
        found.append(side_reply(state))
    found.append(gene_reply(state))
    if state.pathway:
        found.append(pathway_reply(state))
    if state.mask is not None:
        found.append(selection_reply(state))
    return found


def base_reply(state: ExplorerState) -> Reply:
    """Return what does not change: places of the cells, effects of the genes, pathways, and what can be compared."""
    data = state.data
    table, de = data.arms.table, data.de
    codes, labels = _coded(table)
    doubt, axis, name = get.doubt(de)
    flags = np.zeros(len(de), dtype=np.uint8)
    for column, bit in ((keys.IS_TESTED, _TESTED), (keys.IS_DE, _CALLED), (keys.PADDED, _PADDED)):
        if column in de:
            flags |= de[column].to_numpy(bool) * np.uint8(bit)
    content = {
        "kind": "base",
        "run": data.record.run_id,
        "question": data.record.question,
        "engine": data.record.config.engine,
        "groups": labels,
        "colours": COLOURS,
        "genes": de[keys.GENE].astype(str).tolist(),
        "pathways": [
            {
                "name": str(row["pathway"]),
                **{name: _number(row[name]) for name in ("score", "statistic", "p_signal", "p_specificity")},
                "expected": bool(row["is_expected"]),
                "n_genes": int(row["n_genes"]),
            }
            for row in data.pathways.to_dict("records")
        ],
        "sides": [{"key": key, "label": label} for key, (label, _) in data.sides.items()],
        "notes": list(data.notes),
        "doubt": {"axis": axis, "name": name},
        "sample": f"Drawn at random: {data.sample}." if data.sample else "",
    }
    expected = state.genes()["expected"].to_numpy(np.int8)
    arrays = [
        table[X].to_numpy(np.float32),
        table[Y].to_numpy(np.float32),
        codes.astype(np.uint16),
        data.arms.follows,
        de[keys.LOG2FC].to_numpy(np.float32),
        de[keys.DELTA].to_numpy(np.float32),
        de[doubt].to_numpy(np.float64),  # float32 ends at 1e-38
        flags,
        expected,
    ]
    return Reply(content, [array.tobytes() for array in arrays])


def gene_reply(state: ExplorerState) -> Reply:
    """Return the chosen gene: its evidence, its groups as a table, and its expression in every cell."""
    bytes_, largest = quantise(state.values)
    content = {
        "kind": "gene",
        "gene": state.gene,
        "largest": largest,
        "evidence": _plain(asdict(state.evidence())),
        **_described(state),
    }
    return Reply(content, [bytes_.tobytes()])


def selection_reply(state: ExplorerState) -> Reply:
    """Return which cells are selected, and how their genes differ from those of the other cells."""
    n = 0 if state.mask is None else int(state.mask.sum())
    content = {"kind": "selection", "n": n, **_described(state)}
    shift = state.shift()
    if state.mask is None or shift is None:
        return Reply(content, [])
    bits = np.packbits(state.mask, bitorder="little")
    return Reply(content, [bits.tobytes(), shift.astype(np.float32).tobytes()])


def pathway_reply(state: ExplorerState) -> Reply:
    """Return the genes of the chosen pathway with their directions."""
    content = {"kind": "pathway", "pathway": state.pathway, "n_genes": len(state.marked()), **_described(state)}
    return Reply(content, [state.genes()["pathway"].to_numpy(np.int8).tobytes()])


def side_reply(state: ExplorerState) -> Reply:
    """Return the other response: its effect per gene, its agreement, and its cells."""
    side, found = state.side, state.agreement()
    if side is None or found is None:
        return Reply({"kind": "side", "key": "", **_described(state)}, [])
    arms, n = state.arms, len(state.data.arms)
    codes, labels = _coded(arms.table)
    content = {
        "kind": "side",
        "key": side.name,
        "label": side.label,
        "note": side.note,
        "agreement": _plain(asdict(found)),
        "words": found.words,
        "groups": labels,
        **_described(state),
    }
    effect = side.effect.reindex(state.data.de[keys.GENE]).to_numpy(np.float32)
    further = (codes[n:].astype(np.uint16).tobytes(), arms.follows[n:].tobytes())
    return Reply(content, [effect.tobytes(), *further])


def _described(state: ExplorerState) -> dict[str, Any]:
    """Tables that change with every choice: the groups of the violins, and the dots."""
    groups, dots = state.groups(), state.dots()
    return {
        "table": _rows(groups, columns=("n_cells", "n_counted", "mean", "median", "detected")),
        "dots": {
            "genes": state.dot_genes(),
            "mean": [_number(value) for value in dots["mean"]],
            "detected": [_number(value) for value in dots["detected"]],
        },
    }


def _coded(table: pd.DataFrame) -> tuple[NDArray[np.intp], list[dict[str, str]]]:
    """Number of its role and cell type for every cell, and what the numbers mean; the order is that of the groups."""
    import pandas as pd

    codes, labels = pd.factorize(pd.MultiIndex.from_frame(table[[ROLE, keys.CELL_TYPE]]))
    return codes, [{"role": str(role), "type": str(kind)} for role, kind in labels]


def _unpacked(buffers: Sequence[bytes | memoryview], *, n: int) -> NDArray[np.bool_] | None:
    if not buffers:
        return None
    bits = np.frombuffer(bytes(buffers[0]), dtype=np.uint8)
    if bits.size != math.ceil(n / 8):
        msg = f"a selection of {n:,} cells takes {math.ceil(n / 8):,} bytes, not {bits.size:,}"
        raise InvalidInputError(msg)
    return np.unpackbits(bits, count=n, bitorder="little").astype(bool)


def _rows(table: pd.DataFrame, *, columns: Sequence[str]) -> list[list[float | None]]:
    return [[_number(value) for value in row] for row in table[list(columns)].itertuples(index=False, name=None)]


def _number(value: Any) -> float | None:  # noqa: ANN401 - numbers of any kind
    number = float(value)
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON values
    """NaN as null, tuples as lists."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
