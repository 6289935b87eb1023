"""Gene sets in the GMT format: name, description, then genes, tab separated, one set a line.

In: bytes of the file. Out: pathways, every gene +1, because a GMT file states no direction.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.readers import check_count, clean_name, decode
from haystack_kernel.knowledge.terms import Pathway

if TYPE_CHECKING:
    from pathlib import Path

MAX_GENES = 30_000  # of one set
_SYMBOL = re.compile(r"[A-Za-z0-9][\w.@/-]{0,49}")
_MOUSE_LIKE = re.compile(r"[A-Z][a-z]+\d*[a-z]?\d*(?:-\w+)?")


def read_gene_sets(raw: bytes, *, path: Path) -> tuple[Pathway, ...]:
    """Read every set of a GMT file; a weight behind a comma (``STAT1,1.0``) is dropped.

    Entries that cannot be gene symbols ("18S rRNA") are left out, unless they are more than a fifth of all.

    Raises
    ------
    InvalidInputError
        A line has no gene, a set is defined twice, or the entries are not symbols of human genes; the message names
        the line.
    """
    pathways: dict[str, Pathway] = {}
    n_entries, strange = 0, list[str]()
    lines = decode(raw, path=path).splitlines()
    check_count(len(lines), path=path, what="lines")
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, description, genes = _read_set(line, path=path, number=number)
        if name in pathways:
            raise _refused(path, number, f"the set {name} is defined a second time")
        symbols = {gene: 1 for gene in genes if _SYMBOL.fullmatch(gene)}
        n_entries += len(genes)
        strange += [gene for gene in genes if gene not in symbols]
        pathways[name] = Pathway(name, symbols, _synonyms(name), description)
    if not pathways:
        message = f"{path} has no gene set. Give a GMT file: name, description, genes, tab separated."
        raise InvalidInputError(message, path=str(path))
    if len(strange) > n_entries / 5:
        message = (
            f"{path}: {len(strange):,} of {n_entries:,} entries, such as {strange[0][:60]!r}, are not gene symbols. "
            "Give a GMT file of symbols."
        )
        raise InvalidInputError(message, path=str(path), n_strange=len(strange))
    _check_human(pathways, path=path)
    return tuple(pathways.values())


def _read_set(line: str, *, path: Path, number: int) -> tuple[str, str, list[str]]:
    """Return name, description and genes of one line; empty cells are left out."""
    name, *rest = line.split("\t")
    name = clean_name(name, path=path, where=f"line {number}")
    genes = [cell.partition(",")[0].strip() for cell in rest[1:]]
    genes = [gene for gene in genes if gene]
    if not name or not genes:
        raise _refused(path, number, "a set needs a name, a description and at least one gene, tab separated")
    if len(genes) > MAX_GENES:
        raise _refused(path, number, f"{name} has {len(genes):,} genes; {MAX_GENES:,} are possible")
    return name, rest[0].strip()[:200], genes


def _synonyms(name: str) -> tuple[str, ...]:
    """Return the name in plain words: HALLMARK_TNFA_SIGNALING_VIA_NFKB is also "tnfa signaling via nfkb"."""
    words = re.sub(r"^(?:HALLMARK|REACTOME|KEGG|WP|BIOCARTA|PID|GO[A-Z]{2})_", "", name).replace("_", " ")
    return (words.lower(),) if name.isupper() and "_" in name else ()


def _check_human(pathways: dict[str, Pathway], *, path: Path) -> None:
    genes = {gene for pathway in pathways.values() for gene in pathway.genes}
    n_mouse = sum(_MOUSE_LIKE.fullmatch(gene) is not None for gene in genes)
    if n_mouse > len(genes) / 2:
        message = (
            f"{path}: {n_mouse:,} of {len(genes):,} symbols are written like mouse symbols (Stat1). All tables are "
            "human: give the human release of the sets."
        )
        raise InvalidInputError(message, path=str(path))


def _refused(path: Path, number: int, what: str) -> InvalidInputError:
    return InvalidInputError(f"{path} line {number}: {what}. Correct the line.", path=str(path), line=number)
