"""Labels of treatments are read as the field reads them: treated, a control of a kind, or left out."""

import pytest

from haystack_kernel.atlas.mapping import load_mapping
from haystack_kernel.atlas.resolvers import resolvers_of
from haystack_kernel.atlas.treatments import Stated, is_zero, read_treatments
from haystack_kernel.errors import InvalidInputError


@pytest.fixture(scope="module")
def read(knowledge):
    """``read(label, …)`` -> how one label beside a plain control is read."""
    resolvers = resolvers_of(knowledge)

    def one(label, *, beside="control", control=None, treated=(), **stated):
        mapping = load_mapping("cellxgene", perturbation_column="p", control=control, treated=treated or None)
        rows = [Stated(label, **stated), Stated(beside, type=stated.get("type", ""))]
        return read_treatments(rows, mapping, resolvers)[0]

    return one


@pytest.mark.parametrize(
    ("label", "name", "kind"),
    [
        ("IFN-beta", "IFN-beta", "cytokine"),
        ("IFNb", "IFN-beta", "cytokine"),
        ("Dabrafenib", "Dabrafenib", "drug"),
        ("Dabrafenib+DMSO", "Dabrafenib", "drug"),
        ("PBS + IFN-beta", "IFN-beta", "cytokine"),
        ("Dabrafenib (DMSO)", "Dabrafenib", "drug"),
        ("Dabrafenib in DMSO", "Dabrafenib", "drug"),
        ("TNF-alpha+IFN-gamma", "TNF-alpha + IFN-gamma", "cytokine"),
        ("IFN-gamma & TNF-alpha", "TNF-alpha + IFN-gamma", "cytokine"),
        ("IL-6+IL-4", "IL-4 + IL-6", "cytokine"),
        ("IL-4 and IL-6", "IL-4 + IL-6", "cytokine"),
        ("IFN-gamma + Dabrafenib", "Dabrafenib + IFN-gamma", ""),
        ("LPS_24h_rep1", "LPS", "drug"),
        ("treatment: LPS 100 ng/ml", "LPS", "drug"),
        ("IFN-beta (6 h)", "IFN-beta", "cytokine"),
        ("IL6-/-", "IL6 knock-out", "genetic"),
        ("siTNF", "TNF knock-down", "genetic"),
        ("XQ-4471", "XQ-4471", ""),
        ("positive control", "positive control", ""),
    ],
)
def test_treatments_by_name_alone_in_a_solvent_or_combined(read, label, name, kind):
    found = read(label)
    assert (found.read_as, found.name, found.type) == ("treated", name, kind)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("STAT1", "STAT1 knock-out"),
        ("STAT1+ctrl", "STAT1 knock-out"),
        ("ctrl+STAT1", "STAT1 knock-out"),
        ("STAT1_g2", "STAT1 knock-out"),
        ("sgSTAT1", "STAT1 knock-out"),
        ("STAT1+JAK2", "JAK2 knock-out + STAT1 knock-out"),
        ("JAK2+STAT1", "JAK2 knock-out + STAT1 knock-out"),
        ("TNF", "TNF knock-out"),
    ],
)
def test_labels_of_a_screen_name_the_gene_whatever_its_guide(read, label, name):
    found = read(label, type="genetic")
    assert (found.read_as, found.name, found.type) == ("treated", name, "genetic")


def test_cells_that_escaped_their_guide_are_neither_treated_nor_controls(read):
    assert read("STAT1 NP", type="genetic").read_as == "left out"
    assert read("STAT1 KO", type="genetic").name == "STAT1 knock-out"


def test_what_was_done_to_the_genes_is_taken_from_the_type(read):
    assert read("STAT1", type="CRISPRi").name == "STAT1 CRISPRi"
    assert read("STAT1", type="CRISPR").name == "STAT1 knock-out"
    assert read("STAT1", type="Small molecule", beside="DMSO").type == "drug"


def test_a_gene_called_like_a_control_is_a_gene_only_beside_guides_against_nothing(read):
    assert read("CTRL", type="genetic", beside="non-targeting").name == "CTRL knock-out"
    assert read("CTRL", type="genetic", beside="STAT1").read_as == "control"
    assert read("ctrl", type="genetic", beside="non-targeting").read_as == "control"


@pytest.mark.parametrize(
    ("label", "kind"),
    [("DMSO", "DMSO"), ("vehicle", "vehicle"), ("PBS", "PBS"), ("NT", "non-targeting"), ("Untreated", "untreated")],
)
def test_controls_keep_their_kind_even_where_the_mapping_names_another(read, label, kind):
    for control in (None, ["control"], []):
        found = read(label, control=control)
        assert (found.read_as, found.control, found.name) == ("control", kind, "")


@pytest.mark.parametrize(
    ("label", "stated", "kind"),
    [
        ("Dabrafenib", {"zero": "dose"}, "dose 0"),
        ("IFN-beta", {"zero": "time"}, "time 0"),
        ("Dabrafenib", {"zero": "dose", "vehicle": "DMSO"}, "DMSO"),
        ("Dabrafenib_0uM", {}, "dose 0"),
        ("IFN-beta 0 ng/ml", {}, "dose 0"),
        ("IFN-beta_0h", {}, "time 0"),
        ("0", {}, "dose 0"),
    ],
)
def test_dose_zero_and_time_zero_are_controls(read, label, stated, kind):
    found = read(label, **stated)
    assert (found.read_as, found.control) == ("control", kind)


@pytest.mark.parametrize("label", ["Dabrafenib_10uM", "IFN-beta 10 ng/ml", "IFN-beta_24h", "IFN-beta 100 U/ml 6 h"])
def test_other_doses_and_times_are_treatments(read, label):
    assert read(label).read_as == "treated"


@pytest.mark.parametrize("label", ["", "NA", "unassigned", "unknown", "None", "no-guide", "Doublet", "Negative"])
def test_cells_without_a_known_treatment_are_left_out_unless_they_are_named(read, label):
    assert read(label).read_as == "left out"
    named = read(label, control=["control", label])
    assert (named.read_as, named.control) == ("control", "untreated")


def test_a_treatment_keeps_the_control_that_the_file_states_for_it(read):
    assert read("Dabrafenib", vehicle="DMSO").control == "DMSO"
    assert read("Dabrafenib+DMSO").control == "DMSO"
    assert read("vehicle", vehicle="DMSO").control == "DMSO"
    assert read("untreated", vehicle="DMSO").control == "untreated"


@pytest.mark.parametrize(
    "label", ["DMSO organoid", "CtrlA", "IFN-beta control", "control_A549", "no LPS", "LPS-", "-LPS"]
)
def test_labels_that_may_be_controls_or_not_are_asked_about(read, label):
    with pytest.raises(InvalidInputError, match=rf"'{label}'.*--control LABEL.*--treated LABEL"):
        read(label)
    assert read(label, control=["control", label]).read_as == "control"
    assert read(label, treated=[label]).read_as == "treated"


def test_a_solvent_may_be_the_treatment_that_is_studied(read):
    found = read("ethanol", treated=["Ethanol"])
    assert (found.read_as, found.control) == ("treated", "")


def test_where_none_is_all_there_is_the_user_is_asked(read):
    with pytest.raises(InvalidInputError, match=r"no cell is a control: .* LPS; .*'none': not known to be treated"):
        read("LPS", beside="none")


@pytest.mark.parametrize("text", ["0", "0.0", "0 uM", "0nM", "0h", "0 h", "T0", "day 0", "0.00 µM", "0Gy", "0 IU"])
def test_amounts_of_nothing(text):
    assert is_zero(text)


@pytest.mark.parametrize("text", ["", "0.1 uM", "10", "10 uM", "day 10", "T10", "24h", "100"])
def test_amounts_of_something(text):
    assert not is_zero(text)
