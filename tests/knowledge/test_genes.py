"""Human genes: the packaged table, and what each kind of name means."""

import csv
import gzip

import pytest

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge.genes import TABLE, Gene, Genes, hash_genes, load_genes
from tools.packing import write_packed


@pytest.mark.parametrize(
    ("text", "symbol", "how"),
    [
        ("JAK2", "JAK2", "symbol"),
        ("jak2", "JAK2", "case"),
        ("C1ORF112", "FIRRM", "previous"),
        ("IL8", "CXCL8", "previous"),
        ("T", "TBXT", "previous"),
        ("MARCH1", "MARCHF1", "previous"),
        ("SEPT9", "SEPTIN9", "previous"),
        ("DEC1", "DELEC1", "previous"),
        ("PD-1", "PDCD1", "alias"),
        ("CD279", "PDCD1", "alias"),
        ("ENSG00000096968", "JAK2", "ensembl"),
        ("ENSG00000096968.15", "JAK2", "ensembl"),
        ("ensg00000096968", "JAK2", "ensembl"),
        ("ENSG00000999999", None, ""),
        ("NOSUCHGENE", None, ""),
        ("3717", None, ""),
        ("", None, ""),
    ],
)
def test_a_name_is_read_as_the_symbol_in_use(text, symbol, how):
    found = load_genes().find(text)
    assert (found.symbol, found.how) == (symbol, how)


def test_a_symbol_in_use_wins_over_what_others_were_called():
    genes = Genes.of(
        [
            Gene("ABC1", ("ENSG00000000001",), "protein_coding", ("1",), ("OLD",), ("SHARED",)),
            Gene("XYZ2", ("ENSG00000000002", "ENSG00000000003"), "lncRNA", (), ("ABC1", "OLD"), ("SHARED", "one")),
        ],
        version="1",
    )
    assert genes.find("ABC1").symbol == "ABC1"
    assert genes.find("OLD").symbol is None
    assert genes.find("OLD").candidates == ("ABC1", "XYZ2")
    assert genes.find("shared").candidates == ("ABC1", "XYZ2")
    assert genes.find("ONE").symbol == "XYZ2"
    assert genes.coding == {"ABC1"}
    assert genes.ensembl_of("ABC1") == "ENSG00000000001"
    assert genes.ensembl_of("XYZ2") is None
    assert genes.of_entrez(1) == "ABC1"


def test_entrez_ids_are_translated_only_when_asked_as_such():
    assert load_genes().of_entrez("3717") == "JAK2"
    assert load_genes().of_entrez(7124) == "TNF"
    assert load_genes().of_entrez("99999999") is None


def test_the_table_holds_the_whole_release():
    genes = load_genes()
    assert genes.version == "GENCODE-v49"
    assert 19_000 < len(genes.coding) < 21_000
    assert all(gene.ensembl for gene in genes.by_symbol.values())
    assert not {name for gene in genes.by_symbol.values() for name in gene.previous} & genes.by_symbol.keys()


def test_every_ensembl_id_of_the_release_leads_to_its_symbol(shared):
    genes = load_genes()
    with gzip.open(shared / "data" / "genesets" / "gencode_v49_gene_map.tsv.gz", "rt") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["gene_name"] != row["gene_id"]]
    wrong = [row for row in rows if genes.find(row["gene_id"]).symbol != row["gene_name"]]
    assert len(rows) > 40_000
    assert not wrong


def test_the_packaged_keys_are_those_of_the_table(tmp_path):
    (tmp_path / "genes.tsv.gz").write_bytes(TABLE.read_bytes())
    computed = load_genes(tmp_path / "genes.tsv.gz")  # without a file of keys
    assert hash_genes([]).rows_of("JAK2") == []
    for name in ("JAK2", "il8", "ENSG00000096968", "nonsense", "PD-1"):
        assert computed.find(name) == load_genes().find(name)


def test_a_damaged_table_is_refused(tmp_path):
    path = tmp_path / "genes.tsv.gz"
    path.write_bytes(gzip.compress(b"# version 1\nsymbol\tensembl\n"))
    with pytest.raises(ContractError, match="columns"):
        load_genes(path)
    path.write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(ContractError, match="cannot be read"):
        load_genes(path)


def test_packed_tables_have_the_same_bytes_from_the_same_rows(tmp_path):
    for name in ("a.tsv.gz", "b.tsv.gz"):
        write_packed(tmp_path / name, comments=["# version 1"], columns=("a", "b"), rows=[("1", "2")])
    assert (tmp_path / "a.tsv.gz").read_bytes() == (tmp_path / "b.tsv.gz").read_bytes()
    with pytest.raises(ValueError, match="within a cell"):
        write_packed(tmp_path / "c.tsv.gz", comments=[], columns=("a", "b"), rows=[("1", "2\t3")])
