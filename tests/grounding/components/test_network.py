"""Network coherence on the designed world: the asked cascade, a competing one's, reversed and absent ones."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest

from haystack_kernel import keys
from haystack_kernel.grounding.components.network import network_null
from haystack_kernel.grounding.records import Basis
from haystack_kernel.grounding.signatures.regulons import activated_factors, undetected_targets, widen
from haystack_kernel.grounding.signatures.walks import asked_walk
from haystack_kernel.knowledge import Edge
from haystack_kernel.knowledge.walks import build_network

GENES = [f"G{i}" for i in range(1500)]  # the world of conftest
ALPHA_UP, ALPHA_DOWN, BETA_UP = GENES[5::37][:30], GENES[11::37][:10], GENES[20::37][:30]
BYSTANDERS = 60


def cascade(receptor, factor, up, down=()):
    signs = [(gene, 1) for gene in up] + [(gene, -1) for gene in down]
    edges = [Edge(factor, gene, sign, "transcription") for gene, sign in signs]
    return [Edge(receptor, factor, 1, "signalling"), *edges]


@pytest.fixture(scope="session")
def wired(knowledge):
    """ALPHAR -> TFA -> its genes, BETAR -> TFB -> its genes, and receptors of bystanders with random genes."""
    rng = np.random.default_rng(3)
    edges = cascade("ALPHAR", "TFA", ALPHA_UP, ALPHA_DOWN) + cascade("BETAR", "TFB", BETA_UP)
    for k in range(BYSTANDERS):
        edges += cascade(f"R{k}", f"TF{k}", rng.choice(GENES, 20, replace=False).tolist())
    entries = {
        name: dataclasses.replace(entry, targets=(f"{name.removesuffix('-TWIN')}R",))
        for name, entry in knowledge.perturbations.items()
    }
    return dataclasses.replace(knowledge, network=tuple(edges), perturbations=entries)


@pytest.fixture(scope="module")
def network(wired, score):
    def run(cells, query, **changes):
        result = score(dataclasses.replace(cells, baselines={}), query, **({"knowledge": wired} | changes))
        return next(item for item in result.components if item.name == keys.NETWORK)

    return run


@pytest.fixture(scope="module")
def ask_wired(ask, wired):
    def build(name, *, targets=None):
        query = ask(name)
        asked = query.perturbation.model_copy(update={"targets": targets or wired.perturbations[name].targets})
        return query.model_copy(update={"perturbation": asked})

    return build


def test_network_when_the_asked_cascade_is_there_then_as_high_as_its_start_genes_allow(alpha_cells, ask_wired, network):
    found = network(alpha_cells, ask_wired("ALPHA"))
    n_starts = found.detail["n_start_sets"]
    assert found.p_specificity == pytest.approx(1 / (n_starts + 1))
    assert found.p_signal == pytest.approx(1 / 2000)
    assert found.score > 6
    assert found.n_genes == 40  # the cells show the genes, not the factor
    assert f"1 in {n_starts + 1}" in found.reason
    assert found.detail["leading_edges"][0].startswith("TFA ")


def test_network_when_labels_are_swapped_or_another_is_asked_then_low(alpha_cells, swap_labels, ask_wired, network):
    swapped = network(swap_labels(alpha_cells), ask_wired("ALPHA"))
    assert swapped.score == 1
    assert swapped.statistic < 0
    other = network(alpha_cells, ask_wired("BETA"))
    assert other.score < 4
    assert other.detail["competing"][0].startswith("ALPHA")


def test_network_when_only_the_prediction_shows_it_then_the_prompt_denies_it(alpha_cells, world, ask_wired, network):
    found = network(dataclasses.replace(alpha_cells, prompt=world.cells(80)), ask_wired("ALPHA"))
    assert found.p_specificity < 0.05
    assert found.p_signal > 0.01


def test_network_when_the_walk_has_no_start_then_nan_with_a_reason(alpha_cells, ask_wired, network, wired):
    def knowing(**changes):
        asked = dataclasses.replace(wired.perturbations["ALPHA"], **changes)
        return dataclasses.replace(wired, perturbations={**wired.perturbations, "ALPHA": asked})

    short = dataclasses.replace(wired, network=tuple(cascade("ALPHAR", "TFA", ALPHA_UP[:6])))
    cases = {
        "no target of ALPHA (NOPE)": (ask_wired("ALPHA", targets=("NOPE",)), knowing(targets=("NOPE",))),
        "activates or inhibits": (ask_wired("ALPHA"), knowing(type="drug", family="something")),
        "reaches 6 of the tested": (ask_wired("ALPHA"), short),
    }
    for reason, (query, known) in cases.items():
        found = network(alpha_cells, query, knowledge=known)
        assert math.isnan(found.score)
        assert reason in found.reason


def test_network_null_when_two_targets_then_as_counted_over_all_pairs(wired, ask_wired, settings, context):
    twins = dataclasses.replace(wired.perturbations["ALPHA"], targets=("ALPHAR", "R0"))
    known = dataclasses.replace(wired, perturbations={**wired.perturbations, "ALPHA": twins})
    query = ask_wired("ALPHA", targets=("ALPHAR", "R0"))
    basis = Basis(query, known, settings, context)
    network, mass = build_network(known), asked_walk(basis)
    genes = np.array([network.place[gene] for gene in GENES if gene in network.place])
    mass, kept = mass[genes], np.ones(genes.size, dtype=bool)
    z = np.random.default_rng(1).normal(size=genes.size) + 1.0 * mass / np.linalg.norm(mass)
    found, n_sets = network_null(mass, genes=genes, z=z, kept=kept, basis=basis)
    own = mass / np.linalg.norm(mass)
    free = []
    for gene in np.flatnonzero(network.n_targets):
        walk = network.walks([gene])[genes, 0]
        if not walk.any():
            continue  # reaches factors only: says nothing
        if abs(own @ walk) / np.linalg.norm(walk) <= 0.5 and network.genes[gene] not in ("ALPHAR", "R0"):
            free.append(walk)
    observed = z @ mass / np.linalg.norm(mass)
    pairs = [one + two for one, two in itertools.product(free, free)]
    exact = np.mean([z @ pair / np.linalg.norm(pair) >= observed for pair in pairs])
    assert n_sets == settings.n_draws
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / n_sets) + 1 / n_sets)


def test_factors_when_the_receptor_is_asked_then_its_factor_and_what_it_regulates(wired, ask_wired, settings, context):
    basis = Basis(ask_wired("ALPHA"), wired, settings, context)
    assert activated_factors(basis) == {"TFA": 1}
    genes = widen({ALPHA_UP[0]: -1, "OTHER": 1}, {"TFA": 1}, knowledge=wired)
    assert genes[ALPHA_UP[0]] == -1  # what is known goes first
    assert genes[ALPHA_UP[1]] == 1
    assert genes[ALPHA_DOWN[0]] == -1
    assert len(genes) == 41


def test_widen_when_two_factors_disagree_then_the_gene_is_left_out(wired):
    edges = (*cascade("A", "F1", [f"G{i}" for i in range(5)]), *cascade("A", "F2", [], [f"G{i}" for i in range(5)]))
    known = dataclasses.replace(wired, network=edges)
    assert widen({}, {"F1": 1, "F2": 1}, knowledge=known) == {}
    assert widen({}, {"F1": 1, "F2": -1}, knowledge=known) == dict.fromkeys([f"G{i}" for i in range(5)], 1)


def test_undetected_when_a_receptor_is_not_seen_then_said(ask_wired, wired, settings, context):
    @dataclasses.dataclass
    class Seen:
        basis: Basis
        de: pd.DataFrame

    def said(level):
        table = pd.DataFrame({keys.GENE: ["ALPHAR"], "mean_control": [0.0], "mean_treated": [level]})
        return undetected_targets(Seen(Basis(ask_wired("ALPHA"), wired, settings, context), table))

    assert said(0.1) == ""
    assert said(0.0) == "ALPHAR not detected, which does not prove absence"
