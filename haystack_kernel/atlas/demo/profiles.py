"""Expression of untreated cells of the simulated world: gene abundances that are similar in related cell types.

In: a seed, the fixed gene list, marker genes of the knowledge tables. Out: shares of counts per cell type and gene.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.atlas.demo.facts import CELL_TYPES, KANG_ABUNDANCE
from haystack_kernel.knowledge import ancestors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from haystack_kernel.knowledge import Knowledge

    Draw = Callable[[np.random.Generator], NDArray[np.float64]]

GENES_FILE = Path(__file__).with_name("genes.txt")
_CLASS_SCORE = {"regulated": 0.0, "housekeeping": 0.9, "high": 2.6}
_CLASS_SPREAD = {"regulated": 1.3, "housekeeping": 0.5, "high": 0.5}  # sd of log abundance over cell types
_FRAC_CHANGED = 0.35  # of the genes, at each branch of the lineage tree
_MARKER_CP10K = (5.0, 40.0)
_FOREIGN_MARKER = -1.5  # natural log, a marker of other cell types only
_INDUCIBLE_CP10K = 0.3  # what a silent gene gains per unit of fold change
_INDUCIBLE_SPREAD = 0.8


def rng_of(seed: int, *words: str) -> np.random.Generator:
    """Return a generator that depends on the seed and on its purpose, but not on earlier draws."""
    key = hashlib.sha256("|".join(words).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(key[:8], "little")])


@functools.cache
def load_genes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return symbols of the packaged gene list in its order, and the abundance class of each."""
    lines = [line for line in GENES_FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    symbols, classes = zip(*(line.split("\t") for line in lines), strict=True)
    return symbols, classes


def tree_noise(seed: int, *words: str, draw: Draw) -> NDArray[np.float64]:
    """Noise that related cell types share: one draw per branch of the lineage tree, averaged along the path.

    Parameters
    ----------
    draw
        Returns one branch's draw (mean 0); called with a generator of the branch's own.

    Returns
    -------
    One row per cell type with the variance of one draw; two types correlate by the share of their common path.
    """
    drawn: dict[str, NDArray[np.float64]] = {}
    rows = []
    for cell_type in CELL_TYPES:
        path = ["/".join(cell_type.lineage[: depth + 1]) for depth in range(len(cell_type.lineage))] + [cell_type.id]
        for node in path:
            if node not in drawn:
                drawn[node] = draw(rng_of(seed, *words, node))
        rows.append(np.sum([drawn[node] for node in path], axis=0) / np.sqrt(len(path)))
    return np.array(rows)


def make_abundance(seed: int, *, knowledge: Knowledge) -> NDArray[np.float64]:
    """Share of the counts of an untreated cell by cell type and gene; rows sum to 1."""
    genes, classes = load_genes()
    rng = rng_of(seed, "abundance")
    score = np.array([_CLASS_SCORE[name] for name in classes]) + rng.normal(0, 0.8, len(genes))
    quantile = (score.argsort().argsort() + 0.5) / len(genes)
    base = np.interp(quantile, list(KANG_ABUNDANCE), np.log(list(KANG_ABUNDANCE.values())))
    spread = np.array([_CLASS_SPREAD[name] for name in classes])

    def branch(rng: np.random.Generator) -> NDArray[np.float64]:
        changed = rng.random(len(genes)) < _FRAC_CHANGED
        return changed * rng.normal(0, 1 / np.sqrt(_FRAC_CHANGED), len(genes))

    log_share = base + spread * tree_noise(seed, "profile", draw=branch)
    log_share = _with_markers(log_share, seed=seed, knowledge=knowledge)
    share = np.exp(log_share)
    return share / share.sum(axis=1, keepdims=True)


def make_inducible(seed: int) -> NDArray[np.float64]:
    """Share of counts that a silent gene gains per unit of fold change, by cell type and gene (open chromatin)."""
    genes, _ = load_genes()
    noise = tree_noise(seed, "inducible", draw=lambda rng: rng.normal(0, _INDUCIBLE_SPREAD, len(genes)))
    return _INDUCIBLE_CP10K / 1e4 * np.exp(noise)


def _with_markers(log_share: NDArray[np.float64], *, seed: int, knowledge: Knowledge) -> NDArray[np.float64]:
    """Raise the markers of each cell type, and lower those of the other cell types."""
    genes, _ = load_genes()
    place = {gene: column for column, gene in enumerate(genes)}
    own = [_markers_of(cell_type.id, knowledge=knowledge).intersection(place) for cell_type in CELL_TYPES]
    marked = log_share.copy()
    for gene in sorted(set().union(*own)):
        level = rng_of(seed, "marker", gene).uniform(*np.log(_MARKER_CP10K))
        for row, markers in enumerate(own):
            column = place[gene]
            if gene in markers:
                marked[row, column] = max(level, marked[row, column])
            else:
                marked[row, column] += _FOREIGN_MARKER
    return marked


def _markers_of(identifier: str, *, knowledge: Knowledge) -> set[str]:
    """Markers of a cell type and of the broader types that it is one of."""
    known = knowledge.cell_types
    if identifier not in known:
        return set()
    terms = (identifier, *ancestors(identifier, knowledge=knowledge))
    return {gene for term in terms if term in known for gene in known[term].markers}
