"""Reduce what each step of a run reads to one digest; equal digests mean that the step would do the same again.

In: a record. Out: a digest for each step; pure.

A step reads some of the options, some of the settings, digests of files outside the run, and what the step before it
made. Rounds are divided more finely than in :mod:`haystack_kernel.flow`, because an engine changes the prediction
but not the cells: ``choose 2``, ``cells 2``, ``predict 2``, ``ground 2``, ``decide 2``.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, get_args

from haystack_kernel.config.drift import ATLAS
from haystack_kernel.jobs import reads_others
from haystack_kernel.planners.offline.choice import pools
from haystack_kernel.schema import RoundStep
from inference.manifest import MODEL_ENGINE

if TYPE_CHECKING:
    from haystack_kernel.schema import RunRecord

IN_ROUND: tuple[str, ...] = get_args(RoundStep)
# Options that a step reads by name. A test holds that each option of a run is here or in the tuples below.
OPTIONS = {
    "understand": ("planner", "transcript", "control_strategy"),
    "retrieve": (
        "atlases",
        "query_atlas",
        "query_h5ad",
        "prompt_h5ad",
        "control_h5ad",
        "hide",
        "pin",
        "ban",
        "engine_default",
    ),
    "choose": ("planner",),
    "cells": ("query_cells", "n_prompt", "n_query", "seed"),
    "predict": ("engine", "seed"),
    "ground": ("engine", "seed", "literature"),
    "decide": ("threshold", "max_rounds"),
}
MODEL_OPTIONS = ("model", "genelist", "diffusion_steps")  # read by the prediction of an engine that has a model
KNOWLEDGE = "knowledge"  # prefix of the names of the digests of knowledge tables
UNREAD_OPTIONS = ("executor",)  # where a job runs changes no number
SECTIONS = {"retrieve": "retrieval", "ground": "grounding", "decide": "rounds"}  # of the settings


def step_names(n_rounds: int) -> list[str]:
    """List all steps of a run with this number of rounds, in order."""
    return ["understand", "retrieve", *(f"{name} {number + 1}" for number in range(n_rounds) for name in IN_ROUND)]


def step_inputs(record: RunRecord, step: str) -> str:
    """Compute the digest of everything that ``step`` reads, including what the steps before it read.

    Parameters
    ----------
    record
        Of the record the question, configuration, settings, digests, versions and number of candidates count.
    step
        One of :func:`step_names`.
    """
    config = record.config.model_dump(mode="json")
    if config["planner"] == "auto":  # of a record of an earlier version, which knew no other
        config["planner"] = "offline"
    has_model, has_own_cells = record.config.engine == MODEL_ENGINE, record.config.query_h5ad is not None
    # What each step reads besides its options and its section of the settings, apart from what earlier steps made.
    besides: dict[str, dict[str, Any]] = {
        "understand": {"question": record.question, **_digests(record, KNOWLEDGE)},
        "retrieve": {
            **_digests(record, KNOWLEDGE),
            **_digests(record, ATLAS),
            **_files(record, "prompt_h5ad", "control_h5ad"),
        },
        # An engine that pools takes several candidates at once, where there are several.
        "choose": {"pools": pools(record.config.engine) and len(record.candidates) > 1},
        # The user's own cells are checked against the genes of the model.
        "cells": {
            "genelist": config["genelist"] if has_model and has_own_cells else None,
            "others": reads_others(record.config.engine),
            **_files(record, "query_h5ad"),
        },
    }
    if has_model:
        besides["predict"] = {name: config[name] for name in MODEL_OPTIONS} | _files(record, *MODEL_OPTIONS)
    names = step_names(int(step.partition(" ")[2] or 0))
    digest = record.versions.get("haystack-kernel", "")
    for name in names[: names.index(step) + 1]:
        if name.startswith("decide") and name != step:
            continue  # its outcome is whether a next round exists; that round does not read it
        kind = name.partition(" ")[0]
        options = {option: config[option] for option in OPTIONS[kind]}
        reads = {**options, "settings": record.settings.get(SECTIONS.get(kind, "")), **besides.get(kind, {})}
        content = json.dumps([digest, name, reads], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
    return digest


def _files(record: RunRecord, *options: str) -> dict[str, str]:
    """Digests of the user's own files that ``options`` name, as far as the record holds them."""
    return {f"file of {name}": record.inputs[name] for name in options if name in record.inputs}


def _digests(record: RunRecord, prefix: str) -> dict[str, str]:
    """Those digests of the record whose names begin with ``prefix``."""
    return {name: digest for name, digest in record.digests.items() if name.startswith(prefix)}
