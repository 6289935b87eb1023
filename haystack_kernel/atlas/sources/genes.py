"""Read the genes of an open source, and refuse cells of other species.

In: var, raw/var and the texts about the organism of an open h5ad. Out: genes per var, by :mod:`inference.genes`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from haystack_kernel.atlas.sources.h5ad import read_text
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.knowledge.genes import load_genes
from inference.errors import InputError
from inference.genes import ORGANISM_KEYS, READ_COLUMNS, Genes, VarTable, check_organism, read_gene_names
from inference.h5 import column_names, decode, index_name, is_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import h5py


def read_genes(
    h5: h5py.File, *, columns: Sequence[str], uri: str, organisms: Sequence[str] = ()
) -> dict[str, Genes | InputError]:
    """Read the genes of ``var`` and, where there is one, of ``raw/var``.

    Parameters
    ----------
    columns
        var columns tried for symbols where the index holds Ensembl ids or numbers.
    organisms
        Distinct texts of the organism column of obs; those of uns are added.

    Returns
    -------
    Name of the table -> its genes, or why they cannot be used.

    Raises
    ------
    InvalidInputError
        The file says that its cells are not human.
    """
    with input_errors(uri):
        is_human = check_organism([*organisms, *_stated_in_uns(h5)], name=uri)
    found: dict[str, Genes | InputError] = {}
    joined: dict[str, str] = {}
    for var in [name for name in ("var", "raw/var", "raw.var") if name in h5]:
        frame = h5[var]
        given = column_names(frame)
        read = [name for name in given if name in READ_COLUMNS or name in columns]
        table = VarTable(_texts(frame, index_name(frame)), {name: _texts(frame, name) for name in read}, given)
        try:
            found[var] = read_gene_names(
                table, name=uri, symbols=columns, joined=joined, known=load_genes(), is_human=is_human
            )
        except InputError as error:
            found[var] = error
        joined = table.symbols_by_name(columns)
    return found


@contextmanager
def input_errors(uri: str) -> Iterator[None]:
    """Convert errors of ``inference`` about a file to those of HAYSTACK."""
    try:
        yield
    except InputError as error:
        kind = MissingKeyError if error.about == "symbols" else InvalidInputError
        raise kind(str(error), uri=uri) from error


def _texts(frame: h5py.Group, name: str) -> list[str]:
    labels = read_text(frame, name)
    return [str(text) for text in labels.categories[labels.codes]]


def _stated_in_uns(h5: Any) -> list[str]:  # noqa: ANN401 - h5py file or zarr group
    texts = []
    for key in ORGANISM_KEYS:
        if "uns" in h5 and key in h5["uns"] and is_array(node := h5["uns"][key]) and node.shape in {(), (1,)}:
            value = node[()] if node.shape == () else node[0]
            value = value.item() if hasattr(value, "item") else value
            texts.append(decode(value) if isinstance(value, bytes) else str(value))
    return texts
