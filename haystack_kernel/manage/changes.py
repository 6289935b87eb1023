"""Turn ``key=value`` texts into a changed configuration, or raise an error that names the possible keys.

In: a configuration and changes. Out: the new configuration.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from haystack_kernel.config.options import build_config
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import OPTIONS, RunConfig
from inference.manifest import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from haystack_kernel.schema import Settings

_LISTS = ("atlases", "hide", "pin", "ban")
_NOTHING = ("", "null")  # these clear an option; "none" is the name of an engine


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` texts.

    A list is given by repeating its key, or as a whole as JSON; ``KEY=`` clears an option.

    Raises
    ------
    InvalidInputError
        A text has no ``=``, or its key is not an option of a run.

    Examples
    --------
    >>> parse_changes(["seed=1", "ban=donor=d1", "ban=donor=d2"])
    {'seed': '1', 'ban': ['donor=d1', 'donor=d2']}
    """
    changes: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not separator:
            msg = f"--set {text!r} must be KEY=VALUE, e.g. --set threshold=9"
            raise InvalidInputError(msg, given=text)
        check_keys([key])
        value = value.strip()
        is_nothing = value in _NOTHING
        if key not in _LISTS:
            changes[key] = None if is_nothing else value
            continue
        items = [] if is_nothing else [value]
        if value.startswith("["):
            try:
                items = list(json.loads(value))
            except ValueError as error:
                msg = f"{value!r} starts like a JSON list but is not one ({error}); repeat --set for each item instead"
                raise InvalidInputError(msg, given=value) from error
        changes[key] = [*changes.get(key, []), *items]
    return changes


def check_keys(keys: Sequence[str]) -> None:
    """Refuse names that are not options of a run; the error names the nearest option and all of them."""
    possible = list(OPTIONS)
    for key in keys:
        if key not in possible:
            near = difflib.get_close_matches(key, possible, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            msg = f"{key!r} is not an option of a run; {hint}possible: {', '.join(possible)}"
            raise InvalidInputError(msg, key=key, possible=possible)


def change_config(config: RunConfig, changes: Mapping[str, Any], *, settings: Settings) -> RunConfig:
    """Return ``config`` with ``changes`` (Python values or text), checked as the options of a new run are.

    Raises
    ------
    InvalidInputError
        A key is unknown or a value is out of range.
    """
    check_keys(list(changes))
    if changes.get("engine") == AUTO and config.engine_default is not None:  # as it was asked for
        changes = {name: value for name, value in changes.items() if name != "engine"}
    kept = {name: getattr(config, name) for name in RunConfig.model_fields if name not in changes}
    other_model = {"engine", "model"} & set(changes)
    if "engine" in changes:
        kept.pop("engine_default")
    if other_model:  # the number of diffusion steps belongs to the model
        kept.pop("diffusion_steps", None)
    return build_config(settings, **{**kept, **changes})
