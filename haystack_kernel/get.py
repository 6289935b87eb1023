"""The tables of a result, whoever holds it: a run, its predictions as AnnData, or the table itself.

In: a Run, an AnnData or a DataFrame. Out: one DataFrame; nothing is computed that was not recorded, but for the calls
of an AnnData that scanpy tested.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.schema import NAN, RunRecord
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import anndata as ad
    import pandas as pd

    from haystack_kernel.schema import Candidate, Round

__all__ = ["candidates", "cells", "de", "pathways", "prompts", "rounds"]
_ACCEPTED = f"a Run, the AnnData of its predictions (run.predictions, or {layout.PREDICTIONS})"
_SCANPY_LOG2FC, _SCANPY_PADJ = 0.5, 0.05  # limits of a call where scanpy tested the genes
_SCANPY = {"names": keys.GENE, "logfoldchanges": keys.LOG2FC, "pvals": keys.PVAL, "pvals_adj": keys.PADJ}


def de(given: Any, *, group: str | None = None) -> pd.DataFrame:  # noqa: ANN401 - a Run, an AnnData or a table
    """Return differential expression, one row per gene.

    Parameters
    ----------
    given
        A Run, an AnnData of predictions, any AnnData with ``uns["rank_genes_groups"]``, or the table itself.
    group
        Group of ``rank_genes_groups`` to take from an AnnData that scanpy tested; None takes its only one.

    Returns
    -------
    DataFrame
        ``gene``, ``log2fc`` (predicted over control), ``delta``, ``effect`` with ``effect_low`` and ``effect_high``
        (the true effect that the prompt lets expect, on the scale of ``delta``, and its 80 % interval), ``lfsr``
        (probability that its sign is wrong), ``prob_de`` (of an effect beyond 0.1), ``is_de`` (``lfsr`` below 0.05),
        ``pval`` and ``padj`` of the rank test between generated cells (NaN: not tested), and more. Of an AnnData that
        scanpy tested, ``delta`` is the fold change that scanpy computed, and ``is_de`` holds where it is at least 0.5
        and ``padj`` at most 0.05.

    Raises
    ------
    InvalidInputError
        A run without a scored round, several groups and none named, or something else than the above.
    MissingKeyError
        The AnnData or the table holds no differential expression; the message says what it holds.

    Examples
    --------
    >>> haystack.get.de(run).query("is_de").head()  # doctest: +SKIP
    """
    if _is_table(given):
        return _with_columns(given, (keys.GENE, keys.LOG2FC, keys.PADJ, keys.IS_DE), what="differential expression")
    if _is_run(given):
        return _of_run(given, "de")
    adata = _adata(given, what="differential expression")
    if keys.VARM_DE in adata.varm:
        table: pd.DataFrame = adata.varm[keys.VARM_DE].copy()
        table.insert(0, keys.GENE, adata.var_names.astype(str))
        return table.reset_index(drop=True)
    if keys.UNS_DE in adata.uns:
        return _tested_by_scanpy(adata, group=group)
    msg = (
        f"this AnnData holds no differential expression: neither predictions of HAYSTACK nor "
        f"uns[{keys.UNS_DE!r}] (its uns has {', '.join(map(repr, adata.uns)) or 'nothing'}). Give {_ACCEPTED}, or call "
        "scanpy.tl.rank_genes_groups first"
    )
    raise MissingKeyError(msg, uns=list(adata.uns))


def doubt(table: pd.DataFrame) -> tuple[str, str, str]:
    """Column that says how sure a gene's change is, with its name for an axis and for a heading.

    Parameters
    ----------
    table
        From :func:`de`.

    Returns
    -------
    The local false sign rate; the adjusted p of the rank test in tables of earlier versions and of scanpy.

    Examples
    --------
    >>> haystack.get.doubt(haystack.get.de(run))  # doctest: +SKIP
    ('lfsr', '-log10 local false sign rate', 'lfsr')
    """
    if keys.LFSR in table and table[keys.LFSR].notna().any():
        return keys.LFSR, "-log10 local false sign rate", "lfsr"
    return keys.PADJ, "-log10 adjusted p (rank test)", "adjusted p"


def pathways(given: Any) -> pd.DataFrame:  # noqa: ANN401 - a Run, an AnnData or a table
    """Return the pathway statistics, one row per pathway.

    Parameters
    ----------
    given
        A Run, an AnnData of predictions, or the table itself.

    Returns
    -------
    DataFrame
        ``pathway``, ``statistic`` (mean signed z; positive = activated), ``score`` (1 = chance, to 10; NaN: not
        computed), ``is_expected`` and both p values.

    Examples
    --------
    >>> haystack.get.pathways(run).query("is_expected")  # doctest: +SKIP
    """
    import pandas as pd

    if _is_table(given):
        return _with_columns(given, ("pathway", "statistic", "score", "is_expected"), what="pathway statistics")
    if _is_run(given):
        return _of_run(given, "pathways")
    table = pd.DataFrame(_story(given, "enrichment", what="pathway statistics")["pathways"])
    return table.fillna(float("nan")).infer_objects()


def candidates(given: Any) -> pd.DataFrame:  # noqa: ANN401 - a Run, an AnnData or a table
    """Return the ranked prompt candidates, one row each.

    Parameters
    ----------
    given
        A Run, an AnnData of predictions, or the table itself.

    Returns
    -------
    DataFrame
        ``key``, ``strategy``, ``atlas``, ``dataset``, ``cell_type``, ``perturbation``, numbers of cells, parts of the
        rank score, ``rounds`` of use and ``reason``.

    Examples
    --------
    >>> haystack.get.candidates(run)[["cell_type", "perturbation", "reason"]]  # doctest: +SKIP
    """
    if _is_table(given):
        return _with_columns(given, ("key", "strategy", "reason"), what="prompt candidates")
    record = record_of(given, what="prompt candidates")
    return candidate_frame(record.candidates, record.rounds)


def prompts(given: Any) -> pd.DataFrame:  # noqa: ANN401 - a Run, an AnnData or a table
    """Return every measured cell that was used, by role, one row per cell.

    Parameters
    ----------
    given
        A Run, an AnnData of predictions, or the table itself.

    Returns
    -------
    DataFrame
        ``cell_id``, ``role`` (prompt, control or query), atlas, data set, row in the source file, cell type, treatment
        and donor.

    Examples
    --------
    >>> haystack.get.prompts(run).groupby(["role", "cell_type_name"]).size()  # doctest: +SKIP
    """
    import pandas as pd

    if _is_table(given):
        return _with_columns(given, (keys.CELL_ID, keys.ROLE), what="the cells used")
    if _is_run(given):
        return _of_run(given, "prompts")
    return pd.DataFrame(_story(given, "prompts", what="the cells used"))


def cells(given: Any) -> pd.DataFrame:  # noqa: ANN401 - a Run, an AnnData or a table
    """Return the cells of all roles with their place on the map.

    Parameters
    ----------
    given
        A Run, an AnnData of :func:`haystack_kernel.predict`, any AnnData with ``obsm["X_umap"]``, or the table itself.

    Returns
    -------
    DataFrame
        ``cell_id``, ``role``, ``cell_type_name`` and two coordinates; distances on the map are not evidence. Of an
        AnnData without a map of all roles the cells are those of the AnnData.

    Examples
    --------
    >>> haystack.get.cells(run).groupby("role").size()  # doctest: +SKIP
    """
    import pandas as pd

    if _is_table(given):
        return _with_columns(given, (keys.ROLE,), what="cells")
    if _is_run(given):
        return _of_run(given, "embedding")
    adata = _adata(given, what="cells")
    if "cells" in adata.uns.get(keys.UNS, {}):
        return pd.DataFrame(json.loads(adata.uns[keys.UNS]["cells"]))
    if "X_umap" not in adata.obsm:
        msg = (
            "this AnnData holds no map of its cells: neither obsm['X_umap'] nor the map of a run. Give the Run, the "
            "AnnData of haystack.predict, or call scanpy.tl.umap first"
        )
        raise MissingKeyError(msg, obsm=list(adata.obsm))
    found = pd.DataFrame({keys.CELL_ID: adata.obs_names.astype(str)})
    found[keys.ROLE] = adata.obs[keys.ROLE].astype(str).to_numpy() if keys.ROLE in adata.obs else keys.QUERY
    found[keys.CELL_TYPE] = adata.obs[keys.CELL_TYPE].astype(str).to_numpy() if keys.CELL_TYPE in adata.obs else ""
    found[["umap1", "umap2"]] = adata.obsm["X_umap"][:, :2]
    return found


def rounds(given: Any) -> pd.DataFrame:  # noqa: ANN401 - a Run, an AnnData or a table
    """Return one row per round: what was tried, what it scored, and why the rounds went on.

    Parameters
    ----------
    given
        A Run, an AnnData of predictions (rounds up to the one that made it), or the table itself.

    Returns
    -------
    DataFrame
        ``round``, ``score`` and ``n_de`` (NaN: not scored), ``is_best``, numbers of cells (NaN: not read yet),
        ``candidates``, ``choice``, ``decision``, ``seconds`` of its tasks (NaN: not done) and ``cost_usd``.

    Examples
    --------
    >>> haystack.get.rounds(run)[["round", "score", "choice"]]  # doctest: +SKIP
    """
    import pandas as pd

    if _is_table(given):
        return _with_columns(given, ("round", "score"), what="rounds")
    record = record_of(given, what="rounds")
    columns = (
        "round", "score", "is_best", "n_de", "n_prompt", "n_control", "n_query", "candidates", "choice", "decision",
        "seconds", "cost_usd",
    )  # fmt: skip
    rows = [
        (
            one.number,
            one.composite.value if one.composite else NAN,
            one.number == record.best_round,
            one.n_de if one.composite else NAN,
            *((one.n_prompt, one.n_control, one.n_query) if one.has_cells else (NAN, NAN, NAN)),
            "; ".join(one.choice.candidate_keys),
            one.choice.reason,
            one.decision,
            sum(one.task_seconds.values()) if one.task_seconds else NAN,
            sum(bill.usd for bill in one.bills),
        )
        for one in record.rounds
    ]
    return pd.DataFrame(rows, columns=list(columns))


def record_of(given: Any, *, what: str = "a record") -> RunRecord:  # noqa: ANN401 - a Run, its record or an AnnData
    """Return the run record behind a result.

    Raises
    ------
    InvalidInputError
        It has none.
    """
    if isinstance(given, RunRecord):
        return given
    if _is_run(given):
        record: RunRecord = given.record
        return record
    return RunRecord.model_validate(_story(given, "record", what=what))


def candidate_frame(candidates: Iterable[Candidate], rounds: Sequence[Round]) -> pd.DataFrame:
    """Return one row per candidate: criteria, numbers of cells, parts of the score, reason and rounds of use."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "key": one.key,
                "strategy": one.strategy,
                "atlas": one.prompt.atlas,
                "dataset": one.prompt.dataset,
                "cell_type": one.prompt.label,
                "perturbation": one.prompt.perturbation or "",
                "n_cells": one.prompt.n_cells,
                "n_control_cells": one.control.n_cells if one.control else 0,
                "donor_matched": one.donor_matched,
                "pinned": one.pinned,
                "relevance": one.relevance,
                "diversity": one.diversity,
                "quality": one.quality,
                "score": one.score,
                "evidence_distance": one.evidence_distance,
                "reason": one.reason,
                "control_reason": one.control_reason,
                "rounds": " ".join(str(item.number) for item in rounds if one.key in item.choice.candidate_keys),
            }
            for one in candidates
        ]
    )


def _tested_by_scanpy(adata: ad.AnnData, *, group: str | None) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    ranked = adata.uns[keys.UNS_DE]
    groups = list(ranked["names"].dtype.names)
    if group is None and len(groups) > 1:
        msg = f"uns[{keys.UNS_DE!r}] has the groups {', '.join(groups)}; name one: haystack.get.de(adata, group=…)"
        raise InvalidInputError(msg, groups=groups)
    if group is not None and group not in groups:
        msg = f"uns[{keys.UNS_DE!r}] has no group {group!r}; it has {', '.join(groups)}"
        raise InvalidInputError(msg, group=group, groups=groups)
    one = groups[0] if group is None else group
    table = pd.DataFrame({ours: ranked[name][one] for name, ours in _SCANPY.items() if name in ranked})
    if lacking := [name for name in _SCANPY.values() if name not in table]:
        msg = f"uns[{keys.UNS_DE!r}] lacks {', '.join(lacking)}; test with method 'wilcoxon' or 't-test'"
        raise MissingKeyError(msg, absent=lacking)
    effect = table[keys.LOG2FC].astype(float)
    table[keys.DELTA] = effect
    table[keys.IS_DE] = (np.abs(effect) >= _SCANPY_LOG2FC) & (table[keys.PADJ] <= _SCANPY_PADJ)
    return table


def _story(given: Any, name: str, *, what: str) -> Any:  # noqa: ANN401 - JSON values
    """One of the JSON texts that the predictions of a run carry."""
    adata = _adata(given, what=what)
    texts = adata.uns.get(keys.UNS, {})
    if name not in texts:
        held = f"its uns has {', '.join(map(repr, adata.uns)) or 'nothing'}"
        if texts:
            held = "its predictions were made by an earlier version, which did not keep them: attach to the run"
        msg = f"this AnnData does not hold {what} ({held}). Give {_ACCEPTED}"
        raise MissingKeyError(msg, uns=list(adata.uns))
    return json.loads(texts[name])


def _of_run(run: Any, name: str) -> pd.DataFrame:  # noqa: ANN401 - the row of runs is above this one
    table: pd.DataFrame = getattr(run, name)
    return table.copy()


def _with_columns(table: pd.DataFrame, needed: tuple[str, ...], *, what: str) -> pd.DataFrame:
    if absent := [name for name in needed if name not in table.columns]:
        msg = f"this is no table of {what}: it lacks {', '.join(absent)} and has {', '.join(map(str, table.columns))}"
        raise MissingKeyError(msg, absent=absent)
    return table


def _is_run(given: object) -> bool:
    return isinstance(getattr(given, "record", None), RunRecord)


def _is_table(given: object) -> bool:
    return hasattr(given, "columns") and hasattr(given, "loc") and not hasattr(given, "obs")


def _adata(given: Any, *, what: str) -> ad.AnnData:  # noqa: ANN401 - anything a notebook may hold
    if hasattr(given, "obs") and hasattr(given, "uns"):
        adata: ad.AnnData = given
        return adata
    msg = f"cannot read {what} from {type(given).__name__}; give {_ACCEPTED}, or the table itself"
    raise InvalidInputError(msg, given=type(given).__name__)
