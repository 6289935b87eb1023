"""Names what a file is that is no h5ad, and how it becomes one.

In: a path, the first bytes of a file, or the members of an open one. Out: a sentence, or nothing for an h5ad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.h5 import attribute, is_array

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

HEAD_BYTES = 4096  # of a file, enough to tell what it is

_HDF5 = b"\x89HDF\r\n\x1a\n"
_WRITE = "and write it with adata.write_h5ad"
_TEN_X_FILES = ("matrix.mtx", "matrix.mtx.gz", "barcodes.tsv", "barcodes.tsv.gz")
_STARTS = (  # first bytes -> what the file is
    (b"\x1f\x8b", "is compressed with gzip: unpack it (gunzip), or convert it where it is an .rds of R"),
    (b"PK\x03\x04", "is a zip archive (a zipped Zarr store, an .npz or a spreadsheet): unpack or convert it"),
    (b"BZh", "is compressed with bzip2: unpack it"),
    (b"\xfd7zXZ", "is compressed with xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it"),
    (
        b"%%MatrixMarket",
        f"is a Matrix Market file: read its folder with scanpy (sc.read_10x_mtx, sc.read_mtx) {_WRITE}",
    ),
    (b"RDX", "is saved by R: convert it to h5ad there (zellkonverter, anndataR)"),
    (b"RDA", "is saved by R: convert it to h5ad there (zellkonverter, anndataR)"),
    (b"version https://git-lfs", "is only a Git LFS pointer: fetch the file itself (git lfs pull)"),
    (b"<", "is a web page or XML, as a download that failed leaves: download the file again"),
    (b"\x80\x04", "is a Python pickle: open it where it was made and write it with adata.write_h5ad"),
)


def foreign_folder(path: Path) -> str:
    """What a folder is in place of an h5ad file."""
    names = {one.name for one in path.iterdir()} if path.is_dir() else set()
    mtx = sorted(name for name in names if name.endswith((".mtx", ".mtx.gz")))
    if names.intersection(_TEN_X_FILES) or mtx:
        return (
            "is a folder of 10x or mtx files: read it with scanpy (sc.read_10x_mtx), add the labels of the cells to "
            f"obs {_WRITE}"
        )
    if names.intersection(("zarr.json", ".zgroup")):
        return f"is a Zarr store: read it with anndata.read_zarr {_WRITE}"
    inside = sorted(name for name in names if name.endswith((".h5ad", ".zarr")))
    return "is a folder" + (f"; it holds {', '.join(inside[:5])}: give one of these" if inside else "")


def foreign_bytes(head: bytes) -> str:
    """What a file is by its first bytes; empty where they may be HDF5's."""
    if not head:
        return "is empty (0 bytes): copy it again"
    if head.startswith(_HDF5) or _HDF5 in head:
        return ""
    for start, what in _STARTS:
        if head.lstrip()[: len(start)] == start or head.startswith(start):
            return what
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    if text.isprintable() or set("\t,;\n") & set(text):
        return f"is a text file: read it as a table (anndata.read_text, anndata.read_csv) {_WRITE}"
    return ""


def foreign_members(h5: Any) -> str:  # noqa: ANN401 - h5py file or zarr group
    """What an HDF5 file or Zarr store is, where it is not an AnnData; empty where it may be one."""
    names = set(h5)
    if attribute(h5, "encoding-type") == "MuData" or ("mod" in names and "X" not in names):
        return _of_mudata(sorted(h5["mod"]) if "mod" in names else [])
    if "matrix" in names and not is_array(h5["matrix"]) and "barcodes" in h5["matrix"]:
        return f"is a 10x .h5 file: read it with scanpy (sc.read_10x_h5), add the labels of the cells to obs {_WRITE}"
    if {"matrix", "row_attrs", "col_attrs"} <= names:
        return f"is a loom file: read it with anndata.read_loom {_WRITE}"
    if "assays" in names and names & {"cell.names", "meta.data", "reductions"}:
        return "is an h5Seurat file: convert it to h5ad in R (SeuratDisk::Convert, or zellkonverter)"
    return ""


def _of_mudata(modalities: list[str]) -> str:
    rna = next((one for one in modalities if one.casefold() in {"rna", "gex", "gene expression"}), "rna")
    return (
        f"is a MuData file (.h5mu) with the modalities {', '.join(modalities) or 'none'}: write the genes alone, "
        f"mdata.mod[{rna!r}].write_h5ad(…)"
    )


def locked(error: BaseException) -> str:
    """What keeps HDF5 from opening a file that is whole; empty for another error."""
    text = str(error)
    if "unable to lock file" in text or isinstance(error, BlockingIOError):
        return (
            "is open for writing in another program, such as a notebook: close it there (adata.file.close(), or "
            "restart its kernel) and try again"
        )
    if "already open for write" in text or "h5clear" in text:
        return (
            "was not closed by the program that wrote it: write it again, or mark it as closed with h5clear -s if it "
            "is complete"
        )
    return ""
