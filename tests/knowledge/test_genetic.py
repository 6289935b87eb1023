"""Genetic perturbations: labels of public screens and phrases of questions are read as what they say, or not at all."""

from __future__ import annotations

import re

import pytest

from haystack_kernel.knowledge import Knowledge, find_mentions, load_knowledge, perturbation_of, resolve
from haystack_kernel.knowledge.actions import action_on_targets
from haystack_kernel.knowledge.genetic import MODE_SIGNS, find_genetic, read_genetic

# Forms of guide labels in public data, each around another symbol; all mean one gene.
GUIDES = [
    ("JAK2", "JAK2"),
    ("JAK2_g1", "JAK2"),
    ("sgJAK2", "JAK2"),
    ("sgJAK2_3", "JAK2"),
    ("JAK2+ctrl", "JAK2"),
    ("ctrl+JAK2", "JAK2"),
    ("ctrl_JAK2", "JAK2"),
    ("KLF1_sg1", "KLF1"),
    ("ATF2g1", "ATF2"),
    ("IRF1-sgRNA_2", "IRF1"),
    ("sgRNA_IRF1", "IRF1"),
    ("ERCC1 sgRNA 2", "ERCC1"),
    ("TP53 guide 1", "TP53"),
    ("STAT1.2", "STAT1"),
    ("ABCD1_P1P2-1|ABCD1_P1P2-2", "ABCD1"),
    ("KDM2B_ENST00000377069.4-1", "KDM2B"),
    ("AAMP_+_219134814.23-P1P2", "AAMP"),
    ("ARID1A_-_27022600.23-P1P2", "ARID1A"),
    ("SPI1_pDS258", "SPI1"),
    ("STAT1_ACGTACGTACGTACGTACGT", "STAT1"),
    ("ENSG00000096968", "JAK2"),
    ("MYC_sg2_only", "MYC"),
    ("ZBTB1+NegCtrl0", "ZBTB1"),
    ("SGK1", "SGK1"),  # begins and ends like a guide, and is a symbol
    ("SHH", "SHH"),
    ("HLA-DRA-1", "HLA-DRA"),
    ("HLA-DRA", "HLA-DRA"),
    ("NKX2-5_2", "NKX2-5"),
    ("NKX2-5", "NKX2-5"),
    ("C1orf43_1", "C1orf43"),
    ("MARCH8", "MARCHF8"),
    ("SEPT9_g2", "SEPTIN9"),
    ("1-Mar", "MARCHF1"),
    ("Sep-02", "SEPTIN2"),
    ("DEC1", "DELEC1"),
    ("jak2_g1", "JAK2"),
    ("HVEM", "TNFRSF14"),
]


@pytest.mark.parametrize(("label", "gene"), GUIDES)
def test_label_when_its_column_is_genetic_then_names_the_gene(label: str, gene: str) -> None:
    found = read_genetic(label, declared=True)
    assert found is not None
    assert (found.kind, [change.gene for change in found.changes]) == ("change", [gene])
    assert found.name == f"{gene} knock-out"
    assert not found.changes[0].is_stated  # the label says which gene, not what was done to it


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("NTg4", "non-targeting"),
        ("NTC_1", "non-targeting"),
        ("non-targeting_00998|non-targeting_01234", "non-targeting"),
        ("NegCtrl10+NegCtrl0", "negative control"),
        ("3x_neg_ctrl_pMJ144-1", "negative control"),
        ("sgAAVS1", "non-targeting"),
        ("INTERGENIC216151", "safe-targeting"),
        ("ONE_NON-GENE_SITE_290", "safe-targeting"),
        ("ctrl", "control"),
    ],
)
def test_label_when_it_names_a_control_then_says_which(label: str, kind: str) -> None:
    found = read_genetic(label, declared=True)
    assert found is not None
    assert (found.kind, found.control, found.changes) == ("control", kind, ())


@pytest.mark.parametrize(
    "label",
    ["", "unassigned", "NA", "nan", "None", "unknown", "Negative", "no guide", "no_gRNA", "multiplet", "*", "-"],
)
def test_label_when_the_guide_is_not_known_then_is_neither_treated_nor_control(label: str) -> None:
    found = read_genetic(label, declared=True)
    assert found is not None
    assert found.kind == "none"


@pytest.mark.parametrize(
    "label",
    ["rest", "impact", "the", "IFN-beta", "JAK2 V617F", "KRAS G12D", "cluster 3", "62(mod)_pBA581", "XQ-4471"],
)
def test_label_when_it_is_no_gene_then_is_not_read(label: str) -> None:
    assert read_genetic(label, declared=True) is None


@pytest.mark.parametrize(
    ("label", "genes"),
    [
        ("KLF1+MAP2K6", ["KLF1", "MAP2K6"]),
        ("MAP2K6_KLF1", ["KLF1", "MAP2K6"]),
        ("GATA1 || KLF1", ["GATA1", "KLF1"]),
        ("STAT5A-STAT5B", ["STAT5A", "STAT5B"]),
        ("CEBPA_CEBPB", ["CEBPA", "CEBPB"]),
        ("TGFBR1_g1 & TGFBR2_g2", ["TGFBR1", "TGFBR2"]),
        ("sgCD3E,sgCD3D", ["CD3D", "CD3E"]),
    ],
)
def test_label_when_it_names_two_genes_then_is_a_combination_in_any_order(label: str, genes: list[str]) -> None:
    found = read_genetic(label, declared=True)
    assert found is not None
    assert [change.gene for change in found.changes] == genes
    assert found.name == " + ".join(f"{gene} knock-out" for gene in genes)


@pytest.mark.parametrize("label", ["KLF1+blorb", "JAK2_g1|cluster 3", "JAK2 and friends"])
def test_label_when_a_part_is_not_understood_then_nothing_is_dropped(label: str) -> None:
    assert read_genetic(label, declared=True) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("JAK2 knock-out", "JAK2 knock-out"),
        ("JAK2 knockout", "JAK2 knock-out"),
        ("JAK2 KO", "JAK2 knock-out"),
        ("TP53KO", "TP53 knock-out"),
        ("KO_TP53", "TP53 knock-out"),
        ("JAK2-/-", "JAK2 knock-out"),
        ("knock-out of the JAK2 gene", "JAK2 knock-out"),
        ("deletion of BACH2", "BACH2 knock-out"),
        ("CRISPR-Cas9 knock-out of JAK2", "JAK2 knock-out"),
        ("JAK2 knockdown", "JAK2 knock-down"),
        ("shSTAT1", "STAT1 knock-down"),
        ("STAT1 shRNA", "STAT1 knock-down"),
        ("silencing of STAT1", "STAT1 knock-down"),
        ("siRNA against STAT1", "STAT1 knock-down"),
        ("siSTAT1", "STAT1 knock-down"),
        ("si-STAT1", "STAT1 knock-down"),
        ("CRISPRi of GATA1", "GATA1 CRISPRi"),
        ("CRISPRi_GATA1", "GATA1 CRISPRi"),
        ("KLF1_i", "KLF1 CRISPRi"),
        ("dCas9-KRAB GATA1", "GATA1 CRISPRi"),
        ("KLF1_a", "KLF1 CRISPRa"),
        ("CRISPR activation of KLF1", "KLF1 CRISPRa"),
        ("KLF1 over-expression", "KLF1 over-expression"),
        ("overexpression of KLF1", "KLF1 over-expression"),
        ("OE_KLF1", "KLF1 over-expression"),
        ("FOXP3 cDNA", "FOXP3 over-expression"),
        ("p53 knock-out", "TP53 knock-out"),
        ("MARCH8 knock-out", "MARCHF8 knock-out"),
        ("JAK2 knock-out + STAT1 knock-out", "JAK2 knock-out + STAT1 knock-out"),
    ],
)
def test_text_when_it_states_what_was_done_then_needs_no_column(text: str, name: str) -> None:
    found = read_genetic(text)
    assert found is not None
    assert found.name == name
    assert read_genetic(found.name) == read_genetic(found.name, declared=True)
    assert all(change.is_stated for change in found.changes)


@pytest.mark.parametrize(
    "text", ["TNF", "IFNG_2", "JAK2", "KLF1+MAP2K6", "NTC", "rest knock-out", "NF-kB knock-down", "KO"]
)
def test_text_when_it_states_no_change_of_a_gene_then_is_none(text: str) -> None:
    assert read_genetic(text) is None


def test_column_when_its_mode_is_known_then_bare_symbols_take_it() -> None:
    found = read_genetic("KLF1+ctrl", declared=True, mode="CRISPRa")
    assert found is not None
    assert (found.name, found.changes[0].is_stated) == ("KLF1 CRISPRa", True)
    stated = read_genetic("KLF1 KO", declared=True, mode="CRISPRa")
    assert stated is not None
    assert stated.name == "KLF1 knock-out"


def test_modes_when_listed_then_loss_and_gain_have_opposite_signs() -> None:
    assert {mode for mode, sign in MODE_SIGNS.items() if sign > 0} == {"CRISPRa", "over-expression"}


@pytest.mark.parametrize(
    ("question", "phrases"),
    [
        ("How would monocytes respond to knock-out of JAK2?", {"knock-out of JAK2": "JAK2 knock-out"}),
        ("What does silencing STAT1 do to B cells?", {"silencing STAT1": "STAT1 knock-down"}),
        ("How do monocytes respond to siRNA against STAT1?", {"siRNA against STAT1": "STAT1 knock-down"}),
        ("How do monocytes respond to STAT1 siRNA?", {"STAT1 siRNA": "STAT1 knock-down"}),
        ("What happens when IRF1 is knocked out in monocytes", {"IRF1 is knocked out": "IRF1 knock-out"}),
        ("KO of the TNF gene in macrophages", {"KO of the TNF gene": "TNF knock-out"}),
        ("How do T cells with sgCBLB respond?", {"sgCBLB": "CBLB knock-out"}),
        ("NKX2-5 overexpression in fibroblasts", {"NKX2-5 overexpression": "NKX2-5 over-expression"}),
        ("CRISPR activation of KLF1 in T cells", {"CRISPR activation of KLF1": "KLF1 CRISPRa"}),
        (
            "JAK2 and STAT1 knock-out in monocytes",
            {"JAK2": "JAK2 knock-out", "STAT1 knock-out": "STAT1 knock-out"},
        ),
        (
            "a double knock-out of JAK2 and STAT1",
            {"knock-out of JAK2 and STAT1": "JAK2 knock-out + STAT1 knock-out"},
        ),
        (
            "knocking down CUL3, KEAP1 and NFE2L2 in B cells",
            {"knocking down CUL3": "CUL3 knock-down", "KEAP1": "KEAP1 knock-down", "NFE2L2": "NFE2L2 knock-down"},
        ),
        ("LPS and STAT1 knock-out in monocytes", {"STAT1 knock-out": "STAT1 knock-out"}),  # not IRF6, once named LPS
        ("How do T cells respond to STAT1 RNAi?", {"STAT1 RNAi": "STAT1 knock-down"}),
        ("How would the rest knock out B cells", {}),
        ("Does a cell's response to IFN-beta change", {}),
        ("How would B cells respond to TNF and IL6?", {}),
        ("What would a knock-out mouse say of the set, and of max?", {}),
    ],
)
def test_question_when_it_names_changes_of_genes_then_phrases_are_found(question: str, phrases: dict[str, str]) -> None:
    found = find_genetic(question)
    assert {question[start:end]: label.name for start, end, label in found} == phrases


# --- entries made when asked for ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return load_knowledge()


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("ZAP70 CRISPRi", -1),
        ("JAK3 knock-down", -1),
        ("SOCS1 over-expression", 1),
        ("KLF1 CRISPRa", 1),
        ("JAK1 knock-out + JAK2 knock-out", -1),
        ("JAK1 knock-out + STAT4 over-expression", 0),  # against each other
    ],
)
def test_entry_when_any_gene_is_changed_then_has_target_and_sign(knowledge: Knowledge, name: str, action: int) -> None:
    entry = perturbation_of(name, knowledge=knowledge)
    assert entry is not None
    assert (entry.name, entry.type, entry.targets) == (name, "genetic", tuple(re.findall(r"[A-Z0-9]{4,}(?= )", name)))
    assert action_on_targets(entry, knowledge=knowledge) == action
    assert entry.pathways.keys() <= knowledge.pathways.keys()


@pytest.mark.parametrize("name", ["JAK2", "ZZZ9 knock-out", "JAK2 KO", "STAT1 knock-out + JAK2 knock-out", ""])
def test_entry_when_the_name_is_not_canonical_then_is_none(knowledge: Knowledge, name: str) -> None:
    assert perturbation_of(name, knowledge=knowledge) is None


def test_entry_when_the_tables_hold_the_knock_out_then_other_modes_follow_it(knowledge: Knowledge) -> None:
    lost = knowledge.perturbations["STAT6 knock-out"]
    less, more = (perturbation_of(f"STAT6 {mode}", knowledge=knowledge) for mode in ("CRISPRi", "over-expression"))
    assert less is not None
    assert more is not None
    assert (less.pathways, less.response) == (lost.pathways, lost.response)
    assert more.pathways == {name: -sign for name, sign in lost.pathways.items()}
    assert more.response == {}  # nobody measured the reverse: it is left to the network


def test_entry_when_no_table_holds_the_gene_then_ligands_and_inhibitors_tell_the_pathways(knowledge: Knowledge) -> None:
    receptor = perturbation_of("IL4R knock-out", knowledge=knowledge)  # IL-4 activates the pathway through it
    assert receptor is not None
    assert receptor.pathways["IL-4/IL-13 STAT6 signalling"] == -1
    gained = perturbation_of("IL4R over-expression", knowledge=knowledge)
    assert gained is not None
    assert gained.pathways["IL-4/IL-13 STAT6 signalling"] == 1


@pytest.mark.parametrize(
    ("text", "name", "note"),
    [
        ("STAT1 knock-out", "STAT1 knock-out", ""),
        ("siRNA against STAT1", "STAT1 knock-down", ""),
        ("sgCBLB", "CBLB knock-out", "what was done to CBLB is not stated: taken as a knock-out"),
        ("MARCH8 knock-out", "MARCHF8 knock-out", "MARCH8 is MARCHF8"),
    ],
)
def test_resolution_when_text_changes_a_gene_then_is_certain_and_says_what_it_assumed(
    knowledge: Knowledge, text: str, name: str, note: str
) -> None:
    found = resolve(text, kind="perturbation", knowledge=knowledge)
    assert found.match is not None
    assert (found.match.id, found.match.how == "fuzzy", found.ambiguous) == (name, False, False)
    assert note in found.note


def test_mention_when_a_cytokine_is_knocked_out_then_is_not_the_cytokine(knowledge: Knowledge) -> None:
    found = find_mentions("TNF and IL6 knock-out in B cells", knowledge=knowledge)
    named = {one.text: (one.resolution.match.id, one.resolution.text) for one in found if one.resolution.match}
    assert named["TNF"] == ("TNF knock-out", "TNF knock-out")
    assert named["IL6 knock-out"] == ("IL6 knock-out", "IL6 knock-out")
