import pytest
import yaml

from haystack_kernel.atlas import draft_mapping, load_mapping
from haystack_kernel.errors import InvalidInputError, NotFoundError


@pytest.fixture
def drafted(write, knowledge):
    """``drafted(obs)`` -> fields of the drafted mapping; the text is read as YAML."""

    def look(obs, **options):
        draft = draft_mapping(write("a.h5ad", obs, **options), knowledge=knowledge)
        fields = yaml.safe_load(draft.text) or {}
        assert fields == {one.field: one.value for one in draft.guesses}
        return fields

    return look


MESSY = {
    "nCount_RNA": [900, 800, 700, 600] * 2,
    "leiden": ["0", "1"] * 4,
    "celltype.l2": ["CD14 Mono", "NK", "B naive", "CD4 TCM"] * 2,
    "Patient": [101, 101, 102, 102] * 2,
    "treatment": ["vehicle (DMSO)", "Dabrafenib"] * 4,
    "gender": ["F", "F", "M", "M"] * 2,
    "organ": ["Liver"] * 8,
    "diagnosis": ["systemic lupus erythematosus"] * 8,
}


def test_columns_are_found_by_name_and_by_what_they_hold(drafted):
    assert drafted(MESSY) == {
        "cell_type": "celltype.l2",
        "perturbation": "treatment",
        "perturbation_type": {"value": "drug"},
        "control": ["vehicle (DMSO)"],
        "donor": "Patient",
        "tissue": "organ",
        "disease": "diagnosis",
        "sex": "gender",
    }


def test_the_draft_is_built_unchanged(write, build, knowledge, tmp_path):
    source = write("a.h5ad", MESSY)
    path = tmp_path / "mine.yaml"
    path.write_text(draft_mapping(source, knowledge=knowledge).text, encoding="utf-8")
    report = build(source, load_mapping(path))
    assert (report.n_cells, report.n_control) == (8, 4)
    assert report.unmapped == ()


def test_labels_decide_where_the_name_says_nothing(drafted):
    obs = {"v1": ["classical monocyte", "B cell"] * 2, "v2": ["PBS", "IFN-gamma", "TNF-alpha", "IL-6"]}
    assert drafted(obs) == {
        "cell_type": "v1",
        "perturbation": "v2",
        "perturbation_type": {"value": "cytokine"},
        "control": ["PBS"],
    }


def test_a_column_of_controls_only_is_no_perturbation_and_a_condition_no_disease(drafted):
    obs = {"cell_type": ["B cell"] * 4, "perturbation": ["control"] * 4, "condition": ["ctrl"] * 4}
    assert drafted(obs) == {"cell_type": "cell_type"}


def test_guides_are_genetic(drafted):
    obs = {"cell_type": ["monocyte"] * 4, "target_gene": ["non-targeting", "STAT1", "JAK2", "IRF1"]}
    fields = drafted(obs)
    assert fields["perturbation_type"] == {"value": "genetic"}
    assert fields["control"] == ["non-targeting"]


def test_a_column_of_types_is_named_and_tells_how_labels_are_read(write, build, knowledge, tmp_path):
    columns = {"celltype": ["B cell"] * 8, "nperts": [0, 1, 2, 2] * 2, "perturbation_type": ["CRISPR"] * 8}
    source = write("a.h5ad", {**columns, "perturbation": ["control", "CEBPE", "CEBPE_RUNX1T1", "RUNX1T1_CEBPE"] * 2})
    path = tmp_path / "mine.yaml"
    path.write_text(draft_mapping(source, knowledge=knowledge).text, encoding="utf-8")
    report = build(source, load_mapping(path))
    assert {one.name for one in report.treatments} == {
        "",
        "CEBPE knock-out",
        "CEBPE knock-out + RUNX1T1 knock-out",
    }


def test_treatments_without_a_control_get_an_empty_list_to_fill(drafted, write, knowledge):
    obs = {"cell_type": ["B cell"] * 3, "sm_name": ["Dabrafenib", "Ruxolitinib", "Vorinostat"]}
    assert drafted(obs)["control"] == []
    text = draft_mapping(write("b.h5ad", obs), knowledge=knowledge).text
    assert "# no label looks like a control" in text


def test_ontology_ids_are_found_by_their_form(drafted):
    obs = {"ann": ["CL:0000236", "CL:0000576"], "where": ["UBERON:0000178"] * 2, "what": ["PATO:0000461"] * 2}
    assert drafted(obs) == {"cell_type_id": "ann", "tissue_id": "where", "disease_id": "what"}


def test_barcodes_and_cluster_numbers_are_not_cell_types(write, knowledge):
    obs = {"cluster": ["0", "1", "2"], "barcode": ["AAAC", "AAAG", "AAAT"]}
    draft = draft_mapping(write("a.h5ad", obs), knowledge=knowledge)
    assert draft.missing == ("cell_type",)
    assert "# cell_type: no column looks like cell types; give its name here. obs has cluster" in draft.text


def test_alternatives_and_fitting_schemas_are_named(write, knowledge):
    obs = {"cell_type": ["B cells"] * 2, "sm_name": ["Dimethyl Sulfoxide", "Dabrafenib"], "donor_id": ["1", "2"]}
    text = draft_mapping(
        write("a.h5ad", {**obs, "celltype": ["B", "Mono"], "donor": ["x", "y"]}), knowledge=knowledge
    ).text
    assert "# obs also has the columns of --schema openproblems." in text
    assert "also possible: celltype (2 labels" in text


def test_labels_with_line_breaks_and_quotes_stay_comments_and_values(drafted):
    obs = {"cell_type": ["B cell", 'od"d\nlabel: x'], "perturbation": ['"control"\n', "TNF-alpha"]}
    assert drafted(obs)["control"] == ['"control"']


def test_files_that_are_no_h5ad_are_refused(knowledge, tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        draft_mapping(str(tmp_path / "none.h5ad"), knowledge=knowledge)
    (tmp_path / "a.h5ad").write_text("x")
    with pytest.raises(InvalidInputError, match="is a text file"):
        draft_mapping(str(tmp_path / "a.h5ad"), knowledge=knowledge)


def test_columns_of_nullable_types_are_looked_at_too(drafted):
    import pandas as pd

    donors = pd.array([1, 2, None, 2], dtype="Int64")
    obs = {"cell_type": ["B cell"] * 4, "donor": donors, "is_doublet": [True, False, True, False]}
    assert drafted(obs) == {"cell_type": "cell_type", "donor": "donor"}
