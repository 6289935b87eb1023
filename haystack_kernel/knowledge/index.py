"""An index of all names of one kind of term, under every way of writing them.

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
    from collections.abc import Iterable, Mapping, Sequence

    from haystack_kernel.knowledge.normalise import Word
    from haystack_kernel.knowledge.terms import CellType, Disease, Knowledge, PerturbationEntry, ShortForm, Tissue
    from haystack_kernel.schema import TermKind

    Table = Mapping[str, CellType] | Mapping[str, PerturbationEntry] | Mapping[str, Tissue] | Mapping[str, Disease]

NAME_SCORE = 1.0
SYNONYM_SCORE = 0.98
ALL_KEYS = 10_000  # so many are compared one by one with an unknown text


@dataclass(frozen=True, slots=True)
class Surface:
    """One way a term is written in the tables; ``key`` is its spaced key."""

    id: str
    text: str
    is_name: bool
    key: str

    @property
    def norms(self) -> list[str]:
        """Return the normal forms of its words."""
        return self.key.split(" ") if self.key else []


@dataclass(frozen=True, eq=False)
class Index:
    """Terms of one kind by key; the five maps go from strict to lenient and are built on first use."""

    kind: TermKind
    names: Mapping[str, str]  # id -> canonical name
    ids: Mapping[str, str]  # id or external id in lower case -> id
    families: Mapping[str, tuple[str, ...]]  # spaced key of a family -> ids of its members
    short_forms: Mapping[str, ShortForm]  # spaced key -> abbreviation with several meanings
    surfaces: tuple[Surface, ...]

    @property
    def fold_greek(self) -> bool:
        """Whether TGF-beta may be written TGFb; for cells it may not: a beta cell is not a B cell."""
        return self.kind == "perturbation"

    @functools.cached_property
    def spaced(self) -> dict[str, tuple[Surface, ...]]:
        """Spaced key -> names."""
        return _group((surface.key, surface) for surface in self.surfaces)

    @functools.cached_property
    def compact(self) -> dict[str, tuple[Surface, ...]]:
        """Compact key -> names."""
        fold = self.fold_greek
        return _group((normalise.compact_key(one.norms, fold_greek=fold), one) for one in self.surfaces)

    @functools.cached_property
    def bare(self) -> dict[str, tuple[Surface, ...]]:
        """Bare key -> names; keys of one letter only where they are a name: B and T, not M."""
        fold, generic = self.fold_greek, "tissue" if self.kind == "tissue" else "cell"
        pairs = ((normalise.bare_key(one.norms, fold_greek=fold, generic=generic), one) for one in self.surfaces)
        return _group((key, one) for key, one in pairs if len(key) > 1 or one.is_name)

    @functools.cached_property
    def bag(self) -> dict[str, tuple[Surface, ...]]:
        """Bag key -> names."""
        fold = self.fold_greek
        return _group((normalise.bag_key(one.norms, fold_greek=fold), one) for one in self.surfaces)

    @functools.cached_property
    def phrase(self) -> dict[str, tuple[Surface, ...]]:
        """Phrase key -> names; none for treatments, whose names are not phrases."""
        if self.fold_greek:
            return {}
        pairs = ((normalise.phrase_key(one.norms), one) for one in self.surfaces)
        return _group((key, one) for key, one in pairs if len(key) > 1 or one.is_name)

    @functools.cached_property
    def by_start(self) -> dict[str, list[str]]:
        """First two letters -> spaced keys."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in self.spaced:
            found[key[:2]].append(key)
        return dict(found)

    @functools.cached_property
    def by_word(self) -> dict[str, list[Surface]]:
        """Word -> every name that holds it."""
        found: dict[str, list[Surface]] = defaultdict(list)
        for surface in self.surfaces:
            for word in dict.fromkeys(surface.norms):
                found[word].append(surface)
        return dict(found)

    @functools.cached_property
    def spelling(self) -> dict[tuple[str, int], list[str]]:
        """Words long enough to be misspelt, by first letter and length."""
        found: dict[tuple[str, int], list[str]] = defaultdict(list)
        for word in self.by_word:
            if len(word) >= 6 and word.isalpha():
                found[word[0], len(word)].append(word)
        return dict(found)

    def keys_like(self, key: str) -> list[str]:
        """Return spaced keys to compare with this one: all, or in large tables those with a shared word or start."""
        if len(self.spaced) <= ALL_KEYS:
            return list(self.spaced)
        shared = (one.key for word in key.split() if len(word) > 2 for one in self.by_word.get(word, [])[:ALL_KEYS])
        return list(dict.fromkeys([*shared, *self.by_start.get(key[:2], [])]))

    def match(self, surface: Surface, *, lenient: bool = False) -> Match:
        """Return a match; ``lenient`` where more than the spelling differed."""
        is_name = surface.is_name and not lenient
        score, how = (NAME_SCORE, "name") if is_name else (SYNONYM_SCORE, "synonym")
        return Match.model_validate({"id": surface.id, "name": self.names[surface.id], "score": score, "how": how})

    def close(self, term: str, *, score: float) -> Match:
        """Return a match for a term that is similar, not equal."""
        return Match(id=term, name=self.names[term], score=round(score, 4), how="fuzzy")

    def written(self, words: Sequence[Word]) -> list[Match]:
        """Return the terms whose name or synonym these words are; several where terms share a synonym."""
        said, fold = [word.norm for word in words], self.fold_greek
        found = self.spaced.get(" ".join(said)) or self.compact.get(normalise.compact_key(said, fold_greek=fold))
        if found:
            return self._best(found, lenient=False)
        found = (
            self.bare.get(normalise.bare_key(said, fold_greek=fold))
            or self.bag.get(normalise.bag_key(said, fold_greek=fold))
            or (() if fold else self.phrase.get(normalise.phrase_key(said), ()))
        )
        return self._best(found, lenient=True) if found else []

    def _best(self, found: tuple[Surface, ...], *, lenient: bool) -> list[Match]:
        named = [surface for surface in found if surface.is_name]
        return [self.match(surface, lenient=lenient) for surface in (named if len(named) == 1 else found)]


@functools.lru_cache(maxsize=32)
def index_of(kind: TermKind, *, knowledge: Knowledge) -> Index:
    """Return the index of one kind; empty for donors and datasets, which no table lists."""
    tables: dict[TermKind, Table] = {
        "cell_type": knowledge.cell_types,
        "perturbation": knowledge.perturbations,
        "tissue": knowledge.tissues,
        "disease": knowledge.diseases,
    }
    entries = tables.get(kind, {})
    ids = {term.lower(): term for term in entries}
    families: dict[str, list[str]] = defaultdict(list)
    if kind == "perturbation":
        ids = {}  # its terms have no ids of their own, only those of other databases
        for term, entry in knowledge.perturbations.items():
            ids.update((one.lower(), term) for one in entry.external_ids.values())
            families[normalise.spaced_key(normalise.split_words(entry.family))].append(term)
        families.pop("", None)
    return Index(
        kind=kind,
        names={term: entry.name for term, entry in entries.items()},
        ids=ids,
        # A family of one member is left out, because its name would not be ambiguous.
        families={family: tuple(members) for family, members in families.items() if len(members) > 1},
        short_forms={
            normalise.spaced_key(normalise.split_words(form.form)): form
            for key, form in knowledge.short_forms.items()
            if key.startswith(f"{kind}:")
        },
        surfaces=tuple(
            Surface(term, text, text == entry.name, normalise.spaced_key(normalise.split_words(text)))
            for term, entry in entries.items()
            for text in (entry.name, *entry.synonyms)
        ),
    )


def _group(pairs: Iterable[tuple[str, Surface]]) -> dict[str, tuple[Surface, ...]]:
    """Key -> one surface per term, canonical names first; the empty key is left out."""
    groups: dict[str, tuple[Surface, ...]] = {}
    for key, surface in pairs:
        if not key:
            continue
        known = groups.get(key)
        if known is None:
            groups[key] = (surface,)
            continue
        same = next((one for one in known if one.id == surface.id), None)
        if same is None or (surface.is_name and not same.is_name):
            hits = [*(one for one in known if one is not same), surface]
            groups[key] = tuple(sorted(hits, key=lambda hit: not hit.is_name))
    return groups
