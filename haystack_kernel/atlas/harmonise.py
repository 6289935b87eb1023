"""Harmonise the columns of one file: ontology ids, canonical names, controls, prefixed donors.

In: obs columns as categoricals, a ``Mapping``, functions that resolve a label. Out: the columns of cells.parquet and
the labels without a known term, for each kind of cells that share all their labels, not for each cell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.atlas.labels import Kinds, count_codes, distinct_pairs, distinct_rows, joined, recode, spread
from haystack_kernel.atlas.mapping import FIELDS
from haystack_kernel.atlas.names import safe_names
from haystack_kernel.atlas.record import LabelRead, Unmapped
from haystack_kernel.atlas.sources.h5ad import constant_text, read_text
from haystack_kernel.atlas.treatments import (
    CONTROL,
    LEFT_OUT,
    TREATED,
    Reading,
    Stated,
    certain,
    is_start,
    read_treatments,
)
from haystack_kernel.errors import MissingKeyError
from haystack_kernel.knowledge.controls import control_words, is_unassigned
from inference.h5 import column_names, n_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import h5py
    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.atlas.mapping import Mapping
    from haystack_kernel.atlas.resolvers import Resolvers
    from haystack_kernel.schema import Match, Resolution

_MAX_REMARKS = 12  # on labels of one kind
_ALSO = "perturbation also "  # names of the fields of ``Mapping.perturbation_also``
_UNKNOWN = {"", "na", "n/a", "none", "null", "unknown", "not available"}


@dataclass(frozen=True)
class Harmonised:
    """Text columns by their names in :mod:`haystack_kernel.keys`, which cells are controls, and what to report.

    Every array has an entry for each kind of cells. ``is_kept`` is False for cells of which no treatment is known: they
    are neither treated nor controls.
    """

    text: dict[str, pd.Categorical]
    is_control: NDArray[np.bool_]
    is_kept: NDArray[np.bool_]
    n_cells: NDArray[np.int64]
    treatments: tuple[LabelRead, ...]
    unmapped: tuple[Unmapped, ...]
    datasets: dict[str, str]
    notes: tuple[str, ...] = ()


def read_kinds(obs: h5py.Group, mapping: Mapping, *, uri: str) -> Kinds:
    """Read the obs columns that ``mapping`` names, one at a time, and tell the cells apart by them.

    Returns
    -------
    The kinds of cells, in order; their columns are fields of ``Mapping``, with "" where a label is missing.

    Raises
    ------
    MissingKeyError
        A required column is missing, or no column holds the cell type; the message lists the columns of obs.
    """
    has = column_names(obs)
    kinds = Kinds(n_rows(obs))
    found = set()
    for name in FIELDS:
        source = getattr(mapping, name)
        column = next((column for column in source.columns if column in has), None)
        if column is not None:
            kinds.add(name, _renamed(read_text(obs, column), mapping.rename.get(name, {})))
        elif source.value is not None:
            kinds.add_constant(name, source.value)
        elif source.required:
            raise _missing(name, source.columns, has, uri)
        else:
            continue
        found.add(name)
    if mapping.perturbation_also and FIELDS[2] not in found:
        raise _missing(FIELDS[2], mapping.perturbation.columns, has, uri)
    for number, column in enumerate(mapping.perturbation_also):
        if column not in has:
            raise _missing(FIELDS[2], (column,), has, uri)
        kinds.add(f"{_ALSO}{number}", read_text(obs, column))
    if not {"cell_type", "cell_type_id"} & found:
        tried = (*mapping.cell_type.columns, *mapping.cell_type_id.columns)
        raise _missing(FIELDS[0], tried, has, uri)
    kinds.in_order()
    return kinds


def harmonise(
    fields: dict[str, pd.Categorical],
    mapping: Mapping,
    *,
    dataset: str,
    resolvers: Resolvers,
    n_cells: NDArray[np.int64] | None = None,
) -> Harmonised:
    """Convert the fields of one file to ontology ids, canonical names and categories.

    Parameters
    ----------
    fields
        Field of ``Mapping`` -> text per kind of cells, "" where missing; from :func:`read_kinds`.
    dataset
        Name of the dataset if the mapping has no dataset column.
    n_cells
        Cells of each kind; None: one each.

    Returns
    -------
    Missing text is "". A label without a known term keeps its text as name, has no id, and is reported.

    Raises
    ------
    InvalidInputError
        No control among the perturbations, cells without a perturbation label, or an unknown perturbation type.
    """
    n_kinds = len(next(iter(fields.values())))
    weights = np.ones(n_kinds, dtype=np.int64) if n_cells is None else n_cells
    empty = constant_text("", n_kinds)
    named = recode(fields.get("dataset", empty), _known)
    datasets = safe_names((str(label) for label in named.unique()), default=dataset)
    text = {keys.DATASET: recode(named, lambda label: datasets.get(label, dataset))}
    notes = [
        f"dataset {label!r} is called {name} in the atlas"
        for label, name in datasets.items()
        if label not in {"", name}
    ]
    unmapped: list[Unmapped] = []
    for kind, resolver in (
        ("cell_type", resolvers.cell_type),
        ("tissue", resolvers.tissue),
        ("disease", resolvers.disease),
    ):
        ids, labels = fields.get(f"{kind}_id", empty), fields.get(kind, empty)
        terms, unknown, remarks = _terms(
            kind, ids, labels, n_cells=weights, resolver=resolver, is_below=resolvers.is_below
        )
        text |= terms
        unmapped += unknown
        notes += remarks
    if "perturbation" in fields:
        columns, read_as, treatments = _perturbations(fields, mapping, resolvers, n_cells=weights)
        text |= columns
        is_control, is_kept = read_as == CONTROL, read_as != LEFT_OUT
        unmapped += [
            Unmapped(kind="perturbation", label=one.label, n_cells=one.n_cells, nearest=one.nearest)
            for one in treatments
            if not one.is_known
        ]
    else:
        unstated = (keys.PERTURBATION_ORIGINAL, keys.PERTURBATION, keys.PERTURBATION_TYPE, keys.CONTROL_KIND)
        text |= dict.fromkeys(unstated, empty)
        is_control = is_kept = np.ones(n_kinds, dtype=bool)
        treatments = ()
    donors = recode(fields.get("donor", empty), lambda label: "" if is_unassigned(label) else label)
    text[keys.DONOR] = joined(text[keys.DATASET], donors, lambda name, donor: f"{name}:{donor}" if donor else "")
    text[keys.DONOR_SEX] = recode(fields.get("sex", empty), sex_category)
    text[keys.DONOR_AGE] = recode(fields.get("age", empty), age_category)
    text[keys.CONDITION] = recode(fields.get("condition", empty), _known)
    notes += _without_known_types(text, unmapped)
    return Harmonised(text, is_control, is_kept, weights, treatments, tuple(unmapped), datasets, tuple(notes))


def sex_category(text: str) -> str:
    """``female``, ``male`` or "" if unknown."""
    word = text.casefold()
    if word in {"f", "female", "w"}:
        return "female"
    return "male" if word in {"m", "male"} else ""


def age_category(text: str) -> str:
    """Age group of a number of years or a developmental stage; other texts are kept, unknown becomes "".

    Groups: prenatal, child (under 13), adolescent (13-17), young adult (18-39), middle aged (40-64), older adult.
    """
    word = _known(text).casefold()
    if any(stage in word for stage in ("fetal", "embryonic", "prenatal", "post-fertilization", "carnegie")):
        return "prenatal"
    if any(stage in word for stage in ("newborn", "infant", "month-old", "child")):
        return "child"
    if (years := re.match(r"(\d+(?:\.\d+)?)(?:\s*$|[\s-]*(?:year|yr|y\b))", word)) is None:
        return _known(text)
    limits = ((13, "child"), (18, "adolescent"), (40, "young adult"), (65, "middle aged"))
    return next((group for limit, group in limits if float(years[1]) < limit), "older adult")


def _known(text: str) -> str:
    return "" if text.casefold() in _UNKNOWN else text


def _without_known_types(text: dict[str, pd.Categorical], unmapped: list[Unmapped]) -> tuple[str, ...]:
    """A note if no label of the cell type column is known: probably the wrong column was given."""
    if not any(text[keys.CELL_TYPE_ID].categories):
        labels = [one for one in unmapped if one.kind == "cell_type"]
        shown = ", ".join(one.label for one in sorted(labels, key=lambda one: -one.n_cells)[:5]) or "empty"
        note = (
            f"no cell type is known to the ontology (0 of {len(labels)} labels; {shown}): questions find these cells "
            "by their label only. If another column holds the cell types, give it with cell_type_column; or map the "
            "labels to known types with `rename: {cell_type: {label: known name}}` in a YAML mapping"
        )
        return (note,)
    return ()


def _renamed(labels: pd.Categorical, names: dict[str, str]) -> pd.Categorical:
    return recode(labels, lambda text: names.get(text, text)) if names else labels


_COLUMNS = {
    "cell_type": (keys.CELL_TYPE_ORIGINAL, keys.CELL_TYPE_ID, keys.CELL_TYPE),
    "tissue": (keys.TISSUE_ORIGINAL, keys.TISSUE_ID, keys.TISSUE),
    "disease": ("", keys.DISEASE_ID, keys.DISEASE),
}


def _terms(
    kind: str,
    ids: pd.Categorical,
    labels: pd.Categorical,
    *,
    n_cells: NDArray[np.int64],
    resolver: Callable[[str], Resolution],
    is_below: Callable[[str, str], bool],
) -> tuple[dict[str, pd.Categorical], list[Unmapped], list[str]]:
    """Original label, id and name of one kind of term; an id in the file takes precedence over the label.

    Also the labels without a known term, and a note for each label that is read with a doubt or contradicts its id.
    """
    pairs, place = distinct_pairs(recode(ids, _known), labels)
    totals = count_codes(place, len(pairs), weights=n_cells)
    terms = [_term(kind, *pair, resolver=resolver, is_below=is_below) for pair in pairs]
    original, identity, name = _COLUMNS[kind]
    columns = {identity: spread([one.id for one in terms], place), name: spread([one.name for one in terms], place)}
    if original:
        columns[original] = spread([label or identifier for identifier, label in pairs], place)
    counted = list(zip(terms, totals.tolist(), strict=True))
    unmapped = [_unmapped(kind, one.label, count, one.found) for one, count in counted if one.found is not None]
    return columns, unmapped, _remarks(kind, counted)


def _remarks(kind: str, counted: list[tuple[_Term, int]]) -> list[str]:
    """Notes on labels that were read with a doubt, those of most cells first."""
    told = sorted(((count, one.remark) for one, count in counted if one.remark), key=lambda pair: -pair[0])
    notes = [f"{count} cells {remark}" for count, remark in told[:_MAX_REMARKS]]
    if more := len(told) - len(notes):
        notes.append(f"{more} more labels of {kind} are read with a remark, which `haystack resolve LABEL` shows")
    return notes


@dataclass(frozen=True)
class _Term:
    """What an id and a label mean together; ``found`` are the nearest terms where that is not known."""

    id: str
    name: str
    label: str
    found: Resolution | None
    remark: str = ""


def _term(
    kind: str,
    identifier: str,
    label: str,
    *,
    resolver: Callable[[str], Resolution],
    is_below: Callable[[str, str], bool],
) -> _Term:
    known_label = _known(label)
    asked = identifier or known_label
    found = resolver(asked) if asked else None
    match = certain(found)
    if match is None:
        shown = f"{label} ({identifier})" if identifier and label else asked
        return _Term(identifier, known_label or identifier, shown, found)
    if identifier and known_label:
        return _beside_id(kind, identifier, match, label, said=resolver(known_label), is_below=is_below)
    note = found.note if found else ""
    remark = f"labelled {label or identifier!r} are read as {match.name}: {note}" if note else ""
    return _Term(match.id, match.name, label, None, remark)


def _beside_id(
    kind: str, identifier: str, match: Match, label: str, *, said: Resolution, is_below: Callable[[str, str], bool]
) -> _Term:
    """What a known id and the label beside it mean: the id, unless the label says the same and more."""
    other = certain(said)
    if other is None or is_below(match.id, other.id):
        return _Term(match.id, match.name, label, None)
    if is_below(other.id, match.id) and not said.ambiguous:
        remark = (
            f"are labelled {label!r}, which says more than the id {identifier} ({match.name}): read as {other.name}"
        )
        return _Term(other.id, other.name, label, None, remark)
    remark = (
        f"are labelled {label!r} with the id {identifier}, which means {match.name}: the id is used; if the label "
        f"is right, give its column alone, without {kind}_id"
    )
    return _Term(match.id, match.name, label, None, remark)


def _unmapped(kind: str, label: str, n_cells: int, found: Resolution) -> Unmapped:
    near = [term.name for term in (found.match, *found.alternatives) if term is not None]
    return Unmapped(kind=kind, label=label, n_cells=n_cells, nearest=tuple(dict.fromkeys(near))[:3])


def _both(first: str, second: str) -> str:
    """Label of cells with a treatment in each of two columns: a control beside a treatment says nothing."""
    if is_unassigned(first) or is_unassigned(second):
        return first if is_unassigned(first) else second
    controls = control_words(first).is_control, control_words(second).is_control
    if controls[0] != controls[1]:
        return second if controls[0] else first
    return first if first == second else f"{first} + {second}"


def _perturbations(
    fields: dict[str, pd.Categorical], mapping: Mapping, resolvers: Resolvers, *, n_cells: NDArray[np.int64]
) -> tuple[dict[str, pd.Categorical], NDArray[np.str_], tuple[LabelRead, ...]]:
    """Original label, name, type and control of every kind, how it is read, and a row for the report per label."""
    labels = fields["perturbation"]
    for name, others in fields.items():
        if name.startswith(_ALSO):
            labels = joined(labels, others, _both)
    empty = constant_text("", len(labels))
    zero = joined(_zeros(fields.get("dose", empty)), _zeros(fields.get("time", empty)), _zero_of)
    beside = (fields.get("perturbation_type", empty), zero, recode(fields.get("vehicle", empty), _control_kind))
    rows, place = distinct_rows((labels, *beside))
    readings = read_treatments([Stated(*row) for row in rows], mapping, resolvers)
    columns = {
        keys.PERTURBATION_ORIGINAL: labels,
        keys.PERTURBATION: spread([one.name for one in readings], place),
        keys.PERTURBATION_TYPE: spread([one.type for one in readings], place),
        keys.CONTROL_KIND: spread([one.control for one in readings], place),
    }
    totals = count_codes(place, len(rows), weights=n_cells).tolist()
    read: dict[tuple[str, Reading], int] = {}
    for row, one, count in zip(rows, readings, totals, strict=True):
        read[row[0], one] = read.get((row[0], one), 0) + count
    order = (TREATED, CONTROL, LEFT_OUT)
    table = [
        LabelRead(
            label=label,
            read_as=one.read_as,
            name=one.name,
            type=one.type,
            control=one.control,
            n_cells=count,
            why=one.why,
            is_known=one.is_known,
            nearest=one.nearest,
        )
        for (label, one), count in read.items()
    ]
    table.sort(key=lambda one: (order.index(one.read_as), -one.n_cells, one.label))
    read_as = np.array([one.read_as for one in readings], dtype=str)[place]
    return columns, read_as, tuple(table)


def _zeros(amounts: pd.Categorical) -> pd.Categorical:
    return recode(amounts, lambda text: "0" if is_start(text) else "")


def _zero_of(dose: str, time: str) -> str:
    if dose:
        return "dose"
    return "time" if time else ""


def _control_kind(text: str) -> str:
    return "" if is_unassigned(text) else control_words(text).kind or text


def _missing(name: str, tried: tuple[str, ...], has: list[str], uri: str) -> MissingKeyError:
    msg = (
        f"{uri}: obs has no column for {name} (tried {', '.join(tried)}); it has {', '.join(has) or 'no columns'}. "
        f"Give the right one with {name}_column, or use another schema"
    )
    return MissingKeyError(msg, uri=uri, field=name, tried=list(tried), columns=has)
