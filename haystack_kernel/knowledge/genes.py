"""Human genes by symbol, former symbol, alias, Ensembl id or NCBI (Entrez) id.

In: what a file or a person calls a gene. Out: the symbol in use, and how it was found.

Symbols in use and Ensembl ids are those of one GENCODE release; former symbols, aliases and NCBI ids are HGNC's.
``python -m tools.build_genes`` makes the table.
"""

from __future__ import annotations

import functools
import gzip
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge.tables import PACKAGED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

How = Literal["symbol", "case", "previous", "alias", "ensembl", "entrez", ""]

TABLE = PACKAGED / "genes.tsv.gz"
_COLUMNS = ("symbol", "ensembl", "biotype", "entrez", "previous", "aliases")
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
    """The table of genes with a lookup for each kind of name, built on first use."""

    def __init__(self, genes: Iterable[Gene], *, version: str) -> None:
        self.by_symbol: Mapping[str, Gene] = {gene.symbol: gene for gene in genes}
        self.version = version

    @functools.cached_property
    def coding(self) -> frozenset[str]:
        """Symbols of genes that code for proteins, antibodies or T cell receptors."""
        return frozenset(symbol for symbol, gene in self.by_symbol.items() if gene.is_coding)

    def find(self, text: str) -> GeneName:
        """Return what a name means: a symbol in use first, then an id, other capitals, a former symbol, an alias.

        A bare number is no gene here: see :meth:`of_entrez`.
        """
        name = text.strip()
        if name in self.by_symbol:
            return GeneName(text, name, "symbol")
        if found := _ENSEMBL.fullmatch(name):
            symbol = self._by_ensembl.get(found[1].upper())
            return GeneName(text, symbol, "ensembl" if symbol else "")
        lookups: tuple[tuple[How, Mapping[str, tuple[str, ...]]], ...] = (
            ("previous", self._by_previous),
            ("case", self._by_capitals),
            ("previous", self._by_previous_capitals),
            ("alias", self._by_alias),
        )
        for how, lookup in lookups:
            symbols = lookup.get(name) or lookup.get(name.upper(), ())
            if len(symbols) == 1:
                return GeneName(text, symbols[0], how)
            if symbols:
                return GeneName(text, None, how, symbols)
        return GeneName(text, None)

    def of_entrez(self, id: str | int) -> str | None:
        """Return the symbol of an NCBI (Entrez) gene id; None where no gene of the table has it."""
        return self._by_entrez.get(str(id).strip())

    def ensembl_of(self, symbol: str) -> str | None:
        """Return the Ensembl id of a symbol in use; None where it is unknown or stands for several ids."""
        gene = self.by_symbol.get(symbol)
        return gene.ensembl[0] if gene is not None and len(gene.ensembl) == 1 else None

    @functools.cached_property
    def _by_ensembl(self) -> dict[str, str]:
        return {id: gene.symbol for gene in self.by_symbol.values() for id in gene.ensembl}

    @functools.cached_property
    def _by_entrez(self) -> dict[str, str]:
        return {id: gene.symbol for gene in self.by_symbol.values() for id in gene.entrez}

    @functools.cached_property
    def _by_capitals(self) -> dict[str, tuple[str, ...]]:
        return _group((symbol.upper(), symbol) for symbol in self.by_symbol)

    @functools.cached_property
    def _by_previous(self) -> dict[str, tuple[str, ...]]:
        return _group((name, gene.symbol) for gene in self.by_symbol.values() for name in gene.previous)

    @functools.cached_property
    def _by_previous_capitals(self) -> dict[str, tuple[str, ...]]:
        return _group((name.upper(), gene.symbol) for gene in self.by_symbol.values() for name in gene.previous)

    @functools.cached_property
    def _by_alias(self) -> dict[str, tuple[str, ...]]:
        return _group((name.upper(), gene.symbol) for gene in self.by_symbol.values() for name in gene.aliases)


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
    genes = []
    for line in lines[len(comments) + 1 :]:
        symbol, ensembl, biotype, *lists = line.split("\t")
        entrez, previous, aliases = (tuple(one.split(";")) if one else () for one in lists)
        genes.append(Gene(symbol, tuple(ensembl.split(";")), biotype, entrez, previous, aliases))
    return Genes(genes, version=version[1])


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key, symbol in pairs:
        if symbol not in found[key]:
            found[key].append(symbol)
    return {key: tuple(symbols) for key, symbols in found.items()}
