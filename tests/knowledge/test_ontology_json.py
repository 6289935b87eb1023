"""The JSON form of labels and ancestors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import ancestors
from haystack_kernel.knowledge.ontology_json import read_ontology_json

pytestmark = pytest.mark.slow

TERMS = {
    "UBERON:0000001": {"label": "organ", "ancestors": {}, "deprecated": False},
    "UBERON:0000002": {"label": "lung", "ancestors": {"UBERON:0000001": 1}, "synonyms": ["pulmo", "lung"]},
    "UBERON:0000003": {"label": "lobe", "ancestors": {"UBERON:0000002": 1, "UBERON:0000001": 2}},
    "UBERON:0000004": {"label": "obsolete gill", "deprecated": True, "replaced_by": "UBERON:0000002", "consider": []},
    "CL:0000000": {"label": "cell", "ancestors": {}},
}


def read(content, prefix="UBERON", name="UBERON-ontology-v2026-04-01.json"):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_ontology_json(raw, path=Path(name), prefix=prefix)


def test_read_when_form_is_right_then_parents_are_the_nearest_ancestors():
    found = read(TERMS)
    terms = {term.id: term for term in found.rows}
    assert terms["UBERON:0000003"].parents == ("UBERON:0000002",)
    assert terms["UBERON:0000002"].synonyms == ("pulmo",)
    assert set(terms) == {"UBERON:0000001", "UBERON:0000002", "UBERON:0000003"}
    assert [(one.id, one.name, one.replaced_by) for one in found.obsolete] == [
        ("UBERON:0000004", "gill", ("UBERON:0000002",))
    ]
    assert found.version == "2026-04-01"


def test_read_when_form_is_wrong_then_the_fault_is_named(subtests):
    for content, says in [
        (b"{", "not valid JSON"),
        (b"[1, 2]", "must be an object of terms"),
        (b"[" * 200_000, "not valid JSON"),
        ({"UBERON:1": 3}, "UBERON:1 must have a label"),
        ({"UBERON:1": {"label": 3}}, "UBERON:1 must have a label"),
        ({"UBERON:1": {"label": "a", "ancestors": ["UBERON:2"]}}, "must have ancestors as"),
        ({"UBERON:1": {"label": "a", "ancestors": {"UBERON:2": "near"}}}, "must have ancestors as"),
        ({"UBERON:1": {"label": "a", "synonyms": "b"}}, "must have synonyms as a list"),
        ({"UBERON:1": {"label": ""}}, "is in use but has no label"),
        ({"CL:0000000": {"label": "cell"}}, "no UBERON term"),
        (
            {
                "UBERON:1": {"label": "a", "ancestors": {"UBERON:2": 1}},
                "UBERON:2": {"label": "b", "ancestors": {"UBERON:1": 1}},
            },
            "its own ancestor",
        ),
    ]:
        with subtests.test(content=content), pytest.raises(InvalidInputError, match=says):
            read(content)


@pytest.mark.parametrize(
    ("file", "kind", "n_terms"),
    [
        ("CL-ontology-v2026-03-26.json.gz", "cell_types", 3324),
        ("UBERON-ontology-v2026-04-01.json.gz", "tissues", 14971),
        ("MONDO-ontology-v2026-05-05.json.gz", "diseases", 27990),
    ],
)
def test_ancestors_when_whole_ontology_then_as_the_file_lists_them(shared, added, file, kind, n_terms):
    path = shared / "data/ontology" / file
    known = added(path)
    with gzip.open(path) as stream:
        content = json.load(stream)
    live = {term: entry for term, entry in content.items() if not entry["deprecated"]}
    assert len(live) == n_terms
    table = getattr(known, kind)
    for term in sorted(live)[:: max(1, len(live) // 400)]:
        assert table[term].name == live[term]["label"]
        listed = {up for up in live[term]["ancestors"] if up in live}
        assert ancestors(term, knowledge=known) == listed, term
