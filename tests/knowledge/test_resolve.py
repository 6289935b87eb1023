"""Labels as laboratories write them reach the right term; near misses do not."""

from __future__ import annotations

import pytest

from haystack_kernel.knowledge import Knowledge, PerturbationEntry, ancestors, load_knowledge, resolve

CELL_LABELS = {
    "CL:0000084": "T cell|T cells|T-cells|T|T lymphocytes|T cell (unresolved)|T activated",
    "CL:0000624": "CD4 T|CD4+ T cells|T cells CD4+|CD4 T cell|CD4-positive, alpha-beta T cell|cd4+ t-cells",
    "CL:0000625": "CD8 T|CD8+ T cell|T cells CD8+|CD8+ T lymphocytes",
    "CL:0000895": "Naive CD4 T|CD4 Naive|CD4 Naive T|naive CD4+ T cells",
    "CL:0000897": "Memory CD4 T|CD4 Memory|CD4 Memory T",
    "CL:0000900": "CD8 Naive|CD8+ naive T cells",
    "CL:0000909": "CD8 Memory",
    "CL:0000815": "Treg|Tregs|T regulatory cells|regulatory T cells",
    "CL:0000798": "gdT|\u03b3\u03b4 T cells|gamma-delta T|gamma delta T cells",
    "CL:0000789": "\u03b1\u03b2 T cell|alpha-beta T cell",
    "CL:0000940": "MAIT|MAIT cells",
    "CL:0000814": "NKT|NK T cells",
    "CL:0000899": "Th17|Th17 cells|TH17|T helper 17 cells",
    "CL:0000545": "Th1|type 1 helper T cells|T-helper 1",
    "CL:0000623": "NK|NK cell|NK cells|nk cells|natural killer cells",
    "CL:0000938": "NK CD56bright|NK_CD56bright|CD16- NK cells",
    "CL:0001065": "ILC|innate lymphoid cells",
    "CL:0000236": "B|B cell|B-cells|B Activated|B lymphocytes|CD19+ B cells",
    "CL:0000788": "B Naive|naive B cells",
    "CL:0000787": "B Memory",
    "CL:0000818": "B Intermediate",
    "CL:0000980": "Plasmablast|plasmablasts",
    "CL:0000763": "Myeloid cells|myeloid cell",
    "CL:0000576": "monocyte|Monocytes",
    "CVCL_0006": "THP-1|THP1|monocyte (THP-1 cell line)|CVCL_0006",
    "CL:0001054": "CD14 Mono|CD14+ Mono|CD14+ monocyte|CD14-positive monocytes|CD14+Monocytes",
    "CL:0000860": "classical monocytes",
    "CL:0002396": "CD16 Mono|FCGR3A+ Mono|FCGR3A+ monocytes|CD16+ monocyte",
    "CL:0000875": "non-classical monocytes|nonclassical monocyte",
    "CL:0000451": "dendritic cell|Dendritic cells|dendritic",
    "CL:0000990": "cDC|cDCs|conventional dendritic cells",
    "CL:0002394": "cDC1|cDC1s",
    "CL:0002399": "cDC2|CD1c+ DC",
    "CL:0000784": "pDC|pDCs|plasmacytoid dendritic cells",
    "CL:0000556": "Mk|Megakaryocytes",
    "CL:0000233": "Platelet|platelets|thrombocytes",
    "CL:0000764": "Eryth|erythroid cell",
    "CL:0008001": "HSPC",
    "CL:0000037": "haematopoietic stem cells|hematopoietic stem cell",
    "CL:0000738": "leukocytes|leucocytes",
    "CL:2000001": "PBMC|PBMCs",
    "CL:0000235": "macrophages",
    "CL:0000129": "microglia|microglial cells",
    "CL:0000057": "fibroblasts|activated fibroblast",
    "CL:0002553": "lung fibroblasts|pulmonary fibroblast|fibroblasts of the lung|fibroblast of lung",
    "CL:0002548": "cardiac fibroblasts|heart fibroblasts",
    "CL:0000182": "hepatocytes|primary human hepatocytes|PHH",
    "CL:0002062": "AT1|type I pneumocytes|alveolar type 1 cells",
    "CL:0002063": "AT2|type II pneumocytes|alveolar type II cells",
    "CL:0000312": "keratinocytes",
    "CL:4052061": "epidermal keratinocyte",
    "CL:0000115": "endothelial cells",
    "CL:0002618": "HUVEC|HUVECs",
    "CL:0002138": "lymphatic endothelial cells|LEC",
    "CL:0000746": "cardiomyocytes|cardiac muscle cell",
    "CL:0000127": "astrocytes",
    "CL:0000540": "neurons|neurones|neuron",
    "CL:0000584": "enterocytes",
    "CL:0000653": "podocytes",
    "CL:0000169": "beta cell|beta cells|\u03b2-cells|pancreatic beta cells",
    "CL:0000171": "alpha cells",
    "CL:0000192": "smooth muscle cells|SMC",
    "CL:0000669": "pericytes",
    "CL:0000134": "MSC|mesenchymal stem cells|mesenchymal stromal cells",
    "CL:0001064": "malignant cell|tumour cells|tumor cells",
}
TYPOS = {
    "monoctye": "CL:0000576",
    "fibrobalsts": "CL:0000057",
    "macropahges": "CL:0000235",
    "hepatcytes": "CL:0000182",
    "dendritc cells": "CL:0000451",
    "lung fibrblasts": "CL:0002553",
    "plasmacytiod dendritic cells": "CL:0000784",
}


def entry(name: str, *synonyms: str, family: str = "", ids: dict[str, str] | None = None) -> PerturbationEntry:
    return PerturbationEntry(name, "cytokine", synonyms, (), {}, {}, ids or {}, family)


@pytest.fixture(scope="module")
def cytokines() -> Knowledge:
    entries = [
        entry("IFN-beta", "interferon beta", "IFNB1", family="type I interferon", ids={"uniprot": "P01574"}),
        entry("IFN-alpha1", "interferon alpha", family="type I interferon"),
        entry("IFN-gamma", "interferon gamma", family="type II interferon"),
        entry("TGF-beta1", "TGF-beta", "transforming growth factor beta 1"),
        entry("TNF-alpha", "TNF", "tumor necrosis factor"),
        entry("IL-2", "interleukin-2"),
        entry("IL-12", "interleukin-12"),
        entry("IL-1-beta", "interleukin-1 beta"),
        entry("IL-1-alpha", "interleukin-1 alpha"),
        entry("Dexamethasone", "dex"),
        entry("Ruxolitinib", family="JAK inhibitor"),
        entry("Tofacitinib", family="JAK inhibitor"),
        entry("Left", "shared name"),
        entry("Right", "shared name"),
    ]
    return Knowledge({}, {one.name: one for one in entries}, {}, {}, {}, version="test", digest="")


def test_resolve_when_label_of_an_atlas_then_the_cell_type(subtests):
    for label, expected in [(label, term) for term, labels in CELL_LABELS.items() for label in labels.split("|")]:
        with subtests.test(label=label):
            resolution = resolve(label, kind="cell_type", knowledge=load_knowledge())
            assert resolution.match is not None
            assert resolution.match.id == expected
            assert not resolution.ambiguous
            assert resolution.text == label


def test_resolve_when_a_long_word_is_misspelt_then_fuzzy(subtests):
    for typo, expected in TYPOS.items():
        with subtests.test(typo=typo):
            match = resolve(typo, kind="cell_type", knowledge=load_knowledge()).match
            assert match is not None
            assert (match.id, match.how) == (expected, "fuzzy")
            assert 0.8 < match.score < 0.98


def test_resolve_when_perturbation_is_written_another_way_then_found(cytokines, subtests):
    for text, name in [
        ("IFN-b", "IFN-beta"),
        ("IFN\u03b2", "IFN-beta"),
        ("IFN-\u03b2", "IFN-beta"),
        ("IFN-\xdf", "IFN-beta"),
        ("ifnb", "IFN-beta"),
        ("interferon beta", "IFN-beta"),
        ("Interferon-\u03b2", "IFN-beta"),
        ("interferon alfa", "IFN-alpha1"),
        ("IFNg", "IFN-gamma"),
        ("TGFb1", "TGF-beta1"),
        ("TGF\u03b21", "TGF-beta1"),
        ("TGF-beta", "TGF-beta1"),
        ("TGFb", "TGF-beta1"),
        ("TNFa", "TNF-alpha"),
        ("TNF-\u03b1", "TNF-alpha"),
        ("tumour necrosis factor", "TNF-alpha"),
        ("IL2", "IL-2"),
        ("IL 2", "IL-2"),
        ("il-1\u03b2", "IL-1-beta"),
        ("IL1B", "IL-1-beta"),
        ("interferron gamma", "IFN-gamma"),
        ("P01574", "IFN-beta"),
    ]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="perturbation", knowledge=cytokines)
            assert resolution.match is not None
            assert resolution.match.name == name
            assert not resolution.ambiguous


def test_resolve_when_only_near_then_never_a_confident_match(cytokines, subtests):
    for text in [
        "IL-21",
        "IL-22",
        "IL-1",
        "IL",
        "anti-TNF",
        "factor",
        "apatinib",
        "TNF-beta",
        "PBS",
        "2",
        "",
        "  ",
        "+",
    ]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="perturbation", knowledge=cytokines)
            assert resolution.match is None or resolution.ambiguous


def test_resolve_when_no_cell_type_then_none(subtests):
    for label in ["NKX", "N", "M", "unknown", "unlabelled", "interferon", "CD99+", "xyz", "DX", "cDC3"]:
        with subtests.test(label=label):
            assert resolve(label, kind="cell_type", knowledge=load_knowledge()).match is None


def test_resolve_when_unknown_then_up_to_five_nearest_are_shown(cytokines):
    resolution = resolve("IL-21", kind="perturbation", knowledge=cytokines)
    assert {"IL-2", "IL-12"} <= {near.name for near in resolution.alternatives}
    assert len(resolution.alternatives) <= 5
    assert all(near.how == "fuzzy" and near.score < 0.9 for near in resolution.alternatives)
    assert not resolution.ambiguous


def test_resolve_when_several_fit_then_ambiguous_with_all_of_them(cytokines, subtests):
    for text, members in [
        ("interferon", {"IFN-beta", "IFN-alpha1", "IFN-gamma"}),
        ("interferons", {"IFN-beta", "IFN-alpha1", "IFN-gamma"}),
        ("type I interferon", {"IFN-beta", "IFN-alpha1"}),
        ("JAK inhibitors", {"Ruxolitinib", "Tofacitinib"}),
        ("IL-1", {"IL-1-beta", "IL-1-alpha"}),
        ("shared name", {"Left", "Right"}),
    ]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="perturbation", knowledge=cytokines)
            assert resolution.ambiguous
            assert {resolution.match.name, *(other.name for other in resolution.alternatives)} == members


def test_resolve_when_name_synonym_or_id_then_score_says_so():
    known = load_knowledge()
    scores = [
        (match.score, match.how)
        for match in (
            resolve(text, kind="cell_type", knowledge=known).match
            for text in ("natural killer cell", "NK", "CL:0000623", "CL_0000623", "resting NK cells")
        )
    ]
    assert scores == [(1.0, "name"), (0.98, "synonym"), (1.0, "id"), (1.0, "id"), (0.93, "fuzzy")]


def test_resolve_when_tissue_or_disease_then_found(subtests):
    for text, kind, expected in [
        ("lungs", "tissue", "UBERON:0002048"),
        ("pulmonary", "tissue", "UBERON:0002048"),
        ("oesophagus", "tissue", "UBERON:0001043"),
        ("peripheral blood", "tissue", "UBERON:0000178"),
        ("brain", "tissue", "UBERON:0000955"),
        ("skin", "tissue", "UBERON:0002097"),
        ("SLE", "disease", "MONDO:0007915"),
        ("lupus", "disease", "MONDO:0007915"),
        ("GBM", "disease", "MONDO:0018177"),
        ("Glioblastoma, WHO Grade IV", "disease", "MONDO:0018177"),
        ("Crohn's disease", "disease", "MONDO:0005011"),
        ("Alzheimer\u2019s disease", "disease", "MONDO:0004975"),
        ("type II diabetes", "disease", "MONDO:0005148"),
        ("leukaemia", "disease", "MONDO:0005059"),
        ("Sj\xf6gren's syndrome", "disease", "MONDO:0010030"),
        ("rheumatiod arthritis", "disease", "MONDO:0008383"),
        ("healthy", "disease", "PATO:0000461"),
    ]:
        with subtests.test(text=text):
            match = resolve(text, kind=kind, knowledge=load_knowledge()).match
            assert match is not None
            assert match.id == expected


def test_resolve_when_short_form_of_several_then_it_says_so(subtests):
    for text, kind, first, second, is_sure in [
        ("DC", "cell_type", "dendritic cell", "pancreatic ductal cell", True),
        ("DCs", "cell_type", "dendritic cell", "pancreatic ductal cell", True),
        ("HSC", "cell_type", "hematopoietic stem cell", "hepatic stellate cell", True),
        ("EC", "cell_type", "endothelial cell", "type EC enteroendocrine cell", True),
        ("TH", "cell_type", "CD4-positive helper T cell", "dopaminergic neuron", False),
        ("PT", "cell_type", "epithelial cell of proximal tubule", "platelet", False),
        ("AD", "disease", "Alzheimer disease", "atopic eczema", False),
        ("IFN", "perturbation", "IFN-beta", "IFN-gamma", False),
    ]:
        with subtests.test(text=text):
            resolution = resolve(text, kind=kind, knowledge=load_knowledge())
            assert resolution.ambiguous
            assert (resolution.match.name, resolution.alternatives[0].name) == (first, second)
            assert (resolution.match.how == "synonym") is is_sure  # what is not sure is never taken over into an atlas
            assert f"is short for several things: {first} or {second}" in resolution.note


def test_resolve_when_short_form_has_one_known_meaning_then_still_doubtful():
    resolution = resolve("M1", kind="cell_type", knowledge=load_knowledge())
    assert resolution.ambiguous
    assert resolution.match.name == "M1 macrophage"
    assert resolution.note.endswith("M1 macrophage, or something else")


def test_resolve_when_salt_dose_or_code_beside_the_name_then_found(subtests):
    for text, name in [
        ("gemcitabine HCl", "Gemcitabine"),
        ("Imatinib mesylate", "Imatinib"),
        ("0.5 uM panobinostat", "Panobinostat"),
        ("10 ng/ml IL-6", "IL-6"),
        ("dasatinib 100 nM", "Dasatinib"),
        ("rhIL-2", "IL-2"),
        ("recombinant human IL-6", "IL-6"),
        ("Belinostat (PXD101)", "Belinostat"),
    ]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="perturbation", knowledge=load_knowledge())
            assert resolution.match.name == name
            assert not resolution.ambiguous


def test_resolve_when_salt_or_dose_alone_then_none(subtests):
    for text in ["sodium", "calcium phosphate", "hydrochloride", "rhodamine", "10 ng/ml", "5 uM"]:
        with subtests.test(text=text):
            assert resolve(text, kind="perturbation", knowledge=load_knowledge()).match is None


def test_resolve_when_words_are_implied_then_left_out(subtests):
    for text, expected in [
        ("blood monocytes", "CL:0000576"),  # its home tissue
        ("neutrophil granulocyte", "CL:0000775"),  # a type above it
        ("CD1C+ cDC2", "CL:0002399"),  # its marker
        ("liver Kupffer cells", "CL:0000091"),
        ("CD56dim natural killer cells", "CL:0000939"),  # natural killer is NK
        ("renal proximal tubular epithelial cells", "CL:0002306"),
    ]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="cell_type", knowledge=load_knowledge())
            assert resolution.match.id == expected
            assert not resolution.ambiguous


def test_resolve_when_a_word_contradicts_then_not_left_out(subtests):
    for text in ["retina monocyte zone", "CD19+ cDC2", "kidney Kupffer cells"]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="cell_type", knowledge=load_knowledge())
            assert resolution.match is None or resolution.ambiguous


def test_resolve_when_brackets_explain_then_both_are_weighed(subtests):
    for text, expected, is_sure in [
        ("Brush cell (Tuft cell)", "tuft cell", True),  # two names of one term
        ("HSCs (hepatic stellate)", "hepatic stellate cell", True),  # a short form, explained
        ("OC (osteoclast)", "osteoclast", True),
        ("T cells (CD8+)", "CD8-positive, alpha-beta T cell", True),  # the brackets say more
        ("T cells (batch 3)", "T cell", True),  # nothing about cells
        ("Basal cells (airway progenitor cells)", "basal cell", False),  # cells that nobody knows
        ("B cells (monocytes)", "monocyte", False),  # a contradiction
    ]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="cell_type", knowledge=load_knowledge())
            assert resolution.match.name == expected
            assert resolution.ambiguous is not is_sure


def test_resolve_when_another_word_then_not_taken_for_a_typing_error(subtests):
    for text in ["fibrobeast", "hepatocake", "macrophase cell", "monotype", "kelatinocyte"]:
        with subtests.test(text=text):
            assert resolve(text, kind="cell_type", knowledge=load_knowledge()).match is None


def test_resolve_when_only_a_part_of_one_name_then_offered_as_doubtful(subtests):
    for text in ["ductal cells", "nucleated cell", "tissue resident cell", "Effector CD4+ T cell"]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="cell_type", knowledge=load_knowledge())
            assert resolution.match.how == "fuzzy"
            assert resolution.ambiguous
            assert resolution.note == f"only a part of the name of {resolution.match.name!r}"


def test_resolve_when_misspelt_then_the_note_says_what_it_was_read_as():
    resolution = resolve("monoctye", kind="cell_type", knowledge=load_knowledge())
    assert resolution.note == "read as a misspelling of 'monocyte'"


def test_resolve_when_unknown_id_then_nothing_is_near(subtests):
    for text in ["CL:9999999", "CL_9999999", "MONDO:0000000"]:
        with subtests.test(text=text):
            resolution = resolve(text, kind="cell_type", knowledge=load_knowledge())
            assert (resolution.match, resolution.alternatives) == (None, ())


def test_resolve_when_kind_has_no_table_then_never_matched():
    assert resolve("lung", kind="donor", knowledge=load_knowledge()).match is None


def test_resolve_when_labels_of_real_files_then_each_has_its_published_id(shared):
    import h5py

    data = shared / "data"
    files = sorted(data.glob("perturbation/*.h5ad")) + sorted(data.glob("reference/*.h5ad"))
    known, pairs, published = load_knowledge(), set(), set()
    for file in files:
        with h5py.File(file) as stream:
            columns = {}
            for column in ("cell_type", "cell_type_ontology_term_id", "cell_type_published"):
                if column in stream["obs"]:
                    group = stream["obs"][column]
                    columns[column] = group["categories"].asstr()[:][group["codes"][:]]
        pairs |= set(zip(columns["cell_type"], columns["cell_type_ontology_term_id"], strict=True))
        published |= set(columns.get("cell_type_published", ()))
    for label, term in sorted(pairs - {("unknown", "unknown")}):
        found = resolve(label, kind="cell_type", knowledge=known).match.id
        # the file of THP-1 cells has the id of what the line models
        assert found == term or (found.startswith("CVCL_") and term in ancestors(found, knowledge=known)), label
    for label in sorted(published - {"unlabelled"}):
        assert resolve(label, kind="cell_type", knowledge=known).match is not None, label
