"""Tables of treatments and targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.knowledge.additions import add_knowledge
from haystack_kernel.knowledge.targets import read_targets

TABLE = (
    "!a remark\n# another\ndrug\tgenes\tmoa\tkey\nalpha\tJAK1|JAK2\tJAK inhibitor\tAAA\n"
    "beta\tPARP family|TOP1\t\t\nalpha\tTYK2\t\t\n"
)
COLUMNS = {"name": "drug", "target": "genes", "family": "moa", "id:InChIKey": "key"}


def read(text=TABLE, separator=None, **columns):
    found = read_targets(text.encode(), path=Path("x.tsv"), columns=columns or COLUMNS, separator=separator)
    return {one.name: one for one in found.rows}


def plain(text, separator=None):
    return read_targets(text.encode(), path=Path("x.tsv"), columns={}, separator=separator)


def test_read_when_mapped_then_rows_of_one_name_are_joined():
    found = read()
    assert found["alpha"].targets == ("JAK1", "JAK2", "TYK2")
    assert (found["alpha"].family, found["alpha"].external_ids) == ("JAK inhibitor", {"InChIKey": "AAA"})
    assert found["alpha"].type == "drug"
    assert found["beta"].targets == ("TOP1",)  # a family of proteins is no gene
    assert found["beta"].response == {}


def test_read_when_comma_separated_with_its_own_fields_then_no_mapping_is_needed():
    text = 'name,target,type,synonyms\n"x, y",IL6R;IL6ST,cytokine,why;zed\n'
    found = {one.name: one for one in plain(text).rows}
    assert found["x, y"].targets == ("IL6R", "IL6ST")
    assert (found["x, y"].type, found["x, y"].synonyms) == ("cytokine", ("why", "zed"))


def test_read_when_wrong_then_the_fault_is_named(subtests):
    for text, columns, says in [
        (
            TABLE,
            {"name": "drug"},
            "no column is mapped to target. Give --map target=COLUMN; the columns are drug, genes",
        ),
        (TABLE, {"name": "drug", "target": "gene"}, "x.tsv has no column 'gene'; it has drug, genes, moa, key"),
        (TABLE, {"name": "drug", "target": "genes", "dose": "moa"}, "unknown field 'dose' in the mapping; possible"),
        (TABLE, {"name": "drug", "target": "genes", "id:": "key"}, "unknown field 'id:'"),
        (TABLE, {"name": "drug", "target": "genes", "type": "moa"}, "line 4: type 'jak inhibitor' is not one of"),
        (TABLE + "gamma\tTNF\n", COLUMNS, "line 7 has 2 columns, the header has 4"),
        (TABLE, {"name": "drug", "target": "key"}, "no cell of column 'key' has a symbol of a human gene"),
        (TABLE, {"name": "drug", "target": "moa"}, "no cell of column 'moa' has a symbol of a human gene"),
        ("drug\tgenes\tgenes\na\tTNF\tIL6\n", {"name": "drug", "target": "genes"}, "has 2 columns 'genes'"),
        ("name\ttarget\nx\t7157|7158\n", {"name": "name", "target": "target"}, r"'7157' \(line 2\), are Entrez gene"),
        ("name\ttarget\nx\tP23458\n", {"name": "name", "target": "target"}, "are UniProt accessions"),
        ("name\ttarget\nx\tTNF\ny\t1-Mar\n", {"name": "name", "target": "target"}, "line 3: '1-Mar' is a date"),
        ('name\ttarget\nx\t"TNF\n', {"name": "name", "target": "target"}, "line 2: not a table"),
        ("drug\tgenes\na\tsome protein\n", {"name": "drug", "target": "genes"}, "no cell of column 'genes' has"),
        ("#only a remark\n", COLUMNS, "not a table with a header line"),
    ]:
        with subtests.test(text=text), pytest.raises(InvalidInputError, match=says):
            read(text, **columns)


@pytest.mark.parametrize(
    ("text", "targets", "note"),
    [
        ("name\ttarget\nx\tJAK1, JAK2\n", ("JAK1", "JAK2"), "separated at ','; the first is 'JAK1, JAK2' (line 2)"),
        ("name\ttarget\nx\tJAK1;JAK2\n", ("JAK1", "JAK2"), "separated at ';'"),
        ("name\ttarget\nx\tJAK1 | JAK2\n", ("JAK1", "JAK2"), "separated at '|'"),
        ("name\ttarget\nx\tJAK1/JAK2\n", ("JAK1", "JAK2"), "1 cells with several genes read as each of them"),
        ("name\ttarget\nx\tJAK1 and JAK2\n", ("JAK1", "JAK2"), "1 cells with several genes"),
        ("name\ttarget\nx\tjak1|Jak2\n", ("JAK1", "JAK2"), "2 symbols in other capitals"),
        ("name\ttarget\nx\tENSG00000162434|ENSG00000096968.14\n", ("JAK1", "JAK2"), "2 Ensembl ids read"),
        ("name\ttarget\nx\tJAK1|PARP family\n", ("JAK1",), "1 not gene symbols, left out; the first is 'PARP family'"),
        ("name\ttarget\nx\tJAK1|NA|-\n", ("JAK1",), ""),
        ("name;target\nx;JAK1|JAK2\n", ("JAK1", "JAK2"), ""),
        ('Name,Targets\nx,"JAK1,JAK2"\n', ("JAK1", "JAK2"), ""),
        ("\ufeffname\ttarget\r\nx\tJAK1|JAK2\r\n\r\n", ("JAK1", "JAK2"), ""),
        ("name\ttarget\t\nx\tJAK1|JAK2\t\n", ("JAK1", "JAK2"), ""),
        ("name\ttarget\nx\tJAK1\nX\tJAK2\n", ("JAK1", "JAK2"), ""),
        ('name\ttarget\nx\t"JAK1\nJAK2"\n', ("JAK1", "JAK2"), ""),
    ],
)
def test_read_when_cells_are_written_in_other_ways_then_every_target_or_a_word_about_it(text, targets, note):
    found = plain(text)
    assert [(one.name, one.targets) for one in found.rows] == [("x", targets)]
    assert note in "; ".join(found.notes)


def test_read_when_a_separator_is_given_then_it_alone_counts():
    found = plain("name\ttarget\nx\tJAK1#JAK2\ny\tJAK3\n", separator="#")
    assert [one.targets for one in found.rows] == [("JAK1", "JAK2"), ("JAK3",)]


def test_read_when_no_column_is_mapped_and_no_cell_is_a_symbol_then_the_column_is_named():
    with pytest.raises(InvalidInputError, match="no cell of column 'target' has a symbol of a human gene"):
        plain("name\ttarget\nx\tsome protein\n")


def test_read_when_synonyms_have_commas_then_they_stay_whole():
    found = plain("name\ttarget\tsynonyms\nx\tVDR\t1,25-dihydroxyvitamin D3;calcitriol\n")
    assert found.rows[0].synonyms == ("1,25-dihydroxyvitamin D3", "calcitriol")


def test_add_when_the_licence_is_said_or_stated_then_recorded(tmp_path, write):
    folder = tmp_path / "added"
    plain_file = write("t.tsv", "name\ttarget\nx\tJAK1\n")
    assert add_knowledge(plain_file, folder=folder).licence == ""
    assert (
        add_knowledge(plain_file, folder=folder, licence="ours, not to be\npassed on").licence
        == "ours, not to be passed on"
    )
    stated = write("s.tsv", "# Licence: MIT\nname\ttarget\nx\tJAK1\n")
    assert add_knowledge(stated, folder=folder).licence == "MIT"
    assert {one.name: one.licence for one in load_knowledge(folder).sources}["s"] == "MIT"


def test_read_when_drug_table_of_thousands_then_targets_as_listed(shared, added):
    path = shared / "data/drugs/repurposing_hub_drugs_20200324.tsv.gz"
    columns = {"name": "pert_iname", "target": "target", "family": "moa", "id:InChIKey": "inchikey"}
    known = added(path, columns=columns)
    assert len(known.perturbations) > 6500
    assert known.perturbations["Ruxolitinib"].targets[:2] == ("JAK1", "JAK2")  # the packaged one, with listed targets
    assert known.perturbations["Ruxolitinib"].response  # what is expected after it stays
    assert known.perturbations["Pacritinib"].family == "JAK inhibitor"  # stated by the packaged row
    assert known.perturbations["tandutinib"].family == "FLT3 inhibitor"
