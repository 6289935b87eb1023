"""Assembles the cells of one round by role: pooled, sampled, kept apart, and fetched.

In: the round's candidates and the query cell set. Out: :class:`CellsByRole`, raw counts with complete obs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import ContractError, InvalidInputError, NoCandidateError
from haystack_kernel.retrieval.cells.balance import GROUP, balance, group_of
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells, split_cells
from inference.effects import profile_counts
from inference.genes import gene_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from haystack_kernel.ports import Atlas
    from haystack_kernel.retrieval.cells.own_cells import OwnCells
    from haystack_kernel.schema import Candidate, CellSet, RunConfig

N_PROFILE = 256  # query cells that describe the cells asked about, whatever ``n_query`` is
_MIN_APART = 20  # query cells; with fewer, query and control cells may overlap


@dataclass(frozen=True, eq=False)
class CellsByRole:
    """Raw counts of one round: float32 CSR, obs index ``cell_id``, columns ``keys.CELL_COLUMNS``, atlas and role.

    Attributes
    ----------
    prompt_cells
        Cells that show the effect.
    control_cells
        Their matched controls; None where no candidate has a control.
    query_cells
        Cells to be transformed.
    notes
        Sentences about what could not be done.
    """

    prompt_cells: ad.AnnData
    control_cells: ad.AnnData | None
    query_cells: ad.AnnData
    notes: tuple[str, ...] = ()

    @property
    def by_role(self) -> dict[str, ad.AnnData]:
        """Role -> its cells; a role without cells is absent."""
        roles = {keys.PROMPT: self.prompt_cells, keys.CONTROL: self.control_cells, keys.QUERY: self.query_cells}
        return {role: adata for role, adata in roles.items() if adata is not None}


def assemble_cells(
    candidates: Sequence[Candidate],
    *,
    query_set: CellSet | None,
    atlas: Atlas,
    config: RunConfig,
    round_number: int,
    own_cells: OwnCells | None = None,
) -> CellsByRole:
    """Fetch the prompt, control and query cells of a round.

    The prompts of all candidates are pooled, and so are their controls, each cell once. Both are sampled to at most
    ``config.n_prompt`` over (cell type, donor), so that every candidate has the same share of both. A candidate without
    a control is left out where others have one. The ``config.n_query`` query cells are never prompt cells, and they are
    the same in every round unless the control cells that they must avoid change.

    Query and control cells are disjoint where at least max(20, n / 2) query cells remain, n being the smaller of
    256 and the number of available cells. Cells that only the query set holds are then used alone; otherwise
    the shared ones are halved within (cell type, donor).

    Parameters
    ----------
    candidates
        What the round tries; at least one.
    query_set
        From :func:`choose_query_cells`; None takes ``own_cells``.
    atlas
        Where the cells are.
    config
        Numbers of cells and seed.
    round_number
        Part of the seed of prompt and control cells.
    own_cells
        The user's own cells, from :func:`read_own_cells`.

    Returns
    -------
    The cells by role, with remarks on what was left out.

    Raises
    ------
    NoCandidateError
        A pooled set or the query set is empty.
    InvalidInputError
        No candidate is given, or neither a query set nor own cells.
    ContractError
        The atlas lacks a required column.

    Examples
    --------
    >>> cells = assemble_cells(candidates[:3], query_set=chosen, atlas=atlas, config=config, round_number=1)
    ... # doctest: +SKIP
    >>> cells.prompt_cells.n_obs, cells.query_cells.n_obs  # doctest: +SKIP
    (2000, 256)
    """
    if not candidates:
        msg = "a round needs at least one candidate; choose some from the candidate table"
        raise InvalidInputError(msg)
    prompt, control = _prompt_and_control(candidates, atlas=atlas, config=config, round_number=round_number)
    notes = _control_notes(candidates)
    if query_set is None:
        query_cells, more = _sample_own(own_cells, config=config)
    else:
        query_pool = _pool([(query_set, "")], atlas=atlas)
        query_pool = query_pool[~query_pool[keys.CELL_ID].isin(prompt[keys.CELL_ID])]
        if query_pool.empty:
            raise _empty([query_set], what=keys.QUERY)
        query_pool, control, more = _keep_apart(query_pool, control=control, config=config)
        described, sampled = _query_samples(query_pool, config=config)
        fetched = pd.concat([described, sampled]).drop_duplicates(keys.CELL_ID)
        query_cells = _fetch(fetched.sort_values(keys.CELL_ID, kind="stable"), role=keys.QUERY, atlas=atlas)
        query_cells = _describe_query(query_cells, described[keys.CELL_ID], kept=sampled[keys.CELL_ID])
    if not control.empty:
        prompt, control = balance(prompt, control=control, config=config, round_number=round_number)
    prompt_cells = _fetch(prompt, role=keys.PROMPT, atlas=atlas)
    control_cells = None if control.empty else _fetch(control, role=keys.CONTROL, atlas=atlas)
    for adata in (prompt_cells, control_cells):
        if adata is not None:
            spell_genes_as(query_cells, adata)
    return CellsByRole(
        prompt_cells=prompt_cells,
        control_cells=control_cells,
        query_cells=query_cells,
        notes=(*notes, *more),
    )


def spell_genes_as(query_cells: ad.AnnData, adata: ad.AnnData) -> None:
    """Rename genes of ``adata`` that differ from those of the query cells only in case, so that they are compared."""
    theirs = list(map(str, query_cells.var_names))
    spelled, known = {gene_key(gene): gene for gene in reversed(theirs)}, set(theirs)
    taken, renamed = set(map(str, adata.var_names)), []
    for gene in map(str, adata.var_names):
        other = spelled.get(gene_key(gene), gene)
        renamed.append(other if gene not in known and other not in taken else gene)
        taken.add(renamed[-1])
    adata.var_names = renamed


def _prompt_and_control(
    candidates: Sequence[Candidate], *, atlas: Atlas, config: RunConfig, round_number: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sampled prompt cells and all their control cells, each with the group of its candidate."""
    usable = [one for one in candidates if one.control is not None] or list(candidates)
    pairs = [(one.prompt, "" if one.control is None else group_of(one.control)) for one in usable]
    prompt = _pool(pairs, atlas=atlas)
    if prompt.empty:
        raise _empty([one.prompt for one in usable], what=keys.PROMPT)
    prompt = sample_cells(prompt, n=config.n_prompt, rng=make_rng(config.seed, role=f"{keys.PROMPT}/{round_number}"))
    control = _pool([(one.control, group_of(one.control)) for one in usable if one.control is not None], atlas=atlas)
    return prompt, control[~control[keys.CELL_ID].isin(prompt[keys.CELL_ID])]


def _pool(cell_sets: Sequence[tuple[CellSet, str]], *, atlas: Atlas) -> pd.DataFrame:
    """Cells of all sets, each cell once with the group of its set, ordered by id."""
    tables = [table.assign(**{GROUP: group}) for one, group in cell_sets if len(table := atlas.select(one))]
    if not tables:
        return pd.DataFrame(columns=[keys.CELL_ID, keys.CELL_TYPE, keys.DONOR, GROUP], dtype=str)
    if len(tables) == 1:
        return tables[0]  # the atlas gives each cell once, ordered by id
    pooled = pd.concat(tables)
    return pooled.drop_duplicates(keys.CELL_ID).sort_values(keys.CELL_ID, kind="stable").reset_index(drop=True)


def _keep_apart(
    query_pool: pd.DataFrame, *, control: pd.DataFrame, config: RunConfig
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Query and control cells without shared cells, or a note that too few cells exist for that."""
    shared = query_pool[keys.CELL_ID].isin(control[keys.CELL_ID])
    if not shared.any():
        return query_pool, control, []
    needed = max(_MIN_APART, min(N_PROFILE, len(query_pool)) // 2)
    alone = query_pool[~shared]
    if len(alone) >= needed:
        return alone, control, []
    rng = make_rng(config.seed, role="query or control")
    to_control, to_query = split_cells(query_pool[shared], rng=rng)
    if len(alone) + len(to_query) >= needed:
        taken = control[keys.CELL_ID].isin(to_query[keys.CELL_ID])
        apart = query_pool[~query_pool[keys.CELL_ID].isin(to_control[keys.CELL_ID])]
        return apart, control[~taken], []
    note = (
        f"query and control cells overlap: only {len(query_pool)} unperturbed cells exist, too few to keep {needed} "
        "apart; agreement with the measured control is then partly by construction"
    )
    return query_pool, control, [note]


def _control_notes(candidates: Sequence[Candidate]) -> list[str]:
    without = [one for one in candidates if one.control is None]
    if not without:
        return []
    reasons = "; ".join(dict.fromkeys(one.control_reason for one in without))
    left_out = " and are left out of the prompt, because others do" if len(without) < len(candidates) else ""
    return [f"{len(without)} of {len(candidates)} candidates have no control cells{left_out} ({reasons})"]


def _sample_own(own: OwnCells | None, *, config: RunConfig) -> tuple[ad.AnnData, list[str]]:
    if own is None:
        msg = "no query cells: give a query cell set, or your own cells"
        raise InvalidInputError(msg)
    adata, notes = own.adata, [own.choice.summary, *own.notes]
    described, kept = _query_samples(adata.obs, config=config)
    if len(kept) < adata.n_obs:
        notes.append(f"{len(kept)} of these {adata.n_obs} cells were sampled (n_query)")
    adata = _describe_query(adata, described.index, kept=kept.index)
    adata.obs[keys.ROLE] = keys.QUERY
    return adata, notes


def _query_samples(pool: pd.DataFrame, *, config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells that describe what was asked about, and the query cells, which are among them where they are fewer."""
    described = sample_cells(pool, n=N_PROFILE, rng=make_rng(config.seed, role=keys.QUERY))
    source = described if config.n_query <= N_PROFILE else pool
    return described, sample_cells(source, n=config.n_query, rng=make_rng(config.seed, role=keys.QUERY))


def _describe_query(cells: ad.AnnData, described: pd.Series | pd.Index, *, kept: pd.Series | pd.Index) -> ad.AnnData:
    """The query cells alone, their var with mean and detection of the cells that describe them."""
    profile = profile_counts(cells[np.asarray(described)].X)
    query_cells = cells if cells.n_obs == len(kept) else cells[np.asarray(kept)].copy()
    for name, values in zip((keys.QUERY_MEAN, keys.QUERY_DETECTION, keys.QUERY_ERROR), profile, strict=True):
        query_cells.var[name] = values
    return query_cells


def _fetch(cells: pd.DataFrame, *, role: str, atlas: Atlas) -> ad.AnnData:
    adata = atlas.fetch(cells.drop(columns=GROUP))
    absent = [column for column in (*keys.CELL_COLUMNS, keys.ATLAS) if column not in adata.obs.columns]
    if absent:
        msg = f"the atlas returned {role} cells without {', '.join(absent)}; rebuild it with `haystack atlas build`"
        raise ContractError(msg, absent=absent)
    adata.obs[keys.ROLE] = role
    return adata


def _empty(cell_sets: Sequence[CellSet], *, what: str) -> NoCandidateError:
    named = "; ".join(one.key for one in cell_sets)
    msg = f"the {what} cell sets hold no cells ({named}): the atlas changed since they were chosen. Search again."
    return NoCandidateError(msg, keys=[one.key for one in cell_sets])
