"""Summarise the columns of one obs table, and find those that hold treatments which a mapping does not use.

In: an open h5ad. Out: a ``ColumnLook`` per column, of long text columns from the first rows only; or a refusal that
names the column, because treated cells that nobody reads as treated would silently become controls.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.atlas.labels import Kinds, distinct_rows, spread
from haystack_kernel.atlas.mapping import FIELDS
from haystack_kernel.atlas.sources.h5ad import read_text
from haystack_kernel.atlas.treatments import (
    CONTROL,
    LEFT_OUT,
    PERTURBATION_TYPES,
    TREATED,
    certain,
    is_start,
    is_zero,
)
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.column_words import (
    DOSE,
    LIKELY,
    MEASURES,
    OFTEN,
    SURE,
    TIME,
    has_word,
    is_plain_control,
    says_acted_on,
    split_key,
    words_of,
)
from haystack_kernel.knowledge.controls import control_words, hints_at_control, is_unassigned
from inference.h5 import as_texts, column_names, is_array, n_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.atlas.harmonise import Harmonised
    from haystack_kernel.atlas.mapping import Mapping
    from haystack_kernel.atlas.resolvers import Resolvers

_ROWS = 100_000
_MAX_LABELS = 5_000  # a column with more distinct texts holds barcodes, not labels
_TRIED = 150  # labels of one column that are looked up
_MAX_GROUPS = 60  # distinct labels of a column that nothing but its labels says to hold treatments
_CODE = re.compile(r"[\d.]+|true|false|yes|no|y|n", re.IGNORECASE)
_WORD = r"[A-Za-z0-9]"
NEVER = re.compile(r"ontology_term_id$|confidence|score|_source$")  # names of columns that are about another column

_TYPE_WORDS = frozenset({*PERTURBATION_TYPES, "chemical", "crispr", "small molecule", "knockout", "knock-out", "gene"})
_NOT_TREATED = {"cell_type", "cell_type_id", "tissue", "tissue_id", "disease", "disease_id", "sex", "age", "organism"}
_USED = {*_NOT_TREATED, "perturbation", "perturbation_type", "dose", "time", "vehicle"}


@dataclass(frozen=True)
class ColumnLook:
    """Summary of one obs column; ``labels`` are the most frequent first, without missing ones."""

    name: str
    labels: tuple[str, ...]
    is_numeric: bool
    known: dict[str, float]  # kind of term -> fraction of the labels that are known terms

    def shown(self, *, n: int = 4) -> str:
        """The first labels as text."""
        return ", ".join(self.labels[:n]) + (", …" if len(self.labels) > n else "")

    def all_match(self, pattern: str) -> bool:
        """Whether most labels match the pattern."""
        hits = sum(re.fullmatch(pattern, label) is not None for label in self.labels)
        return bool(self.labels) and hits > len(self.labels) / 2

    @property
    def words(self) -> frozenset[str]:
        """Words of the column's name, and of the key where every label has one: "treatment: LPS"."""
        said = {split_key(label)[0] for label in self.labels}
        return words_of(f"{self.name} {said.pop() if len(said) == 1 else ''}")

    @property
    def treated(self) -> tuple[str, ...]:
        """Labels that are neither controls nor missing nor zero, taken as labels of treatments."""
        return tuple(label for label in self.labels if is_treated(label))

    @property
    def holds_types(self) -> bool:
        """Whether the labels are types of treatments: "CRISPR", "drug"."""
        return bool(self.treated) and all(label.casefold() in _TYPE_WORDS for label in self.treated)

    @property
    def amount(self) -> str:
        """The text dose or time if the column holds one of these, by its name and its labels; else empty."""
        words, is_named = self.words, has_word(self.words, SURE) and not self.is_numeric
        if has_word(words, MEASURES) or is_named:
            return ""
        if has_word(words, TIME) and any(map(is_start, self.labels)):
            return "time"
        if not all(re.search(r"\d", label) for label in self.treated):
            return ""
        return "dose" if has_word(words, DOSE) else "time" if has_word(words, TIME) else ""

    def looks_like_treatments(self) -> bool:
        """Whether the column probably says how cells were treated, by its name and by its labels."""
        told, words = self.treated, self.words
        if NEVER.search(self.name.casefold()) or not told or has_word(words, MEASURES):
            return False
        if self.amount:
            starts = list(map(is_start, self.labels))
            return self.amount == "dose" or (any(starts) and not all(starts))
        if self.is_numeric or all(map(_CODE.fullmatch, self.labels)):
            return self._is_named(words) and len(self.labels) <= 20
        return not self._says_something_else() and (self._named_so(words, told) or self._labelled_so(told))

    def _is_named(self, words: frozenset[str]) -> bool:
        """Whether the name is one of treatments, whatever the labels are."""
        return has_word(words, SURE) or (has_word(words, OFTEN) and len(self.labels) > 1)

    def _says_something_else(self) -> bool:
        """Whether the labels are cell types, diseases, tissues or types of treatments."""
        disease = 0.0 if any(map(is_plain_control, self.labels)) else self.known["disease of the others"] + 0.01
        elsewhere = max(self.known["cell_type"], self.known["tissue"], disease)  # cells that were infected, or patients
        return elsewhere > 0.5 or self.holds_types

    def _named_so(self, words: frozenset[str], told: tuple[str, ...]) -> bool:
        """Whether the name says treatments; an unsure one only beside labels that bear it out."""
        if self._is_named(words):
            return True
        has_control = any(control_words(one).is_control or hints_at_control(one) for one in self.labels)
        known = self.known["perturbation"]
        if has_word(words, LIKELY) and (has_control or known >= 0.5):
            return True
        return known >= 0.3 if has_control else known >= 0.8 and len(told) > 1

    def _labelled_so(self, told: tuple[str, ...]) -> bool:
        """Whether labels of an experiment say so themselves, whatever the column is called."""
        is_group = 1 < len(self.labels) <= _MAX_GROUPS
        return is_group and (any(map(is_plain_control, self.labels)) or any(map(says_acted_on, told)))


def look_at_obs(obs: h5py.Group, names: Sequence[str], *, resolvers: Resolvers) -> list[ColumnLook]:
    """Summarise those of the columns that hold labels, not barcodes or measured values."""
    looks = []
    for name in names:
        labels, is_numeric = _labels(obs, name)
        if len(labels) <= _MAX_LABELS:
            looks.append(ColumnLook(name, labels, is_numeric, {} if is_numeric else _known(labels, resolvers)))
    return looks


def controls_among(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that mean untreated: "control", "vehicle (DMSO)", "NT"; "none" only where there is no other."""
    sure = tuple(label for label in labels if control_words(label).is_control and not is_unassigned(label))
    return sure or tuple(label for label in labels if label.casefold() in {"none", "no"})


def is_treated(label: str) -> bool:
    """Whether a label, taken as that of a treatment, is neither a control nor missing nor zero."""
    return not (control_words(label).is_control or is_unassigned(label) or is_zero(label) or label == "0")


def check_unused(
    obs: h5py.Group,
    mapping: Mapping,
    columns: Harmonised,
    *,
    kind_of: NDArray[np.int32],
    resolvers: Resolvers,
    uri: str,
) -> tuple[str, ...]:
    """Refuse a file of which a column that the mapping does not use says that control cells were treated.

    Parameters
    ----------
    obs
        The stored obs.
    mapping
        The columns that are used; ``ignore`` and ``unperturbed`` say that the others hold no treatments.
    columns
        What was read with it.
    kind_of
        Kind of each cell, a place in the arrays of ``columns``.

    Returns
    -------
    Notes on columns that tell treated cells apart and are not used.

    Raises
    ------
    InvalidInputError
        A column holds treatments and no column of treatments is named; or it contradicts the one that is.
    """
    if mapping.unperturbed:
        return ()
    others = [name for name in column_names(obs) if name not in _used(mapping)]
    looks = [look for look in look_at_obs(obs, others, resolvers=resolvers) if look.looks_like_treatments()]
    if looks and not columns.treatments:
        raise _unread(looks, uri)
    notes = []
    for look in looks:
        seen = _seen(read_text(obs, look.name), columns, kind_of)
        notes.append(_check_beside(look, seen, resolvers=resolvers, uri=uri))
    return tuple(note for note in notes if note)


def _used(mapping: Mapping) -> set[str]:
    """Columns that are read as treatments or as something that no treatment is."""
    named = {column for field in FIELDS if field in _USED for column in getattr(mapping, field).columns}
    return {*named, *mapping.ignore, *mapping.perturbation_also}


def _unread(looks: list[ColumnLook], uri: str) -> InvalidInputError:
    looks = sorted(looks, key=lambda look: (look.amount, not has_word(look.words, SURE)))
    told = "; ".join(f"{look.name!r} ({look.shown()})" for look in looks[:6])
    first = looks[0].name
    msg = (
        f"{uri}: no column of treatments is named, so every cell would be an unperturbed control, but obs has "
        f"{'columns that look' if len(looks) > 1 else 'a column that looks'} like treatments: {told}. Name it with "
        f"--perturbation-column {first} (`perturbation: {first}` in a YAML mapping; `haystack atlas init` drafts one). "
        f"If it says nothing about treatments, give --not-treatment {first} (`ignore: [{first}]`); if no cell was "
        "treated, --all-unperturbed (`unperturbed: true`)"
    )
    return InvalidInputError(msg, uri=uri, columns=[look.name for look in looks])


def _check_beside(look: ColumnLook, seen: list[_Seen], *, resolvers: Resolvers, uri: str) -> str:
    """Compare a column that looks like treatments with the treatments that were read; a note, or "" if they agree."""
    treated = [row for row in seen if row.read_as == TREATED]
    if look.amount:
        return _check_amounts(look, treated, uri)
    _check_controls(look, [row for row in seen if row.read_as == CONTROL], resolvers=resolvers, uri=uri)
    return _check_factors(look, treated, uri)


def _check_controls(look: ColumnLook, controls: list[_Seen], *, resolvers: Resolvers, uri: str) -> None:
    """Refuse controls that the column calls treated."""
    often = Counter(row.original for row in controls)
    beside = [row for row in controls if is_treated(row.label)]
    known = {row.label for row in beside if certain(resolvers.perturbation(row.label)) is not None}
    # one other name of a control, such as its catalogue number, is no treatment
    if wrong := [row for row in beside if often[row.original] > 1 or row.label in known]:
        raise _contradiction(look, wrong, uri)


def _seen(labels: pd.Categorical, columns: Harmonised, kind_of: NDArray[np.int32]) -> list[_Seen]:
    """The combinations of a treatment and of a label of another column that cells have."""
    text = columns.text
    read_as = spread([LEFT_OUT, TREATED, CONTROL], np.where(columns.is_control, 2, columns.is_kept).astype(np.int32))
    rows, place = distinct_rows((text[keys.PERTURBATION_ORIGINAL], text[keys.PERTURBATION], read_as))
    kinds = Kinds(len(kind_of))
    kinds.add("row", pd.Categorical.from_codes(place[kind_of], categories=pd.Index(range(len(rows)), dtype=object)))
    kinds.add("label", labels)
    found = zip(*kinds.fields().values(), kinds.n_cells().tolist(), strict=True)
    seen = []
    for row, label, count in found:
        original, treatment, read = rows[row]
        seen.append(_Seen(original, treatment, read, str(label), count))
    return seen


class _Seen(NamedTuple):
    """Cells with one label of treatment, as written and as read, and one label of another column."""

    original: str
    treatment: str
    read_as: str
    label: str
    n_cells: int


def _contradiction(look: ColumnLook, rows: list[_Seen], uri: str) -> InvalidInputError:
    labels = list(dict.fromkeys(row.label for row in rows))
    controls = list(dict.fromkeys(row.original for row in rows))
    name = look.name
    msg = (
        f"{uri}: {sum(row.n_cells for row in rows)} cells that would be controls ({', '.join(controls[:4])}) are "
        f"{', '.join(labels[:4])} in column {name!r}, which the mapping does not use. If it holds treatments as well, "
        f"give it with --perturbation-also {name} (`perturbation_also: [{name}]`); if it says nothing about "
        f"treatments, --not-treatment {name} (`ignore: [{name}]`)"
    )
    return InvalidInputError(msg, uri=uri, column=name, labels=labels)


def _check_amounts(look: ColumnLook, treated: list[_Seen], uri: str) -> str:
    """Refuse treated cells at dose or time 0; name the other doses and times, which are one treatment."""
    field = look.amount
    before = [row for row in treated if is_start(row.label)]
    if before:
        zero = sum(row.n_cells for row in before)
        msg = (
            f"{uri}: column {look.name!r} is {before[0].label} in {zero} cells that count as treated. Give it with "
            f"--{field}-column {look.name} (`{field}: {look.name}`), so that these are controls; or "
            f"--not-treatment {look.name} (`ignore: [{look.name}]`) if it says nothing about treatments"
        )
        raise InvalidInputError(msg, uri=uri, column=look.name)
    values = list(dict.fromkeys(row.label for row in treated if row.label))
    if len(values) < 2:
        return ""
    more = ", …" if len(values) > 6 else ""
    return f"treated cells with different values of {look.name} ({', '.join(values[:6])}{more}) are one treatment"


def _check_factors(look: ColumnLook, treated: list[_Seen], uri: str) -> str:
    """Refuse a second treatment beside the one that was read, if it is a known one; else say that it is not used."""
    treatments_of: dict[str, set[str]] = {}
    labels_of: dict[str, set[str]] = {}
    for row in treated:
        treatments_of.setdefault(row.label, set()).add(row.treatment)
        labels_of.setdefault(row.treatment, set()).add(row.label)
    # labels of several treatments are no names of theirs, as guides are; nor are control and treatment in one of them
    crossed = {label for label, found in treatments_of.items() if is_treated(label) and len(found) > 1}
    mixed = [
        name
        for name, found in labels_of.items()
        if len(found) > 1 and (found & crossed or len(set(map(is_treated, found))) > 1)
    ]
    if not mixed:
        return ""
    told = f"cells treated with {mixed[0]} have different labels in column {look.name!r} ({look.shown()})"
    if not look.is_numeric and look.known["perturbation"] >= 0.5:
        msg = (
            f"{uri}: {told}, which the mapping does not use. If it is a second treatment, give it with "
            f"--perturbation-also {look.name} (`perturbation_also: [{look.name}]`); if not, with --not-treatment "
            f"{look.name} (`ignore: [{look.name}]`)"
        )
        raise InvalidInputError(msg, uri=uri, column=look.name)
    return f"{told}, which is not used: they count as one treatment"


def _labels(obs: h5py.Group, name: str) -> tuple[tuple[str, ...], bool]:
    """Distinct labels, most frequent first and without missing ones, and whether they are numbers."""
    texts, counts, is_numeric = _count_labels(obs, name)
    order = np.argsort(-counts, kind="stable")
    return tuple(texts[at] for at in order if counts[at] and texts[at]), is_numeric


def _count_labels(obs: h5py.Group, name: str) -> tuple[list[str], NDArray[np.int64], bool]:
    """Distinct labels, how often each occurs, and whether they are numbers; long columns are read in part."""
    node = obs[name]
    if isinstance(node, h5py.Group) and {"categories", "codes"} <= set(node) and is_array(node["categories"]):
        texts = _texts(node["categories"][:])
        codes = node["codes"][: min(n_rows(obs), 20 * _ROWS)]
        counts = np.bincount(codes[codes >= 0], minlength=len(texts))
        return texts, counts, node["categories"].dtype.kind in "iuf"
    is_coded = not is_array(obs) and name in obs.get("__categories", ())  # anndata 0.7
    if isinstance(node, h5py.Dataset) and not is_coded and node.ndim == 1 and node.dtype.kind in "OSiufb":
        distinct, counts = np.unique(np.array(_texts(node[:_ROWS]), dtype=str), return_counts=True)
        return distinct.tolist(), counts, node.dtype.kind in "iuf"
    whole = read_text(obs, name)
    texts = [str(text) for text in whole.categories]
    is_numeric = all(re.fullmatch(r"-?\d+(\.\d+)?", text) for text in texts if text)
    return texts, np.bincount(whole.codes, minlength=len(texts)), is_numeric


def _texts(values: Any) -> list[str]:  # noqa: ANN401 - an array of h5py
    texts = [str(one) for one in as_texts(values).tolist()]
    return [text.strip() for text in texts]


def _known(labels: tuple[str, ...], resolvers: Resolvers) -> dict[str, float]:
    tried = [label for label in labels[:_TRIED] if re.search(_WORD, label)]
    controls = set(controls_among(tried))
    treated = [label for label in tried if label not in controls and is_treated(label)]
    return {
        "cell_type": _fraction(tried, resolvers.cell_type),
        "perturbation": _fraction(treated, resolvers.perturbation),
        "tissue": _fraction(tried, resolvers.tissue),
        "disease": _fraction(tried, resolvers.disease),
        "disease of the others": _fraction(treated, resolvers.disease),  # without "healthy" and "control"
    }


def _fraction(labels: list[str], resolver: Any) -> float:  # noqa: ANN401 - one of Resolvers
    if not labels:
        return 0.0
    return sum(certain(resolver(label)) is not None for label in labels) / len(labels)
