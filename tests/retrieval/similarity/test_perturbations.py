"""Changes of genes are related by the gene network, drugs and cytokines by targets and pathways alone."""

from __future__ import annotations

import pytest

from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.retrieval.similarity.perturbations import compare_mechanisms, distance_of, mechanism


def compared(one, other):
    knowledge = load_knowledge()
    return compare_mechanisms(mechanism(one, knowledge=knowledge), mechanism(other, knowledge=knowledge))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("IFNGR1 knock-out", "JAK2 knock-out"),
        ("IFNGR2 knock-out", "IFNGR1 knock-out"),
        ("STAT1 knock-out", "IFNGR1 knock-out"),
        ("JAK1 knock-out", "JAK2 knock-out"),
        ("IRF1 knock-out", "IFNGR1 knock-out"),
        ("KEAP1 knock-out", "CUL3 CRISPRi"),
        ("CD3E knock-out", "LAT knock-down"),
    ],
)
def test_knock_outs_when_of_one_pathway_then_are_related(one, other):
    found = compared(one, other)
    assert found.network >= 0.4
    assert found.score >= found.network
    assert not found.is_opposed
    assert distance_of(found) == "shared_target"
    assert "downstream genes" in found.words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("KEAP1 knock-out", "NFE2L2 knock-out"),
        ("TP53 knock-out", "MDM2 knock-down"),
        ("NFKBIA knock-out", "RELA knock-out"),
        ("JAK2 knock-out", "JAK2 over-expression"),
    ],
)
def test_changes_when_they_move_the_same_genes_the_other_way_then_are_opposed(one, other):
    assert compared(one, other).is_opposed


@pytest.mark.parametrize("other", ["CAV1 knock-out", "CD86 knock-out", "SMAD4 knock-out", "TP53 knock-out"])
def test_knock_outs_when_of_other_pathways_then_share_nothing(other):
    found = compared("IFNGR1 knock-out", other)
    assert (found.score < 0.3, distance_of(found), found.words) == (True, "text_only", "nothing")


def test_drugs_and_cytokines_when_compared_then_the_network_plays_no_part():
    assert compared("IFN-gamma", "IFN-beta").network == 0
    assert compared("Ruxolitinib", "JAK2 knock-out").network == 0
