"""Commands about what is known."""

import json

import pytest

GMT = "set one\tsource\tTNF\tIL6\n"
CL = {
    "CL:0000000": {"label": "cell", "ancestors": {}},
    "CL:0009999": {"label": "blorbocyte", "ancestors": {"CL:0000000": 1}},
    "CL:0008888": {"label": "obsolete bloop", "deprecated": True, "replaced_by": "CL:0009999"},
}


def test_add_list_and_resolve_work_together(call, tmp_path):
    assert json.loads(call("resolve", "blorbocytes").out)["resolutions"] == []
    (tmp_path / "cl-v2030-01-02.json").write_text(json.dumps(CL))
    said = call("knowledge", "add", tmp_path / "cl-v2030-01-02.json", "--name", "mine")
    assert (said.code, said.err) == (0, "")
    added = json.loads(said.out)
    assert (added["name"], added["kind"], added["version"]) == ("mine", "cl", "2030-01-02")
    assert (added["n_terms"], added["n_obsolete"]) == (2, 1)
    packaged, *ontologies, mine = json.loads(call("knowledge", "list").out)
    assert [(one["name"], one["licence"][:5]) for one in ontologies] == [
        ("CL", "CC BY"),
        ("UBERON", "CC BY"),
        ("MONDO", "CC BY"),
    ]
    assert (packaged["name"], mine["name"], mine["sha256"]) == ("packaged", "mine", added["sha256"])
    (term,) = json.loads(call("resolve", "blorbocytes").out)["resolutions"]
    assert term["match"]["id"] == "CL:0009999"
    (term,) = json.loads(call("resolve", "CL:0008888").out)["resolutions"]
    assert term["match"]["id"] == "CL:0009999"
    assert "obsolete; replaced by CL:0009999" in term["note"]


def test_list_as_a_table_is_aligned(call):
    lines = call("knowledge", "list", "--table").out.splitlines()
    assert lines[0].split() == ["name", "kind", "version", "n_terms", "n_obsolete", "licence", "file", "sha256"]
    assert lines[1].startswith("packaged")


def test_targets_are_added_with_a_stated_mapping(call, tmp_path):
    (tmp_path / "t.tsv").write_text("drug\tgenes\nwobblin\tTNF,IL6\n")
    said = call("knowledge", "add", tmp_path / "t.tsv")
    assert (said.code, said.out) == (2, "")
    assert "--map name=COLUMN" in said.err
    options = ["--map", "name=drug", "--map", "target=genes", "--separator", ","]
    assert call("knowledge", "add", tmp_path / "t.tsv", *options).code == 0
    found = json.loads(call("resolve", "How would B cells respond to wobblin?").out)
    assert found["perturbation"]["targets"] == ["TNF", "IL6"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.gmt"], "is no file"),
        (["x.gmt", "--kind", "magic"], "kind 'magic' is unknown"),
        (["x.gmt", "--name", "../x"], "name '../x' is invalid"),
        (["x.gmt", "--map", "name"], "--map 'name' must be FIELD=COLUMN"),
        (["broken.gmt"], "line 1"),
    ],
)
def test_add_refuses_bad_input_and_keeps_nothing(call, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gmt").write_text(GMT)
    (tmp_path / "broken.gmt").write_text("broken\n")
    said = call("knowledge", "add", *arguments)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert "Traceback" not in said.err
    assert len(json.loads(call("knowledge", "list").out)) == 4  # the packaged tables and ontologies


@pytest.mark.parametrize(
    ("label", "kind", "name"),
    [
        ("cDC1", "cell_type", "CD141-positive myeloid dendritic cell"),
        ("monoctye", "cell_type", "monocyte"),
        ("TGFb1", "perturbation", "TGF-beta1"),
        ("IFNβ", "perturbation", "IFN-beta"),
        ("oesophagus", "tissue", "esophagus"),
        ("T2DM", "disease", "type 2 diabetes mellitus"),
        ("Imatinib mesylate", "perturbation", "Imatinib"),
    ],
)
def test_resolve_of_one_label_gives_its_term(call, label, kind, name):
    (term,) = json.loads(call("resolve", label).out)["resolutions"]
    assert (term["kind"], term["match"]["name"], term["ambiguous"]) == (kind, name, False)


def test_resolve_of_a_short_form_says_what_else_it_may_mean(call):
    found = json.loads(call("resolve", "DC").out)
    (term,) = found["resolutions"]
    assert term["ambiguous"]
    assert "DC is short for several things" in term["note"]
    assert [one["name"] for one in found["alternatives"]["DC"]] == ["pancreatic ductal cell"]
    assert list(found)[-1] == "alternatives"
