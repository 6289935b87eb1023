"""Tables and AnnData as files of a run folder.

In: a store, a run id, a path and a table. Out: FileRef on writing, the table on reading.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from haystack_kernel.store.files import storage_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from haystack_kernel.ports import Store
    from haystack_kernel.schema import FileRef


def write_csv(store: Store, run_id: str, path: str, table: pd.DataFrame) -> FileRef:
    """Write ``table`` as CSV without its index; NaN is the empty field, floats keep 9 digits.

    Parameters
    ----------
    store
        Where the run folders are.
    run_id
        Id of the run.
    path
        Path within the run folder.
    table
        What to write.

    Returns
    -------
    Path, size and digest of the file.
    """
    return store.write(run_id, path, to_csv(table))


def to_csv(table: pd.DataFrame) -> bytes:
    """Return a table as the bytes of the file that :func:`write_csv` writes.

    Parameters
    ----------
    table
        What to write.

    Returns
    -------
    CSV without the index; NaN is the empty field, floats keep 9 digits.
    """
    return table.to_csv(index=False, float_format="%.9g").encode()


def read_csv(store: Store, run_id: str, path: str) -> pd.DataFrame:
    """Read a CSV of the run folder; raises NotFoundError.

    Parameters
    ----------
    store
        Where the run folders are.
    run_id
        Id of the run.
    path
        Path within the run folder.

    Returns
    -------
    The table, with empty fields as NaN.
    """
    return parse_csv(store.read(run_id, path))


def parse_csv(data: bytes, *, texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read the bytes of a CSV as :func:`write_csv` made them.

    Parameters
    ----------
    data
        Content of the file.
    texts
        Columns that are text, also where it looks like a number; their empty fields are empty texts.

    Returns
    -------
    The table, with empty fields of other columns as NaN.
    """
    import pandas as pd

    as_they_are = dict.fromkeys(texts, str)  # pandas takes "NA" for a missing value unless a converter reads it
    return pd.read_csv(io.BytesIO(data), converters=as_they_are)


def write_h5ad(store: Store, run_id: str, path: str, adata: ad.AnnData) -> FileRef:
    """Write ``adata`` gzip-compressed, through a temporary local file.

    Parameters
    ----------
    store
        Where the run folders are.
    run_id
        Id of the run.
    path
        Path within the run folder.
    adata
        What to write.

    Returns
    -------
    Path, size and digest of the file.
    """
    with tempfile.TemporaryDirectory(prefix="haystack-") as folder:
        local = Path(folder) / "cells.h5ad"
        with storage_errors(str(local)):
            adata.write_h5ad(local, compression="gzip", compression_opts=1)
        return store.write(run_id, path, local.read_bytes())


def read_h5ad(store: Store, run_id: str, path: str, *, labels: Sequence[str] | None = None) -> ad.AnnData:
    """Read an h5ad of the run folder into memory; raises NotFoundError.

    Parameters
    ----------
    store
        Where the run folders are.
    run_id
        Id of the run.
    path
        Path within the run folder.
    labels
        Columns of obs to read, of those that there are; None reads all, which takes most of the time of few cells.

    Returns
    -------
    The cells, in memory.
    """
    import anndata as ad

    with tempfile.TemporaryDirectory(prefix="haystack-") as folder:
        local = Path(folder) / "cells.h5ad"
        local.write_bytes(store.read(run_id, path))
        return ad.read_h5ad(local) if labels is None else read_with_labels(local, labels)


def read_with_labels(source: Path | BinaryIO, labels: Sequence[str] = ()) -> ad.AnnData:
    """Read an h5ad with the names of its cells and some columns of its obs.

    Parameters
    ----------
    source
        An h5ad on this disk, or its open bytes.
    labels
        Columns of obs to read, of those that there are.

    Returns
    -------
    The cells, in memory.
    """
    import anndata as ad
    import h5py
    import pandas as pd

    with h5py.File(source) as h5:
        parts = {name: ad.io.read_elem(h5[name]) for name in h5 if name != "obs"}
        obs = h5["obs"]
        names = ad.io.read_elem(obs[obs.attrs["_index"]])
        columns = {name: ad.io.read_elem(obs[name]) for name in labels if name in obs}
    return ad.AnnData(obs=pd.DataFrame(columns, index=pd.Index(names)), **parts)
