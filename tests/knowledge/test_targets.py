"""Tables of treatments and targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.targets import read_targets

TABLE = (
    "!a remark\n# another\ndrug\tgenes\tmoa\tkey\nalpha\tJAK1|JAK2\tJAK inhibitor\tAAA\n"
    "beta\tPARP family|TOP1\t\t\nalpha\tTYK2\t\t\n"
)
COLUMNS = {"name": "drug", "target": "genes", "family": "moa", "id:InChIKey": "key"}


def read(text=TABLE, separator="|", **columns):
    raw = text.encode()
    return {
        one.name: one for one in read_targets(raw, path=Path("x.tsv"), columns=columns or COLUMNS, separator=separator)
    }


def test_read_when_mapped_then_rows_of_one_name_are_joined():
    found = read()
    assert found["alpha"].targets == ("JAK1", "JAK2", "TYK2")
    assert (found["alpha"].family, found["alpha"].external_ids) == ("JAK inhibitor", {"InChIKey": "AAA"})
    assert found["alpha"].type == "drug"
    assert found["beta"].targets == ("TOP1",)  # a family of proteins is no gene
    assert found["beta"].response == {}


def test_read_when_comma_separated_with_its_own_fields_then_no_mapping_is_needed():
    text = 'name,target,type,synonyms\n"x, y",IL6R;IL6ST,cytokine,why;zed\n'
    found = {one.name: one for one in read_targets(text.encode(), path=Path("x.csv"), columns={}, separator=";")}
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
        (TABLE, {"name": "drug", "target": "genes", "type": "moa"}, "row 2: type 'jak inhibitor' is not one of"),
        (TABLE + "gamma\tTNF\n", COLUMNS, "row 5 has 2 columns, the header has 4"),
        (TABLE, {"name": "drug", "target": "key"}, None),
        ("drug\tgenes\na\tsome protein\n", {"name": "drug", "target": "genes"}, "no cell of column 'genes' has"),
        ("#only a remark\n", COLUMNS, "not a table with a header line"),
    ]:
        with subtests.test(text=text):
            if says is None:  # AAA looks like a symbol: nothing here can tell
                assert read(text, **columns)["alpha"].targets == ("AAA",)
                return
            with pytest.raises(InvalidInputError, match=says):
                read(text, **columns)


def test_read_when_drug_table_of_thousands_then_targets_as_listed(shared, added):
    path = shared / "data/drugs/repurposing_hub_drugs_20200324.tsv.gz"
    columns = {"name": "pert_iname", "target": "target", "family": "moa", "id:InChIKey": "inchikey"}
    known = added(path, columns=columns)
    assert len(known.perturbations) > 6500
    assert known.perturbations["Ruxolitinib"].targets[:2] == ("JAK1", "JAK2")  # the packaged one, with listed targets
    assert known.perturbations["Ruxolitinib"].response  # what is expected after it stays
    assert known.perturbations["Pacritinib"].family == "JAK inhibitor"  # stated by the packaged row
    assert known.perturbations["tandutinib"].family == "FLT3 inhibitor"
