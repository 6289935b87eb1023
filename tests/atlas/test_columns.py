"""A column that holds treatments and that nobody named stops the build; columns that only look like it do not."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest

from haystack_kernel import keys
from haystack_kernel.atlas import atlas_info, load_mapping, open_atlases
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import CellSet

PLAIN = {"cell_type": ["B cell"] * 8, "donor_id": ["d1", "d2"] * 4}

TREATMENTS = [  # name of the column, its labels: the mapping names no treatments, so the build must stop
    ("perturbation", ["control", "IFN-beta"]),
    ("stim", ["unstim", "stim"]),
    ("stim", [0, 1]),
    ("condition", ["ctrl", "LPS"]),
    ("condition", ["ctrl", "stim"]),
    ("Treatment", ["none", "chemo"]),
    ("treatment.group", ["vehicle", "XQ-4471"]),
    ("guide", ["NT_1", "STAT1_g1"]),
    ("sgRNA", ["sgNTC-1", "sgJAK2-2"]),
    ("target_gene", ["non-targeting", "STAT1"]),
    ("gene_target", ["JAK2", "STAT1"]),
    ("drug", ["DMSO", "Dabrafenib"]),
    ("drug", ["Dabrafenib", "Dabrafenib"]),
    ("compound", ["cpd-12", "cpd-13"]),
    ("sm_name", ["Dimethyl Sulfoxide", "Belinostat"]),
    ("cytokine", ["PBS", "IL-6"]),
    ("dose", [0.0, 10.0]),
    ("dose_uM", [0.1, 10.0]),
    ("concentration", ["0 nM", "10 nM"]),
    ("timepoint", ["0h", "24h"]),
    ("time_h", [0, 6]),
    ("infection", ["mock", "SARS-CoV-2"]),
    ("treated", [True, False]),
    ("group", ["untreated", "IFN-gamma"]),
    ("orig.ident", ["ctrl_1", "stim_1"]),
    ("sample", ["PBS_rep1", "TNF_rep1"]),
    ("knockout", ["WT", "KO"]),
    ("timepoint", ["UT", "3hCA"]),
    ("timepoint", ["baseline", "week 4"]),
    ("timepoint", ["Pre", "Post"]),
    ("visit", ["Day 0", "Day 7"]),
    ("genotype", ["WT", "STAT1-/-"]),
    ("clone", ["parental", "STAT1_KO_c3"]),
    ("cell_line", ["THP1_WT", "THP1_STAT1KO"]),
    ("allergen", ["saline", "HDM"]),
    ("radiation", ["0Gy", "4Gy"]),
    ("MOI", [0, 5]),
    ("polarization", ["M0", "M1"]),
    ("Behandlung", ["Kontrolle", "TNF-alpha"]),
    ("traitement", ["temoin", "LPS"]),
    ("vaccinated", ["No", "Yes"]),
    ("peptide", ["none", "NLV"]),
    ("MULTI_ID", ["ctrl-HTO1", "LPS-HTO2"]),
    ("mouse_surgery", ["sham", "MI"]),
    ("activation", ["resting", "activated"]),
    ("tag", ["unstim_d1", "stim_d1"]),
    ("media", ["RPMI", "RPMI+IL2"]),
    ("library_id", ["S1_DMSO", "S2_Dex"]),
    ("transgene", ["empty vector", "MYC"]),
    ("well", ["A1 (no drug)", "A2 (Dabrafenib)"]),
    ("characteristics_ch1.2", ["treatment: untreated", "treatment: LPS 100 ng/ml"]),
    ("lentivirus", ["GFP", "TBX21"]),
    ("biosample", ["PBMC_unstim", "PBMC_CD3CD28"]),
    ("infectionStatus", ["uninfected", "HIV"]),
    ("orig_ident", ["GSM1_control_rep1", "GSM2_TGFb_rep1"]),
    ("CAR", ["UTD", "CD19-28z"]),
    ("v2", ["PBS", "IFN-gamma"]),
    ("v3", ["IL-6", "IL-4"]),
]

OTHERS = [  # columns with such names or labels that say nothing about treatments
    ("perturbation", ["control", "control"]),
    ("condition", ["ctrl", "ctrl"]),
    ("condition", ["healthy", "systemic lupus erythematosus"]),
    ("condition", ["normal", "glioblastoma"]),
    ("guide_umi", [3, 17]),
    ("n_guides", [1, 2]),
    ("treatment_score", [0.1, 0.7]),
    ("treatment_response", ["R", "NR"]),
    ("batch", ["b1", "b2"]),
    ("sample", ["s1", "s2"]),
    ("timepoint", ["6h", "24h"]),
    ("age_days", [0, 4]),
    ("time", ["morning", "evening"]),
    ("perturbation", ["unknown", "NA"]),
    ("cluster", ["B cell", "natural killer cell"]),
    ("nCount_RNA", [900, 1000]),
    ("tissue_of_origin", ["lung", "blood"]),
    ("assay", ["10x 3' v2", "10x 3' v3"]),
    ("is_doublet", [True, False]),
    ("status", ["control", "control"]),
    ("sex", ["female", "male"]),
    ("smoking", ["never", "current"]),
    ("bmi_group", ["normal", "obese"]),
    ("severity", ["control", "severe"]),
    ("hla", ["A*02:01", "A*03:01"]),
    ("sampletype", ["fresh", "frozen"]),
    ("tumor", ["normal", "tumor"]),
    ("fraction", ["CD45+", "CD45-"]),
    ("cell_cycle", ["resting", "cycling"]),
    ("scrublet", [False, True]),
    ("time_to_process_h", [2, 6]),
    ("APOE_genotype", ["E3", "E4"]),
    ("age_group", ["young", "old"]),
    ("subset", ["naive", "memory"]),
    ("treatment_naive", ["yes", "yes"]),
    ("HTO_class", ["HTO-1", "HTO-2"]),
    ("lesion", ["lesional", "non-lesional"]),
    ("passage", ["P3", "P5"]),
    ("timepoint", ["T1", "T2"]),
]


def table(name, labels, **more):
    return {**PLAIN, name: labels * (8 // len(labels)), **more}


@pytest.mark.parametrize(("name", "labels"), TREATMENTS)
def test_a_column_of_treatments_that_is_not_named_stops_the_build(write, build, name, labels):
    with pytest.raises(InvalidInputError) as caught:
        build(write("a.h5ad", table(name, labels)), load_mapping("cellxgene"))
    message = str(caught.value)
    assert repr(name) in message
    assert f"--perturbation-column {name}" in message
    assert f"--not-treatment {name}" in message
    assert "--all-unperturbed" in message


def test_other_columns_do_not_stop_the_build(write, build):
    files = [{}, {}, {}]  # a name of a column occurs up to three times
    for name, labels in OTHERS:
        next(file for file in files if name not in file)[name] = labels * (8 // len(labels))
    for columns in files:
        report = build(write("a.h5ad", {**PLAIN, **columns}), load_mapping("cellxgene"))
        assert (report.n_control, report.n_left_out) == (8, 0)


def test_the_user_may_say_that_a_column_or_the_whole_file_holds_no_treatments(write, build):
    source = write("a.h5ad", table("stim", ["a", "b"], drug=["c", "d"] * 4))
    for given in ({"unperturbed": True}, {"ignore": ["stim", "drug"]}):
        assert build(source, load_mapping("cellxgene", **given)).n_control == 8
    with pytest.raises(InvalidInputError, match="a column that looks like treatments: 'drug'"):
        build(source, load_mapping("cellxgene", ignore=["stim"]))


TREATED = {"perturbation_column": "stim", "perturbation_type": "cytokine"}
STIM = ["ctrl", "ctrl", "IFN-beta", "IFN-beta"] * 2


def test_controls_that_another_column_says_were_treated_stop_the_build(write, build):
    source = write("a.h5ad", {**PLAIN, "stim": STIM, "drug": ["DMSO", "Ruxolitinib"] * 4})
    with pytest.raises(InvalidInputError, match=r"2 cells that would be controls \(ctrl\) are Ruxolitinib in .*'drug'"):
        build(source, load_mapping("cellxgene", **TREATED))


def test_two_columns_of_treatments_are_read_together(write, build, root):
    source = write("a.h5ad", {**PLAIN, "stim": STIM, "drug": ["DMSO", "Ruxolitinib"] * 4})
    mapping = load_mapping("cellxgene", perturbation_column="stim", perturbation_also=["drug"])
    report = build(source, mapping)
    cells = pq.read_table(root / "tiny" / "cells.parquet").to_pandas().sort_values(keys.CELL_INDEX)
    assert list(cells[keys.PERTURBATION])[:4] == ["", "Ruxolitinib", "IFN-beta", "IFN-beta + Ruxolitinib"]
    assert cells[keys.CONTROL_KIND].tolist()[:2] == ["DMSO", ""]
    assert (report.n_control, len(report.treatments)) == (2, 4)


def test_a_second_treatment_of_treated_cells_alone_stops_the_build_too(write, build):
    source = write("a.h5ad", {**PLAIN, "stim": STIM, "drug": ["DMSO", "DMSO", "DMSO", "Ruxolitinib"] * 2})
    with pytest.raises(InvalidInputError, match="cells treated with IFN-beta have different labels in column 'drug'"):
        build(source, load_mapping("cellxgene", **TREATED))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("condition", ["ctrl", "ctrl", "stim", "stim"]),
        ("sample_id", ["1_ctrl", "2_ctrl", "1_stim", "2_stim"]),
        ("treatment", ["vehicle (PBS)", "vehicle (PBS)", "10 ng/ml IFN-beta", "10 ng/ml IFN-beta"]),
        ("sm_lincs_id", ["LSM-1", "LSM-1", "LSM-2", "LSM-2"]),
        ("dose_um", [0.0, 0.0, 10.0, 10.0]),
        ("time_h", [24, 24, 24, 24]),
    ],
)
def test_columns_that_say_the_same_as_the_one_that_is_used_do_not_stop_the_build(write, build, name, labels):
    source = write("a.h5ad", {**PLAIN, "stim": STIM, name: labels * 2})
    assert build(source, load_mapping("cellxgene", **TREATED)).n_control == 4


@pytest.mark.parametrize(("name", "option"), [("dose_uM", "dose"), ("hours", "time")])
def test_treated_cells_at_zero_stop_the_build_until_the_column_is_given(write, build, name, option):
    source = write("a.h5ad", {**PLAIN, "stim": STIM, name: [0, 0, 0, 5] * 2})
    with pytest.raises(InvalidInputError, match=rf"{name}' is 0 in 2 cells that count as treated.*--{option}-column"):
        build(source, load_mapping("cellxgene", **TREATED))
    report = build(source, load_mapping("cellxgene", **TREATED, **{f"{option}_column": name}))
    assert (report.n_control, report.n_cells) == (6, 8)
    assert [(one.control, one.n_cells) for one in report.treatments if one.label == "IFN-beta" and one.control] == [
        (f"{option} 0", 2)
    ]


def test_treated_cells_from_before_the_treatment_stop_the_build_until_the_column_is_given(write, build):
    source = write("a.h5ad", {**PLAIN, "stim": STIM, "timepoint": ["Pre", "Pre", "Pre", "Post"] * 2})
    with pytest.raises(InvalidInputError, match=r"'timepoint' is Pre in 2 cells that count as treated.*--time-column"):
        build(source, load_mapping("cellxgene", **TREATED))
    report = build(source, load_mapping("cellxgene", **TREATED, time_column="timepoint"))
    assert (report.n_control, report.n_cells) == (6, 8)


def test_different_doses_of_one_treatment_are_said(write, build):
    source = write("a.h5ad", {**PLAIN, "stim": STIM, "dose_uM": [0, 0, 1, 10] * 2})
    notes = build(source, load_mapping("cellxgene", **TREATED)).notes
    assert "treated cells with different values of dose_uM (1, 10) are one treatment" in notes


def test_cells_without_a_known_treatment_are_left_out_of_the_index_and_counted(write, build, root):
    labels = ["control", "NT", "IFN-beta", "unassigned", "NA", "IFN-beta", None, "control"]
    report = build(write("a.h5ad", {**PLAIN, "stim": labels}), load_mapping("cellxgene", perturbation_column="stim"))
    assert (report.n_cells, report.n_control, report.n_left_out, report.n_atlas_cells) == (5, 3, 3, 5)
    read = [(one.label, one.read_as, one.control, one.n_cells) for one in report.treatments]
    assert read == [
        ("IFN-beta", "treated", "", 2),
        ("control", "control", "control", 2),
        ("NT", "control", "non-targeting", 1),
        ("", "left out", "", 1),
        ("NA", "left out", "", 1),
        ("unassigned", "left out", "", 1),
    ]
    cells = pq.read_table(root / "tiny" / "cells.parquet").to_pandas()
    assert sorted(cells[keys.CELL_INDEX]) == [0, 1, 2, 5, 7]
    controls = [tuple(one.values()) for one in atlas_info("tiny", root)["controls"]]
    assert controls == [("control", 2), ("non-targeting", 1)]


def test_a_dataset_of_another_name_is_never_replaced_by_one_of_the_same_safe_name(write, build):
    build(write("a.h5ad", PLAIN), load_mapping("cellxgene"), add=True)
    build(write("b c.h5ad", PLAIN), load_mapping("cellxgene"), add=True)
    with pytest.raises(InvalidInputError, match=r"dataset 'b_c' would replace 'b c' of atlas 'tiny'.*--dataset NAME"):
        build(write("b_c.h5ad", PLAIN), load_mapping("cellxgene"), add=True)


def test_donors_that_no_study_shares_never_merge(write, build, root):
    study = ["A b", "A_b"] * 4
    source = write("a.h5ad", {**PLAIN, "donor_id": ["1"] * 8, "study": study})
    build(source, load_mapping("cellxgene", dataset_column="study"))
    info = atlas_info("tiny", root)
    assert (len(info["datasets"]), [one["n_cells"] for one in info["donors"]]) == (2, [4, 4])


def test_an_id_that_contradicts_its_label_is_noted_and_of_a_broader_one_the_label_is_read(write, build, root):
    ids = ["CL:0000576", "CL:0000236", "CL:0000542", "CL:0000236"] * 2  # monocyte, B cell, lymphocyte
    source = write("a.h5ad", {**PLAIN, "cell_type_ontology_term_id": ids})
    notes = sorted(build(source, load_mapping("cellxgene")).notes)
    assert [note.partition(":0000")[0] for note in notes] == [
        "2 cells are labelled 'B cell' with the id CL",
        "2 cells are labelled 'B cell', which says more than the id CL",
    ]
    held = {one["name"]: one["n_cells"] for one in atlas_info("tiny", root)["cell_types"]}
    assert held == {"B cell": 6, "monocyte": 2}


def test_a_cell_line_is_not_the_cell_that_it_models(write, build, root):
    columns = {"cell_type": ["THP-1"] * 8, "cell_type_ontology_term_id": ["CL:0000576"] * 8, "donor_id": ["d1"] * 8}
    build(write("a.h5ad", columns), load_mapping("cellxgene"))
    assert [one["name"] for one in atlas_info("tiny", root)["cell_types"]] == ["THP-1"]


DC = "DC is short for several things: dendritic cell or pancreatic ductal cell"


def test_labels_that_may_mean_something_else_are_said(write, build):
    columns = {"cell_type": ["DC", "T/NK", "B Activated", "B cell"] * 2, "donor_id": ["d1"] * 8}
    report = build(write("a.h5ad", columns), load_mapping("cellxgene"))
    assert sorted(report.notes) == [
        "2 cells labelled 'B Activated' are read as B cell: not used: Activated",
        f"2 cells labelled 'DC' are read as dendritic cell: {DC}",
    ]
    assert [(one.label, one.nearest) for one in report.unmapped] == [("T/NK", ("T cell", "natural killer cell"))]


def test_an_index_of_before_kinds_of_control_is_read_alone_and_beside_a_new_one(write, build, root):
    build(write("old.h5ad", PLAIN), load_mapping("cellxgene"), dataset="old")
    record = json.loads((root / "tiny" / "atlas.json").read_text())
    for kind in ("cells", "groups"):
        reference = record["datasets"]["old"][kind]
        path = root / "tiny" / reference["path"]
        pq.write_table(pq.read_table(path).drop_columns([keys.CONTROL_KIND]), path)
        reference |= {"n_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (root / "tiny" / "atlas.json").write_text(json.dumps(record))
    for _ in range(2):
        opened = open_atlases(["tiny"], root=root)
        assert set(opened.conditions()[keys.CONTROL_KIND]) <= {"", "DMSO"}
        assert len(opened.select(CellSet(atlas="tiny", dataset="old", is_control=True))) == 8
        treated = {**PLAIN, "drug": ["DMSO", "Dabrafenib"] * 4}
        build(
            write("new.h5ad", treated), load_mapping("cellxgene", perturbation_column="drug"), dataset="new", add=True
        )
    chosen = CellSet(atlas="tiny", dataset="new", is_control=True, control_kinds=("DMSO",))
    assert len(open_atlases(["tiny"], root=root).select(chosen)) == 4
