"""Checks the user's own cells before anything is spent on them; notebooks show the result as a table.

In: an AnnData, or an h5ad, local or in a bucket, and the gene list of a model where there is one.
Out: :class:`QueryCheck`.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, NotFoundError, StorageError
from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.store import IN_MEMORY, is_cells, plain_cells, require_cells, shown_name
from inference.checks import read_file
from inference.preflight import Preflight, examine, load_model_genes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad

    from inference.checks import Checked


@dataclass(frozen=True, eq=False)
class QueryCheck:
    """Answers about cells of the user's; ``checked`` holds the counts, None where the cells cannot be used."""

    uri: str
    preflight: Preflight
    adata: ad.AnnData = field(repr=False)
    checked: Checked | None = field(repr=False)
    role: str = keys.QUERY

    @property
    def ok(self) -> bool:
        """Whether the cells can be the query cells."""
        return self.preflight.ok

    def require(self) -> Checked:
        """Return the checked counts.

        Raises
        ------
        InvalidInputError
            The cells cannot be used; the message has all reasons.
        """
        if self.checked is None:
            refusals = list(self.preflight.refusals)
            msg = f"these cannot be the {self.role} cells: {' Also: '.join(refusals)}"
            raise InvalidInputError(msg, uri=self.uri, refusals=refusals)
        return self.checked

    def __repr__(self) -> str:
        head = f"{self.role} cells {shown_name(self.uri)}: {'can be used' if self.ok else 'cannot be used'}"
        return "\n".join([head, *self.preflight.lines])


def check_cells(given: ad.AnnData | str | Path, *, genelist: str | None = None, role: str = keys.QUERY) -> QueryCheck:
    """Check cells without refusing any that can be read; :meth:`QueryCheck.require` refuses.

    Parameters
    ----------
    given
        An AnnData, which is not changed, or the path or fsspec address of an h5ad file.
    genelist
        Path or address of the model's gene list; None where no model is involved.
    role
        What the cells are to be, for messages: query, prompt or control cells.

    Returns
    -------
    What was found, and the cells themselves.

    Raises
    ------
    NotFoundError
        There is no such file.
    StorageError
        A file may not be read.
    InvalidInputError
        The file is no readable h5ad, or the gene list is none.

    Examples
    --------
    >>> haystack.check(adata)  # doctest: +SKIP
    >>> haystack.check("my_cells.h5ad").ok  # doctest: +SKIP
    True
    """
    require_cells(given, role=f"{role} cells")
    uri = IN_MEMORY if is_cells(given) else str(given)
    name, genes = shown_name(uri), None
    try:
        if genelist is not None:
            with _local(genelist, what="gene list") as path:
                genes = load_model_genes(path, name=genelist)
        if is_cells(given):
            adata = plain_cells(given)
        else:
            with _local(uri, what=f"{role} cells") as path:
                adata = read_file(path, name=name)
    except PermissionError as error:
        msg = f"the {role} cells at {uri} cannot be read: permission denied. Grant read access, or copy the file."
        raise StorageError(msg, uri=uri) from error
    except ValueError as error:
        if isinstance(error, InvalidInputError):
            raise
        msg = f"these cannot be the {role} cells: {error}"
        raise InvalidInputError(msg, uri=uri) from error
    preflight, checked = examine(adata, name=name, model_genes=genes, known=load_genes())
    return QueryCheck(uri, preflight, adata, checked, role)


@contextmanager
def _local(uri: str, *, what: str) -> Iterator[Path]:
    """A local path of the file: the file itself, or a temporary copy."""
    try:
        if "://" not in uri:
            path = Path(uri).expanduser()
            if not path.exists():  # a folder is told from a file by what it holds
                raise FileNotFoundError(uri)
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / Path(uri).name
            with fsspec.open(uri, "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            yield copy
    except FileNotFoundError as error:
        msg = f"no {what} at {uri}: there is no such file. Give its path or address."
        raise NotFoundError(msg, uri=uri) from error
