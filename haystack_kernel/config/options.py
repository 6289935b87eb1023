"""What a run is asked to do: settings and options become its configuration, refused before anything is made.

In: settings, options as a notebook or a command gives them. Out: a RunConfig.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from haystack_kernel.config.engines import check_engine
from haystack_kernel.errors import InvalidInputError, explain_refusals
from haystack_kernel.schema import (
    CELL_OPTIONS,
    DEMO_ATLAS,
    FILE_OPTIONS,
    OPTIONS,
    OWN_ATLAS,
    HiddenPair,
    RunConfig,
    address_fault,
)
from haystack_kernel.store import hide_home, is_cells, is_kept, keep_cells, require_cells, shown_name
from haystack_kernel.store.layout import TRANSCRIPT
from inference.manifest import AUTO, DEMO_MODEL, DEMO_STEPS, MODEL_ENGINE, MODEL_PACKAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import Resolution, Settings, TermKind

BASELINE = "weighted"  # the best engine that needs no model
DEMO_ATLASES = (DEMO_ATLAS,)  # whose cells the packaged model was made for
LIST_OPTIONS = tuple(name for name, field in RunConfig.model_fields.items() if get_origin(field.annotation) is tuple)
_PIECES = re.compile(r"\s*[/&]\s*|\s+(?:and|or)\s+")
_NOT_GIVEN = ("", "None", "null")  # as text; "none" is an engine


def build_config(settings: Settings, **options: Any) -> RunConfig:  # noqa: ANN401 - validated by RunConfig
    """Settings and options -> the run's configuration.

    Raises
    ------
    InvalidInputError
        Unknown option or value; a hidden pair that names no known cell type or perturbation; engine ``stack`` without
        a model and its gene list.
    """
    from pydantic import ValidationError

    defaults: dict[str, Any] = {
        "atlases": settings.atlases,
        "planner": settings.planner,
        "model": settings.inference.model,
        "genelist": settings.inference.genelist,
        "diffusion_steps": settings.inference.diffusion_steps,
        "control_strategy": settings.inference.control_strategy,
        "executor": settings.jobs.executor,
        "threshold": settings.rounds.threshold,
        "max_rounds": settings.rounds.maximum,
        "n_prompt": settings.inference.n_prompt,
        "n_query": settings.inference.n_query,
        "seed": settings.seed,
    }
    given = _read_given(settings, options)
    _name_own_atlas(settings, given)
    if given.get("planner", settings.planner) == "auto":  # never again another one, once the run has begun
        given["planner"] = "claude" if settings.claude.is_configured else "offline"
    defaults["engine"] = _default_engine(settings, given)
    asked = given.get("engine", settings.inference.engine)
    if asked == AUTO:
        given["engine"] = given["engine_default"] = defaults["engine"]
    defaults["literature"] = settings.literature.enabled and not _is_simulated(settings, given)
    try:
        config = _check_model(RunConfig.model_validate({**defaults, **given}))
    except ValidationError as error:
        lines = explain_refusals(error)
        msg = f"invalid run options: {'; '.join(lines)}; possible: {', '.join(OPTIONS)}"
        raise InvalidInputError(msg, errors=lines) from error
    _check_engines(config, settings)
    _check_own_cells(config)
    _check_transcript(config)
    _check_places(config, settings)
    if config.model == DEMO_MODEL and "diffusion_steps" not in given:
        config = config.model_copy(update={"diffusion_steps": DEMO_STEPS})
    paths = {name: getattr(config, name) for name in FILE_OPTIONS}
    return config.model_copy(update={name: hide_home(path) for name, path in paths.items() if path})


def read_typed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, with text read as what it says.

    Schedulers and ``papermill -r`` pass every parameter as text. ``"None"`` and empty text mean that the option was not
    given, and ``'["kang"]'`` is a list. Numbers and truth values (``"7"``, ``"0.5"``, ``"False"``) stay text here: the
    schema reads them as the type of their option.

    Raises
    ------
    InvalidInputError
        Text that begins like a list and is none.
    """
    given: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, str):
            value = value.strip()
            if value in _NOT_GIVEN:
                continue
            if name in LIST_OPTIONS:
                value = _read_list(name, value)
        if value is not None:
            given[name] = value
    return given


def _read_list(name: str, text: str) -> list[Any]:
    """``'["a", "b"]'``, as Python or as JSON writes it, or one item alone."""
    if not text.startswith(("[", "(")):
        return [text]
    try:
        return list(ast.literal_eval(text))
    except (SyntaxError, ValueError, TypeError) as error:
        msg = f'{name} {text!r} begins like a list and is none; write it as ["first", "second"]'
        raise InvalidInputError(msg, given=text) from error


def _read_given(settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options that were given: text as what it says, hidden pairs as ids, addresses without slips."""
    given = read_typed(options)
    hidden = given.get("hide", ())
    hidden = (hidden,) if isinstance(hidden, str) else hidden
    given["hide"] = tuple(
        parse_hidden(item, knowledge=settings.knowledge) if isinstance(item, str) else item for item in hidden
    )
    _read_cells(settings, given)
    for name in FILE_OPTIONS:
        if fault := address_fault(str(given.get(name) or "")):
            msg = f"{name} {fault}"
            raise InvalidInputError(msg, option=name)
    return given


def _read_cells(settings: Settings, given: dict[str, Any]) -> None:
    """Keep cells that are given in memory as files of the cache, and make paths of this machine absolute."""
    for name in CELL_OPTIONS:
        value = given.get(name)
        if value is None:
            continue
        require_cells(value, role=name.removesuffix("_h5ad"))
        if is_cells(value):
            given[name] = keep_cells(value, Path(settings.cache))
        elif not address_fault(str(value)) and "://" not in str(value) and not is_kept(str(value)):
            given[name] = str(Path(value).expanduser().absolute())


def _name_own_atlas(settings: Settings, given: dict[str, Any]) -> None:
    """Name the user's own prompt cells among the atlases: first, and alone unless others are asked for."""
    others = tuple(name for name in given.get("atlases", ()) if name != OWN_ATLAS)
    if given.get("prompt_h5ad"):
        given["atlases"] = (OWN_ATLAS, *others)
    elif OWN_ATLAS in given.get("atlases", ()):  # a fork that leaves them out
        given["atlases"] = others or settings.atlases


def _check_engines(config: RunConfig, settings: Settings) -> None:
    """Refuse an engine, or a default of engine auto, that is not there."""
    for name in dict.fromkeys((config.engine, config.engine_default or config.engine)):
        check_engine(name, settings=settings, executor=config.executor)


def _check_own_cells(config: RunConfig) -> None:
    """Refuse cells and criteria that belong to cells which are not given."""
    if config.control_h5ad and not config.prompt_h5ad:
        msg = (
            f"control {shown_name(config.control_h5ad)!r} belongs to prompt cells of your own, and none are given; "
            "give them as prompt (prompt_h5ad), or the cells to be transformed as query (query_h5ad)"
        )
        raise InvalidInputError(msg)
    if config.query_cells and not config.query_h5ad:
        msg = f"query_cells {config.query_cells!r} chooses among the cells of query_h5ad, and no such file is given"
        raise InvalidInputError(msg, given=config.query_cells)


def _check_transcript(config: RunConfig) -> None:
    """Planner ``replay`` needs a transcript, and no other planner reads one."""
    if (config.planner == "replay") == bool(config.transcript):
        return
    if config.transcript:
        msg = f"a transcript is read by planner 'replay' alone, and planner {config.planner!r} is asked for"
    else:
        msg = f"planner 'replay' needs a transcript: {TRANSCRIPT} of a run that a language model planned (--transcript)"
    raise InvalidInputError(msg, planner=config.planner)


def _default_engine(settings: Settings, given: dict[str, Any]) -> str:
    """What predicts where no engine is asked for: ``stack`` with a model, or on the demo atlas alone with its own."""
    if settings.inference.engine not in (None, AUTO):
        return settings.inference.engine
    if given.get("model", settings.inference.model):
        return MODEL_ENGINE
    is_elsewhere = given.get("executor", settings.jobs.executor) == "batch"  # in an image that has the packages
    is_installed = is_elsewhere or all(find_spec(package) for package in MODEL_PACKAGES)
    return MODEL_ENGINE if _is_simulated(settings, given) and is_installed else BASELINE


def needs_model_here(settings: Settings, options: dict[str, Any]) -> bool:
    """Whether the job of a run with these options, which are not checked yet, loads a model on this machine."""
    if options.get("executor", settings.jobs.executor) != "local":
        return False
    return options.get("engine", _default_engine(settings, options)) == MODEL_ENGINE


def _is_simulated(settings: Settings, given: dict[str, Any]) -> bool:
    """Whether all cells are those of the demo atlas: no paper is about them, and it asks for no network."""
    own = any(given.get(name) for name in CELL_OPTIONS)
    return tuple(given.get("atlases", settings.atlases)) == DEMO_ATLASES and not own


def _check_model(config: RunConfig) -> RunConfig:
    """Engine ``stack`` needs a model and, unless it is the packaged one, a gene list; local files are made absolute."""
    if config.engine != MODEL_ENGINE:
        return config
    if config.model is None and config.atlases == DEMO_ATLASES:
        config = config.model_copy(update={"model": DEMO_MODEL})
    if config.model == DEMO_MODEL:
        return config
    found: dict[str, str] = {}
    for name, uri in (("model", config.model), ("genelist", config.genelist)):
        if uri is None:
            msg = (
                f"engine 'stack' needs a {name}: give --model and --genelist, or HAYSTACK_INFERENCE__MODEL and "
                f"HAYSTACK_INFERENCE__GENELIST; engine {BASELINE!r} needs neither"
            )
            raise InvalidInputError(msg, missing=name)
        found[name] = uri if "://" in uri else str(Path(uri).expanduser().absolute())
        if "://" not in uri and not Path(found[name]).is_file():
            msg = f"the {name} {uri!r} of engine 'stack' does not exist; give the path or gs:// address of the file"
            raise InvalidInputError(msg, uri=uri)
    return config.model_copy(update=found)


def _check_places(config: RunConfig, settings: Settings) -> None:
    """A job of the cloud reads buckets alone (a local Batch service reads this disk too)."""
    if config.executor != "batch" or settings.batch.insecure:
        return
    places = {"--storage": settings.storage, "--model": config.model, "--genelist": config.genelist}
    if config.engine != MODEL_ENGINE or config.model == DEMO_MODEL:
        places = {"--storage": settings.storage}
    if here := [f"{name} {place}" for name, place in places.items() if place and not place.startswith("gs://")]:
        msg = f"executor 'batch' runs where this disk is not: {', '.join(here)} must be gs:// addresses"
        raise InvalidInputError(msg, places=here)


def parse_hidden(text: str, *, knowledge: str | None = None) -> HiddenPair:
    """``"CD4 T cell:IFN-beta"`` -> the pair of ids that no strategy may see; ``knowledge`` is the folder of additions.

    Raises
    ------
    InvalidInputError
        No colon, a cell type that is not known, or a side that may mean several; the possible ones are named.
    """
    from haystack_kernel.knowledge import load_knowledge

    cell_type, separator, perturbation = text.rpartition(":")
    if not separator or not cell_type.strip() or not perturbation.strip():
        msg = f"--hide {text!r} must be 'CELL TYPE:PERTURBATION', e.g. 'CD4 T cell:IFN-beta'"
        raise InvalidInputError(msg, given=text)
    tables = load_knowledge(knowledge)
    return HiddenPair(
        cell_type_id=_surely("cell_type", cell_type.strip(), text=text, knowledge=tables),
        perturbation=_surely("perturbation", perturbation.strip(), text=text, knowledge=tables),
    )


def _surely(kind: TermKind, part: str, *, text: str, knowledge: Knowledge) -> str:
    """Id of the one term that a side of a hidden pair names; what may mean several, or was guessed, is asked about.

    A treatment that no table knows may be a label of an atlas, and is left as it is until the atlases are open.
    """
    found = _resolve_side(kind, part, knowledge=knowledge)
    if found.match is None and kind == "perturbation":
        return part
    if found.match is not None and found.match.how != "fuzzy" and not found.ambiguous:
        return found.match.id
    possible = (found.match, *found.alternatives)
    near = [f"{one.name} ({one.id})" if one.id != one.name else one.name for one in possible if one]
    raise _unsure(kind, part, text=text, near=near, is_known=found.match is not None)


def _resolve_side(kind: TermKind, part: str, *, knowledge: Knowledge) -> Resolution:
    """Resolve one side; a bare gene is its change, and "T/NK" may be either."""
    from haystack_kernel.knowledge import resolve, resolve_genetic

    found = resolve(part, kind=kind, knowledge=knowledge)
    if kind == "perturbation":
        return found if found.match is not None else resolve_genetic(part, declared=True) or found
    pieces = [resolve(piece, kind=kind, knowledge=knowledge).match for piece in _PIECES.split(part)]
    known = tuple(one for one in pieces if one is not None)
    if len(pieces) == 1 or len(known) < len(pieces):
        return found
    return found.model_copy(update={"match": known[0], "alternatives": known[1:], "ambiguous": True})


def _unsure(kind: TermKind, part: str, *, text: str, near: list[str], is_known: bool) -> InvalidInputError:
    noun = kind.replace("_", " ")
    if is_known:
        msg = f"--hide {text!r}: {part!r} may mean {' or '.join(near)}; name the {noun} that is meant, or give its id"
    else:
        msg = f"--hide {text!r}: unknown {noun} {part!r}; nearest known: {', '.join(near) or 'none'}"
    return InvalidInputError(msg, given=text, possible=near)


def changed_options(config: RunConfig, settings: Settings, **options: Any) -> str:  # noqa: ANN401 - as build_config
    """Name the options given that differ from ``config``: ``"seed is 0, not 5"``; empty where none does."""
    given = read_typed(options)
    asked = build_config(settings, **given)
    pairs = [(name, getattr(config, name), getattr(asked, name)) for name in given]
    if config.engine_default is not None and asked.engine_default is not None:  # it was chosen since
        pairs = [pair for pair in pairs if pair[0] != "engine"]
    changed = [(name, old, new) for name, old, new in pairs if old != new and not _is_same_file(old, new, settings)]
    return "; ".join(f"{name} is {old!r}, not {new!r}" for name, old, new in changed)


def _is_same_file(kept: object, path: object, settings: Settings) -> bool:
    """Whether a file of this disk is the one that a run has taken along into its folder."""
    if not (isinstance(kept, str) and isinstance(path, str) and is_kept(kept) and not is_kept(path)):
        return False
    here = Path(path).expanduser()
    return here.is_file() and keep_cells(here, Path(settings.cache)) == kept
