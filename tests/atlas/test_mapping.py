import pytest

from haystack_kernel.atlas.mapping import SCHEMAS, Column, Mapping, load_mapping
from haystack_kernel.errors import InvalidInputError, NotFoundError


def test_schemas_are_the_four_of_the_specification():
    assert list(SCHEMAS) == ["parse_pbmc", "openproblems", "tabula_sapiens", "cellxgene"]
    assert SCHEMAS["parse_pbmc"].control == ("PBS",)
    assert SCHEMAS["parse_pbmc"].perturbation.columns == ("cytokine", "stim")
    assert SCHEMAS["openproblems"].control == ("Dimethyl Sulfoxide",)
    assert SCHEMAS["tabula_sapiens"].perturbation == Column()


def test_load_mapping_when_flags_given_then_they_replace_fields_of_the_schema():
    mapping = load_mapping(
        "cellxgene", perturbation_column="stim", control=["none"], perturbation_type="cytokine", donor_column=None
    )
    assert mapping.perturbation == Column(columns=("stim",), required=True)
    assert mapping.control == ("none",)
    assert mapping.perturbation_type == Column(value="cytokine")
    assert mapping.donor == SCHEMAS["cellxgene"].donor


def test_load_mapping_when_tissue_is_a_constant_then_the_id_column_no_longer_counts():
    mapping = load_mapping("cellxgene", tissue="lung")
    assert mapping.tissue == Column(value="lung")
    assert mapping.tissue_id == Column()


def test_load_mapping_when_yaml_then_columns_constants_and_aliases_are_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "cell_type_name: celltype.l2\nperturbation: [drug, compound]\nperturbation_type: {value: drug}\n"
        "control: DMSO\ntissue: {value: liver}\ndonor_id: patient\nrename: {cell_type: {Hep: hepatocyte}}\n"
    )
    mapping = load_mapping(path)
    assert mapping.name == "mine"
    assert mapping.cell_type == Column(columns=("celltype.l2",), required=True)
    assert mapping.perturbation == Column(columns=("drug", "compound"), required=True)
    assert mapping.control == ("DMSO",)
    assert mapping.donor.columns == ("patient",)
    assert mapping.rename == {"cell_type": {"Hep": "hepatocyte"}}


def test_load_mapping_when_yaml_names_a_schema_then_it_refines_it(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("schema: parse_pbmc\ndonor: sample\n")
    mapping = load_mapping(str(path))
    assert mapping.donor.columns == ("sample",)
    assert mapping.control == ("PBS",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cell_type: [a", "not valid YAML"),
        ("- a\n- b\n", "must hold fields"),
        ("celltype: a\n", "celltype: Extra inputs"),
        ("tissue: a\n", "must name an obs column"),
        ("cell_type: {colum: a}\n", "cell_type.colum"),
    ],
)
def test_load_mapping_when_yaml_is_wrong_then_the_message_names_the_fault(tmp_path, text, says):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=says):
        load_mapping(path)


def test_load_mapping_when_schema_or_flag_unknown_then_the_possible_ones_are_listed(tmp_path):
    with pytest.raises(InvalidInputError, match="possible: parse_pbmc, openproblems"):
        load_mapping("cellxgen")
    with pytest.raises(InvalidInputError, match="possible: cell_type_column"):
        load_mapping("cellxgene", flavour_column="x")
    with pytest.raises(NotFoundError, match=r"none\.yaml does not exist"):
        load_mapping(tmp_path / "none.yaml")


def test_mapping_when_written_as_json_then_it_reads_back_the_same():
    for mapping in SCHEMAS.values():
        assert Mapping.model_validate_json(mapping.model_dump_json()) == mapping
