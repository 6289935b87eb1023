"""Combine additions with the packaged tables: a later row wins in what it states and keeps the rest.

In: a ``Knowledge`` and additions, oldest first. Out: a new ``Knowledge`` with its version, digest and sources.

- ontologies: name and links of a term come from the latest addition; synonyms are joined, and an overridden name stays
  findable as a synonym; markers, tissues and genes of the packaged row stay.
- gene sets: of two sets with one name the later takes the name; the earlier stays as "<name> [<its source>]".
- network and regulons: of two edges between the same genes the later one counts; an association, which states no sign,
  never takes the place of an edge that does.
- targets: a treatment known by that name or synonym, or a packaged one of that structure (InChIKey but protonation),
  takes the targets of the later row and keeps its expected response. Stereoisomers are treatments of their own, because
  adenosine and vidarabine, or dexamethasone and betamethasone, differ in nothing else.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from haystack_kernel.knowledge import normalise
from haystack_kernel.knowledge.hashed import NamedRows
from haystack_kernel.knowledge.packed import RetiredTerms, TermTable
from haystack_kernel.knowledge.terms import CellType, Disease, Tissue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from haystack_kernel.knowledge.compact import Addition
    from haystack_kernel.knowledge.hashed import HashedKeys, NameLayer
    from haystack_kernel.knowledge.readers import OntologyTerm
    from haystack_kernel.knowledge.terms import Edge, Knowledge, Obsolete, Pathway, PerturbationEntry
    from haystack_kernel.schema import TermKind

    Term = TypeVar("Term", CellType, Tissue, Disease)


def overlay(base: Knowledge, additions: Sequence[Addition]) -> Knowledge:
    """Join additions to the tables; ``base`` is not changed."""
    cell_types, tissues, diseases = _rows(base.cell_types), _rows(base.tissues), _rows(base.diseases)
    pathways, perturbations, obsolete = dict(base.pathways), dict(base.perturbations), _retired(base.obsolete)
    origin = dict.fromkeys(pathways, "packaged")
    edges = {(edge.regulator, edge.target): edge for edge in base.network}
    treatments = _Treatments(perturbations)
    layers: dict[TermKind, list[NameLayer]] = {}
    add: dict[str, Callable[[Addition], Sequence[str]]] = {
        "cl": lambda one: _add_terms(cell_types, one.rows, below=base.cell_types, make=CellType),
        "uberon": lambda one: _add_terms(tissues, one.rows, below=base.tissues, make=Tissue),
        "mondo": lambda one: _add_terms(diseases, one.rows, below=base.diseases, make=Disease),
        "genesets": lambda one: _add_pathways(pathways, one.rows, origin=origin, source=one.header.name),
        "network": lambda one: _add_edges(edges, one.rows),
        "regulons": lambda one: _add_edges(edges, one.rows),
        "targets": treatments.add,
    }
    for addition in additions:
        terms = add[addition.header.kind](addition)
        if addition.term_kind is not None:
            names = [(row.name, *row.synonyms) for row in addition.rows]
            layers.setdefault(addition.term_kind, []).append(NamedRows(names, terms=terms, keys=addition.keys))
        obsolete.update({one.id: one for one in addition.obsolete})
    live = cell_types.keys() | tissues.keys() | diseases.keys()
    return replace(
        base,
        cell_types=_table(base.cell_types, cell_types),
        perturbations=perturbations,
        pathways=pathways,
        tissues=_table(base.tissues, tissues),
        diseases=_table(base.diseases, diseases),
        version=" + ".join([base.version, *(f"{one.header.name} {one.header.version}" for one in additions)]),
        digest=_digest(base, additions),
        obsolete=_over_retired(base.obsolete, {term: one for term, one in obsolete.items() if term not in live}),
        sources=(*base.sources, *(one.header.source for one in additions)),
        network=tuple(edges.values()),
        layers={**base.layers, **{kind: (*added, *base.layers.get(kind, ())) for kind, added in layers.items()}},
    )


def _digest(base: Knowledge, additions: Sequence[Addition]) -> str:
    """Return the digest of all; the order is part of it, because a later addition overrides an earlier one."""
    if not additions:
        return base.digest
    joined = [f"\n{one.header.kind} {one.header.name} {one.header.version} {one.header.digest}" for one in additions]
    return hashlib.sha256("".join([base.digest, *joined]).encode()).hexdigest()


def _rows(table: Mapping[str, Term]) -> dict[str, Term]:
    """Return the rows above a packed ontology, or all rows where there is none."""
    return dict(table.over if isinstance(table, TermTable) else table)


def _table(base: Mapping[str, Term], rows: dict[str, Term]) -> Mapping[str, Term]:
    return base.with_rows(rows) if isinstance(base, TermTable) else rows


def _retired(base: Mapping[str, Obsolete]) -> dict[str, Obsolete]:
    return dict(base.over if isinstance(base, RetiredTerms) else base)


def _over_retired(base: Mapping[str, Obsolete], rows: dict[str, Obsolete]) -> Mapping[str, Obsolete]:
    return base.with_rows(rows) if isinstance(base, RetiredTerms) else rows


def _add_terms(
    table: dict[str, Term], rows: Iterable[OntologyTerm], *, below: Mapping[str, Term], make: type[Term]
) -> list[str]:
    """Lay terms over a table and return their ids; ``below`` is what the table rests on."""
    row: OntologyTerm
    ids = []
    for row in rows:
        known: Term = table.get(row.id) or below.get(row.id) or make(row.id, row.name, source="ontology")
        names = dict.fromkeys((*known.synonyms, known.name, *row.synonyms))
        names.pop(row.name, None)
        table[row.id] = replace(
            known,
            name=row.name,
            synonyms=tuple(names),
            parents=row.parents,
            part_of=row.part_of,
            develops_from=tuple(dict.fromkeys((*row.develops_from, *known.develops_from))),
        )
        ids.append(row.id)
    return ids


def _add_pathways(
    table: dict[str, Pathway], rows: Iterable[Pathway], *, origin: dict[str, str], source: str
) -> tuple[str, ...]:
    for row in rows:
        earlier = table.get(row.name)
        if earlier is not None:
            kept = f"{row.name} [{origin[row.name]}]"
            table[kept], origin[kept] = replace(earlier, name=kept), origin[row.name]
        table[row.name], origin[row.name] = row, source
    return ()


def _add_edges(table: dict[tuple[str, str], Edge], rows: Iterable[Edge]) -> tuple[str, ...]:
    for row in rows:
        earlier = table.get((row.regulator, row.target))
        if row.kind != "association" or earlier is None or earlier.kind == "association":
            table[row.regulator, row.target] = row
    return ()


class _Treatments:
    """The table of treatments as rows are added: a row that names a known treatment is joined to it.

    Only rows that may name a known one, by the hashes of their keys, are compared with it word by word.
    """

    def __init__(self, table: dict[str, PerturbationEntry]) -> None:
        self.table = table
        self._owners: dict[str, set[str]] = defaultdict(set)  # compact key -> treatments
        self._seen: list[Addition] = []
        self._by_structure = {key: entry.name for entry in table.values() for key in _structures(entry)}
        for entry in table.values():
            self._own(entry, entry.name)
        self._hashes = {zlib.crc32(key.encode()) for key in self._owners}

    def add(self, addition: Addition) -> list[str]:
        """Add all rows and return the treatment that each belongs to."""
        keys = addition.keys
        shared = self._hashes.intersection(keys.hashes)
        for earlier in self._seen:
            common = set(keys.hashes).intersection(earlier.keys.hashes)
            for row in _rows_with(common, earlier.keys):
                entry = earlier.rows[row]
                self._own(entry, entry.name)
            shared |= common
        maybe_known = _rows_with(shared, keys)
        terms = []
        for number, row in enumerate(addition.rows):
            named = self._owners.get(_key(row.name), set()) if number in maybe_known else set()
            if not named:
                named = {self._by_structure[key] for key in _structures(row) if key in self._by_structure}
            if len(named) != 1:  # new, or a synonym of several
                self.table[row.name] = row
                terms.append(row.name)
                continue
            known = self.table[next(iter(named))]
            names = dict.fromkeys((*known.synonyms, row.name, *row.synonyms))
            names.pop(known.name, None)
            self.table[known.name] = replace(
                known,
                synonyms=tuple(names),
                targets=row.targets or known.targets,
                external_ids={**known.external_ids, **row.external_ids},
                family=known.family or row.family,
            )
            terms.append(known.name)
        self._seen.append(addition)
        return terms

    def _own(self, entry: PerturbationEntry, name: str) -> None:
        for text in (entry.name, *entry.synonyms):
            self._owners[_key(text)].add(name)


def _structures(entry: PerturbationEntry) -> list[str]:
    """Return the InChIKeys of a treatment without the letter for protonation."""
    return [key[:25] for key in re.findall(r"[A-Z]{14}-[A-Z]{10}-[A-Z]", entry.external_ids.get("InChIKey", ""))]


def _rows_with(hashes: set[int], keys: HashedKeys) -> set[int]:
    return {row for key, row in zip(keys.hashes, keys.rows, strict=True) if key in hashes}


def _key(text: str) -> str:
    return normalise.compact_key([word.norm for word in normalise.split_words(text)], fold_greek=True) or text
