"""Gene names as files write them: what is a gene, what it is called, and which files are refused."""

from __future__ import annotations

import pytest

from inference.errors import InputError
from inference.genes import VarTable, check_organism, read_gene_names

HUMAN = ["ISG15", "MX1", "CD14", "LYZ", "HLA-A", "C1orf56", "MT-CO1", "NKX2-5"]
IDS = [f"ENSG{number:011d}" for number in range(8)]


def read(index=HUMAN, *, all_columns=None, joined=None, known=None, forced=None, is_human=False, **columns):
    table = VarTable(index, columns, all_columns or list(columns))
    return read_gene_names(table, name="a.h5ad", joined=joined, known=known, forced=forced, is_human=is_human)


def refusal(*args, **columns):
    with pytest.raises(InputError) as caught:
        read(*args, **columns)
    assert str(caught.value).startswith("a.h5ad")
    return str(caught.value)


def test_names_stay_as_they_are_written():
    found = read()
    assert found.names == tuple(HUMAN)
    assert (found.taken_from, found.left_out, found.notes) == ("var index", (), ())


@pytest.mark.parametrize(
    "kind", ["Antibody Capture", "CRISPR Guide Capture", "Peaks", "Custom", "Multiplexing Capture"]
)
def test_only_gene_expression_is_genes(kind):
    types = [kind, *["Gene Expression"] * 7, kind]
    found = read([*HUMAN, "x-2"], feature_types=types)
    assert found.names == tuple(HUMAN[1:])
    assert found.columns == tuple(range(1, 8))
    assert found.left_out == ((kind, ("ISG15", "x-2")),)
    assert f"left out 2 {kind}: ISG15, x-2" in found.notes[0]


@pytest.mark.parametrize(
    ("column", "types"),
    [
        ("feature_type", ["protein_coding"] * 6 + ["lncRNA", "snRNA"]),
        ("feature_types", ["Gene Expression"] * 8),
        ("feature_biotype", ["gene"] * 8),
        ("modality", ["RNA"] * 8),
        ("feature_types", [""] * 8),
    ],
)
def test_types_of_genes_leave_nothing_out(column, types):
    assert read(**{column: types}).names == tuple(HUMAN)


def test_proteins_and_spike_ins_are_left_out_where_no_column_says_gene_expression():
    found = read(modality=["rna"] * 6 + ["protein"] * 2)
    assert found.columns == tuple(range(6))
    found = read(feature_biotype=["gene"] * 7 + ["spike-in"])
    assert found.columns == tuple(range(7))


@pytest.mark.parametrize(
    "name",
    [
        "CD4_TotalSeqB",
        "CD4-TotalSeqC",
        "ADT_CD4",
        "Hashtag1",
        "hashtag_3",
        "chr1:1000-1500",
        "chrX-5000-5600",
        "1:1000-2000",
        "ERCC-00002",
        "prot:CD4",
        "CD3:UCHT1|CD3E|AHS0231|pAbO",
        "Hu.CD3-UCHT1",
        "HuMsRt.CD278",
        "Isotype_MOPC.21",
        "__no_feature",
        "__alignment_not_unique",
        "N_unmapped",
        "nan",
        "",
        "None",
        "nan-1",
        "<NA>",
    ],
)
def test_names_that_no_gene_has_are_left_out_and_said(name):
    found = read([*HUMAN, name])
    assert found.names == tuple(HUMAN)
    assert found.left_out[0][1] == (name,)
    assert "left out 1" in found.notes[0]


def test_a_file_of_antibodies_has_no_genes():
    assert "holds no genes, only 8 Antibody Capture" in refusal(feature_types=["Antibody Capture"] * 8)


@pytest.mark.parametrize("prefix", ["GRCh38_", "GRCh38______", "hg19_", "hg38_"])
def test_a_human_genome_prefix_is_taken_off(prefix):
    found = read([prefix + name for name in HUMAN])
    assert found.names == tuple(HUMAN)
    assert "genome prefix" in found.notes[0]


@pytest.mark.parametrize("prefix", ["mm10_", "mm10___", "GRCm39_"])
def test_a_mouse_prefix_is_refused(prefix):
    assert "is not human" in refusal([prefix + name for name in HUMAN])
    assert "mixes species" in refusal([f"GRCh38_{HUMAN[0]}", *(prefix + name for name in HUMAN)])


def test_ids_with_versions_take_symbols_from_the_first_column_that_has_some():
    found = read([f"{name}.3" for name in IDS], gene_symbols=["nan"] * 8, gene_name=HUMAN)
    assert found.names == tuple(HUMAN)
    assert found.taken_from == "var['gene_name']"
    assert read(IDS, feature_name=IDS, symbol=HUMAN).taken_from == "var['symbol']"
    assert read([f"GRCh38_{name}" for name in IDS], gene_symbols=[f"GRCh38_{name}" for name in HUMAN]).names == tuple(
        HUMAN
    )


def test_a_gene_without_a_symbol_or_with_one_already_given_keeps_its_id():
    found = read(IDS, feature_name=["ISG15", "isg15", "nan", "", *HUMAN[4:]])
    assert found.names == ("ISG15", IDS[1], IDS[2], IDS[3], *HUMAN[4:])
    assert found.repeated == ("isg15",)
    assert any("2 of 8 genes have no symbol" in note for note in found.notes)


def test_symbols_of_another_table_are_joined_by_id():
    found = read(IDS, joined=dict(zip(IDS[:6], HUMAN[:6], strict=True)))
    assert found.names == (*HUMAN[:6], *IDS[6:])
    assert "joined" in found.taken_from


def test_numbers_take_symbols_from_a_column_or_are_refused():
    numbers = [str(number) for number in range(8)]
    assert read(numbers, gene_name=HUMAN).names == tuple(HUMAN)
    assert "numbers, as Entrez ids are (such as 0, 1, 2)" in refusal(numbers)


def test_ids_without_symbols_are_refused_naming_the_columns_there_are():
    assert "it has ['length']" in refusal(IDS, all_columns=["length"])


def test_a_column_asked_for_is_read_whatever_the_index_holds():
    assert read([f"G{number}" for number in range(8)], forced="mine", mine=HUMAN).names == tuple(HUMAN)


@pytest.mark.parametrize("form", ["{}-1", "{}", "{}-1-0", "sample3_{}-1", "run:{}"])
def test_barcodes_are_not_genes(form):
    barcodes = [form.format(f"ACGTACGTACGTACG{a}") for a in "ACGTN"]
    assert "transpose" in refusal(barcodes)


def test_repeated_names_are_refused():
    assert "1 gene names occur more than once in var (MX1)" in refusal([*HUMAN, "MX1"])


def test_repeated_names_that_do_not_matter_are_left_out_and_said():
    table = VarTable(["ISG15", "OTHER", "MX1", "OTHER", "LAST"], {}, [])
    found = read_gene_names(table, name="f", wanted={"ISG15", "MX1"})
    assert (found.names, found.columns) == (("ISG15", "MX1", "LAST"), (0, 2, 4))
    assert found.notes == (
        "f: 1 gene names occur more than once (OTHER); the model has none of them: their columns are ignored",
    )
    with pytest.raises(InputError, match=r"1 gene names occur more than once in var \(OTHER\)"):
        read_gene_names(table, name="f", wanted={"ISG15", "OTHER"})


def test_names_that_differ_only_in_case_are_said():
    found = read_gene_names(VarTable(["ISG15", "C1ORF1", "C1orf1"], {}, []), name="f")
    assert found.names == ("ISG15", "C1ORF1", "C1orf1")
    assert found.notes == (
        "f: 1 gene names differ from another only in capitals (C1orf1 after C1ORF1): the first counts",
    )


def test_names_that_differ_only_in_case_are_both_kept():
    assert read([*HUMAN, "C1ORF56"]).names == (*HUMAN, "C1ORF56")


@pytest.mark.parametrize(
    "date", ["1-Mar", "2-Sep", "Mar-01", "10-Sep", "2021-03-01", "2021-03-01 00:00:00", "9/1/2021"]
)
def test_dates_are_said(date):
    found = read([*HUMAN, date])
    assert found.names == (*HUMAN, date)
    assert f"1 gene names are dates, as a spreadsheet makes of MARCH1 or SEPT2 ({date})" in found.notes[0]


def test_names_with_a_dot_are_said():
    assert (
        "2 gene names are written with a dot, as R makes of HLA-A or MT-CO1 (HLA.A, MT.CO1)"
        in read(["ISG15", "MX1", "HLA.A", "MT.CO1"]).notes[0]
    )


@pytest.mark.parametrize(
    "form", ["{id}_{symbol}", "{id}.12_{symbol}", "{id}|{symbol}", "{symbol}_{id}", "{symbol}|{id}.3"]
)
def test_the_symbol_is_read_where_names_join_it_with_an_id(form):
    joined = [form.format(id=one, symbol=symbol) for one, symbol in zip(IDS, HUMAN, strict=True)]
    found = read(joined)
    assert found.names == tuple(HUMAN)
    assert "8 gene names join a symbol with an Ensembl id" in found.notes[0]
    assert read(IDS, feature_name=joined).names == tuple(HUMAN)


@pytest.mark.parametrize(
    "form",
    [
        "{id}.9|{symbol}|protein_coding",  # as in the headers of GENCODE
        "{symbol}|{id}.9|protein_coding",
        "{symbol} (9636)",  # as in DepMap
        "{symbol}|9636",  # as in TCGA
        "gene-{symbol}",  # as in annotations of NCBI
        "gene:{symbol}",
    ],
)
def test_the_symbol_is_read_where_names_join_it_with_other_things(form):
    joined = [form.format(id=one, symbol=symbol) for one, symbol in zip(IDS, HUMAN, strict=True)]
    found = read(joined)
    assert found.names == tuple(HUMAN)
    assert "8 gene names join a symbol with" in found.notes[0]


class Table:
    version = "made up"

    def symbol_of(self, ensembl):
        return dict(zip(IDS, HUMAN[:-1], strict=False)).get(ensembl.split(".")[0])


@pytest.mark.parametrize("form", ["{}", "{}.12"])
def test_ids_without_a_column_take_symbols_from_a_table_of_genes(form):
    ids = [form.format(one) for one in IDS]
    found = read(ids, known=Table())
    assert found.names == (*HUMAN[:-1], ids[-1])
    assert found.taken_from == "the packaged table of genes (made up)"
    assert "1 of 8 genes have no symbol there and keep their own name" in found.notes[1]
    mine = [f"{name}P1" for name in HUMAN]
    assert read(ids, known=Table(), feature_name=mine).names == tuple(mine)  # what the file says comes first


@pytest.mark.parametrize(
    ("form", "what"),
    [
        ("ENST0000030000{}.2", "Ensembl transcripts"),
        ("ENSP0000030000{}", "Ensembl proteins"),
        ("NM_00010{}.3", "RefSeq accessions"),
        ("HGNC:405{}", "HGNC numbers"),
        ("P0516{}", "UniProt accessions"),
        ("ILMN_134329{}", "array probes"),
        ("20248{}_s_at", "array probes"),
    ],
)
def test_ids_of_other_things_than_genes_take_symbols_from_a_column_or_are_refused(form, what):
    ids = [form.format(number) for number in range(8)]
    assert f"genes are {what} (such as {ids[0]}" in refusal(ids, known=Table())
    assert read(ids, gene_name=HUMAN).names == tuple(HUMAN)


def test_a_second_gene_of_a_joined_symbol_keeps_its_whole_name():
    twice = ["MATR3_ENSG00000015479", "MATR3_ENSG00000280987", *HUMAN]
    assert read(twice).names == ("MATR3", "MATR3_ENSG00000280987", *HUMAN)


def test_lower_case_names_need_a_sign_that_they_are_human():
    small = [name.lower() for name in HUMAN]
    assert read(small).names == tuple(name.upper() for name in small)  # hla-a
    assert "read in upper case" in read(small).notes[0]
    without = [name for name in small if not name.startswith("hla")]
    assert "lower case" in refusal(without)
    assert read(without, is_human=True).names == tuple(name.upper() for name in without)
    assert "zebrafish" in refusal([*small, "si:dkey-1a2"], is_human=True)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (["Isg15", "Mx1", "Cd14", "Lyz2", "Actb"], "genes are not human"),
        ([*HUMAN, "Isg15", "Mx1"], "genes mix species"),
        ([f"ENSMUSG{number:011d}" for number in range(8)], "mouse genes"),
        ([f"ENSDARG{number:011d}" for number in range(8)], "another species"),
        ([*IDS, *[f"ENSMUSG{number:011d}" for number in range(8)]], "mixes human genes"),
    ],
)
def test_genes_of_other_species_are_refused(index, says):
    assert says in refusal(index)


def test_the_genome_column_names_the_species():
    assert read(genome=["GRCh38"] * 8).names == tuple(HUMAN)
    assert "is not human" in refusal(genome=["mm10"] * 8)
    assert "mixes species" in refusal(genome=["GRCh38"] * 4 + ["mm10"] * 4)


@pytest.mark.parametrize(
    "text",
    [
        *("Homo sapiens", "homo_sapiens", "Homo_sapiens", "H. sapiens", "hsapiens", "human", "HUMAN", "Human (9606)"),
        *("9606", "9606.0", "NCBITaxon:9606", "NCBITaxon_9606", "GRCh38", "hg19", "GRCh38-2020-A", "hsa"),
        *("Homo sapiens (human)", "Human, GRCh38", "refdata-gex-GRCh38-2020-A"),
    ],
)
def test_names_of_the_human_species(text):
    assert check_organism([text, "", "nan"], name="a")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["Mus musculus"], "is not human"),
        (["10090"], "is not human"),
        (["NCBITaxon:10090"], "is not human"),
        (["mm10"], "is not human"),
        (["Homo sapiens", "Mus musculus"], "mixes species"),
        (["GRCh38_and_mm10"], "mixes species"),
        (["human/mouse"], "mixes species"),
        (["9606, 10090"], "mixes species"),
        (["Macaca mulatta"], "is not human"),
        (["humanised mouse"], "is not human"),
    ],
)
def test_other_species_are_refused(texts, says):
    with pytest.raises(InputError, match=says):
        check_organism(texts, name="a")


def test_an_unstated_species_is_not_human_and_not_refused():
    assert check_organism(["", "unknown", "NA"], name="a") is False
