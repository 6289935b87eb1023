"""Reads a checkpoint's sizes and weights, and nothing that could run code.

In: a ``.ckpt`` or ``.pt`` file of torch, or ``.safetensors`` with the sizes in its metadata. Out: a model.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inference.errors import ModelError
from inference.stack.config import CITATION, LICENCE, StackConfig, parse_config, tensor_shapes
from inference.stack.genes import DAMAGE
from inference.stack.model import StackModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG_KEY = "model_config"  # in safetensors metadata, as JSON; licence and citation may stand beside it
PREFIX = "model."  # of tensor names in a training checkpoint; may be absent

_REFUSED = re.compile(r"(?:GLOBAL|function|class)\s+([A-Za-z_][\w.]*\.[\w.<>]+)")
_FORMS = "give a .ckpt or .pt file of torch, or a .safetensors file"
_N_NAMED = 4


@dataclass(frozen=True)
class Checkpoint:
    """A model as read, and what has to be said with its output."""

    model: StackModel
    citation: str = CITATION
    licence: str = LICENCE
    notes: tuple[str, ...] = field(default=())


def load_checkpoint(path: Path, *, name: str) -> Checkpoint:
    """Read a model; weights stay in the mapped file until they are used.

    Parameters
    ----------
    path
        Local file.
    name
        How messages call it: the address the reader knows.

    Raises
    ------
    ModelError
        Not a checkpoint, cut short, of another architecture, with tensors missing or misshapen, or holding objects
        that only a trusted file may build.
    """
    citation, licence = CITATION, LICENCE
    if path.suffix == ".safetensors":
        config, tensors, metadata = _read_safetensors(path, name)
        citation, licence = metadata.get("citation", CITATION), metadata.get("licence", LICENCE)
    else:
        config, tensors = _read_torch(path, name)
    tensors = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    shapes = tensor_shapes(config)
    _check_tensors(tensors, shapes, name)
    notes = _notes(tensors, shapes)
    used = {key: tensors[key].to(torch.float32) for key in shapes}
    return Checkpoint(StackModel(config, used), citation, licence, notes)


def save_safetensors(
    path: Path, *, config: StackConfig, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a checkpoint that :func:`load_checkpoint` reads.

    Parameters
    ----------
    path
        Where; ends in ``.safetensors``.
    config, tensors
        The model; tensor names as in :func:`inference.stack.config.tensor_shapes`.
    metadata
        More to say, such as ``citation`` and ``licence``; by default the published model's are meant.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={**(metadata or {}), CONFIG_KEY: json.dumps(asdict(config))})


def _read_torch(path: Path, name: str) -> tuple[StackConfig, dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickle protocols, which are refused or read all the same
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except DAMAGE as error:
        raise ModelError(_unreadable(path, name, error)) from error
    if not isinstance(raw, dict):
        msg = f"{name}: holds a {type(raw).__name__}, not a dictionary with hyper_parameters and state_dict; {_FORMS}"
        raise ModelError(msg)
    hyper = raw.get("hyper_parameters", raw)
    tensors = raw.get("state_dict")
    if not isinstance(tensors, dict) or not isinstance(hyper, dict) or CONFIG_KEY not in hyper:
        lacks = "state_dict" if not isinstance(tensors, dict) else f"hyper_parameters[{CONFIG_KEY!r}]"
        msg = (
            f"{name}: lacks {lacks} (it has {', '.join(sorted(map(str, raw))[:_N_NAMED])} …); the sizes of the model "
            f"cannot be guessed from its tensors: give the whole checkpoint, {{hyper_parameters, state_dict}}"
        )
        raise ModelError(msg)
    return parse_config(hyper[CONFIG_KEY], name=name), {str(key): value for key, value in tensors.items()}


def _read_safetensors(path: Path, name: str) -> tuple[StackConfig, dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as source:
            metadata = dict(source.metadata() or {})
            config = parse_config(json.loads(metadata.get(CONFIG_KEY, "null")), name=name)
            known = set(tensor_shapes(config))
            tensors = {
                key: source.get_tensor(key) if key.removeprefix(PREFIX) in known else torch.empty(0, device="meta")
                for key in source.keys()  # noqa: SIM118 - not a mapping
            }
    except ModelError:
        raise
    except (SafetensorError, *DAMAGE) as error:
        raise ModelError(_unreadable(path, name, error)) from error
    return config, tensors, metadata


def _unreadable(path: Path, name: str, error: Exception) -> str:
    text = str(error)
    found = _REFUSED.search(text) if isinstance(error, pickle.UnpicklingError) else None
    if found:
        return (
            f"{name}: wants to build {found.group(1)}, which is no tensor and may run code: refused. If you trust the "
            f"file, convert it once with `haystack model convert --trust-pickle` and give the .safetensors it writes"
        )
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)[:200]
    return (
        f"{name}: not a readable checkpoint ({path.stat().st_size} bytes; {reason}); it may be cut short or of another "
        f"format: copy it again, or {_FORMS}"
    )


def _check_tensors(tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    if missing := [key for key in shapes if not isinstance(tensors.get(key), torch.Tensor)]:
        msg = (
            f"{name}: {len(missing)} of the {len(shapes)} tensors of the STACK architecture are missing "
            f"({_some(missing)}), found {_some(list(tensors)) or 'none'}; it is another model or an incomplete copy: "
            f"give a STACK checkpoint"
        )
        raise ModelError(msg)
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, needed {shape}"
        for key, shape in shapes.items()
        if tuple(tensors[key].shape) != shape
    ]
    if wrong:
        msg = (
            f"{name}: {len(wrong)} tensors have a shape that model_config does not allow ({_some(wrong, '; ')}); "
            f"config and weights are of different models: give the checkpoint they were saved in together"
        )
        raise ModelError(msg)
    if other := [f"{key} ({tensors[key].dtype})" for key in shapes if not tensors[key].is_floating_point()]:
        msg = f"{name}: tensors are not of a floating type ({_some(other)}); give unquantised weights"
        raise ModelError(msg)


def _notes(tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    if extra := [key for key in tensors if key not in shapes]:
        return (f"the checkpoint holds {len(extra)} tensors the model does not use ({_some(extra)})",)
    return ()


def _some(items: list[str], separator: str = ", ") -> str:
    more = f" and {len(items) - _N_NAMED} more" if len(items) > _N_NAMED else ""
    return separator.join(items[:_N_NAMED]) + more
