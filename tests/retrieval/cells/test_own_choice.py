"""The user's own file: untreated cells of the type asked for, by its own labels; nothing left out is unlisted."""

import numpy as np
import pandas as pd
import pytest

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.retrieval.cells.own_choice import choose_own_cells
from haystack_kernel.schema import Perturbation, StructuredQuery

B, CD4, NAIVE_CD4 = "CL:0000236", "CL:0000624", "CL:0000895"
MIXED = {  # two cells of each pair
    "cell_type": ["B cell", "B cell", "CD14+ Mono", "CD14+ Mono", "Bmem", "doublet", "B cell", "naive B"],
    "stim": ["ctrl", "stim", "ctrl", "stim", "ctrl", "ctrl", "unassigned", "ctrl"],
    "donor_id": ["p1", "p1", "p2", "p2", "p1", "p2", "p1", "p2"],
}


@pytest.fixture
def choose():
    """Choose among cells given as columns; the answer is the set of row numbers and the choice itself."""

    def run(columns, criteria=None, *, cell_type=B, task="perturbation_novel_cell_types", source_types=(), **fields):
        knowledge = load_knowledge()
        obs = pd.DataFrame(columns)
        obs.index = [f"c{i}" for i in range(len(obs))]
        perturbed = task.startswith("perturbation")
        query = StructuredQuery(
            question="How would B cells respond to IFN-beta?",
            task_type=task,
            cell_type_id=cell_type,
            cell_type_name=knowledge.cell_types[cell_type].name,
            cell_type_synonyms=knowledge.cell_types[cell_type].synonyms,
            perturbation=Perturbation(text="IFN-beta", name="IFN-beta") if perturbed else None,
            **fields,
        )
        chosen = choose_own_cells(
            obs, name="my/mine.h5ad", query=query, knowledge=knowledge, criteria=criteria, source_types=source_types
        )
        return set(np.flatnonzero(chosen.keep)), chosen

    return run


def test_own_cells_are_the_untreated_ones_of_the_type_and_the_rest_is_listed(choose):
    kept, chosen = choose(MIXED)
    assert kept == {0, 7}  # a naive B cell is a B cell
    assert chosen.source == "2 of 8 cells of mine.h5ad"
    assert chosen.open == ()
    assert chosen.left_out == (
        "2 treated (stim: stim (2))",
        "1 of unknown treatment (stim: unassigned (1))",
        "1 of other cell types (cell_type: CD14+ Mono (1))",
        "2 whose label does not say clearly that they are of this type (cell_type: Bmem (1), doublet (1))",
    )


CONTROLS = (
    "ctrl",
    "control",
    "Untreated",
    "unstim",
    "vehicle",
    "DMSO",
    "vehicle (DMSO)",
    "PBS",
    "mock",
    "NT",
    "medium",
)
TREATED = ("IFN-beta", "stim", "XQ-4471", "LPS 10 ng/ml", "Dabrafenib in DMSO", "positive control", "TNF+IL-1b")


@pytest.mark.parametrize("name", ["perturbation", "Treatment", "drug_name", "stim", "sm_name.compound", "cytokine"])
def test_own_cells_know_controls_from_treatments_in_every_column_of_treatments(choose, name):
    labels = [*CONTROLS, *TREATED]
    kept, _ = choose({"cell_type": ["B cell"] * len(labels), name: labels})
    assert kept == set(range(len(CONTROLS)))


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"condition": ["ctrl", "stim"]}, {0}),
        ({"group": ["control", "SLE"]}, {0, 1}),  # a disease is no treatment
        ({"disease": ["normal", "COVID-19"]}, {0, 1}),
        ({"sample": ["d1_ctrl", "d1_stim"]}, {0}),
        ({"orig.ident": ["1015_untreated", "1015_IFN-beta"]}, {0}),
        ({"batch": ["b1", "b2"], "phase": ["G1", "S"]}, {0, 1}),
        ({"dataset": ["gbm_panobinostat"] * 2}, {0, 1}),  # one name tells no cells apart
        ({"drug": ["Trametinib", "Trametinib"], "dose": ["0 uM", "10 uM"]}, {0}),
        ({"drug": ["DMSO", "Trametinib"], "dose_um": [0.1, 10]}, {0}),
        ({"dose": [0.0, 5.0]}, {0}),
        ({"cytokine": ["IFN-beta"] * 2, "time_h": [0, 6]}, {0}),
        ({"guide_id": ["NTg1", "JAK2g2"]}, {0}),
        ({"sgRNA": ["non-targeting_00998", "KLF1_sg1"]}, {0}),
        ({"guide": ["AAVS1", "unassigned"]}, {0}),
        ({"perturbation": ["control", "JAK2"], "condition": ["ctrl", "knockout"]}, {0}),
        ({"is_control": [True, False], "perturbation_name": ["", "IFN-beta"]}, {0}),
        ({"treated": ["no", "yes"]}, {0}),
        ({"treatment": ["none", "LPS"]}, {0}),
        ({"treatment": ["none", "none"]}, {0, 1}),
        ({"timepoint": ["UT", "3hCA"]}, {0}),
        ({"timepoint": ["Pre", "Post"]}, {0}),
        ({"visit": ["Day 0", "Day 7"]}, {0}),
        ({"MOI": [0, 5]}, {0}),
        ({"radiation_gy": ["0Gy", "4Gy"]}, {0}),
        ({"clone": ["parental", "STAT1_KO_c3"]}, {0}),
        ({"allergen": ["saline", "HDM"]}, {0}),
        ({"time_to_process_h": [2, 6]}, {0, 1}),  # says nothing of a treatment
        ({"timepoint": ["6h", "24h"]}, {0, 1}),
        ({"treatment_response": ["R", "NR"]}, {0, 1}),
        ({"perturbation": ["control", "control"], "stim": ["ctrl", "stim"]}, {0}),  # one column that says so is enough
    ],
)
def test_own_cells_are_untreated_where_any_column_tells(choose, columns, kept):
    assert choose({"cell_type": ["B cell"] * 2, **columns})[0] == kept


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"celltype": ["B cell", "T cell"]}, {0}),
        ({"CellType": ["B", "NK"]}, {0}),
        ({"cell_type_ontology_term_id": ["CL:0000236", "CL:0000623"]}, {0}),
        ({"cell_ontology_class": ["plasma cell", "b cell"]}, {1}),
        ({"seurat_annotations": ["B", "CD14 Mono"]}, {0}),
        ({"predicted.celltype.l1": ["B", "CD4 T"]}, {0}),
        ({"leiden_label": ["B cell", "monocyte"], "cluster": ["0", "1"]}, {0}),
        ({"cell_type": ["lymphocyte", "B cell"]}, {1}),  # a lymphocyte may be another
        ({"cell_type": ["B cell", "B cell"], "cell_type_fine": ["naive B", "CD8 T"]}, {0}),  # columns disagree
        ({"cell_type": ["B cell", "B cell"], "cell_type_fine": ["B_c1", "B_c2"]}, {0, 1}),
        ({"cell_type": ["B cell", "CD19-"]}, {0}),
        ({"cell_type": ["B cell", "non-B cells"]}, {0}),
        ({"cell_type": ["B cell", "B/T doublet"]}, {0}),
        ({"cell_type": ["B cell", None]}, {0}),
    ],
)
def test_own_cells_are_of_the_type_by_any_column_of_types(choose, columns, kept):
    assert choose({"perturbation": ["control"] * 2, **columns})[0] == kept


def test_own_cells_without_a_column_of_types_are_taken_and_said_to_be_unchecked(choose):
    kept, chosen = choose({"condition": ["ctrl"] * 3, "leiden": ["0", "1", "2"]})
    assert kept == {0, 1, 2}
    assert chosen.source == "all 3 cells of mine.h5ad"
    assert chosen.open == (
        "the cell type of the query cells was not checked: the file has no column of cell types (taken as B cells)",
    )


def test_own_cells_without_a_column_of_treatments_are_said_to_be_unchecked(choose):
    kept, chosen = choose({"cell_type": ["B cell"] * 2})
    assert kept == {0, 1}
    assert chosen.open == ("whether the query cells are untreated was not checked: no column of the file says so",)


def test_own_cells_of_a_broader_label_are_taken_where_no_cell_has_its_own(choose):
    kept, chosen = choose({"cell_type": ["CD4 T cell", "CD8 T cell"], "stim": ["ctrl"] * 2}, cell_type=NAIVE_CD4)
    assert kept == {0}
    assert "labelled CD4 T cell, the nearest broader type than naive" in chosen.open[0]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"cell_type": ["glioblastoma cell", "malignant cell", "myeloid cell"]},
            r"no cells .* untreated B cells.*malignant",
        ),
        (
            {"cell_type": ["cluster 1", "c2", "7"]},
            r"does not say clearly.*cluster 1 \(1\).*--query-cells 'COLUMN=VALUE",
        ),
        ({"cell_type": ["B cell"] * 3, "stim": ["stim"] * 3}, r"3 treated \(stim: stim \(3\)\)"),
        ({"cell_type": ["B cell"] * 3, "stim": ["unknown", "NA", None]}, r"3 of unknown treatment \(stim: unknown"),
        ({"cell_type": ["APC", "CD45+", "PBMC"]}, r"query-cells all"),
    ],
)
def test_own_cells_that_are_others_are_refused_with_what_the_file_holds(choose, columns, says):
    with pytest.raises(InvalidInputError, match=f"(?s)these cannot be the query cells: my/mine.h5ad .*{says}"):
        choose(columns)


@pytest.mark.parametrize(
    ("criteria", "kept"),
    [
        ("cell_type=Bmem", {4}),
        ("cell_type=B cell,stim=ctrl", {0}),
        ("cell_type=B cells , stim = CTRL", {0}),  # another writing of the same type
        ("cell_type=B cell,cell_type=Bmem,stim=ctrl", {0, 4}),
        ("Cell-Type=doublet", {5}),
        ("stim=unassigned", {6}),  # types are checked still
        ("donor_id=p2", {7}),
        ("all", set(range(8))),
    ],
)
def test_criteria_choose_the_cells_and_the_other_columns_are_checked_still(choose, criteria, kept):
    assert choose(MIXED, criteria)[0] == kept


def test_criteria_that_choose_other_cells_are_said_to_differ(choose):
    _, chosen = choose(MIXED, "cell_type=CD14+ Mono,stim=ctrl")
    assert chosen.open == ("the query cells are those you chose, labelled CD14+ Mono, not B cell",)
    assert "as you asked, whatever their type" in choose(MIXED, "all")[1].open[0]


@pytest.mark.parametrize(
    ("criteria", "says"),
    [
        ("celltyp=B cell", "no column 'celltyp'; its columns of labels are cell_type"),
        ("cell_type=B-cel", "no cell of the file has cell_type=B-cel; its values are B cell"),
        ("B cell", "cannot be read; give --query-cells"),
        ("cell_type=", "cannot be read"),
    ],
)
def test_criteria_that_name_nothing_are_refused_with_the_nearest(choose, criteria, says):
    with pytest.raises(InvalidInputError, match=says):
        choose(MIXED, criteria)


def test_own_cells_are_of_the_donor_asked_for_or_refused(choose):
    task = "perturbation_novel_samples"
    assert choose(MIXED, donor_id="donor p1", task=task)[0] == {0}
    with pytest.raises(InvalidInputError, match=r"holds no donor 'p9'; its donor_id are p1, p2"):
        choose(MIXED, donor_id="p9", task=task)
    _, chosen = choose({"cell_type": ["B cell"], "stim": ["ctrl"]}, donor_id="p9", task=task)
    assert chosen.open == (
        "the donor of the query cells was not checked: the file has no column of donors ('p9' asked for)",
    )


def test_own_cells_are_of_the_tissue_and_disease_asked_for_or_refused(choose):
    columns = {"cell_type": ["B cell"] * 2, "stim": ["ctrl"] * 2, "tissue": ["blood", "lung"]}
    lung = {"tissue_id": "UBERON:0002048", "tissue_name": "lung"}
    assert choose(columns, **lung)[0] == {1}
    with pytest.raises(InvalidInputError, match=r"holds no cells of tissue 'lung'; its tissue is blood \(2\)"):
        choose({**columns, "tissue": ["blood"] * 2}, **lung)
    _, chosen = choose({**columns, "tissue": ["site 1", "site 2"]}, **lung)
    assert "the tissue of the query cells was not checked" in chosen.open[0]
    ill = {"disease_id": "MONDO:0007915", "disease_name": "systemic lupus erythematosus"}
    columns["disease"] = ["systemic lupus erythematosus", "normal"]
    assert choose(columns, **ill)[0] == {0}


def test_own_cells_are_of_the_dataset_asked_for_or_refused(choose):
    columns = {"cell_type": ["B cell"] * 2, "stim": ["ctrl"] * 2}
    assert choose(columns, target_dataset="Mine")[0] == {0, 1}
    assert choose({**columns, "dataset": ["a_1", "b"]}, target_dataset="a-1")[0] == {0}
    with pytest.raises(InvalidInputError, match=r"neither is nor holds a dataset 'nosuchset'"):
        choose(columns, target_dataset="nosuchset")


def test_own_cells_of_an_imputation_are_those_it_starts_from(choose):
    task = "cell_type_imputation"
    assert choose(MIXED, task=task)[0] == {2, 4, 5}  # untreated, and not the type to be imputed
    assert choose(MIXED, task=task, source_types=("CL:0001054",))[0] == {2}
