"""OBO files as released, and as they should not be."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("pronto")

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.obo import read_obo

pytestmark = pytest.mark.slow

HEADER = (
    "format-version: 1.2\ndata-version: cl/releases/2020-01-02\nremark: CC BY 4.0\nimport: http://127.0.0.1:9/x.obo\n\n"
)
TERMS = """[Term]
id: CL:0000000
name: cell
is_a: UBERON:0000061 ! anatomical structure

[Term]
id: CL:0000001
name: monocyte
def: "a \\"quoted\\" definition" [X:1]
synonym: "mono \\"cyte\\"" EXACT []
synonym: "phagocyte" BROAD []
xref: FMA:1
is_a: CL:0000000 ! cell
relationship: part_of UBERON:0000178 ! blood

[Term]
id: CL:0000002
name: macrophage
alt_id: CL:0000009
is_a: CL:0000000 {gci="x"} ! cell
relationship: develops_from CL:0000001 ! monocyte
relationship: capable_of GO:1 ! eating

[Term]
id: CL:0000003
name: obsolete scavenger
is_obsolete: true
replaced_by: CL:0000002
consider: CL:0000001

[Term]
id: CL:0000004
name:
is_obsolete: true

[Term]
id: UBERON:0000178
name: blood

[Typedef]
id: capable_of
name: capable of
"""


def read(text: str, prefix: str = "CL"):
    return read_obo(text.encode(), path=Path("x.obo"), prefix=prefix)


def test_read_when_released_file_then_names_links_and_exact_synonyms():
    found = read(HEADER + TERMS)
    terms = {term.id: term for term in found.rows}
    assert set(terms) == {"CL:0000000", "CL:0000001", "CL:0000002"}
    assert terms["CL:0000001"].synonyms == ('mono "cyte"',)
    assert terms["CL:0000001"].parents == ("CL:0000000",)
    assert terms["CL:0000001"].part_of == ()  # blood is no cell type
    assert terms["CL:0000002"].develops_from == ("CL:0000001",)
    assert (found.version, found.licence) == ("cl/releases/2020-01-02", "CC BY 4.0")


def test_read_when_terms_are_obsolete_then_their_replacement_is_kept():
    retired = {one.id: one for one in read(HEADER + TERMS).obsolete}
    assert retired["CL:0000003"].name == "scavenger"
    assert retired["CL:0000003"].replaced_by == ("CL:0000002",)
    assert retired["CL:0000003"].consider == ("CL:0000001",)
    assert retired["CL:0000004"].name == ""  # as in some releases, without a name
    assert retired["CL:0000009"].replaced_by == ("CL:0000002",)  # merged into it


def test_read_when_lines_are_left_out_then_counted():
    assert set(read(HEADER + TERMS).notes) == {
        "1 links to terms of other files left out",
        "1 lines without a value left out",
    }


def test_read_when_file_is_wrong_then_the_fault_is_named(subtests):
    for text, says in [
        ("<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]><rdf:RDF/>", "not in OBO format"),
        ("hello", "not in OBO format"),
        (HEADER, "no CL term"),
        (HEADER + TERMS.replace("CL:", "XX:"), "no CL term"),
        (HEADER + TERMS.replace('EXACT []\nsynonym: "phag', 'EXACT [\nsynonym: "phag'), "not valid OBO"),
        (HEADER + TERMS.replace("is_a: UBERON:0000061", "is_a: CL:0000002"), "its own ancestor"),
        (HEADER + TERMS.replace("name: monocyte\n", ""), "CL:0000001 is in use but has no name"),
        (HEADER + TERMS.replace("name: monocyte", "name: " + "m" * 2000), "a name of 2,000 characters"),
    ]:
        with subtests.test(text=text), pytest.raises(InvalidInputError, match=says):
            read(text)


def test_read_when_not_text_then_refused():
    with pytest.raises(InvalidInputError, match="not text in UTF-8"):
        read_obo(b"format-version: 1.2\n\xff\xfe", path=Path("x.obo"), prefix="CL")


def test_read_when_cell_ontology_then_every_term_link_and_name_of_the_file(shared):
    path = shared / "data/ontology/cl_2024-04-05.obo"
    found = read_obo(path.read_bytes(), path=path, prefix="CL")
    stanzas = [s for s in path.read_text(encoding="utf-8").split("\n[")[1:] if s.startswith("Term]\nid: CL:")]
    live = {s.split("id: ")[1][:10]: s for s in stanzas if "is_obsolete: true" not in s}
    terms = {term.id: term for term in found.rows}
    assert terms.keys() == live.keys()
    assert len(terms) == 2746
    for term, stanza in live.items():
        lines = stanza.split("\n")
        assert f"name: {terms[term].name}" in lines
        parents = {line[6:16] for line in lines if line.startswith("is_a: CL:")} & live.keys()
        assert set(terms[term].parents) == parents
        develops = {
            line.split()[2] for line in lines if line.startswith("relationship: develops_from CL:")
        } & live.keys()
        assert set(terms[term].develops_from) == develops
    assert found.licence == "CC BY 4.0"
    assert {one.id for one in found.obsolete} >= {s.split("id: ")[1][:10] for s in stanzas if "is_obsolete: true" in s}


def test_read_when_compared_with_the_json_form_then_shared_terms_agree_mostly(shared):
    path = shared / "data/ontology/cl_2024-04-05.obo"
    with gzip.open(shared / "data/ontology/CL-ontology-v2026-03-26.json.gz") as stream:
        newer = json.load(stream)
    names = {term.id: term.name for term in read_obo(path.read_bytes(), path=path, prefix="CL").rows}
    both = [term for term in names if term in newer and not newer[term]["deprecated"]]
    assert len(both) > 2500
    assert sum(names[term] == newer[term]["label"] for term in both) > 0.9 * len(both)
