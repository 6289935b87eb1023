"""The table of all pathways: those the question expects and those the prediction shows.

In: effects on the tested genes, p_signal by pathway. Out: one row per pathway, best first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.components.perturbational import leading_genes, specificity
from haystack_kernel.grounding.components.score import best_of_many, score_from_p
from haystack_kernel.grounding.signatures.enrichment import COLUMNS as ENRICHMENT
from haystack_kernel.grounding.signatures.enrichment import compute_enrichment
from haystack_kernel.grounding.signatures.sets import MIN_SET_GENES, effect_background

if TYPE_CHECKING:
    from haystack_kernel.grounding.nulls.draws import Signal
    from haystack_kernel.grounding.records import Basis
    from haystack_kernel.grounding.signatures.sets import Background, SignedSet

COLUMNS = (
    "pathway",
    "statistic",
    "p_specificity",
    "p_signal",
    "score",
    "n_genes",
    "is_expected",
    "leading_genes",
    *ENRICHMENT,
)
MAX_JUDGED = 200  # nulls of thousands of sets would take minutes; expected ones are judged always


def pathway_key(name: str) -> str:
    """Name of a pathway among the sets of one p_signal computation, apart from the components' names."""
    return f"pathway:{name}"


def pathway_sets(de: pd.DataFrame, *, basis: Basis) -> dict[str, SignedSet]:
    """Signed genes of the pathways that :func:`compute_pathways` judges, by :func:`pathway_key`."""
    background = effect_background(de, perturbations=basis.knowledge.perturbations)
    sets = _tested_sets(background, basis)
    judged = _judged(compute_enrichment(background, np.zeros(len(background.genes), dtype=bool), sets), basis)
    return {pathway_key(name): genes for name, genes in sets.items() if name in judged}


def compute_pathways(de: pd.DataFrame, *, signal: Signal, basis: Basis) -> pd.DataFrame:
    """Score every pathway with at least five tested genes.

    Parameters
    ----------
    de
        From :func:`compute_de`.
    signal
        p_signal of :func:`pathway_sets`.
    basis
        Query, knowledge, settings and context.

    Returns
    -------
    ``pathway``, ``statistic`` (mean of s_g z_g; > 0: activated), ``p_specificity`` and ``p_signal`` (one-sided in the
    expected direction; for a pathway that was not expected two-sided, and NaN where not computed), ``score`` (1..10
    from the larger p; NaN, like both p, for sets beyond the ``MAX_JUDGED`` of largest ``ulm_t``), ``n_genes`` tested,
    ``is_expected``, ``leading_genes`` joined by ";" (those moving with the statistic), and the columns of
    :func:`compute_enrichment`, whose background is the tested genes. Sorted by score, then by the size of the statistic
    times the root of the number of genes. Empty, with the columns, when fewer genes were tested than the components
    need.
    """
    background = effect_background(de, perturbations=basis.knowledge.perturbations)
    if len(background.genes) < basis.settings.min_tested_genes:
        return pd.DataFrame(columns=list(COLUMNS))
    sets = _tested_sets(background, basis)
    called = de.drop_duplicates(keys.GENE).set_index(keys.GENE)[keys.IS_DE].reindex(background.genes).to_numpy(bool)
    enriched = compute_enrichment(background, called, sets)
    judged = _judged(enriched, basis)
    rows = [_row(name, background=background, signal=signal, basis=basis, judge=name in judged) for name in sets]
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in ENRICHMENT])
    table = pd.concat([table, enriched.reset_index(drop=True)], axis=1)
    size = table["statistic"].to_numpy(float) * np.sqrt(table["n_genes"].to_numpy(float))
    score = table["score"].fillna(0.0).to_numpy(float)
    order = np.lexsort((table["pathway"].astype(str), -np.abs(size), -score))
    return table.iloc[order].reset_index(drop=True)


def _tested_sets(background: Background, basis: Basis) -> dict[str, SignedSet]:
    every = {name: pathway.genes for name, pathway in basis.knowledge.pathways.items()}
    return {name: genes for name, genes in every.items() if background.place(genes)[0].size >= MIN_SET_GENES}


def _judged(enriched: pd.DataFrame, basis: Basis) -> set[str]:
    """The expected sets, and those of largest ``ulm_t``."""
    strongest = enriched["ulm_t"].abs().sort_values(ascending=False, kind="stable").index[:MAX_JUDGED]
    return {*strongest, *basis.query.expected_pathways}


def _row(name: str, *, background: Background, signal: Signal, basis: Basis, judge: bool) -> tuple[object, ...]:
    genes, key = basis.knowledge.pathways[name].genes, pathway_key(name)
    statistic = background.statistic(genes)
    expected = basis.query.expected_pathways.get(name, 0)
    direction = expected or (1 if statistic >= 0 else -1)
    moved = {gene: sign * direction for gene, sign in genes.items()}
    n_genes = int(background.place(genes)[0].size)
    shown = moved if statistic * direction >= 0 else {gene: -sign for gene, sign in moved.items()}
    leading = ";".join(leading_genes(background, shown))
    if not judge:
        return name, statistic, np.nan, np.nan, np.nan, n_genes, bool(expected), leading
    verdict = specificity(background, moved, name=key, basis=basis, spared=(name,))
    sides = 1 if expected else 2
    p_spec = min(1.0, sides * verdict.tails.up)
    p_sig = min(1.0, sides * signal.get(key).expected(direction))
    if np.isnan(signal.get(key).up):
        p_sig = float("nan")
    p = best_of_many(float(np.nanmax([p_spec, p_sig])), n_scored=basis.context.n_scored)
    return name, statistic, p_spec, p_sig, score_from_p(p), n_genes, bool(expected), leading
