"""How often labels as people write them reach the right term; `labels.tsv` says which one that is."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from haystack_kernel.knowledge import load_knowledge, resolve

TABLE = Path(__file__).parent / "data" / "labels.tsv"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Label:
    text: str
    kind: str
    expected: str
    split: str


def read_labels() -> list[Label]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [Label(*line.split("\t")) for line in lines[1:]]


def count(labels: list[Label], *, knowledge) -> Counter[str]:
    """How many are right first, among the first three, unresolved as they should be, and wrong without a doubt."""
    found = Counter[str]()
    for label in labels:
        resolution = resolve(label.text, kind=label.kind, knowledge=knowledge)
        first = resolution.match.id if resolution.match else UNKNOWN
        shown = [match.id for match in (resolution.match, *resolution.alternatives) if match][:3]
        found["wrong"] += first not in (UNKNOWN, label.expected) and not resolution.ambiguous
        if label.expected == UNKNOWN:
            found.update(unknown=1, unresolved=int(first == UNKNOWN))
        else:
            found.update(known=1, top1=int(first == label.expected), top3=int(label.expected in shown))
    return found


def test_table_when_read_then_large_without_repeats_and_split_by_hash():
    labels = read_labels()
    assert len(labels) >= 300
    assert len({(label.kind, label.text) for label in labels}) == len(labels)
    for label in labels:
        drawn = hashlib.sha256(f"{label.kind}\t{label.text}".encode()).digest()[0] % 3
        assert label.split == ("unseen" if drawn == 0 else "tuning")
    shares = Counter(label.split for label in labels)
    assert 0.28 < shares["unseen"] / len(labels) < 0.38
    assert sum(label.expected == UNKNOWN for label in labels) >= 100


@pytest.mark.parametrize(
    ("split", "top1", "top3", "unresolved"), [("tuning", 0.99, 0.99, 0.97), ("unseen", 0.97, 0.98, 0.9)]
)
def test_labels_when_resolved_then_right_and_never_wrong_without_a_doubt(split, top1, top3, unresolved):
    found = count([label for label in read_labels() if label.split == split], knowledge=load_knowledge())
    assert found["wrong"] == 0
    assert found["top1"] >= top1 * found["known"]
    assert found["top3"] >= top3 * found["known"]
    assert found["unresolved"] >= unresolved * found["unknown"]


@pytest.mark.slow
def test_labels_when_the_full_cell_ontology_is_added_then_right_or_a_term_of_just_that_name(shared, added):
    known = added(shared / "data/ontology/cl_2024-04-05.obo")
    labels = [label for label in read_labels() if label.kind == "cell_type" and label.expected != UNKNOWN]
    found = [resolve(label.text, kind="cell_type", knowledge=known) for label in labels]
    own_name = [one.match is not None and one.match.how == "name" for one in found]  # "helper T cell" has its own term
    rest = [label for label, is_own in zip(labels, own_name, strict=True) if not is_own]
    counted = count(rest, knowledge=known)
    assert counted["wrong"] == 0
    assert counted["top1"] >= 0.95 * counted["known"]
    assert len(rest) > 300


def test_resolve_when_warm_then_no_label_takes_long():
    """A label takes about a millisecond; the limit finds an index that is built again for each of them."""
    labels, known = read_labels(), load_knowledge()
    for label in labels:
        resolve(label.text, kind=label.kind, knowledge=known)
    started = time.process_time()
    for label in labels:
        resolve(label.text, kind=label.kind, knowledge=known)
    assert (time.process_time() - started) / len(labels) < 0.1
