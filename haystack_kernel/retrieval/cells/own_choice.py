"""Which cells of a user's own file are transformed: the untreated ones of the type asked for, by the file's own labels.

In: obs of the file, the query, and the user's criteria. Out: an :class:`OwnChoice`, or an error that says what the file
holds. Nothing is left out without being listed, and nothing counts as checked that was not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import ancestors, resolve
from haystack_kernel.retrieval.cells.own_columns import (
    Column,
    label_columns,
    named,
    treatment_columns,
    type_columns,
    untreated,
)
from haystack_kernel.retrieval.names import nearest, of_term, same_donor
from haystack_kernel.retrieval.similarity.cell_types import asked_labels, asked_type, subtypes
from haystack_kernel.retrieval.strategies.treated import asks_perturbation
from haystack_kernel.retrieval.target import is_donor_prediction
from haystack_kernel.retrieval.type_labels import sure_meanings
from haystack_kernel.retrieval.view import cells_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import StructuredQuery, TermKind

ALL = "all"  # the criterion that takes every cell of the file
_PAIR = re.compile(r"\s*(?P<column>[^=,]+?)\s*=\s*")
_NEXT = re.compile(r",\s*(?=[^=,]+=)")
_FORM = "--query-cells 'COLUMN=VALUE,COLUMN=VALUE' (query_cells in Python), or --query-cells all for every cell"
_PLACES: dict[str, tuple[TermKind, tuple[str, ...], tuple[str, ...]]] = {  # columns of labels, then of ids
    "tissue": (
        "tissue",
        ("tissue", "tissuename", "organ", "tissueoriginal"),
        ("tissueontologytermid", "tissueuberonid"),
    ),
    "disease": ("disease", ("disease", "diseasename", "diagnosis"), ("diseaseontologytermid", "diseasemondoid")),
}
_DONORS = ("donorid", "donor", "patientid", "patient", "individual", "subjectid", "subject", "sampleid", "sample")


@dataclass(frozen=True, eq=False)
class OwnChoice:
    """The cells of the user's file that are transformed.

    Attributes
    ----------
    keep
        Truth value per cell, in the order of the file.
    source
        How many cells of which file, such as "17 of 256 cells of mine.h5ad".
    left_out
        Why the others are not among them, with their numbers and labels.
    open
        What could not be checked, or was not because the user chose otherwise; each begins with what it is about.
    labels
        The label of each cell's type in the column it was taken from; "" where there is none.
    """

    keep: pd.Series
    source: str
    left_out: tuple[str, ...]
    open: tuple[str, ...]
    labels: pd.Series

    @property
    def summary(self) -> str:
        """Everything in one sentence."""
        parts = [self.source, f"left out: {'; '.join(self.left_out)}" if self.left_out else "", *self.open]
        return "; ".join(part for part in parts if part)


@dataclass(eq=False)
class _Sieve:
    """What is still kept, and why the rest is not."""

    obs: pd.DataFrame
    columns: list[Column]
    keep: pd.Series
    left_out: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    chosen: frozenset[str] = frozenset()  # columns that the user's criteria name

    def drop(self, gone: pd.Series, why: str, *columns: Column) -> None:
        """Leave cells out, and say how many and by which labels."""
        gone = gone & self.keep
        if not gone.any():
            return
        labels = "; ".join(f"{column.name}: {column.counted(gone)}" for column in columns)
        self.left_out.append(f"{int(gone.sum()):,} {why}{f' ({labels})' if labels else ''}")
        self.keep = self.keep & ~gone


def choose_own_cells(
    obs: pd.DataFrame,
    *,
    name: str,
    query: StructuredQuery,
    knowledge: Knowledge,
    criteria: str | None = None,
    source_types: Sequence[str] = (),
) -> OwnChoice:
    """Choose the cells to be transformed: untreated, of the type, donor, tissue and disease asked for.

    Parameters
    ----------
    obs
        Columns of the file as they are.
    name
        Path or address of the file.
    query
        The parsed question. An imputation starts from other cells than those asked for: ``source_types``.
    knowledge
        Tables that labels are resolved with.
    criteria
        ``COLUMN=VALUE,COLUMN=VALUE``: cells that satisfy all of them; of one column given twice either value. A column
        chosen so is not checked further. ``all`` takes every cell. None: the file's labels decide alone.
    source_types
        CL ids that an imputation starts from; none: any type but the one asked for.

    Returns
    -------
    The choice, with what was left out and what is open.

    Raises
    ------
    InvalidInputError
        A criterion names no column or value of the file, or no cell is left; the message says what the file holds.
    """
    columns = label_columns(obs)
    sieve = _Sieve(obs, columns, pd.Series(data=True, index=range(len(obs))))
    types = type_columns(columns, knowledge=knowledge)
    treatments = treatment_columns(columns, besides={one.name for one, _ in types}, knowledge=knowledge)
    if criteria is not None and criteria.strip().casefold() == ALL:
        sieve.open.append("all cells of the file were taken as you asked, whatever their type and treatment")
    else:
        _apply_criteria(sieve, criteria, types=types, knowledge=knowledge)
        _apply_places(sieve, query=query, name=name, knowledge=knowledge)
        _apply_treatments(sieve, treatments)
        if types:
            _apply_types(sieve, types, query=query, knowledge=knowledge, source_types=source_types)
        else:
            sieve.open.append(
                "the cell type of the query cells was not checked: the file has no column of cell types (taken as "
                f"{cells_of(asked_type(query))})"
            )
    if not sieve.keep.any():
        raise _nothing_left(sieve, [one for one, _ in types], query=query, name=name)
    n_kept, n_cells, file = int(sieve.keep.sum()), len(obs), Path(name).name
    source = f"{n_kept:,} of {n_cells:,} cells of {file}" if n_kept < n_cells else f"all {n_cells:,} cells of {file}"
    labels = types[0][0].texts if types else pd.Series("", index=range(n_cells), dtype=object)
    return OwnChoice(sieve.keep, source, tuple(sieve.left_out), tuple(sieve.open), labels)


# --- criteria -----------------------------------------------------------------------------------------------------


def _apply_criteria(
    sieve: _Sieve, criteria: str | None, *, types: list[tuple[Column, pd.Series]], knowledge: Knowledge
) -> None:
    wanted: dict[str, list[str]] = {}
    for part in _NEXT.split(criteria) if criteria else ():
        match = _PAIR.match(part)
        if match is None or not part[match.end() :].strip():
            msg = f"query_cells {criteria!r} cannot be read; give {_FORM}, e.g. 'cell_type=B cell,condition=ctrl'"
            raise InvalidInputError(msg, given=criteria)
        column = _column(sieve, match["column"])
        wanted.setdefault(column.name, []).append(part[match.end() :].strip())
    for column in sieve.columns:
        if values := wanted.get(column.name):
            ids = next((found for one, found in types if one.name == column.name), None)
            meets = pd.Series(data=False, index=sieve.keep.index)
            for value in values:
                meets |= _meets(column, value, ids=ids, knowledge=knowledge)
            sieve.drop(~meets, f"not {column.name}={' or '.join(values)}", column)
    sieve.chosen = frozenset(wanted)


def _column(sieve: _Sieve, text: str) -> Column:
    found = [one for one in sieve.columns if one.name == text] or named(
        sieve.columns, re.sub(r"[^a-z0-9]", "", text.lower())
    )
    if found:
        return found[0]
    held = [one.name for one in sieve.columns]
    msg = f"query_cells: the file has no column {text!r}; its columns of labels are {nearest(text, held) or 'none'}"
    raise InvalidInputError(msg, column=text, columns=held)


def _meets(column: Column, value: str, *, ids: pd.Series | None, knowledge: Knowledge) -> pd.Series:
    """Cells whose label is the value, or, in a column of cell types, means the same type."""
    meets = column.texts.str.casefold() == value.casefold()
    if not meets.any() and ids is not None:
        asked = sure_meanings(resolve(value, kind="cell_type", knowledge=knowledge))
        meets = ids.map(lambda one: one is not None and one == asked)
    if not meets.any():
        near = nearest(value, [label for label in column.labels if label])
        msg = f"query_cells: no cell of the file has {column.name}={value}; its values are {near or 'all empty'}"
        raise InvalidInputError(msg, column=column.name, value=value)
    return meets


# --- donor, tissue, disease ---------------------------------------------------------------------------------------


def _apply_places(sieve: _Sieve, *, query: StructuredQuery, name: str, knowledge: Knowledge) -> None:
    if not asks_perturbation(query):  # the place asked about is in the atlases
        return
    if query.donor_id:
        _of_donor(sieve, query.donor_id, name=name)
    if query.target_dataset:
        _of_dataset(sieve, query.target_dataset, name=name)
    asked = {"tissue": (query.tissue_id, query.tissue_name), "disease": (query.disease_id, query.disease_name)}
    for what, (term, words) in asked.items():
        if term:
            _of_place(sieve, what, term, words or term, name=name, knowledge=knowledge)


def _of_donor(sieve: _Sieve, donor: str, *, name: str) -> None:
    columns = named(sieve.columns, *_DONORS)
    if not columns:
        sieve.open.append(
            f"the donor of the query cells was not checked: the file has no column of donors ({donor!r} asked for)"
        )
        return
    if {one.name for one in columns} & sieve.chosen:
        return
    for column in columns:
        meets = column.map(lambda label: bool(same_donor(donor, label)))
        if meets.any():
            sieve.drop(~meets, "of other donors", column)
            return
    held = nearest(donor, [label for label in columns[0].labels if label])
    msg = f"{name} holds no donor {donor!r}; its {columns[0].name} are {held or 'empty'}. Ask about one of them."
    raise InvalidInputError(msg, donor=donor)


def _of_dataset(sieve: _Sieve, dataset: str, *, name: str) -> None:
    wanted = re.sub(r"[\s_-]+", "", dataset).casefold()
    for column in named(sieve.columns, "dataset", "datasetid", "study", "studyid"):
        meets = column.map(lambda label: re.sub(r"[\s_-]+", "", label).casefold() == wanted)
        if meets.any():
            sieve.drop(~meets, "of other datasets", column)
            return
    if re.sub(r"[\s_-]+", "", Path(name).stem).casefold() != wanted:
        msg = (
            f"the query cells come from {name}, which neither is nor holds a dataset {dataset!r}. Ask without naming a "
            "dataset, or leave out the file to take the query cells from the atlases."
        )
        raise InvalidInputError(msg, dataset=dataset)


def _of_place(sieve: _Sieve, what: str, term: str, words: str, *, name: str, knowledge: Knowledge) -> None:
    kind, by_label, by_id = _PLACES[what]
    columns = named(sieve.columns, *by_id, *by_label)
    if {one.name for one in columns} & sieve.chosen:
        return
    for column in columns:
        ids = column.map(
            lambda label: next(iter(sure_meanings(resolve(label, kind=kind, knowledge=knowledge))), "") if label else ""
        )
        meets = of_term(term, ids, knowledge=knowledge)
        if meets.any():
            sieve.drop(~meets, f"of another {what}", column)
            return
        if (ids != "").all():
            shown = next(iter(named(sieve.columns, *by_label)), column)
            msg = (
                f"{name} holds no cells of {what} {words!r}; its {shown.name} is {shown.counted(sieve.keep)}. Ask "
                f"about that, or about no {what}."
            )
            raise InvalidInputError(msg, term=term)
    sieve.open.append(
        f"the {what} of the query cells was not checked: the file does not say which it is ({words} asked for)"
    )


# --- treatment and type -------------------------------------------------------------------------------------------


def _apply_treatments(sieve: _Sieve, found: list[tuple[Column, pd.Series]]) -> None:
    if {one.name for one, _ in found} & sieve.chosen:
        return
    verdict, treated = untreated(found, n_cells=len(sieve.keep))
    by_name = {column.name: column for column, _ in found}
    for name, where in treated.items():
        sieve.drop(where, "treated", by_name[name])
    sieve.drop(verdict == "unknown", "of unknown treatment", *(one for one, _ in found))
    if not (verdict != "").all():
        sieve.open.append("whether the query cells are untreated was not checked: no column of the file says so")


def _apply_types(
    sieve: _Sieve,
    found: list[tuple[Column, pd.Series]],
    *,
    query: StructuredQuery,
    knowledge: Knowledge,
    source_types: Sequence[str],
) -> None:
    asked = asked_type(query)
    own = {query.cell_type_id} if query.cell_type_id else set()
    wanted = _Wanted(frozenset(own | subtypes(query.cell_type_id, knowledge=knowledge)), asked_labels(query))
    if not (asks_perturbation(query) or is_donor_prediction(query)):  # an imputation starts from other cells
        for column, ids in found:
            sieve.drop(wanted.held(column, ids), f"of the type to be imputed, {asked}", column)
        if not source_types:
            return
        wanted = _Wanted(frozenset(source_types), frozenset())
    chosen = [pair for pair in found if pair[0].name in sieve.chosen]
    if not chosen:
        _keep_type(sieve, found, wanted=wanted, query=query, knowledge=knowledge)
    elif others := {label for column, ids in chosen for label in column.texts[sieve.keep & ~wanted.held(column, ids)]}:
        labels = ", ".join(sorted(others)[:4])
        sieve.open.append(f"the query cells are those you chose, labelled {labels}, not {asked}")


def _keep_type(
    sieve: _Sieve,
    found: list[tuple[Column, pd.Series]],
    *,
    wanted: _Wanted,
    query: StructuredQuery,
    knowledge: Knowledge,
) -> None:
    """Keep the cells that one column surely calls the wanted type, and no column something else."""
    fits, contradicted = (pd.Series(data=False, index=sieve.keep.index) for _ in range(2))
    for column, ids in found:
        fits |= wanted.held(column, ids)
        contradicted |= wanted.excluded(column, ids, knowledge=knowledge)
    if not (fits & sieve.keep & ~contradicted).any() and _take_broader(sieve, found, query=query, knowledge=knowledge):
        return
    first = found[0][0]
    sieve.drop(fits & contradicted, "whose columns of cell types contradict each other", *(one for one, _ in found))
    sieve.drop(contradicted, "of other cell types", first)
    sieve.drop(~fits, "whose label does not say clearly that they are of this type", first)


@dataclass(frozen=True)
class _Wanted:
    """Cell types by id, and other spellings of the one asked for."""

    ids: frozenset[str]
    labels: frozenset[str]

    def held(self, column: Column, ids: pd.Series) -> pd.Series:
        """Cells that are surely of a wanted type."""
        return ids.map(lambda one: one is not None and one <= self.ids) | column.texts.str.casefold().isin(self.labels)

    def excluded(self, column: Column, ids: pd.Series, *, knowledge: Knowledge) -> pd.Series:
        """Cells that are surely of no wanted type, nor of a broader one."""
        known = [one for one in self.ids if one in knowledge.cell_types]
        above = {high for one in known for high in ancestors(one, knowledge=knowledge)}
        other = ids.map(lambda one: one is not None and one.isdisjoint(self.ids | above))
        return other & ~column.texts.str.casefold().isin(self.labels)


def _take_broader(
    sieve: _Sieve, found: list[tuple[Column, pd.Series]], *, query: StructuredQuery, knowledge: Knowledge
) -> bool:
    """Keep the cells of the type directly above the one asked for, where no cell has its own label."""
    if query.cell_type_id not in knowledge.cell_types:
        return False
    parents = frozenset(knowledge.cell_types[str(query.cell_type_id)].parents)
    for column, ids in found:
        broader = ids.map(lambda one: one is not None and one <= parents)
        if (broader & sieve.keep).any():
            sieve.drop(~broader, "of other cell types", column)
            labels = ", ".join(sorted(set(column.texts[sieve.keep]))[:4])
            sieve.open.append(
                f"the query cells are labelled {labels}, the nearest broader type than {asked_type(query)}"
            )
            return True
    return False


def _nothing_left(sieve: _Sieve, types: list[Column], *, query: StructuredQuery, name: str) -> InvalidInputError:
    everything = pd.Series(data=True, index=sieve.keep.index)
    held = "; ".join(f"{column.name}: {column.counted(everything)}" for column in types[:2])
    example = (
        f"e.g. '{types[0].name}={types[0].labels[0]}'" if types and types[0].labels[0] else "with columns of your file"
    )
    msg = (
        f"these cannot be the query cells: {name} holds no cells that its labels call untreated "
        f"{cells_of(asked_type(query))}. Left out: {'; '.join(sieve.left_out)}. It holds {held or 'no cell types'}. "
        f"Ask about a type that it holds, give another file, or say which cells to take by {_FORM}, {example}."
    )
    return InvalidInputError(msg, uri=name, left_out=list(sieve.left_out))
