"""Whole ontologies in the package: digests, closure, which rows win, and what is found by hashed keys."""

import gzip
import hashlib
import json
from dataclasses import replace

import pytest

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge import ancestors, load_knowledge, load_knowledge_from, resolve
from haystack_kernel.knowledge.hashed import fingerprint, hash_keys, keys_from_bytes
from haystack_kernel.knowledge.index import index_of
from haystack_kernel.knowledge.packed import PackedTerms, read_manifest, with_ontologies
from haystack_kernel.knowledge.tables import PACKAGED
from tools.build_ontologies import ONTOLOGIES, kept_terms, rank_terms, rows_of

FILES = {
    "cl": "CL-ontology-v2026-03-26",
    "uberon": "UBERON-ontology-v2026-04-01",
    "mondo": "MONDO-ontology-v2026-05-05",
}
KINDS = {name: kind for name, _, kind, _ in ONTOLOGIES}


def packed(name):
    source = read_manifest(PACKAGED)[name]
    return PackedTerms(PACKAGED / f"{name}.tsv.gz", kind=KINDS[name], prefix=f"{source.name}:", source=source)


def test_every_packed_file_is_the_one_that_the_manifest_names():
    for name, source in read_manifest(PACKAGED).items():
        assert hashlib.sha256((PACKAGED / f"{name}.tsv.gz").read_bytes()).hexdigest() == source.digest
        assert source.licence.startswith("CC BY")
        assert source.origin == "cellxgene-ontology-guide 1.11.1"
        if source.keys_digest:
            assert hashlib.sha256((PACKAGED / f"{name}.keys").read_bytes()).hexdigest() == source.keys_digest


def test_packaged_keys_were_made_by_the_present_rules():
    for name, step in (("cl", 1), ("uberon", 40), ("mondo", 80)):
        raw = (PACKAGED / f"{name}.keys").read_bytes()
        assert raw[8:12] == fingerprint()
        keys, terms = keys_from_bytes(raw, where=name), packed(name)
        rows = range(0, len(terms), step)
        fresh = hash_keys([terms.names_of(row) for row in rows], kind=KINDS[name])
        stored = {(hash, row // step) for hash, row in zip(keys.hashes, keys.rows, strict=True) if row % step == 0}
        assert stored == set(zip(fresh.hashes, fresh.rows, strict=True))


@pytest.mark.parametrize("name", ["cl", "uberon", "mondo"])
def test_the_closure_of_the_packed_parents_is_that_of_the_release(shared, name):
    with gzip.open(shared / "data" / "ontology" / f"{FILES[name]}.json.gz") as stream:
        release = json.load(stream)
    terms = packed(name)
    parents = {id: terms.term(id).parents for id in terms}
    assert {id: terms.parents_of(id) for id in terms} == parents
    above = {}
    for id in sorted(parents, key=lambda one: len(release[one]["ancestors"])):
        above[id] = set(parents[id]).union(*(above[up] for up in parents[id]))
    assert len(above) == len(terms) > 3_000
    wrong = [id for id in above if above[id] != release[id]["ancestors"].keys() & above.keys()]
    assert not wrong


def test_building_twice_gives_the_rows_of_the_package(shared):
    with gzip.open(shared / "data" / "ontology" / f"{FILES['cl']}.json.gz") as stream:
        live = kept_terms(json.load(stream), "CL")
    rows = rows_of(live, "CL", ranks=rank_terms(live, "CL", tissues=frozenset()))
    text = gzip.decompress((PACKAGED / "cl.tsv.gz").read_bytes()).decode()
    assert text.splitlines()[2:] == ["\t".join(row) for row in rows]


def test_rows_written_by_hand_win_and_all_other_terms_are_there():
    known, own = load_knowledge(), load_knowledge_from(PACKAGED)
    for table in ("cell_types", "tissues", "diseases"):
        whole, hand = getattr(known, table), getattr(own, table)
        assert {id: whole[id] for id in hand} == hand
        assert {whole[id].source for id in hand} == {"curated"}
        assert len(whole) > 3_000
    ionocyte = known.cell_types["CL:0017000"]
    assert (ionocyte.name, ionocyte.source) == ("pulmonary ionocyte", own.cell_types["CL:0017000"].source)
    tanycyte = known.cell_types["CL:0002085"]
    assert (tanycyte.name, tanycyte.source) == ("tanycyte", "ontology")
    assert "CL:0000000" in ancestors("CL:0002085", knowledge=known)
    assert "CL:9999999" not in known.cell_types
    with pytest.raises(KeyError):
        known.cell_types["CL:9999999"]
    assert len(list(known.cell_types)) == len(set(known.cell_types)) == len(known.cell_types)


def test_tissues_and_diseases_written_by_hand_have_the_links_of_the_ontology():
    known = load_knowledge()
    assert "UBERON:0002108" in ancestors("UBERON:0002116", knowledge=known)  # ileum, small intestine
    assert "MONDO:0700096" in ancestors("MONDO:0007915", knowledge=known)  # lupus, human disease


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("Tanycytes", "cell_type", "CL:0002085"),
        ("cajal retzius cell", "cell_type", "CL:0000695"),
        ("cell of Cajal-Retzius", "cell_type", "CL:0000695"),
        ("CL_0002085", "cell_type", "CL:0002085"),
        ("interventricular septum", "tissue", "UBERON:0002094"),
        ("upper lobe of left lung", "tissue", "UBERON:0008952"),
        ("left lung upper lobe", "tissue", "UBERON:0008952"),
        ("Ehlers-Danlos syndrome", "disease", "MONDO:0020066"),
        ("neuroblast", "cell_type", "CL:0000031"),  # a synonym that several species share
    ],
)
def test_terms_of_the_whole_ontologies_are_found_by_name(text, kind, expected):
    found = resolve(text, kind=kind, knowledge=load_knowledge())
    assert expected in [one.id for one in (found.match, *found.alternatives) if one]
    if text != "neuroblast":
        assert found.match.id == expected
        assert not found.ambiguous


def test_an_abbreviation_that_only_an_ontology_lists_is_never_sure():
    found = resolve("DC", kind="disease", knowledge=load_knowledge())
    assert (found.match.id, found.ambiguous) == ("MONDO:0015780", True)
    assert "only known as a short or foreign name that MONDO lists for 'dyskeratosis congenita'" in found.note


def test_questions_meet_only_terms_of_common_use():
    known = load_knowledge()
    assert index_of("tissue", knowledge=known).spaced.get("life") is None
    assert index_of("disease", knowledge=known).spaced.get("condition") is None
    assert index_of("disease", knowledge=known).spaced.get("dc") is None
    assert [one.id for one in index_of("cell_type", knowledge=known).spaced["tanycyte"]] == ["CL:0002085"]


def test_retired_ids_of_all_three_name_what_replaces_them():
    known = load_knowledge()
    found = resolve("MONDO:0000002", kind="disease", knowledge=known)
    assert (found.match.id, "is obsolete; replaced by MONDO:0009299" in found.note) == ("MONDO:0009299", True)
    assert "CL:0000236" not in known.obsolete
    assert len(known.obsolete) > 5_000


def test_a_damaged_file_is_refused_and_named(tmp_path):
    for path in PACKAGED.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "cl.tsv.gz").write_bytes(gzip.compress(b"id\tname\n"))
    known = with_ontologies(load_knowledge_from(tmp_path), folder=tmp_path)
    with pytest.raises(ContractError, match=r"cl.tsv.gz is damaged"):
        known.cell_types["CL:0002085"]
    with pytest.raises(ContractError, match="keys"):
        keys_from_bytes(b"HSKEYS01 cut short", where="x")
    manifest = (tmp_path / "ontologies.tsv").read_text().replace("\t3324\t", "\tmany\t")
    (tmp_path / "ontologies.tsv").write_text(manifest)
    with pytest.raises(ContractError, match=r"ontologies.tsv is damaged"):
        read_manifest(tmp_path)


def test_keys_of_other_rules_are_computed_anew(tmp_path):
    for name in ("cl.tsv.gz", "cl.keys", "ontologies.tsv"):
        (tmp_path / name).write_bytes((PACKAGED / name).read_bytes())
    raw = bytearray((tmp_path / "cl.keys").read_bytes())
    raw[8:12] = b"\0\0\0\0"
    (tmp_path / "cl.keys").write_bytes(bytes(raw))
    assert keys_from_bytes(bytes(raw), where="cl.keys") is None
    terms = PackedTerms(tmp_path / "cl.tsv.gz", kind="cell_type", prefix="CL:", source=packed("cl").source)
    assert terms.keys == packed("cl").keys


def test_two_keys_of_one_hash_are_told_apart():
    keys = hash_keys([("alpha cell",), ("beta cell",)], kind="cell_type")
    known = load_knowledge()
    index = index_of("cell_type", knowledge=known)
    layer = known.layers["cell_type"][-1]
    all_rows = replace(keys, hashes=keys.hashes, rows=keys.rows)
    assert all_rows.rows_of("alpha cell") == [0]
    assert [one.id for one in index.spaced["tanycyte"]] == [
        layer.term_of(row) for row in layer.keys.rows_of("tanycyte")
    ]
