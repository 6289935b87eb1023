"""Walks on a designed network, solved another way."""

import dataclasses

import numpy as np
import pytest

from haystack_kernel.grounding.signatures.walks import known_walks
from haystack_kernel.knowledge import Edge, Knowledge, PerturbationEntry, load_knowledge
from haystack_kernel.knowledge.walks import RESTART, build_network, walk_of

EDGES = (
    Edge("R1", "K1", 1, "signalling"),
    Edge("R1", "K2", -1, "signalling"),
    Edge("K1", "T1", 1, "signalling"),
    Edge("K2", "T1", -1, "signalling", weight=3.0),
    Edge("K2", "T2", 1, "signalling"),
    Edge("T1", "G1", 1, "transcription"),
    Edge("T1", "G2", -1, "transcription"),
    Edge("T2", "G3", 1, "transcription"),
    Edge("G1", "K1", -1, "transcription"),  # feeds back
)


def known(edges=EDGES, entries=()):
    return Knowledge({}, {entry.name: entry for entry in entries}, {}, {}, {}, "t", "t", network=edges)


def treatment(name, kind, targets, family=""):
    return PerturbationEntry(name, kind, (), targets, {}, {}, {}, family)


def solved(edges, source):
    """The same walk as a dense linear system, written edge by edge, and what transcription brings of it."""
    genes = sorted({gene for edge in edges for gene in (edge.regulator, edge.target)})
    steps, arcompeting = np.zeros((2, len(genes), len(genes)))
    for edge in edges:
        leaving = sum(other.weight for other in edges if other.regulator == edge.regulator)
        steps[genes.index(edge.target), genes.index(edge.regulator)] = edge.sign * edge.weight / leaving
        if edge.kind == "transcription":
            arcompeting[genes.index(edge.target), genes.index(edge.regulator)] = edge.sign * edge.weight / leaving
    start = np.array([float(gene == source) for gene in genes])
    mass = np.linalg.solve(np.eye(len(genes)) - (1 - RESTART) * steps, RESTART * start)
    mass = (1 - RESTART) * arcompeting @ mass
    mass[genes.index(source)] = 0
    return dict(zip(genes, mass, strict=True))


def test_walks_when_signed_then_as_the_linear_system():
    network = build_network(known())
    for source in ("R1", "K2", "T1"):
        mass = network.walks([network.place[source]])[:, 0]
        assert dict(zip(network.genes, mass, strict=True)) == pytest.approx(solved(EDGES, source), abs=1e-8)


def test_walks_when_all_edges_activate_then_as_pagerank_of_networkx():
    networkx = pytest.importorskip("networkx")
    ring = (*EDGES[:7], Edge("T2", "R1", 1, "signalling"), Edge("G1", "R1", 1, "signalling"))
    ring = (*ring, Edge("G2", "K2", 1, "signalling"))
    edges = tuple(dataclasses.replace(edge, sign=1, kind="signalling") for edge in ring)  # so that all are read
    graph = networkx.DiGraph()
    graph.add_weighted_edges_from((edge.regulator, edge.target, edge.weight) for edge in edges)
    expected = networkx.pagerank(graph, alpha=1 - RESTART, personalization={"K1": 1}, tol=1e-12, max_iter=500)
    network = build_network(known(edges))
    mass = dict(zip(network.genes, network.walks([network.place["K1"]])[:, 0], strict=True))
    del expected["K1"]
    assert {gene: mass[gene] for gene in expected} == pytest.approx(expected, abs=1e-8)


def test_walks_when_two_ways_disagree_then_their_masses_are_subtracted():
    edges = (
        Edge("R", "A", 1, "signalling"),
        Edge("R", "B", -1, "signalling"),
        Edge("A", "G", 1, "transcription"),
        Edge("B", "G", 1, "transcription"),
    )
    network = build_network(known(edges))
    assert network.walks([network.place["R"]])[network.place["G"], 0] == pytest.approx(0)


def test_walks_when_signalling_takes_a_protein_down_then_its_transcription_is_read():
    edges = (
        Edge("R", "KINASE", 1, "signalling"),
        Edge("KINASE", "BRAKE", -1, "signalling"),
        Edge("KINASE", "FACTOR", 1, "signalling"),
        Edge("FACTOR", "BRAKE", 1, "transcription"),
    )
    network = build_network(known(edges))
    mass = dict(zip(network.genes, network.walks([network.place["R"]])[:, 0], strict=True))
    keep = 1 - RESTART
    assert mass == pytest.approx({"R": 0, "KINASE": 0, "FACTOR": 0, "BRAKE": RESTART * keep**3 / 2}, abs=1e-12)
    assert network.spread([network.place["R"]])[network.place["BRAKE"], 0] < 0


def test_walk_when_a_drug_inhibits_then_negative_and_zero_at_its_targets():
    one = known()
    up = walk_of(one, targets=("R1", "NOPE"), action=1)
    down = walk_of(one, targets=("R1",), action=-1)
    assert down == pytest.approx(-up)
    assert up[build_network(one).place["R1"]] == 0
    assert not walk_of(one, targets=("G3",), action=1).any()  # regulates nothing
    assert not walk_of(one, targets=("R1",), action=0).any()


def test_known_walks_when_the_action_is_known_then_of_length_one():
    entries = (
        treatment("LIGAND", "cytokine", ("R1",)),
        treatment("STOP", "drug", ("R1",), "R1 inhibitor"),
        treatment("PILL", "drug", ("R1",), "something"),
    )
    walks = known_walks(known(entries=entries))
    assert walks.keys() == {"LIGAND", "STOP"}
    assert np.linalg.norm(walks["LIGAND"]) == pytest.approx(1)
    assert walks["STOP"] == pytest.approx(-walks["LIGAND"])


def test_packaged_walks_when_held_against_the_known_responses_then_none_points_the_other_way():
    """Network and responses were written apart; what both speak of must mostly agree in sign."""
    tables = load_knowledge()
    network, against, n_shared = build_network(tables), {}, 0
    for name, walk in known_walks(tables).items():
        shared = [
            (walk[network.place[gene]], sign)
            for gene, sign in tables.perturbations[name].response.items()
            if gene in network.place and walk[network.place[gene]]
        ]
        if shared:
            n_shared += 1
            agreement = sum(mass * sign for mass, sign in shared) / sum(abs(mass) for mass, _ in shared)
            if agreement <= 0:
                against[name] = agreement
    assert n_shared > 200
    assert against == {}
