"""Tables are read whole or refused with the place of the fault."""

from __future__ import annotations

import hashlib
import time
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge import load_knowledge, load_knowledge_from
from haystack_kernel.knowledge.tables import PACKAGED
from haystack_kernel.knowledge.terms import Edge, ShortForm

SMALL = {
    "actions.tsv": "# version 3.1\nfamily\taction\tsource\nglucocorticoid\t+\ttest\n",
    "cell_types.tsv": "# version 3.1; made for a test\n"
    "id\tname\tparents\tsynonyms\tmarkers\ttissues\tdevelops_from\n"
    "CL:0000000\tcell\t\t\t\t\t\n"
    "CL:0000084\tT cell\tCL:0000000\tT lymphocyte;T\tCD3D;CD3E\tUBERON:0000178\tCL:0000000\n",
    "cell_lines.tsv": "# version 3.1\nid\tname\tmodels\tline\tsynonyms\tsource\n"
    "CVCL_0065\tJurkat\tCL:0000084\tT cell line\tJurkat T\tcurated\n",
    "diseases.tsv": "# version 3.1\nid\tname\tsynonyms\nPATO:0000461\tnormal\thealthy\n",
    "network.tsv": "# version 3.1\nregulator\tkind\ttargets\tsource\n"
    "JAK1\tsignalling\tSTAT1+;STAT2+\tone\nJAK1\ttranscription\tBCL6-\ttwo\n",
    "pathways.tsv": "# version 3.1\nname\tsynonyms\tgenes\tsource\nJAK-STAT\tJAK STAT\tSTAT1+;NKX2-1-\ttest\n",
    "perturbations.tsv": "# version 3.1\n"
    "name\ttype\tfamily\tsynonyms\ttargets\tpathways\tresponse\texternal_ids\tsource\n"
    "IFN-beta\tcytokine\tinterferon\tIFNb\tIFNAR1;IFNAR2\tJAK-STAT+\tISG15+;CCL2-\t"
    "uniprot=P01574;note=a=b\tcurated\n",
    "short_forms.tsv": "# version 3.1\nform\tterms\tsure\ncell_type:TC\tCL:0000084\tno\n",
    "tissues.tsv": "# version 3.1\nid\tname\tsynonyms\tgenes\nUBERON:0000178\tblood\tPB\tHBB\n",
}


def write(folder: Path, **changes: str) -> Path:
    for file, text in SMALL.items():
        (folder / file).write_text(changes.get(file.removesuffix(".tsv"), text), encoding="utf-8")
    return folder


def test_load_when_small_tables_then_every_field_arrives(tmp_path):
    known = load_knowledge_from(write(tmp_path))

    t_cell = known.cell_types["CL:0000084"]
    assert (t_cell.name, t_cell.parents, t_cell.synonyms) == ("T cell", ("CL:0000000",), ("T lymphocyte", "T"))
    assert (t_cell.markers, t_cell.tissues) == (("CD3D", "CD3E"), ("UBERON:0000178",))
    assert t_cell.develops_from == ("CL:0000000",)
    line = known.cell_types["CVCL_0065"]
    assert (line.name, line.parents, line.line, line.synonyms) == (
        "Jurkat",
        ("CL:0000084",),
        "T cell line",
        ("Jurkat T",),
    )
    entry = known.perturbations["IFN-beta"]
    assert (entry.type, entry.family, entry.targets) == ("cytokine", "interferon", ("IFNAR1", "IFNAR2"))
    assert (entry.pathways, entry.response) == ({"JAK-STAT": 1}, {"ISG15": 1, "CCL2": -1})
    assert entry.external_ids == {"uniprot": "P01574", "note": "a=b"}
    assert entry.source == "curated"
    assert known.pathways["JAK-STAT"].genes == {"STAT1": 1, "NKX2-1": -1}
    assert known.tissues["UBERON:0000178"].genes == ("HBB",)
    assert known.diseases["PATO:0000461"].synonyms == ("healthy",)
    assert known.short_forms == {"cell_type:TC": ShortForm("TC", ("CL:0000084",), is_sure=False)}
    assert known.network == (
        Edge("JAK1", "STAT1", 1, "signalling", "one"),
        Edge("JAK1", "STAT2", 1, "signalling", "one"),
        Edge("JAK1", "BCL6", -1, "transcription", "two"),
    )
    assert known.actions == {"glucocorticoid": 1}
    assert known.version == "3.1"
    assert known.digests() == {"knowledge:3.1": known.digest}


def test_digest_when_a_table_changes_then_it_changes(tmp_path):
    first = load_knowledge_from(write(tmp_path)).digest
    by_hand = hashlib.sha256()
    for file in sorted(SMALL):
        raw = SMALL[file].encode()
        by_hand.update(f"{file} {len(raw)}\n".encode() + raw)
    assert first == by_hand.hexdigest()
    assert load_knowledge_from(write(tmp_path, tissues=SMALL["tissues.tsv"].replace("PB", "pb"))).digest != first


def test_version_when_tables_differ_then_each_is_named(tmp_path):
    version = load_knowledge_from(write(tmp_path, tissues=SMALL["tissues.tsv"].replace("3.1", "4"))).version
    assert "tissues 4" in version
    assert "cell_types 3.1" in version


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("cell_types", "T cell\tCL:0000000", "T cell\tCL:0000009", r"cell_types\.tsv line 4: parents names CL:0000009"),
        ("cell_types", "UBERON:0000178", "UBERON:0000179", r"cell_types\.tsv line 4: tissues names UBERON:0000179"),
        ("cell_types", "CL:0000084", "CL:84", r"line 4: 'CL:84' is not an id"),
        ("cell_types", "cell\t\t\t\t\t\n", "cell\tCL:0000084\t\t\t\t\n", r"line 3: CL:0000000 is its own ancestor"),
        ("cell_types", "CL:0000084\tT cell", "CL:0000000\tT cell", r"line 4: CL:0000000 \(T cell\) is defined twice"),
        ("cell_types", "\tT cell\t", "\tcell\t", r"line 4: CL:0000084 \(cell\) is defined twice"),
        ("cell_types", "CD3D;CD3E", "CD3D;;CD3E", r"line 4: markers has an empty"),
        ("cell_types", "CD3D;CD3E", "CD3D;CD3D", r"line 4: markers has an empty, padded or repeated"),
        ("cell_types", "\tmarkers\t", "\tgenes\t", r"line 2: the header must be the columns id, name"),
        ("cell_lines", "CL:0000084", "CL:0000085", r"cell_lines\.tsv line 3: models names CL:0000085"),
        ("cell_lines", "\tT cell line\t", "\t\t", r"line 3: models and line must not be empty"),
        ("cell_lines", "CVCL_0065", "CVCL:0065", r"line 3: 'CVCL:0065' is not an id"),
        ("diseases", "\thealthy", "", r"diseases\.tsv line 3: 2 columns where 3 are needed"),
        ("diseases", "\tnormal\t", "\t\t", r"line 3: id and name must not be empty"),
        ("diseases", "# version 3.1", "# no number", r"a comment line above the header must say 'version <x>'"),
        ("pathways", "STAT1+", "STAT1", r"pathways\.tsv line 3: genes must list each name once with \+ or -"),
        ("pathways", "NKX2-1-", "STAT1-", r"line 3: genes must list each name once"),
        ("short_forms", "CL:0000084", "CL:0000085", r"short_forms\.tsv line 3: terms names CL:0000085"),
        ("short_forms", "cell_type:TC", "TC", r"line 3: 'TC' must be <kind>:<form>, the kind one of cell_type"),
        ("short_forms", "\tno", "\tmaybe", r"line 3: terms must not be empty and sure must be yes or no"),
        ("actions", "\t+\t", "\tup\t", r"actions\.tsv line 3: action must be \+ or -, not 'up'"),
        (
            "network",
            "\tsignalling",
            "\trumour",
            r"line 3: kind 'rumour' is not one of ligand, signalling, transcription",
        ),
        ("network", "STAT1+", "STAT1", r"network\.tsv line 3: targets must list each name once with \+ or -"),
        ("network", "STAT1+", "JAK1+", r"network\.tsv line 3: the edge from JAK1 to JAK1 leads to itself"),
        ("network", "BCL6-", "STAT1-", r"network\.tsv line 4: the edge from JAK1 to STAT1 .* defined twice"),
        ("perturbations", "JAK-STAT+", "NF-kB+", r"perturbations\.tsv line 3: pathways names NF-kB"),
        ("perturbations", "cytokine", "hormone", r"line 3: type 'hormone' is not one of cytokine, drug, genetic"),
        ("perturbations", "uniprot=P01574", "P01574", r"line 3: external_ids must be key=value pairs"),
    ],
)
def test_load_when_a_line_is_broken_then_file_and_line_are_named(tmp_path, table, old, new, message):
    text = SMALL[f"{table}.tsv"]
    assert text.count(old) == 1
    with pytest.raises(ContractError, match=message):
        load_knowledge_from(write(tmp_path, **{table: text.replace(old, new)}))


def test_load_when_a_file_is_missing_then_it_is_named(tmp_path):
    (write(tmp_path) / "tissues.tsv").unlink()
    with pytest.raises(ContractError, match=r"tissues\.tsv cannot be read"):
        load_knowledge_from(tmp_path)


def test_load_when_not_utf8_then_refused(tmp_path):
    (write(tmp_path) / "tissues.tsv").write_bytes(b"# version 1\nid\tname\tsynonyms\tgenes\n\xff")
    with pytest.raises(ContractError, match=r"tissues\.tsv cannot be read"):
        load_knowledge_from(tmp_path)


def test_packaged_tables_when_loaded_then_large_and_frozen():
    started = time.process_time()
    known = load_knowledge_from(PACKAGED)
    assert time.process_time() - started < 30  # takes less than half a second; the limit ends a hang
    assert len(known.cell_types) >= 200
    assert len(known.tissues) >= 40
    assert len(known.diseases) >= 50
    assert load_knowledge() is load_knowledge()
    with pytest.raises(FrozenInstanceError):
        known.version = "2"


def test_packaged_cell_types_when_walked_up_then_all_reach_the_one_root():
    types = load_knowledge_from(PACKAGED).cell_types
    assert [term for term, entry in types.items() if not entry.parents] == ["CL:0000000"]


def test_packaged_cell_types_when_common_then_they_have_markers_synonyms_and_a_home():
    types = load_knowledge().cell_types
    for term in ("CL:0000623", "CL:0001054", "CL:0000236", "CL:0000624", "CL:0002553", "CL:0000182", "CL:0000127"):
        assert 5 <= len(types[term].markers) <= 10, types[term].name
        assert types[term].synonyms
        assert types[term].tissues


def test_packaged_terms_when_compared_then_no_synonym_means_two(subtests):
    for table in ["cell_types", "tissues", "diseases"]:
        with subtests.test(table=table):
            owners: dict[str, set[str]] = {}
            for term, entry in getattr(load_knowledge_from(PACKAGED), table).items():
                for text in (entry.name, *entry.synonyms):
                    owners.setdefault(text.lower(), set()).add(term)
            assert {text: terms for text, terms in owners.items() if len(terms) > 1} == {}


def test_packaged_links_when_compared_with_the_ontology_then_parents_lie_above_but_for_some_forty(shared):
    import gzip
    import json
    import re

    with gzip.open(shared / "data" / "ontology" / "CL-ontology-v2026-03-26.json.gz") as stream:
        ontology = json.load(stream)
    text = (shared / "data" / "ontology" / "cl_2024-04-05.obo").read_text(encoding="utf-8")
    stanzas = {stanza[:10]: stanza for stanza in text.split("\n[Term]\nid: ")[1:]}
    types = {term: one for term, one in load_knowledge_from(PACKAGED).cell_types.items() if not one.line}
    links = [(term, parent) for term, entry in types.items() for parent in entry.parents]
    by_hand = [(term, parent) for term, parent in links if parent not in ontology[term]["ancestors"]]
    assert len(by_hand) <= 50
    assert len(links) > 8 * len(by_hand)
    for term, entry in types.items():
        known = set(re.findall(r"relationship: develops_from (CL:\d+)", stanzas.get(term, "")))
        assert set(entry.develops_from) <= known, term
    assert sum(bool(entry.develops_from) for entry in types.values()) >= 30


def test_packaged_short_forms_when_read_then_dc_th_and_m1_are_among_them():
    forms = load_knowledge().short_forms
    assert {"cell_type:DC", "cell_type:TH", "cell_type:M1", "disease:AD", "perturbation:IFN"} <= forms.keys()
    assert forms["cell_type:DC"].is_sure
    assert not forms["cell_type:M1"].is_sure


@pytest.mark.parametrize(
    ("table", "file"),
    [
        ("cell_types", "CL-ontology-v2026-03-26.json.gz"),
        ("tissues", "UBERON-ontology-v2026-04-01.json.gz"),
        ("diseases", "MONDO-ontology-v2026-05-05.json.gz"),
    ],
)
def test_packaged_ids_when_compared_with_the_ontology_then_names_agree(shared, table, file):
    import gzip
    import json

    with gzip.open(shared / "data" / "ontology" / file) as stream:
        ontology = json.load(stream)
    for term, entry in getattr(load_knowledge_from(PACKAGED), table).items():
        if term != "PATO:0000461" and not term.startswith("CVCL_"):
            assert ontology[term]["label"] == entry.name
            assert not ontology[term]["deprecated"]
