import pytest

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge, with_vocabulary
from haystack_kernel.retrieval.hidden import _BY_STATE, may_contain
from haystack_kernel.retrieval.same_treatment import names_treatment
from haystack_kernel.retrieval.view import build_view, find_hidden
from haystack_kernel.schema import HiddenPair, RunConfig, Vocabulary

CD4, CD8, T, TREG, MEMORY = "CL:0000624", "CL:0000625", "CL:0000084", "CL:0000792", "CL:0000813"
B, MONO, CD14, CD16, DC, LYMPHOCYTE = "CL:0000236", "CL:0000576", "CL:0001054", "CL:0002396", "CL:0000451", "CL:0000542"


@pytest.fixture
def visible(make_atlas, knowledge, settings):
    """Labels left after hiding pairs of (cell type, perturbation)."""

    def look(rows, *pairs):
        hide = tuple(HiddenPair(cell_type_id=one, perturbation=name) for one, name in pairs)
        config = RunConfig(hide=hide)
        return build_view(make_atlas(rows), knowledge=knowledge, settings=settings, config=config).conditions

    return look


def test_hidden_takes_ancestors_descendants_and_overlapping_types_of_all_datasets(row, visible):
    types = (CD4, CD8, T, TREG, MEMORY, LYMPHOCYTE, B, CD14)
    rows = [row(dataset, one, "IFN-beta", "d", 9) for one in types for dataset in ("s", "t")]
    left = visible(rows, (CD4, "IFN-beta"))
    assert set(left[keys.CELL_TYPE_ID]) == {CD8, B, CD14}  # memory T cells may be CD4 memory T cells
    assert set(left[keys.DATASET]) == {"s", "t"}


def test_hidden_never_takes_controls_nor_other_perturbations(row, visible):
    rows = [row("s", CD4, "", "d", 9), row("s", CD4, "TNF-alpha", "d", 9), row("s", CD4, "IFN-beta", "d", 9)]
    left = visible(rows, (CD4, "IFN-beta"))
    assert list(left[keys.PERTURBATION]) == ["", "TNF-alpha"]


@pytest.mark.parametrize("asked", ["IFN-beta", "interferon beta", "ifnb1"])
@pytest.mark.parametrize("stored", ["IFN-beta", "Interferon beta", "IFNB1"])
def test_hidden_follows_the_perturbation_under_all_its_names(row, visible, asked, stored):
    assert visible([row("s", CD4, stored, "d", 9)], (CD4, asked)).empty


def test_hidden_takes_labels_that_could_be_the_type(row, visible):
    labels = {
        "T cell (unresolved)": True,
        "T cells": True,
        "CD4_TEM": True,
        "unknown": True,
        "lymphocyte, other": True,
        "": True,
        "malignant": True,  # of which lineage is not said
        "fibroblast-like": True,  # what they are is not said
        "CD14+ monocyte": False,
        "fibroblasts": False,
    }
    rows = [row("s", "", "IFN-beta", "d", 9, label=label or " ") for label in labels]
    left = set(visible(rows, (CD4, "IFN-beta"))[keys.CELL_TYPE])
    assert left == {label for label, hidden in labels.items() if not hidden}


def test_hidden_takes_all_cells_that_one_selection_would_bring_along(row, visible):
    rows = [
        row("s", "CL:9999999", "IFN-beta", "d", 9, label="T cell (unresolved)"),
        row("s", "CL:9999999", "IFN-beta", "d", 9, label="odd"),
        row("s", "CL:0000451", "IFN-beta", "d", 9),
    ]
    assert list(visible(rows, (CD4, "IFN-beta"))[keys.CELL_TYPE_ID]) == [DC]


def test_hidden_monocyte_leaves_its_sibling_and_dendritic_cells(row, visible):
    rows = [row("s", one, "IFN-beta", "d", 9) for one in (CD14, MONO, CD16, DC)]
    left = visible(rows, (CD14, "IFN-beta"))
    assert set(left[keys.CELL_TYPE_ID]) == {CD16, DC}


def test_hidden_when_the_type_is_unknown_then_refuses(row, visible):
    with pytest.raises(InvalidInputError, match=r"cannot hide 'CL:1234567'.*ancestors"):
        visible([row("s", CD4, "IFN-beta", "d", 9)], ("CL:1234567", "IFN-beta"))


@pytest.mark.parametrize(
    ("label", "hidden"),
    [
        ("T cell (unresolved)", True),
        ("CD4 T cells", True),
        ("naive CD4 T", True),
        ("CD8 T cell", False),
        ("B cells", False),
        ("NK cell", False),
        ("CD14+ monocyte", False),
        ("PBMC", True),
    ],
)
def test_hidden_reads_labels_with_the_packaged_tables(label, hidden):
    assert may_contain("", label, hidden=CD4, knowledge=load_knowledge()) is hidden


OPEN_LABELS = (
    # the type is not known
    *(
        "Bmem",
        "Bnai",
        "ASC_2",
        "cluster 3",
        "7",
        "c12_IGHM",
        "unsorted",
        "unassigned",
        "tonsil cells",
        "XJ-7 line",
        "E0771",
    ),
    # a population sorted by a marker, or by what it lacks
    *(
        "CD45+",
        "CD3-",
        "CD14neg",
        "CD11b- cells",
        "HLA-DR+",
        "T cell depleted PBMC",
        "non-T cells",
        "all but monocytes",
    ),
    # cells of any lineage
    *("APC", "antigen-presenting cells", "PBMC", "mononuclear cells", "malignant", "tumor", "stem cell", "cycling"),
    *("phagocytes", "leukocytes", "lymphoid", "immune cells", "cells"),
    # more than one, or one and what came along
    *(
        "monocyte doublet",
        "T cell / unknown",
        "Treg/Tconv",
        "monocytes and others",
        "NK + B",
        "mono+DC+B",
        "T or B cell",
    ),
    *("monocyte contaminated", "NK co-culture", "monocyte-like", "precursors of monocytes"),
)


@pytest.mark.parametrize("label", OPEN_LABELS)
def test_hidden_takes_every_label_that_does_not_say_which_cells_they_are(label):
    assert may_contain("", label, hidden=B, knowledge=load_knowledge())


OTHER_LABELS = (
    *("T cells", "CD8 T", "NK", "CD14+ Mono", "classical monocytes", "CD14_mono", "Treg", "platelets", "hepatocytes"),
    *("lung fibroblasts", "NK cells (activated)", "T cells / NK cells", "CD4 TEM", "erythrocyte"),
    "IFN-stimulated monocytes",
)


@pytest.mark.parametrize("label", OTHER_LABELS)
def test_hidden_leaves_labels_that_name_another_type(label):
    assert not may_contain("", label, hidden=B, knowledge=load_knowledge())


@pytest.mark.parametrize("name", sorted(_BY_STATE.values()))
def test_hidden_takes_ids_of_types_that_are_no_lineage(name):
    ids = {label: one for one, label in _BY_STATE.items()}
    assert may_contain(ids[name], name, hidden=B, knowledge=load_knowledge())


SPELLINGS = {  # hidden treatment -> labels that may mean it, and labels that do not
    "STAT1 knock-out": (
        [
            *("STAT1", "stat1", "STAT1_g1", "STAT1g2", "STAT1-3", "sgSTAT1", "sgSTAT1_2", "STAT1+ctrl", "ctrl+STAT1"),
            *("STAT1 KO", "STAT1KO", "KO_STAT1", "siSTAT1", "shSTAT1-1", "STAT1_i", "STAT1|IRF7", "IRF7+STAT1"),
            *("STAT1_P1P2-1|STAT1", "STAT1 knockout", "STAT1 knock-out", "STAT1_CRISPRi", "STAT1_ENST00000361099.8-1"),
            *("multiple", "unassigned"),
        ],
        ["STAT2", "STAT12", "IRF7", "sgIRF7_1", "JAK2_g1", "STAT5A", "IFN-beta", "dexamethasone"],
    ),
    "JAK2 knock-out": (
        ["JAK2", "JAK2_g1", "sgJAK2", "JAK2+ctrl", "JAK2_JAK1", "Negative", "no guide"],
        ["JAK1", "STAT1g2"],
    ),
    "MARCHF8 knock-out": (["MARCH8", "MARCH8g4", "MARCHF8_2"], ["MARCHF1", "MARCH1"]),  # former symbols, aliases
    "CD274 knock-out": (["PDL1", "PD-L1_g2", "B7-H1", "CD274g1"], ["PDCD1", "PDCD1LG2"]),
    "ZAP70 CRISPRi": (["ZAP70", "ZAP70_i", "sgZAP70-1"], ["ZAP70L", "LCK_i"]),
    "AR knock-out": (["AR", "AR_g1", "sgAR"], ["ARF1", "ARAF_g2"]),
    "IFN-beta": (
        [
            *("IFNB1", "interferon beta", "IFNb", "IFN-\u03b2", "IFN beta 6h", "IFN-beta 10 ng/ml", "IFNB + TNF"),
            *("TNF, IFN-beta", "stim", "stimulated", "treated", "cytokine mix", "cocktail", "drug 3", "12"),
            *("interferon", "type I interferon"),
        ],
        ["IFN-alpha", "IFN-gamma", "TNF-alpha", "IL-2", "dexamethasone", "XQ-4471"],
    ),
    "trametinib": (
        [
            *("Trametinib", "trametinib_10uM", "Trametinib (GSK1120212)", "GSK1120212", "trametinib|24h"),
            "dabrafenib+trametinib",
        ],
        ["selumetinib", "dabrafenib", "binimetinib", "XQ-4471"],
    ),
    "XQ-4471": (["XQ-4471", "xq4471", "XQ_4471 1uM", "compound"], ["XQ-44711", "XQ-447", "dexamethasone"]),
}


@pytest.mark.parametrize(
    ("hidden", "label", "same"),
    [
        (hidden, label, same)
        for hidden, (mine, others) in SPELLINGS.items()
        for labels, same in ((mine, True), (others, False))
        for label in labels
    ],
)
def test_hidden_treatment_is_found_under_every_spelling(hidden, label, same):
    assert names_treatment(label, hidden, knowledge=load_knowledge()) is same


def test_hidden_lists_what_it_took_by_dataset_treatment_and_label(row, make_atlas, knowledge):
    rows = [
        row("s", CD4, "IFN-beta", "d", 9),
        row("s", CD4, "IFN-beta", "e", 4),
        row("s", "", "stim", "d", 20, label="cluster 3"),
        row("s", B, "IFN-beta", "d", 7),
        row("s", CD4, "", "d", 50),
    ]
    pairs = [HiddenPair(cell_type_id=CD4, perturbation=name) for name in ("IFN-beta", "IL-2")]
    config = RunConfig(hide=tuple(pairs))
    found = find_hidden(make_atlas(rows), knowledge=knowledge, config=config)
    assert [(one.perturbation, one.cell_type, one.n_cells) for one in found] == [
        ("stim", "cluster 3", 20),
        ("IFN-beta", "CD4-positive, alpha-beta T cell", 13),
        ("", "", 0),  # the second pair hides nothing, which is listed too
    ]
    name = "CD4-positive, alpha-beta T cell"
    assert [one.pair for one in found] == [f"{name} : IFN-beta", f"{name} : IFN-beta", f"{name} : IL-2"]


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("IFN-beta + TNF-alpha", "cytokine"),
        ("IFNb+TNF", "cytokine"),
        ("IFNb_10ng", "unspecified"),
        ("XQ-4471 + IFN-beta", "drug"),
        ("stim_2", "cytokine"),
        ("TNF-alpha + IFN-gamma + IFN-beta", "cytokine"),
    ],
)
def test_a_label_that_only_the_atlas_knows_hides_as_if_nobody_knew_it(label, kind):
    tables = load_knowledge()
    held = with_vocabulary(tables, Vocabulary(perturbations=((label, kind), ("XQ-4471", "drug"))))
    assert names_treatment(label, "IFN-beta", knowledge=tables)
    assert names_treatment(label, "IFN-beta", knowledge=held)
    assert not names_treatment("XQ-4471", "IFN-beta", knowledge=held)
    assert names_treatment("XQ-4471", "XQ-4471", knowledge=held)


@pytest.mark.parametrize(
    "label", ["Bmem", "APC", "CD45+", "unsorted", "tonsil cells", "CD3-", "cluster 3", "zorblax II"]
)
def test_cells_whose_label_only_the_atlas_knows_are_hidden_in_doubt(label):
    tables = load_knowledge()
    held = with_vocabulary(tables, Vocabulary(cell_types=(label,)))
    assert may_contain("", label, hidden="CL:0000236", knowledge=tables)
    assert may_contain("", label, hidden="CL:0000236", knowledge=held)
    assert may_contain("", label, hidden=f"label:{label}", knowledge=held)
