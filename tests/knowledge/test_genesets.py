"""GMT files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.knowledge.additions import add_knowledge
from haystack_kernel.knowledge.genesets import read_gene_sets

GOOD = (
    "HALLMARK_TNFA_SIGNALING\thttp://x\tTNF\tNFKB1,1.0\t\tTNF\n# a comment\n\n"
    "my set (GO:1)\t\tHLA-DRB1\tC1orf56\tNKX2-1\n"
)


def read(text):
    return {one.name: one for one in read_gene_sets(text.encode(), path=Path("x.gmt")).rows}


def notes(text):
    return read_gene_sets(text.encode(), path=Path("x.gmt")).notes


def test_read_when_gmt_then_every_gene_rises_and_weights_are_dropped():
    sets = read(GOOD)
    assert sets["HALLMARK_TNFA_SIGNALING"].genes == {"TNF": 1, "NFKB1": 1}
    assert sets["HALLMARK_TNFA_SIGNALING"].synonyms == ("tnfa signaling",)
    assert sets["HALLMARK_TNFA_SIGNALING"].source == "http://x"
    assert list(sets["my set (GO:1)"].genes) == ["HLA-DRB1", "C1orf56", "NKX2-1"]


def test_read_when_few_entries_are_no_symbols_then_they_are_left_out():
    genes = "\t".join(["18S rRNA", *(f"GENE{number}" for number in range(9))])
    assert len(read(f"a\tb\t{genes}\n")["a"].genes) == 9


def test_read_when_wrong_then_the_line_is_named(subtests):
    entrez = "A\thttp://x\t7157\t3725\t6772\t9636\nB\thttp://x\t100\t200\t300\n"
    for text, says in [
        (entrez, r"7 of 7 entries, such as '7157' \(line 1\), are Entrez gene numbers\. Give a GMT file of symbols"),
        ("a\tb\tENSMUSG00000059552\tENSMUSG00000052684\n", "are Ensembl genes of another species"),
        ("a\tb\tENST00000269305.9\tENST00000371222\n", r"'ENST00000269305\.9' \(line 1\), are Ensembl transcripts"),
        ("a\tb\tENSP00000269305\tENSP00000371222\n", "are Ensembl proteins"),
        ("a\tb\tP04637\tP05412\tQ9Y6K9\n", "are UniProt accessions"),
        ("a\tb\tNM_000546.6\tNM_002228\n", "are RefSeq accessions"),
        ("a\tb\t1007_s_at\t201746_at\tAFFX-BioB-5_at\n", "are array probes"),
        ("a\tb\tHGNC:11998\tHGNC:6204\n", "are HGNC numbers"),
        ("a\tb\tTNF\nc\td\tIL6\t1-Mar\n", "line 2: '1-Mar' is a date: a spreadsheet has changed a gene symbol"),
        ("a\tb\tTNF\tSep-07\n", "line 1: 'Sep-07' is a date"),
        ("a\tb\tTNF\t2024-09-07 00:00:00\n", "line 1: '2024-09-07 00:00:00' is a date"),
        ("a\tb\tTNF\t7-Sep-24\n", "line 1: '7-Sep-24' is a date"),
        ("a,b,TNF,IL6\n", "line 1: .* tab separated; this line has no tab"),
        ("name\tdescription\tgenes\na\tb\tTNF\n", "line 1: .* is a header, and a GMT file has none"),
        ("a\tb\tTNF,1\tTNF,-1\n", "line 1: TNF both rises and falls in the set a"),
        ("a\tb\n", "line 1: a set needs a name, a description and at least one gene"),
        ("\tb\tTNF\n", "line 1: a set needs a name"),
        (GOOD + "my set (GO:1)\t\tTNF\n", "line 5: the set my set .* is defined a second time"),
        ("a\tb\tone two\tthree four\tTNF\n", r"2 of 3 entries, such as 'one two' \(line 1\), are not gene symbols"),
        ("a\tb\tStat1\tIrf7\tIsg15\tH2-K1\tTNF\n", "written like mouse symbols"),
        ("# nothing\n", "has no gene set"),
        ("a\tb\t" + "\t".join(f"G{number}" for number in range(30_001)), "30,001 genes; 30,000 are possible"),
    ]:
        with subtests.test(text=text), pytest.raises(InvalidInputError, match=says):
            read(text)


@pytest.mark.parametrize(
    ("cells", "genes", "note"),
    [
        ("ENSG00000141510\tENSG00000232810.4", {"TP53": 1, "TNF": 1}, "2 Ensembl ids read as the gene's symbol"),
        ("stat1\tTNF", {"STAT1": 1, "TNF": 1}, "1 symbols in other capitals"),
        ("C1ORF56\tTNF", {"C1orf56": 1, "TNF": 1}, "'C1ORF56' (line 1)"),
        ("MARCH8\tTNF", {"MARCH8": 1, "TNF": 1}, "1 former symbols or aliases, kept as written"),
        ("JAK1,JAK2,TYK2", {"JAK1": 1, "JAK2": 1, "TYK2": 1}, "1 cells with several genes"),
        ("JAK1 JAK2\tTYK2", {"JAK1": 1, "JAK2": 1, "TYK2": 1}, "1 cells with several genes"),
        ("JAK1 /// JAK2\tTYK2", {"JAK1": 1, "JAK2": 1, "TYK2": 1}, "1 cells with several genes"),
        ("TNF,1.0\tIL6,-2.5", {"TNF": 1, "IL6": -1}, "1 genes with a negative weight"),
        ("TNF\tIL6\tJAK1\tJAK2\t7157", dict.fromkeys(("TNF", "IL6", "JAK1", "JAK2"), 1), "1 Entrez gene numbers, left"),
        ('"TNF"\t"IL6"', {"TNF": 1, "IL6": 1}, ""),
        ("TNF\tNA\tnan\t\t-\tIL6", {"TNF": 1, "IL6": 1}, ""),
        ("TNF\tTNF\tIL6\t", {"TNF": 1, "IL6": 1}, ""),
    ],
)
def test_read_when_cells_are_written_in_other_ways_then_read_rightly_and_said(cells, genes, note):
    text = f"set\tsource\t{cells}\n"
    assert read(text)["set"].genes == genes
    assert (note in " ".join(notes(text))) if note else notes(text) == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbfset\tsource\tTNF\tIL6\r\nother\tsource\tJAK1\r\n",
        "set\tsource\tTNF\tIL6\nother\tsource\tJAK1".encode("utf-16"),
        b"set\tsource\tTNF\tIL6\rother\tsource\tJAK1\r",
        b'"set"\t"source"\tTNF\tIL6\n\n   \n# remark\nother\tsource\tJAK1\n\n',
        "set\tso\u2028urce\tTNF\tIL6\nother\tsource\tJAK1\n".encode(),
        gzip.compress(b"\xef\xbb\xbfset\tsource\tTNF\tIL6\r\nother\tsource\tJAK1\r\n", mtime=0),
    ],
)
def test_read_when_saved_by_other_programs_then_the_same_sets(tmp_path, raw):
    for name in ("x.gmt", "x.gmt.txt"):
        (tmp_path / name).write_bytes(raw)
        assert add_knowledge(tmp_path / name, folder=tmp_path / "added").kind == "genesets"
        known = load_knowledge(tmp_path / "added")
        assert (known.pathways["set"].genes, known.pathways["other"].genes) == ({"TNF": 1, "IL6": 1}, {"JAK1": 1})


def test_read_when_there_are_no_descriptions_then_the_second_cell_is_a_gene_and_said():
    text = "SET_A\tISG15\tIFIT1\tMX1\nSET_B\tTNF\tIL6\tNFKBIA\n"
    assert list(read(text)["SET_A"].genes) == ["ISG15", "IFIT1", "MX1"]
    assert "'ISG15' (line 1), is read as a gene of the set" in notes(text)[0]
    assert read(text)["SET_A"].source == ""


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("MYC\tMYC\tNCL\tNPM1\nTP53\tTP53\tMDM2\n", ""),  # regulons, described by their regulator
        ("MYC_targets\tTF\tNCL\nTP53_targets\tTF\tMDM2\n", ""),  # one word for all sets
        ("a\tREST\tNCL\nb\tof the cell\tMDM2\nc\tsome\tTNF\n", "the descriptions of 1 sets are gene symbols"),
    ],
)
def test_read_when_descriptions_look_like_genes_then_they_stay_descriptions(text, note):
    assert next(iter(next(iter(read(text).values())).genes)) == "NCL"
    assert note in " ".join(notes(text))
    assert bool(note) == bool(notes(text))


def test_read_when_no_gene_of_a_set_is_known_then_the_set_is_left_out_and_named():
    text = "a\tx\tTNF\tIL6\tJAK1\tJAK2\tTYK2\tSTAT1\nb\tx\t7157\n"
    assert list(read(text)) == ["a"]
    assert "1 sets without a gene left out; the first is 'b' (line 2)" in notes(text)


def test_add_when_not_utf8_then_the_line_is_named(tmp_path):
    (tmp_path / "x.gmt").write_bytes("a\tb\tTNF\nc\tÄtiologie\tTNF\n".encode("latin-1"))
    with pytest.raises(InvalidInputError, match=r"not text in UTF-8 \(line 2, byte 10\)"):
        add_knowledge(tmp_path / "x.gmt", folder=tmp_path / "added")


@pytest.mark.slow
def test_read_when_public_collections_then_every_set_with_all_its_symbols(shared, added):
    files = sorted((shared / "data/genesets").glob("*.gmt.gz"))
    assert len(files) == 5
    known, n_sets = added(*files), 0
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            for line in stream:
                name, _, *genes = line.rstrip("\n").split("\t")
                n_sets += 1
                kept = known.pathways[" ".join(name.split())].genes
                assert {gene.casefold() for gene in kept} <= {gene.casefold() for gene in genes}
                assert len(kept) >= 0.5 * len(set(genes) - {""})
    assert n_sets == 50 + 1787 + 1448 + 500 + 6036
