"""An index of all names of one kind of term, under every way of writing them.

In: a ``Knowledge`` and a kind. Out: an ``Index`` from keys to terms, built once per table set.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rapidfuzz import fuzz, process

from haystack_kernel.knowledge import normalise
from haystack_kernel.knowledge.compact import ADDED
from haystack_kernel.knowledge.hashed import keys_of
from haystack_kernel.knowledge.packed import TermTable
from haystack_kernel.schema import Match

if TYPE_CHECKING:
    from haystack_kernel.knowledge.hashed import NameLayer
    from haystack_kernel.knowledge.normalise import Word
    from haystack_kernel.knowledge.terms import CellType, Disease, Knowledge, PerturbationEntry, ShortForm, Tissue
    from haystack_kernel.schema import TermKind

    Entry = CellType | PerturbationEntry | Tissue | Disease

NAME_SCORE = 1.0
SYNONYM_SCORE = 0.98
DOUBT_SCORE = 0.75  # an abbreviation or a term of other species that only a packaged ontology lists
IN_LAYERS = ("ontology", ADDED)  # sources of rows whose names are found in layers
_MIN_IN_LAYER = 0.8
_MOST_IN_LAYER = 50


@dataclass(frozen=True, slots=True)
class Surface:
    """One way a term is written in the tables; ``key`` is its spaced key."""

    id: str
    text: str
    is_name: bool
    key: str
    doubt: bool = False  # an abbreviation, or a term of other species, that only a packaged ontology lists

    @property
    def norms(self) -> list[str]:
        """Return the normal forms of its words."""
        return self.key.split(" ") if self.key else []


class Level(Mapping[str, tuple[Surface, ...]]):
    """Names by one of the five kinds of key: those of the tables in memory, then those of the layers.

    Hand-written and added names win over packaged ones; of these the terms of common use win. Iteration gives the keys
    of the tables in memory alone.
    """

    def __init__(self, index: Index, place: int, *, common_only: bool = False) -> None:
        self._index, self._place, self._common_only = index, place, common_only

    def __getitem__(self, key: str) -> tuple[Surface, ...]:
        found = list(self._index.own[self._place].get(key, ()))
        if not key:
            raise KeyError(key)
        for layer in self._index.layers:
            best = self.best_in(key, layer)
            found += self._better_named(best, than=found) if layer.is_packaged and found else best
        if not found:
            raise KeyError(key)
        return _group((key, one) for one in found)[key]

    def _better_named(self, packaged: list[Surface], *, than: list[Surface]) -> list[Surface]:
        """Return packaged terms of just this name where others only have it as a synonym.

        An acinar cell is not always the pancreatic one. Tissues written by hand are kept, as data sets name them so.
        """
        if self._index.kind == "tissue" or any(one.is_name for one in than):
            return []
        return [one for one in packaged if one.is_name and not one.doubt]

    def best_in(self, key: str, layer: NameLayer) -> list[Surface]:
        """Return the names of a layer under this key, of its most common terms alone."""
        ranks = {row: layer.rank_of(row) for row in layer.keys.rows_of(key)}
        for rank in sorted(set(ranks.values())):
            if self._common_only and rank:
                break
            rows = [row for row, one in ranks.items() if one == rank]
            if found := [one for row in rows for one in self._in_row(key, layer, row=row, is_foreign=rank == 2)]:
                return found
        return []

    def _in_row(self, key: str, layer: NameLayer, *, row: int, is_foreign: bool) -> Iterator[Surface]:
        kind, term = self._index.kind, layer.term_of(row)
        for number, text in enumerate(layer.names_of(row)):
            is_plain = _is_plain_name(text)
            if self._common_only and layer.must_be_plain and not is_plain:
                continue
            norms = [word.norm for word in normalise.split_words(text)]
            if keys_of(norms, kind=kind, is_name=not number)[self._place] == key:
                is_short = layer.is_packaged and number > 0 and not is_plain
                doubt = is_foreign or is_short
                yield Surface(term, text, text == self._index.name_of(term), " ".join(norms), doubt)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.own[self._place])

    def __len__(self) -> int:
        return len(self._index.own[self._place])


@dataclass(frozen=True, eq=False)
class Index:
    """Terms of one kind by key; the five maps go from strict to lenient and are built on first use.

    ``spaced``, ``compact`` and ``bag`` serve texts in which names are looked for: of the packaged ontologies they hold
    terms of common use alone. :meth:`written` searches all.
    """

    kind: TermKind
    entries: Mapping[str, Entry]
    external_ids: Mapping[str, str]  # id of another database in lower case -> term
    families: Mapping[str, tuple[str, ...]]  # spaced key of a family -> ids of its members
    short_forms: Mapping[str, ShortForm]  # spaced key -> abbreviation with several meanings
    surfaces: tuple[Surface, ...]  # names of the tables in memory
    layers: tuple[NameLayer, ...] = ()  # names of additions, then of the packaged ontology

    @property
    def fold_greek(self) -> bool:
        """Whether TGF-beta may be written TGFb; for cells it may not: a beta cell is not a B cell."""
        return self.kind == "perturbation"

    def name_of(self, term: str) -> str:
        """Return the canonical name of a term."""
        return self.entries[term].name

    def id_of(self, text: str) -> str | None:
        """Return the term that has this id, or this id in another database."""
        if found := self.external_ids.get(text.lower()):
            return found
        return text.upper() if self.kind != "perturbation" and text.upper() in self.entries else None

    @functools.cached_property
    def own(self) -> tuple[dict[str, tuple[Surface, ...]], ...]:
        """Names of the tables in memory by each of the five kinds of key."""
        keys = [keys_of(one.norms, kind=self.kind, is_name=one.is_name) for one in self.surfaces]
        return tuple(
            _group((levels[place], one) for levels, one in zip(keys, self.surfaces, strict=True)) for place in range(5)
        )

    @functools.cached_property
    def _own_keys(self) -> list[str]:
        return list(self.own[0])

    @functools.cached_property
    def spaced(self) -> Level:
        """Spaced key -> names, of packaged ontologies those in common use."""
        return Level(self, 0, common_only=True)

    @functools.cached_property
    def compact(self) -> Level:
        """Compact key -> names, of packaged ontologies those in common use."""
        return Level(self, 1, common_only=True)

    @functools.cached_property
    def bag(self) -> Level:
        """Bag key -> names, of packaged ontologies those in common use."""
        return Level(self, 3, common_only=True)

    @functools.cached_property
    def _levels(self) -> tuple[Level, ...]:
        return tuple(Level(self, place) for place in range(5))

    @functools.cached_property
    def by_word(self) -> dict[str, list[Surface]]:
        """Word -> every name in memory that holds it."""
        found: dict[str, list[Surface]] = defaultdict(list)
        for surface in self.surfaces:
            for word in dict.fromkeys(surface.norms):
                found[word].append(surface)
        return dict(found)

    @functools.cached_property
    def _layer_words(self) -> set[str]:
        return {word for layer in self.layers for word in layer.names.words()}

    @functools.cached_property
    def spelling(self) -> dict[tuple[str, int], list[str]]:
        """Words long enough to be misspelt, by first letter and length; of diseases those of the tables in memory."""
        found: dict[tuple[str, int], list[str]] = defaultdict(list)
        words = {word for word in self.by_word if len(word) >= 6 and word.isalpha()}
        if self.kind != "disease":  # questions need not wait for all words of Mondo
            words |= self._layer_words
        for word in sorted(words):
            found[word[0], len(word)].append(word)
        return dict(found)

    def knows_word(self, norm: str) -> bool:
        """Whether a word of six letters or more is one of any name."""
        return norm in self.by_word or norm in self._layer_words

    def similar(self, key: str, *, limit: int, at_least: float) -> list[tuple[Surface, float]]:
        """Return the names whose spelling is similar to a spaced key, with the similarity in [0, 1], best first.

        Names of layers are compared as written, if they share the first letter, and from a similarity of 0.8 on.
        """
        found: dict[str, tuple[Surface, float]] = {}
        own = self.own[0]
        for name, percent, _ in process.extract(
            key, self._own_keys, scorer=fuzz.ratio, limit=limit, score_cutoff=100 * at_least
        ):
            for surface in own[name]:
                found.setdefault(surface.id, (surface, percent / 100))
        for layer in self.layers:
            names, places = layer.names.by_letter.get(key[:1], ([], []))
            for name, percent, number in process.extract(
                key, names, scorer=fuzz.ratio, limit=limit, score_cutoff=100 * max(at_least, _MIN_IN_LAYER)
            ):
                row = layer.row_of(places[number])
                term = layer.term_of(row)
                if layer.rank_of(row) < 2 and (term not in found or found[term][1] < percent / 100):
                    found[term] = (Surface(term, name, is_name=False, key=name), percent / 100)
        return sorted(found.values(), key=lambda pair: -pair[1])[:limit]

    def holding(self, words: frozenset[str], *, packaged: bool) -> list[Surface]:
        """Return names that hold all these words: hand-written and added ones, or some of the packaged ontology."""
        rarest = min((self.by_word.get(word, []) for word in words), key=len)
        found = [] if packaged else [one for one in rarest if words <= frozenset(one.norms)]
        for layer in self.layers:
            if layer.is_packaged != packaged:
                continue
            for place in layer.names.holding(words, most=_MOST_IN_LAYER):
                row, name = layer.row_of(place), layer.names.lowered[place]
                key = normalise.spaced_key(normalise.split_words(name))
                if layer.rank_of(row) < 2 and words <= frozenset(key.split()):
                    found.append(Surface(layer.term_of(row), name, is_name=False, key=key))
        return found

    def match(self, surface: Surface, *, lenient: bool = False) -> Match:
        """Return a match; ``lenient`` where more than the spelling differed."""
        if surface.doubt:
            return self.close(surface.id, score=DOUBT_SCORE)
        is_name = surface.is_name and not lenient
        score, how = (NAME_SCORE, "name") if is_name else (SYNONYM_SCORE, "synonym")
        return Match.model_validate({"id": surface.id, "name": self.name_of(surface.id), "score": score, "how": how})

    def close(self, term: str, *, score: float) -> Match:
        """Return a match for a term that is similar, not equal."""
        return Match(id=term, name=self.name_of(term), score=round(score, 4), how="fuzzy")

    def written(self, words: Sequence[Word]) -> list[Match]:
        """Return the terms whose name or synonym these words are; several where terms share a synonym."""
        said, fold = [word.norm for word in words], self.fold_greek
        spaced, compact, bare, bag, phrase = self._levels
        found = spaced.get(" ".join(said)) or compact.get(normalise.compact_key(said, fold_greek=fold))
        if found:
            return self._best(found, lenient=False)
        found = (
            bare.get(normalise.bare_key(said, fold_greek=fold))
            or bag.get(normalise.bag_key(said, fold_greek=fold))
            or (() if fold else phrase.get(normalise.phrase_key(said), ()))
        )
        return self._best(found, lenient=True) if found else []

    def packaged_name(self, words: Sequence[Word]) -> str | None:
        """Return the packaged term that has just this name, whatever the hand-written tables say of it."""
        key = normalise.spaced_key(list(words))
        found = (one for layer in self.layers if layer.is_packaged for one in self._levels[0].best_in(key, layer))
        return next((one.id for one in found if one.is_name and not one.doubt), None)

    def _best(self, found: tuple[Surface, ...], *, lenient: bool) -> list[Match]:
        named = [surface for surface in found if surface.is_name]
        return [self.match(surface, lenient=lenient) for surface in (named if len(named) == 1 else found)]


@functools.lru_cache(maxsize=32)
def index_of(kind: TermKind, *, knowledge: Knowledge) -> Index:
    """Return the index of one kind; empty for donors and datasets, which no table lists."""
    tables: dict[TermKind, Mapping[str, Entry]] = {
        "cell_type": knowledge.cell_types,
        "perturbation": knowledge.perturbations,
        "tissue": knowledge.tissues,
        "disease": knowledge.diseases,
    }
    entries = tables.get(kind, {})
    external: dict[str, str] = {}
    families: dict[str, tuple[str, ...]] = {}
    if kind == "perturbation":  # its terms have no ids of their own, only those of other databases
        for term, treatment in knowledge.perturbations.items():
            external.update((one.lower(), term) for one in treatment.external_ids.values())
        families = _families(knowledge)
    in_memory = entries.over if isinstance(entries, TermTable) else entries
    return Index(
        kind=kind,
        entries=entries,
        external_ids=external,
        families=families,
        short_forms={
            normalise.spaced_key(normalise.split_words(form.form)): form
            for key, form in knowledge.short_forms.items()
            if key.startswith(f"{kind}:")
        },
        surfaces=tuple(
            Surface(term, text, text == entry.name, normalise.spaced_key(normalise.split_words(text)))
            for term, entry in in_memory.items()
            if entry.source not in IN_LAYERS
            for text in (entry.name, *entry.synonyms)
        ),
        layers=knowledge.layers.get(kind, ()),
    )


def _families(knowledge: Knowledge) -> dict[str, tuple[str, ...]]:
    """Return spaced key of a family -> its members; a family of one is left out, as its name is not ambiguous."""
    members: dict[str, list[str]] = defaultdict(list)
    for term, treatment in knowledge.perturbations.items():
        members[treatment.family].append(term)
    families: dict[str, list[str]] = defaultdict(list)
    for family, terms in members.items():
        families[normalise.spaced_key(normalise.split_words(family))] += terms
    return {family: tuple(terms) for family, terms in families.items() if family and len(terms) > 1}


def _is_plain_name(text: str) -> bool:
    """Whether a name can be told from an abbreviation or a chance word in a sentence."""
    return len(text) >= 5 and any(map(str.islower, text))


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
