"""The user's own prompt cells, with their control cells, as an atlas that is searched like any other.

In: one h5ad of cells that show the effect, and one of cells without it, or the former alone where its labels tell the
two apart. Out: an :class:`OwnAtlas`, which implements the Atlas port and holds other atlases beside these cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, NoCandidateError, NotFoundError
from haystack_kernel.knowledge import load_knowledge, resolve
from haystack_kernel.retrieval.cells.own_cells import with_columns
from haystack_kernel.retrieval.cells.own_columns import (
    Column,
    label_columns,
    treatment_columns,
    type_columns,
    untreated,
)
from haystack_kernel.retrieval.query_check import check_cells
from haystack_kernel.retrieval.type_labels import sure_meanings
from haystack_kernel.retrieval.view import DEPTH, N_CELLS
from haystack_kernel.schema import DEMO_ATLAS, OWN_ATLAS
from haystack_kernel.store import dataset_name, locate, shown_name
from inference.genes import gene_key

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas, Ports
    from haystack_kernel.schema import CellSet, Perturbation, RunConfig, StructuredQuery

_MEDIAN_GENES = "median_n_genes"
_CONDITION = tuple(  # what tells the groups of cells apart; the rest is of single cells
    name
    for name in keys.CELL_COLUMNS
    if name
    not in (
        keys.CELL_INDEX,
        keys.CELL_TYPE_ORIGINAL,
        keys.PERTURBATION_ORIGINAL,
        keys.TISSUE_ORIGINAL,
        keys.N_GENES,
        keys.TOTAL_COUNTS,
    )
)
_MIN_SHARED = 0.5  # share of the prompt's genes below which a control of other genes is refused


class OwnAtlas:
    """Prompt and control cells of the user's, beside the atlases of the run.

    Parameters
    ----------
    adata
        Raw counts of both, with the columns of cells from an atlas.
    notes
        What was left out of the files, and why.
    others
        The other atlases of the run; None: there is none.
    """

    def __init__(self, adata: ad.AnnData, *, notes: tuple[str, ...] = (), others: Atlas | None = None) -> None:
        self._adata = adata
        self._others = others
        self.notes = notes

    def __repr__(self) -> str:
        n_control = int(self._adata.obs[keys.IS_CONTROL].sum())
        head = f"own prompt cells: {self._adata.n_obs - n_control}, own control cells: {n_control}"
        return "; ".join((head, *self.notes))

    def conditions(self) -> pd.DataFrame:
        """One row per distinct condition; see :meth:`haystack_kernel.ports.Atlas.conditions`."""
        cells = self._adata.obs
        grouped = cells.groupby([keys.ATLAS, *_CONDITION], sort=True, observed=True)
        own = grouped.agg(
            **{
                N_CELLS: (keys.CELL_INDEX, "size"),
                DEPTH: (keys.TOTAL_COUNTS, "median"),
                _MEDIAN_GENES: (keys.N_GENES, "median"),
            }
        ).reset_index()
        return own if self._others is None else pd.concat([own, self._others.conditions()], ignore_index=True)

    def select(self, cell_set: CellSet) -> pd.DataFrame:
        """Rows of the cells that satisfy the criteria, ordered by cell_id."""
        if cell_set.atlas != OWN_ATLAS:
            return self._require_others(cell_set.atlas).select(cell_set)
        cells = self._adata.obs
        keep = (cells[keys.IS_CONTROL] == cell_set.is_control) & (cells[keys.DATASET] == cell_set.dataset)
        if cell_set.perturbation is not None:
            keep &= cells[keys.PERTURBATION] == cell_set.perturbation
        if cell_set.cell_type_ids or cell_set.cell_type_names:
            keep &= cells[keys.CELL_TYPE_ID].isin(cell_set.cell_type_ids) | cells[keys.CELL_TYPE].isin(
                cell_set.cell_type_names
            )
        for column, wanted in {
            keys.DONOR: cell_set.donor_ids,
            keys.TISSUE_ID: cell_set.tissue_ids,
            keys.DISEASE_ID: cell_set.disease_ids,
            keys.CONTROL_KIND: cell_set.control_kinds,
        }.items():
            if wanted:
                keep &= cells[column].isin(wanted)
        found = cells.loc[keep, [keys.ATLAS, *keys.CELL_COLUMNS]].rename_axis(keys.CELL_ID).reset_index()
        return found.sort_values(keys.CELL_ID, ignore_index=True)

    def fetch(self, cells: pd.DataFrame) -> ad.AnnData:
        """Raw counts of the rows given (from :meth:`select`), in their order; genes of all sources, absent ones 0."""
        import anndata

        own = cells[keys.ATLAS] == OWN_ATLAS
        parts = []
        if own.any():
            rows = self._adata.obs_names.get_indexer(cells.loc[own, keys.CELL_ID])
            var = pd.DataFrame(index=self._adata.var_names)
            parts.append(anndata.AnnData(X=self._adata.X[rows], obs=cells[own].set_index(keys.CELL_ID), var=var))
        if not own.all():
            rest = cells[~own]
            parts.append(self._require_others(str(rest[keys.ATLAS].iat[0])).fetch(rest))
        if len(parts) == 1:
            return parts[0]
        joined = anndata.concat(parts, join="outer", fill_value=0)
        return joined[cells[keys.CELL_ID].to_numpy()].copy()

    def digests(self) -> dict[str, str]:
        """Digests of the other atlases; the record has those of the user's own files among its inputs."""
        return {} if self._others is None else self._others.digests()

    def _require_others(self, name: str) -> Atlas:
        if self._others is None:
            msg = f"atlas {name!r} is not open; the run has the user's own prompt cells alone"
            raise NotFoundError(msg, atlas=name)
        return self._others


def open_cells(config: RunConfig, ports: Ports, *, query: StructuredQuery, run_id: str) -> Atlas:
    """Open all cells that a run searches: its atlases, and the user's own prompt cells.

    Parameters
    ----------
    config
        The run's configuration.
    ports
        Opens the atlases.
    query
        What is asked for: the treatment that the user's own prompt cells show.
    run_id
        The run.

    Returns
    -------
    One collection.

    Raises
    ------
    NotFoundError
        An atlas or a file does not exist.
    InvalidInputError
        The user's own cells cannot be prompt or control cells.
    NoCandidateError
        The run has neither.

    Examples
    --------
    >>> open_cells(record.config, ports, query=record.query, run_id=record.run_id)  # doctest: +SKIP
    """
    names = config.atlas_names
    others = ports.open_atlas(names) if names else None
    if config.prompt_h5ad is not None:
        knowledge = load_knowledge(ports.settings.knowledge)
        return read_own_prompt(locate(config, ports, run_id=run_id), query=query, knowledge=knowledge, others=others)
    if others is None:
        msg = f"the run has no cells to search; name an atlas, such as {DEMO_ATLAS!r}, or give your own prompt cells"
        raise NoCandidateError(msg, run_id=run_id)
    return others


def read_own_prompt(
    config: RunConfig, *, query: StructuredQuery, knowledge: Knowledge, others: Atlas | None = None
) -> OwnAtlas:
    """Read the user's own prompt and control cells.

    All prompt cells count as treated with what the question asks for, unless their own labels say otherwise. Where no
    control cells are given, those of the prompt file that its labels call untreated are taken.

    Parameters
    ----------
    config
        Names the files.
    query, knowledge
        What is asked for, and the tables that labels are resolved with.
    others
        The other atlases of the run.

    Returns
    -------
    The cells as an atlas; its notes say what was left out.

    Raises
    ------
    InvalidInputError
        The question asks for no treatment, a file cannot be used, or its labels contradict its role; the message says
        what the file holds.

    Examples
    --------
    >>> read_own_prompt(config, query=query, knowledge=knowledge)  # doctest: +SKIP
    own prompt cells: 72, own control cells: 72
    """
    asked = query.perturbation
    if config.prompt_h5ad is None or asked is None:
        msg = (
            "own prompt cells show the effect of a treatment, and this question asks for none; ask how cells would "
            "respond to the treatment, or leave out prompt and control"
        )
        raise InvalidInputError(msg, question=query.question)
    dataset = dataset_name(config.prompt_h5ad)
    prompt, control, notes = split_own(config.prompt_h5ad, asked=asked, dataset=dataset, knowledge=knowledge)
    if config.control_h5ad is not None:
        notes = notes[:-1]  # of control cells
        own = _read(config.control_h5ad, role=keys.CONTROL, dataset=dataset, knowledge=knowledge)
        control = _as(own.take(_is_control(own, notes)), None, role=keys.CONTROL)
    parts = [prompt] if control is None else [prompt, control]
    return OwnAtlas(_joined(parts, config, notes), notes=tuple(notes), others=others)


def split_own(
    cells: ad.AnnData | str | Path, *, asked: Perturbation, dataset: str, knowledge: Knowledge, role: str = keys.PROMPT
) -> tuple[ad.AnnData, ad.AnnData | None, list[str]]:
    """Take the cells apart that show the effect of a treatment, and those that their labels call untreated.

    Parameters
    ----------
    cells
        An AnnData, or the path or address of an h5ad file.
    asked
        The treatment.
    dataset
        Name of the data set.
    knowledge
        Tables that labels are resolved with.
    role
        What the cells are to be, for messages.

    Returns
    -------
    Both arms with the columns of cells from an atlas (None: no cell is called untreated), and what was left out; the
    last note is about the control cells.

    Examples
    --------
    >>> split_own(adata, asked=query.perturbation, dataset="mine", knowledge=knowledge)  # doctest: +SKIP
    """
    notes: list[str] = []
    source = _read(cells, role=role, dataset=dataset, knowledge=knowledge)
    shown = _as(source.take(_is_prompt(source, asked, notes, role=role, knowledge=knowledge)), asked, role=keys.PROMPT)
    is_untreated = source.verdict == "untreated"
    if not is_untreated.any():
        notes.append(f"no control cells: neither given, nor named by the labels of the {role} file")
        return shown, None, notes
    control = _as(source.take(is_untreated), None, role=keys.CONTROL)
    notes.append(f"{control.n_obs} cells of the {role} file that its labels call untreated are the control")
    return shown, control, notes


@dataclass(frozen=True, eq=False)
class _Source:
    """One file with the columns of cells from an atlas, and what its labels say of treatments."""

    name: str
    adata: ad.AnnData
    verdict: pd.Series
    columns: list[Column]

    def take(self, keep: pd.Series) -> ad.AnnData:
        return self.adata[keep.to_numpy()].copy()

    def counted(self, where: pd.Series) -> str:
        return "; ".join(f"{one.name}: {one.counted(where)}" for one in self.columns) or "no column of treatments"


def _read(cells: ad.AnnData | str | Path, *, role: str, dataset: str, knowledge: Knowledge) -> _Source:
    found = check_cells(cells, role=role)
    found.require()
    columns = label_columns(found.adata.obs)
    types = type_columns(columns, knowledge=knowledge)
    treatments = treatment_columns(columns, besides={one.name for one, _ in types}, knowledge=knowledge)
    verdict, _ = untreated(treatments, n_cells=found.adata.n_obs)
    adata = with_columns(found, dataset=dataset)
    adata.var_names = [gene_key(name) for name in adata.var_names]
    adata.obs[keys.DATASET] = dataset
    adata.obs[keys.ATLAS] = OWN_ATLAS
    _name_types(adata, types, knowledge=knowledge)
    adata.obs.index = pd.Index([f"{OWN_ATLAS}/{role}/{name}" for name in adata.obs_names], dtype=object)
    return _Source(shown_name(found.uri), adata, verdict, [one for one, _ in treatments])


def _name_types(adata: ad.AnnData, types: list[tuple[Column, pd.Series]], *, knowledge: Knowledge) -> None:
    """Write the types that labels surely name, by ontology; other labels stay as they are."""
    if not types:
        return
    column, ids = types[0]
    for other, more in types[1:]:  # a column of ids beside one of labels, or a second annotation
        if ids.isna().any() and more.notna().any():
            ids = ids.where(ids.notna(), more)
            column = column if column.texts.astype(bool).any() else other
    one = [next(iter(item)) if isinstance(item, frozenset) and len(item) == 1 else "" for item in ids]
    named = [
        knowledge.cell_types[term].name if term in knowledge.cell_types else str(label)
        for term, label in zip(one, column.texts, strict=True)
    ]
    adata.obs[keys.CELL_TYPE_ORIGINAL] = column.texts.to_numpy(object)
    adata.obs[keys.CELL_TYPE_ID] = one
    adata.obs[keys.CELL_TYPE] = named


def _is_prompt(source: _Source, asked: Perturbation, notes: list[str], *, role: str, knowledge: Knowledge) -> pd.Series:
    """Cells of the file that its labels do not call untreated, unknown, or treated with something else."""
    other = pd.Series(data=False, index=source.verdict.index)
    for column in source.columns:
        meant = {label: _treatment_of(label, knowledge=knowledge) for label in column.labels}
        other |= column.texts.map({label: name not in ("", asked.name) for label, name in meant.items()}).astype(bool)
    left = source.verdict.isin(["untreated", "unknown"])
    keep = ~left & ~other
    if not keep.any():
        everything = pd.Series(data=True, index=keep.index)
        msg = (
            f"these cannot be the {role} cells: {source.name} holds no cell that its labels would let show the effect "
            f"of {asked.name} ({source.counted(everything)}). Give the treated cells alone, or rename what the labels "
            "say wrongly"
        )
        raise InvalidInputError(msg, asked=asked.name)
    for gone, why in ((source.verdict == "unknown", "of unknown treatment"), (other & ~left, "of another treatment")):
        if gone.any():
            notes.append(f"{int(gone.sum())} cells {why} are no {role} cells ({source.counted(gone)})")
    return keep


def _treatment_of(label: str, *, knowledge: Knowledge) -> str:
    """The known treatment that a label surely names; empty where it names none."""
    found = resolve(label, kind="perturbation", knowledge=knowledge) if label else None
    ids = sure_meanings(found) if found is not None else frozenset()
    return next(iter(ids)) if len(ids) == 1 else ""


def _is_control(source: _Source, notes: list[str]) -> pd.Series:
    """Cells of the control file that its labels do not call treated."""
    treated = source.verdict == "treated"
    if treated.all():
        msg = (
            f"these cannot be the control cells: the labels of {source.name} call all of them treated "
            f"({source.counted(treated)}). Give untreated cells of the same experiment"
        )
        raise InvalidInputError(msg)
    if treated.any():
        notes.append(f"{int(treated.sum())} treated cells are no control cells ({source.counted(treated)})")
    return ~treated


def _as(adata: ad.AnnData, treatment: Perturbation | None, *, role: str) -> ad.AnnData:
    adata.obs[keys.IS_CONTROL] = treatment is None
    adata.obs[keys.PERTURBATION] = treatment.name if treatment else ""
    adata.obs[keys.PERTURBATION_TYPE] = (treatment.type or "") if treatment else ""
    adata.obs[keys.CONTROL_KIND] = ""
    adata.obs_names = [f"{OWN_ATLAS}/{role}/{name.split('/', 2)[2]}" for name in adata.obs_names]
    return adata


def _joined(parts: list[ad.AnnData], config: RunConfig, notes: list[str]) -> ad.AnnData:
    """Both roles over the genes that both have, so that a gene which one file lacks is no effect."""
    import anndata

    obs = pd.concat([one.obs[[keys.ATLAS, *keys.CELL_COLUMNS]] for one in parts])
    genes = parts[0].var_names
    for one in parts[1:]:
        genes = genes[genes.isin(one.var_names)]
    n_lacking = parts[0].n_vars - len(genes)
    if len(genes) < _MIN_SHARED * parts[0].n_vars:
        msg = (
            f"prompt and control cells share {len(genes)} of {parts[0].n_vars} genes; give control cells of the same "
            "experiment, with genes named alike"
        )
        raise InvalidInputError(msg, prompt=config.prompt_h5ad, control=config.control_h5ad)
    if n_lacking:
        notes.append(f"{n_lacking} genes that the control cells lack were left out of the prompt cells")
    counts: list[Any] = [one[:, genes].X for one in parts]
    return anndata.AnnData(
        X=sparse.vstack(counts, format="csr", dtype=np.float32), obs=obs, var=pd.DataFrame(index=genes)
    )
