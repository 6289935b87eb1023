"""The table of all pathways: those that the question expects and those that the prediction shows.

In: effects on the tested genes, the self-contained null by pathway. Out: one row per pathway, best first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.components.gene_set import leading_genes, without_competing
from haystack_kernel.grounding.components.score import best_of_many, score_from_p
from haystack_kernel.grounding.de.background import MIN_SET_GENES, effect_background
from haystack_kernel.grounding.signatures.enrichment import COLUMNS as ENRICHMENT
from haystack_kernel.grounding.signatures.enrichment import compute_enrichment

if TYPE_CHECKING:
    from haystack_kernel.grounding.de.background import Background, SignedSet
    from haystack_kernel.grounding.nulls.self_contained import SelfContained
    from haystack_kernel.grounding.records import Basis

COLUMNS = (
    "pathway",
    "statistic",
    "p_specificity",
    "p_signal",
    "p_donors",
    "score",
    "n_genes",
    "is_expected",
    "leading_genes",
    *ENRICHMENT,
)
MAX_SCORED = 200  # the nulls of thousands of sets would take minutes; expected pathways are always scored


def pathway_key(name: str) -> str:
    """Name of a pathway among the sets of one self-contained null, apart from the components' names."""
    return f"pathway:{name}"


def pathway_sets(de: pd.DataFrame, *, basis: Basis) -> dict[str, SignedSet]:
    """Signed genes of the pathways that :func:`compute_pathways` scores, by :func:`pathway_key`."""
    background = effect_background(de, perturbations=basis.knowledge.perturbations)
    sets = _tested_sets(background, basis)
    none_called = np.zeros(len(background.genes), dtype=bool)
    scored = _scored(compute_enrichment(background, none_called, sets), basis)
    return {pathway_key(name): genes for name, genes in sets.items() if name in scored}


def compute_pathways(de: pd.DataFrame, *, self_contained: SelfContained, basis: Basis) -> pd.DataFrame:
    """Score every pathway with at least five tested genes.

    Parameters
    ----------
    de
        From :func:`compute_de`.
    self_contained
        Self-contained null of :func:`pathway_sets`.
    basis
        Query, knowledge, settings and context.

    Returns
    -------
    ``pathway``, ``statistic`` (mean of s_g z_g; > 0: activated), ``p_specificity`` (competitive null), ``p_signal``
    (self-contained null) and ``p_donors`` (the same over donors; all one-sided in the expected direction, two-sided for
    a pathway that was not expected, NaN where not computed), ``score`` (1..10 from the largest p; NaN, like every p,
    for sets beyond the ``MAX_SCORED`` of largest ``ulm_t``), ``n_genes`` tested, ``is_expected``, ``leading_genes``
    joined by ";" (those that move with the statistic), and the columns of :func:`compute_enrichment`, whose background
    is the tested genes. Sorted by score, then by the size of the statistic times the root of the number of genes. The
    table is empty, with the columns, when fewer genes were tested than the components need.
    """
    background = effect_background(de, perturbations=basis.knowledge.perturbations)
    if len(background.genes) < basis.settings.min_tested_genes:
        return pd.DataFrame(columns=list(COLUMNS))
    sets = _tested_sets(background, basis)
    called = de.drop_duplicates(keys.GENE).set_index(keys.GENE)[keys.IS_DE].reindex(background.genes).to_numpy(bool)
    enriched = compute_enrichment(background, called, sets)
    scored = _scored(enriched, basis)
    rows = []
    for name, genes in sets.items():
        expected = basis.query.expected_pathways.get(name, 0)
        statistic = background.statistic(genes)
        p_values = (np.nan, np.nan, np.nan, np.nan)
        if name in scored:
            # Without an expectation the direction is chosen by looking at the data, so p is doubled (two-sided test).
            n_sides, direction = (1, expected) if expected else (2, 1 if statistic >= 0 else -1)
            key = pathway_key(name)
            moved = {gene: sign * direction for gene, sign in genes.items()}
            tails = without_competing(background, moved, name=key, basis=basis, spared=(name,)).tails
            competitive = min(1.0, n_sides * tails.up)
            # np.minimum keeps the NaN of a self-contained null that could not be computed; nanmax then leaves it out.
            contained = float(np.minimum(1.0, n_sides * self_contained.get(key).expected(direction)))
            over_donors = float(np.minimum(1.0, n_sides * self_contained.over_donors(key).expected(direction)))
            p = best_of_many(float(np.nanmax([competitive, contained, over_donors])), n_scored=basis.context.n_scored)
            p_values = (competitive, contained, over_donors, score_from_p(p))
        moving = genes if statistic >= 0 else {gene: -sign for gene, sign in genes.items()}
        n_genes, leading = int(background.locate(genes)[0].size), ";".join(leading_genes(background, moving))
        rows.append((name, statistic, *p_values, n_genes, bool(expected), leading))
    table = pd.DataFrame(rows, columns=list(COLUMNS[: -len(ENRICHMENT)]))
    table = pd.concat([table, enriched.reset_index(drop=True)], axis=1)
    size = table["statistic"].to_numpy(float) * np.sqrt(table["n_genes"].to_numpy(float))
    score = table["score"].fillna(0.0).to_numpy(float)
    order = np.lexsort((table["pathway"].astype(str), -np.abs(size), -score))
    return table.iloc[order].reset_index(drop=True)


def _tested_sets(background: Background, basis: Basis) -> dict[str, SignedSet]:
    every = {name: pathway.genes for name, pathway in basis.knowledge.pathways.items()}
    return {name: genes for name, genes in every.items() if background.locate(genes)[0].size >= MIN_SET_GENES}


def _scored(enriched: pd.DataFrame, basis: Basis) -> set[str]:
    """The expected pathways, and those of largest ``ulm_t``."""
    strongest = enriched["ulm_t"].abs().sort_values(ascending=False, kind="stable").index[:MAX_SCORED]
    return {*strongest, *basis.query.expected_pathways}
