"""GMT files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.genesets import read_gene_sets

GOOD = (
    "HALLMARK_TNFA_SIGNALING\thttp://x\tTNF\tNFKB1,1.0\t\tTNF\n# a comment\n\n"
    "my set (GO:1)\t\tHLA-DRB1\tC1orf56\tNKX2-1\n"
)


def read(text):
    return {one.name: one for one in read_gene_sets(text.encode(), path=Path("x.gmt"))}


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
    for text, says in [
        ("a\tb\n", "line 1: a set needs a name, a description and at least one gene"),
        ("\tb\tTNF\n", "line 1: a set needs a name"),
        (GOOD + "my set (GO:1)\t\tTNF\n", "line 5: the set my set .* is defined a second time"),
        ("a\tb\tone two\tthree four\tTNF\n", "2 of 3 entries, such as 'one two', are not gene symbols"),
        ("a\tb\tStat1\tIrf7\tIsg15\tH2-K1\tTNF\n", "written like mouse symbols"),
        ("# nothing\n", "has no gene set"),
        ("a\tb\t" + "\t".join(f"G{number}" for number in range(30_001)), "30,001 genes; 30,000 are possible"),
    ]:
        with subtests.test(text=text), pytest.raises(InvalidInputError, match=says):
            read(text)


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
                assert set(kept) <= set(genes)
                assert len(kept) >= 0.5 * len(set(genes) - {""})
    assert n_sets == 50 + 1787 + 1448 + 500 + 6036
