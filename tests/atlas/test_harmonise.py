import numpy as np
import pandas as pd
import pytest

from haystack_kernel import keys
from haystack_kernel.atlas.harmonise import age_category, harmonise, sex_category
from haystack_kernel.atlas.mapping import load_mapping
from haystack_kernel.atlas.resolvers import Resolvers
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.schema import Match, Resolution

KNOWN = {"monocyte": ("CL:0000576", "monocyte"), "CL:0000576": ("CL:0000576", "monocyte"), "TNF": ("TNF", "TNF")}


def resolver(kind, asked):
    def resolve(text):
        asked.append(text)
        if text in KNOWN:
            term, name = KNOWN[text]
            return Resolution(text=text, kind=kind, match=Match(id=term, name=name, score=1, how="name"))
        near = Match(id="CL:1", name="nearly", score=0.9, how="fuzzy")
        return Resolution(text=text, kind=kind, match=near)

    return resolve


@pytest.fixture
def asked():
    return {"cell_type": [], "perturbation": [], "tissue": [], "disease": []}


@pytest.fixture
def resolvers(asked):
    return Resolvers(
        **{kind: resolver(kind, texts) for kind, texts in asked.items()},
        perturbation_type=lambda name: "cytokine" if name == "TNF" else "",
        is_below=lambda a, b: a == b,
    )


def text(*values):
    return pd.Categorical(values)


def test_labels_are_resolved_once_each_and_never_per_cell(resolvers, asked):
    fields = {"cell_type": text(*["monocyte", "odd"] * 500)}
    harmonise(fields, load_mapping("cellxgene"), dataset="d", resolvers=resolvers)
    assert sorted(asked["cell_type"]) == ["monocyte", "odd"]


def test_id_wins_over_the_label_and_a_fuzzy_match_is_not_taken(resolvers):
    fields = {"cell_type": text("odd", "odd", "unknown"), "cell_type_id": text("CL:0000576", "", "")}
    done = harmonise(fields, load_mapping("cellxgene"), dataset="d", resolvers=resolvers)
    assert list(done.text[keys.CELL_TYPE_ID]) == ["CL:0000576", "", ""]
    assert list(done.text[keys.CELL_TYPE]) == ["monocyte", "odd", ""]
    assert list(done.text[keys.CELL_TYPE_ORIGINAL]) == ["odd", "odd", "unknown"]
    assert [(entry.label, entry.n_cells, entry.nearest) for entry in done.unmapped] == [("odd", 1, ("nearly",))]


def test_controls_have_no_perturbation_name_and_are_found_in_any_case(resolvers):
    mapping = load_mapping("cellxgene", perturbation_column="p", control=["pbs"])
    fields = {"cell_type": text(*["monocyte"] * 3), "perturbation": text("PBS", "TNF", "new")}
    done = harmonise(fields, mapping, dataset="d", resolvers=resolvers)
    assert list(done.is_control) == [True, False, False]
    assert list(done.text[keys.PERTURBATION]) == ["", "TNF", "new"]
    assert list(done.text[keys.PERTURBATION_TYPE]) == ["", "cytokine", ""]
    assert list(done.text[keys.PERTURBATION_ORIGINAL]) == ["PBS", "TNF", "new"]


def test_a_knock_out_of_a_cytokine_gene_is_not_taken_for_the_cytokine(resolvers):
    mapping = load_mapping("cellxgene", perturbation_column="p", perturbation_type="genetic", control=["ctrl"])
    fields = {
        "cell_type": text("monocyte", "monocyte"),
        "perturbation": text("ctrl", "TNF"),
        "perturbation_type": text("genetic", "genetic"),
    }
    done = harmonise(fields, mapping, dataset="d", resolvers=resolvers)
    assert list(done.text[keys.PERTURBATION_TYPE]) == ["", "genetic"]
    assert done.unmapped == ()


@pytest.mark.parametrize(
    ("labels", "control", "says"),
    [
        (("a", "b"), ["PBS"], "no cell is a control: the perturbation labels are a, b; controls are PBS"),
        (("", "NA"), ["PBS"], "'', 'NA': not known to be treated or not; if these cells are untreated, add the label"),
        (
            ("PBS", "PBS organoid", "CtrlA"),
            ["PBS"],
            "2 perturbation labels .* beside other words: 'CtrlA', 'PBS organo",
        ),
    ],
)
def test_perturbations_that_cannot_be_read_are_refused(resolvers, labels, control, says):
    mapping = load_mapping("cellxgene", perturbation_column="p", control=control)
    with pytest.raises(InvalidInputError, match=says):
        harmonise(
            {"cell_type": text(*["monocyte"] * len(labels)), "perturbation": text(*labels)},
            mapping,
            dataset="d",
            resolvers=resolvers,
        )


def test_empty_control_list_makes_every_cell_treated(resolvers):
    mapping = load_mapping("cellxgene", perturbation_column="p", control=[])
    done = harmonise(
        {"cell_type": text("monocyte"), "perturbation": text("a")}, mapping, dataset="d", resolvers=resolvers
    )
    assert not done.is_control.any()


def test_unknown_perturbation_type_is_refused(resolvers):
    mapping = load_mapping("cellxgene", perturbation_column="p", control=[])
    fields = {"cell_type": text("monocyte"), "perturbation": text("a"), "perturbation_type": text("spell")}
    with pytest.raises(InvalidInputError, match="'spell' is unknown; possible: cytokine, drug, genetic"):
        harmonise(fields, mapping, dataset="d", resolvers=resolvers)


def test_donors_carry_the_dataset_and_missing_donors_stay_empty(resolvers):
    fields = {
        "cell_type": text(*["monocyte"] * 3),
        "donor": text("1", "1", ""),
        "dataset": text("10x 6k", "../up", "b"),
    }
    done = harmonise(fields, load_mapping("cellxgene"), dataset="d", resolvers=resolvers)
    assert list(done.text[keys.DATASET]) == ["10x_6k", "up", "b"]
    assert list(done.text[keys.DONOR]) == ["10x_6k:1", "up:1", ""]
    assert np.all(done.is_control)


@pytest.mark.parametrize(
    ("given", "group"),
    [
        ("23-year-old stage", "young adult"),
        ("65", "older adult"),
        ("64 years", "middle aged"),
        ("12-year-old human stage", "child"),
        ("17", "adolescent"),
        ("fetal stage", "prenatal"),
        ("adult stage", "adult stage"),
        ("unknown", ""),
        ("", ""),
    ],
)
def test_age_category(given, group):
    assert age_category(given) == group


def test_sex_category():
    assert [sex_category(word) for word in ("F", "male", "unknown", "")] == ["female", "male", "", ""]
