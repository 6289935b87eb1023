"""Distances and relatives in a small designed graph and in the packaged one."""

from __future__ import annotations

import pytest

from haystack_kernel.errors import NotFoundError
from haystack_kernel.knowledge import (
    CellType,
    Disease,
    Knowledge,
    Obsolete,
    Tissue,
    ancestors,
    descendants,
    distance,
    load_knowledge,
    neighbours,
)

#        R
#      /   \
#     A     B
#    / \    |
#   C   D   E
#   |    \ /
#   F     G        G has two parents; H..K is a chain below F
EDGES = {"R": "", "A": "R", "B": "R", "C": "A", "D": "A", "E": "B", "F": "C", "G": "DE", "H": "F", "I": "H", "J": "I"}


@pytest.fixture(scope="module")
def graph() -> Knowledge:
    types = {term: CellType(term, term.lower(), tuple(parents)) for term, parents in EDGES.items()}
    return Knowledge(types, {}, {}, {}, {}, version="test", digest="")


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        ("A", "A", 0),
        ("A", "C", 1),
        ("C", "A", 1),
        ("C", "D", 2),
        ("C", "G", 3),
        ("F", "G", 4),
        ("D", "G", 1),
        ("D", "E", None),  # meet below in G and above in the root: neither counts
        ("A", "B", None),  # only the root above them
        ("R", "F", 3),  # from the root itself down is a path
        ("H", "G", None),  # 5 steps
        ("A", "I", 4),
        ("A", "J", None),
    ],
)
def test_distance_when_designed_graph_then_counted_by_hand(graph, a, b, steps):
    assert distance(a, b, knowledge=graph) == steps
    assert distance(b, a, knowledge=graph) == steps


def test_relatives_when_two_parents_then_both_lines_are_above(graph):
    assert ancestors("G", knowledge=graph) == {"D", "E", "A", "B", "R"}
    assert descendants("A", knowledge=graph) == {"C", "D", "F", "G", "H", "I", "J"}
    assert ancestors("R", knowledge=graph) == frozenset()
    assert descendants("J", knowledge=graph) == frozenset()


def test_neighbours_when_two_hops_then_nearest_first_without_itself(graph):
    near = neighbours("C", hops=2, knowledge=graph)
    assert near == {"A": 1, "F": 1, "D": 2, "H": 2, "R": 2}
    assert list(near.values()) == sorted(near.values())
    assert neighbours("C", hops=0, knowledge=graph) == {}


def test_walks_when_id_unknown_then_refused(graph):
    for walk in (ancestors, descendants):
        with pytest.raises(NotFoundError, match="'X' is not a known cell type id"):
            walk("X", knowledge=graph)
    with pytest.raises(NotFoundError, match="resolve the name first"):
        neighbours("X", hops=1, knowledge=graph)
    with pytest.raises(NotFoundError, match="'X'"):
        distance("A", "X", knowledge=graph)


def test_distance_when_packaged_cell_types_then_biology_holds(subtests):
    for a, b, steps in [
        ("CL:0000576", "CL:0001054", 1),  # monocyte, CD14+ monocyte
        ("CL:0001054", "CL:0002396", 2),  # CD14+ and FCGR3A+ monocyte
        ("CL:0000624", "CL:0000625", 2),  # CD4 and CD8 T cell
        ("CL:0000057", "CL:0002553", 1),  # fibroblast, lung fibroblast
        ("CL:0002553", "CL:0002548", 2),  # lung and cardiac fibroblast
        ("CL:0002062", "CL:0002063", 2),  # alveolar type 1 and 2
        ("CL:0000169", "CL:0000171", 2),  # pancreatic beta and alpha
        ("CL:0000233", "CL:0000540", None),  # platelet and neuron
        ("CL:0000235", "CL:0000576", 1),  # a macrophage develops from a monocyte
        ("CL:0000233", "CL:0000556", 1),  # platelets from megakaryocytes
    ]:
        with subtests.test(a=a):
            assert distance(a, b, knowledge=load_knowledge()) == steps


def test_relatives_when_leukocyte_then_blood_lineages_and_no_others():
    below = descendants("CL:0000738", knowledge=load_knowledge())
    assert {"CL:0000623", "CL:0000236", "CL:0001054", "CL:0000451", "CL:0000775"} <= below
    assert not {"CL:0000057", "CL:0000115", "CL:0000233"} & below
    assert "CL:0000988" in ancestors("CL:0000738", knowledge=load_knowledge())


def test_neighbours_when_compared_with_distances_then_equal(graph):
    for start in EDGES:
        for hops in range(5):
            by_distance = {term: distance(start, term, knowledge=graph) for term in EDGES if term != start}
            expected = {term: steps for term, steps in by_distance.items() if steps is not None and steps <= hops}
            assert neighbours(start, hops=hops, knowledge=graph) == expected


#   T is_a L is_a R2;  M is_a L;  P develops_from M;  O part_of T;  Q develops_from P
LINKED = {
    "R2": CellType("R2", "root"),
    "L": CellType("L", "leukocyte", ("R2",)),
    "T": CellType("T", "t", ("L",)),
    "M": CellType("M", "monocyte", ("L",)),
    "P": CellType("P", "macrophage", ("R2",), develops_from=("M",)),
    "O": CellType("O", "organelle", ("R2",), part_of=("T",)),
    "Q": CellType("Q", "foam cell", develops_from=("P", "elsewhere")),
}


@pytest.fixture(scope="module")
def linked() -> Knowledge:
    return Knowledge(LINKED, {}, {}, {}, {}, version="test", digest="")


def test_distance_when_developing_or_part_then_counted_like_is_a(linked):
    assert distance("P", "M", knowledge=linked) == 1
    assert distance("O", "T", knowledge=linked) == 1
    assert distance("P", "T", knowledge=linked) == 3  # up to M, L, down to T
    assert distance("P", "M", knowledge=linked, relations=("is_a",)) is None
    assert neighbours("M", hops=2, knowledge=linked) == {"L": 1, "P": 1, "Q": 2, "R2": 2, "T": 2}
    assert neighbours("M", hops=2, knowledge=linked, relations=("is_a",)) == {"L": 1, "R2": 2, "T": 2}


def test_kinds_when_developing_then_not_above(linked):
    assert ancestors("Q", knowledge=linked) == frozenset()
    assert ancestors("Q", knowledge=linked, relations=("develops_from",)) == {"P", "M"}
    assert descendants("M", knowledge=linked) == frozenset()
    assert descendants("M", knowledge=linked, relations=("develops_from",)) == {"P", "Q"}


def test_walks_when_tissues_and_diseases_then_alike_and_apart():
    tissues = {"UBERON:1": Tissue("UBERON:1", "organ"), "UBERON:2": Tissue("UBERON:2", "lung", parents=("UBERON:1",))}
    diseases = {"MONDO:1": Disease("MONDO:1", "disease"), "MONDO:2": Disease("MONDO:2", "flu", parents=("MONDO:1",))}
    known = Knowledge({}, {}, {}, tissues, diseases, version="test", digest="")
    assert ancestors("UBERON:2", knowledge=known) == {"UBERON:1"}
    assert descendants("MONDO:1", knowledge=known) == {"MONDO:2"}
    assert distance("UBERON:2", "UBERON:1", knowledge=known) == 1
    assert distance("UBERON:2", "MONDO:2", knowledge=known) is None


def test_walks_when_id_is_obsolete_then_the_replacement_is_named():
    known = Knowledge(
        {"A": CellType("A", "a")}, {}, {}, {}, {}, version="test", digest="", obsolete={"X": Obsolete("X", "x", ("A",))}
    )
    with pytest.raises(NotFoundError, match="It is obsolete; use A"):
        ancestors("X", knowledge=known)


@pytest.mark.slow
def test_neighbours_when_full_cell_ontology_then_as_distances_say_and_quick(shared, added):
    known = added(shared / "data/ontology/cl_2024-04-05.obo")
    for start in ("CL:0000235", "CL:0000057", "CL:0000540", "CL:0000576"):
        near = neighbours(start, hops=2, knowledge=known)
        by_distance = {term: distance(start, term, knowledge=known) for term in known.cell_types if term != start}
        assert near == {term: steps for term, steps in by_distance.items() if steps is not None and steps <= 2}
        assert len(near) > 5
    assert distance("CL:0000235", "CL:0000576", knowledge=known) == 1  # macrophage develops from monocyte
    assert distance("CL:0000235", "CL:0000576", knowledge=known, relations=("is_a",)) != 1
