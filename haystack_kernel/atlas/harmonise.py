"""Harmonise the columns of one file: ontology ids, canonical names, controls, prefixed donors.

In: obs columns as categoricals, a ``Mapping``, functions that resolve a label. Out: the columns of cells.parquet and
the labels without a known term. Each distinct label is resolved once, not once per cell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel import keys
from haystack_kernel.atlas.labels import distinct_pairs, joined, recode, spread
from haystack_kernel.atlas.mapping import FIELDS
from haystack_kernel.atlas.record import Unmapped
from haystack_kernel.atlas.sources.h5ad import constant_text, read_text
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from inference.h5 import column_names, n_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import h5py
    import pandas as pd
    from numpy.typing import NDArray

    from haystack_kernel.atlas.mapping import Mapping
    from haystack_kernel.schema import Match, Resolution

PERTURBATION_TYPES = ("cytokine", "drug", "genetic")
_UNKNOWN = {"", "na", "n/a", "none", "null", "unknown", "not available"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Resolvers:
    """Functions from a label to a known term; ``perturbation_type`` maps a canonical name to its type or ""."""

    cell_type: Callable[[str], Resolution]
    perturbation: Callable[[str], Resolution]
    tissue: Callable[[str], Resolution]
    disease: Callable[[str], Resolution]
    perturbation_type: Callable[[str], str]


@dataclass(frozen=True)
class Harmonised:
    """Text columns by their names in :mod:`haystack_kernel.keys`, which cells are controls, and what to report."""

    text: dict[str, pd.Categorical]
    is_control: NDArray[np.bool_]
    unmapped: tuple[Unmapped, ...]
    notes: tuple[str, ...] = ()


def read_fields(obs: h5py.Group, mapping: Mapping, *, uri: str) -> dict[str, pd.Categorical]:
    """Read the obs columns that ``mapping`` names, one at a time.

    Raises
    ------
    MissingKeyError
        A required column is missing, or no column holds the cell type; the message lists the columns of obs.
    """
    has = column_names(obs)
    fields: dict[str, pd.Categorical] = {}
    for name in FIELDS:
        source = getattr(mapping, name)
        column = next((column for column in source.columns if column in has), None)
        if column is not None:
            fields[name] = _renamed(read_text(obs, column), mapping.rename.get(name, {}))
        elif source.value is not None:
            fields[name] = constant_text(source.value, n_rows(obs))
        elif source.required:
            raise _missing(name, source.columns, has, uri)
    if not {"cell_type", "cell_type_id"} & set(fields):
        tried = (*mapping.cell_type.columns, *mapping.cell_type_id.columns)
        raise _missing(FIELDS[0], tried, has, uri)
    return fields


def harmonise(fields: dict[str, pd.Categorical], mapping: Mapping, *, dataset: str, resolvers: Resolvers) -> Harmonised:
    """Convert the fields of one file to ontology ids, canonical names and categories.

    Parameters
    ----------
    fields
        Field of ``Mapping`` -> text per cell, "" where missing; from :func:`read_fields`.
    dataset
        Name of the dataset if the mapping has no dataset column.

    Returns
    -------
    Missing text is "". A label without a known term keeps its text as name, has no id, and is reported.

    Raises
    ------
    InvalidInputError
        No control among the perturbations, cells without a perturbation label, or an unknown perturbation type.
    """
    n_cells = len(next(iter(fields.values())))
    empty = constant_text("", n_cells)
    text = _datasets(fields.get("dataset"), dataset, n_cells)
    unmapped: list[Unmapped] = []
    for kind, resolver in (
        ("cell_type", resolvers.cell_type),
        ("tissue", resolvers.tissue),
        ("disease", resolvers.disease),
    ):
        ids, labels = fields.get(f"{kind}_id", empty), fields.get(kind, empty)
        terms, unknown = _terms(kind, ids, labels, resolver)
        text |= terms
        unmapped += unknown
    if "perturbation" in fields:
        controls = _controls(fields["perturbation"], mapping)
        types = fields.get("perturbation_type", empty)
        treatments, unknown = _perturbations(fields["perturbation"], types, controls, resolvers)
        text |= treatments
        unmapped += unknown
        labels = fields["perturbation"]
        is_control = np.array([str(label) in controls for label in labels.categories], dtype=bool)[labels.codes]
    else:
        text |= dict.fromkeys((keys.PERTURBATION_ORIGINAL, keys.PERTURBATION, keys.PERTURBATION_TYPE), empty)
        is_control = np.ones(n_cells, dtype=bool)
    donors = recode(fields.get("donor", empty), _known)
    text[keys.DONOR] = joined(text[keys.DATASET], donors, lambda name, donor: f"{name}:{donor}" if donor else "")
    text[keys.DONOR_SEX] = recode(fields.get("sex", empty), sex_category)
    text[keys.DONOR_AGE] = recode(fields.get("age", empty), age_category)
    text[keys.CONDITION] = recode(fields.get("condition", empty), _known)
    return Harmonised(text, is_control, tuple(unmapped), _without_known_types(text, unmapped))


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


def _datasets(named: pd.Categorical | None, default: str, n_cells: int) -> dict[str, pd.Categorical]:
    if named is None:
        return {keys.DATASET: constant_text(default, n_cells)}
    return {keys.DATASET: recode(named, lambda text: _UNSAFE.sub("_", text).strip("_.-") or default)}


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
    kind: str, ids: pd.Categorical, labels: pd.Categorical, resolver: Callable[[str], Resolution]
) -> tuple[dict[str, pd.Categorical], list[Unmapped]]:
    """Original label, id and name of one kind of term; an id in the file takes precedence over the label."""
    pairs, place = distinct_pairs(recode(ids, _known), labels)
    n_cells = np.bincount(place, minlength=len(pairs))
    originals: list[str] = []
    found_ids: list[str] = []
    found_names: list[str] = []
    unmapped: list[Unmapped] = []
    for (identifier, label), count in zip(pairs, n_cells, strict=True):
        known_label = _known(label)
        asked = identifier or known_label
        found = resolver(asked) if asked else None
        match = _exact(found)
        found_id, found_name = (match.id, match.name) if match else (identifier, known_label or identifier)
        originals.append(label or identifier)
        found_ids.append(found_id)
        found_names.append(found_name)
        if found is not None and match is None:
            shown = f"{label} ({identifier})" if identifier and label else asked
            unmapped.append(_unmapped(kind, shown, int(count), found))
    original, identity, name = _COLUMNS[kind]
    columns = {identity: spread(found_ids, place), name: spread(found_names, place)}
    if original:
        columns[original] = spread(originals, place)
    return columns, unmapped


def _exact(found: Resolution | None) -> Match | None:
    """The match if it is certain: a fuzzy one would turn CD4 into CD8, or IL-17A into IL-17F."""
    if found is None or found.match is None or found.match.how == "fuzzy":
        return None
    return found.match


def _unmapped(kind: str, label: str, n_cells: int, found: Resolution) -> Unmapped:
    near = [term.name for term in (found.match, *found.alternatives) if term is not None]
    return Unmapped(kind=kind, label=label, n_cells=n_cells, nearest=tuple(dict.fromkeys(near))[:3])


def _controls(labels: pd.Categorical, mapping: Mapping) -> frozenset[str]:
    """The labels of the file that mean untreated."""
    known = {text.strip().casefold() for text in mapping.control}
    present = {str(label) for label in labels.unique()}
    controls = frozenset(label for label in present if label.casefold() in known)
    shown = ", ".join(sorted(present - {""})[:12])
    if "" in present - controls:
        msg = (
            f"some cells have no perturbation label; the others have {shown or 'none either'}. Fill in the label, or "
            "add the empty text to the controls if these cells are untreated"
        )
        raise InvalidInputError(msg, labels=sorted(present))
    if mapping.control and not controls:
        msg = (
            f"no cell is a control: the perturbation labels are {shown}; controls are {', '.join(mapping.control)}. "
            "Give the control labels with control=[…], or an empty list if the file holds treated cells only"
        )
        raise InvalidInputError(msg, labels=sorted(present), control=list(mapping.control))
    return controls


def _perturbations(
    labels: pd.Categorical, types: pd.Categorical, controls: frozenset[str], resolvers: Resolvers
) -> tuple[dict[str, pd.Categorical], list[Unmapped]]:
    """Original label, canonical name and type; name and type are "" for controls."""
    pairs, place = distinct_pairs(labels, types)
    n_cells = np.bincount(place, minlength=len(pairs))
    names: list[str] = []
    kinds: list[str] = []
    unmapped: list[Unmapped] = []
    for (label, kind), count in zip(pairs, n_cells, strict=True):
        if label in controls:
            names.append("")
            kinds.append("")
            continue
        stated = _stated_type(kind)
        found = resolvers.perturbation(label)
        match = _exact(found)
        known_type = resolvers.perturbation_type(match.id) if match else ""
        is_other = bool(stated and known_type and stated != known_type)  # a knock-out of TNF is not TNF
        if match is not None and not is_other:
            names.append(match.id)
            kinds.append(stated or known_type)
            continue
        names.append(label)
        kinds.append(stated)
        if stated != "genetic":  # any gene may be knocked out, so no table lists these labels
            unmapped.append(_unmapped("perturbation", label, int(count), found))
    columns = {
        keys.PERTURBATION_ORIGINAL: labels,
        keys.PERTURBATION: spread(names, place),
        keys.PERTURBATION_TYPE: spread(kinds, place),
    }
    return columns, unmapped


def _stated_type(kind: str) -> str:
    """The type of a perturbation that the file states; "" if it states none."""
    stated = _known(kind).casefold()
    if stated and stated not in PERTURBATION_TYPES:
        msg = f"perturbation type {kind!r} is unknown; possible: {', '.join(PERTURBATION_TYPES)}"
        raise InvalidInputError(msg, type=kind)
    return stated


def _missing(name: str, tried: tuple[str, ...], has: list[str], uri: str) -> MissingKeyError:
    msg = (
        f"{uri}: obs has no column for {name} (tried {', '.join(tried)}); it has {', '.join(has) or 'no columns'}. "
        f"Give the right one with {name}_column, or use another schema"
    )
    return MissingKeyError(msg, uri=uri, field=name, tried=list(tried), columns=has)
