"""Matches donors and datasets as people write them with those of the atlases; what does not exist is refused.

In: a text such as "1256" or "donor 1256", or a whole query. Out: the prefixed ids that it means, such as "kang:1256".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import pandas as pd
from rapidfuzz import fuzz, process

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, NoCandidateError
from haystack_kernel.knowledge import descendants, perturbation_of, resolve
from haystack_kernel.retrieval.view import has_donor
from haystack_kernel.schema import PERTURBATIONAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import StructuredQuery

_SHOWN = 12
_TITLE = re.compile(r"^(donor|patient|individual|subject|sample)[\s_:#-]*", re.IGNORECASE)


def match_donors(text: str, rows: pd.DataFrame) -> tuple[str, ...]:
    """Donor ids of ``rows`` that ``text`` names, with or without the dataset prefix; case is ignored."""
    stored, wanted = rows.loc[has_donor(rows), keys.DONOR].unique(), _forms_asked(text)
    return tuple(sorted(one for one in stored if not wanted.isdisjoint(_forms_of(one))))


def same_donor(text: str, stored: str) -> bool:
    """Whether a text names a stored donor: "1256", "donor 1256" or "kang:1256" for "kang:donor 1256"."""
    return not _forms_asked(text).isdisjoint(_forms_of(stored))


def _forms_asked(text: str) -> set[str]:
    wanted = text.strip().casefold()
    return {wanted, _TITLE.sub("", wanted).strip()} - {""}


@lru_cache(maxsize=1 << 16)
def _forms_of(stored: str) -> tuple[str, str, str]:
    """How people may write a stored donor; a question looks at thousands of donors several times."""
    whole = stored.casefold()
    bare = whole.rpartition(":")[2]
    return whole, bare, _TITLE.sub("", bare)


def need_donors(text: str, rows: pd.DataFrame) -> tuple[str, ...]:
    """Match donors as :func:`match_donors` does, and refuse a text that names none.

    Raises
    ------
    NoCandidateError
        There is no such donor; the message lists those that exist, the nearest first.
    """
    found = match_donors(text, rows)
    if found:
        return found
    stored = sorted(rows.loc[has_donor(rows), keys.DONOR].unique())
    held = f"the donors there are {nearest(text, stored)}" if stored else "no donors are recorded there"
    msg = f"no donor {text!r} in the atlases; {held}. Ask about one of them, or add an atlas that holds this donor."
    raise NoCandidateError(msg, donor=text, donors=stored)


def in_dataset(text: str, rows: pd.DataFrame) -> pd.Series:
    """Whether each row belongs to the dataset that ``text`` names.

    Case, blanks, hyphens and underscores are ignored. Where no dataset is meant, the name of an atlas stands for all
    its datasets.
    """
    wanted = _squeezed(text)
    for column in (keys.DATASET, keys.ATLAS):
        meant = [name for name in rows[column].unique() if _squeezed(name) == wanted]
        exact = [name for name in meant if name.casefold() == text.strip().casefold()]
        if meant:
            return rows[column].isin(exact or meant)
    return pd.Series(data=False, index=rows.index)


def need_dataset(text: str, rows: pd.DataFrame) -> pd.Series:
    """Find the rows of a dataset as :func:`in_dataset` does, and refuse a text that names none.

    Raises
    ------
    NoCandidateError
        There is no such dataset; the message lists those that exist, the nearest first.
    """
    found = in_dataset(text, rows)
    if found.any():
        return found
    stored = sorted(rows[keys.DATASET].unique())
    msg = (
        f"no dataset {text!r} in the atlases; the datasets there are {nearest(text, stored) or 'none'}. Ask about one "
        "of them, or add it with `haystack atlas build`."
    )
    raise NoCandidateError(msg, dataset=text, datasets=stored)


def check_names(query: StructuredQuery, view: AtlasView) -> None:
    """Refuse a query that names a dataset, donor, tissue or disease that the atlases do not hold.

    Parameters
    ----------
    query
        The parsed question.
    view
        Conditions of the atlases. Hidden ones count: what they name does exist. Where the user gave query cells of
        their own, the target of a treatment lies in that file, and only the references are looked up here.

    Raises
    ------
    NoCandidateError
        Something named does not exist; the message lists what does, the nearest first. A tissue or disease is refused
        only where the atlases record it for every cell: unrecorded cells may be the ones asked about.
    """
    rows = pd.concat([view.conditions, view.hidden]) if len(view.hidden) else view.conditions
    if query.reference_dataset:
        need_dataset(query.reference_dataset, rows)
    if query.reference_donor:
        need_donors(query.reference_donor, rows)
    if view.config.query_h5ad is not None and query.task_type in PERTURBATIONAL:
        return
    if view.config.query_atlas is not None:
        rows = rows[rows[keys.ATLAS] == view.config.query_atlas]
    if query.target_dataset:
        rows = rows[need_dataset(query.target_dataset, rows)]
    if query.donor_id:
        rows = rows[rows[keys.DONOR].isin(need_donors(query.donor_id, rows))]
    _need_term(query.tissue_id, query.tissue_name, rows, columns=(keys.TISSUE_ID, keys.TISSUE), view=view)
    _need_term(query.disease_id, query.disease_name, rows, columns=(keys.DISEASE_ID, keys.DISEASE), view=view)


def check_hidden(view: AtlasView) -> None:
    """Refuse a hidden treatment that neither the tables nor the atlases know.

    Parameters
    ----------
    view
        Conditions of the atlases and the hidden pairs of the run.

    Raises
    ------
    InvalidInputError
        Names the treatment and the nearest ones of both.
    """
    held = sorted({*view.conditions[keys.PERTURBATION], *view.hidden[keys.PERTURBATION]} - {""})
    for wanted in (pair.perturbation for pair in view.config.hide):
        is_held = any(one.casefold() == wanted.casefold() for one in held)
        if is_held or perturbation_of(wanted, knowledge=view.knowledge) is not None:
            continue
        found = resolve(wanted, kind="perturbation", knowledge=view.knowledge)
        near = [one.name for one in (found.match, *found.alternatives) if one is not None]
        msg = (
            f"--hide: unknown perturbation {wanted!r}; nearest known: {', '.join(near) or 'none'}; the atlases hold "
            f"{nearest(wanted, held) or 'none'}. Name one of these"
        )
        raise InvalidInputError(msg, perturbation=wanted)


def of_term(term: str | None, ids: pd.Series, *, knowledge: Knowledge) -> pd.Series:
    """Whether each id is the tissue or disease ``term``, or a part or kind of it; all False for None."""
    if term is None:
        return pd.Series(data=False, index=ids.index)
    is_known = term in knowledge.tissues or term in knowledge.diseases
    below = descendants(term, knowledge=knowledge, relations=("is_a", "part_of")) if is_known else frozenset()
    return ids.isin({term, *below})


def nearest(text: str, names: Iterable[str]) -> str:
    """Names as a list in words, the most similar to ``text`` first."""
    stored = list(names)
    ranked = [name for name, *_ in process.extract(text, stored, scorer=fuzz.WRatio, limit=_SHOWN)]
    more = f" and {len(stored) - len(ranked)} more" if len(stored) > len(ranked) else ""
    return f"{', '.join(ranked)}{more}"


def _need_term(
    term: str | None, name: str | None, rows: pd.DataFrame, *, columns: tuple[str, str], view: AtlasView
) -> None:
    """Refuse a tissue or disease that no cell can have."""
    ids, labels = rows[columns[0]], rows[columns[1]]
    if not term or (ids == "").any() or of_term(term, ids, knowledge=view.knowledge).any():
        return
    what = "tissue" if columns[0] == keys.TISSUE_ID else "disease"
    held = nearest(name or term, sorted(set(labels)))
    msg = (
        f"no cells of {what} {name or term!r} in the atlases; those there are of {held}. Ask about one of these or "
        f"about no {what}, give cells of your own as query h5ad, or add an atlas with `haystack atlas build`."
    )
    raise NoCandidateError(msg, term=term, held=sorted(set(labels)))


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
