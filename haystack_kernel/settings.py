"""Everything that can be set, with its default; the only module that reads the environment.

In: packaged ``settings.toml`` (layers default, dev, prod, test picked by ``DYNACONF``), a ``haystack.toml`` in the
working directory, then ``HAYSTACK_*`` variables. Out: one frozen, validated :class:`Settings`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import AtlasName, ControlStrategy, EngineChoice

LAYERS = ("default", "dev", "prod", "test")
_PACKAGED = Path(__file__).with_name("settings.toml")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class RetrievalSettings(_Section):
    """How candidates are found and ranked."""

    max_candidates: int = Field(default=50, ge=1, description="search stops here")
    n_top: int = Field(default=10, ge=1, description="candidates kept after greedy ranking")
    weight_relevance: float = Field(default=0.5, ge=0)
    weight_diversity: float = Field(default=0.3, ge=0)
    weight_quality: float = Field(default=0.2, ge=0)
    penalty_same_perturbation: float = Field(default=0.3, ge=0, le=1)
    penalty_same_cell_type: float = Field(default=0.2, ge=0, le=1)
    penalty_same_dataset: float = Field(default=0.1, ge=0, le=1)
    ontology_hops: int = Field(default=2, ge=0, le=4)
    mechanistic_floor: float = Field(default=0.3, ge=0, le=1, description="less in common says little about the effect")
    semantic_floor: float = Field(default=0.5, ge=0, le=1, description="cosine of descriptions")
    vectoriser: Literal["tfidf", "minilm"] = Field(default="tfidf", description="minilm needs the extra of that name")
    min_cells: int = Field(default=5, ge=1, description="smaller sets are not proposed")


class RoundSettings(_Section):
    """When the loop stops."""

    threshold: float = Field(default=7.0, ge=1, le=10)
    maximum: int = Field(default=5, ge=1, le=20)
    plateau_rounds: int = Field(default=3, ge=1, description="this many rounds without a gain of plateau_gain stop")
    plateau_gain: float = Field(default=1.0, ge=0)


class GroundingSettings(_Section):
    """Thresholds of differential expression and of the nulls."""

    min_abs_log2fc: float = Field(default=0.5, ge=0)
    max_padj: float = Field(default=0.05, gt=0, le=1)
    min_detection: float = Field(default=0.02, ge=0, le=1, description="tested = detected in this share of an arm")
    min_tested_genes: int = Field(default=1000, ge=1, description="below this every component is NaN")
    n_draws: int = Field(default=9999, ge=99, description="draws of each null; 9,999 reach a score of 10")
    weight_pathway: float = Field(default=0.25, ge=0)
    weight_target: float = Field(default=0.30, ge=0)
    weight_literature: float = Field(default=0.25, ge=0)
    weight_network: float = Field(default=0.20, ge=0)


class InferenceSettings(_Section):
    """What predicts, and on how many cells."""

    engine: EngineChoice = Field(
        default="auto", description="auto: stack where a model is given, or on the demo atlas; else weighted"
    )
    n_prompt: int = Field(default=2000, ge=1, le=20_000)
    n_query: int = Field(default=256, ge=1, le=20_000)
    control_strategy: ControlStrategy = "synthetic_control"
    diffusion_steps: int = Field(default=5, ge=1, le=100)
    model: str | None = Field(default=None, description="checkpoint for engine stack, path or gs:// URI")
    genelist: str | None = Field(default=None, description="gene list that belongs to the model")


class JobSettings(_Section):
    """How long a job may take and how often it is looked at."""

    timeout_s: float = Field(default=1800, gt=0)
    poll_s: float = Field(default=0.2, gt=0)


class CellSettings(_Section):
    """What this disk keeps, under ``cache``, of sources that are slow to read; least recently used goes first."""

    cache_gib: float = Field(default=4.0, ge=0, description="chunks of sources in a bucket; 0 keeps none")
    rows_gib: float = Field(
        default=20.0, ge=0, description="matrices stored by gene (CSC), rearranged by cell; 0 reads them whole"
    )


class BucketSettings(_Section):
    """How ``gs://`` storage is used."""

    patience_s: float = Field(default=300.0, ge=0, description="a bucket that fails is tried again for this long")
    save_interval_s: float = Field(default=10.0, ge=1, description="a running notebook goes up at most this often")


class Settings(_Section):
    """All settings. Paths may be local or, for ``storage``, ``gs://bucket/prefix``."""

    storage: str = Field(default="~/haystack", description="run folders live in <storage>/runs/<run_id>")
    atlas_root: str = Field(default="~/haystack/atlases", description="one folder per atlas")
    knowledge: str = Field(
        default="~/haystack/knowledge", description="ontologies, gene sets and targets added to the packaged tables"
    )
    cache: str = Field(
        default="~/.cache/haystack", description="job scratch, chunks and rows of sources; safe to delete"
    )
    atlases: tuple[AtlasName, ...] = ("demo",)
    planner: Literal["auto", "offline"] = "auto"
    seed: int = Field(default=0, ge=0)
    retrieval: RetrievalSettings = RetrievalSettings()
    rounds: RoundSettings = RoundSettings()
    grounding: GroundingSettings = GroundingSettings()
    inference: InferenceSettings = InferenceSettings()
    jobs: JobSettings = JobSettings()
    cells: CellSettings = CellSettings()
    bucket: BucketSettings = BucketSettings()

    @field_validator("atlases", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("knowledge")
    @classmethod
    def _local(cls, value: str) -> str:
        if "://" in value:
            msg = "must be a local folder"
            raise ValueError(msg)
        return value

    @field_validator("storage", "atlas_root", "knowledge", "cache")
    @classmethod
    def _expand(cls, value: str) -> str:
        if not value.strip():
            msg = "must not be empty"
            raise ValueError(msg)
        scheme, separator, rest = value.partition("://")
        return f"{scheme}://{rest.rstrip('/')}" if separator else str(Path(value).expanduser().absolute())


def load_settings(layer: str | None = None, **overrides: object) -> Settings:
    """Read every layer once and validate the result.

    Parameters
    ----------
    layer
        One of default, dev, prod, test; None takes ``DYNACONF`` from the environment, else default.
    **overrides
        Top-level values that win over every layer; None is ignored, sections are merged.

    Raises
    ------
    InvalidInputError
        Unknown layer, unknown setting, a value out of range (the message names it), or a file that is not TOML.
    """
    layer = (layer or os.environ.get("DYNACONF") or "default").lower()
    if layer not in LAYERS:
        msg = f"settings layer {layer!r} (DYNACONF) is unknown; possible: {', '.join(LAYERS)}"
        raise InvalidInputError(msg, layer=layer)
    values = _read_layers(layer)
    for name, value in overrides.items():
        if isinstance(value, dict):
            values[name] = {**values.get(name, {}), **{k: v for k, v in value.items() if v is not None}}
        elif value is not None:
            values[name] = value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [
            _explain(item["loc"], item["msg"], is_unknown=item["type"] == "extra_forbidden") for item in error.errors()
        ]
        msg = f"invalid settings: {'; '.join(lines)}. Set them in haystack.toml or as HAYSTACK_<NAME>"
        raise InvalidInputError(msg, errors=lines) from error


def _read_layers(layer: str) -> dict[str, Any]:
    """Values of all layers, later ones winning; sections are merged, lists replaced."""
    from dynaconf import Dynaconf, get_history

    own = Path.cwd() / "haystack.toml"
    _check_file(own)
    raw = Dynaconf(
        envvar_prefix="HAYSTACK",
        environments=True,
        env=layer,
        settings_files=[str(_PACKAGED), str(own)],
        merge_enabled=True,
        load_dotenv=False,
    )
    values = raw.as_dict()
    lists = [name for name, value in values.items() if isinstance(value, list)]  # Dynaconf merges these as well
    values |= {name: get_history(raw, key=name)[-1]["value"] for name in lists}
    return {name: value for name, value in _lower(values).items() if name != "load_dotenv"}


def _explain(loc: tuple[int | str, ...], message: str, *, is_unknown: bool) -> str:
    """One line about a refused value; for an unknown name with those there are."""
    name = ".".join(str(part) for part in loc)
    if not is_unknown:
        return f"{name}: {message}"
    section = Settings.model_fields[str(loc[0])].default if len(loc) > 1 else None
    known = type(section).model_fields if isinstance(section, BaseModel) else Settings.model_fields
    return f"{name} is no setting; possible: {', '.join(known)}"


def _check_file(path: Path) -> None:
    """Refuse a settings file that is not TOML or has names outside a layer, which Dynaconf would ignore."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not valid TOML: {error}"
        raise InvalidInputError(msg, path=str(path)) from error
    if unknown := [name for name in found if name.lower() not in LAYERS]:
        msg = f"{path} has {', '.join(unknown)} outside the layers; put settings under [{'], ['.join(LAYERS)}]"
        raise InvalidInputError(msg, path=str(path), names=unknown)


def _lower(value: Any) -> Any:  # noqa: ANN401 - dynaconf boxes, dicts, lists, scalars
    """Lower-case keys; Dynaconf upper-cases those that come from the environment."""
    if isinstance(value, dict):
        merged: dict[str, Any] = {}
        for key, item in value.items():
            name, item = str(key).lower(), _lower(item)
            both = isinstance(merged.get(name), dict) and isinstance(item, dict)
            merged[name] = {**merged[name], **item} if both else item
        return merged
    return list(value) if isinstance(value, (list, tuple)) else value
