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
    symbols = set[str]()
    n_entries, strange = 0, list[str]()
    lines = decode(raw, path=path).splitlines()
    check_count(len(lines), path=path, what="lines")
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        pathway, entries = _read_set(line, path=path, number=number)
        if pathway.name in pathways:
            raise _refused(path, number, f"the set {pathway.name} is defined a second time")
        pathways[pathway.name] = pathway
        symbols.update(pathway.genes)
        n_entries += len(entries)
        strange += [entry for entry in entries if entry not in pathway.genes]
    if not pathways:
        message = f"{path} has no gene set. Give a GMT file: name, description, genes, tab separated."
        raise InvalidInputError(message, path=str(path))
    if len(strange) > n_entries / 5:
        message = (
            f"{path}: {len(strange):,} of {n_entries:,} entries, such as {strange[0][:60]!r}, are not gene symbols. "
            "Give a GMT file of symbols."
        )
        raise InvalidInputError(message, path=str(path), n_strange=len(strange))
    n_mouse = sum(_MOUSE_LIKE.fullmatch(gene) is not None for gene in symbols)
    if n_mouse > len(symbols) / 2:
        message = (
            f"{path}: {n_mouse:,} of {len(symbols):,} symbols are written like mouse symbols (Stat1). All tables are "
            "human: give the human release of the sets."
        )
        raise InvalidInputError(message, path=str(path))
    return tuple(pathways.values())


def _read_set(line: str, *, path: Path, number: int) -> tuple[Pathway, list[str]]:
    """Return the set of one line, and all its entries, including those that are not gene symbols."""
    name, *rest = line.split("\t")
    name = clean_name(name, path=path, where=f"line {number}")
    cells = [cell.partition(",")[0].strip() for cell in rest[1:]]
    entries = [cell for cell in cells if cell]
    if not name or not entries:
        raise _refused(path, number, "a set needs a name, a description and at least one gene, tab separated")
    if len(entries) > MAX_GENES:
        raise _refused(path, number, f"{name} has {len(entries):,} genes; {MAX_GENES:,} are possible")
    synonyms: tuple[str, ...] = ()
    if name.isupper() and "_" in name:  # HALLMARK_TNFA_SIGNALING_VIA_NFKB is also "tnfa signaling via nfkb"
        words = re.sub(r"^(?:HALLMARK|REACTOME|KEGG|WP|BIOCARTA|PID|GO[A-Z]{2})_", "", name).replace("_", " ")
        synonyms = (words.lower(),)
    genes = {entry: 1 for entry in entries if _SYMBOL.fullmatch(entry)}
    return Pathway(name, genes, synonyms, rest[0].strip()[:200]), entries


def _refused(path: Path, number: int, what: str) -> InvalidInputError:
    return InvalidInputError(f"{path} line {number}: {what}. Correct the line.", path=str(path), line=number)
