"""Random walks with restart on the signed gene network: what activating a gene makes other genes do.

In: the edges of the knowledge tables, targets and the action on them. Out: how far each gene rises (+) or falls (-).

Cells are measured by their RNA. A kinase that a walk passes is active, but it is not expressed more, and an inhibitor
that signalling degrades may be transcribed all the more (NFKBIA after TNF). The signature of a walk is therefore the
mass that arrives over edges of transcription, or over any edge in a network that has none of that kind.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.knowledge.terms import Knowledge

RESTART = 0.3
REACHED = 0.01  # share of the largest value from which a gene counts as reached
_STEPS = 60  # 0.7^60 = 5e-10 of the mass is left


@dataclass(frozen=True, eq=False)
class GeneNetwork:
    """Genes, and the signed share of a regulator's mass that each of its targets gets in one step.

    Attributes
    ----------
    genes
        All genes of the network, sorted.
    steps
        Targets x regulators. The absolute values of a column sum to 1, or to 0 for a gene without targets, where a
        walk ends.
    arrivals
        Those entries of ``steps`` over which the signature of a walk is read.
    n_targets
        Number of targets of each gene.
    place
        Gene -> its position.
    """

    genes: tuple[str, ...]
    steps: sparse.csr_array
    arrivals: sparse.csr_array
    n_targets: NDArray[np.int64]
    place: dict[str, int] = field(repr=False)
    _walks: dict[int, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def walks(self, sources: Sequence[int]) -> NDArray[np.float64]:
        """Genes x sources: signature of the walk from each source, 0 at the source itself; each is computed once."""
        wanted = [source for source in dict.fromkeys(sources) if source not in self._walks]
        if wanted:
            read = (1 - RESTART) * (self.arrivals @ self.spread(wanted))
            read[wanted, np.arange(len(wanted))] = 0.0
            self._walks.update(zip(wanted, read.T, strict=True))
        columns = [self._walks[source] for source in sources]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.genes), 0))

    def spread(self, sources: Sequence[int]) -> NDArray[np.float64]:
        """Genes x sources: positive minus negative mass of a walk from each source.

        With restart probability c and signed steps W it solves w = c e + (1 - c) W w by iteration. The solution is the
        difference between the walks of the positive and of the negative mass.

        References
        ----------
        Koehler et al., Am J Hum Genet 82:949 (2008), for random walks with restart on gene networks; the signs are
        added here.
        """
        start = np.zeros((len(self.genes), len(sources)))
        start[sources, np.arange(len(sources))] = RESTART
        mass = start
        for _ in range(_STEPS):
            mass = start + (1 - RESTART) * (self.steps @ mass)
        return mass


@functools.lru_cache(maxsize=4)
def build_network(knowledge: Knowledge) -> GeneNetwork:
    """Build the network of the knowledge tables, once for each set of tables."""
    edges = knowledge.network
    genes = tuple(sorted({edge.regulator for edge in edges} | {edge.target for edge in edges}))
    place = {gene: i for i, gene in enumerate(genes)}
    rows = np.array([place[edge.target] for edge in edges], dtype=np.intp)
    columns = np.array([place[edge.regulator] for edge in edges], dtype=np.intp)
    weights = np.array([edge.weight for edge in edges])
    signs = np.array([edge.sign for edge in edges], dtype=float)
    leaving = np.bincount(columns, weights=weights, minlength=len(genes))
    shares = signs * weights / leaving[columns] if genes else signs
    is_read = np.array([edge.kind == "transcription" for edge in edges], dtype=bool)
    if not is_read.any():
        is_read[:] = True
    shape = (len(genes), len(genes))
    return GeneNetwork(
        genes=genes,
        steps=sparse.csr_array((shares, (rows, columns)), shape=shape),
        arrivals=sparse.csr_array((shares[is_read], (rows[is_read], columns[is_read])), shape=shape),
        n_targets=np.bincount(columns, minlength=len(genes)),
        place=place,
    )


def find_sources(knowledge: Knowledge, targets: Sequence[str]) -> list[int]:
    """Positions of those targets of a perturbation from which a walk can start (they regulate a gene)."""
    network = build_network(knowledge)
    places = (network.place.get(gene) for gene in targets)
    return [place for place in places if place is not None and network.n_targets[place]]


def walk_of(knowledge: Knowledge, *, targets: Sequence[str], action: int) -> NDArray[np.float64]:
    """Signature of the walk from all targets at once, times the action on them (+1 or -1).

    Returns
    -------
    Signed mass per gene of the network. It is 0 everywhere where no target is in the network or the action is not
    known, 0 at the targets, and 0 where less than 1 % of its largest value arrives, because cycles carry traces of
    mass to every gene.
    """
    network, sources = build_network(knowledge), find_sources(knowledge, targets)
    if not sources or not action:
        return np.zeros(len(network.genes))
    mass = action * network.walks(sources).mean(axis=1)
    mass[sources] = 0.0
    mass[np.abs(mass) < REACHED * np.abs(mass).max()] = 0.0
    return mass
