"""The rule that reads directions, on designed sentences: each stands for one way of saying it."""

from pathlib import Path

from haystack_kernel.literature.direction import read_direction
from haystack_kernel.literature.names import GeneNames, PhraseNames
from haystack_kernel.literature.text import is_retracted

GENES = GeneNames(["COL1A1", "ACTA2", "MMP1", "IL6", "CXCL8", "SMAD3", "FN1", "IL10", "HLA-A", "CAT", "AR", "TGFB1"])
TGFB = PhraseNames(["TGF-beta1", "TGF-β", "TGFB1", "transforming growth factor beta"])


def read(sentence):
    """Gene -> direction under TGF-beta."""
    asked = TGFB.find(sentence)
    genes = [g for g in GENES.find(sentence) if not any(p.start < g.end and g.start < p.end for p in asked)]
    return {gene.name: read_direction(sentence, gene, genes=genes, asked=asked) for gene in genes}


def test_a_statement_has_its_direction(subtests):
    for sentence, expected in [
        ("TGF-β induced COL1A1 and ACTA2 in fibroblasts.", {"COL1A1": 1, "ACTA2": 1}),
        ("TGFβ1 increased COL1A1 and reduced MMP1.", {"COL1A1": 1, "MMP1": -1}),
        ("TGF-beta strongly upregulates COL1A1 mRNA but suppresses MMP1.", {"COL1A1": 1, "MMP1": -1}),
        ("COL1A1 expression was increased by TGF-β.", {"COL1A1": 1}),
        (
            "COL1A1, ACTA2 and fibronectin were markedly down-regulated by TGF-β.",
            {"COL1A1": -1, "ACTA2": -1, "FN1": -1},
        ),
        ("Upon TGF-β stimulation, COL1A1 was increased and MMP1 was reduced.", {"COL1A1": 1, "MMP1": -1}),
        ("COL1A1 expression increased after TGF-β.", {"COL1A1": 1}),
        ("We observed increased expression of COL1A1 in response to TGF-β.", {"COL1A1": 1}),
        ("Drug Q suppressed TGF-β-induced COL1A1 expression.", {"COL1A1": 1}),
        ("TGF-β suppressed the induction of IL-6.", {"IL6": -1}),
        ("TGF-β suppressed LPS-induced CXCL8 expression.", {"CXCL8": -1}),
        ("TGF-β-treated cells showed higher levels of \u03b1-SMA.", {"ACTA2": 1}),
        ("Transforming growth factor-β led to a decrease in HLA-A.", {"HLA-A": -1}),
    ]:
        with subtests.test(sentence=sentence):
            assert read(sentence) == expected


def test_what_is_no_statement_on_the_gene_under_the_perturbation_has_none(subtests):
    for sentence in [
        "TGF-β did not increase COL1A1.",
        "COL1A1 was not induced by TGF-β.",
        "We asked whether TGF-β increases COL1A1.",
        "TGF-β may increase COL1A1.",
        "Inhibition of TGF-β reduced COL1A1.",
        "TGF-β receptor blockade reduced COL1A1.",
        "An anti-TGF-β antibody decreased COL1A1.",
        "TGF-β signalling was blocked, which reduced COL1A1.",
        "COL1A1 was increased by drug Q in cells that also make TGF-β.",
        "TGF-β induced ACTA2, whereas IL-6 reduced COL1A1.",
        "In TGF-β-treated cells, drug Q reduced COL1A1.",
        "TGF-β increased COL1A1 promoter methylation, SMAD3 phosphorylation and COL1A1-positive cells.",
        "TGF-β reduced growth via COL1A1.",
        "Drug Q increased COL1A1.",
        "TGF-β and COL1A1 were measured.",
    ]:
        with subtests.test(sentence=sentence):
            assert read(sentence).get("COL1A1", 0) == 0


def test_symbols_are_found_in_their_spellings_and_ambiguous_ones_only_where_a_gene_is_meant():
    def found(text):
        return [span.name for span in GENES.find(text)]

    assert found("IL-6, Il6, interleukin-6 and Cxcl8 rose, as did HLA-A.") == ["IL6", "IL6", "IL6", "CXCL8", "HLA-A"]
    assert found("IL-8 and \u03b1-smooth muscle actin") == ["CXCL8", "ACTA2"]
    assert found("A CAT scan; AR was measured; the cat sat on col1a1x") == []
    assert found("CAT expression and expression of AR") == ["CAT", "AR"]
    assert found("IL-6R and IL60") == []


def test_the_name_of_the_perturbation_is_no_gene():
    assert read("TGFB1 induced COL1A1.") == {"COL1A1": 1}


def test_no_sentence_is_read_the_wrong_way(subtests):
    """Each sentence with the direction a careful reader takes from it (0: none); right or silent, never another."""
    genes = GeneNames(
        [
            "STAT1",
            "STAT2",
            "IRF1",
            "CXCL10",
            "TNF",
            "IL6",
            "MX1",
            "ISG15",
            "CD274",
            "SOCS1",
            "HLA-DRA",
            "IL10",
            "IFIT1",
            "TP53",
            "MYC",
            "COL1A1",
            "IFNAR1",
            "CXCL8",
        ]
    )
    asked_names = PhraseNames(["IFN-beta", "IFNB1", "type I interferon"])
    rows = [line.split("\t") for line in Path(__file__).with_name("sentences.tsv").read_text().splitlines()[1:]]
    n_told = n_read = 0
    for sentence, gene, direction in rows:
        asked, found = asked_names.find(sentence), genes.find(sentence)
        said = {read_direction(sentence, one, genes=found, asked=asked) for one in found if one.name == gene} - {0}
        with subtests.test(sentence=sentence, gene=gene):
            assert found
            assert said <= {int(direction)}
        n_told += direction != "0"
        n_read += direction != "0" and bool(said)
    assert n_read >= 0.6 * n_told


def test_a_notice_of_retraction_is_known_from_its_title_and_other_retractions_are_none(subtests):
    notices = [
        "RETRACTED ARTICLE: X",
        "RETRACTED\u2014X",
        "WITHDRAWN: X in Y",
        "Retraction Note to: X",
        'Retraction notice to "X" [J Imm 12 (2010) 1-9]',
        "Statement of Retraction: X",
        "Notice of Retraction: X",
        'Retraction of "X"',
        "Retraction of \u2018X\u2019",
        "Retraction. X",
        "Retraction \u2013 X",
        'Retraction for Smith et al., "X"',
        "Partial retraction: X",
        "[RETRACTED] X",
        "Retracted, X",
        "X [Retracted]",
        "X (Withdrawn)",
        "X [Retracted Article. See vol. 5, pg. 9]",
        "X. Retraction",
        "X - RETRACTED",
        "Article withdrawn: X",
        "Publication Retracted: X",
        "This article has been withdrawn: X",
    ]
    others = [
        "Retraction of axons under interferon beta",
        "Withdrawal of IFN-beta in multiple sclerosis",
        "Neurite retraction induced by IFN-beta",
        "Retracted lung in IFN-beta treated mice",
        "Expression of concern: X",
        "Why papers on IFN-beta are retracted",
        "Drug withdrawal: a randomised trial of IFN-beta",
        "IFN-beta: withdrawal or continuation?",
        "IFN-beta after withdrawal (BENEFIT)",
        "Study withdrawal and IFN-beta",
    ]
    for title in notices + others:
        with subtests.test(title=title):
            assert is_retracted(title, []) == (title in notices)
