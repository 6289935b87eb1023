"""Build the packaged ontologies: CL whole, UBERON whole, the human branch of MONDO, and retired ids of all three.

In: the folder ``data`` of the Python package ``cellxgene-ontology-guide`` (1.11.1), or a folder with the same files as
``.json.gz``. Out: ``<name>.tsv.gz``, ``<name>.keys`` and the manifest in ``haystack_kernel/knowledge/data``; the same
bytes from the same inputs.

    python -m tools.build_ontologies FOLDER

The files list ancestors with distances, is_a and part_of in one; only those at distance 1 are kept, and the lowest that
none of these leads to (their path runs through another ontology): together they give back all the others. ``rank`` is 0
for terms of common use, 1 for others (Uberon terms that CELLxGENE does not list as tissues, groups of diseases), 2 for
terms that hold for other species only.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_kernel.knowledge.hashed import hash_keys
from haystack_kernel.knowledge.packed import COLUMNS, MANIFEST, MANIFEST_COLUMNS, RETIRED, RETIRED_COLUMNS
from tools.packing import write_packed

if TYPE_CHECKING:
    from haystack_kernel.schema import TermKind

DATA = Path(__file__).parents[1] / "haystack_kernel" / "knowledge" / "data"
ORIGIN = "cellxgene-ontology-guide 1.11.1"
HUMAN_DISEASE = "MONDO:0700096"
LARGE_GROUP = 60  # a disease above so many others is a group, which a question rarely means
ONTOLOGIES: tuple[tuple[str, str, TermKind, str], ...] = (
    ("cl", "CL", "cell_type", "CC BY 4.0"),
    ("uberon", "UBERON", "tissue", "CC BY 3.0"),
    ("mondo", "MONDO", "disease", "CC BY 4.0"),
)
_SPECIES = re.compile(
    r"\((?:Mmus|Rnor|Primate|Hominoid|sensu [^)]+|[A-Z][a-z]+(?:idae|formes|ptera|ia|a))\)|"
    r",\s*(?:mouse|rat|zebrafish)\b|\b(?:mouse|murine|Drosophila|zebrafish)\b"
)
_SUSCEPTIBLE = re.compile(r"(?i)^obsolete\s+")


def read_release(folder: Path, prefix: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the terms of the newest release of an ontology in the folder, and the version."""
    paths = sorted(folder.glob(f"{prefix}-ontology-v*.json.*"))
    if not paths:
        message = f"{folder} has no {prefix}-ontology-v….json.zst or .json.gz"
        raise FileNotFoundError(message)
    path = paths[-1]
    raw = path.read_bytes()
    if path.suffix == ".zst":
        import zstandard

        text = zstandard.ZstdDecompressor().stream_reader(raw).read()
    else:
        text = gzip.decompress(raw)
    version = re.search(r"-v([\d-]+)\.", path.name)
    return json.loads(text), version[1] if version else ""


def read_tissues(folder: Path) -> frozenset[str]:
    """Return the Uberon terms that CELLxGENE lists as tissues, from the file beside the ontologies."""
    listed = json.loads((folder / "tissue_descendants.json").read_text(encoding="utf-8"))
    return frozenset(one.split(" ")[0] for high, below in listed.items() for one in (high, *below))


def kept_terms(terms: dict[str, dict[str, Any]], prefix: str) -> dict[str, dict[str, Any]]:
    """Return the terms in use; of MONDO the human diseases and what stands above them."""
    live = {id: term for id, term in sorted(terms.items()) if id.startswith(f"{prefix}:") and not term["deprecated"]}
    if prefix != "MONDO":
        return live
    human = {id for id, term in live.items() if HUMAN_DISEASE in term["ancestors"]}
    above = {up for id in human for up in live[id]["ancestors"]}
    return {id: term for id, term in live.items() if id in human | above}


def rank_terms(live: dict[str, dict[str, Any]], prefix: str, *, tissues: frozenset[str]) -> dict[str, int]:
    """Return how common each term is."""
    n_below = dict.fromkeys(live, 0)
    for term in live.values():
        for up in term["ancestors"]:
            if up in n_below:
                n_below[up] += 1
    ranks = {}
    for id, term in live.items():
        if id in tissues:
            ranks[id] = 0
        elif _SPECIES.search(term["label"]):
            ranks[id] = 2
        else:
            is_group = prefix == "MONDO" and n_below[id] >= LARGE_GROUP
            ranks[id] = int(prefix == "UBERON" or is_group)
    return ranks


def rows_of(live: dict[str, dict[str, Any]], prefix: str, *, ranks: dict[str, int]) -> list[list[str]]:
    """Return the rows of the table, sorted by id."""
    rows = []
    for id, term in live.items():
        name = " ".join(term["label"].split())
        synonyms = dict.fromkeys(" ".join(one.split()).replace("|", "/") for one in term.get("synonyms", []))
        for other in ("", name):
            synonyms.pop(other, None)
        numbers = ";".join(one.removeprefix(f"{prefix}:") for one in _parents(term, live=live))
        rows.append([id, name, str(ranks[id]), numbers, "|".join(synonyms)])
    return rows


def _parents(term: dict[str, Any], *, live: dict[str, dict[str, Any]]) -> list[str]:
    """Return ancestors at distance 1, and the lowest of those that no such parent leads to."""
    above = {up for up in term["ancestors"] if up in live}
    parents = {up for up in above if term["ancestors"][up] == 1}
    rest = above - parents - {up for parent in parents for up in live[parent]["ancestors"]}
    return sorted(parents | {up for up in rest if not any(up in live[other]["ancestors"] for other in rest)})


def retired_rows(terms: dict[str, dict[str, Any]], prefix: str) -> list[list[str]]:
    """Return retired terms with what replaces them."""
    rows = []
    for id, term in sorted(terms.items()):
        if term["deprecated"] and id.startswith(f"{prefix}:"):
            name = _SUSCEPTIBLE.sub("", " ".join((term["label"] or "").split()))
            rows.append([id, name, _ids(term.get("replaced_by")), _ids(term.get("consider"))])
    return rows


def _ids(value: object) -> str:
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    found = (re.fullmatch(r"(?:.*/)?([A-Za-z]+)[:_](\d+)", one) for one in listed if isinstance(one, str))
    return ";".join(f"{one[1]}:{one[2]}" for one in found if one)


def main() -> None:
    """Read the arguments and write all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with CL-, UBERON- and MONDO-ontology-v….json.zst or .json.gz")
    parser.add_argument("--tissues", type=Path, help="folder with tissue_descendants.json, where it is another")
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args()
    tissues = read_tissues(options.tissues or options.folder)
    manifest, retired = [], []
    for name, prefix, kind, licence in ONTOLOGIES:
        terms, version = read_release(options.folder, prefix)
        live = kept_terms(terms, prefix)
        rows = rows_of(live, prefix, ranks=rank_terms(live, prefix, tissues=tissues))
        retired += retired_rows(terms, prefix)
        table, keys = options.out / f"{name}.tsv.gz", options.out / f"{name}.keys"
        comment = f"# {prefix} {version}, {licence}, from {ORIGIN}; parents: is_a and part_of, ids without prefix"
        write_packed(table, comments=[comment], columns=COLUMNS, rows=rows)
        names = [[row[1], *row[4].split("|")] if row[4] else [row[1]] for row in rows]
        keys.write_bytes(hash_keys(names, kind=kind).to_bytes())
        digests = [hashlib.sha256(one.read_bytes()).hexdigest() for one in (table, keys)]
        manifest.append([name, prefix, version, str(len(rows)), licence, ORIGIN, *digests])
        print(
            f"{prefix} {version}: {len(rows):,} terms, {sum(map(len, names)):,} names, {table.stat().st_size:,} bytes"
        )
    table = options.out / f"{RETIRED}.tsv.gz"
    write_packed(table, comments=[f"# retired ids, from {ORIGIN}"], columns=RETIRED_COLUMNS, rows=sorted(retired))
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    licences = "CC BY 4.0; CC BY 3.0 (UBERON)"
    manifest.append([RETIRED, "retired ids", "as above", str(len(retired)), licences, ORIGIN, digest, ""])
    lines = ["# Whole ontologies in this folder, made by tools/build_ontologies.py", "\t".join(MANIFEST_COLUMNS)]
    text = "\n".join([*lines, *("\t".join(row) for row in manifest)]) + "\n"
    (options.out / MANIFEST).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
