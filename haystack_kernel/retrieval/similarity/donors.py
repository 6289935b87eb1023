"""How alike donors are: the tissue, disease, age and sex that they share with the donor or place asked about.

In: a query and the view. Out: the facts of the target, and per condition which of them agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.retrieval.donor_names import match_donors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

FACTS = {"tissue": keys.TISSUE_ID, "disease": keys.DISEASE_ID, "age": keys.DONOR_AGE, "sex": keys.DONOR_SEX}
_NAMES = {"tissue": keys.TISSUE, "disease": keys.DISEASE}  # used where an id is missing
_UNKNOWN = 0.5  # a fact that is not recorded on one side says neither
_NOT_RECORDED = frozenset({"", "unknown", "na", "nan", "none"})

Facts = dict[str, frozenset[str]]


def target_facts(query: StructuredQuery, view: AtlasView) -> Facts:
    """Tissue, disease, age and sex of the donor (or else the dataset) asked about; what the question says wins."""
    rows = view.controls
    if query.donor_id:
        rows = rows[rows[keys.DONOR].isin(match_donors(query.donor_id, rows))]
    elif query.target_dataset:
        rows = rows[rows[keys.DATASET].str.casefold() == query.target_dataset.casefold()]
    else:
        rows = rows.iloc[:0]
    facts = {name: frozenset(_values(rows, name)) - _NOT_RECORDED for name in FACTS}
    said = {"tissue": query.tissue_id, "disease": query.disease_id}
    return {**facts, **{name: frozenset({value.casefold()}) for name, value in said.items() if value}}


def agreement(rows: pd.DataFrame, *, facts: Mapping[str, frozenset[str]]) -> pd.DataFrame:
    """One column per fact: 1 agrees, 0 differs, 0.5 not recorded on one side; the index is that of ``rows``."""
    columns = {}
    for name in FACTS:
        values = _values(rows, name)
        known = ~values.isin(_NOT_RECORDED) & bool(facts[name])
        columns[name] = np.where(known, values.isin(facts[name]).astype(float), _UNKNOWN)
    return pd.DataFrame(columns, index=rows.index)


def alikeness(agreed: pd.DataFrame) -> pd.Series:
    """Mean of the four facts, in [0, 1]; 0.5 where nothing is recorded.

    References
    ----------
    Defined here.
    """
    return agreed.mean(axis=1)


def alike_words(row: pd.Series) -> str:
    """Which facts agree, differ and are not recorded: "alike in tissue and sex, differing in age"."""
    alike, differing, unknown = ([name for name in FACTS if row[name] == value] for value in (1.0, 0.0, _UNKNOWN))
    parts = [f"alike in {_listed(alike)}"] if alike else []
    parts += [f"differing in {_listed(differing)}"] if differing else []
    parts += [f"with {_listed(unknown)} not recorded"] if unknown else []
    return ", ".join(parts)


def _values(rows: pd.DataFrame, name: str) -> pd.Series:
    values = rows[FACTS[name]].str.strip().str.casefold()
    return values.where(values != "", rows[_NAMES[name]].str.strip().str.casefold()) if name in _NAMES else values


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
