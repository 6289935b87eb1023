"""The model's gene list, and the alignment of cells to it.

In: a JSON, text or pickle file of names; counts with gene symbols. Out: upper-cased names, aligned counts; no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from inference.errors import InputError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MAX_BYTES = 64 * 2**20
LOW_COVERAGE = 0.5  # share of the model's genes below which an output carries a warning
FORMS = "a JSON list, one name per line, or a pickled list, tuple or numpy array of str"

DAMAGE = (  # errors that reading a damaged or crafted pickle can raise
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

_PICKLE_SUFFIXES = (".pkl", ".pickle")
_N_EXAMPLES = 3


@dataclass(frozen=True)
class Aligned:
    """Cells over the model's genes."""

    counts: sparse.csr_matrix  # float32, cells x model genes; genes the cells lack are 0
    own: NDArray[np.int64]  # columns of the cells' own genes that the model has
    model: NDArray[np.int64]  # the model's column of each of those


def read_genes(path: Path, *, name: str) -> tuple[str, ...]:
    """Read the model's genes, in model order, upper-cased; see :func:`read_names`."""
    return tuple(gene.upper() for gene in read_names(path, name=name))


def read_names(path: Path, *, name: str) -> tuple[str, ...]:
    """Read the model's genes, in model order, spelled as in the file.

    Parameters
    ----------
    path
        Local file: JSON, text (one name per line) or pickle. A pickle is read by an unpickler that can build only
        lists, tuples and numpy arrays of str.
    name
        Name of the file in messages.

    Raises
    ------
    ModelError
        The file has another form, holds anything but names, repeats a name, or is empty.
    """
    if path.stat().st_size > MAX_BYTES:
        msg = f"{name}: {path.stat().st_size} bytes is no gene list; give {FORMS}"
        raise ModelError(msg)
    raw = _parse(path.read_bytes(), suffix=path.suffix, name=name)
    for item in raw:
        if not isinstance(item, str) or not item.strip():
            msg = f"{name}: holds {type(item).__name__} {str(item)[:40]!r} where a gene name is needed; give {FORMS}"
            raise ModelError(msg)
    names = tuple(str(item).strip() for item in raw)
    if not names:
        msg = f"{name}: holds no names; give {FORMS}"
        raise ModelError(msg)
    uses = Counter(gene.upper() for gene in names)
    if repeated := sorted(uses - Counter(set(uses)))[:_N_EXAMPLES]:
        msg = f"{name}: names appear more than once ({', '.join(repeated)}); give the list the model was trained with"
        raise ModelError(msg)
    return names


def _parse(data: bytes, *, suffix: str, name: str) -> Sequence[Any]:
    """Items of a file, by its suffix or its first bytes."""
    if suffix in _PICKLE_SUFFIXES or data[:1] == b"\x80":
        return _from_pickle(data, name)
    if suffix == ".json" or data.lstrip()[:1] in (b"[", b"{"):
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            msg = f"{name}: not valid JSON ({error}); give {FORMS}"
            raise ModelError(msg) from error
        if not isinstance(raw, list):
            msg = f"{name}: JSON {type(raw).__name__}, not a list; give {FORMS}"
            raise ModelError(msg)
        return raw
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{name}: not text ({error.reason}); give {FORMS}"
        raise ModelError(msg) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def digest_genes(genes: Sequence[str]) -> str:
    """Sha256 of the upper-cased names in their order: equal for equal lists, whatever file they stand in."""
    return hashlib.sha256("\n".join(gene.upper() for gene in genes).encode()).hexdigest()


def has_gene(genes: Sequence[str], *, model_genes: Collection[str]) -> NDArray[np.bool_]:
    """Whether the model has each gene; of two genes that differ only in case the first counts, as in :func:`align`."""
    upper = [gene.upper() for gene in genes]
    first = {gene: column for column, gene in reversed(list(enumerate(upper)))}
    return np.array([gene in model_genes and first[gene] == column for column, gene in enumerate(upper)], dtype=bool)


def coverage_warnings(record: Mapping[str, Any]) -> list[str]:
    """Warnings about cells that lack most of the model's genes.

    Parameters
    ----------
    record
        Record of an output; ``record["model"]`` holds ``frac_model_genes_in_query`` and ``…_in_prompt``, 0 to 1. A
        record without them gives no warnings.
    """
    found = record.get("model", {})
    shares = {role: found.get(f"frac_model_genes_in_{role}", 1.0) for role in ("query", "prompt")}
    return [
        f"warning: the {role} has only {share:.0%} of the model's genes and the model sees 0 in all others: treat the "
        f"output with caution, or give cells with more genes, named by human symbols"
        for role, share in shares.items()
        if share < LOW_COVERAGE
    ]


def align(counts: sparse.csr_matrix, genes: Sequence[str], *, model_genes: dict[str, int], role: str) -> Aligned:
    """Bring cells into the model's gene order; names are compared in upper case.

    Parameters
    ----------
    counts
        Raw counts, cells x genes.
    genes
        Symbols of the columns. Of two that differ only in case, the first counts.
    model_genes
        Upper-cased name -> the model's column.
    role
        Role of the cells, for messages.

    Raises
    ------
    InputError
        The model has none of the genes.
    """
    if [gene.upper() for gene in genes] == list(model_genes):
        every = np.arange(len(model_genes), dtype=np.int64)
        return Aligned(sparse.csr_matrix(counts, dtype=np.float32), every, every)
    first: dict[str, int] = {}
    for column, gene in enumerate(genes):
        first.setdefault(gene.upper(), column)
    pairs = [(column, model_genes[gene]) for gene, column in first.items() if gene in model_genes]
    if not pairs:
        msg = (
            f"none of the {role} cells' {len(genes)} genes (such as {', '.join(genes[:_N_EXAMPLES])}) is among the "
            f"model's {len(model_genes)} (such as {', '.join(list(model_genes)[:_N_EXAMPLES])}): 0 % coverage; give "
            f"human gene symbols, or the gene list that belongs to the model"
        )
        raise InputError(msg)
    own, model = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    taken = counts[:, own].tocoo()
    shape = (counts.shape[0], len(model_genes))
    aligned = sparse.csr_matrix((taken.data.astype(np.float32), (taken.row, model[taken.col])), shape=shape)
    return Aligned(aligned, own, model)


def _from_pickle(data: bytes, name: str) -> Sequence[Any]:
    try:
        raw = _NamesUnpickler(io.BytesIO(data)).load()
    except _RefusedError as error:
        msg = f"{name}: this pickle wants to run {error}, which no gene list needs: refused; save the names as JSON"
        raise ModelError(msg) from error
    except DAMAGE as error:
        msg = f"{name}: not a readable pickle ({type(error).__name__}: {error}); give {FORMS}"
        raise ModelError(msg) from error
    if type(raw) not in (list, tuple, np.ndarray) or (isinstance(raw, np.ndarray) and raw.ndim != 1):
        msg = f"{name}: the pickle holds a {type(raw).__name__}, not a list, tuple or one-dimensional array of names"
        raise ModelError(msg)
    return raw.tolist() if isinstance(raw, np.ndarray) else raw


class _RefusedError(pickle.UnpicklingError):
    """The pickle names something other than the parts of a numpy array of str."""


def _empty_array(*_: object) -> NDArray[Any]:
    return np.empty(0, dtype="S1")  # its content follows as state, which numpy checks against its size


def _array_of(buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> NDArray[Any]:
    return np.frombuffer(bytes(buffer), dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _dtype_of(kind: str, *_: object) -> np.dtype[Any]:
    if not isinstance(kind, str) or kind[:1] not in {"U", "O"}:
        msg = f"an array of {kind!r}"
        raise _RefusedError(msg)
    return np.dtype(kind, align=False, copy=True)  # a copy, because its state follows and numpy shares plain dtypes


def _text_of(dtype: np.dtype[Any], raw: bytes) -> str:
    return str(np.frombuffer(raw, dtype=dtype, count=1)[0])


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


_ALLOWED: dict[str, Callable[..., Any] | None] = {"ndarray": None, "dtype": _dtype_of}  # the class is only an argument
_ALLOWED_NUMPY = {"_reconstruct": _empty_array, "_frombuffer": _array_of, "scalar": _text_of}


class _NamesUnpickler(pickle.Unpickler):
    """Builds only str, list, tuple, and the parts of a pickled numpy array of str or of one of its texts."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - what pickle asks for
        if module == "numpy" and name in _ALLOWED:
            return _ALLOWED[name]
        if module in {"numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"}:
            if name in _ALLOWED_NUMPY:
                return _ALLOWED_NUMPY[name]
        elif (module, name) == ("_codecs", "encode"):
            return _latin1
        msg = f"{module}.{name}"
        raise _RefusedError(msg)

    def persistent_load(self, pid: object) -> Any:  # noqa: ANN401
        msg = f"a reference to {pid!r}"
        raise _RefusedError(msg)
