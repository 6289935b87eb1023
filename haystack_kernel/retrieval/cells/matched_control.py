"""The matched control of a prompt: cells that differ from the prompt cells only in the effect asked for.

In: rows of a prompt. Out: prompt rows (restricted where that gives a matched control), control cell set, and a reason.

The design: **shift = prompt - control, applied to the query cells, answers the question.**

====================  =============================  ==================================  ============================
task                  prompt                         control                             query cells
====================  =============================  ==================================  ============================
perturbation, novel   treated cells of type T        untreated cells of T, same          untreated cells of the type
cell type or sample                                  dataset and donors                  (and donor) asked for
cell type imputation  cells of the asked type X in   cells of a source type S of the     cells of S of the target
                      reference donors               same reference donors               donor or tissue
donor expression      other cell types Y of the      cells of the same Y of the          cells of the asked type X
                      target donor                   reference donors                    of the reference donors
patients with a       other cell types Y of the      cells of the same Y of healthy      cells of the asked type X
disease               patients; X of patients in     donors of the same dataset          of healthy donors
                      other datasets
cross-dataset         as the perturbation asked      as above; S, or untreated T,        from the target dataset
                      for, or as imputation, from    in the prompt's dataset
                      the other datasets
====================  =============================  ==================================  ============================

Among several kinds of control of a data set (DMSO, PBS, non-targeting, …) the prompt's own comes first.

In order of preference: (1) control cells of the prompt's own donors; (2) of other donors of the same dataset and cell
type, not matched; (3) no control.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.knowledge.controls import GUIDES, SOLVENTS
from haystack_kernel.retrieval.view import N_CELLS, TYPE_KEY, cell_set, cells_of, has_donor, type_label

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import CellSet


_PROTEIN_SOLVENTS = frozenset({"PBS", "BSA", "medium", "saline", "water"})
_FITTING = {  # type of the treatment -> kinds of control that fit it, the best first
    "genetic": (GUIDES,),
    "drug": (SOLVENTS - _PROTEIN_SOLVENTS, SOLVENTS),
    "cytokine": (_PROTEIN_SOLVENTS, SOLVENTS),
}


@dataclass(frozen=True, eq=False)
class ControlMatch:
    """Prompt and control of one candidate.

    ``prompt`` holds the remaining rows of the prompt. ``reason`` describes the control, or says why it is None.
    """

    prompt: pd.DataFrame
    control: CellSet | None
    reason: str
    donor_matched: bool = False
    by_tissue: bool = False


def match_control(prompt: pd.DataFrame, *, controls: pd.DataFrame, type_key: str, min_cells: int) -> ControlMatch:
    """Find the best control of a prompt in one dataset.

    Parameters
    ----------
    prompt
        Rows of one dataset, condition and cell type.
    controls
        Rows of unperturbed cells of the same dataset.
    type_key
        CL id or label of the cell type of the control: the prompt's own, or the source type of an imputation.
    min_cells
        Minimum number of cells on each side.
    """
    dataset = prompt[keys.DATASET].iloc[0]
    pool = controls[controls[TYPE_KEY] == type_key]
    if int(pool[N_CELLS].sum()) < min_cells:
        return ControlMatch(prompt, None, _why_none(prompt, here=controls, pool=pool, type_key=type_key))
    label = type_label(pool)
    pool, kinds, of_kind = _own_kind(prompt, pool, min_cells=min_cells)
    matched_prompt, matched_pool, by_tissue = _same_tissues(prompt, pool, min_cells=min_cells)
    shared = _donors(matched_prompt) & _donors(matched_pool)
    on_both = (
        matched_prompt[matched_prompt[keys.DONOR].isin(shared)],
        matched_pool[matched_pool[keys.DONOR].isin(shared)],
    )
    if shared and all(int(side[N_CELLS].sum()) >= min_cells for side in on_both):
        control = cell_set(on_both[1], by_tissue=by_tissue, control_kinds=kinds)
        of = f"of the same {_n_donors(shared)} in dataset {dataset}"
        reason = f"{control.n_cells} control {cells_of(label)} {of}{of_kind}"
        return ControlMatch(on_both[0], control, reason, donor_matched=True, by_tissue=by_tissue)
    control = cell_set(matched_pool, by_tissue=by_tissue, control_kinds=kinds)
    if not has_donor(matched_prompt).any() or not has_donor(matched_pool).any():
        why = "donors are not recorded"
    elif not shared:
        why = "they come from other donors than the prompt"
    else:
        why = "the donors that have both treated and control cells have too few"
    reason = f"{control.n_cells} control {cells_of(label)} of dataset {dataset}{of_kind}, not matched by donor: {why}"
    return ControlMatch(matched_prompt, control, reason, by_tissue=by_tissue)


def match_own_type(prompt: pd.DataFrame, *, view: AtlasView) -> ControlMatch:
    """Find the control of treated cells, which has the same cell type as the prompt."""
    type_key, min_cells = str(prompt[TYPE_KEY].iloc[0]), view.settings.min_cells
    return match_control(prompt, controls=view.controls_of(prompt), type_key=type_key, min_cells=min_cells)


def match_reference(
    prompt: pd.DataFrame, *, controls: pd.DataFrame, dataset: tuple[str, str], donors: tuple[str, ...], min_cells: int
) -> ControlMatch:
    """Find the control of a donor prediction: the prompt's cell type in the reference donors.

    Parameters
    ----------
    prompt
        Rows of one cell type of the target donor.
    controls
        Rows of unperturbed cells.
    dataset
        Atlas and dataset of the reference donors, which the query cells also come from.
    donors
        The reference donors.
    min_cells
        Minimum number of control cells.
    """
    atlas, name = dataset
    cells = cells_of(type_label(prompt))
    pool = controls[(controls[keys.ATLAS] == atlas) & (controls[keys.DATASET] == name)]
    pool = pool[(pool[TYPE_KEY] == prompt[TYPE_KEY].iloc[0]) & pool[keys.DONOR].isin(donors)]
    n_cells = int(pool[N_CELLS].sum())
    if n_cells < min_cells:
        reason = (
            f"no control: the {_n_donors(set(donors), 'reference ')} of dataset {name} have {n_cells} {cells}, "
            f"{min_cells} are needed"
        )
        return ControlMatch(prompt, None, reason)
    control = cell_set(pool)
    reason = (
        f"{control.n_cells} {cells} of the {_n_donors(set(control.donor_ids), 'reference ')} in dataset {name}; "
        "other donors by design, since the difference between donors is the effect asked for"
    )
    return ControlMatch(prompt, control, reason)


def match_healthy(prompt: pd.DataFrame, *, controls: pd.DataFrame, min_cells: int) -> ControlMatch:
    """Find the control of patients' cells: the same cell type of healthy donors of the same data set and tissues.

    Parameters
    ----------
    prompt
        Rows of one cell type of patients.
    controls
        Rows of unperturbed cells of the data set's healthy donors.
    min_cells
        Minimum number of cells on each side.
    """
    cells, dataset = cells_of(type_label(prompt)), prompt[keys.DATASET].iloc[0]
    pool = controls[controls[TYPE_KEY] == prompt[TYPE_KEY].iloc[0]]
    if (n_cells := int(pool[N_CELLS].sum())) < min_cells:
        reason = f"no control: the healthy donors of dataset {dataset} have {n_cells} {cells}, {min_cells} are needed"
        return ControlMatch(prompt, None, reason)
    prompt, pool, by_tissue = _same_tissues(prompt, pool, min_cells=min_cells)
    control = cell_set(pool, by_tissue=by_tissue, by_disease=True)
    n_donors = _n_donors(set(control.donor_ids), "healthy ")
    reason = (
        f"{control.n_cells} {cells} of the {n_donors} in dataset {dataset}; other donors by design, since patients are "
        "compared with healthy donors"
    )
    return ControlMatch(prompt, control, reason, by_tissue=by_tissue)


def _own_kind(prompt: pd.DataFrame, pool: pd.DataFrame, *, min_cells: int) -> tuple[pd.DataFrame, tuple[str, ...], str]:
    """Controls of the kind that belongs to the prompt, where there are several kinds: these, their kinds, a phrase.

    The kind that the file states for the treatment comes first; then guides against nothing for a gene, a solvent for
    a drug, a solvent of proteins for a cytokine. Where neither tells, the controls of all kinds are taken together.
    """
    held = {str(kind) for kind in pool[keys.CONTROL_KIND] if kind}
    if len(held) < 2:
        return pool, (), ""
    stated = {str(kind) for kind in prompt[keys.CONTROL_KIND] if kind}
    fitting = [stated, *_FITTING.get(str(prompt[keys.PERTURBATION_TYPE].iloc[0]), ())]
    for kinds in fitting:
        own = pool[pool[keys.CONTROL_KIND].isin(kinds)]
        if int(own[N_CELLS].sum()) >= min_cells:
            named = tuple(sorted(held & kinds))
            return own, named, f" ({' and '.join(named)})"
    missing = f"; too few are {' or '.join(sorted(stated))}, the kind stated for the treatment" if stated else ""
    return pool, (), f" ({' and '.join(sorted(held))} together{missing})"


def _same_tissues(
    prompt: pd.DataFrame, pool: pd.DataFrame, *, min_cells: int
) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    """Restrict both sides to their common tissues, where they differ in tissue and enough cells remain."""
    mine, theirs = set(prompt[keys.TISSUE_ID]), set(pool[keys.TISSUE_ID])
    common = mine & theirs
    if mine == theirs or "" in common or not common:
        return prompt, pool, False
    sides = prompt[prompt[keys.TISSUE_ID].isin(common)], pool[pool[keys.TISSUE_ID].isin(common)]
    if any(int(side[N_CELLS].sum()) < min_cells for side in sides):
        return prompt, pool, False
    return *sides, True


def _donors(rows: pd.DataFrame) -> set[str]:
    return {one for one, known in zip(rows[keys.DONOR].tolist(), has_donor(rows).tolist(), strict=True) if known}


def _why_none(prompt: pd.DataFrame, *, here: pd.DataFrame, pool: pd.DataFrame, type_key: str) -> str:
    dataset = prompt[keys.DATASET].iloc[0]
    if len(pool):
        few = cells_of(type_label(pool))
        return f"no control: dataset {dataset} has {int(pool[N_CELLS].sum())} control {few}, too few"
    label = type_label(prompt) if type_key == prompt[TYPE_KEY].iloc[0] else type_key
    if not len(here):
        return f"no control: dataset {dataset} has no control cells at all, so no {cells_of(label)}"
    held = here.groupby(keys.CELL_TYPE, sort=True)[N_CELLS].sum().sort_values(ascending=False, kind="stable")
    shown = ", ".join(f"{name} ({count})" for name, count in list(held.items())[:5])
    return f"no control: dataset {dataset} has no control {cells_of(label)}; its control cells are {shown}"


def _n_donors(donors: set[str], kind: str = "") -> str:
    return f"{len(donors)} {kind}{'donor' if len(donors) == 1 else 'donors'}"
