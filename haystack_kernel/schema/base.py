"""Ids, closed vocabularies, and the base class of every record.

In: plain values. Out: frozen pydantic models that validate themselves and round-trip through JSON.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints

from inference.manifest import AUTO, ENGINES, is_engine_name

SCHEMA_VERSION = 1
DEMO_ATLAS = "demo"  # the simulated atlas, made on first use
OWN_ATLAS = "own"  # the name under which the user's own cells stand beside those of atlases
SCHEMES = ("gs", "file", "memory")  # of addresses; anything else is a path of this machine

RUN_ID_PATTERN = r"^[a-z][a-z0-9-]{7,44}$"
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
RunId = Annotated[str, StringConstraints(pattern=RUN_ID_PATTERN)]
AtlasName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
NAN = float("nan")
Real = Annotated[float, BeforeValidator(lambda value: NAN if value is None else value)]  # NaN travels as JSON null

TaskType = Literal[
    "perturbation_novel_cell_types",
    "perturbation_novel_samples",
    "cell_type_imputation",
    "donor_expression_prediction",
    "cross_dataset_generation",
]
PERTURBATIONAL: tuple[TaskType, ...] = ("perturbation_novel_cell_types", "perturbation_novel_samples")
OBSERVATIONAL: tuple[TaskType, ...] = ("cell_type_imputation", "donor_expression_prediction")
TermKind = Literal["cell_type", "perturbation", "tissue", "disease", "donor", "dataset"]
ControlStrategy = Literal["synthetic_control", "query_as_control"]
Strategy = Literal["direct", "mechanistic", "semantic", "ontology", "donor_context", "tissue_atlas"]
EvidenceDistance = Literal["same_pair", "other_cell_type", "same_cell_type", "shared_target", "text_only"]
EVIDENCE_WORDS: dict[EvidenceDistance, str] = {  # nearest to the question first
    "same_pair": "the same treatment in the same cell type",
    "other_cell_type": "the same treatment in other cell types",
    "same_cell_type": "the same cell type in another context",
    "shared_target": "a treatment with shared targets or pathways",
    "text_only": "a similar description only",
}
STATE_WORDS: dict[EvidenceDistance, str] = {  # the same of questions about a state of cells
    **EVIDENCE_WORDS,
    "other_cell_type": "other cell types of the same donors",
}
MEASURED_EVIDENCE: tuple[EvidenceDistance, ...] = ("same_pair", "other_cell_type", "same_cell_type")


def _engine_name(name: str) -> str:
    """Refuse what cannot be the name of an engine; whether it is installed is asked where it is to be used."""
    if not is_engine_name(name):
        msg = f"{name!r} is no name of an engine; possible: {', '.join(ENGINES)}, or one of an installed package"
        raise ValueError(msg)
    return name


Engine = Annotated[str, AfterValidator(_engine_name)]  # of HAYSTACK, or of an installed package
EngineChoice = Annotated[str, AfterValidator(lambda name: name if name == AUTO else _engine_name(name))]
PlannerName = Literal["auto", "offline", "claude", "replay"]
MODEL_PLANNERS: tuple[PlannerName, ...] = ("claude", "replay")  # they read any wording, by a language model
JobKind = Literal["inference", "orchestrator"]
ExecutorName = Literal["local", "batch"]
RunStatus = Literal["running", "done", "failed", "cancelled"]
ShownStatus = Literal["running", "done", "failed", "cancelled", "interrupted"]  # the last is in no record
JobState = Literal["queued", "scheduled", "running", "succeeded", "failed", "cancelled", "unknown"]
BaselineVerdict = Literal["not_compared", "is_baseline", "adds_nothing", "not_told_apart", "adds", "falls_behind"]
FeedbackKind = Literal[
    "wrong_lineage",
    "weak_pathway",
    "competing_signature_leads",
    "low_coverage",
    "control_mismatch",
    "donor_unmatched",
    "unstable",
]
FeedbackAction = Literal["other_cells", "nearer_evidence", "other_dataset", "matched_control", "wider_pool"]
Termination = Literal["threshold", "max_rounds", "plateau", "no_more_candidates"]
PaperSource = Literal["pubmed", "europepmc", "semanticscholar"]
Stance = Literal["contradiction", "support", "mention"]


class Frozen(BaseModel):
    """A record: immutable, strict about unknown fields, NaN written as JSON null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


def is_run_id(text: str) -> bool:
    """Whether ``text`` is a valid run id (it becomes part of a Batch job id and of a path)."""
    return re.fullmatch(RUN_ID_PATTERN, text) is not None


_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)(?P<mark>:/*|/{2,})(?P<rest>.*)", re.DOTALL)


def address_fault(text: str) -> str:
    """Say what is wrong with the scheme of an address, which would otherwise become a folder of that name.

    Parameters
    ----------
    text
        A path of this machine or an address such as ``gs://bucket/prefix``.

    Returns
    -------
    What is wrong and what was probably meant; empty where nothing is.

    Examples
    --------
    >>> address_fault("gs:/bucket")
    "'gs:/bucket' is no address; did you mean 'gs://bucket'?"
    >>> address_fault("gs://bucket")
    ''
    """
    match = _SCHEME.fullmatch(text)
    if match is None or match["scheme"].lower() not in SCHEMES:
        scheme = match["scheme"] if match else text.partition("://")[0]
        is_address = match["mark"].startswith(":/") if match else "://" in text  # "a//b" and "a:b" are paths
        return f"{text!r}: unknown scheme {scheme!r}; give a local path or gs://bucket/prefix" if is_address else ""
    scheme, mark, rest = match["scheme"], match["mark"], match["rest"].lstrip("/")
    if scheme.lower() == "gs" and (not rest or mark.startswith(":///")):
        return f"{text!r} names no bucket; give gs://bucket/prefix"
    if scheme in SCHEMES and mark.startswith("://"):
        return ""
    meant = f"/{rest}" if scheme.lower() == "file" else f"{scheme.lower()}://{rest}"
    return f"{text!r} is no address; did you mean {meant!r}?"
