"""Answers every question about cells before anything is spent on them, even where one of the answers is no.

In: an AnnData and, where there is a model, its genes. Out: ``Preflight``: yes/no answers, coverage, refusals.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from inference.checks import Checked, check_counts
from inference.errors import InputError
from inference.genes import gene_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from inference.genes import KnownGenes

LOW_COVERAGE = 0.5  # share of the model's genes below which coverage is a warning
COVERAGE = "model genes covered"  # the question that concerns a model
_N_EXAMPLES = 5


@dataclass(frozen=True)
class Answer:
    """The answer to one question: ``ok`` is True for yes, False where the cells are refused, None for a note."""

    question: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Preflight:
    """All answers about one set of cells.

    ``frac_model_genes`` is the share of the model's genes that the cells have, 0 to 1; NaN where no model was named or
    the genes could not be read. ``refusals`` say what was given and how to fix it; empty where the cells can be used.
    """

    name: str
    n_cells: int
    n_genes: int
    answers: tuple[Answer, ...]
    refusals: tuple[str, ...]
    frac_model_genes: float

    @property
    def ok(self) -> bool:
        """Whether the cells can be used."""
        return not self.refusals

    @property
    def lines(self) -> list[str]:
        """The answers as text, one a line."""
        marks = {True: "yes", False: "NO", None: "note"}
        return [f"{marks[one.ok]:>4}  {one.question}: {one.detail}" for one in self.answers]


def examine(
    adata: AnnData,
    *,
    name: str = "cells",
    model_genes: Sequence[str] | None = None,
    known: KnownGenes | None = None,
) -> tuple[Preflight, Checked | None]:
    """Answer every question that can be answered.

    Parameters
    ----------
    adata
        Cells x genes.
    name
        Prefix of every refusal.
    model_genes
        The model's genes, in any order and case; None where no model is involved.
    known
        Table of genes that gives Ensembl ids a symbol where the file has none.

    Returns
    -------
    The answers, and the checked counts; None instead of the counts where an answer is a refusal.
    """
    checked, refusals = _checked(adata, name, model_genes, known)
    is_there = bool(adata.n_obs and adata.n_vars)
    answers = [Answer("cells and genes", is_there, f"{adata.n_obs} cells x {adata.n_vars} genes")]
    if refused := refusals.get("counts", refusals.get("")):  # "" where nothing more can be known
        answers.append(Answer("raw counts", ok=False, detail=refused))
    else:
        found = checked or check_counts(_only_counts(adata))
        beside = "" if found.source == "X" else ", X holds other values"
        detail = "; ".join([f"non-negative whole numbers in {found.source}{beside}", *found.doubts])
        answers.append(Answer("raw counts", ok=None if found.doubts else True, detail=detail))
    answers += _names(adata, checked, refusals)
    frac = float("nan")
    if checked is not None:
        if model_genes is not None:
            answer, frac = _coverage(checked.genes, model_genes, name=name, refusals=refusals)
            answers.append(answer)
        n_empty = int((np.diff(checked.counts.indptr) == 0).sum())
        told = f"{n_empty} of {adata.n_obs} hold no counts and stay empty" if n_empty else "every cell holds counts"
        answers.append(Answer("cells with counts", None if n_empty else True, told))
    told, repeated = "no name occurs twice", adata.obs_names[adata.obs_names.duplicated()].unique()
    if len(repeated):
        told = refusals["cells"] = (
            f"{name}: cell names repeat (obs index): {len(repeated)} of them, such as "
            f"{', '.join(map(str, repeated[:_N_EXAMPLES]))}. Call adata.obs_names_make_unique(), and save the file "
            "again where it is one."
        )
    answers.append(Answer("each cell name once", not len(repeated), told))
    preflight = Preflight(name, adata.n_obs, adata.n_vars, tuple(answers), tuple(refusals.values()), frac)
    return preflight, checked if preflight.ok else None


def load_model_genes(path: Path, *, name: str) -> tuple[str, ...]:
    """Read a model's gene list from a local file; raises :class:`inference.errors.ModelError`."""
    from inference.stack.genes import read_genes

    return read_genes(path, name=name)


def _checked(
    adata: AnnData, name: str, model_genes: Sequence[str] | None, known: KnownGenes | None
) -> tuple[Checked | None, dict[str, str]]:
    """Check the cells; where they are refused, check counts and genes separately to find every fault."""
    import anndata as ad

    try:
        return check_counts(adata, name=name, model_genes=model_genes, known=known), {}
    except InputError as error:
        refusals = {error.about: str(error)}
    if adata.n_obs and adata.n_vars:
        one_count = sparse.csr_matrix(([np.float32(1)], ([0], [0])), shape=(1, adata.n_vars))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # repeated names are reported as one of the answers
            only_genes = ad.AnnData(X=one_count, var=adata.var)
        for half in (_only_counts(adata), only_genes):
            try:
                check_counts(half, name=name, known=known)
            except InputError as error:
                refusals[error.about] = str(error)
    return None, refusals


def _only_counts(adata: AnnData) -> AnnData:
    """The same values under valid names."""
    import anndata as ad
    import pandas as pd

    def named(n: int) -> Any:  # noqa: ANN401 - a pandas DataFrame
        return pd.DataFrame(index=[f"GENE{number}" for number in range(n)])

    obs = pd.DataFrame(index=[str(number) for number in range(adata.n_obs)])
    bare = ad.AnnData(X=adata.X, obs=obs, var=named(adata.n_vars), layers=dict(adata.layers))
    if adata.raw is not None:
        bare.raw = ad.AnnData(X=adata.raw.X, obs=obs, var=named(adata.raw.shape[1]))
    return bare


def _names(adata: AnnData, checked: Checked | None, refusals: dict[str, str]) -> list[Answer]:
    var = adata.var if checked is None else checked.var
    ids = [str(item) for item in var.index]
    named_by = "symbols in the var index"
    if checked is not None and list(checked.genes) != ids:
        read = [note.partition(": ")[2] for note in checked.notes if "gene" in note]
        named_by = "; ".join(read) or "names are in the var index"
    told = {
        "symbols": ("gene names", named_by),
        "duplicates": ("each gene once", "no name occurs twice"),
        "species": ("human genes", "names are written as human genes are"),
    }
    answers, is_known = [], "" not in refusals
    for about, (question, detail) in told.items():
        if about in refusals:
            answers.append(Answer(question, ok=False, detail=refusals[about]))
            is_known = False
        elif is_known:
            answers.append(Answer(question, ok=True, detail=detail))
        else:  # the check stopped at the fault before this question
            answers.append(Answer(question, ok=None, detail="not looked at"))
    return answers


def _coverage(
    genes: Sequence[str], model_genes: Sequence[str], *, name: str, refusals: dict[str, str]
) -> tuple[Answer, float]:
    have, wanted = set(map(gene_key, genes)), set(map(gene_key, model_genes))
    n_found = len(wanted & have)
    frac = n_found / len(wanted) if wanted else float("nan")
    detail = (
        f"{frac:.1%} ({n_found} of {len(wanted)}); {len(have - wanted)} of the cells' genes are unknown to the model"
    )
    if not n_found:
        theirs, ours = ", ".join(sorted(have)[:_N_EXAMPLES]), ", ".join(sorted(wanted)[:_N_EXAMPLES])
        refusals["coverage"] = (
            f"{name}: none of the model's {len(wanted)} genes is among the cells' {len(have)} (the cells have "
            f"{theirs}; the model {ours}); name genes by human symbols, or give the gene list that belongs to the model"
        )
        return Answer(COVERAGE, ok=False, detail=refusals["coverage"]), 0.0
    if frac < LOW_COVERAGE:
        return Answer(COVERAGE, None, f"only {detail}: the model sees 0 in the others"), frac
    return Answer(COVERAGE, ok=True, detail=detail), frac
