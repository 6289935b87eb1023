"""The tested genes of one comparison with their standardised effects: what every test of a gene set starts from.

In: the DE table, the known responses of all perturbations. Out: a ``Background``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.de.table import MEAN_CONTROL, SD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from haystack_kernel.knowledge import PerturbationEntry

    SignedSet = Mapping[str, float]  # gene -> +1 or -1, or any signed weight

MIN_SET_GENES = 5  # a gene set with fewer tested genes is not tested
FULL = 1000  # fewer tested genes are a panel, which holds few genes of any set
PANEL_SET_GENES = 2  # the least of a panel: both nulls stay exact, and the composite is capped


@dataclass(frozen=True, eq=False)
class Background:
    """The tested genes of one comparison.

    Attributes
    ----------
    genes
        Gene symbols, each once.
    z
        Standardised effect per gene: delta / (sd + median sd), see :func:`standardise`.
    level
        Mean log1p-CP10k per gene in the control arm, by which random gene sets are matched.
    strengths
        Perturbation -> statistic of its known response, for responses of which at least five genes were tested.
    """

    genes: pd.Index
    z: NDArray[np.float64]
    level: NDArray[np.float64]
    strengths: dict[str, float] = field(default_factory=dict)

    def locate(self, genes: SignedSet) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Positions and signs of those genes of a set that were tested, in the order of the set."""
        found = [(self._position[gene], sign) for gene, sign in genes.items() if gene in self._position]
        where, signs = zip(*found, strict=True) if found else ((), ())
        return np.array(where, dtype=np.intp), np.array(signs, dtype=float)

    def positions(self, genes: Sequence[str]) -> NDArray[np.intp]:
        """Position of each gene among the tested ones; -1 where it was not tested."""
        return np.array([self._position.get(gene, -1) for gene in genes], dtype=np.intp)

    def statistic(self, genes: SignedSet) -> float:
        """Mean of s_g z_g over the tested genes of a set; NaN when none was tested."""
        where, signs = self.locate(genes)
        return float(np.mean(signs * self.z[where])) if where.size else float("nan")

    @functools.cached_property
    def _position(self) -> dict[str, int]:
        return {gene: place for place, gene in enumerate(self.genes)}


def min_set_genes(n_tested: int) -> int:
    """Number of tested genes that a set needs, where ``n_tested`` genes were tested in all."""
    return MIN_SET_GENES if n_tested >= FULL else PANEL_SET_GENES


def effect_background(de: pd.DataFrame, *, perturbations: Mapping[str, PerturbationEntry]) -> Background:
    """Standardise the effects of the tested genes, and compute the statistic of every known response.

    Parameters
    ----------
    de
        From :func:`compute_de`. Of a gene that occurs twice the first row counts.
    perturbations
        The perturbations of the knowledge tables with their signed response genes.
    """
    tested = de[de[keys.IS_TESTED].to_numpy(bool)].drop_duplicates(keys.GENE)
    background = Background(
        genes=pd.Index(tested[keys.GENE].to_numpy(object)),
        z=standardise(tested[keys.DELTA].to_numpy(float), tested[SD].to_numpy(float)),
        level=tested[MEAN_CONTROL].to_numpy(float),
    )
    for name, entry in perturbations.items():
        if background.locate(entry.response)[0].size >= MIN_SET_GENES:
            background.strengths[name] = background.statistic(entry.response)
    return background


def standardise(delta: NDArray[np.float64], sd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Delta / (sd + median sd); 0 where no gene varies at all.

    Notes
    -----
    Without the constant in the denominator, genes of small spread would lead every ranking.

    References
    ----------
    Tusher, Tibshirani and Chu, PNAS 98:5116 (2001), for a constant added to the standard deviation.
    """
    scale = sd + (np.median(sd) if sd.size else 0.0)
    return np.divide(delta, scale, out=np.zeros_like(delta), where=scale > 0)
