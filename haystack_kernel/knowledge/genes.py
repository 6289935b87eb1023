"""Human genes by symbol, former symbol, alias, Ensembl id or NCBI (Entrez) id.

In: what a file or a person calls a gene. Out: the symbol in use, and how it was found.

Symbols in use and Ensembl ids are those of one GENCODE release; former symbols, aliases and NCBI ids are HGNC's.
``python -m tools.build_genes`` makes the table.
"""

from __future__ import annotations

import functools
import gzip
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge.hashed import hash_texts, keys_from_bytes
from haystack_kernel.knowledge.tables import PACKAGED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from haystack_kernel.knowledge.hashed import HashedKeys

How = Literal["symbol", "case", "previous", "alias", "ensembl", "entrez", ""]

TABLE = PACKAGED / "genes.tsv.gz"
_COLUMNS = ("symbol", "ensembl", "biotype", "entrez", "previous", "aliases")
KEYS_MARK = b"GENE"  # in the file of keys
_ENTREZ = "NCBI:"
_WAYS: tuple[How, ...] = ("symbol", "previous", "case", "previous", "alias")  # the first that holds counts
_ENSEMBL = re.compile(r"(ENSG\d{11})(?:\.\d+)?(?:_PAR_Y)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Gene:
    """A gene under its symbol in use; lists may be empty, and a few symbols stand for several Ensembl ids."""

    symbol: str
    ensembl: tuple[str, ...]
    biotype: str
    entrez: tuple[str, ...] = ()
    previous: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def is_coding(self) -> bool:
        """Whether the gene codes for a protein, an immunoglobulin or a T cell receptor."""
        return self.biotype == "protein_coding" or re.fullmatch(r"(?:IG|TR)_._gene", self.biotype) is not None


@dataclass(frozen=True, slots=True)
class GeneName:
    """What a name of a gene means.

    ``symbol`` is None where the name is unknown or stands for several genes; ``candidates`` are then those it may
    mean. ``how`` says by which kind of name it was found: a symbol as it stands, a symbol in other capitals, a former
    symbol, an alias, an Ensembl id or an NCBI id.
    """

    text: str
    symbol: str | None
    how: How = ""
    candidates: tuple[str, ...] = ()


class Genes:
    """The table of genes: a name is found by the hash of its capitals, and only the genes that it may mean are read."""

    def __init__(self, lines: Sequence[str], *, keys: HashedKeys, version: str) -> None:
        self._lines, self._keys = lines, keys
        self.version = version

    @classmethod
    def of(cls, genes: Iterable[Gene], *, version: str) -> Genes:
        """Return a table of these genes."""
        lines = [
            "\t".join([one.symbol, ";".join(one.ensembl), one.biotype, *map(";".join, (one.entrez, one.previous))])
            + f"\t{';'.join(one.aliases)}"
            for one in genes
        ]
        return cls(lines, keys=hash_genes(lines), version=version)

    @functools.cached_property
    def by_symbol(self) -> Mapping[str, Gene]:
        """Every gene by its symbol in use."""
        return {gene.symbol: gene for gene in map(_gene, self._lines)}

    @functools.cached_property
    def coding(self) -> frozenset[str]:
        """Symbols of genes that code for proteins, antibodies or T cell receptors."""
        return frozenset(symbol for symbol, gene in self.by_symbol.items() if gene.is_coding)

    def find(self, text: str) -> GeneName:
        """Return what a name means: a symbol in use first, then an id, other capitals, a former symbol, an alias.

        A bare number is no gene here: see :meth:`of_entrez`.
        """
        name = text.strip()
        if found := _ENSEMBL.fullmatch(name):
            symbol = next((one.symbol for one in self._like(found[1]) if found[1].upper() in one.ensembl), None)
            return GeneName(text, symbol, "ensembl" if symbol else "")
        ways = {gene.symbol: way for gene in self._like(name) if (way := _way(gene, name)) < len(_WAYS)}
        if not ways:
            return GeneName(text, None)
        best = min(ways.values())
        symbols = tuple(symbol for symbol, way in ways.items() if way == best)
        if len(symbols) > 1:
            return GeneName(text, None, _WAYS[best], symbols)
        return GeneName(text, symbols[0], _WAYS[best])

    def of_entrez(self, id: str | int) -> str | None:
        """Return the symbol of an NCBI (Entrez) gene id; None where no gene of the table has it."""
        wanted = str(id).strip()
        return next((gene.symbol for gene in self._like(f"{_ENTREZ}{wanted}") if wanted in gene.entrez), None)

    def symbol_of(self, ensembl: str) -> str | None:
        """Return the symbol of an Ensembl id, with or without its version; None where the table has none."""
        found = self.find(ensembl)
        return found.symbol if found.how == "ensembl" else None

    def ensembl_of(self, symbol: str) -> str | None:
        """Return the Ensembl id of a symbol in use; None where it is unknown or stands for several ids."""
        gene = next((one for one in self._like(symbol) if one.symbol == symbol), None)
        return gene.ensembl[0] if gene is not None and len(gene.ensembl) == 1 else None

    def _like(self, name: str) -> list[Gene]:
        """Return the genes that have this name, and perhaps others whose names have the same hash."""
        return [_gene(self._lines[row]) for row in self._keys.rows_of(name.upper())]


def _way(gene: Gene, name: str) -> int:
    """Return the place in ``_WAYS`` of how a name means a gene, or the number of ways where it does not."""
    capitals = name.upper()
    ways = (
        gene.symbol == name,
        name in gene.previous or capitals in gene.previous,
        gene.symbol.upper() == capitals,
        capitals in map(str.upper, gene.previous),
        capitals in map(str.upper, gene.aliases),
    )
    return ways.index(True) if True in ways else len(ways)


def hash_genes(lines: Iterable[str]) -> HashedKeys:
    """Return the hashes of all names and ids of genes, given as lines of the table."""
    return hash_texts([one.upper() for one in _all_names(_gene(line))] for line in lines)


def _all_names(gene: Gene) -> Iterator[str]:
    yield from (gene.symbol, *gene.ensembl, *gene.previous, *gene.aliases)
    yield from (f"{_ENTREZ}{id}" for id in gene.entrez)


def _gene(line: str) -> Gene:
    symbol, ensembl, biotype, *lists = line.split("\t")
    entrez, previous, aliases = (tuple(one.split(";")) if one else () for one in lists)
    return Gene(symbol, tuple(ensembl.split(";")), biotype, entrez, previous, aliases)


@functools.cache
def load_genes(path: Path = TABLE) -> Genes:
    """Read the packaged table of genes, once.

    Returns
    -------
    All human genes that have a symbol.

    Raises
    ------
    ContractError
        The table is missing or damaged.

    Examples
    --------
    >>> load_genes().find("IL8").symbol
    'CXCL8'
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        message = f"{path.name} cannot be read from {path.parent} ({error}). Reinstall haystack-kernel."
        raise ContractError(message, path=str(path)) from error
    comments = [line for line in lines if line.startswith("#")]
    version = re.search(r"version[ :=]+([\w.-]*\w)", "\n".join(comments))
    if lines[len(comments) : len(comments) + 1] != ["\t".join(_COLUMNS)] or version is None:
        message = f"{path.name} has no version or not the columns {', '.join(_COLUMNS)}. Reinstall haystack-kernel."
        raise ContractError(message, path=str(path))
    rows = lines[len(comments) + 1 :]
    stored = path.with_name(path.name.replace(".tsv.gz", ".keys"))
    keys = keys_from_bytes(stored.read_bytes(), where=stored.name, mark=KEYS_MARK) if stored.is_file() else None
    return Genes(rows, keys=keys or hash_genes(rows), version=version[1])
