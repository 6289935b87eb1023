"""All names of one kind of term, findable under every way of writing them.

In: a ``Knowledge`` and a kind. Out: an ``Index`` from keys to terms, built once per table set.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import normalise
from haystack_kernel.schema import Match

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from haystack_kernel.knowledge.normalise import Word
    from haystack_kernel.knowledge.tables import CellType, Disease, Knowledge, PerturbationEntry, Tissue
    from haystack_kernel.schema import TermKind

NAME_SCORE = 1.0
SYNONYM_SCORE = 0.98


@dataclass(frozen=True)
class Surface:
    """One way a term is written in the tables."""

    id: str
    text: str
    is_name: bool
    words: tuple[Word, ...]

    @property
    def key(self) -> str:
        """Its spaced key."""
        return normalise.spaced_key(list(self.words))


@dataclass(frozen=True, eq=False)
class Index:
    """Terms of one kind by key; the four maps go from strict to lenient."""

    kind: TermKind
    names: Mapping[str, str]  # id -> canonical name
    ids: Mapping[str, str]  # id or external id in lower case -> id
    spaced: Mapping[str, tuple[Surface, ...]]
    compact: Mapping[str, tuple[Surface, ...]]
    bare: Mapping[str, tuple[Surface, ...]]
    bag: Mapping[str, tuple[Surface, ...]]
    families: Mapping[str, tuple[str, ...]]  # spaced key of a family -> ids of its members
    surfaces: tuple[Surface, ...]
    vocabulary: frozenset[str]  # every word of every name

    @property
    def fold_greek(self) -> bool:
        """Whether TGF-beta may be written TGFb; for cells it may not: a beta cell is no B cell."""
        return self.kind == "perturbation"

    def match(self, surface: Surface, *, lenient: bool = False) -> Match:
        """Describe a hit; ``lenient`` where more than the writing differed."""
        is_name = surface.is_name and not lenient
        score, how = (NAME_SCORE, "name") if is_name else (SYNONYM_SCORE, "synonym")
        return Match.model_validate({"id": surface.id, "name": self.names[surface.id], "score": score, "how": how})

    def close(self, term: str, *, score: float) -> Match:
        """Describe a term that is near, not equal."""
        return Match(id=term, name=self.names[term], score=round(score, 4), how="fuzzy")


@functools.lru_cache(maxsize=32)
def index_of(kind: TermKind, *, knowledge: Knowledge) -> Index:
    """The index of one kind; empty for donors and datasets, which no table lists."""
    entries = _entries(kind, knowledge=knowledge)
    surfaces = [
        Surface(term, text, text == entry.name, tuple(normalise.split_words(text)))
        for term, entry in entries.items()
        for text in (entry.name, *entry.synonyms)
    ]
    fold = kind == "perturbation"
    families: dict[str, list[str]] = defaultdict(list)
    ids = {} if fold else {term.lower(): term for term in entries}
    for term, entry in knowledge.perturbations.items() if fold else ():
        families[normalise.spaced_key(normalise.split_words(entry.family))].append(term)
        ids.update({value.lower(): term for value in entry.external_ids.values()})
    keys = [list(surface.words) for surface in surfaces]
    return Index(
        kind=kind,
        names={term: entry.name for term, entry in entries.items()},
        ids=ids,
        spaced=_group(zip(map(normalise.spaced_key, keys), surfaces, strict=True)),
        compact=_group((normalise.compact_key(k, fold_greek=fold), s) for k, s in zip(keys, surfaces, strict=True)),
        bare=_group(
            (key, surface)
            for surface, words in zip(surfaces, keys, strict=True)
            if len(key := normalise.bare_key(words, fold_greek=fold)) > 1 or surface.is_name  # B and T, not M
        ),
        bag=_group((normalise.bag_key(k, fold_greek=fold), s) for k, s in zip(keys, surfaces, strict=True)),
        families={family: tuple(members) for family, members in families.items() if family and len(members) > 1},
        surfaces=tuple(surfaces),
        vocabulary=frozenset(word.norm for words in keys for word in words),
    )


def _entries(
    kind: TermKind, *, knowledge: Knowledge
) -> Mapping[str, CellType] | Mapping[str, PerturbationEntry] | Mapping[str, Tissue] | Mapping[str, Disease]:
    if kind == "cell_type":
        return knowledge.cell_types
    if kind == "perturbation":
        return knowledge.perturbations
    if kind == "tissue":
        return knowledge.tissues
    return knowledge.diseases if kind == "disease" else {}


def _group(pairs: Iterable[tuple[str, Surface]]) -> dict[str, tuple[Surface, ...]]:
    """Key -> one surface per term, canonical names first; the empty key is dropped."""
    groups: dict[str, dict[str, Surface]] = defaultdict(dict)
    for key, surface in pairs:
        known = groups[key].get(surface.id)
        if known is None or (surface.is_name and not known.is_name):
            groups[key][surface.id] = surface
    groups.pop("", None)
    return {key: tuple(sorted(found.values(), key=lambda hit: not hit.is_name)) for key, found in groups.items()}
