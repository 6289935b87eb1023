"""The table of all pathways: those the question expects and those the prediction shows.

In: effects on the tested genes, p_signal by pathway. Out: one row per pathway, best first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.components import leading_genes, specificity
from haystack_kernel.grounding.enrichment import linear_model, over_representation
from haystack_kernel.grounding.score import best_of_many, score_from_p
from haystack_kernel.grounding.signatures import MIN_SET_GENES, effect_background

if TYPE_CHECKING:
    from haystack_kernel.grounding.nulls import Signal
    from haystack_kernel.grounding.records import Basis
    from haystack_kernel.grounding.signatures import Background, SignedSet

NAN = float("nan")
MAX_NULL_SETS = 150  # sets put to the nulls besides the expected ones
MAX_NULL_GENES = 500  # of such a set
COLUMNS = (
    "pathway",
    "statistic",
    "p_specificity",
    "p_signal",
    "score",
    "n_genes",
    "is_expected",
    "leading_genes",
    "ulm_score",
    "ulm_padj",
    "ora_odds",
    "ora_padj",
    "n_background",
    "reason",
)


def pathway_key(name: str) -> str:
    """Name of a pathway among the sets of one p_signal computation, apart from the components' names."""
    return f"pathway:{name}"


def pathway_sets(de: pd.DataFrame, *, basis: Basis) -> dict[str, SignedSet]:
    """Signed genes of the pathways that are put to the nulls, by :func:`pathway_key`.

    All of them, up to 150 that the question does not expect: of more, as when collections of a user's own were added,
    those with the largest t in the linear model, and none of more than 500 tested genes.
    """
    background = effect_background(de, perturbations={})
    sizes = {name: background.place(pathway.genes)[0].size for name, pathway in basis.knowledge.pathways.items()}
    names = [name for name, size in sizes.items() if size >= MIN_SET_GENES]
    expected = [name for name in names if name in basis.query.expected_pathways]
    others = [name for name in names if name not in basis.query.expected_pathways]
    if len(others) > MAX_NULL_SETS:
        others = [name for name in others if sizes[name] <= MAX_NULL_GENES]
        fit = np.abs(linear_model(background, [basis.knowledge.pathways[name].genes for name in others]).score)
        others = [others[i] for i in np.argsort(-fit, kind="stable")[:MAX_NULL_SETS]]
    return {pathway_key(name): basis.knowledge.pathways[name].genes for name in (*expected, *others)}


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
    from the larger p; NaN where the set was not put to the nulls, and ``reason`` says so), ``n_genes`` tested,
    ``is_expected``, ``leading_genes`` joined by ";" (those moving with the statistic), ``ulm_score`` and ``ulm_padj``
    of :func:`linear_model`, ``ora_odds`` and ``ora_padj`` of :func:`over_representation` (read in the expected
    direction, else that of the statistic), ``n_background`` tested genes that both compare with. Sorted by score,
    then by the size of the statistic times the root of the number of genes. Empty, with the columns, when fewer genes
    were tested than the components need.
    """
    background = effect_background(de, perturbations=basis.knowledge.perturbations)
    if len(background.genes) < basis.settings.min_tested_genes:
        return pd.DataFrame(columns=list(COLUMNS))
    known = basis.knowledge.pathways
    names = [name for name in known if background.place(known[name].genes)[0].size >= MIN_SET_GENES]
    nulls = pathway_sets(de, basis=basis)
    rows = [_row(name, background=background, signal=signal, basis=basis, nulls=nulls) for name in names]
    table = pd.DataFrame(rows, columns=list(COLUMNS[:8]))
    sets = [known[name].genes for name in names]
    directions = np.array([_direction(name, background=background, basis=basis) for name in names], dtype=float)
    linear = linear_model(background, sets)
    over = over_representation(background, sets, called=_calls(de), directions=directions)
    columns = (linear.score, linear.padj, over.score, over.padj)
    for column, values in zip(COLUMNS[8:12], columns, strict=True):
        table[column] = values
    table["n_background"] = len(background.genes)
    unjudged = (
        f"not among the {MAX_NULL_SETS} sets of at most {MAX_NULL_GENES} genes that fit best: not put to the nulls"
    )
    table["reason"] = ["" if pathway_key(name) in nulls else unjudged for name in names]
    size = table["statistic"].to_numpy(float) * np.sqrt(table["n_genes"].to_numpy(float))
    order = np.lexsort((table["pathway"].astype(str), -np.abs(size), -table["score"].to_numpy(float)))
    return table.iloc[order].reset_index(drop=True)


def _direction(name: str, *, background: Background, basis: Basis) -> int:
    expected = basis.query.expected_pathways.get(name, 0)
    return expected or (1 if background.statistic(basis.knowledge.pathways[name].genes) >= 0 else -1)


def _calls(de: pd.DataFrame) -> np.ndarray:
    """Per tested gene +1, -1 or 0, in the order of the background."""
    tested = de[de[keys.IS_TESTED].to_numpy(bool)].drop_duplicates(keys.GENE)
    return np.sign(tested[keys.LOG2FC].to_numpy(float)) * tested[keys.IS_DE].to_numpy(bool)


def _row(
    name: str, *, background: Background, signal: Signal, basis: Basis, nulls: dict[str, SignedSet]
) -> tuple[object, ...]:
    genes, key = basis.knowledge.pathways[name].genes, pathway_key(name)
    statistic = background.statistic(genes)
    expected = basis.query.expected_pathways.get(name, 0)
    direction = _direction(name, background=background, basis=basis)
    moved = {gene: sign * direction for gene, sign in genes.items()}
    p_spec = p_sig = p = NAN
    if key in nulls:
        verdict = specificity(background, moved, name=key, basis=basis, spared=(name,))
        sides = 1 if expected else 2
        p_spec = min(1.0, sides * verdict.tails.up)
        tail = signal.get(key).expected(direction)
        p_sig = min(1.0, sides * tail) if not np.isnan(tail) else NAN
        p = best_of_many(float(np.nanmax([p_spec, p_sig])), n_scored=basis.context.n_scored)
    shown = moved if statistic * direction >= 0 else {gene: -sign for gene, sign in moved.items()}
    leading = ";".join(leading_genes(background, shown))
    n_genes = int(background.place(genes)[0].size)
    return name, statistic, p_spec, p_sig, score_from_p(p), n_genes, bool(expected), leading
