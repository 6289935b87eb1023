"""What an assistant is shown of texts that users, atlases and papers wrote: known names, short names, else keys.

A label of an atlas, a donor, a gene set or a stored question may hold sentences that a language model would follow. So
a known term is shown by its canonical name, a short plain name as it is, and anything else as a key such as
``cell-type-3f2a91c0`` that says nothing. Sentences are delimited, with the same keys in place of such labels.

In: labels and sentences. Out: text that carries no instruction of theirs.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Literal, get_args

from haystack_kernel.knowledge import load_knowledge, resolve
from haystack_kernel.schema import TermKind
from haystack_kernel.texts import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from haystack_kernel.schema import CellSet, Round, RunRecord, StructuredQuery, Truth

LabelKind = Literal[
    "cell_type", "perturbation", "tissue", "disease", "donor", "dataset", "condition", "pathway", "gene"
]
DATA, END_OF_DATA = "<data>", "</data>"
_MARKS = re.compile(r"<\s*/?\s*data\s*>", re.IGNORECASE)
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")  # would hide a mark from this code alone
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+/():_-]{0,31}")  # no space: a short name, never a sentence
_WORDS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")  # also those that are written together
_MOST_WORDS = 3
_MOST_TEXT = 600
_MOST_COMMAS = 4  # within the name of a cell type
_CERTAIN = 0.98  # a name or a synonym; below it a label was only read as the term


def delimited(text: str, *, most: int = _MOST_TEXT) -> str:
    """Put a text between marks that it cannot hold itself, on one line, cut to ``most`` characters."""
    line = visible(_UNSEEN.sub("", " ".join(text.split())))
    while _MARKS.search(line):  # what is left when a mark is taken out may be one again
        line = _MARKS.sub("", line)
    return f"{DATA}{line if len(line) <= most else f'{line[: most - 1]}…'}{END_OF_DATA}"


def is_plain(text: str) -> bool:
    """Whether a label is a short name of at most three words, which can carry no instruction."""
    return _PLAIN.fullmatch(text) is not None and len(_WORDS.findall(text)) <= _MOST_WORDS


def opaque(text: str, *, kind: LabelKind) -> str:
    """Return the key that stands for a label: equal for equal labels, and telling nothing of it."""
    return f"{kind.replace('_', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class Labels:
    """Turns labels into what an assistant is shown. One is kept for long, since known terms are looked up once."""

    def __init__(self) -> None:
        self._packaged = load_knowledge()  # not the tables that users add: these are data as well
        self._shown: dict[tuple[str, str], str] = {}

    def name(self, text: str | None, *, kind: LabelKind) -> str:
        """The canonical name of a known term, a short plain name as it is, or a key; empty for nothing."""
        if not text:
            return ""
        found = self._shown.get((text, kind))
        if found is None:
            found = self._shown[text, kind] = self._look_up(text, kind=kind)
        return found

    def _look_up(self, text: str, *, kind: LabelKind) -> str:
        if kind == "pathway" and text in self._packaged.pathways:
            return text
        if kind in get_args(TermKind) and kind not in ("donor", "dataset") and len(text) <= 200:
            match = resolve(text, kind=kind, knowledge=self._packaged).match  # type: ignore[arg-type]
            if match is not None and match.score >= _CERTAIN:
                return match.name
        return text if is_plain(text) else opaque(text, kind=kind)

    def sentences(self, given: Mapping[LabelKind, Iterable[str]]) -> Sentences:
        """Make what shows sentences in which these labels may stand."""
        keys = {
            text: shown
            for kind, texts in given.items()
            for text in texts
            if text and not is_plain(text) and (shown := self.name(text, kind=kind)) != text
        }
        return Sentences(keys)

    def of(self, record: RunRecord) -> dict[LabelKind, set[str]]:
        """Every label that the record of a run holds and a sentence about it may repeat."""
        sets = [item.prompt for item in record.candidates]
        sets += [item.control for item in record.candidates if item.control is not None]
        sets += [record.query_set] if record.query_set is not None else []
        found: dict[LabelKind, set[str]] = {kind: set() for kind in get_args(LabelKind)}
        for one in sets:
            self._add_cells(one, found)
        found["condition"].add(record.question)
        asked = _asked(record.query) if record.query is not None else {}
        return together(found, asked, *map(_judged, record.rounds), *map(_measured, record.truth))

    def _add_cells(self, one: CellSet, found: dict[LabelKind, set[str]]) -> None:
        found["dataset"].add(one.dataset)
        found["perturbation"].add(one.perturbation or "")
        found["cell_type"] |= {*self.parts(one.label), *one.cell_type_names}
        found["condition"] |= set(one.control_kinds)
        found["donor"] |= {name for donor in one.donor_ids for name in (donor, donor.rpartition(":")[2])}

    def parts(self, label: str) -> list[str]:
        """The names in a label of cells, which are separated by commas and may hold commas themselves."""
        pieces, found = label.split(", ") if label else [], []
        while pieces:
            joined = (", ".join(pieces[:n]) for n in range(min(len(pieces), _MOST_COMMAS + 1), 1, -1))
            name = next((text for text in joined if self.name(text, kind="cell_type") == text), pieces[0])
            found.append(name)
            pieces = pieces[name.count(", ") + 1 :]
        return found


class Sentences:
    """Shows sentences that were made of labels: delimited, with what :class:`Labels` shows in their place."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = {" ".join(text.split()): shown for text, shown in keys.items()}
        longest_first = sorted(self._keys, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def say(self, text: str, *, most: int = _MOST_TEXT) -> str:
        """One sentence or more."""
        line = " ".join(text.split())
        if self._found is not None:
            line = self._found.sub(lambda found: self._keys[found.group()], line)
        return delimited(line, most=most)


def _judged(one: Round) -> dict[LabelKind, set[str]]:
    """Every label that a round was judged by."""
    trust = one.confidence
    return {
        "gene": set(one.top_genes),
        "perturbation": set(trust.twins) if trust else set(),
        "donor": {part.name for part in trust.without} if trust else set(),
    }


def _measured(one: Truth) -> dict[LabelKind, set[str]]:
    """Every label of a measured response that a prediction was held against."""
    return {"condition": {one.label, one.pair}}


def _asked(query: StructuredQuery) -> dict[LabelKind, set[str]]:
    """Every label that a question was read as, and the words of it that a sentence may repeat."""
    treatment = query.perturbation
    given: dict[LabelKind, tuple[str | None, ...]] = {
        "condition": (query.condition, *query.unused),
        "cell_type": (query.cell_type_text, query.cell_type_name),
        "dataset": (query.reference_dataset, query.target_dataset),
        "donor": (query.donor_id, query.reference_donor),
        "tissue": (query.tissue_name,),
        "disease": (query.disease_name,),
        "pathway": tuple(query.expected_pathways),
        "perturbation": (treatment.text, treatment.name) if treatment is not None else (),
    }
    return {kind: {text for text in texts if text} for kind, texts in given.items()}


def labels_in(conditions: pd.DataFrame) -> dict[LabelKind, set[str]]:
    """Every label of the conditions of atlases, see :meth:`haystack_kernel.ports.Atlas.conditions`."""
    columns: dict[str, LabelKind] = {
        "dataset": "dataset",
        "cell_type_name": "cell_type",
        "perturbation_name": "perturbation",
        "tissue_name": "tissue",
        "disease_name": "disease",
        "donor_id": "donor",
        "sample_condition": "condition",
        "control_kind": "condition",
    }
    found: dict[LabelKind, set[str]] = {kind: set() for kind in get_args(LabelKind)}
    for column, kind in columns.items():
        if column in conditions:
            found[kind] |= {str(text) for text in conditions[column].unique() if text}
    found["donor"] |= {name.rpartition(":")[2] for name in found["donor"]}
    return found


def together(*given: Mapping[LabelKind, Iterable[str]]) -> dict[LabelKind, set[str]]:
    """Labels of several sources as one."""
    found: dict[LabelKind, set[str]] = {kind: set() for kind in get_args(LabelKind)}
    for one in given:
        for kind, texts in one.items():
            found[kind] |= set(texts)
    return found


def without_nothing(value: dict[str, Any]) -> dict[str, Any]:
    """The same without what is empty, so that an answer stays small; False and 0 are kept."""
    return {name: item for name, item in value.items() if item is not None and item not in ("", [], {}, ())}
