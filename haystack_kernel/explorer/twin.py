"""The explorer as a static page part, for saved notebooks, other front ends and readers without a kernel.

In: :class:`ExplorerState`. Out: HTML with pictures as SVG and the same tables, every text escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel import get, keys
from haystack_kernel.explorer.arms import ROLE, X, Y
from haystack_kernel.explorer.messages import COLOURS
from haystack_kernel.explorer.state import SELECTION, SIDE
from haystack_kernel.explorer.svg import Drawing, density, limits
from haystack_kernel.pl.style import BLUE, GREY, ROLE_MARKERS, VERMILION, cut
from haystack_kernel.report.html import DOWN, UP, Html, bar, escape, items, number, paragraph, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.explorer.evidence import GeneEvidence
    from haystack_kernel.explorer.state import ExplorerState

N_GENES, N_PATHWAYS, N_POINTS, N_VIOLINS = 40, 20, 2000, 14
_NAME = 29  # letters that fit beside a violin
_OTHERS = 'Other genes, pathways and cells are chosen in a notebook: haystack.attach("{}").explore()'
_FLOOR = 1e-300  # smaller p values are drawn here, as in the volcano of the report
_SCALE = ("#b9c6d6", "#7fa3c4", "#4a86b8", "#2a6f9e", "#7a4fa3", "#a83f7d", "#c9354d", "#d55e00")  # low to high
_COLOURS = (GREY, *_SCALE)  # the first is for zero


def static_html(state: ExplorerState, *, in_report: bool = False) -> Html:
    """Return the explorer as it stands, without scripts.

    Parameters
    ----------
    state
        What is chosen.
    in_report
        It stands on a page that has the map by role and the tables of genes and pathways already.

    Returns
    -------
    Four or five pictures, then tables of genes, groups, pathways and evidence.

    Examples
    --------
    >>> static_html(state)  # doctest: +SKIP
    """
    data = state.data
    about = "Chosen" if in_report else f"Explorer of run {data.record.run_id}"
    pictures = [] if in_report else [_map(state, by_gene=False)]
    pictures += [_map(state, by_gene=True), _volcano(state), _violins(state)]
    beside = ""
    found = state.agreement()
    if state.side is not None and found is not None:
        pictures.append(_beside(state))
        beside = paragraph(f"Beside {state.side.label}: {found.words} {state.side.note}")
    parts = [
        paragraph(f"{about}: {_chosen(state)}."),
        paragraph(_OTHERS.format(data.record.run_id), kind="small") if in_report else "",
        items(data.notes),
        f'<div class="pictures">{" ".join(pictures)}</div>',
        beside,
    ]
    tables = [_group_table(state), _evidence(state.evidence())]
    if not in_report:
        tables = [_gene_table(state), tables[0], _pathway_table(data.pathways), tables[1]]
    parts += [f"<details><summary>{escape(summary)}</summary>{body}</details>" for summary, body in tables]
    return Html("".join(parts))


def _chosen(state: ExplorerState) -> str:
    said = [f"gene {state.gene}"]
    said += [f"pathway {state.pathway} marked"] if state.pathway else []
    n = 0 if state.mask is None else int(state.mask.sum())
    said += [f"{n:,} cells selected"] if n else ["all cells"]
    said += [f"beside {state.side.label}"] if state.side else []
    return "; ".join(said)


# --- pictures ---------------------------------------------------------------------------------------------------------


def _map(state: ExplorerState, *, by_gene: bool) -> Html:
    cells = state.data.arms.table
    places = cells[[X, Y]].to_numpy(float)
    shown = np.flatnonzero(~np.isnan(places[:, 0]))
    x, y = limits(places[shown, 0]), limits(places[shown, 1])
    drawing = Drawing(width=380, height=320, x=x, y=y, margin=(12, 34, 12, 20))
    if not shown.size:
        drawing.text((0.5, 0.5), "no map before the run is published")
        return drawing.picture(alt="No map of the cells before the run is published.")
    if shown.size > N_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(shown, N_POINTS, replace=False))
    if state.data.sample:
        drawing.text((x[0], y[0]), f"at random: {state.data.sample}", anchor="start", dy=16)
    roles = cells[ROLE].to_numpy(object)[shown]
    counted = state.counted()[shown]
    steps = _steps(state.values)[shown] if by_gene else np.zeros(shown.size, dtype=np.int64)
    for chosen, opacity in ((False, 0.15), (True, 0.8)):  # what is not selected lies below
        for role, step in dict.fromkeys(zip(roles.tolist(), steps.tolist(), strict=True)):
            colour = COLOURS.get(role, GREY) if not by_gene else _COLOURS[step + 1]
            share = opacity * (0.4 if step < 0 else 1)
            rows = shown[(roles == role) & (steps == step) & (counted == chosen)]
            drawing.marks(*places[rows].T, colour=colour, shape=ROLE_MARKERS.get(role, "o"), opacity=share)
    if by_gene:
        top = _largest(state.values)
        drawing.text((x[0], y[1]), f"{state.gene}, log1p(CP10k)", anchor="start", dy=-20)
        _legend(drawing, [("0", GREY, "s"), ("low", _SCALE[0], "s"), (f"{top:.1f}", _SCALE[-1], "s")], x=x, y=y)
        return drawing.picture(alt=f"Map of {len(shown):,} cells by the expression of {state.gene}, 0 to {top:.1f}.")
    drawing.text((x[0], y[1]), "cells by role", anchor="start", dy=-20)
    _legend(
        drawing,
        [(role, COLOURS.get(role, GREY), ROLE_MARKERS.get(role, "o")) for role in dict.fromkeys(roles)],
        x=x,
        y=y,
    )
    listed = ", ".join(f"{int((roles == role).sum())} {role}" for role in dict.fromkeys(roles))
    return drawing.picture(alt=f"Map of {len(shown):,} cells by role: {listed}.")


def _largest(values: NDArray[np.float32]) -> float:
    """Largest known value; 0 where none is known."""
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else 0.0


def _legend(
    drawing: Drawing, entries: Sequence[tuple[str, str, str]], *, x: tuple[float, float], y: tuple[float, float]
) -> None:
    """Write names with their marks in one line above the map."""
    place = x[0]
    unit = (x[1] - x[0]) / 356  # of one pixel
    lift = (y[1] - y[0]) / 266
    for name, colour, shape in entries:
        drawing.marks([place + 4 * unit], [y[1] + 10 * lift], colour=colour, shape=shape, size=4)
        drawing.text((place + 11 * unit, y[1]), name, anchor="start", dy=-6)
        place += (26 + 6.2 * len(name)) * unit


def _steps(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Step of the colour scale; -1 for zero and for a gene that is not held."""
    share = np.nan_to_num(values) / (_largest(values) or 1.0)
    steps = np.minimum((share * len(_SCALE)).astype(np.int64), len(_SCALE) - 1)
    return np.where(share > 0, steps, -1)


def _volcano(state: ExplorerState) -> Html:
    genes = state.genes()
    doubt, axis, _ = get.doubt(genes)
    tested = genes[genes[doubt].notna()].reset_index(drop=True)
    effect = tested[keys.LOG2FC].to_numpy(float)
    height = -np.log10(tested[doubt].clip(lower=_FLOOR).to_numpy(float))
    bounds = limits(effect, [-1.0, 1.0]), (0.0, max(float(height.max(initial=0.0)), 2.0) * 1.06)
    drawing = Drawing(width=380, height=320, x=bounds[0], y=bounds[1])
    called = tested[keys.IS_DE].to_numpy(bool)
    for mask, colour, shape in (
        (~called, GREY, "o"),
        (called & (effect > 0), VERMILION, "^"),
        (called & (effect < 0), BLUE, "v"),
    ):
        drawing.marks(effect[mask], height[mask], colour=colour, shape=shape, opacity=0.6)
    marked = tested["pathway"].to_numpy() != 0
    drawing.marks(effect[marked], height[marked], colour="#E69F00", shape="D", size=3.4)
    chosen = np.flatnonzero(tested[keys.GENE] == state.gene)
    drawing.frame(x="log2 fold change, predicted over control", y=axis)
    if chosen.size:
        row = int(chosen[0])
        drawing.marks([effect[row]], [height[row]], colour="#009E73", shape="D", size=5, opacity=1)
        at_left = effect[row] > sum(bounds[0]) / 2
        drawing.text((effect[row], height[row]), f" {state.gene} ", anchor="end" if at_left else "start", dy=-6)
    also = f", {int(marked.sum())} of pathway {state.pathway} marked" if state.pathway else ""
    return drawing.picture(
        alt=f"Volcano plot of {len(tested):,} tested genes: {int((called & (effect > 0)).sum())} rise, "
        f"{int((called & (effect < 0)).sum())} fall; {state.gene} named{also}."
    )


def _violins(state: ExplorerState) -> Html:
    groups = state.groups()
    shown = groups[(groups["n_counted"] > 0) & groups["mean"].notna()].iloc[-N_VIOLINS:]
    arms, counted, values = state.arms, state.counted(), state.values
    top = max(_largest(values), 0.1)
    height = 60 + 22 * max(len(shown), 2)
    drawing = Drawing(width=380, height=height, x=(0.0, top), y=(0, max(len(shown), 1)), margin=(190, 14, 10, 34))
    roles, types = (arms.table[name].to_numpy(object) for name in (ROLE, keys.CELL_TYPE))
    for place, row in enumerate(shown.iloc[::-1].to_dict("records")):
        inside = (roles == row[ROLE]) & (types == row[keys.CELL_TYPE]) & counted & ~np.isnan(values)
        along, wide = density(values[inside], top=top)
        middle = place + 0.5
        colour = COLOURS.get(row[ROLE], GREY)
        drawing.shape([*along, *along[::-1]], [*(middle + 0.42 * wide), *(middle - 0.42 * wide[::-1])], colour=colour)
        drawing.line((row["median"], middle - 0.4), (row["median"], middle + 0.4))
        size = f" ({row['n_counted']:,}) "
        name = cut(f"{row[ROLE]} {row[keys.CELL_TYPE]}".strip(), width=_NAME - len(size))
        drawing.text((0.0, middle), f"{name}{size.rstrip()}", anchor="end", dx=-5, dy=4)
    drawing.frame(x=f"{state.gene}, log1p(CP10k); line: median", y="")
    told = "; ".join(f"{row[ROLE]} {row[keys.CELL_TYPE]} {row['mean']:.2f}" for row in shown.to_dict("records"))
    return drawing.picture(alt=f"Violins of {state.gene} by role and cell type; mean log1p(CP10k): {told or 'none'}.")


def _beside(state: ExplorerState) -> Html:
    genes = state.genes()
    rows = genes[genes[keys.IS_TESTED].astype(bool) & genes[SIDE].notna()]
    ours, theirs = rows[keys.DELTA].to_numpy(float), rows[SIDE].to_numpy(float)
    bounds = limits(ours, theirs)
    drawing = Drawing(width=380, height=320, x=bounds, y=bounds)
    called = rows[keys.IS_DE].to_numpy(bool)
    drawing.line((bounds[0], bounds[0]), (bounds[1], bounds[1]), faint=True)
    drawing.marks(ours[~called], theirs[~called], colour=GREY, opacity=0.5)
    drawing.marks(ours[called], theirs[called], colour=VERMILION, shape="^")
    chosen = (rows[keys.GENE] == state.gene).to_numpy()
    drawing.marks(ours[chosen], theirs[chosen], colour="#009E73", shape="D", size=5, opacity=1)
    label = state.side.label if state.side else ""
    drawing.frame(x="predicted change, mean log1p", y=cut(label, width=44))
    return drawing.picture(alt=f"Predicted change of {len(rows):,} genes against {label}.")


# --- tables -----------------------------------------------------------------------------------------------------------


def _gene_table(state: ExplorerState) -> tuple[str, str]:
    genes = state.genes()
    tested = genes[genes[keys.IS_TESTED].astype(bool)]
    by = SELECTION if state.mask is not None else keys.DELTA
    order = tested[by].abs().sort_values(ascending=False, kind="stable").index[:N_GENES]
    doubt, _, name = get.doubt(genes)
    columns = ["gene", "DE call", "expected", "log2 fold change", "mean log1p change", name]
    columns += ["selected minus other cells"] if state.mask is not None else []
    columns += [state.side.label] if state.side else []
    rows: list[tuple[object, ...]] = []
    for row in tested.loc[order].to_dict("records"):
        call = (f"{UP} rises" if row[keys.LOG2FC] > 0 else f"{DOWN} falls") if row[keys.IS_DE] else ""
        expected = {1: UP, -1: DOWN}.get(row["expected"], "")
        numbers = [float(row[name]) for name in (keys.LOG2FC, keys.DELTA, doubt)]
        numbers += [float(row[SELECTION])] if state.mask is not None else []
        numbers += [float(row[SIDE])] if state.side else []
        rows.append((str(row[keys.GENE]), call, expected, *numbers))
    what = "difference between selected and other cells" if state.mask is not None else "mean change"
    caption = f"{len(rows):,} of {len(tested):,} tested genes, largest {what} first"
    return f"Genes ({len(rows)})", table(columns, rows, caption=caption, kind="sortable")


def _group_table(state: ExplorerState) -> tuple[str, str]:
    rows = [
        (
            str(row[ROLE]),
            str(row[keys.CELL_TYPE]) or "unknown",
            int(row["n_cells"]),
            int(row["n_counted"]),
            *(float(row[name]) for name in ("mean", "median", "detected")),
        )
        for row in state.groups().to_dict("records")
    ]
    counted = "selected" if state.mask is not None else "counted"
    columns = ("role", "cell type", "cells", counted, "mean", "median", "share detected")
    caption = f"{state.gene} by role and cell type, log1p(CP10k)"
    return f"{state.gene} by role and cell type", table(columns, rows, caption=caption, kind="sortable")


def _pathway_table(pathways: pd.DataFrame) -> tuple[str, str]:
    rows = [
        (
            str(row["pathway"]),
            bar(float(row["score"])),
            bool(row["is_expected"]),
            float(row["statistic"]),
            int(row["n_genes"]),
        )
        for row in pathways.head(N_PATHWAYS).to_dict("records")
    ]
    caption = f"{len(rows)} of {len(pathways)} pathways"
    return f"Pathways ({len(rows)})", table(
        ("pathway", "score", "expected", "statistic", "genes"), rows, caption=caption, kind="sortable"
    )


def _evidence(found: GeneEvidence) -> tuple[str, str]:
    links = [
        (kind, str(one["gene"]), f"{UP if one['sign'] > 0 else DOWN} {one['kind']}", _shown(one), str(one["source"]))
        for kind, group in (("regulator", found.regulators), ("target", found.targets))
        for one in group
    ]
    body = items(found.facts)
    if found.pathways:
        listed = [f"{UP if one['sign'] > 0 else DOWN} {one['pathway']}" for one in found.pathways]
        body += paragraph(f"Pathways: {'; '.join(listed)}")
    if links:
        columns = ("link", "gene", "how", "its predicted change", "source")
        body += table(columns, links, caption=f"Links of {found.gene} in the networks")
    for one in found.papers:
        about = ", ".join(str(one[name]) for name in ("title", "journal", "year") if one[name])
        withdrawn = " RETRACTED." if one["retracted"] else ""
        said = paragraph(f"{one['stance']}: {about}.{withdrawn}", kind="small")
        body += f"<blockquote>{paragraph(one['quote'])}{said}</blockquote>"
    return f"Evidence for {found.gene}", body + items(found.notes)


def _shown(one: dict[str, Any]) -> str:
    if one["log2fc"] is None:
        return "not in the run"
    return f"{number(one['log2fc'])}{', called' if one['called'] else ''}"
