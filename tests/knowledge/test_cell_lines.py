"""Cell lines are kinds of their own: found by their names, said to be lines, below the cell type that they model."""

from __future__ import annotations

import pytest

from haystack_kernel.knowledge import ancestors, descendants, load_knowledge, resolve


@pytest.mark.parametrize(
    ("label", "term", "said"),
    [
        ("THP-1", "CVCL_0006", "THP-1, a monocytic line of acute monocytic leukemia (CVCL_0006): a model of monocyte"),
        ("THP1 cells", "CVCL_0006", "not primary cells"),
        ("monocyte (THP-1 cell line)", "CVCL_0006", "THP-1, a monocytic line"),
        ("CVCL_0006", "CVCL_0006", "THP-1, a monocytic line"),
        ("K562", "CVCL_0004", "K-562, an erythroleukemia line"),
        ("Jurkat T cells", "CVCL_0065", "Jurkat, a T cell line"),
        ("HEK 293T", "CVCL_0063", "HEK293T, an epithelial-like line"),
        ("A549", "CVCL_0023", "A-549, an epithelial line of lung adenocarcinoma"),
        ("MCF7", "CVCL_0031", "a model of mammary gland epithelial cell"),
        ("RPE1", "CVCL_4388", "hTERT RPE-1, a retinal pigment epithelial line"),
        ("monocyte", "CL:0000576", ""),
        ("PBMC", "CL:2000001", ""),
    ],
)
def test_resolve_when_a_cell_line_is_named_then_it_is_said_to_be_one(label, term, said):
    found = resolve(label, kind="cell_type", knowledge=load_knowledge())
    assert found.match is not None
    assert (found.match.id, found.ambiguous) == (term, False)
    assert said in found.note
    assert bool(said) == bool(found.note)


def test_cell_lines_when_loaded_then_below_what_they_model_and_above_nothing():
    known = load_knowledge()
    lines = [one for term, one in known.cell_types.items() if term.startswith("CVCL_")]
    assert len(lines) > 80
    assert all(one.line and one.source == "curated" for one in lines)
    assert "CL:0000576" in ancestors("CVCL_0006", knowledge=known)
    assert "CVCL_0006" in descendants("CL:0000576", knowledge=known)
    assert {one.id for one in lines if descendants(one.id, knowledge=known)} == set()


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("IgG PC", "CL:0000985"),
        ("switched memory B", "CL:0000972"),
        ("LMPP", "CL:0000936"),
        ("Pvalb", "CL:4023018"),
        ("SST interneuron", "CL:4023017"),
        ("VIP interneurons", "CL:4023016"),
        ("L2/3 IT", "CL:4030059"),
        ("L5 ET", "CL:4023041"),
        ("D1 MSN", "CL:4023026"),
        ("PT-S1", "CL:4030009"),
        ("C-TAL", "CL:1001109"),
        ("IC-A", "CL:0005011"),
        ("CNT", "CL:1000768"),
        ("goblet (nasal)", "CL:0002480"),
        ("EC general capillary", "CL:4028002"),
        ("aCap", "CL:4028003"),
        ("SMG serous", "CL:4033005"),
        ("exhausted CD8", "CL:0020031"),
        ("CD4 TEMRA", "CL:0001087"),
        ("decidual stromal cells", "CL:2000002"),
    ],
)
def test_labels_of_brain_kidney_airway_and_plasma_lineages_when_resolved_then_their_own_term(label, term):
    found = resolve(label, kind="cell_type", knowledge=load_knowledge())
    assert found.match is not None
    assert (found.match.id, found.ambiguous) == (term, False)
