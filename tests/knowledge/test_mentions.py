"""A question gives up its terms, each once, and ordinary words give none."""

from __future__ import annotations

import pytest

from haystack_kernel.knowledge import Knowledge, PerturbationEntry, find_mentions, load_knowledge


@pytest.fixture(scope="module")
def known() -> Knowledge:
    """The packaged cell types, tissues and diseases with a few designed perturbations."""
    rows = [
        ("IFN-beta", "type I interferon", "interferon beta"),
        ("IFN-gamma", "type II interferon", "interferon gamma"),
        ("IFN-alpha1", "type I interferon", "interferon alpha"),
        ("TGF-beta1", "", "TGF-beta"),
        ("TNF-alpha", "", "TNF"),
        ("IL-2", "", "interleukin-2"),
        ("IL-6", "", "interleukin-6"),
        ("GM-CSF", "", "CSF2"),
        ("LIGHT", "", "TNFSF14"),
        ("APRIL", "", "TNFSF13"),
        ("Vorinostat", "HDAC inhibitor", "SAHA"),
        ("Panobinostat", "HDAC inhibitor", "LBH589"),
        ("IFNGR1 knock-out", "", "IFNGR1 knockout"),
    ]
    entries = {
        name: PerturbationEntry(name, "cytokine", (synonym,), (), {}, {}, {}, family) for name, family, synonym in rows
    }
    packaged = load_knowledge()
    return Knowledge(
        packaged.cell_types, entries, {}, packaged.tissues, packaged.diseases, version="test", digest="test"
    )


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How would lung fibroblasts respond to TGF-beta1?", ["CL:0002553", "TGF-beta1"]),
        ("fibroblasts in the lung under TGF\u03b21", ["CL:0000057", "UBERON:0002048", "TGF-beta1"]),
        ("How do FCGR3A+ monocytes and CD14+ monocytes react?", ["CL:0002396", "CL:0001054"]),
        ("NK cells of lupus patients with IL-2", ["CL:0000623", "MONDO:0007915", "IL-2"]),
        ("IFN-b-treated B-cells", ["IFN-beta", "CL:0000236"]),
        ("IFN\u03b2-stimulated pDCs and cDC1s", ["IFN-beta", "CL:0000784", "CL:0002394"]),
        ("What would monoctyes do under interferron gamma?", ["CL:0000576", "IFN-gamma"]),
        ("beta cells of type 2 diabetes patients", ["CL:0000169", "MONDO:0005148"]),
        ("\u03b3\u03b4 T cells and CD8-positive, alpha-beta T cells", ["CL:0000798", "CL:0000625"]),
        ("stellate cells of the liver", ["CL:0000632"]),
        ("microglia in the brain, Alzheimer's disease", ["CL:0000129", "UBERON:0000955", "MONDO:0004975"]),
        ("non-small cell lung cancer macrophages", ["MONDO:0005233", "CL:0000235"]),
        ("knockout of IFNGR1 in T cells", ["IFNGR1 knock-out", "CL:0000084"]),
        ("GM-CSF on HUVECs", ["GM-CSF", "CL:0002618"]),
        ("tnf on leucocytes", ["TNF-alpha", "CL:0000738"]),
        ("TNF alpha, IL 2 and IL6", ["TNF-alpha", "IL-2", "IL-6"]),
        ("the HDAC inhibitor panobinostat in glioblastoma", ["Panobinostat", "MONDO:0018177"]),
        ("APRIL and LIGHT", ["APRIL", "LIGHT"]),
        ("healthy donors' skin keratinocytes", ["PATO:0000461", "CL:0000312"]),
    ],
)
def test_find_mentions_when_terms_are_named_then_in_order(known, question, expected):
    mentions = find_mentions(question, knowledge=known)
    assert [mention.resolution.match.id for mention in mentions] == expected
    for mention in mentions:
        assert question[mention.start : mention.end] == mention.text
        assert mention.resolution.kind == mention.kind


@pytest.mark.parametrize(
    "text",
    [
        "How would all human cells that are treated respond as such in April, in the light of it?",
        "the immune response of the cell",
        "what can be seen at rest, and how fast does it act",
        "anti-TNF or IL-6 receptor blockade",
        "IL-21",
        "A cat sat on the mat. He or she may not set a map.",
        "",
        "?!",
    ],
)
def test_find_mentions_when_nothing_is_named_then_empty(known, text):
    assert find_mentions(text, knowledge=known) == []


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("effect of HDAC inhibitors", {"Vorinostat", "Panobinostat"}),
        ("the interferon response", {"IFN-beta", "IFN-gamma", "IFN-alpha1"}),
        ("type I interferons", {"IFN-beta", "IFN-alpha1"}),
    ],
)
def test_find_mentions_when_a_family_is_named_then_ambiguous(known, text, members):
    (mention,) = find_mentions(text, knowledge=known)
    assert mention.resolution.ambiguous
    assert {mention.resolution.match.id, *(near.id for near in mention.resolution.alternatives)} == members


def test_find_mentions_when_names_nest_then_none_overlap(known):
    mentions = find_mentions("peripheral blood mononuclear cells, lung fibroblasts, CD4+ T cells", knowledge=known)
    assert [mention.text for mention in mentions] == [
        "peripheral blood mononuclear cells",
        "lung fibroblasts",
        "CD4+ T cells",
    ]


@pytest.mark.parametrize("text", ["LPS at 1 ng/ml", "LPS at 2 h", "at 1 uM", "at 2 days"])
def test_a_preposition_and_a_number_are_no_cells(text, known):
    assert [one.text for one in find_mentions(text, knowledge=known) if one.kind == "cell_type"] == []


@pytest.mark.parametrize("text", ["AT1 cells under TNF", "AT 2 cells under TNF", "at2 cells under TNF"])
def test_the_same_letters_written_as_a_name_are_cells(text, known):
    assert len([one for one in find_mentions(text, knowledge=known) if one.kind == "cell_type"]) == 1
