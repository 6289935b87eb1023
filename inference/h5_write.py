"""Writes obs, var and matrices as an AnnData is stored, so that anndata need not be loaded, which takes half a second.

In: tables, matrices and texts. Out: members of an open HDF5 file that anndata reads as it reads its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from pandas import DataFrame

COMPRESSED = {"compression": "gzip", "compression_opts": 1}

_PARTS = ("layers", "obsm", "obsp", "varm", "varp", "uns")
_NULLABLE = {"i": "nullable-integer", "u": "nullable-integer", "b": "nullable-boolean"}
_NUMBERS = "biuf"


def write_parts(h5: h5py.File, parts: Mapping[str, Mapping[str, Any]], *, plain: tuple[str, ...] = ()) -> None:
    """Write what an AnnData has besides X, obs and var; the members of a part by their names.

    ``plain`` names members that are not compressed.
    """
    _describe(h5, "anndata", "0.1.0")
    for part in _PARTS:
        group = h5.create_group(part)
        _describe(group, "dict", "0.1.0")
        for name, value in parts.get(part, {}).items():
            if isinstance(value, str):
                group.create_dataset(name, data=value, dtype=h5py.string_dtype())
                _describe(group[name], "string", "0.2.0")
            else:
                write_matrix(group, name, value, is_compressed=name not in plain)


def write_matrix(group: h5py.Group, name: str, matrix: Any, *, is_compressed: bool = True) -> None:  # noqa: ANN401
    """Write a matrix of scipy in rows, or an array of numpy."""
    if not sparse.issparse(matrix):
        _write_array(group, name, np.asarray(matrix), is_compressed=is_compressed)
        return
    matrix = matrix.tocsr()
    node = group.create_group(name)
    _describe(node, "csr_matrix", "0.1.0")
    node.attrs["shape"] = np.array(matrix.shape, dtype=np.int64)
    for part in ("data", "indices", "indptr"):
        _create(node, part, getattr(matrix, part))


def write_frame(group: h5py.Group, name: str, frame: DataFrame) -> None:
    """Write obs or var.

    Raises
    ------
    TypeError, ValueError
        A column holds what no h5ad file can.
    """
    node = group.create_group(name)
    _describe(node, "dataframe", "0.2.0")
    named = "_index" if frame.index.name is None or frame.index.name in frame.columns else str(frame.index.name)
    node.attrs["_index"] = named
    node.attrs["column-order"] = np.array([], dtype=np.float64)  # as anndata writes none
    _write_texts(node, named, np.asarray(frame.index.astype(str), dtype=object))
    for column in frame.columns:
        append_column(node, str(column), frame[column].values)


def append_column(node: h5py.Group, name: str, values: Any) -> None:  # noqa: ANN401 - an array of numpy or pandas
    """Write one more column of a stored obs or var; raises as :func:`write_frame` does."""
    import pandas as pd

    before = list(node.attrs["column-order"])
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        _write_categories(node, name, values)
    elif isinstance(dtype, pd.StringDtype):
        mask = np.asarray(pd.isna(values))
        texts = np.where(mask, "", np.asarray(values, dtype=object))
        _write_masked(node, name, texts, mask, kind="nullable-string-array")
    elif isinstance(dtype, pd.api.extensions.ExtensionDtype) and dtype.kind in _NULLABLE:
        plain = np.dtype(dtype.type)
        filled = values.to_numpy(dtype=plain, na_value=plain.type(0))
        _write_masked(node, name, filled, np.asarray(pd.isna(values)), kind=_NULLABLE[dtype.kind])
    else:
        _write_array(node, name, np.asarray(values))
    node.attrs["column-order"] = [*before, name]


def _write_categories(node: h5py.Group, name: str, values: Any) -> None:  # noqa: ANN401 - a pandas Categorical
    child = node.create_group(name)
    _describe(child, "categorical", "0.2.0")
    child.attrs["ordered"] = bool(values.ordered)
    _write_array(child, "codes", values.codes)
    _write_array(child, "categories", np.asarray(values.categories))


def _write_masked(node: h5py.Group, name: str, values: NDArray[Any], mask: NDArray[np.bool_], *, kind: str) -> None:
    child = node.create_group(name)
    _describe(child, kind, "0.1.0")
    _write_array(child, "values", values)
    _write_array(child, "mask", mask)


def _write_array(node: h5py.Group, name: str, values: NDArray[Any], *, is_compressed: bool = True) -> None:
    if values.dtype.kind in "OUT":
        _write_texts(node, name, values)
        return
    if values.dtype.kind not in _NUMBERS:
        msg = f"{node.name}/{name} holds values of type {values.dtype}, which no h5ad file can"
        raise TypeError(msg)
    _create(node, name, values, is_compressed=is_compressed)
    _describe(node[name], "array", "0.2.0")


def _write_texts(node: h5py.Group, name: str, values: NDArray[Any]) -> None:
    if odd := [type(one).__name__ for one in values.ravel().tolist() if not isinstance(one, str)]:
        msg = f"{node.name}/{name} holds {odd[0]} among texts, which no h5ad file can"
        raise TypeError(msg)
    _create(node, name, values.astype(object), dtype=h5py.string_dtype())
    _describe(node[name], "string-array", "0.2.0")


def _create(
    node: h5py.Group,
    name: str,
    values: NDArray[Any],
    *,
    dtype: Any = None,  # noqa: ANN401 - as h5py makes it
    is_compressed: bool = True,
) -> None:
    node.create_dataset(name, data=values, dtype=dtype, **(COMPRESSED if is_compressed and values.size else {}))


def _describe(node: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    node.attrs["encoding-type"], node.attrs["encoding-version"] = kind, version
