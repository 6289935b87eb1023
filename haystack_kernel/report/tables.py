"""The tables of the best round as HTML: genes, pathways and the cells that were used.

In: the tables of a run folder. Out: HTML tables with every text escaped, shortened; the files hold all rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.report.html import DOWN, UP, Html, bar, table
from haystack_kernel.report.words import P_VALUES
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

N_GENES_SHOWN = 300
N_PATHWAYS_SHOWN = 200
_FURTHER = {"ULM t": "ulm_t", "ULM adj. p": "ulm_padj", "ORA log odds": "ora_log_odds", "ORA adj. p": "ora_padj"}
_FLIPS = "flips"
_UNCERTAIN = {
    keys.EFFECT_LOW: "expected change, from",
    keys.EFFECT_HIGH: "to (80 %)",
    keys.LFSR: "lfsr",
    keys.PROB_DE: "P(DE)",
}
_ROLES = (keys.QUERY, keys.PROMPT, keys.CONTROL)


def gene_table(de: pd.DataFrame, *, expected: Mapping[str, int] | None = None) -> Html:
    """Return the tested genes with the largest change.

    Parameters
    ----------
    de
        One row per gene. ``flips`` (the call differs between the two control strategies) and, in runs of earlier
        versions, the columns of uncertainty may be absent.
    expected
        Gene -> +1 rises, -1 falls, as the question expects; None: nothing is expected.

    Returns
    -------
    A table that can be sorted and filtered where scripts run, at most 300 rows.

    Examples
    --------
    >>> gene_table(run.de, expected=run.query.expected_targets)  # doctest: +SKIP
    """
    expected = expected or {}
    tested = de[de[keys.IS_TESTED].astype(bool)]
    order = tested[keys.DELTA].abs().sort_values(ascending=False, kind="stable").index[:N_GENES_SHOWN]
    known = [name for name in _UNCERTAIN if name in de.columns]  # none in runs of earlier versions
    rows = []
    for row in tested.loc[order].to_dict("records"):
        call = ""
        if bool(row[keys.IS_DE]):
            call = f"{UP} rises" if row[keys.LOG2FC] > 0 else f"{DOWN} falls"
        remarks = []
        if bool(row.get(keys.PADDED, False)):
            remarks.append("not predicted")
        if bool(row.get(_FLIPS, False)):
            remarks.append("call differs between control strategies")
        rows.append(
            (
                str(row[keys.GENE]),
                call,
                {1: UP, -1: DOWN}.get(expected.get(str(row[keys.GENE]), 0), ""),
                float(row[keys.LOG2FC]),
                float(row[keys.DELTA]),
                *(float(row[name]) for name in known),
                float(row[keys.DETECTION_DIFF]),
                float(row[keys.AUROC]),
                float(row[keys.PADJ]),
                ", ".join(remarks),
            )
        )
    columns = (
        "gene",
        "DE call",
        "expected",
        "log2 fold change",
        "mean log1p change",
        *(_UNCERTAIN[name] for name in known),
        "change in detection rate",
        "AUROC",
        "rank test, adj. p",
        "remark",
    )
    caption = (
        f"{len(rows):,} of {len(tested):,} tested genes, largest mean change first (all genes: {layout.DE}). "
        "A gene is called where its change in the cells asked about has the wrong sign with a probability (lfsr) below "
        "5 %; P(DE): of a change beyond 0.1. The rank test depends on the number of generated cells and calls nothing."
    )
    return Html(table(columns, rows, caption=caption, kind="sortable"))


def pathway_table(pathways: pd.DataFrame) -> Html:
    """Return the first 200 pathways in the order of the file.

    Parameters
    ----------
    pathways
        One row per pathway; ``leading_genes`` and the columns of ULM and ORA may be absent.

    Returns
    -------
    A table that can be sorted and filtered where scripts run, at most 200 rows.

    Examples
    --------
    >>> pathway_table(run.pathways)  # doctest: +SKIP
    """
    further = {name: column for name, column in _FURTHER.items() if column in pathways}
    rows = [
        (
            str(row["pathway"]),
            bar(float(row["score"])),
            bool(row["is_expected"]),
            float(row["statistic"]),
            *(float(row.get(column, math.nan)) for column in P_VALUES),
            int(row["n_genes"]),
            ", ".join(str(row.get("leading_genes", "")).replace("nan", "").split(";")[:5]),
            *(float(row[column]) for column in further.values()),
        )
        for row in pathways.head(N_PATHWAYS_SHOWN).to_dict("records")
    ]
    columns = ("pathway", "score", "expected", "statistic", *P_VALUES.values(), "genes", "leading genes")
    caption = (
        f"Pathways, expected and discovered (all pathways: {layout.PATHWAYS}). The self-contained null permutes prompt "
        "labels; the competitive null draws matched gene sets."
    )
    if further and len(pathways):
        n_background = int(pathways["n_background"].iloc[0])
        caption += f" ULM and ORA compare with all {n_background:,} tested genes and assume that genes are independent."
    return Html(table((*columns, *further), rows, caption=caption, kind="sortable"))


def cell_table(prompts: pd.DataFrame) -> Html:
    """Return the cells used, grouped by role, dataset, cell type and treatment, with the number of donors.

    Parameters
    ----------
    prompts
        One row per cell and role.

    Returns
    -------
    One row per group, by role, the largest first.

    Examples
    --------
    >>> cell_table(run.prompts)  # doctest: +SKIP
    """
    by = [keys.ROLE, keys.DATASET, keys.CELL_TYPE, keys.PERTURBATION]
    filled = prompts.assign(**{name: prompts[name].fillna("").astype(str) for name in by})
    groups = filled.groupby(by, sort=False)[keys.DONOR].agg(["size", "nunique"]).reset_index()
    groups = groups.sort_values("size", ascending=False, kind="stable")
    rows = [
        (role, cell_type or "any", treatment or "none", dataset, int(n_cells), int(n_donors))
        for wanted in _ROLES
        for role, dataset, cell_type, treatment, n_cells, n_donors in groups.itertuples(index=False)
        if role == wanted
    ]
    caption = f"The {len(prompts):,} cells used; all cell ids are in {layout.PROMPTS}"
    return Html(table(("role", "cell type", "treatment", "dataset", "cells", "donors"), rows, caption=caption))
