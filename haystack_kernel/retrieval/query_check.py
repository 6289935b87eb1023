"""Checks the user's own cells before anything is spent on them; notebooks show the result as a table.

In: an h5ad, local or in a bucket, and the gene list of a model where there is one. Out: :class:`QueryCheck`.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec

from haystack_kernel.errors import InvalidInputError, NotFoundError, StorageError
from haystack_kernel.knowledge.genes import load_genes
from inference.checks import read_file
from inference.preflight import Preflight, examine, load_model_genes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad

    from inference.checks import Checked

_MARKS = {True: ("&#10003;", "yes"), False: ("&#10007;", "no"), None: ("&#9432;", "note")}


@dataclass(frozen=True, eq=False)
class QueryCheck:
    """Answers about one file of query cells; ``checked`` holds the counts, None where the cells cannot be used."""

    uri: str
    preflight: Preflight
    adata: ad.AnnData = field(repr=False)
    checked: Checked | None = field(repr=False)

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
            msg = f"these cannot be the query cells: {' Also: '.join(refusals)}"
            raise InvalidInputError(msg, uri=self.uri, refusals=refusals)
        return self.checked

    def __repr__(self) -> str:
        head = f"query cells {self.uri}: {'can be used' if self.ok else 'cannot be used'}"
        return "\n".join([head, *self.preflight.lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td title="{_MARKS[one.ok][1]}" aria-label="{_MARKS[one.ok][1]}">{_MARKS[one.ok][0]}</td>'
            f'<th scope="row" style="text-align:left">{escape(one.question)}</th>'
            f'<td style="text-align:left">{escape(one.detail)}</td></tr>'
            for one in self.preflight.answers
        )
        verdict = "can be used" if self.ok else "cannot be used"
        return f"<table><caption>Query cells {escape(self.uri)}: {verdict}</caption><tbody>{rows}</tbody></table>"


def check_query_h5ad(uri: str, *, genelist: str | None = None) -> QueryCheck:
    """Check query cells without refusing any that can be read; :meth:`QueryCheck.require` refuses.

    Parameters
    ----------
    uri
        Path or fsspec address of an h5ad.
    genelist
        Path or address of the model's gene list; None where no model is involved.

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
    >>> check = check_query_h5ad("my_cells.h5ad")  # doctest: +SKIP
    >>> check.ok  # doctest: +SKIP
    True
    """
    genes = None
    try:
        if genelist is not None:
            with _local(genelist, what="gene list") as path:
                genes = load_model_genes(path, name=genelist)
        with _local(uri, what="query cells") as path:
            adata = read_file(path, name=uri)
    except PermissionError as error:
        msg = f"the query cells at {uri} cannot be read: permission denied. Grant read access, or copy the file."
        raise StorageError(msg, uri=uri) from error
    except ValueError as error:
        if isinstance(error, InvalidInputError):
            raise
        msg = f"these cannot be the query cells: {error}"
        raise InvalidInputError(msg, uri=uri) from error
    preflight, checked = examine(adata, name=uri, model_genes=genes, known=load_genes())
    return QueryCheck(uri, preflight, adata, checked)


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
