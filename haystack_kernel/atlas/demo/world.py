"""The simulated world: the truth about its cells, which the simulator and tests know and the score never reads.

In: a seed and the knowledge tables, which the world follows in part. Out: a ``World``: expected shares of counts.

Nothing here is measured biology. Half of each treatment's genes come from the tables, half are the world's own;
cell types respond differently; for some treatments the tables are wrong or reversed, and some do nothing at all. The
seed draws which. DEMO_SEED is not a random choice: it is the first tuning seed in which TGF-beta1 (also in lung
fibroblasts), IFN-beta with its twin IFN-alpha1, IFN-gamma and TNF-alpha act as the tables say, so that the first
question of a newcomer has an answer. Other treatments of the shipped demo are inert, wrong or reversed on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.atlas.demo.facts import CELL_TYPES
from haystack_kernel.atlas.demo.profiles import load_genes, make_abundance, make_inducible
from haystack_kernel.atlas.demo.programmes import FRACTIONS, LABELS, Programme, make_programmes
from haystack_kernel.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from haystack_kernel.atlas.demo.programmes import Role
    from haystack_kernel.knowledge import Knowledge

_CEILING = 60e-4  # share of counts above which nothing is raised; more would dilute every other gene


@dataclass(frozen=True, eq=False)
class World:
    """Facts of one simulated world; rows are CELL_TYPES, columns ``genes``."""

    seed: int
    genes: tuple[str, ...]
    abundance: NDArray[np.float64]  # share of the counts of an untreated cell, rows sum to 1
    inducible: NDArray[np.float64]  # share of the counts that a silent gene gains per unit of fold change
    programmes: dict[str, Programme]  # canonical name -> what it does
    knowledge_digest: str

    def row(self, cell_type: str) -> int:
        """Row of a cell type given by CL id or name.

        Raises
        ------
        NotFoundError
            The world has no such cell type; the message lists its cell types.
        """
        for row, fact in enumerate(CELL_TYPES):
            if cell_type in {fact.id, fact.name}:
                return row
        known = ", ".join(f"{fact.name} ({fact.id})" for fact in CELL_TYPES)
        msg = f"the simulated world has no cell type {cell_type!r}; it has {known}"
        raise NotFoundError(msg, cell_type=cell_type)

    def programme(self, perturbation: str) -> Programme:
        """Programme of a treatment given by canonical name or by its label in the simulated file.

        Raises
        ------
        NotFoundError
            The world has no such treatment; the message lists its treatments.
        """
        for programme in self.programmes.values():
            if perturbation in {programme.name, programme.label}:
                return programme
        msg = f"the simulated world has no treatment {perturbation!r}; it has {', '.join(self.programmes)}"
        raise NotFoundError(msg, perturbation=perturbation)

    def share(self, cell_type: str, perturbation: str | None = None, *, strength: float = 1.0) -> NDArray[np.float64]:
        """Expected share of a cell's counts by gene (sums to 1), untreated or under a treatment.

        Parameters
        ----------
        strength
            Factor on the log fold changes: how strongly this sample responds.
        """
        row = self.row(cell_type)
        if perturbation is None:
            return self.abundance[row]
        effect = strength * self.programme(perturbation).effects[row].astype(np.float64)
        if not effect.any():
            return self.abundance[row]
        share = self.abundance[row] * np.exp(effect) + self.inducible[row] * np.expm1(np.maximum(effect, 0))
        share = np.minimum(share, np.maximum(self.abundance[row], _CEILING))
        return share / share.sum()


def make_world(
    seed: int,
    *,
    knowledge: Knowledge,
    labels: Sequence[str] = LABELS,
    fractions: Mapping[Role, float] = FRACTIONS,
) -> World:
    """Draw a world; the same seed and tables give the same world.

    Parameters
    ----------
    seed
        Worlds of ``SEEDS_TUNING`` are for tuning, those of ``SEEDS_REPORTING`` for reported numbers.
    labels, fractions
        Of another world than the demo's, see :func:`make_programmes`.
    """
    abundance = make_abundance(seed, knowledge=knowledge)
    return World(
        seed=seed,
        genes=load_genes()[0],
        abundance=abundance,
        inducible=make_inducible(seed),
        programmes=make_programmes(seed, knowledge=knowledge, abundance=abundance, labels=labels, fractions=fractions),
        knowledge_digest=knowledge.digest,
    )
