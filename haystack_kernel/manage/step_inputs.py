"""What each step of a run reads, as one digest: equal digests mean that the step would do the same again.

In: a record. Out: a digest for each step; pure.

A step reads some of the configuration, some of the settings, digests of what lies outside the run, and what the step
before it made. Rounds are taken apart more finely than in :mod:`haystack_kernel.flow`, because an engine changes the
prediction but not the cells: ``choose 2``, ``cells 2``, ``predict 2``, ``ground 2``, ``decide 2``.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from haystack_kernel.config.drift import ATLAS
from haystack_kernel.planners.offline.choice import POOLED_ENGINES
from inference.manifest import MODEL_ENGINE

if TYPE_CHECKING:
    from haystack_kernel.schema import RunConfig, RunRecord

IN_ROUND = ("choose", "cells", "predict", "ground", "decide")


def step_names(n_rounds: int) -> list[str]:
    """All steps of a run of so many rounds, in order."""
    return ["understand", "retrieve", *(f"{name} {number + 1}" for number in range(n_rounds) for name in IN_ROUND)]


def step_inputs(record: RunRecord, step: str) -> str:
    """Digest of everything that ``step`` reads, what the steps before it read included.

    Parameters
    ----------
    record
        Its question, configuration, settings, digests, versions and number of candidates count.
    step
        One of :func:`step_names`.
    """
    names = step_names(int(step.partition(" ")[2] or 0))
    digest = record.versions.get("haystack-kernel", "")
    for name in names[: names.index(step) + 1]:
        if name.startswith("decide") and name != step:
            continue  # its outcome is whether a next round exists; that round does not read it
        told = json.dumps([digest, name, _reads(record, name.partition(" ")[0])], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()
    return digest


def _reads(record: RunRecord, name: str) -> dict[str, Any]:
    """What the step reads itself."""
    config = record.config.model_dump(mode="json")
    digests = record.digests
    atlases = {key: value for key, value in digests.items() if key.startswith(ATLAS)}
    knowledge = {key: value for key, value in digests.items() if key not in atlases}

    def fields(*wanted: str) -> dict[str, Any]:
        return {field: config[field] for field in wanted}

    def section(wanted: str) -> dict[str, Any]:
        return {wanted: record.settings.get(wanted)}

    if name == "understand":
        return {"question": record.question, **fields("planner", "control_strategy"), **knowledge}
    if name == "retrieve":
        wanted = fields("atlases", "query_atlas", "query_h5ad", "hide", "pin", "ban")
        return {**wanted, **section("retrieval"), **knowledge, **atlases}
    if name == "choose":
        pools = record.config.engine in POOLED_ENGINES and len(record.candidates) > 1
        return {**fields("planner"), "pools": pools}
    if name == "cells":
        return {**fields("n_prompt", "n_query", "seed"), "own_genes": _genes_of_own_cells(record.config)}
    if name == "predict":
        of_model = ("model", "genelist", "diffusion_steps") if record.config.engine == MODEL_ENGINE else ()
        return fields("engine", "seed", *of_model)
    if name == "ground":
        return {**fields("engine", "seed", "literature"), **section("grounding")}
    return {**fields("threshold", "max_rounds"), **section("rounds")}


def _genes_of_own_cells(config: RunConfig) -> str | None:
    """The gene list that the user's own cells are checked against; None where none is."""
    return config.genelist if config.query_h5ad is not None and config.engine == MODEL_ENGINE else None
