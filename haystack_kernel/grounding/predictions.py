"""The best round as one h5ad: predicted cells, both controls, effects per gene, and how they were made.

In: cells by role, their score, the facts of the run. Out: an AnnData that reads back unchanged.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from haystack_kernel import keys
from haystack_kernel.errors import ContractError
from haystack_kernel.grounding.de.table import GROUP, GROUPBY, padded_genes, rank_genes_groups
from haystack_kernel.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    import anndata as ad

    from haystack_kernel.grounding.records import Grounded, GroundingCells
    from haystack_kernel.schema import StructuredQuery


@dataclass(frozen=True)
class PredictionFacts:
    """What the run knows about its best round; mappings and lists hold plain JSON values.

    Attributes
    ----------
    run_id, iteration
        The run, and the number of the round, from 1.
    prompt_strategy
        Strategies that found the prompt.
    config, rounds, provenance
        Configuration of the run, summaries of its rounds, versions and digests.
    record
        The whole run record up to this round, so that the file alone can be drawn and tabulated.
    prompts
        Table of the measured cells that were used; None: not known.
    licence, citation
        Terms of the model weights, and what to cite for them.

    Examples
    --------
    >>> PredictionFacts(run_id="run-20260101", iteration=1, prompt_strategy="direct").rounds
    []
    """

    run_id: str
    iteration: int
    prompt_strategy: str
    config: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    prompts: pd.DataFrame | None = None
    licence: str = ""
    citation: str = ""


def build_predictions(
    cells: GroundingCells, *, grounded: Grounded, query: StructuredQuery, facts: PredictionFacts
) -> ad.AnnData:
    """Assemble ``predictions.h5ad``.

    Parameters
    ----------
    cells
        ``treated`` and ``query`` share cells and genes; ``control_pred`` becomes a layer where there is one.
    grounded
        The score of the same cells.
    query
        The structured query.
    facts
        Run id, round and provenance.

    Returns
    -------
    AnnData
        ``X`` predicted counts (float32 CSR), layers ``control_pred`` (absent when the run made none) and ``query``.
        obs: index and columns of the query cells, and what was asked; ``gen_logit`` is NaN for engines without one;
        ``role`` is the group of ``uns["rank_genes_groups"]``. var: order of the query cells, with the effects;
        ``varm["haystack_de"]`` is the whole table of effects. ``uns["haystack"]`` holds JSON texts.

    Raises
    ------
    ContractError
        Predicted cells are not the query cells, or the DE table holds other genes.

    Examples
    --------
    >>> adata = build_predictions(cells, grounded=grounded, query=query, facts=facts)  # doctest: +SKIP
    >>> adata.write_h5ad("predictions.h5ad")  # doctest: +SKIP
    """
    import anndata as ad

    for name, adata in {"treated": cells.treated, "control_pred": cells.control_pred}.items():
        if adata is not None and not adata.obs_names.equals(cells.query.obs_names):
            msg = (
                f"{name} holds other cells than the query ({adata.n_obs} and {cells.query.n_obs}); run inference again"
            )
            raise ContractError(msg, part=name)
    if grounded.de[keys.GENE].tolist() != cells.query.var_names.tolist():
        msg = f"the DE table has {len(grounded.de)} genes, the query cells {cells.query.n_vars}, or another order"
        raise ContractError(msg, part="de")
    layers = {keys.LAYER_QUERY: _counts(cells.query)}
    if cells.control_pred is not None:
        layers[keys.LAYER_CONTROL_PRED] = _counts(cells.control_pred)
    var = cells.query.var.drop(columns=[keys.QUERY_MEAN, keys.QUERY_DETECTION, keys.QUERY_ERROR], errors="ignore")
    var.index = pd.Index(cells.query.var_names.astype(str), dtype=object)
    padded = padded_genes(cells.treated)
    known = cells.treated.var["model_gene"].to_numpy(bool) if "model_gene" in cells.treated.var else ~padded
    targets = set(query.expected_targets) | set(query.perturbation.targets if query.perturbation else ())
    var["gene_symbol"] = var.index.to_numpy(object)
    var["model_gene"] = known
    var[keys.PADDED] = padded
    var["predicted_lfc"] = grounded.de[keys.LOG2FC].to_numpy(float)
    var["predicted_pval"] = grounded.de[keys.PVAL].to_numpy(float)
    var[keys.IS_DE] = grounded.de[keys.IS_DE].to_numpy(bool)
    var["target_gene"] = var.index.isin(targets)
    adata = ad.AnnData(
        X=_counts(cells.treated),
        obs=_obs(cells, query=query, grounded=grounded, facts=facts),
        var=_as_categories(var, keep="gene_symbol"),
        layers=layers,
    )
    table = grounded.de.drop(columns=keys.GENE).set_axis(adata.var_names)
    adata.varm[keys.VARM_DE] = table
    adata.uns[keys.UNS_DE] = rank_genes_groups(grounded.de)
    adata.uns[keys.UNS] = _run_texts(query, grounded=grounded, facts=facts)
    return adata


def update_run_facts(adata: ad.AnnData, *, facts: PredictionFacts) -> ad.AnnData:
    """Make the same predictions part of another run: change what ``uns["haystack"]`` says about the run, in place.

    Parameters
    ----------
    adata
        From :func:`build_predictions`.
    facts
        Run id, configuration, rounds, provenance and record of the other run.

    Returns
    -------
    AnnData
        ``adata`` itself.

    Examples
    --------
    >>> update_run_facts(adata, facts=facts)  # doctest: +SKIP
    """
    changed = {
        "run_id": facts.run_id,
        "config": facts.config,
        "rounds": facts.rounds,
        "provenance": facts.provenance,
        "record": facts.record,
    }
    texts = {name: json.dumps(_plain(value), allow_nan=False) for name, value in changed.items()}
    adata.uns[keys.UNS] = {**adata.uns[keys.UNS], **texts}
    return adata


def _obs(cells: GroundingCells, *, query: StructuredQuery, grounded: Grounded, facts: PredictionFacts) -> pd.DataFrame:
    """The query cells' own columns, and what was asked of them."""
    obs = cells.query.obs.copy()
    obs.index = pd.Index(cells.query.obs_names.astype(str), dtype=object)
    obs[keys.CELL_ID] = obs.index.to_numpy(object)
    constant = {
        "task_type": query.task_type,
        "cell_type_query": query.cell_type_name or query.cell_type_text or "",
        "perturbation_query": query.perturbation.name if query.perturbation else "",
        "target_donor_id": query.donor_id or "",
        "target_tissue": query.tissue_name or "",
        "target_disease_state": query.disease_name or query.condition or "",
        "prompt_strategy": facts.prompt_strategy,
        GROUPBY: GROUP,
    }
    for name, value in constant.items():
        obs[name] = pd.Categorical([value] * len(obs))
    obs["iteration"] = np.int64(facts.iteration)
    obs["grounding_score"] = float(grounded.composite.value)
    obs["gen_logit"] = cells.treated.obs["gen_logit"].to_numpy(float) if "gen_logit" in cells.treated.obs else np.nan
    return _as_categories(obs, keep=keys.CELL_ID)


def _run_texts(query: StructuredQuery, *, grounded: Grounded, facts: PredictionFacts) -> dict[str, str]:
    """Everything that the file says about its run, as JSON texts, because uns cannot store nested lists."""
    enrichment = {
        "composite": grounded.composite.model_dump(mode="json"),
        "confidence": grounded.confidence.model_dump(mode="json"),
        "components": [component.model_dump(mode="json") for component in grounded.components],
        "pathways": grounded.pathways.to_dict(orient="records"),
        "n_tested": grounded.n_tested,
        "notes": list(grounded.notes),
        **{name: value for name, value in grounded.de.attrs.items() if isinstance(value, int)},
    }
    parts = {
        "schema_version": SCHEMA_VERSION,
        "run_id": facts.run_id,
        "question": query.question,
        "query": query.model_dump(mode="json"),
        "config": facts.config,
        "rounds": facts.rounds,
        "enrichment": enrichment,
        "provenance": facts.provenance,
        "record": facts.record,
        "prompts": {} if facts.prompts is None else facts.prompts.to_dict("list"),
        "licence": facts.licence,
        "citation": facts.citation,
    }
    return {name: json.dumps(_plain(value), allow_nan=False) for name, value in parts.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON values
    """JSON values only; NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _counts(adata: ad.AnnData) -> sparse.csr_matrix:
    return sparse.csr_matrix(adata.X, dtype=np.float32)


def _as_categories(table: pd.DataFrame, *, keep: str) -> pd.DataFrame:
    """Text columns as categories, as the file would make of them, so that reading back changes nothing."""
    for name in table.columns:
        is_text = table[name].dtype == object or isinstance(table[name].dtype, pd.StringDtype)
        if is_text and name != keep:
            values = table[name].astype(object)
            table[name] = pd.Categorical([None if pd.isna(value) else str(value) for value in values])
    return table
