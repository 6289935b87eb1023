"""Options of a run that an assistant may set.

In: what an assistant gives. Out: options of :class:`haystack_kernel.schema.RunConfig`, and those it may not set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model

from haystack_kernel.schema import FILE_OPTIONS, RunConfig
from inference.manifest import AUTO, ENGINES

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_FILES = "names files of this machine; the person gives it on the command line, in a notebook or in the settings"
WITHHELD = {
    **dict.fromkeys((*FILE_OPTIONS, "query_cells"), _FILES),
    "planner": "the assistant is the one that reasons; questions of assistants are read by rules, at no cost",
}
_CANDIDATES = "ids of candidates, such as c-1a2b3c4d, that the tool `candidates` has shown"
# What is offered is named here, so that a new option of a run is not, until somebody has thought of it.
OFFERED = (
    "atlases",
    "query_atlas",
    "engine",
    "diffusion_steps",
    "executor",
    "control_strategy",
    "hide",
    "pin",
    "ban",
    "threshold",
    "max_rounds",
    "n_prompt",
    "n_query",
    "seed",
    "literature",
)
_WORDS = {
    "atlases": "atlases to search, by name; see the tool `search_atlases`",
    "engine": f"method of prediction: {', '.join((AUTO, *ENGINES))}, or an installed one; auto takes what the "
    "atlas's back-test favours; the default is by what is installed",
    "executor": "where jobs run: local (this machine, free) or batch (Google Cloud, costs money)",
    "hide": "measured pairs that the search may not use, each 'CELL TYPE:PERTURBATION'",
    "pin": f"{_CANDIDATES}: every round uses them",
    "ban": f"{_CANDIDATES}: no round uses them",
    "threshold": "score from 1 to 10 at which no further round is run",
    "max_rounds": "rounds at most",
    "n_prompt": "prompt cells at most",
    "n_query": "query cells at most",
    "seed": "random seed",
}


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @property
    def given(self) -> dict[str, Any]:
        """What was set."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}


def _optional(name: str, field: FieldInfo) -> Any:  # noqa: ANN401 - a type and a field, as create_model takes them
    """An option that may be left out; lists of records are given as text."""
    kind = list[str] if get_origin(field.annotation) is tuple else field.annotation
    limits = {key: getattr(rule, key) for rule in field.metadata for key in ("ge", "le") if hasattr(rule, key)}
    words = _WORDS.get(name, field.description)
    return (Optional[kind], Field(default=None, description=words, **limits))  # noqa: UP045 - made at run time


def slim(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """The same JSON schema in fewer words: every call of a model carries those of all tools.

    Titles that repeat names go, and an option that may be left out is described as it is when it is given.
    """
    if isinstance(schema, list):
        return [slim(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("title"), str):
        schema = {key: value for key, value in schema.items() if key != "title"}
    kinds = schema.get("anyOf", [])
    if len(kinds) == 2 and kinds[1] == {"type": "null"}:
        schema = {key: value for key, value in schema.items() if key not in ("anyOf", "default")} | kinds[0]
    return {key: slim(value) for key, value in schema.items()}


if TYPE_CHECKING:
    RunOptions = _Options
else:
    RunOptions = create_model(
        "RunOptions",
        __base__=_Options,
        **{name: _optional(name, RunConfig.model_fields[name]) for name in OFFERED},
    )
