"""Read the genes of a file as unique upper-case human symbols, and refuse genes of other species.

In: var of an open h5ad. Out: ``GeneSpace``: symbols, and their columns in the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.atlas.sources.h5ad import column_names, index_name, read_text
from haystack_kernel.errors import InvalidInputError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import h5py

_HUMAN_ENSEMBL = re.compile(r"^ENSG\d{11}(\.\d+)?(_PAR_Y)?$")
_ANY_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{11}(\.\d+)?")
_OPEN_FRAME = re.compile(r"^C(\d+|X|Y)orf\d+")
_GENOME_PREFIX = re.compile(r"^(GRCh\d+|hg\d+|GRCm\d+|mm\d+)[_-]+", re.IGNORECASE)
MIN_FRAC_MOUSE = 0.5  # of symbols with a lower-case letter: above it the file is of another species
MIN_FRAC_MIXED = 0.1


@dataclass(frozen=True)
class GeneSpace:
    """``symbols[i]`` is column ``columns[i]`` of the file; ``duplicates`` are the symbols of columns left out."""

    symbols: tuple[str, ...]
    columns: tuple[int, ...]
    duplicates: tuple[str, ...]
    taken_from: str

    @property
    def is_whole(self) -> bool:
        """Whether every column of the file is kept, in place."""
        return self.columns == tuple(range(len(self.columns))) and not self.duplicates


def read_genes(h5: h5py.File, var: str, *, columns: Sequence[str], uri: str) -> GeneSpace:
    """Read the gene symbols of ``var``.

    Parameters
    ----------
    columns
        var columns tried for symbols where the index holds Ensembl ids.

    Returns
    -------
    Upper-case unique symbols. Two Ensembl ids of one symbol, or symbols that differ only in case: the first is kept
    and the rest are reported.

    Raises
    ------
    MissingKeyError
        The index holds Ensembl ids and no column has symbols.
    InvalidInputError
        There are no genes, a name occurs twice in the index, or the genes are not human.
    """
    frame = h5[var]
    labels = read_text(frame, index_name(frame))
    index = [str(name) for name in labels.categories[labels.codes]]
    _check_index(index, uri=uri, var=var)
    names, taken_from = index, f"{var} index"
    if sum(bool(_ANY_ENSEMBL.match(name)) for name in index) > len(index) / 2:
        _check_ensembl(index, uri=uri)
        column = next((name for name in columns if name in column_names(frame)), None)
        if column is None:
            has = column_names(frame)
            msg = (
                f"{uri}: the genes are Ensembl ids and var has no column of symbols (tried {', '.join(columns)}; it "
                f"has {has}). Add var['feature_name'], or name the column with gene_symbols"
            )
            raise MissingKeyError(msg, uri=uri, columns=has)
        texts = read_text(frame, column)
        symbols = [str(name) for name in texts.categories[texts.codes]]
        names = [symbol or identifier for symbol, identifier in zip(symbols, index, strict=True)]
        taken_from = f"{var}[{column!r}]"
    _check_symbols(names, uri=uri)
    return _unique(names, taken_from=taken_from)


def check_organism(values: Sequence[str], *, uri: str) -> None:
    """Refuse cells that are not human; ``values`` are the distinct texts of the organism column."""
    known = {value for value in values if value}
    human = {"homo sapiens", "human", "ncbitaxon:9606", "h. sapiens", "homo_sapiens"}
    if other := sorted(value for value in known if value.casefold() not in human):
        what = "mixes species" if len(known) > len(other) else "is not human"
        msg = (
            f"{uri} {what}: organism is {sorted(known)}. Only Homo sapiens is supported; keep the human cells and genes"
        )
        raise InvalidInputError(msg, uri=uri, organisms=sorted(known))


def _check_index(index: list[str], *, uri: str, var: str) -> None:
    if not index:
        msg = f"{uri} has no genes ({var} is empty); write the file again with its genes"
        raise InvalidInputError(msg, uri=uri)
    if twice := _repeated(index):
        shown = ", ".join(twice[:5])
        msg = (
            f"{uri}: {len(twice)} gene names occur more than once in {var} ({shown}). Sum or drop the copies, or call "
            "adata.var_names_make_unique(), and write the file again"
        )
        raise InvalidInputError(msg, uri=uri, duplicates=twice[:50])
    if sum(name.isdigit() for name in index) > len(index) / 2:
        msg = f"{uri}: {var} names genes by number ({', '.join(index[:3])}); set adata.var_names to gene symbols"
        raise InvalidInputError(msg, uri=uri)


def _check_ensembl(index: list[str], *, uri: str) -> None:
    ids = [name for name in index if _ANY_ENSEMBL.match(name)]
    foreign = [name for name in ids if not _HUMAN_ENSEMBL.match(name)]
    if len(foreign) > MIN_FRAC_MIXED * len(ids):
        what = "mixes human genes with" if len(foreign) < len(ids) else "has"
        msg = (
            f"{uri} {what} genes of another species (e.g. {foreign[0]}); keep the ENSG genes, or map to human orthologs"
        )
        raise InvalidInputError(msg, uri=uri, n_foreign=len(foreign))


def _check_symbols(names: list[str], *, uri: str) -> None:
    prefixes = {found[1].casefold() for name in names if (found := _GENOME_PREFIX.match(name))}
    if any(prefix.startswith(("mm", "grcm")) for prefix in prefixes):
        msg = f"{uri} mixes species: genes carry the prefixes {sorted(prefixes)}; keep the human genes without prefix"
        raise InvalidInputError(msg, uri=uri)
    foreign = [name for name in names if _looks_foreign(name)]
    frac = len(foreign) / len(names)
    if frac > MIN_FRAC_MIXED:
        what = "genes are not human" if frac > MIN_FRAC_MOUSE else "genes mix species"
        shown = ", ".join(foreign[:3])
        msg = (
            f"{uri}: {what}: {frac:.0%} of the symbols are written as in mouse ({shown}), human symbols are "
            "upper-case. Map them to human orthologs, or keep the human genes"
        )
        raise InvalidInputError(msg, uri=uri, frac_foreign=frac)


def _looks_foreign(name: str) -> bool:
    if _OPEN_FRAME.match(name) or _ANY_ENSEMBL.match(name) or name.startswith(("hsa-", "HSA")):
        return False
    return any(letter.islower() for letter in name)


def _repeated(names: list[str]) -> list[str]:
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for name in names:
        if name in seen:
            twice[name] = None
        seen.add(name)
    return list(twice)


def _unique(names: list[str], *, taken_from: str) -> GeneSpace:
    first: dict[str, int] = {}
    duplicates: list[str] = []
    for column, name in enumerate(names):
        symbol = _GENOME_PREFIX.sub("", name).upper()
        if symbol in first:
            duplicates.append(symbol)
        else:
            first[symbol] = column
    return GeneSpace(tuple(first), tuple(first.values()), tuple(duplicates), taken_from)
