import pytest

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.retrieval.hidden import may_contain
from haystack_kernel.retrieval.view import build_view
from haystack_kernel.schema import HiddenPair, RunConfig

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
        "CD14+ monocyte": False,
        "malignant": False,
        "fibroblast-like": False,
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
