"""Reads obs, var and matrices of a stored AnnData, as written by anndata 0.6 to 0.13, R and Julia.

In: nodes of an open HDF5 file or Zarr store. Out: columns and matrices. What is not needed (uns, obsm, …) is not read,
so that it cannot stand in the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from inference.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNREAD = "haystack_unread"  # uns of cells that were read from a file: what of it could not be read

_FORMS = ("csr", "csc")


def attribute(node: Any, *names: str) -> Any:  # noqa: ANN401 - h5py or zarr node, value of any type
    """The first of these attributes that the node has, bytes of other writers as text; None if it has none."""
    for name in names:
        if name in node.attrs:
            value = node.attrs[name]
            if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
                value = [_as_text(one) for one in value.ravel().tolist()]
            value = _as_text(value)
            return value[0] if isinstance(value, list) and len(value) == 1 and name != "column-order" else value
    return None


def decode(raw: bytes) -> str:
    """Text of bytes in UTF-8, or in Latin-1 where they are not UTF-8, whatever the file declares."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def is_array(node: Any) -> bool:  # noqa: ANN401 - h5py or zarr node
    """Whether a member of an open source is an array, not a group."""
    return hasattr(node, "dtype")


def column_names(frame: Any) -> list[str]:  # noqa: ANN401 - h5py or zarr node
    """Columns of a stored obs or var, without its index."""
    if is_array(frame):  # anndata 0.6: one array of records
        names = list(frame.dtype.names or ())
    else:
        ordered = attribute(frame, "column-order")
        names = [str(name) for name in ordered] if ordered is not None else sorted(frame)
    hidden = {index_name(frame), "__categories"}
    return [name for name in names if name not in hidden and (is_array(frame) or name in frame)]


def index_name(frame: Any) -> str:  # noqa: ANN401 - h5py or zarr node
    """Name of the member that holds the row names of obs or var."""
    if is_array(frame):
        names = list(frame.dtype.names or ())
        return next((name for name in ("index", "_index") if name in names), names[0] if names else "index")
    return str(attribute(frame, "_index") or "_index")


def n_rows(frame: Any) -> int:  # noqa: ANN401 - h5py or zarr node
    """Rows of a stored obs or var."""
    if is_array(frame):
        return int(frame.shape[0])
    index = frame[index_name(frame)]
    values = index if is_array(index) else index["codes" if "codes" in index else "values"]  # or a nullable text
    return int(values.shape[0])


def read_column(frame: Any, name: str) -> Any:  # noqa: ANN401 - h5py or zarr node; an array of numpy or pandas
    """Read one column of obs or var.

    Returns
    -------
    A pandas Categorical where the file has one, otherwise an array.

    Raises
    ------
    ValueError, KeyError
        The column has a form of another version, or is damaged.
    """
    import pandas as pd

    if is_array(frame):
        values = as_texts(frame[name])
        categories = frame.file["uns"].get(f"{name}_categories") if "uns" in frame.file else None
        if categories is None or values.dtype.kind not in "iu":
            return values
        return pd.Categorical.from_codes(values, categories=pd.Index(as_texts(categories[...])))
    node = frame[name]
    if "__categories" in frame and name in frame["__categories"]:  # anndata 0.7
        return pd.Categorical.from_codes(node[...], categories=pd.Index(as_texts(frame["__categories"][name][...])))
    return _read_values(node)


def _read_values(node: Any) -> Any:  # noqa: ANN401 - h5py or zarr node; an array of numpy or pandas
    import pandas as pd

    if is_array(node):
        return as_texts(node[...])
    if {"codes", "categories"} <= set(node):
        categories = pd.Index(np.asarray(_read_values(node["categories"])))
        return pd.Categorical.from_codes(node["codes"][...], categories=categories)
    if {"values", "mask"} <= set(node):
        values, mask = as_texts(node["values"][...]), np.asarray(node["mask"][...], dtype=bool)
        series = pd.Series(
            values
        ).convert_dtypes()  # text, whole numbers and booleans with gaps have types of their own
        return series.mask(mask).array
    msg = f"it is stored as {attribute(node, 'encoding-type') or 'an unknown form'}"
    raise ValueError(msg)


def native(values: NDArray[Any]) -> NDArray[Any]:
    """The values in the byte order of this machine."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def as_texts(values: NDArray[Any]) -> NDArray[Any]:
    """The values, with bytes as text."""
    values = np.asarray(values)
    if values.dtype.kind == "S" or (values.dtype.kind == "O" and any(isinstance(one, bytes) for one in values.flat)):
        return np.array([_as_text(one) for one in values.ravel().tolist()], dtype=object).reshape(values.shape)
    return values.astype(object) if values.dtype.kind in "UT" else native(values)


def _as_text(value: Any) -> Any:  # noqa: ANN401
    return decode(value) if isinstance(value, bytes) else value


def matrix_form(node: Any) -> str:  # noqa: ANN401 - h5py or zarr node
    """How a matrix is stored: ``csr``, ``csc`` or ``dense``; anything else is the name of an unknown form."""
    if is_array(node):
        return "dense"
    form = str(attribute(node, "encoding-type", "h5sparse_format") or "an unknown form")
    return form[:3] if form[:3] in _FORMS else form


def matrix_shape(node: Any) -> tuple[int, int] | None:  # noqa: ANN401 - h5py or zarr node
    """Cells x genes of a stored matrix; None if it is none."""
    shape = node.shape if is_array(node) else attribute(node, "shape", "h5sparse_shape")
    return (int(shape[0]), int(shape[1])) if shape is not None and len(shape) == 2 else None


def fault_of_storage(node: Any) -> str:  # noqa: ANN401 - h5py or zarr node
    """Why a matrix cannot be read as it is stored; empty if it can."""
    form = matrix_form(node)
    if form not in {"dense", *_FORMS}:
        return f"is stored as {form}; possible: csr, csc, dense. Write it with anndata"
    if matrix_shape(node) is None:
        return "is not a table of cells x genes"
    if form != "dense" and (absent := [name for name in ("data", "indices", "indptr") if name not in node]):
        return f"lacks {', '.join(absent)}"
    return ""


def read_matrix(node: Any, *, name: str) -> Any:  # noqa: ANN401 - h5py node; a matrix of numpy or scipy
    """Read a whole matrix of an HDF5 file.

    Raises
    ------
    InputError
        Its values are in other files, or parts of them are missing.
    """
    from scipy import sparse

    if matrix_form(node) == "dense":
        return _whole(node, name=name)
    parts = [_whole(node[part], name=name, is_sparse=True) for part in ("data", "indices", "indptr")]
    kind = sparse.csr_matrix if matrix_form(node) == "csr" else sparse.csc_matrix
    return kind(tuple(parts), shape=matrix_shape(node))


def _whole(array: Any, *, name: str, is_sparse: bool = False) -> NDArray[Any]:  # noqa: ANN401 - h5py data set
    check_whole(array, name=name, is_sparse=is_sparse)
    return native(np.asarray(array[...]))


def check_whole(array: Any, *, name: str, is_sparse: bool = False) -> None:  # noqa: ANN401 - h5py data set
    """Raise :class:`InputError` where values are in other files, or parts of a sparse matrix are missing."""
    if array.is_virtual or array.id.get_create_plist().get_external_count():
        msg = f"{name}: {array.name} keeps its values in other files; copy it to one file (h5repack, or anndata)"
        raise InputError(msg)
    if is_sparse and array.chunks and array.size:
        n_chunks = int(np.prod([-(-n // step) for n, step in zip(array.shape, array.chunks, strict=True)]))
        if array.id.get_num_chunks() < n_chunks:
            msg = f"{name} is damaged: chunks of {array.name} are missing, which would read as 0; copy the file again"
            raise InputError(msg)
