"""An h5ad file whose matrices stay in it until rows of them are asked for.

In: a path. Out: obs and var as tables, and rows of the matrices; the memory needed is that of the rows.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from inference.errors import InputError
from inference.formats import HEAD_BYTES, foreign_bytes, foreign_folder, foreign_members, locked
from inference.genes import ORGANISM_KEYS
from inference.h5 import (
    UNREAD,
    as_texts,
    check_whole,
    column_names,
    fault_of_storage,
    index_name,
    is_array,
    matrix_form,
    matrix_shape,
    native,
    read_column,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_UNNAMED = ("_index", "index")  # names under which files keep row names that have no name
_BLOCK = 1 << 22  # values read at once
_GAP = 1 / 64  # of a block: so many values between two rows are read rather than skipped
_CLOSED = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)  # what h5py raises for damaged files


@contextmanager
def open_h5ad(path: Path, *, name: str) -> Iterator[Any]:
    """Open an h5ad file; raises :class:`InputError` for a file that is missing, of another format or cut short."""
    import h5py

    if path.is_dir():
        msg = f"{name} {foreign_folder(path)}; give the path of an h5ad file"
        raise InputError(msg)
    if not path.is_file():
        msg = f"{name}: no such file; give the path or gs:// address of an h5ad file"
        raise InputError(msg)
    with path.open("rb") as handle:
        if what := foreign_bytes(handle.read(HEAD_BYTES)):
            msg = f"{name}: not a readable h5ad file: it {what}"
            raise InputError(msg)
    try:
        with h5py.File(path, "r") as h5:
            if what := foreign_members(h5):
                msg = f"{name} {what}"
                raise InputError(msg)
            yield h5
    except InputError:
        raise
    except _CLOSED as error:
        if what := locked(error):
            msg = f"{name} {what}"
            raise InputError(msg) from error
        size = path.stat().st_size
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        msg = (
            f"{name}: not a readable h5ad file ({size} bytes; {reason}); it may be cut short or of another format: "
            f"copy it again, or write it with AnnData.write_h5ad"
        )
        raise InputError(msg) from error


@dataclass(frozen=True)
class StoredRaw:
    """The part ``raw`` of a file."""

    X: StoredMatrix
    var: Any  # pandas DataFrame


@dataclass(frozen=True)
class StoredCells:
    """An open file, with the parts of an AnnData that the checks of cells read."""

    obs: Any  # pandas DataFrame
    var: Any
    uns: dict[str, Any]
    X: StoredMatrix | None
    layers: dict[str, StoredMatrix]
    raw: StoredRaw | None

    @property
    def n_obs(self) -> int:
        """Cells."""
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        """Genes of var."""
        return len(self.var)

    @classmethod
    def read(cls, path: Path, *, name: str, block: int = _BLOCK) -> StoredCells:
        """Read obs and var of a file.

        Parameters
        ----------
        path
            Local file.
        name
            Name of the file in messages: the address that the user gave.
        block
            Values of a matrix that are read at once.
        """
        with open_h5ad(path, name=name) as h5:
            unread: list[str] = []
            obs, var = (read_frame(h5[key], key, unread=unread) for key in ("obs", "var"))
            found = {}
            for place in matrix_paths(h5):
                if fault := fault_of_storage(h5[place]):
                    unread.append(f"{place} {fault}")
                else:
                    found[place] = StoredMatrix(path, h5[place], name=name, block=block)
            layers = {place.removeprefix("layers/"): one for place, one in found.items() if place.startswith("layers/")}
            raw = None
            for place, frame in (("raw/X", "raw/var"), ("raw.X", "raw.var")):
                if place in found:
                    raw = StoredRaw(found[place], read_frame(h5[frame], frame, unread=unread))
            return cls(obs, var, read_organism(h5) | {UNREAD: unread}, found.get("X"), layers, raw)


class StoredMatrix:
    """A matrix of a file, cells x genes; the file is open only while rows are read.

    Parameters
    ----------
    path
        The file.
    node
        The matrix in it, open.
    name
        Name of the file in messages.
    block
        Values read at once.

    Raises
    ------
    InputError
        Its values are in other files, or parts of them are missing.
    """

    def __init__(self, path: Path, node: Any, *, name: str, block: int) -> None:  # noqa: ANN401 - h5py node
        self._block = block
        self._path, self._place, self._form, self._name = path, node.name, matrix_form(node), name
        self.shape = matrix_shape(node) or (0, 0)
        self._indptr: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        if self._form == "dense":
            check_whole(node, name=name)
            return
        for part in ("data", "indices", "indptr"):
            check_whole(node[part], name=name, is_sparse=True)
        self._indptr = node["indptr"][...].astype(np.int64)

    @property
    def filled(self) -> NDArray[np.int64]:
        """Rows that have stored values: all of a dense matrix."""
        if self._form == "csr":
            return np.flatnonzero(np.diff(self._indptr))
        if self._form == "dense":
            return np.arange(self.shape[0])
        n_values = np.zeros(self.shape[0], dtype=np.int64)
        with open_h5ad(self._path, name=self._name) as h5:
            rows = h5[self._place]["indices"]
            for start in range(0, rows.shape[0], self._block):
                n_values += np.bincount(rows[start : start + self._block], minlength=self.shape[0])
        return np.flatnonzero(n_values)

    def rows(self, wanted: NDArray[np.int64]) -> sparse.csr_matrix:
        """Rows in ascending order, each at most once, with all columns."""
        if not len(wanted):
            return sparse.csr_matrix((0, self.shape[1]), dtype=np.float32)
        with open_h5ad(self._path, name=self._name) as h5:
            node = h5[self._place]
            if self._form == "csr":
                return sparse.vstack([self._of_run(node, run) for run in self._runs(wanted)], format="csr")
            if self._form == "csc":
                return self._of_columns(node, wanted)
            n_at_once = max(1, self._block // max(1, self.shape[1]))
            parts = [wanted[start : start + n_at_once] for start in range(0, len(wanted), n_at_once)]
            return sparse.vstack([sparse.csr_matrix(_dense_rows(node, part)) for part in parts], format="csr")

    def _runs(self, wanted: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The rows in groups, each of which is read in one piece: of few values, without a large gap."""
        starts, stops = self._indptr[wanted], self._indptr[wanted + 1]
        runs, first = [], 0
        for row in range(1, len(wanted)):
            if starts[row] - stops[row - 1] > int(self._block * _GAP) or stops[row] - starts[first] > self._block:
                runs.append(wanted[first:row])
                first = row
        return [*runs, wanted[first:]]

    def _of_run(self, node: Any, run: NDArray[np.int64]) -> sparse.csr_matrix:  # noqa: ANN401
        indptr = self._indptr[run[0] : run[-1] + 2]
        values, columns = (native(node[part][indptr[0] : indptr[-1]]) for part in ("data", "indices"))
        n_rows = len(indptr) - 1
        matrix = sparse.csr_matrix((values, columns, indptr - indptr[0]), shape=(n_rows, self.shape[1]))
        return matrix if n_rows == len(run) else matrix[run - run[0]]

    def _of_columns(self, node: Any, wanted: NDArray[np.int64]) -> sparse.csr_matrix:  # noqa: ANN401
        place = np.full(self.shape[0], -1, dtype=np.int64)
        place[wanted] = np.arange(len(wanted))
        shape, n_values = (len(wanted), self.shape[1]), int(self._indptr[-1])
        result = sparse.csr_matrix(shape, dtype=native(node["data"][:0]).dtype)
        for start in range(0, n_values, self._block):
            stop = min(start + self._block, n_values)
            values, rows = (native(node[part][start:stop]) for part in ("data", "indices"))
            is_wanted = place[rows] >= 0
            columns = np.searchsorted(self._indptr, np.arange(start, stop)[is_wanted], side="right") - 1
            result += sparse.csr_matrix((values[is_wanted], (place[rows[is_wanted]], columns)), shape=shape)
        return result


def _dense_rows(node: Any, rows: NDArray[np.int64]) -> NDArray[Any]:  # noqa: ANN401 - h5py data set
    is_run = rows[-1] - rows[0] + 1 == len(rows)
    return native(np.asarray(node[rows[0] : rows[-1] + 1] if is_run else node[rows]))


def matrix_paths(h5: Any) -> list[str]:  # noqa: ANN401 - h5py file
    """Paths of the matrices of an open file that may hold counts."""
    layers = [f"layers/{key}" for key in h5.get("layers", ())]
    return [
        path for path in ("X", *layers, "raw/X", "raw.X") if path in h5 and getattr(h5[path], "shape", ()) is not None
    ]


def read_frame(frame: Any, key: str, *, unread: list[str]) -> Any:  # noqa: ANN401 - a pandas DataFrame
    """Obs or var; columns that cannot be read are left out and named."""
    import pandas as pd

    named = index_name(frame)
    index = [str(one) for one in read_column(frame, named)]
    columns = {}
    for column in column_names(frame):
        try:
            values = read_column(frame, column)
            if len(values) == len(index) and getattr(values, "ndim", 1) == 1:
                columns[column] = values
                continue
            reason = f"{np.shape(values)} values for {len(index)} rows"
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        unread.append(f"{key}[{column!r}] ({reason})")
    return pd.DataFrame(columns, index=pd.Index(index, dtype=object, name=None if named in _UNNAMED else named))


def read_organism(h5: Any) -> dict[str, Any]:  # noqa: ANN401 - h5py file
    """What uns says about the organism."""
    return {key: _scalar(h5["uns"][key]) for key in ORGANISM_KEYS if key in h5.get("uns", ())}


def _scalar(node: Any) -> str:  # noqa: ANN401 - h5py node
    return " ".join(map(str, as_texts(np.ravel(node[()])).tolist())) if is_array(node) else ""
