"""Compare two runs: what was asked, what the predictions rest on, and how far they agree.

In: two run ids. Out: :class:`Comparison`, which is a table in notebooks, text in terminals, and data frames in code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import NotFoundError
from haystack_kernel.report.html import Html, items, paragraph, table
from haystack_kernel.store import check_run_id, layout, read_csv

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.ports import Store
    from haystack_kernel.schema import RunRecord, Settings

N_PATHWAYS = 10
MIN_SHARED = 10  # genes; a correlation over fewer is not informative
_NO_TABLE = "has no scored round"


@dataclass(frozen=True, eq=False)
class Comparison:
    """How two runs agree and differ. ``genes`` and ``pathways`` have one row per name.

    ``genes``: ``gene``, ``log2fc_a``, ``log2fc_b``, ``is_de_a``, ``is_de_b``, ``flipped`` (called in both, opposite
    signs), for the genes that both runs have. ``pathways``: ``pathway``, ``score_a``, ``score_b``, highest first.
    ``pearson`` and ``spearman`` compare the effects on ``n_shared`` genes; where they are NaN, ``reason`` says why.
    """

    run_a: str
    run_b: str
    differences: tuple[dict[str, Any], ...]
    scores: tuple[dict[str, Any], ...]
    genes: pd.DataFrame
    pathways: pd.DataFrame
    n_shared: int = 0
    n_genes: tuple[int, int] = (0, 0)
    pearson: float = math.nan
    spearman: float = math.nan
    reason: str = ""
    titles: tuple[str, str] = field(default=("", ""))

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of genes called differentially expressed: in both runs, with opposite signs, in one run only."""
        a, b = self.genes["is_de_a"], self.genes["is_de_b"]
        return {
            "de_both": int((a & b).sum()),
            "sign_flips": int(self.genes["flipped"].sum()),
            "de_only_a": int((a & ~b).sum()),
            "de_only_b": int((b & ~a).sum()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; gene lists contain the 30 largest effects."""
        both = self.genes[self.genes["is_de_a"] & self.genes["is_de_b"]]
        return {
            "run_a": self.run_a,
            "run_b": self.run_b,
            "differences": list(self.differences),
            "scores": list(self.scores),
            "n_genes_a": self.n_genes[0],
            "n_genes_b": self.n_genes[1],
            "n_shared": self.n_shared,
            "pearson": self.pearson,
            "spearman": self.spearman,
            "reason": self.reason,
            **self.counts,
            "shared_genes": both[keys.GENE].head(30).tolist(),
            "flipped_genes": self.genes.loc[self.genes["flipped"], keys.GENE].head(30).tolist(),
            "pathways": self.pathways.head(N_PATHWAYS).to_dict(orient="records"),
        }

    def to_frame(self) -> pd.DataFrame:
        """Scores of both runs: ``what``, ``a``, ``b``, ``difference`` (b - a); NaN where a run has no score."""
        import pandas as pd

        frame = pd.DataFrame(list(self.scores), columns=["what", "a", "b"])
        return frame.assign(difference=frame["b"] - frame["a"])

    def __repr__(self) -> str:
        return repr(self.html())

    def _repr_html_(self) -> str:
        return self.html()._repr_html_()

    def summary(self) -> list[str]:
        """What was compared and how far effects and calls agree, one sentence each."""
        counts = self.counts
        calls = (
            f"genes called in both runs: {counts['de_both']} ({counts['sign_flips']} with opposite signs), only in a: "
            f"{counts['de_only_a']}, only in b: {counts['de_only_b']}"
        )
        n_a, n_b = self.n_genes
        correlation = (
            f"effects on {self.n_shared:,} shared genes (of {n_a:,} and {n_b:,}): Pearson {self.pearson:.3f}, "
            f"Spearman {self.spearman:.3f}"
        )
        if self.reason:
            correlation = f"effects cannot be compared: {self.reason}"
        return [f"a: {self.run_a}, {self.titles[0]}", f"b: {self.run_b}, {self.titles[1]}", correlation, calls]

    def html(self, *, with_titles: bool = True) -> Html:
        """The comparison as an HTML fragment; every text is escaped. ``with_titles`` says first which runs they are."""
        said = [(str(row["what"]).replace("_", " "), row["a"], row["b"]) for row in self.differences]
        scored = [(what.replace("_", " "), *rest) for what, *rest in self.to_frame().itertuples(index=False, name=None)]
        shown = self.pathways.head(N_PATHWAYS).itertuples(index=False, name=None)
        differences = paragraph("Question, options and inputs are the same.")
        if said:
            differences = table(("what", "a", "b"), said, caption="Differences")
        parts = [
            items(self.summary()[0 if with_titles else 2 :]),
            differences,
            table(("score", "a", "b", "b - a"), scored, caption="Scores, 1 (chance) to 10"),
            table(("pathway", "a", "b"), shown, caption="Pathways with the highest scores in either run"),
        ]
        return Html("".join(parts))


def compare(run_a: str, run_b: str, *, storage: str | None = None, settings: Settings | None = None) -> Comparison:
    """Compare the questions, options, scores and predicted effects of two runs.

    Effects are the log2 fold changes of the best rounds, on the genes that both runs have. Both runs are only read.

    Parameters
    ----------
    run_a, run_b
        Ids of two runs in one storage.
    storage
        Where the run folders are; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.

    Returns
    -------
    The comparison, which notebooks show as tables.

    Raises
    ------
    NotFoundError
        One of the runs does not exist.

    Examples
    --------
    >>> import haystack_kernel as haystack
    >>> found = haystack.compare("run-20260102t030405-1a2b3c", "run-20260103t030405-4d5e6f")  # doctest: +SKIP
    >>> found.pearson  # doctest: +SKIP
    0.91
    >>> found.to_frame()  # doctest: +SKIP
    """
    import numpy as np
    import pandas as pd

    store = connect(settings or load_settings(storage=storage)).store
    records = [store.load(check_run_id(run_id)) for run_id in (run_a, run_b)]
    genes, n_genes, reason = _genes(records, store)
    pearson = spearman = math.nan
    if not reason:
        effects = genes[["log2fc_a", "log2fc_b"]].astype(float)
        if len(genes) < MIN_SHARED:
            reason = f"only {len(genes)} genes are in both runs"
        elif (effects.nunique() < 2).any():
            reason = "the effects of one run are the same for every shared gene"
        else:
            ranks = effects.rank()  # Spearman's correlation is Pearson's of the ranks
            pearson = float(np.corrcoef(effects["log2fc_a"], effects["log2fc_b"])[0, 1])
            spearman = float(np.corrcoef(ranks["log2fc_a"], ranks["log2fc_b"])[0, 1])
    tables = []
    for record, side in zip(records, ("a", "b"), strict=True):
        found, _ = _best_table(record, store, name=layout.PATHWAYS)
        rows = found[["pathway", "score"]] if found is not None else pd.DataFrame({"pathway": [], "score": []})
        tables.append(rows.astype({"pathway": object, "score": float}).rename(columns={"score": f"score_{side}"}))
    pathways = tables[0].merge(tables[1], on="pathway", how="outer")
    best = pathways[["score_a", "score_b"]].max(axis=1).sort_values(ascending=False, kind="stable", na_position="last")
    return Comparison(
        run_a=run_a,
        run_b=run_b,
        differences=tuple(_differences(*records)),
        scores=tuple(_scores(*records)),
        genes=genes,
        pathways=pathways.loc[best.index].reset_index(drop=True),
        n_shared=len(genes),
        n_genes=n_genes,
        pearson=pearson,
        spearman=spearman,
        reason=reason,
        titles=(records[0].question, records[1].question),
    )


def _genes(records: list[RunRecord], store: Store) -> tuple[pd.DataFrame, tuple[int, int], str]:
    """Effects of both runs, largest first; the number of genes of each run; and why there is no table."""
    import pandas as pd

    columns = ["gene", "log2fc_a", "log2fc_b", "is_de_a", "is_de_b", "flipped"]
    tables, missing = [], []
    for record in records:
        found, why = _best_table(record, store, name=layout.DE)
        if found is None:
            missing.append(why)
        else:
            tables.append(found[[keys.GENE, keys.LOG2FC, keys.IS_DE]].dropna(subset=[keys.LOG2FC]))
    if missing:
        empty = pd.DataFrame({name: pd.Series(dtype=bool if "_de_" in name else object) for name in columns})
        return empty.astype({"flipped": bool}), (0, 0), "; ".join(missing)
    both = tables[0].merge(tables[1], on=keys.GENE, suffixes=("_a", "_b"))
    for name in ("is_de_a", "is_de_b"):
        both[name] = both[name].astype(bool)
    both["flipped"] = both["is_de_a"] & both["is_de_b"] & (both["log2fc_a"] * both["log2fc_b"] < 0)
    largest = both[["log2fc_a", "log2fc_b"]].abs().max(axis=1)
    both = both.loc[largest.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    return both[columns], (len(tables[0]), len(tables[1])), ""


def _best_table(record: RunRecord, store: Store, *, name: str) -> tuple[pd.DataFrame | None, str]:
    """A table of the run's best round; None with the reason where there is none."""
    if record.best_round is None:
        return None, f"run {record.run_id} {_NO_TABLE}"
    try:
        return read_csv(store, record.run_id, layout.round_file(record.best_round, name)), ""
    except NotFoundError as error:
        return None, str(error)


def _differences(a: RunRecord, b: RunRecord) -> list[dict[str, Any]]:
    """All facts in which the two runs differ, from the question to the digests."""
    found: list[dict[str, Any]] = []
    for (name, one), (_, other) in zip(_facts(a).items(), _facts(b).items(), strict=True):
        if isinstance(one, dict):
            every = list(dict.fromkeys((*one, *other)))
            rows = [(f"{name} {key}".strip(), one.get(key), other.get(key)) for key in every]
        else:
            rows = [(name, one, other)]
        found += [{"what": what, "a": _shown(x), "b": _shown(y)} for what, x, y in rows if x != y]
    return found


def _facts(record: RunRecord) -> dict[str, Any]:
    """What is compared of a run: the question, options, settings, best round, versions and digests."""
    best = record.best
    flat = {f"{section}.{key}": value for section, values in record.settings.items() for key, value in values.items()}
    return {
        "question": record.question,
        "status": record.status,
        "": record.config.model_dump(mode="json"),
        "setting": flat,
        "prompt": [item.key for item in best.candidates] if best else [],
        "query cells": best.query_cells if best else "",
        "control strategy used": best.control_strategy if best else "",
        "rounds": len(record.rounds),
        "termination": record.termination,
        "model": best.model.sha256[:12] if best and best.model else None,
        "version": record.versions,
        "digest": record.digests,
    }


def _scores(a: RunRecord, b: RunRecord) -> list[dict[str, Any]]:
    """Composite and components of both best rounds; NaN where a run has no score."""
    sides = []
    for record in (a, b):
        best = record.best
        components = {item.name: item.score for item in best.components} if best else {}
        sides.append({"composite": record.score, **components})
    names = dict.fromkeys((*sides[0], *sides[1]))
    return [{"what": name, "a": sides[0].get(name, math.nan), "b": sides[1].get(name, math.nan)} for name in names]


def _shown(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return "; ".join(map(str, value))
    if value is None:
        return ""
    return value if isinstance(value, (int, float, str)) else str(value)
