"""Later rows win in what they state and hide nothing else."""

from __future__ import annotations

import json
import time

import pytest

from haystack_kernel.knowledge import distance, load_knowledge, resolve

NEW_NAMES = {
    "CL:0000000": {"label": "cell", "ancestors": {}},
    "CL:0000623": {"label": "NK lymphocyte of the new release", "ancestors": {"CL:0000000": 1}, "synonyms": ["nukker"]},
    "CL:0009999": {"label": "blorbocyte", "ancestors": {"CL:0000623": 1, "CL:0000000": 2}},
    "CL:0008888": {"label": "obsolete bloop", "deprecated": True, "replaced_by": "CL:0009999"},
    "CL:0008887": {"label": "obsolete blip", "deprecated": True, "consider": ["CL:0000623", "CL:0009999"]},
    "CL:0008886": {"label": "obsolete gone", "deprecated": True},
    "CL:0008885": {"label": "obsolete moved", "deprecated": True, "replaced_by": "CLO:0000019"},
}


@pytest.fixture
def known(added, write):
    return added(write("cl.json", json.dumps(NEW_NAMES)))


def test_term_when_added_anew_then_name_and_links_are_new_and_the_rest_stays(known):
    old, new = load_knowledge().cell_types["CL:0000623"], known.cell_types["CL:0000623"]
    assert (new.name, new.parents) == ("NK lymphocyte of the new release", ("CL:0000000",))
    assert (new.markers, new.tissues) == (old.markers, old.tissues)
    assert {"natural killer cell", "NK", "nukker"} <= set(new.synonyms)
    for text in ("natural killer cell", "NK", "nukker", "NK lymphocyte of the new release"):
        assert resolve(text, kind="cell_type", knowledge=known).match.id == "CL:0000623"


def test_term_when_unknown_before_then_found_and_walked_to(known):
    assert resolve("blorbocytes", kind="cell_type", knowledge=known).match.name == "blorbocyte"
    assert distance("CL:0009999", "CL:0000623", knowledge=known) == 1
    assert resolve("blorbocytes", kind="cell_type", knowledge=load_knowledge()).match is None


@pytest.mark.parametrize("text", ["CL:0008888", "CL_0008888", "cl:0008888"])
def test_obsolete_id_when_replaced_then_the_replacement_is_the_match_and_said_so(known, text):
    found = resolve(text, kind="cell_type", knowledge=known)
    assert (found.match.id, found.match.how) == ("CL:0009999", "id")
    assert found.note == "CL:0008888 (bloop) is obsolete; replaced by CL:0009999 (blorbocyte)"


@pytest.mark.parametrize(
    ("text", "offered", "note"),
    [
        ("CL:0008887", ["CL:0000623", "CL:0009999"], "CL:0008887 (blip) is obsolete"),
        ("CL:0008886", [], "CL:0008886 (gone) is obsolete"),
        (
            "CL:0008885",
            [],
            "CL:0008885 (moved) is obsolete; replaced by CLO:0000019, which is not known here",
        ),
    ],
)
def test_obsolete_id_when_not_replaced_then_unresolved_with_what_to_consider(known, text, offered, note):
    found = resolve(text, kind="cell_type", knowledge=known)
    assert found.match is None
    assert [one.id for one in found.alternatives] == offered
    assert found.note == note


def test_gene_sets_when_of_one_name_then_the_later_takes_it_and_the_earlier_stays(added, write):
    taken = next(iter(load_knowledge().pathways))
    first = write("first.gmt", f"{taken}\t\tTNF\n")
    known = added(first, write("second.gmt", f"{taken}\t\tIL6\n"))
    assert known.pathways[taken].genes == {"IL6": 1}
    assert known.pathways[f"{taken} [first]"].genes == {"TNF": 1}
    assert known.pathways[f"{taken} [packaged]"].genes == load_knowledge().pathways[taken].genes
    again = added(first)  # added again it is the latest
    assert again.pathways[taken].genes == {"TNF": 1}
    assert [one.name for one in again.sources][-2:] == ["second", "first"]


def test_targets_when_the_treatment_is_known_then_only_they_change(added, write):
    known = added(write("t.tsv", "name\ttarget\tsynonyms\nIFNb\tIFNAR1\tnew name\nwobblin\tTNF\t\n"))
    old, new = load_knowledge().perturbations["IFN-beta"], known.perturbations["IFN-beta"]
    assert new.targets == ("IFNAR1",)
    assert (new.response, new.pathways, new.type) == (old.response, old.pathways, old.type)
    assert resolve("new name", kind="perturbation", knowledge=known).match.id == "IFN-beta"
    assert known.perturbations["wobblin"].targets == ("TNF",)
    assert load_knowledge().perturbations["IFN-beta"].targets == old.targets


@pytest.mark.slow
def test_full_cell_ontology_when_in_its_compact_form_then_ready_without_long_work(shared, added):
    pytest.importorskip("pronto")
    added(shared / "data/ontology/cl_2024-04-05.obo")
    from haystack_kernel.knowledge.index import index_of
    from haystack_kernel.knowledge.load import _with_additions

    _with_additions.cache_clear()
    index_of.cache_clear()
    started = time.process_time()
    known = added()
    resolve("Betz cell", kind="cell_type", knowledge=known)
    assert time.process_time() - started < 30  # takes less than a second; the limit ends a hang
    assert len(known.cell_types) >= 2746


def test_add_when_a_drug_has_the_structure_of_a_packaged_one_then_one_treatment_and_stereoisomers_stay_two(
    added, write
):
    ruxolitinib = load_knowledge().perturbations["Ruxolitinib"].external_ids["InChIKey"]
    betamethasone = load_knowledge().perturbations["Betamethasone"].external_ids["InChIKey"]
    dexamethasone = load_knowledge().perturbations["Dexamethasone"].external_ids["InChIKey"]
    assert betamethasone[:14] == dexamethasone[:14]  # epimers
    table = (
        f"name\ttarget\tkey\nINCB-XYZ\tJAK1\t{ruxolitinib[:-1]}M\nother isomer\tNR3C1\tUREBDLICKHMUKA-AAAAAAAAAA-N\n"
    )
    columns = {"name": "name", "target": "target", "id:InChIKey": "key"}
    known = added(write("drugs.tsv", table), columns=columns)
    assert "INCB-XYZ" in known.perturbations["Ruxolitinib"].synonyms
    assert "INCB-XYZ" not in known.perturbations
    assert known.perturbations["other isomer"].targets == ("NR3C1",)
    assert resolve("INCB-XYZ", kind="perturbation", knowledge=known).match.id == "Ruxolitinib"
