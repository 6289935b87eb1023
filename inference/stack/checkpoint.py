"""Reads the sizes and weights of a checkpoint, and nothing that could run code.

In: a ``.ckpt`` or ``.pt`` file of torch, or ``.safetensors`` with the sizes in its metadata. Out: a model.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inference.errors import ModelError
from inference.quiet import no_warnings
from inference.stack.config import CITATION, LICENCE, StackConfig, parse_config, tensor_shapes
from inference.stack.genes import DAMAGE, digest_genes
from inference.stack.model import StackModel, place_tensors
from inference.stack.trusted import Lenient, as_mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

CONFIG_KEY = "model_config"  # in safetensors metadata, as JSON; licence and citation may stand beside it
GENES_KEY = "genes_sha256"  # in safetensors metadata: digest of the gene list, where it was given on converting
PREFIX = "model."  # of tensor names in a training checkpoint; may be absent

_REFUSED = re.compile(r"(?:GLOBAL|function|class)\s+([A-Za-z_][\w.]*\.[\w.<>]+)")
_FORMS = "give a .ckpt or .pt file of torch, or a .safetensors file"
_N_NAMED = 4
_LEAST_BYTES = 2  # of a number: smaller floats are quantised, with a scale that stands elsewhere


_PROCESSOR = torch.device("cpu")


def _full_precision(config: StackConfig) -> str:
    return "fp32"


@dataclass(frozen=True)
class Checkpoint:
    """A model as read, with the citation and licence that its outputs must carry."""

    model: StackModel
    citation: str = CITATION
    licence: str = LICENCE
    notes: tuple[str, ...] = field(default=())
    genes_sha256: str | None = None  # of its gene list (``digest_genes``), where the file tells


@dataclass(frozen=True)
class Weights:
    """The tensors and metadata of a model as they are stored in a file."""

    config: StackConfig
    tensors: dict[str, torch.Tensor]  # those the model uses, by the names of ``tensor_shapes``
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file, without the sizes
    notes: tuple[str, ...] = ()

    @property
    def n_parameters(self) -> int:
        """Numbers in the model."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def load_checkpoint(
    path: Path,
    *,
    name: str,
    device: torch.device = _PROCESSOR,
    choose_precision: Callable[[StackConfig], str] = _full_precision,
) -> Checkpoint:
    """Read a model as :func:`read_weights` does.

    Parameters
    ----------
    path, name
        See :func:`read_weights`.
    device
        Where the weights go. On a processor those that are stored as they are used stay in the mapped file.
    choose_precision
        ``fp32`` or ``bf16`` for a model of these sizes.
    """
    found = read_weights(path, name=name)
    precision = choose_precision(found.config)
    used = place_tensors(found.tensors, device=device, precision=precision)
    return Checkpoint(
        StackModel(found.config, used),
        found.metadata.get("citation", CITATION),
        found.metadata.get("licence", LICENCE),
        found.notes,
        found.metadata.get(GENES_KEY),
    )


def read_weights(path: Path, *, name: str, is_trusted: bool = False) -> Weights:
    """Read sizes and weights, and nothing else that a training checkpoint contains.

    Parameters
    ----------
    path
        Local file.
    name
        Name of the file in messages: the address that the user gave.
    is_trusted
        Allow a torch file to run its own code while it is read, where it cannot be read otherwise.

    Raises
    ------
    ModelError
        The file is no checkpoint, incomplete, of another architecture, has missing or misshapen tensors, or contains
        objects that only a trusted file may build.
    """
    metadata: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if path.suffix == ".safetensors":
        config, tensors, metadata = _read_safetensors(path, name)
    else:
        raw, notes = _read_torch(path, name, is_trusted=is_trusted)
        config, tensors = _take_apart(raw, name)
    tensors = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    shapes = tensor_shapes(config)
    _check_tensors(tensors, shapes, name)
    if extra := [key for key in tensors if key not in shapes]:
        notes = (*notes, f"the checkpoint holds {len(extra)} tensors the model does not use ({_some(extra)})")
    return Weights(config, {key: tensors[key] for key in shapes}, metadata, notes)


def check_genes(genes: Sequence[str], *, n_genes: int, genes_sha256: str | None, name: str, model: str) -> None:
    """Check that a gene list is the model's.

    Parameters
    ----------
    genes
        Names in order.
    n_genes, genes_sha256
        Number and digest of the genes according to the checkpoint; the digest is None where it gives none.
    name, model
        Names of the two files in messages.

    Raises
    ------
    ModelError
        The number of names differs, or the names or their order do.
    """
    if len(genes) != n_genes:
        msg = (
            f"{name} names {len(genes)} genes, the model {model} has {n_genes}: they do not belong "
            f"together; give the gene list that was published with the model"
        )
        raise ModelError(msg)
    if genes_sha256 is not None and digest_genes(genes) != genes_sha256:
        msg = (
            f"{name} names {len(genes)} genes as the model {model} has, but other ones or in another order: give the "
            f"gene list that the model was converted with"
        )
        raise ModelError(msg)


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
        Further entries such as ``citation`` and ``licence``; without them those of the published model apply.
    """
    separate: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():  # the library refuses tensors that share memory
        storage = tensor.untyped_storage().data_ptr()
        separate[name] = (tensor.clone() if storage in storages else tensor).contiguous()
        storages.add(storage)
    save_file(separate, path, metadata={**(metadata or {}), CONFIG_KEY: json.dumps(asdict(config))})
    # The library writes the metadata in a varying order: it is sorted, so that equal models give equal bytes.
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def _read_torch(path: Path, name: str, *, is_trusted: bool) -> tuple[Any, tuple[str, ...]]:
    """Read the object in a torch file, and notes on how; without trust only tensors and plain values are built."""
    options: dict[str, Any] = {"map_location": "cpu", "mmap": zipfile.is_zipfile(path)}
    try:
        with no_warnings():  # about unusual pickle protocols, which are refused or read all the same
            return torch.load(path, weights_only=True, **options), ()
    except DAMAGE as error:
        if not (is_trusted and _refused(error)):
            raise ModelError(_unreadable(path, name, error)) from error
        refused = _refused(error)
    try:
        lenient = Lenient()
        with no_warnings():
            raw = torch.load(path, weights_only=False, pickle_module=lenient.module, **options)
    except DAMAGE as error:
        raise ModelError(_unreadable(path, name, error)) from error
    notes = [f"read as a trusted file: it builds {refused} and may have run code"]
    if lenient.absent:
        notes.append(f"left out, their packages are not installed: {_some(sorted(lenient.absent))}")
    return raw, tuple(notes)


def _take_apart(raw: Any, name: str) -> tuple[StackConfig, dict[str, Any]]:  # noqa: ANN401 - what torch.load gives
    if not isinstance(raw, dict):
        msg = f"{name}: holds a {type(raw).__name__}, not a dictionary with hyper_parameters and state_dict; {_FORMS}"
        raise ModelError(msg)
    hyper = as_mapping(raw.get("hyper_parameters", raw))
    tensors = raw.get("state_dict")
    if not isinstance(tensors, dict) or hyper is None or CONFIG_KEY not in hyper:
        lacks = "state_dict" if not isinstance(tensors, dict) else f"hyper_parameters[{CONFIG_KEY!r}]"
        msg = (
            f"{name}: lacks {lacks} (it has {', '.join(sorted(map(str, raw))[:_N_NAMED])} …); the sizes of the model "
            f"cannot be guessed from its tensors: give the whole checkpoint, {{hyper_parameters, state_dict}}"
        )
        raise ModelError(msg)
    sizes = as_mapping(hyper[CONFIG_KEY])
    config = parse_config(hyper[CONFIG_KEY] if sizes is None else sizes, name=name)
    return config, {str(key): value for key, value in tensors.items()}


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
            del metadata[CONFIG_KEY]
    except ModelError:
        raise
    except (SafetensorError, *DAMAGE) as error:
        raise ModelError(_unreadable(path, name, error)) from error
    return config, tensors, metadata


def _refused(error: Exception) -> str | None:
    """Name of the class or function that the safe reader refused to build."""
    found = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return found.group(1) if found else None


def _unreadable(path: Path, name: str, error: Exception) -> str:
    text = str(error)
    if refused := _refused(error):
        return (
            f"{name}: wants to build {refused}, which is no tensor and may run code: refused. If you trust the "
            f"file, convert it once with `haystack model convert --trust-pickle` and give the .safetensors it writes"
        )
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)[:200]
    if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to read it without safety
        reason = "its pickle holds what no file of tensors needs, or is damaged; nothing in it was run"
    return (
        f"{name}: not a readable checkpoint ({path.stat().st_size} bytes; {reason}); it may be cut short or of another "
        f"format: copy it again, or {_FORMS}"
    )


def _check_tensors(tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    missing, misshapen, other = [], [], []
    for key, shape in shapes.items():
        tensor = tensors.get(key)
        if not isinstance(tensor, torch.Tensor):
            missing.append(key)
        elif fault := _fault_of_storage(tensor):
            other.append(f"{key} {fault}")
        elif tuple(tensor.shape) != shape:
            misshapen.append(f"{key} is {tuple(tensor.shape)}, needed {shape}")
    if missing:
        msg = (
            f"{name}: {len(missing)} of the {len(shapes)} tensors of the STACK architecture are missing "
            f"({_some(missing)}), found {_some(list(tensors)) or 'none'}; it is another model or an incomplete copy: "
            f"give a STACK checkpoint"
        )
        raise ModelError(msg)
    if misshapen:
        msg = (
            f"{name}: {len(misshapen)} tensors have a shape that model_config does not allow "
            f"({_some(misshapen, '; ')}); config and weights are of different models: give the checkpoint they were "
            f"saved in together"
        )
        raise ModelError(msg)
    if other:
        msg = (
            f"{name}: {len(other)} tensors cannot be used as they are stored ({_some(other)}); save the model with "
            f"dense weights of a floating type, unquantised, on the processor"
        )
        raise ModelError(msg)


def _fault_of_storage(tensor: torch.Tensor) -> str:
    """Why a tensor is no table of floating numbers, whatever its shape; empty where it is one."""
    if tensor.is_nested:
        return "is nested"
    if tensor.layout != torch.strided:
        return f"is sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_meta:
        return "has a shape but no values (device meta)"
    if not tensor.is_floating_point() or tensor.element_size() < _LEAST_BYTES:
        return f"is of type {str(tensor.dtype).removeprefix('torch.')}"
    return ""


def _some(items: list[str], separator: str = ", ") -> str:
    more = f" and {len(items) - _N_NAMED} more" if len(items) > _N_NAMED else ""
    return separator.join(items[:_N_NAMED]) + more
