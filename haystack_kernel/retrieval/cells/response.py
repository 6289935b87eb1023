"""A response that a person holds: treated and control cells, told apart by role or by their labels.

In: one or two AnnData or files. Out: :class:`haystack_kernel.retrieval.Response`, raw counts over the same genes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.retrieval.cells.own_cells import with_columns
from haystack_kernel.retrieval.cells.own_columns import (
    label_columns,
    treatment_columns,
    type_columns,
    types_held,
    untreated,
)
from haystack_kernel.retrieval.cells.own_prompt import split_own
from haystack_kernel.retrieval.query_check import check_cells
from haystack_kernel.retrieval.similarity.cell_types import asked_labels, asked_type, subtypes
from haystack_kernel.retrieval.view import cells_of
from haystack_kernel.store import is_cells
from inference.genes import gene_key

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.retrieval.query_check import QueryCheck
    from haystack_kernel.schema import StructuredQuery

_TRUTH = "truth"


@dataclass(frozen=True, eq=False)
class Response:
    """Treated and control cells; ``control_pred`` where a prediction has one of its own.

    Examples
    --------
    >>> split_response(adata, knowledge=load_knowledge()).treated.n_obs  # doctest: +SKIP
    """

    treated: ad.AnnData
    control: ad.AnnData
    control_pred: ad.AnnData | None = None
    notes: tuple[str, ...] = ()


def held_types(cells: ad.AnnData | str | Path, *, knowledge: Knowledge) -> dict[str, int]:
    """Return the cell types that the labels of cells surely name.

    Parameters
    ----------
    cells
        An AnnData or the path of an h5ad file.
    knowledge
        Tables that labels are resolved with.

    Returns
    -------
    Name -> number of cells (the untreated ones, where labels tell), the most frequent first.

    Examples
    --------
    >>> held_types(adata, knowledge=load_knowledge())  # doctest: +SKIP
    {'B cell': 120}
    """
    obs = cells.obs if is_cells(cells) else None
    if not isinstance(obs, pd.DataFrame):  # a path, or labels in a file behind the object
        obs = check_cells(cells).adata.obs
    return types_held(obs, knowledge=knowledge)


def split_response(
    cells: ad.AnnData | str | Path, *, control: ad.AnnData | str | Path | None = None, knowledge: Knowledge
) -> Response:
    """Check cells and tell treated from control cells.

    Parameters
    ----------
    cells
        Treated cells, or both; predictions of HAYSTACK hold their control in a layer.
    control
        Control cells; None takes those that labels of ``cells`` call untreated.
    knowledge
        Tables that labels are resolved with.

    Returns
    -------
    Both arms as raw counts over the genes that both have.

    Raises
    ------
    InvalidInputError
        The cells are refused, or labels do not tell the arms apart; the message says what they hold.

    Examples
    --------
    >>> split_response(adata, knowledge=load_knowledge())  # doctest: +SKIP
    """
    if control is None and is_cells(cells) and keys.UNS in cells.uns and keys.LAYER_QUERY in cells.layers:
        return _predicted(cells)
    checked = check_cells(cells, role="treated")
    both = _with_genes(checked, role="treated")
    if control is not None:
        return _over_shared_genes(both, _with_genes(check_cells(control, role=keys.CONTROL), role=keys.CONTROL))
    return _by_labels(both, obs=checked.adata.obs, knowledge=knowledge)


def read_truth(cells: ad.AnnData | str | Path, *, query: StructuredQuery, knowledge: Knowledge) -> Response:
    """Read a measured response to the treatment that a question asks for, in the cell type that it asks for.

    Parameters
    ----------
    cells
        Treated and untreated cells, which their labels tell apart; other treatments and types are left out.
    query
        The question.
    knowledge
        Tables that labels are resolved with.

    Returns
    -------
    Both arms as raw counts over the same genes; ``notes`` say what was left out, and what labels do not tell.

    Raises
    ------
    InvalidInputError
        The question asks for no treatment, or the cells hold no such response; the message says what they hold.

    Examples
    --------
    >>> read_truth(adata, query=run.query, knowledge=load_knowledge()).treated.n_obs  # doctest: +SKIP
    """
    asked = query.perturbation
    if asked is None:
        msg = "truth is a measured response to a treatment, and this question asks for none; leave truth out"
        raise InvalidInputError(msg, question=query.question)
    treated, control, notes = split_own(cells, asked=asked, dataset=_TRUTH, knowledge=knowledge, role=_TRUTH)
    if control is None:
        msg = (
            "the labels of the truth cells call none of them untreated, so they show no response. Give treated and "
            "untreated cells of one experiment in one AnnData, with a column that tells them apart"
        )
        raise InvalidInputError(msg)
    return _of_type_asked(Response(treated, control, notes=tuple(notes)), query, knowledge=knowledge)


def _of_type_asked(found: Response, query: StructuredQuery, *, knowledge: Knowledge) -> Response:
    """The cells of the type that a question asks for, where the cells say of which type they are."""
    own = {query.cell_type_id} - {None}
    wanted = own | subtypes(query.cell_type_id, knowledge=knowledge)
    sizes = found.treated.obs[keys.CELL_TYPE].value_counts()
    held = {str(name): int(n) for name, n in sizes.items() if name}
    if not wanted or not held:
        return replace(found, notes=(*found.notes, "the cell type of the truth cells was not checked"))

    def chosen(arm: ad.AnnData) -> ad.AnnData:
        is_so = arm.obs[keys.CELL_TYPE].astype(str).str.casefold().isin(asked_labels(query))
        return arm[arm.obs[keys.CELL_TYPE_ID].isin(wanted) | is_so].copy()

    treated, control = chosen(found.treated), chosen(found.control)
    if not treated.n_obs or not control.n_obs:
        listed = ", ".join(f"{name} ({n:,})" for name, n in held.items())
        msg = (
            f"the truth cells hold no {'untreated' if treated.n_obs else 'treated'} {cells_of(asked_type(query))}; "
            f"treated cells are {listed}. Give cells of the type asked for, or rename what the labels say wrongly"
        )
        raise InvalidInputError(msg, held=list(held))
    n_other = found.treated.n_obs - treated.n_obs
    notes = (*found.notes, f"{n_other:,} treated cells of other types were left out") if n_other else found.notes
    return Response(treated, control, notes=notes)


def _by_labels(both: ad.AnnData, *, obs: pd.DataFrame, knowledge: Knowledge) -> Response:
    """Treated and control cells by the labels of the person's own columns."""
    columns = label_columns(obs)
    types = type_columns(columns, knowledge=knowledge)
    found = treatment_columns(columns, besides={one.name for one, _ in types}, knowledge=knowledge)
    verdict, _ = untreated(found, n_cells=both.n_obs)
    counts = verdict.replace("", "unlabelled").value_counts()
    if not {"treated", "untreated"} <= set(counts.index):
        listed = ", ".join(f"{n} {word}" for word, n in counts.items())
        shown = "; ".join(f"{one.name}: {one.counted(verdict.notna())}" for one, _ in found) or "no such column"
        msg = (
            f"the labels of these cells do not tell treated from control cells ({listed}; {shown}). Give the treated "
            "cells, and the others as control=…"
        )
        raise InvalidInputError(msg, verdicts=counts.to_dict())
    notes = [f"{n} cells of unknown treatment were left out" for word, n in counts.items() if word == "unknown"]
    split = {word: both[(verdict == word).to_numpy()].copy() for word in ("treated", "untreated")}
    return Response(split["treated"], split["untreated"], notes=tuple(notes))


def _with_genes(found: QueryCheck, *, role: str) -> ad.AnnData:
    adata = with_columns(found, dataset=role)
    adata.var_names = [gene_key(name) for name in adata.var_names]
    return adata


def _over_shared_genes(treated: ad.AnnData, control: ad.AnnData) -> Response:
    shared = treated.var_names[treated.var_names.isin(control.var_names)]
    if shared.empty:
        msg = "treated and control cells share no gene; name genes alike in both"
        raise InvalidInputError(msg)
    n_lost = max(treated.n_vars, control.n_vars) - len(shared)
    notes = (f"{n_lost} genes that one side lacks were left out",) if n_lost else ()
    return Response(treated[:, shared].copy(), control[:, shared].copy(), notes=notes)


def _predicted(cells: ad.AnnData) -> Response:
    """Arms of predictions: counts that a program drew, so that nothing is to check or to choose."""
    import anndata

    def layer(name: str | None) -> ad.AnnData:
        counts = cells.X if name is None else cells.layers[name]
        return anndata.AnnData(X=counts.copy(), obs=cells.obs.copy(), var=pd.DataFrame(index=cells.var_names))

    has_control = keys.LAYER_CONTROL_PRED in cells.layers
    treated = layer(None)
    if keys.PADDED in cells.var:
        treated.var[keys.PADDED] = cells.var[keys.PADDED].to_numpy()
    return Response(treated, layer(keys.LAYER_QUERY), layer(keys.LAYER_CONTROL_PRED) if has_control else None)
