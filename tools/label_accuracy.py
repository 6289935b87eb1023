"""Measure how often labels of public data reach the right term, by source.

In: the folder ``shared`` of public data, and the packaged knowledge. Out: a table of sources, split into labels used
while tuning and labels never looked at, with how many have a true answer, how many of these are found first, and how
many labels of all are wrong without a doubt.

    python -m tools.label_accuracy ../shared [--show SOURCE]

``--show`` prints the misses of a source among the labels used while tuning, never others. Truth: the ids of ontology
columns; the gene of a guide; for drugs the InChIKey (its first block, so that salts count as their base) that the
Repurposing Hub gives for the name or for one of its parts; for marker tables, which state no ids, only how many labels
are resolved is told.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anndata as ad

from haystack_kernel.knowledge import load_knowledge, resolve
from haystack_kernel.knowledge.controls import control_words
from haystack_kernel.knowledge.entries import resolve_genetic
from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.knowledge.genetic import read_genetic
from haystack_kernel.knowledge.labels import SALTS
from haystack_kernel.schema import Resolution, TermKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from haystack_kernel.knowledge.terms import Knowledge

UNKNOWN = ""  # no true answer: nothing, or something doubtful, is right


@dataclass(frozen=True)
class Label:
    """A label, and the terms that are right; ``right`` is None where no truth is known."""

    source: str
    kind: TermKind
    text: str
    right: frozenset[str] | None
    is_declared: bool = False

    @property
    def is_unseen(self) -> bool:
        """Whether the label belongs to the half that is never looked at."""
        if self.source.endswith("(all seen)"):
            return False
        return hashlib.sha256(f"{self.kind}\t{self.text}".encode()).digest()[1] % 2 == 1


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a TSV file, plain or gzip."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t"))


class Drugs:
    """Which packaged treatments a name of a drug means, by InChIKey."""

    def __init__(self, hub: Path, knowledge: Knowledge) -> None:
        self.block: dict[str, str] = {}
        for row in read_rows(hub):
            self.block.setdefault(_plain(row["pert_iname"]), row["inchikey"].split("-")[0])
        self.entries: dict[str, set[str]] = {}
        for name, entry in knowledge.perturbations.items():
            keys = {key.split("-")[0] for base, key in entry.external_ids.items() if base.lower() == "inchikey"}
            named = {self.block[one] for one in map(_plain, (name, *entry.synonyms)) if one in self.block}
            for key in keys | named:
                self.entries.setdefault(key, set()).add(name)

    def meant_by(self, label: str) -> frozenset[str] | None:
        """Return the treatments of the same substance; None where the Hub does not know the name."""
        parts = [label, *re.findall(r"[(\[]([^()\[\]]+)[)\]]", label), re.sub(r"\s*[(\[].*", "", label)]
        names = [_plain(one) for part in parts for one in (part, " ".join(_without_salts(part.split())))]
        keys = {self.block[name] for name in names if name in self.block}
        if not keys:
            return None
        return frozenset().union(*(self.entries.get(key, {UNKNOWN}) for key in keys))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _without_salts(words: list[str]) -> list[str]:
    while len(words) > 1 and words[-1].lower().strip("()") in SALTS:
        words = words[:-1]
    return words


def labels_of(shared: Path, *, knowledge: Knowledge) -> Iterator[Label]:
    """Yield the labels of every source, each once."""
    data = shared / "data"
    for row in read_rows(shared / "cases" / "labels.tsv"):
        kind = cast("TermKind", row["kind"])
        expected = frozenset(row["expected_any_of"].split(";")) - {"-"}
        right = expected.union(*(_named(one, kind=kind, knowledge=knowledge) for one in expected))
        yield Label("cases/labels.tsv (all seen)", kind, row["text"], right or frozenset((UNKNOWN,)))
    drugs = Drugs(data / "drugs" / "repurposing_hub_drugs_20200324.tsv.gz", knowledge)
    for source, text in _drug_labels(data):
        yield Label(source, "perturbation", text, drugs.meant_by(text))
    guides = ad.read_h5ad(data / "perturbation" / "papalexi_thp1_299genes_public.h5ad", backed="r").obs
    for text, gene in sorted(set(zip(guides["guide_id"].astype(str), guides["perturbation"].astype(str), strict=True))):
        is_control = bool(control_words(text, genetic=True).kind) or gene.lower() in ("nt", "control", "ctrl")
        now = load_genes().find(gene).symbol or gene
        right = frozenset((UNKNOWN,)) if is_control else frozenset((f"{now} knock-out",))
        yield Label("Papalexi guides", "perturbation", text, right, is_declared=True)
    yield from _cell_types(data)
    tables = {"panglaodb_human_2020-03-27": "cell type", "cellmarker2_human": "CT", "sctype_db_full": "cellName"}
    for file, column in tables.items():
        for text in sorted({row[column] for row in read_rows(data / "markers" / f"{file}.tsv.gz")}):
            yield Label(f"markers: {file.split('_')[0]}", "cell_type", text, None)


def _drug_labels(data: Path) -> Iterator[tuple[str, str]]:
    values = ad.read_h5ad(data / "signatures" / "neurips2023_ranks_public.h5ad", backed="r").obs
    found = {("OpenProblems drugs", text) for text in values["perturbation"].astype(str)}
    found |= {
        (row["dataset"], row["perturbation"])
        for row in read_rows(data / "signatures" / "sciplex_tahoe_top200_public.tsv.gz")
    }
    found |= {
        ("sci-Plex library", row["Product.Name"])
        for row in read_rows(data / "drugs" / "sciplex_drug_target_class.tsv.gz")
    }
    yield from sorted(found)


def _cell_types(data: Path) -> Iterator[Label]:
    pairs = set()
    for path in sorted([*(data / "reference").glob("*.h5ad"), *(data / "perturbation").glob("*.h5ad")]):
        obs = ad.read_h5ad(path, backed="r").obs
        if "cell_type_ontology_term_id" in obs:
            pairs |= set(zip(obs["cell_type"].astype(str), obs["cell_type_ontology_term_id"].astype(str), strict=True))
    for text, id in sorted(pairs):
        yield Label("cell types of h5ad files", "cell_type", text, frozenset((id if ":" in id else UNKNOWN,)))


def _named(name: str, *, kind: TermKind, knowledge: Knowledge) -> set[str]:
    """Return the term that an expected name is kept under, where only its writing differs."""
    found = resolve(name, kind=kind, knowledge=knowledge)
    return {found.match.id} if found.match and not found.ambiguous and found.match.how != "fuzzy" else set()


def is_right(found: Resolution, label: Label) -> bool:
    """Whether the first answer is right: one of the terms, the same change of a gene, or none where none is right."""
    right = label.right or frozenset()
    if found.match is None:
        return UNKNOWN in right
    if found.match.id in right:
        return True
    said = read_genetic(found.match.id)
    return said is not None and any(_same_change(said.name, one) for one in right)


def _same_change(name: str, other: str) -> bool:
    losses = r" (?:knock-out|knock-down|CRISPRi)"
    return re.sub(losses, " loss", name) == re.sub(losses, " loss", other)


def measure(labels: Iterable[Label], *, knowledge: Knowledge, show: str = "") -> dict[tuple[str, bool], Counter[str]]:
    """Return counts by source and by whether the labels were never looked at."""
    counts: dict[tuple[str, bool], Counter[str]] = {}
    for label in labels:
        if label.is_declared:
            found = resolve_genetic(label.text, declared=True) or Resolution(text=label.text, kind=label.kind)
        else:
            found = resolve(label.text, kind=label.kind, knowledge=knowledge)
        count = _counted(found, label)
        counts.setdefault((label.source, label.is_unseen), Counter()).update(count)
        if show and show in label.source and not label.is_unseen:
            _print_miss(label, found, count)
    return counts


def _print_miss(label: Label, found: Resolution, count: Counter[str]) -> None:
    if count["wrong"] or count["known"] > count["top1"] or (label.right is None and not count["resolved"]):
        answer = found.match.name if found.match else "nothing"
        doubt = "sure" if count["resolved"] else "doubtful"
        near = ", ".join(one.name for one in found.alternatives[:3])
        right = sorted(label.right or ())
        print(f"{label.text!r} -> {answer} ({doubt}); right: {right}; {found.note}; near: {near}")


def _counted(found: Resolution, label: Label) -> Counter[str]:
    is_sure = found.match is not None and not found.ambiguous
    count = Counter(labels=1, resolved=int(is_sure))
    if label.right is not None:
        has_answer = bool(label.right - {UNKNOWN})
        first = is_right(found, label)
        shown = [one.id for one in (found.match, *found.alternatives) if one][:3]
        among = first or not label.right.isdisjoint(shown)
        count.update(known=int(has_answer), top1=int(has_answer and first), top3=int(has_answer and among))
        count.update(wrong=int(is_sure and not first))
    return count


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder shared of public data")
    parser.add_argument("--show", default="", help="print the misses of sources whose name holds this")
    options = parser.parse_args()
    knowledge = load_knowledge()
    counts = measure(labels_of(options.shared, knowledge=knowledge), knowledge=knowledge, show=options.show)
    print(f"{'source':<30}{'split':<9}{'labels':>7}{'known':>7}{'top-1':>8}{'top-3':>8}{'wrong':>7}{'sure':>7}")
    for (source, is_unseen), count in counts.items():
        known = count["known"]
        shares = [f"{100 * count[one] / known:.1f} %" if known else "" for one in ("top1", "top3")]
        print(
            f"{source:<30}{'unseen' if is_unseen else 'tuning':<9}{count['labels']:>7}{known or '':>7}{shares[0]:>8}"
            f"{shares[1]:>8}{count['wrong']:>7}{count['resolved']:>7}"
        )


if __name__ == "__main__":
    main()
