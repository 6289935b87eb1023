import pytest

from haystack_kernel.knowledge.controls import control_words, hints_at_control, is_unassigned

KINDS = {
    "control": ["control", "Ctrl", "CTRL0001", "ctrl1", "con", "Control_Donor1", "Ctrl-24h-rep2", "d3 control"],
    "DMSO": ["DMSO", "vehicle (DMSO)", "0.1% DMSO", "DMSO_B03", "DMSO_TF", "Dimethyl Sulfoxide", "dimethyl-sulphoxide"],
    "PBS": ["PBS", "dPBS 24h", "PBS vehicle", "pbs_2"],
    "vehicle": ["vehicle", "Vehicle_0", "veh"],
    "untreated": [
        *("untreated", "Un-treated", "no treatment", "No_drug", "NoStim", "unstim", "non-stimulated", "not treated"),
        *("Untreated.Cells", "unstim rep 3", "uninfected", "naïve", "baseline", "Control (untreated)", "unperturbed"),
    ],
    "non-targeting": [
        *("NT", "NT_1", "NTg1", "NTC-2", "non-targeting_00998", "Non_Targeting_Human_0001", "nontargeting"),
        *("siControl", "shSCR", "sgNT", "sgCtrl", "scrambled", "Scramble shRNA", "control siRNA", "sgLacZ", "siNC"),
    ],
    "safe-targeting": ["safe-targeting_2", "INTERGENIC216151", "NO_SITE_411", "ONE_NON-GENE_SITE_290"],
    "negative control": ["NegCtrl0", "neg_ctrl_3", "Negative control"],
    "mock": ["mock", "Mock infected", "mock_24hpi"],
    "isotype": ["isotype control", "IgG", "IgG1"],
    "medium": ["medium", "Media only"],
    "wild type": ["WT", "wild-type"],
    "healthy": ["healthy control"],
}


@pytest.mark.parametrize(("kind", "label"), [(kind, label) for kind, labels in KINDS.items() for label in labels])
def test_labels_of_controls_are_read_with_their_kind(kind, label):
    words = control_words(label)
    assert (words.kind, words.rest) == (kind, "")
    assert words.is_control


@pytest.mark.parametrize(
    "label",
    [
        *("positive control", "pos_ctrl", "LPS", "STAT1", "CTNNB1", "NTRK1", "NT5E", "NT-3", "WT1", "REST", "UTS2"),
        *("LUC7L", "EV71", "IFN-beta", "anti-PD-1", "GFP", "control organoid", "A549_DMSO", "STAT1+ctrl", "DMSO+LPS"),
    ],
)
def test_treatments_and_genes_that_look_like_controls_are_none(label):
    assert not control_words(label).is_control


def test_guides_against_nothing_are_controls_of_a_screen_only():
    for label in ("AAVS1", "AAVS1_g2", "LacZ", "EGFP", "empty vector", "NT-3", "NC1"):
        assert control_words(label, genetic=True).kind == "non-targeting"
        assert control_words(label).kind == ""


def test_what_else_a_label_says_is_kept():
    assert control_words("Dabrafenib in DMSO").rest == "dabrafenib"
    assert control_words("ctrl+STAT1").rest == "stat1"
    assert control_words("DMSO organoid").rest == "organoid"


@pytest.mark.parametrize(
    "label",
    [
        *("", "NA", "N/A", "#N/A", "nan", "None", "unknown", "Unassigned", "not assigned", "no-guide", "NoGuide", "?"),
        *("nosgRNA", "Doublet", "Negative", "multi-guide", "n.d.", "-", "guideless", "no feature call"),
    ],
)
def test_cells_without_a_known_treatment_are_neither_treated_nor_controls(label):
    assert is_unassigned(label)
    assert not control_words(label).is_control


@pytest.mark.parametrize("label", ["control", "untreated", "NegCtrl0", "DMSO", "LPS", "NANOG", "NDUFA1", "no drug"])
def test_known_treatments_and_controls_are_not_unassigned(label):
    assert not is_unassigned(label)


def test_words_inside_other_words_are_a_reason_to_ask():
    assert [hints_at_control(label) for label in ("CtrlA", "DMSO organoid", "preunstim", "LPS")] == [True] * 3 + [False]
