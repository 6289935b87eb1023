"""Where cells are to be moved: a target state from cells, a contrast, a gene set, or cells that an atlas holds.

In: files or objects of the user, or a ``SeekQuery`` and an atlas. Out: a ``TargetState``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.campaign.measured import MIN_DETECTION, fetch_cells, measure_effects
from haystack_kernel.campaign.toward import TargetState
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.de.background import FULL
from haystack_kernel.grounding.de.profiles import log_normalise
from haystack_kernel.grounding.signatures.sets import merge_signed
from haystack_kernel.grounding.uncertainty.prior import posterior
from haystack_kernel.grounding.uncertainty.prompt import CONTROL, LINEAR, summarise_prompt
from haystack_kernel.knowledge import perturbation_of
from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.knowledge.genesets import read_gene_sets
from haystack_kernel.knowledge.readers import read_bounded
from haystack_kernel.retrieval import cells_of, split_response
from haystack_kernel.retrieval.names import nearest
from haystack_kernel.retrieval.similarity.cell_types import subtypes
from haystack_kernel.retrieval.view import N_CELLS as CELLS
from haystack_kernel.retrieval.view import TYPE_KEY, cell_set
from haystack_kernel.store import is_cells
from inference.effects import measure_effect, profile_counts, summarise_arm

if TYPE_CHECKING:
    import anndata as ad

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import SeekQuery

MIN_GENES = 3
_SETS = (".gmt", ".gmt.gz")
_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".txt")
_EFFECTS = (keys.EFFECT, keys.DELTA, keys.LOG2FC, "logFC", "log2FoldChange", "logfoldchanges", "avg_log2FC")


def read_state(
    given: Any,  # noqa: ANN401 - an AnnData, a path, names or weights of genes
    *,
    against: Any = None,  # noqa: ANN401 - an AnnData or a path
    gene_set: str | None = None,
    start: ad.AnnData | None = None,
    knowledge: Knowledge,
) -> TargetState:
    """Read a target state that a person holds.

    Parameters
    ----------
    given
        Cells of the target (an AnnData or an h5ad file); a GMT file; a table of genes with effects (CSV or TSV, such as
        a ``de.csv``); names of genes ("ISG15", "-CXCL8"); gene -> weight; or a state, which is returned.
    against
        Cells that the target differs from: the direction leads from these to ``given``. None: the untreated cells
        among ``given``, where labels tell them apart, else ``start``.
    gene_set
        Name of the set of a GMT file with several.
    start
        Cells that are to be moved, raw counts; they stand for a missing ``against``, and weigh the cell types of a
        contrast by their likeness to them.
    knowledge
        Tables that labels are resolved with.

    Returns
    -------
    The state.

    Raises
    ------
    InvalidInputError
        It is none of these, or says nothing; the message says what is possible.

    Examples
    --------
    >>> read_state({"ISG15": 1, "MX1": 1, "CXCL8": -1}, knowledge=load_knowledge()).kind  # doctest: +SKIP
    'genes'
    """
    if isinstance(given, TargetState):
        return given
    if isinstance(given, pd.Series):
        given = given.to_dict()
    if isinstance(given, Mapping):
        return _of_genes({str(gene): float(weight) for gene, weight in given.items()}, name="the genes given")
    if isinstance(given, (list, tuple, set, frozenset)):
        return _of_genes(_signed(given), name="the genes given")
    if isinstance(given, (str, Path)):
        name = str(given)
        if name.endswith(_SETS):
            return _of_sets(Path(given), gene_set=gene_set)
        if name.endswith(_TABLES):
            return _of_table(Path(given))
    elif not is_cells(given):
        msg = (
            f"a target state cannot be read from {type(given).__name__}; give cells (an AnnData or an h5ad file), a "
            "GMT file, a table of genes with effects, or genes"
        )
        raise InvalidInputError(msg, given=type(given).__name__)
    return _of_cells(given, against=against, start=start, knowledge=knowledge)


def _of_cells(
    given: ad.AnnData | str | Path,
    *,
    against: ad.AnnData | str | Path | None,
    start: ad.AnnData | None,
    knowledge: Knowledge,
) -> TargetState:
    name = Path(given).name if isinstance(given, (str, Path)) else "the cells given"
    notes: list[str] = []
    try:
        response = split_response(given, control=against, knowledge=knowledge)
    except InvalidInputError as error:
        if against is not None or start is None:
            raise
        response = split_response(given, control=start, knowledge=knowledge)
        notes.append(
            "the target is compared with untreated cells of the atlas, so that every other difference between the two "
            f"experiments is part of it; give cells to compare with, to leave that out ({error})"
        )
    treated, control = response.treated, response.control_pred or response.control
    contrast = _contrast(treated, control, start=start)
    kind = "cells" if against is None else "contrast"
    return TargetState(name, *contrast, kind=kind, notes=(*response.notes, *notes))


def _contrast(treated: ad.AnnData, control: ad.AnnData, *, start: ad.AnnData | None) -> tuple[pd.Series, pd.Series]:
    """Shrunk difference of two sets of cells and its variance; cell types weigh as they resemble ``start``."""
    shares = [np.asarray((arm.X > 0).mean(axis=0)).ravel() for arm in (treated, control)]
    genes = [str(gene) for gene in treated.var_names[np.maximum(*shares) >= MIN_DETECTION]]
    if not genes or min(treated.n_obs, control.n_obs) < 2:
        msg = (
            f"the target has {treated.n_obs} cells and those it is compared with {control.n_obs}; two of each are "
            "needed, with genes that 2 % of them show"
        )
        raise InvalidInputError(msg)
    studied = summarise_prompt(treated, control, genes=genes, within=keys.CELL_TYPE)
    base: Any = studied.arm(CONTROL, studied.everything).mean
    if start is not None:
        level = pd.Series(profile_counts(start.X)[0], start.var_names)
        base = level[~level.index.duplicated()].reindex(genes).fillna(0.0).to_numpy(float)
    own = studied.respond(LINEAR[0], studied.everything, base=base)
    return _shrunk(own.effect, own.variance, genes=genes)


def _shrunk(effect: np.ndarray, variance: np.ndarray, *, genes: list[str]) -> tuple[pd.Series, pd.Series]:
    mean, spread = posterior(effect, variance).moments()
    index = pd.Index(genes)
    return pd.Series(mean, index), pd.Series(spread, index)


# --- genes --------------------------------------------------------------------------------------------------------


def _signed(names: Any) -> dict[str, float]:  # noqa: ANN401 - names of genes
    """Genes with their direction: "-CXCL8" and "CXCL8-" fall, the others rise."""
    found: dict[str, float] = {}
    for one in names:
        text = str(one).strip()
        falls = text[:1] in ("-", "\u2212") or text[-1:] in ("-", "\u2212")
        found[text.strip("+-\u2212")] = -1.0 if falls else 1.0
    return found


def _of_genes(weights: dict[str, float], *, name: str) -> TargetState:
    table = load_genes()
    found: dict[str, float] = {}
    unknown: list[str] = []
    for text, weight in weights.items():
        symbol = table.find(text).symbol
        if symbol is None or not np.isfinite(weight) or not weight:
            unknown.append(text)
        else:
            found[symbol] = weight
    if len(found) < MIN_GENES:
        rest = f"; not understood: {', '.join(unknown[:8])}" if unknown else ""
        msg = f"a gene set of a target needs {MIN_GENES} genes, and {name} names {len(found)}{rest}; give symbols"
        raise InvalidInputError(msg, unknown=unknown)
    listed = f"{', '.join(unknown[:8])}{'…' if len(unknown) > 8 else ''}"
    notes = (f"{len(unknown)} of {len(weights)} names are no gene symbols and were left out: {listed}",)
    return TargetState(name, pd.Series(found), kind="genes", notes=notes if unknown else ())


def _of_sets(path: Path, *, gene_set: str | None) -> TargetState:
    sets = {one.name: one for one in read_gene_sets(read_bounded(path)[0], path=path).rows}
    if gene_set is None and len(sets) != 1:
        msg = f"{path} holds {len(sets):,} gene sets; name one of them, such as {', '.join(list(sets)[:4])}"
        raise InvalidInputError(msg, sets=list(sets)[:50])
    name = gene_set or next(iter(sets))
    if name not in sets:
        by_case = {one.casefold(): one for one in sets}
        if name.casefold() not in by_case:
            near = nearest(name, list(sets))
            msg = f"{path} holds no gene set {name!r}; near are {', '.join(near) or ', '.join(list(sets)[:4])}"
            raise InvalidInputError(msg, gene_set=name)
        name = by_case[name.casefold()]
    return _of_genes({gene: float(sign) for gene, sign in sets[name].genes.items()}, name=name)


def _of_table(path: Path) -> TargetState:
    table = pd.read_csv(path, sep="\t" if ".tsv" in path.name else None, engine="python")
    genes = next((one for one in (keys.GENE, "symbol", "names") if one in table.columns), None)
    effects = next((one for one in _EFFECTS if one in table.columns), None)
    if genes is None or effects is None:
        msg = (
            f"{path} is no table of a target: it needs a column {keys.GENE!r} and one of {', '.join(_EFFECTS)}, and "
            f"has {', '.join(map(str, table.columns[:12]))}"
        )
        raise InvalidInputError(msg, columns=list(table.columns))
    state = _of_genes(dict(zip(table[genes].astype(str), table[effects].astype(float), strict=True)), name=path.name)
    if state.n_genes >= FULL:
        return TargetState(state.name, state.direction, kind="contrast", notes=state.notes)
    note = f"{path.name} holds {state.n_genes} genes: nothing is wished of the others"
    return TargetState(state.name, state.direction, kind="genes", notes=(*state.notes, note))


# --- cells of an atlas --------------------------------------------------------------------------------------------


def type_keys_of(cell_type_id: str, cell_type: str, *, view: AtlasView) -> list[str]:
    """Types of the atlas that are of the type asked for: itself, else its subtypes; empty where there is none."""
    held = view.conditions[[TYPE_KEY, keys.CELL_TYPE]].drop_duplicates()
    if cell_type_id:
        own = {cell_type_id}
        found = held[held[TYPE_KEY].isin(own)]
        if found.empty:
            found = held[held[TYPE_KEY].isin(subtypes(cell_type_id, knowledge=view.knowledge))]
        if not found.empty:
            return sorted(set(found[TYPE_KEY]))
    by_label = held[held[keys.CELL_TYPE].str.casefold() == cell_type.casefold()]
    return sorted(set(by_label[TYPE_KEY]))


def untreated_cells(types: list[str], *, view: AtlasView, atlas: Atlas, data_set: str = "") -> ad.AnnData | None:
    """At most 300 untreated cells of these types, of the data set that holds most of them; None where there is none."""
    rows = view.controls[view.controls[TYPE_KEY].isin(types)]
    if data_set:
        rows = rows[rows[keys.DATASET] == data_set]
    if rows.empty:
        return None
    counts = rows.groupby([keys.ATLAS, keys.DATASET, TYPE_KEY])[CELLS].sum()
    place = counts.idxmax()
    chosen = rows.set_index([keys.ATLAS, keys.DATASET, TYPE_KEY], drop=False).loc[[place]].reset_index(drop=True)
    return fetch_cells(cell_set(chosen, view=view), atlas=atlas, seed=view.config.seed)


def state_in_atlas(query: SeekQuery, *, view: AtlasView, atlas: Atlas, start: ad.AnnData | None) -> TargetState:
    """The state that a question names, from the cells of an atlas or the tables.

    Parameters
    ----------
    query
        The question; its target is not ``given``.
    view, atlas
        The atlas.
    start
        Untreated cells of the type that is to be moved.

    Raises
    ------
    InvalidInputError
        The atlas and the tables tell nothing of the state.

    Examples
    --------
    >>> state_in_atlas(query, view=view, atlas=atlas, start=start).kind  # doctest: +SKIP
    'cells'
    """
    if query.target_kind in ("genes", "set"):
        state = _of_genes({gene: float(sign) for gene, sign in query.genes.items()}, name=query.state)
    elif query.target_kind == "cells":
        state = _of_type(query, view=view, atlas=atlas, start=start)
    elif query.target_kind == "untreated":
        own = _of_treatment(query.start, query, view=view, atlas=atlas)
        state = TargetState(query.state, -own.direction, own.variance, own.kind, own.notes)
    else:
        state = _of_treatment(query.perturbation, query, view=view, atlas=atlas)
        if query.start:
            now = _of_treatment(query.start, query, view=view, atlas=atlas, is_start=True)
            state = _difference(state, now)
    if query.sign < 0:
        state = TargetState(f"away from {state.name}", -state.direction, state.variance, state.kind, state.notes)
    return state


def _difference(one: TargetState, two: TargetState) -> TargetState:
    genes = one.direction.index.intersection(two.direction.index)
    variance = None
    if one.variance is not None and two.variance is not None:
        variance = one.variance[genes] + two.variance[genes]
    name = f"{one.name} instead of {two.name}"
    return TargetState(name, one.direction[genes] - two.direction[genes], variance, one.kind, (*one.notes, *two.notes))


def _of_treatment(name: str, query: SeekQuery, *, view: AtlasView, atlas: Atlas, is_start: bool = False) -> TargetState:
    """The effect of a treatment: measured in the cells named, else in other types, else as the tables know it."""
    cells = query.cell_type if is_start else query.target_cell_type or query.cell_type
    cell_id = query.cell_type_id if is_start or not query.target_cell_type else query.target_cell_type_id
    types = type_keys_of(cell_id, cells, view=view)
    try:
        found = measure_effects(atlas, view=view, perturbations=[name])
    except InvalidInputError:
        return _of_tables(name, view=view)
    own = np.flatnonzero(found.obs["cell_type_key"].isin(types))
    if own.size:
        best = int(own[np.argmax(found.obs["n_treated"].to_numpy()[own])])
        row = found.obs.iloc[best]
        known = np.isfinite(found.X[best])
        direction = pd.Series(found.X[best][known], found.var_names[known])
        variance = pd.Series(found.layers[keys.EFFECT_SD][best][known] ** 2, found.var_names[known])
        note = (
            f"the state is that of {row['n_treated']} {cells_of(row['cell_type'])} under {name} ({row[keys.DATASET]}), "
            f"compared with {row['n_control']} untreated ones: differences between cell types are no part of it"
        )
        return TargetState(f"{row['cell_type']} under {name}", direction, variance, "cells", (note,))
    known = np.isfinite(found.X).all(axis=0)
    n = found.n_obs
    genes = found.var_names[known]
    mean = pd.Series(found.X[:, known].mean(axis=0), genes)
    inner = (found.layers[keys.EFFECT_SD][:, known] ** 2).mean(axis=0)
    variance = pd.Series((inner + found.X[:, known].var(axis=0)) / n, genes)
    held = ", ".join(sorted(set(found.obs["cell_type"].astype(str)))[:6])
    note = f"{name} was not measured in {cells_of(cells)}: the state is its mean effect in {held}"
    return TargetState(f"{cells} under {name}", mean, variance, "cells", (note,))


def _of_tables(name: str, *, view: AtlasView) -> TargetState:
    entry = perturbation_of(name, knowledge=view.knowledge)
    parts = [] if entry is None else [(entry.response, 1)]
    pathways = {} if entry is None else entry.pathways
    parts += [
        (view.knowledge.pathways[one].genes, sign) for one, sign in pathways.items() if one in view.knowledge.pathways
    ]
    genes = merge_signed(parts)
    if len(genes) < MIN_GENES:
        msg = (
            f"neither the atlas nor the tables know what {name} does, so it is no target; name a treatment that was "
            "measured, or give the state as cells or genes"
        )
        raise InvalidInputError(msg, perturbation=name)
    of = " and ".join(sorted(pathways)) or "its known response"
    note = f"no atlas has measured {name}: the state is what the tables know of it ({of}, {len(genes)} genes)"
    return TargetState(f"{name}, as the tables know it", pd.Series(genes, dtype=float), kind="genes", notes=(note,))


def _of_type(query: SeekQuery, *, view: AtlasView, atlas: Atlas, start: ad.AnnData | None) -> TargetState:
    """The difference between untreated cells of two types, of one data set where there is one that holds both."""
    types = type_keys_of(query.target_cell_type_id, query.target_cell_type, view=view)
    own = type_keys_of(query.cell_type_id, query.cell_type, view=view)
    controls = view.controls
    held = [set(controls.loc[controls[TYPE_KEY].isin(one), keys.DATASET]) for one in (own, types)]
    notes = [f"the state is that of untreated {cells_of(query.target_cell_type)}: what makes the two cell types differ"]
    shared = sorted(held[0] & held[1])
    if shared:  # of one experiment, so that only the types differ
        start = untreated_cells(own, view=view, atlas=atlas, data_set=shared[0])
    target = untreated_cells(types, view=view, atlas=atlas, data_set=shared[0] if shared else "")
    if not shared:
        notes.append("the two types are of different data sets, whose other differences are part of the direction")
    if target is None or start is None:
        what = cells_of(query.target_cell_type if target is None else query.cell_type)
        names = sorted(set(controls[keys.CELL_TYPE]))
        msg = f"no atlas holds untreated {what}; untreated are {', '.join(names[:12])}"
        raise InvalidInputError(msg, held=names)
    genes = target.var_names.intersection(start.var_names)
    arms = [summarise_arm(log_normalise(one.X)[:, one.var_names.get_indexer(genes)]) for one in (target, start)]
    effect = measure_effect(*arms)
    return TargetState(query.state, *_shrunk(effect.delta, effect.se**2, genes=list(genes)), "cells", tuple(notes))
