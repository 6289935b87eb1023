"""Cells that a person holds in memory, as the plain AnnData that is checked, and as a file named after its content.

In: an AnnData in any state: a view, backed by a file, dense or sparse, with odd columns. Out: counts, obs and var alone
in a new object or an h5ad file; the object of the caller is never changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.store import layout
from haystack_kernel.store.files import storage_errors

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

IN_MEMORY = "anndata"  # what a file is called that was an AnnData in memory
_N_DIGITS = 16
_NAME = re.compile(rf"{re.escape(layout.INPUTS)}/(?P<stem>.+)-[0-9a-f]{{{_N_DIGITS}}}\.h5ad")


def is_cells(given: object) -> TypeGuard[ad.AnnData]:
    """Whether ``given`` is an AnnData and no path.

    Parameters
    ----------
    given
        Anything.

    Returns
    -------
    True for cells in memory.

    Examples
    --------
    >>> is_cells("my_cells.h5ad")
    False
    """
    return hasattr(given, "obs") and hasattr(given, "var") and hasattr(given, "layers")


def require_cells(given: object, *, role: str = "cells") -> None:
    """Refuse what is neither an AnnData nor a path, and say how to make an AnnData of it.

    Parameters
    ----------
    given
        Anything.
    role
        What it was given as, for the message.

    Raises
    ------
    InvalidInputError
        It is something else.

    Examples
    --------
    >>> require_cells("my_cells.h5ad")
    """
    if isinstance(given, (str, Path)) or is_cells(given):
        return
    name = type(given).__name__
    remedy = {
        "MuData": "give one of its modalities, e.g. mdata.mod['rna']",
        "SpatialData": "give one of its tables, e.g. sdata.tables['table']",
        "AnnCollection": "give collection[:].to_adata()",
        "Raw": "give adata.raw.to_adata()",
        "DataFrame": "give anndata.AnnData(counts, obs=labels), cells in rows and genes in columns",
    }.get(name, "raw counts, cells in rows and genes in columns")
    msg = f"{role} must be an AnnData or the path of an h5ad file, not {name}: {remedy}"
    raise InvalidInputError(msg, given=name)


def plain_cells(adata: ad.AnnData) -> ad.AnnData:
    """Return what is read of cells: matrices, obs, var and the organism, in a new object.

    Parameters
    ----------
    adata
        Cells x genes; a view or backed by a file, of any matrix type. It is not changed.

    Returns
    -------
    The same cells with columns that an h5ad file can hold; a matrix or column that cannot be kept is left out, and
    named in the notes of the check.

    Raises
    ------
    InvalidInputError
        The file behind the object cannot be read, or none of its matrices can.

    Examples
    --------
    >>> plain_cells(adata[adata.obs["donor"] == "d1"])  # doctest: +SKIP
    """
    import anndata

    from inference.genes import ORGANISM_KEYS
    from inference.h5 import UNREAD

    unread: list[str] = [str(one) for one in adata.uns.get(UNREAD, ())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeated names are refused by the check
        whole = _in_memory(adata)
        layers = {str(key): _matrix(value, f"layers/{key}", unread) for key, value in whole.layers.items()}
        plain = anndata.AnnData(
            X=_matrix(whole.X, "X", unread),
            obs=_frame(whole.obs, "obs", unread),
            var=_frame(whole.var, "var", unread),
            layers={key: value for key, value in layers.items() if value is not None},
        )
        raw = None if whole.raw is None else _matrix(whole.raw.X, "raw/X", unread)
        if raw is not None:
            plain.raw = anndata.AnnData(X=raw, obs=plain.obs[[]], var=_frame(whole.raw.var, "raw/var", unread))
    _require_matrix(plain, unread)
    plain.uns.update({key: str(whole.uns[key]) for key in ORGANISM_KEYS if isinstance(whole.uns.get(key), str)})
    if unread:
        plain.uns[UNREAD] = unread
    return plain


def keep_cells(given: ad.AnnData | Path, folder: Path) -> str:
    """Write cells into ``folder``, unless they are there, under a name that their content determines.

    Parameters
    ----------
    given
        An AnnData, or a local file that is copied as it is.
    folder
        Local folder; the file goes where :data:`haystack_kernel.store.layout.INPUTS` says.

    Returns
    -------
    Path of the file relative to ``folder``, which is also its path in the folder of a run.

    Raises
    ------
    InvalidInputError
        The AnnData cannot be written.
    StorageError
        The folder cannot be written.

    Examples
    --------
    >>> keep_cells(adata, Path("cache"))  # doctest: +SKIP
    'inputs/anndata-0f3a5c1d2e4b6a78.h5ad'
    """
    place = folder / layout.INPUTS
    temporary = place / f".{secrets.token_hex(8)}.tmp"
    with storage_errors(str(temporary), writing=True):
        place.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(given, Path):
                temporary.write_bytes(given.read_bytes())
            else:
                _write(plain_cells(given), temporary)
            with temporary.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            stem = given.stem if isinstance(given, Path) else IN_MEMORY
            name = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', stem)[:60] or IN_MEMORY}-{digest[:_N_DIGITS]}.h5ad"
            os.replace(temporary, place / name)  # noqa: PTH105 - one step
        finally:
            temporary.unlink(missing_ok=True)
    return f"{layout.INPUTS}/{name}"


def is_kept(path: str | None) -> bool:
    """Whether a path is that of cells in the folder of a run, as :func:`keep_cells` names them.

    Parameters
    ----------
    path
        Value of an option; None: not given.

    Returns
    -------
    True where the cells are kept with the run.

    Examples
    --------
    >>> is_kept("inputs/anndata-0f3a5c1d2e4b6a78.h5ad"), is_kept("my_cells.h5ad")
    (True, False)
    """
    return path is not None and _NAME.fullmatch(path) is not None


def shown_name(path: str) -> str:
    """Return what to call a file of cells: ``your AnnData`` for cells that were given in memory, else as it is.

    Parameters
    ----------
    path
        Path or address.

    Returns
    -------
    The name, for sentences.

    Examples
    --------
    >>> shown_name("runs/r/inputs/anndata-0f3a5c1d2e4b6a78.h5ad"), shown_name("my_cells.h5ad")
    ('your AnnData', 'my_cells.h5ad')
    """
    match = _NAME.fullmatch("/".join(path.rsplit("/", 2)[-2:]))
    if match is None:
        return "your AnnData" if path == IN_MEMORY else path
    return "your AnnData" if match["stem"] == IN_MEMORY else f"{match['stem']}.h5ad"


def dataset_name(path: str) -> str:
    """Return what the data set of a file of cells is called where its obs does not say.

    Parameters
    ----------
    path
        Path or address.

    Returns
    -------
    The name.

    Examples
    --------
    >>> dataset_name("cells/kang.h5ad")
    'kang'
    """
    match = _NAME.fullmatch("/".join(path.rsplit("/", 2)[-2:]))
    return match["stem"] if match else Path(path).stem


def _require_matrix(adata: ad.AnnData, unread: list[str]) -> None:
    """Refuse cells of which there were matrices, and none can be read."""
    if unread and adata.X is None and not adata.layers and adata.raw is None:
        msg = f"no matrix of the AnnData can be read: {'; '.join(unread)}. Give it in memory, or fewer cells of it"
        raise InvalidInputError(msg)


def _in_memory(adata: ad.AnnData) -> ad.AnnData:
    """The same cells; those that lie in a file behind the object are read."""
    import pandas as pd

    try:
        is_lazy = adata.isbacked or not isinstance(adata.obs, pd.DataFrame)  # as anndata.experimental.read_lazy does
        return adata.to_memory() if is_lazy else adata
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(" (unable to open")[0]
        msg = f"the file behind the AnnData ({adata.filename}) cannot be read: {reason}. Open it again"
        raise InvalidInputError(msg, path=str(adata.filename)) from error


def _write(adata: ad.AnnData, path: Path) -> None:
    try:
        adata.write_h5ad(path, compression="gzip", compression_opts=1)
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        msg = f"the AnnData cannot be written as an h5ad file ({reason}); give one that adata.write_h5ad accepts"
        raise InvalidInputError(msg) from error


def _matrix(values: Any, place: str, unread: list[str]) -> Any:  # noqa: ANN401 - any matrix type
    """The matrix as numpy or scipy has it; None, and named, where it cannot be."""
    import numpy as np
    from scipy import sparse

    if values is None:
        return None
    try:
        if hasattr(values, "to_memory"):  # a matrix in a file
            values = values.to_memory()
        if hasattr(values, "compute"):  # dask
            values = values.compute()
        if hasattr(values, "get") and not sparse.issparse(values):  # a GPU's
            values = values.get()
        if getattr(values, "ndim", 2) != 2:
            return None
        if sparse.issparse(values):
            return sparse.csr_matrix(values) if values.format not in ("csr", "csc") else values
        if np.ma.is_masked(values):
            unread.append(f"{place} (some of its values are masked)")
            return None
        return _numbers(np.asarray(values))
    except (TypeError, ValueError, RuntimeError, OSError, MemoryError) as error:
        unread.append(f"{place} ({(str(error).splitlines() or [type(error).__name__])[0][:120]})")
        return None


def _numbers(values: Any) -> Any:  # noqa: ANN401 - an array
    """Numbers that stand in a table of objects, as columns of pandas with missing values do; NaN where missing."""
    import numpy as np
    import pandas as pd

    if values.dtype != object:
        return values
    missing = pd.isna(values)
    if not all(isinstance(one, (int, float, np.number)) for one in values[~missing].tolist()):
        return values
    return np.where(missing, np.nan, values).astype(float)


def _frame(frame: pd.DataFrame, place: str, unread: list[str]) -> pd.DataFrame:
    """Obs or var with text, numbers, truth values and categories alone; what is none of these becomes text."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for position, name in enumerate(map(str, frame.columns)):
        if name in columns:
            unread.append(f"{place}[{name!r}] (a second column of that name)")
            continue
        columns[name] = _column(frame.iloc[:, position])
    index = pd.Index([str(one) for one in frame.index], dtype=object)
    return pd.DataFrame(columns, index=index)


def _column(values: pd.Series) -> Any:  # noqa: ANN401 - an array
    import numpy as np
    import pandas as pd

    if isinstance(values.dtype, pd.CategoricalDtype):
        labels = values.cat.categories
        if labels.map(type).isin([str]).all():
            return values.array.remove_unused_categories()
        values = values.astype(object)
    elif pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_numeric_dtype(values.dtype):
        if not pd.api.types.is_extension_array_dtype(values.dtype):
            return values.to_numpy(copy=True)
        if not values.isna().any():
            return np.array(values.tolist())
        return values.to_numpy(dtype=float, na_value=float("nan"))
    texts = [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
    return pd.Categorical(texts)
