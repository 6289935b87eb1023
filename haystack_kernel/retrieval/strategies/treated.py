"""Treated cells that may become prompts of a perturbational question.

In: a query and the view. Out: rows of the perturbation asked for or of others, without those that are the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.retrieval.names import in_dataset, match_donors
from haystack_kernel.retrieval.view import CANONICAL, canonical_name
from haystack_kernel.schema import OBSERVATIONAL, PERTURBATIONAL

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery


def asks_perturbation(query: StructuredQuery) -> bool:
    """Whether the question asks for the effect of a treatment (a cross-dataset question may or may not)."""
    return query.task_type in PERTURBATIONAL or (
        query.task_type not in OBSERVATIONAL and query.perturbation is not None
    )


def rows_of_perturbation(rows: pd.DataFrame, *, query: StructuredQuery, knowledge: Knowledge) -> pd.DataFrame:
    """Treated rows whose perturbation is the one asked for, under any of its names."""
    if query.perturbation is None:
        return rows.iloc[:0]
    asked = query.perturbation
    wanted = {asked.name, asked.text, canonical_name(asked.name, knowledge=knowledge)}
    folded = {name.casefold() for name in wanted if name}
    same = _is_named(rows[CANONICAL], folded) | _is_named(rows[keys.PERTURBATION], folded)
    return rows[same & ~rows[keys.IS_CONTROL]]


def asked_rows(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Rows of the perturbation asked for that may become prompts.

    A novel sample is predicted from other donors, and a cross-dataset question from other datasets. The target's own
    treated cells are therefore left out, unless no others remain.
    """
    return _usable(rows_of_perturbation(view.treated, query=query, knowledge=view.knowledge), query=query)


def other_perturbations(query: StructuredQuery, view: AtlasView) -> pd.DataFrame:
    """Rows of every other perturbation, with the same limits; none where the question asks for no treatment."""
    if query.perturbation is None or not asks_perturbation(query):
        return view.treated.iloc[:0]
    same = rows_of_perturbation(view.treated, query=query, knowledge=view.knowledge)
    return _usable(view.treated.drop(index=same.index), query=query)


def _usable(rows: pd.DataFrame, *, query: StructuredQuery) -> pd.DataFrame:
    if query.reference_dataset:
        rows = rows[in_dataset(query.reference_dataset, rows)]
    if query.reference_donor:
        rows = rows[rows[keys.DONOR].isin(match_donors(query.reference_donor, rows))]
    if query.task_type == "cross_dataset_generation" and query.target_dataset:
        rows = _without(rows, in_dataset(query.target_dataset, rows))
    if query.task_type == "perturbation_novel_samples" and query.donor_id:
        rows = _without(rows, rows[keys.DONOR].isin(match_donors(query.donor_id, rows)))
    return rows


def _is_named(names: pd.Series, folded: set[str]) -> pd.Series:
    """Whether each name is one of ``folded``, whatever its case."""
    return names.isin([name for name in names.unique() if name.casefold() in folded])


def _without(rows: pd.DataFrame, target: pd.Series) -> pd.DataFrame:
    return rows if target.all() else rows[~target]
