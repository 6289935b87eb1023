"""Random walks with restart on the signed gene network.

In: the edges of the knowledge tables. Out: how far activating a gene raises (+) or lowers (-) every other gene.

Cells are measured by their RNA. A kinase that a walk passes is active and not expressed more, and an inhibitor that is
taken down by signalling may be transcribed all the more (NFKBIA after TNF). So what is read of a walk is the mass that
arrives over edges of transcription; over any edge in a network that has none.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from haystack_kernel.knowledge.actions import action_on_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.knowledge import Knowledge

RESTART = 0.3
REACHED = 0.01  # share of the largest value from which a gene counts as reached
_STEPS = 60  # 0.7^60 = 5e-10 of the mass is left


@dataclass(frozen=True, eq=False)
class GeneNetwork:
    """Genes, and the share of a regulator's mass that each of its targets gets in a step, signed.

    ``steps`` is targets x regulators; the sizes of a column sum to 1, or to 0 for a gene without targets, where a walk
    ends. ``arrivals`` are those of ``steps`` at whose end a walk is read, ``n_targets`` counts a gene's targets.
    """

    genes: tuple[str, ...]
    steps: sparse.csr_array
    arrivals: sparse.csr_array
    n_targets: NDArray[np.int64]
    place: dict[str, int] = field(repr=False)
    _walks: dict[int, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def walks(self, sources: Sequence[int]) -> NDArray[np.float64]:
        """Genes x sources: what is read of the walk from each source, 0 at the source itself; computed once."""
        wanted = [source for source in dict.fromkeys(sources) if source not in self._walks]
        if wanted:
            read = (1 - RESTART) * (self.arrivals @ self.spread(wanted))
            read[wanted, np.arange(len(wanted))] = 0.0
            self._walks.update(zip(wanted, read.T, strict=True))
        columns = [self._walks[source] for source in sources]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.genes), 0))

    def spread(self, sources: Sequence[int]) -> NDArray[np.float64]:
        """Genes x sources: positive minus negative mass of a walk from each source.

        With restart c and signed steps W it solves w = c e + (1 - c) W w, which is the difference of the walks of the
        positive and the negative mass, kept apart.
        """
        start = np.zeros((len(self.genes), len(sources)))
        start[sources, np.arange(len(sources))] = RESTART
        mass = start
        for _ in range(_STEPS):
            mass = start + (1 - RESTART) * (self.steps @ mass)
        return mass


def build_network(knowledge: Knowledge) -> GeneNetwork:
    """The network of the knowledge tables, built once for each."""
    return _built(knowledge)


def find_sources(knowledge: Knowledge, targets: Sequence[str]) -> list[int]:
    """Places of those targets of a treatment from which a walk can start."""
    network = build_network(knowledge)
    places = (network.place.get(gene) for gene in targets)
    return [place for place in places if place is not None and network.n_targets[place]]


def walk_of(knowledge: Knowledge, *, targets: Sequence[str], action: int) -> NDArray[np.float64]:
    """Walk from all targets at once, times the action on them; all 0 where none is in the network.

    It is 0 at the targets, and where less than 1 % of its largest value arrives: cycles carry traces to every gene.
    """
    network, sources = build_network(knowledge), find_sources(knowledge, targets)
    if not sources or not action:
        return np.zeros(len(network.genes))
    mass = action * network.walks(sources).mean(axis=1)
    mass[sources] = 0.0
    mass[np.abs(mass) < REACHED * np.abs(mass).max()] = 0.0
    return mass


def known_walks(knowledge: Knowledge) -> dict[str, NDArray[np.float64]]:
    """Walks of all perturbations that have one, by name, in units of length 1."""
    return _known_walks(knowledge)


@functools.lru_cache(maxsize=4)
def _built(knowledge: Knowledge) -> GeneNetwork:
    genes = tuple(sorted({gene for edge in knowledge.network for gene in (edge.regulator, edge.target)}))
    place = {gene: i for i, gene in enumerate(genes)}
    rows = np.array([place[edge.target] for edge in knowledge.network], dtype=np.intp)
    columns = np.array([place[edge.regulator] for edge in knowledge.network], dtype=np.intp)
    weights = np.array([edge.weight for edge in knowledge.network])
    signs = np.array([edge.sign for edge in knowledge.network], dtype=float)
    n_genes = len(genes)
    leaving = np.bincount(columns, weights=weights, minlength=n_genes)
    shares = signs * weights / leaving[columns] if n_genes else signs
    is_read = np.array([edge.kind == "transcription" for edge in knowledge.network], dtype=bool)
    is_read |= not is_read.any()
    steps, arrivals = (
        sparse.csr_array((shares[used], (rows[used], columns[used])), shape=(n_genes, n_genes))
        for used in (np.ones_like(is_read), is_read)
    )
    return GeneNetwork(genes, steps, arrivals, np.bincount(columns, minlength=n_genes), place)


@functools.lru_cache(maxsize=4)
def _known_walks(knowledge: Knowledge) -> dict[str, NDArray[np.float64]]:
    found = {}
    for name, entry in knowledge.perturbations.items():
        mass = walk_of(knowledge, targets=entry.targets, action=action_on_targets(entry, knowledge=knowledge))
        if length := float(np.linalg.norm(mass)):
            found[name] = mass / length
    return found
