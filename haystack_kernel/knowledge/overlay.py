"""Combine additions with the packaged tables: a later row wins in what it states and keeps the rest.

In: a ``Knowledge`` and additions, oldest first. Out: a new ``Knowledge`` with its version, digest and sources.

- ontologies: name and links of a term come from the latest addition; synonyms are joined, and an overridden name stays
  findable as a synonym; markers, tissues and genes of the packaged row stay.
- gene sets: of two sets with one name the later takes the name; the earlier stays as "<name> [<its source>]".
- network and regulons: of two edges between the same genes the later one counts; an association, which states no sign,
  never takes the place of an edge that does.
- targets: a treatment known by that name or synonym takes the targets of the later row and keeps its expected response.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from haystack_kernel.knowledge import normalise
from haystack_kernel.knowledge.terms import CellType, Disease, Knowledge, Tissue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from haystack_kernel.knowledge.compact import Addition
    from haystack_kernel.knowledge.readers import OntologyTerm
    from haystack_kernel.knowledge.terms import Edge, Pathway, PerturbationEntry

    Term = TypeVar("Term", CellType, Tissue, Disease)


def overlay(base: Knowledge, additions: Sequence[Addition]) -> Knowledge:
    """Join additions to the tables; ``base`` is not changed."""
    cell_types, tissues, diseases = dict(base.cell_types), dict(base.tissues), dict(base.diseases)
    pathways, perturbations, obsolete = dict(base.pathways), dict(base.perturbations), dict(base.obsolete)
    origin = dict.fromkeys(pathways, "packaged")
    edges = {(edge.regulator, edge.target): edge for edge in base.network}
    add: dict[str, Callable[[Addition], None]] = {
        "cl": lambda one: _add_terms(cell_types, one.rows, make=CellType),
        "uberon": lambda one: _add_terms(tissues, one.rows, make=Tissue),
        "mondo": lambda one: _add_terms(diseases, one.rows, make=Disease),
        "genesets": lambda one: _add_pathways(pathways, one.rows, origin=origin, source=one.header.name),
        "network": lambda one: _add_edges(edges, one.rows),
        "regulons": lambda one: _add_edges(edges, one.rows),
        "targets": lambda one: _add_targets(perturbations, one.rows),
    }
    for addition in additions:
        add[addition.header.kind](addition)
        obsolete.update({one.id: one for one in addition.obsolete})
    digest = base.digest
    if additions:
        # The order is part of the digest, because a later addition overrides an earlier one.
        joined = [
            f"\n{one.header.kind} {one.header.name} {one.header.version} {one.header.digest}" for one in additions
        ]
        digest = hashlib.sha256("".join([base.digest, *joined]).encode()).hexdigest()
    live = cell_types.keys() | tissues.keys() | diseases.keys()
    return Knowledge(
        cell_types=cell_types,
        perturbations=perturbations,
        pathways=pathways,
        tissues=tissues,
        diseases=diseases,
        version=" + ".join([base.version, *(f"{one.header.name} {one.header.version}" for one in additions)]),
        digest=digest,
        short_forms=base.short_forms,
        obsolete={term: one for term, one in obsolete.items() if term not in live},
        sources=(*base.sources, *(one.header.source for one in additions)),
        network=tuple(edges.values()),
        actions=base.actions,
    )


def _add_terms(table: dict[str, Term], rows: Iterable[OntologyTerm], *, make: type[Term]) -> None:
    row: OntologyTerm
    for row in rows:
        known: Term = table.get(row.id) or make(row.id, row.name)
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


def _add_pathways(table: dict[str, Pathway], rows: Iterable[Pathway], *, origin: dict[str, str], source: str) -> None:
    for row in rows:
        earlier = table.get(row.name)
        if earlier is not None:
            kept = f"{row.name} [{origin[row.name]}]"
            table[kept], origin[kept] = replace(earlier, name=kept), origin[row.name]
        table[row.name], origin[row.name] = row, source


def _add_edges(table: dict[tuple[str, str], Edge], rows: Iterable[Edge]) -> None:
    for row in rows:
        earlier = table.get((row.regulator, row.target))
        if row.kind != "association" or earlier is None or earlier.kind == "association":
            table[row.regulator, row.target] = row


def _add_targets(table: dict[str, PerturbationEntry], rows: Iterable[PerturbationEntry]) -> None:
    owners: dict[str, set[str]] = {}
    for entry in table.values():
        for text in (entry.name, *entry.synonyms):
            owners.setdefault(_key(text), set()).add(entry.name)
    for row in rows:
        named = owners.get(_key(row.name), set())
        if len(named) != 1:  # new, or a synonym of several
            table[row.name] = row
            continue
        known = table[next(iter(named))]
        names = dict.fromkeys((*known.synonyms, row.name, *row.synonyms))
        names.pop(known.name, None)
        table[known.name] = replace(
            known,
            synonyms=tuple(names),
            targets=row.targets or known.targets,
            external_ids={**known.external_ids, **row.external_ids},
            family=known.family or row.family,
        )


def _key(text: str) -> str:
    return normalise.compact_key([word.norm for word in normalise.split_words(text)], fold_greek=True) or text
