"""Explains why no candidate was found: what was asked for, what is nearest in the atlases, what to do next.

In: a query and the view. Out: messages.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from rapidfuzz import fuzz, process

from haystack_kernel import keys
from haystack_kernel.knowledge import perturbation_of
from haystack_kernel.retrieval.similarity.cell_types import asked_type, steps_between
from haystack_kernel.retrieval.strategies.treated import asked_rows, asks_perturbation, rows_of_perturbation
from haystack_kernel.retrieval.view import CANONICAL, N_CELLS, TYPE_KEY, cells_of, type_label

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

_SHOWN = 6
_FAR = 99  # sorts behind every ontology distance
_UNRELATED = "no other perturbation there shares a target, a pathway or downstream genes with it closely enough"
_ADD = "add an atlas that holds them with `haystack atlas build`"


def explain_nothing_found(query: StructuredQuery, view: AtlasView, *, n_banned: int) -> str:
    """Explain to the user why there is no candidate.

    Parameters
    ----------
    n_banned
        Number of candidates that were found and then excluded by bans.
    """
    treated = f" treated with {query.perturbation.name}" if query.perturbation is not None else ""
    donor = f" of donor {query.donor_id}" if query.donor_id else ""
    reference = f" by what is measured in dataset {query.reference_dataset}" if query.reference_dataset else ""
    reference += f" by what is measured in donor {query.reference_donor}" if query.reference_donor else ""
    what = f"{cells_of(asked_type(query))}{treated}{donor}{reference}"
    if n_banned:
        return f"all {n_banned} candidates for {what} are banned. Remove some bans"
    if asks_perturbation(query):
        return _without_treated(query, view, what=what)
    held = describe_types(view.controls, query=query, view=view)
    return f"no unperturbed cells can serve as prompt for {what}. The atlases hold {held}. Ask about these, or {_ADD}"


def describe_types(rows: pd.DataFrame, *, query: StructuredQuery, view: AtlasView) -> str:
    """List the cell types of the rows with their numbers of cells, those nearest to the one asked for first."""
    ranked = []
    for _, group in rows.groupby(TYPE_KEY, sort=True):
        steps = steps_between(query.cell_type_id, group[keys.CELL_TYPE_ID].iloc[0], knowledge=view.knowledge)
        ranked.append((_FAR if steps is None else steps, -int(group[N_CELLS].sum()), type_label(group)))
    shown = [f"{label} ({-n_cells} cells)" for _, n_cells, label in sorted(ranked)[:_SHOWN]]
    more = f" and {len(ranked) - _SHOWN} more types" if len(ranked) > _SHOWN else ""
    return ", ".join(shown) + more if shown else "no such cells at all"


def _without_treated(query: StructuredQuery, view: AtlasView, *, what: str) -> str:
    if query.perturbation is None:
        unknown = ", ".join(repr(one.text) for one in query.unresolved if one.kind == "perturbation")
        named = f"the perturbation {unknown} is not known" if unknown else "the question names no known perturbation"
        return f"no candidate: {named}. {_held_perturbations(query, view)}. Ask about one of these"
    name = query.perturbation.name
    few = asked_rows(query, view)
    if len(few):
        sizes = describe_types(few, query=query, view=view)
        return (
            f"no candidate for {what}: cells treated with {name} are fewer than {view.settings.min_cells} in every "
            f"cell type ({sizes}). Lower retrieval.min_cells, or {_ADD}"
        )
    elsewhere = rows_of_perturbation(view.treated, query=query, knowledge=view.knowledge)
    if len(elsewhere):
        held = ", ".join(sorted(set(elsewhere[keys.DATASET] + ", " + elsewhere[keys.DONOR]))[:_SHOWN])
        return (
            f"no candidate for {what}: cells treated with {name} are held, but not there ({held}). Ask about one of "
            f"these, or {_ADD}"
        )
    hidden = rows_of_perturbation(view.hidden, query=query, knowledge=view.knowledge)
    if len(hidden):
        labels = ", ".join(sorted(set(hidden[keys.CELL_TYPE])))
        return (
            f"no candidate for {what}: all {int(hidden[N_CELLS].sum())} cells treated with {name} are hidden "
            f"({labels}), because a held-out pair takes its ancestors, descendants and ambiguous labels with it, and "
            f"{_UNRELATED}. Hide fewer pairs, or add an atlas with other cell types"
        )
    return (
        f"no candidate for {what}: no atlas holds cells treated with {name}, and {_UNRELATED}. "
        f"{_held_perturbations(query, view)}. Ask about one of these, or {_ADD}"
    )


def _held_perturbations(query: StructuredQuery, view: AtlasView) -> str:
    """Names of perturbations in the atlases: shared targets first, then the same family, then a similar spelling."""
    held = sorted(set(view.treated[CANONICAL]) - {""})
    if not held:
        return "The atlases hold unperturbed cells only"
    asked = query.perturbation
    text = next((one.text for one in query.unresolved if one.kind == "perturbation"), "")
    if asked is not None:
        text = asked.name
    spelling = {one: score for one, score, _ in process.extract(text, held, scorer=fuzz.WRatio, limit=None)}
    known = functools.partial(perturbation_of, knowledge=view.knowledge)
    entry = known(text)
    targets = set(asked.targets if asked is not None else ()) | set(entry.targets if entry else ())

    def order(name: str) -> tuple[bool, bool, float, str]:
        other = known(name)
        shares = other is not None and not targets.isdisjoint(other.targets)
        family = other is not None and entry is not None and bool(entry.family) and other.family == entry.family
        return not shares, not family, -spelling.get(name, 0.0), name

    nearest = sorted(held, key=order)[:_SHOWN]
    more = f" (of {len(held)} perturbations)" if len(held) > len(nearest) else ""
    return f"Nearest in the atlases: {', '.join(nearest)}{more}"
