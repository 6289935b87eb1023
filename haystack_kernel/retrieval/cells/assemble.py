"""The cells of one round by role: pooled, sampled, kept apart, fetched once.

In: the round's candidates and the query cell set. Out: :class:`CellsByRole`, raw counts with whole obs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel import keys
from haystack_kernel.errors import ContractError, InvalidInputError, NoCandidateError
from haystack_kernel.retrieval.cells.balance import GROUP, balance, group_of
from haystack_kernel.retrieval.cells.own_cells import read_query_h5ad
from haystack_kernel.retrieval.cells.sample import make_rng, sample_cells, split_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from haystack_kernel.ports import Atlas
    from haystack_kernel.schema import Candidate, CellSet, RunConfig

ROLE = "role"
_MIN_APART = 20


@dataclass(frozen=True, eq=False)
class CellsByRole:
    """Raw counts of one round (float32 CSR; obs index ``cell_id``, columns ``keys.CELL_COLUMNS``, atlas, role).

    ``control`` is None where no candidate has a control; ``notes`` are sentences about what could not be done.
    """

    prompt: ad.AnnData
    control: ad.AnnData | None
    query: ad.AnnData
    notes: tuple[str, ...] = ()


def assemble_cells(
    candidates: Sequence[Candidate],
    *,
    query_set: CellSet | None,
    atlas: Atlas,
    config: RunConfig,
    round_number: int,
) -> CellsByRole:
    """Fetch the prompt, control and query cells of a round.

    The prompts of all candidates are pooled, their controls likewise (each cell once), and sampled to at most
    ``config.n_prompt`` each over (cell type, donor), so that every candidate has the same share of both; a candidate
    without control is left out where others have one. ``config.n_query`` query cells are never prompt cells. Query and
    control cells are disjoint where at least max(20, n / 2) query cells remain, n = the smaller of ``n_query`` and the
    cells there are: cells that only the query set holds are used alone, otherwise the shared ones are halved within
    (cell type, donor). Query cells are the same in every round unless the controls they must avoid change.

    Parameters
    ----------
    candidates
        What the round tries; at least one.
    query_set
        From :func:`choose_query_cells`; None takes the user's own cells from ``config.query_h5ad``.
    atlas
        Where the cells are.
    config
        Numbers of cells, seed and the user's own cells.
    round_number
        Becomes part of the seed of prompt and control.

    Raises
    ------
    NoCandidateError
        A pooled set or the query set turns out empty.
    InvalidInputError
        No candidate given, or neither a query set nor own cells.
    ContractError
        The atlas lacks an agreed column.
    """
    if not candidates:
        msg = "a round needs at least one candidate; choose some from the candidate table"
        raise InvalidInputError(msg)
    usable = [one for one in candidates if one.control is not None] or list(candidates)
    prompt = _pool([(one.prompt, _group(one)) for one in usable], atlas=atlas)
    if prompt.empty:
        _refuse_empty([one.prompt for one in usable], what=keys.PROMPT)
    prompt = sample_cells(prompt, n=config.n_prompt, rng=make_rng(config.seed, role=f"{keys.PROMPT}/{round_number}"))
    control = _pool([(one.control, _group(one)) for one in usable if one.control is not None], atlas=atlas)
    control = control[~control[keys.CELL_ID].isin(prompt[keys.CELL_ID])]
    notes = _control_notes(candidates)
    if query_set is None:
        query, own_notes = _own_cells(config)
        notes += own_notes
    else:
        table, control, note = _query_table(query_set, prompt=prompt, control=control, atlas=atlas, config=config)
        notes += note
        query = _fetch(table, role=keys.QUERY, atlas=atlas)
    if not control.empty:
        prompt, control = balance(prompt, control=control, config=config, round_number=round_number)
    return CellsByRole(
        prompt=_fetch(prompt, role=keys.PROMPT, atlas=atlas),
        control=None if control.empty else _fetch(control, role=keys.CONTROL, atlas=atlas),
        query=query,
        notes=tuple(notes),
    )


def _group(candidate: Candidate) -> str:
    return "" if candidate.control is None else group_of(candidate.control)


def _pool(cell_sets: Sequence[tuple[CellSet, str]], *, atlas: Atlas) -> pd.DataFrame:
    """Cells of all sets with the group of each, every cell once, ordered by id."""
    tables = [table.assign(**{GROUP: group}) for one, group in cell_sets if len(table := atlas.select(one))]
    if not tables:
        return pd.DataFrame(columns=[keys.CELL_ID, keys.CELL_TYPE, keys.DONOR, GROUP], dtype=str)
    pooled = tables[0] if len(tables) == 1 else pd.concat(tables)
    return pooled.drop_duplicates(keys.CELL_ID).sort_values(keys.CELL_ID, kind="stable").reset_index(drop=True)


def _query_table(
    query_set: CellSet, *, prompt: pd.DataFrame, control: pd.DataFrame, atlas: Atlas, config: RunConfig
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Sampled query cells, the control cells left, and a note where the two could not be kept apart."""
    table = _pool([(query_set, "")], atlas=atlas)
    table = table[~table[keys.CELL_ID].isin(prompt[keys.CELL_ID])]
    if table.empty:
        _refuse_empty([query_set], what=keys.QUERY)
    table, control, note = _keep_apart(table, control=control, config=config)
    table = sample_cells(table, n=config.n_query, rng=make_rng(config.seed, role=keys.QUERY))
    return table, control, note


def _keep_apart(
    query: pd.DataFrame, *, control: pd.DataFrame, config: RunConfig
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    shared = query[keys.CELL_ID].isin(control[keys.CELL_ID])
    if not shared.any():
        return query, control, []
    needed = max(_MIN_APART, min(config.n_query, len(query)) // 2)
    alone = query[~shared]
    if len(alone) >= needed:
        return alone, control, []
    rng = make_rng(config.seed, role="query or control")
    to_control, to_query = split_cells(query[shared], rng=rng)
    if len(alone) + len(to_query) >= needed:
        taken = control[keys.CELL_ID].isin(to_query[keys.CELL_ID])
        apart = query[~query[keys.CELL_ID].isin(to_control[keys.CELL_ID])]
        return apart, control[~taken], []
    note = (
        f"query and control cells overlap: only {len(query)} unperturbed cells exist, too few to keep {needed} apart; "
        "agreement with the measured control is then partly by construction"
    )
    return query, control, [note]


def _control_notes(candidates: Sequence[Candidate]) -> list[str]:
    without = [one for one in candidates if one.control is None]
    if not without:
        return []
    reasons = "; ".join(dict.fromkeys(one.control_reason for one in without))
    left_out = ", and are left out of the prompt beside those that do" if len(without) < len(candidates) else ""
    return [f"{len(without)} of {len(candidates)} candidates bring no control cells{left_out} ({reasons})"]


def _own_cells(config: RunConfig) -> tuple[ad.AnnData, list[str]]:
    if config.query_h5ad is None:
        msg = "no query cells: give a query cell set, or your own cells as query_h5ad"
        raise InvalidInputError(msg)
    genelist = config.genelist if config.engine == "stack" else None
    adata, notes = read_query_h5ad(config.query_h5ad, genelist=genelist)
    kept = sample_cells(adata.obs, n=config.n_query, rng=make_rng(config.seed, role=keys.QUERY))
    if len(kept) < adata.n_obs:
        notes = (*notes, f"{len(kept)} of your {adata.n_obs} cells were sampled (n_query)")
        adata = adata[kept.index].copy()
    adata.obs[ROLE] = keys.QUERY
    return adata, list(notes)


def _fetch(cells: pd.DataFrame, *, role: str, atlas: Atlas) -> ad.AnnData:
    adata = atlas.fetch(cells.drop(columns=GROUP))
    absent = [column for column in (*keys.CELL_COLUMNS, keys.ATLAS) if column not in adata.obs.columns]
    if absent:
        msg = f"the atlas gives {role} cells without {', '.join(absent)}; rebuild it with `haystack atlas build`"
        raise ContractError(msg, absent=absent)
    adata.obs[ROLE] = role
    return adata


def _refuse_empty(cell_sets: Sequence[CellSet], *, what: str) -> None:
    named = "; ".join(one.key for one in cell_sets)
    msg = f"the {what} cell sets hold no cells ({named}): the atlas changed since they were chosen. Search again."
    raise NoCandidateError(msg, keys=[one.key for one in cell_sets])
