"""Rewrites a checkpoint as safetensors, and describes checkpoints.

In: addresses of a checkpoint and optionally its gene list. Out: a ``.safetensors`` file; facts as dictionaries.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

import inference
from inference.errors import ModelError, UriError
from inference.files import check_uri, clear_disk_errors, local_copy, publish, sha256_of
from inference.stack.checkpoint import GENES_KEY, check_genes, read_weights, save_safetensors
from inference.stack.config import CITATION, LICENCE
from inference.stack.genes import digest_genes, read_genes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.stack.checkpoint import Weights

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SUFFIX = ".safetensors"

_WARNING = (
    "warning: with --trust-pickle, {name} can run any code with your permissions while it is read; continue only if "
    "you trust its author. The file that this command writes needs no trust."
)


@dataclass(frozen=True)
class Conversion:
    """A checkpoint to convert, and how."""

    source: str  # address of a .ckpt, .pt or .safetensors file
    target: str  # address of the .safetensors file to write
    precision: str = "fp32"
    genelist: str | None = None  # its digest is stored in the target, so that another list is refused later
    is_trusted: bool = False  # the source may run its own code where it cannot be read otherwise
    licence: str | None = None  # None: that of the source, otherwise that of the published weights
    citation: str | None = None


def convert(asked: Conversion, *, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Rewrite a checkpoint; the target appears complete, after the written file was read again and compared.

    Parameters
    ----------
    asked
        What to convert.
    folder
        Local scratch space.
    say
        Receives progress, and a warning before a file may run code.

    Returns
    -------
    Facts of the new file, as :func:`describe` gives them, and ``max_rounding``: the largest absolute change.

    Raises
    ------
    ModelError
        The source cannot be used, its weights exceed the precision, or the gene list belongs to another model.
    UriError
        The target is no ``.safetensors`` address, or equals the source.
    StorageError
        The disk or the bucket failed.
    """
    target = check_uri(asked.target)
    if not target.endswith(SUFFIX):
        msg = f"{target}: the converted file must be called <name>{SUFFIX}"
        raise UriError(msg)
    if target == check_uri(asked.source):
        msg = f"{target} is both what to convert and what to write; give the output a path of its own"
        raise UriError(msg)
    source = _fetch(asked.source, folder=folder)
    if asked.is_trusted:
        say(_WARNING.format(name=asked.source))
    found = read_weights(source, name=asked.source, is_trusted=asked.is_trusted)
    metadata = {
        **found.metadata,
        "licence": asked.licence or found.metadata.get("licence", LICENCE),
        "citation": asked.citation or found.metadata.get("citation", CITATION),
        "precision": asked.precision,
        "source": check_uri(asked.source).rpartition("/")[2],
        "source_sha256": sha256_of(source),
        "written_by": f"haystack inference {inference.__version__}",
    }
    if asked.genelist is not None:
        genes = _read_list(asked.genelist, folder=folder)
        _check_list(genes, found, name=asked.genelist, model=asked.source)
        metadata[GENES_KEY] = digest_genes(genes)
    say(f"{asked.source}: {found.n_parameters} parameters read")
    tensors = {name: tensor.to(PRECISIONS[asked.precision]) for name, tensor in found.tensors.items()}
    rounding = max(_rounding(name, tensor, found, asked) for name, tensor in tensors.items())
    path = folder / f"converted{SUFFIX}"
    with clear_disk_errors(path):
        save_safetensors(path, config=found.config, tensors=tensors, metadata=metadata)
    _compare(path, tensors, found, name=target)
    publish(path, target)
    say(f"{target}: written and compared, {path.stat().st_size} bytes")
    facts = {"file": target, "bytes": path.stat().st_size, "sha256": sha256_of(path), "max_rounding": rounding}
    return facts | _facts(read_weights(path, name=target), notes=found.notes)


def describe(uri: str, *, genelist: str | None, folder: Path) -> dict[str, Any]:
    """Describe a checkpoint: sizes, parameters, window, digest, licence, citation, and whether a gene list fits.

    Raises
    ------
    ModelError
        The file is no checkpoint, or the gene list cannot be read. A list that does not fit is reported in the facts.
    """
    path = _fetch(uri, folder=folder)
    found = read_weights(path, name=uri)
    facts = {"file": check_uri(uri), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    facts |= _facts(found, notes=found.notes)
    if genelist is None:
        return facts | {"genelist": None}
    genes = _read_list(genelist, folder=folder)
    about: dict[str, Any] = {"file": check_uri(genelist), "n_genes": len(genes), GENES_KEY: digest_genes(genes)}
    try:
        _check_list(genes, found, name=genelist, model=uri)
    except ModelError as error:
        about |= {"fits": False, "reason": str(error)}
    else:
        reason = "the number of names matches; the file has no digest"
        if GENES_KEY in found.metadata:
            reason = "the names match the digest in the file"
        about |= {"fits": True, "reason": reason}
    return facts | {"genelist": about}


def _facts(found: Weights, *, notes: tuple[str, ...]) -> dict[str, Any]:
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in found.tensors.values())
    return {
        "config": asdict(found.config),
        "n_parameters": found.n_parameters,
        "window_cells": found.config.n_cells,
        "stored_as": dict(kinds),
        "licence": found.metadata.get("licence", LICENCE),
        "citation": found.metadata.get("citation", CITATION),
        "source_sha256": found.metadata.get("source_sha256"),
        GENES_KEY: found.metadata.get(GENES_KEY),
        "notes": list(notes),
    }


def _rounding(name: str, tensor: torch.Tensor, found: Weights, asked: Conversion) -> float:
    """Largest absolute change of a weight through the new precision."""
    before = found.tensors[name]
    if not torch.isfinite(before).all():
        msg = f"{asked.source}: tensor {name} holds values that are not finite; the checkpoint is damaged, give another"
        raise ModelError(msg)
    if not torch.isfinite(tensor).all():
        largest = float(before.abs().max())
        msg = (
            f"{asked.source}: tensor {name} holds values up to {largest:.3g}, beyond {asked.precision}; convert with "
            f"--precision bf16 or fp32"
        )
        raise ModelError(msg)
    return float((tensor.double() - before.double()).abs().max())


def _compare(path: Path, tensors: dict[str, torch.Tensor], found: Weights, *, name: str) -> None:
    """Read the written file and compare it bit for bit."""
    again = read_weights(path, name=name)
    wrong = [key for key, tensor in tensors.items() if not torch.equal(again.tensors[key], tensor)]
    if wrong or again.config != found.config:
        msg = f"{name}: reading it again gave other values ({', '.join(wrong[:3])}): the disk may be faulty; try again"
        raise ModelError(msg)


def _check_list(genes: tuple[str, ...], found: Weights, *, name: str, model: str) -> None:
    check_genes(genes, n_genes=found.config.n_genes, genes_sha256=found.metadata.get(GENES_KEY), name=name, model=model)


def _read_list(uri: str, *, folder: Path) -> tuple[str, ...]:
    return read_genes(_fetch(uri, folder=folder), name=uri)


def _fetch(uri: str, *, folder: Path) -> Path:
    try:
        return local_copy(uri, folder=folder)
    except FileNotFoundError as error:
        msg = f"{uri}: no such file; give the path or gs:// address of a checkpoint and of its gene list"
        raise ModelError(msg) from error
