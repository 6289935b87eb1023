"""Settings read from every layer, and the only module that reads the environment.

In: packaged ``settings.toml`` (layers default, dev, prod, test picked by ``DYNACONF``), a ``haystack.toml`` in the
working directory, then ``HAYSTACK_*`` variables. Out: one frozen, validated :class:`haystack_kernel.schema.Settings`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import Settings
from haystack_kernel.schema.settings import NO_STANDING_CONSENT

LAYERS = ("default", "dev", "prod", "test")
_PACKAGED = Path(__file__).with_name("settings.toml")


def load_settings(layer: str | None = None, **overrides: object) -> Settings:
    """Read every layer once and validate the result.

    Parameters
    ----------
    layer
        One of default, dev, prod, test; None takes ``DYNACONF`` from the environment, else default.
    **overrides
        Top-level values that win over every layer; None is ignored, sections are merged.

    Returns
    -------
    The validated settings, which never change afterwards.

    Raises
    ------
    InvalidInputError
        Unknown layer, unknown setting, a value out of range (the message names it), or a file that is not TOML.

    Examples
    --------
    >>> settings = load_settings(storage="runs", rounds={"maximum": 2})  # doctest: +SKIP
    >>> settings.rounds.maximum  # doctest: +SKIP
    2
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
        msg = f"invalid settings: {'; '.join(lines)} (set by an option, HAYSTACK_<NAME> or haystack.toml)"
        raise InvalidInputError(msg, errors=lines) from error


def jupyter_user() -> str:
    """Name of the user of the JupyterHub that this process runs for; "local" without one."""
    return os.environ.get("JUPYTERHUB_USER", "").strip() or "local"


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
    found = {name: value for name, value in _lower(values).items() if name != "load_dotenv"}
    claude = found.get("claude") or {}
    if "api_key" not in claude and (key := os.environ.get("ANTHROPIC_API_KEY", "").strip()):
        found["claude"] = {**claude, "api_key": key}
    if "approve" in (found.get("cost") or {}):
        raise InvalidInputError(NO_STANDING_CONSENT)
    return found


def _explain(loc: tuple[int | str, ...], message: str, *, is_unknown: bool) -> str:
    """One line about a refused value; for an unknown name with those there are."""
    name = ".".join(str(part) for part in loc)
    if not is_unknown:
        return f"{name}: {message.removeprefix('Value error, ')}"
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
