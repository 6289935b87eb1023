"""Reads the genes of a file: one rule for atlases, query cells, prompts and ``haystack model``.

In: the names and columns of a file's var, as text. Out: human gene names as the file writes them, the columns that are
genes, and what else the file holds; or why the genes cannot be used.

Names keep their spelling. Whoever compares them does so without regard to case (:func:`gene_key`).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from inference.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol")
TYPE_COLUMNS = ("feature_types", "feature_type", "feature_biotype", "modality")
GENOME_COLUMN = "genome"
READ_COLUMNS = (*SYMBOL_COLUMNS, *TYPE_COLUMNS, GENOME_COLUMN)
ORGANISM_KEYS = ("organism", "species", "organism_ontology_term_id")

_GENE_TYPES = {"gene expression", "gene", "genes", "rna", "gex", "mrna"}
_OTHER_TYPE = re.compile(
    r"antibod|\badt\b|^proteins?$|^prot$|crispr|guide|^peaks?$|\batac\b|chromatin|multiplex|\bhto\b|hash|^custom$|antigen"
    r"|\bcmo\b|spike|barcode|lipid",
    re.IGNORECASE,
)
_OTHER_NAME = re.compile(  # names that no gene has
    r".*[_-]TotalSeq[A-D]?$|(ADT|HTO|CMO|AB|prot|protein)[_:].+|hash-?tag[_-]?\d+.*|.+_(ADT|HTO)$|ERCC-\d{5}$"
    r"|(chr)?(\d{1,2}|[XY]|MT?)[:_]\d+[-_]\d+$|chr(\d{1,2}|[XY]|MT?)-\d+-\d+$|.+\|pAbO$|(Hu|HuMs|HuMsRt)\..+"
    r"|isotype[_.-].+|__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)$"
    r"|N_(unmapped|multimapping|noFeature|ambiguous)$",
    re.IGNORECASE,
)
_ENSEMBL = re.compile(r"ENS(?P<species>[A-Z]{3,4})?G\d{6,}(\.\d+)?(_PAR_Y)?$")
_JOINED = re.compile(  # an Ensembl id before or behind the symbol, and perhaps the type of the gene behind both
    r"ENSG\d{11}(\.\d+)?[_|:;/ -]+(?P<behind>[A-Za-z][^|]*)(\|.*)?$"
    r"|(?P<before>[A-Za-z].*?)[_|:;/ ]+ENSG\d{11}(\.\d+)?(\|.*)?$"
)
_NUMBERED = re.compile(r"(?P<before>[A-Za-z][\w.@-]*)( \(\d+\)|\|\d+)$|gene[-:](?P<behind>[A-Z][\w.@-]*)$")
FOREIGN_IDS = (  # ids of other things than human genes, as those who write files call them
    ("HGNC numbers", re.compile(r"HGNC:\d+", re.IGNORECASE)),
    ("Ensembl transcripts", re.compile(r"ENST\d{11}(?:\.\d+)?")),
    ("Ensembl proteins", re.compile(r"ENSP\d{11}(?:\.\d+)?")),
    ("RefSeq accessions", re.compile(r"[NX][MRP]_\d+(?:\.\d+)?")),
    ("UniProt accessions", re.compile(r"[OPQ]\d[A-Z0-9]{3}\d|[A-NR-Z]\d(?:[A-Z][A-Z0-9]{2}\d){1,2}")),
    ("array probes", re.compile(r"\d+(?:_[a-z])?_at|AFFX-.+|ILMN_\d+")),
)
_LIKE_ID = re.compile(  # how any of these, an Ensembl id and a number begin
    "|".join([_ENSEMBL.pattern, *(form.pattern for _, form in FOREIGN_IDS), r"[^\W_a-z]"]), re.IGNORECASE
)
_DOTTED = re.compile(r"(HLA|MT)\.[A-Z]")  # as R's make.names writes HLA-A
_NAMELESS = re.compile(r"(nan|none|<na>|na|null)?([-_.]\d+)?$", re.IGNORECASE)
_BARCODE = re.compile(r"(.*[_:#-])?[ACGTN]{10,}([-_.\d].*)?$")
_DATE = re.compile(
    r"\d{1,2}-(Mar|Sep|Sept|Dec|Oct|Apr|Feb|Nov)(-\d+)?$|(Mar|Sep|Sept|Dec|Oct|Apr|Feb|Nov)-\d{1,2}$"
    r"|\d{4}-\d{2}-\d{2}( 00:00:00)?$|\d{1,2}/\d{1,2}/\d{2,4}$",
    re.IGNORECASE,
)
_GENOME_PREFIX = re.compile(r"(GRCh\d+|hg\d+|GRCm\d+|mm\d+)_+(?=.)", re.IGNORECASE)
_OPEN_FRAME = re.compile(r"C(\d+|X|Y)orf\d+")
_ZEBRAFISH = re.compile(r"(si|zgc|im|wu|zmp):")
_HUMAN = re.compile(
    r"homo[ _.-]*sapiens|\bhumans?\b|h\. ?sapiens|hsapiens|\bhsa\b|(ncbitaxon[:_]?)?\b9606(\.0)?\b|(grch|hg)\d+"
)
_OTHER_SPECIES = re.compile(
    r"[a-z]{3,}|mm\d+|rn\d+|\d{5,}"
)  # what is left of a text beside a name of the human species
_ASSEMBLY_WORDS = {"refdata", "gex", "premrna", "ensembl", "gencode"}
_UNSTATED = {"", "nan", "none", "na", "<na>", "unknown", "null"}
_FRAC_MOST = 0.5
_FRAC_MIXED = 0.1  # above it, some of the names are of another species
_MIN_NAMES = 4  # of fewer names the species is not judged
_N_SHOWN = 5


class KnownGenes(Protocol):
    """A table of human genes, which only the kernel has."""

    version: str

    def symbol_of(self, ensembl: str) -> str | None:
        """The symbol of an Ensembl id; None where the table has none."""


@dataclass(frozen=True)
class Genes:
    """Genes of a file; ``names[i]`` is column ``columns[i]`` of its matrix.

    Attributes
    ----------
    names
        As the file writes them, each once, without a genome prefix; a file all in lower case is read in upper case.
    columns
        Ascending columns of the matrix that are genes.
    taken_from
        ``var index`` or the column of symbols.
    repeated
        Symbols that a second gene has; that gene keeps its name in the index.
    left_out
        Kind of other features -> their names: antibodies, guides, peaks, features without a name.
    notes
        Sentences about what is unusual.
    """

    names: tuple[str, ...]
    columns: tuple[int, ...]
    taken_from: str
    repeated: tuple[str, ...] = ()
    left_out: tuple[tuple[str, tuple[str, ...]], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VarTable:
    """What names the genes in a file.

    Attributes
    ----------
    index
        Row names of var.
    columns
        Those columns of var that :data:`READ_COLUMNS` or the user names, as text; missing values are empty.
    all_columns
        Names of all columns, for messages.
    """

    index: Sequence[str]
    columns: Mapping[str, Sequence[str]]
    all_columns: Sequence[str]

    def symbols_by_name(self, tried: Sequence[str] = SYMBOL_COLUMNS) -> dict[str, str]:
        """Name in the index -> symbol in the first of these columns; empty without one."""
        column = next((one for one in tried if one in self.columns), None)
        return dict(zip(self.index, self.columns[column], strict=True)) if column else {}


def gene_key(name: str) -> str:
    """The form in which gene names are compared."""
    return name.upper()


def read_gene_names(  # noqa: PLR0913 - what a file says of its genes, and who reads it
    table: VarTable,
    *,
    name: str,
    symbols: Sequence[str] = SYMBOL_COLUMNS,
    joined: Mapping[str, str] | None = None,
    known: KnownGenes | None = None,
    forced: str | None = None,
    is_human: bool = False,
    wanted: Collection[str] | None = None,
) -> Genes:
    """Read gene names from var.

    Parameters
    ----------
    table
        Index and columns of var.
    name
        Name of the file, for messages.
    symbols
        Columns tried for symbols where the index holds Ensembl ids or numbers, in this order.
    joined
        Name in the index -> symbol, from elsewhere in the file: used where the columns have none.
    known
        Table of genes that gives Ensembl ids a symbol where the file has none.
    forced
        Column that holds the symbols, whatever the index holds; None, or a column that is absent, looks for one.
    is_human
        Whether the file says that its cells are human; then lower-case names are accepted.
    wanted
        Genes that matter, as :func:`gene_key` writes them: names that repeat and are none of them are left out. None:
        any name that repeats is refused.

    Returns
    -------
    The genes, in the order of the file.

    Raises
    ------
    InputError
        There are no genes; names are numbers, cell barcodes or ids of transcripts, proteins and the like, repeat, or
        are of another species; or Ensembl ids have no symbols.
    """
    if not table.index:
        msg = f"{name} has no genes (var is empty); write the file again with its genes"
        raise InputError(msg)
    _check_genome(table.columns.get(GENOME_COLUMN, ()), name=name)
    kept, left_out = _sorted_out(table, name=name)
    notes = [f"{name}: left out {len(found)} {kind}: {_shown(found)}" for kind, found in left_out]
    own = _without_prefix([table.index[column] for column in kept], name=name, notes=notes)
    if wanted is not None and forced not in table.columns:
        kept, own = _without_repeated(kept, own, wanted, name=name, notes=notes)
    _check_once(own, name=name)
    own = _without_ids(own, name=name, notes=notes)
    names, taken_from, repeated = own, "var index", list[str]()
    tried = symbols if forced not in table.columns else (str(forced),)
    if forced in table.columns or _needs_symbols(own):
        _check_ensembl(own, name=name)
        found, taken_from = _symbols(own, table.columns, kept, symbols=tried, joined=joined or {}, known=known)
        if not found:
            raise InputError(_no_symbols(own, table.all_columns, symbols, name=name), about="symbols")
        notes.append(f"{name}: gene symbols taken from {taken_from}")
        found = _without_ids(_without_prefix(found, name=name, notes=notes), name=name, notes=notes)
        names, repeated = _each_once(found, own)
        notes += _on_symbols(found, own, repeated, name=name)
    names = _in_upper_case_if_all_lower(names, name=name, is_human=is_human, notes=notes)
    _check_species(names, name=name)
    notes += _on_changed_names(names, name=name)
    notes += _on_capitals(names, name=name)
    return Genes(tuple(names), tuple(kept), taken_from, tuple(repeated), left_out, tuple(notes))


def check_organism(values: Sequence[str], *, name: str) -> bool:
    """Refuse cells that are not human; returns whether the file says that they are.

    Parameters
    ----------
    values
        The distinct texts that the file gives for the organism.
    name
        Name of the file, for messages.

    Raises
    ------
    InputError
        One of the texts is not a name of Homo sapiens.

    Examples
    --------
    >>> check_organism(["Homo sapiens (human)"], name="a.h5ad")
    True
    """
    known = sorted({value.strip() for value in values} - {value for value in values if _is_unstated(value)})
    other = [value for value in known if not _names_only_human(value)]
    if other:
        what = "mixes species" if len(known) > len(other) or _HUMAN.search(other[0].casefold()) else "is not human"
        msg = f"{name} {what}: organism is {known}. Only Homo sapiens is supported; keep the human cells and genes"
        raise InputError(msg, about="species")
    return bool(known)


def _is_unstated(value: str) -> bool:
    return value.strip().casefold() in _UNSTATED


def _names_only_human(value: str) -> bool:
    text = value.strip().casefold().replace("ncbitaxon_", "ncbitaxon:")
    rest = set(_OTHER_SPECIES.findall(_HUMAN.sub(" ", text))) - _ASSEMBLY_WORDS
    return bool(_HUMAN.search(text)) and not rest


def _sorted_out(table: VarTable, *, name: str) -> tuple[list[int], tuple[tuple[str, tuple[str, ...]], ...]]:
    """Rows of var that are genes, and the names of the others by their kind."""
    kept, left_out = [], dict[str, list[str]]()
    for row, (label, kind) in enumerate(zip(table.index, _kinds(table), strict=True)):
        if kind:
            left_out.setdefault(kind, []).append(label)
        else:
            kept.append(row)
    if not kept:
        told = ", ".join(f"{len(found)} {kind}" for kind, found in left_out.items())
        msg = f"{name} holds no genes, only {told}; give the file with Gene Expression"
        raise InputError(msg, about="symbols")
    return kept, tuple((kind, tuple(found)) for kind, found in left_out.items())


def _kinds(table: VarTable) -> list[str]:
    """For each row of var, what it is if it is no gene; the empty string for a gene."""
    kinds = [_kind_by_name(label) for label in table.index]
    for column in TYPE_COLUMNS:
        types = table.columns.get(column, [""] * len(kinds))
        other = _types_of_others(set(types))
        kinds = [text if text in other else kind for kind, text in zip(kinds, types, strict=True)]
    return kinds


def _types_of_others(types: set[str]) -> set[str]:
    """Types that are no genes; beside Gene Expression, 10x's word, every other one."""
    unlike = {text for text in types if text and text.casefold() not in _GENE_TYPES}
    has_genes = any(text.casefold() == "gene expression" for text in types)
    return unlike if has_genes else {text for text in unlike if _OTHER_TYPE.search(text)}


def _kind_by_name(label: str) -> str:
    if _NAMELESS.fullmatch(label.strip()):
        return "features without a name"
    return "features that are no genes by their name" if _OTHER_NAME.match(label) else ""


def _check_genome(genomes: Sequence[str], *, name: str) -> None:
    stated = {text for text in set(genomes) if not _is_unstated(text)}
    if any(re.search(r"mm\d|grcm|rn\d|grcr|danrer|grcz", text.casefold()) for text in stated):
        check_organism(sorted(stated), name=name)


def _without_prefix(names: list[str], *, name: str, notes: list[str]) -> list[str]:
    found = [_GENOME_PREFIX.match(gene) for gene in names]
    prefixes = {one[1].casefold() for one in found if one}
    if any(prefix.startswith(("mm", "grcm")) for prefix in prefixes):
        what = "mixes species" if len(prefixes) > 1 or not all(found) else "is not human"
        msg = f"{name} {what}: genes carry the prefixes {sorted(prefixes)}; keep the human genes without prefix"
        raise InputError(msg, about="species")
    if prefixes:
        notes.append(f"{name}: the genome prefix {_shown(sorted(prefixes))} is taken off the gene names")
    return [gene[one.end() :] if one else gene for gene, one in zip(names, found, strict=True)]


def _without_ids(names: list[str], *, name: str, notes: list[str]) -> list[str]:
    """The symbol of names that join one with an id; the second gene of a symbol keeps its whole name."""
    for pattern, what in ((_JOINED, "an Ensembl id"), (_NUMBERED, "a number or the word gene")):
        found = [pattern.match(gene) for gene in names]
        if any(found):
            notes.append(f"{name}: {sum(map(bool, found))} gene names join a symbol with {what}: the symbol is read")
            read = [(one["behind"] or one["before"]) if one else gene for gene, one in zip(names, found, strict=True)]
            names = _each_once(read, names)[0]
    return names


def _on_changed_names(names: list[str], *, name: str) -> list[str]:
    """Remarks on names that other programs changed, so that no model and no gene set knows them."""
    changed = {
        "dates, as a spreadsheet makes of MARCH1 or SEPT2": [gene for gene in names if _DATE.match(gene)],
        "written with a dot, as R makes of HLA-A or MT-CO1": [gene for gene in names if _DOTTED.match(gene)],
    }
    return [
        f"{name}: {len(found)} gene names are {what} ({_shown(found)}): no model knows them; restore them"
        for what, found in changed.items()
        if found
    ]


def _without_repeated(
    kept: list[int], own: list[str], wanted: Collection[str], *, name: str, notes: list[str]
) -> tuple[list[int], list[str]]:
    """Columns and names without those that repeat and do not matter; ids stay, since their symbols may matter."""
    if _needs_symbols(own):
        return kept, own
    uses = Counter(own)
    repeated = {gene: n for gene, n in uses.items() if n > 1 and gene_key(gene) not in wanted}
    if not repeated:
        return kept, own
    notes.append(
        f"{name}: {len(repeated)} gene names occur more than once ({_shown(list(repeated))}); the model has none of "
        "them: their columns are ignored"
    )
    left = [(column, gene) for column, gene in zip(kept, own, strict=True) if gene not in repeated]
    return [column for column, _ in left], [gene for _, gene in left]


def _on_capitals(names: list[str], *, name: str) -> list[str]:
    """A remark on names that differ from an earlier one only in capitals, since genes are compared without them."""
    first: dict[str, str] = {}
    again = [f"{gene} after {first[key]}" for gene in names if first.setdefault(key := gene_key(gene), gene) != gene]
    if not again:
        return []
    return [f"{name}: {len(again)} gene names differ from another only in capitals ({_shown(again)}): the first counts"]


def _check_once(names: list[str], *, name: str) -> None:
    if repeated := [gene for gene, n in Counter(names).items() if n > 1]:
        msg = (
            f"{name}: {len(repeated)} gene names occur more than once in var ({_shown(repeated)}); sum their columns, "
            "or tell them apart with adata.var_names_make_unique(), and write the file again"
        )
        raise InputError(msg, about="duplicates")
    if _frac(names, _BARCODE.match) > _FRAC_MOST:
        msg = (
            f"{name}: the genes are named as cell barcodes ({_shown(names[:3])}): the matrix seems to be genes x "
            "cells; transpose it (adata.T) and write the file again"
        )
        raise InputError(msg, about="symbols")


def _check_ensembl(names: list[str], *, name: str) -> None:
    found = [one for gene in names if (one := _ENSEMBL.match(gene))]
    foreign = [one.string for one in found if one["species"]]
    if len(foreign) > _FRAC_MIXED * len(found):
        what = "mixes human genes with genes of another species" if len(foreign) < len(found) else "has genes of"
        what = what if len(foreign) < len(found) else f"{what} another species"
        mouse = " (mouse genes)" if foreign[0].startswith("ENSMUSG") else ""
        msg = f"{name} {what}{mouse}, such as {foreign[0]}; keep the ENSG genes, or map to human orthologs first"
        raise InputError(msg, about="species")


def _needs_symbols(names: list[str]) -> bool:
    """Whether the names are ids, which a column of symbols may translate."""
    if _frac(names, _LIKE_ID.match) <= _FRAC_MOST:  # one pass in place of eight, for most files
        return False
    forms = (str.isdigit, _ENSEMBL.match, *(form.fullmatch for _, form in FOREIGN_IDS))
    return any(_frac(names, form) > _FRAC_MOST for form in forms)


def _symbols(
    own: list[str],
    columns: Mapping[str, Sequence[str]],
    kept: list[int],
    *,
    symbols: Sequence[str],
    joined: Mapping[str, str],
    known: KnownGenes | None,
) -> tuple[list[str], str]:
    """Symbols of the genes, and where they are from; a gene without one keeps its own name. Empty if none is found."""
    given = {f"var[{one!r}]": [columns[one][row].strip() for row in kept] for one in symbols if one in columns}
    given["var, joined by the names in the index"] = [joined.get(gene, "") for gene in own]
    if known is not None:
        given[f"the packaged table of genes ({known.version})"] = _of_ids(own, known)
    for place, texts in given.items():
        if _frac(texts, _is_symbol) > _FRAC_MIXED:
            named = ["" if _NAMELESS.fullmatch(text) else text for text in texts]
            return [text or gene for text, gene in zip(named, own, strict=True)], place
    return [], ""


def _of_ids(own: list[str], known: KnownGenes) -> list[str]:
    """Symbols of Ensembl ids; none for other names, nor where the table knows less than half of the ids."""
    found = [(known.symbol_of(gene) or "") if _ENSEMBL.match(gene) else "" for gene in own]
    return found if _frac(found, bool) > _FRAC_MOST else [""] * len(own)


def _on_symbols(found: list[str], own: list[str], repeated: list[str], *, name: str) -> list[str]:
    n_without = sum(symbol == gene for symbol, gene in zip(found, own, strict=True))
    said = {"have no symbol there and keep their own name": n_without}
    said |= {"repeat a symbol and keep their name in the index": len(repeated)}
    return [f"{name}: {n} of {len(own)} genes {what}" for what, n in said.items() if n]


def _is_symbol(text: str) -> bool:
    return not (_NAMELESS.fullmatch(text) or _ENSEMBL.match(text) or text.isdigit())


def _no_symbols(own: list[str], given: Sequence[str], symbols: Sequence[str], *, name: str) -> str:
    forms = (("numbers, as Entrez ids are", str.isdigit), *((what, form.fullmatch) for what, form in FOREIGN_IDS))
    what = next((what for what, form in forms if _frac(own, form) > _FRAC_MOST), "Ensembl ids")
    return (
        f"{name}: genes are {what} (such as {_shown(own[:3])}) and var has no column of symbols (tried "
        f"{', '.join(symbols)}; it has {sorted(given)}); add var['feature_name'], or name the column with "
        "gene_symbols"
    )


def _each_once(found: list[str], own: list[str]) -> tuple[list[str], list[str]]:
    """Symbols, where a second gene of the same symbol keeps its own name; and the symbols that repeat."""
    seen: set[str] = set()
    names, repeated = [], []
    for symbol, gene in zip(found, own, strict=True):
        is_new = gene_key(symbol) not in seen
        if not is_new:
            repeated.append(symbol)
        seen.add(gene_key(symbol))
        names.append(symbol if is_new else gene)
    return names, repeated


def _judged(names: list[str]) -> list[str]:
    """Names that tell the species by how they are written; none where there are too few."""
    found = [gene for gene in names if any(map(str.isalpha, gene)) and not _ENSEMBL.match(gene)]
    return found if len(found) >= _MIN_NAMES else []


def _in_upper_case_if_all_lower(names: list[str], *, name: str, is_human: bool, notes: list[str]) -> list[str]:
    """Names in upper case where most are in lower case and a sign says that they are human; without one, refused."""
    judged = _judged(names)
    small = [gene for gene in judged if gene == gene.lower()]
    if len(small) <= _FRAC_MOST * len(judged):
        return names
    has_hla = any(gene.startswith("hla-") for gene in small)
    if (is_human or has_hla) and not any(map(_ZEBRAFISH.match, small)):
        notes.append(f"{name}: gene names are in lower case and are read in upper case")
        return [gene_key(gene) for gene in names]
    msg = (
        f"{name}: gene names are in lower case ({_shown(small[:3])}), as in zebrafish: human symbols are upper-case; "
        "write them so, or state obs['organism'] = 'Homo sapiens'"
    )
    raise InputError(msg, about="species")


def _check_species(names: list[str], *, name: str) -> None:
    judged = _judged(names)
    foreign = [gene for gene in judged if _is_written_as_mouse(gene)]
    frac = len(foreign) / max(1, len(judged))
    if frac > _FRAC_MIXED:
        what = "genes are not human" if frac > _FRAC_MOST else "genes mix species"
        msg = (
            f"{name}: {what}: {frac:.0%} of the symbols are written as mouse genes are ({_shown(foreign[:3])}), human "
            "symbols are upper-case; map them to human orthologs first, or keep the human genes"
        )
        raise InputError(msg, about="species")


def _is_written_as_mouse(gene: str) -> bool:
    if not any(map(str.islower, gene)):
        return False
    return not (_OPEN_FRAME.match(gene) or _DATE.match(gene) or gene.startswith("hsa-"))


def _frac(names: Sequence[str], test: object) -> float:
    return sum(bool(test(gene)) for gene in names) / max(1, len(names))  # type: ignore[operator]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_N_SHOWN]) + (", …" if len(names) > _N_SHOWN else "")
