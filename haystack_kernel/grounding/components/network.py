"""Network coherence: whether the prediction moves as a walk from the asked perturbation's targets says.

In: effects on the tested genes, the signed gene network, the query. Out: one ``Component``, tested against both nulls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.components.gene_set import N_SHOWN
from haystack_kernel.grounding.components.score import (
    Finding,
    not_computed,
    scored_component,
    too_few_tested,
    why_no_self_contained,
)
from haystack_kernel.grounding.de.background import FULL, MIN_SET_GENES, min_set_genes
from haystack_kernel.grounding.signatures.competing import competing_with_asked, left_out_words
from haystack_kernel.grounding.signatures.sets import EQUIVALENT, equivalents
from haystack_kernel.grounding.signatures.walks import (
    asked_action,
    asked_targets,
    asked_walk,
    known_walks,
)
from haystack_kernel.knowledge.walks import build_network, find_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.grounding.records import Basis, Evidence
    from haystack_kernel.schema import Component

    Floats = NDArray[np.float64]
    Positions = NDArray[np.intp]

MIN_REACHED = 10  # tested genes that a walk must reach
PANEL_REACHED = 3  # the same where the tested genes are a panel
N_LIKE = 200  # genes whose number of targets is nearest to that of a target, from which random walks start
CORE = 0.8  # share of a walk's squares that its heaviest genes hold
N_LEADING = 8
_PURPOSE = 3  # second word of the seed, so that no two tests share random numbers
_BLOCK = 2000  # draws made at a time, which bounds the memory


def score_network(name: str, weight: float, evidence: Evidence) -> Component:
    """Score how far the prediction agrees with the walk from the asked targets.

    The statistic is w z / |w| over the tested genes that the walk w reaches. The competitive null compares it with
    walks that start at random genes with about as many targets. Taken out first are the genes of every competing
    signature, and those that the walk of a better-fitting perturbation claims for a larger share than the asked one.
    """
    background, basis = evidence.background, evidence.basis
    mass, network = asked_walk(basis), build_network(basis.knowledge)
    here = background.positions(network.genes)
    genes, here = np.flatnonzero(here >= 0), here[here >= 0]  # tested genes: in the network, in the background
    n_reached = int(np.count_nonzero(mass[genes]))
    if reason := _why_not(basis, n_tested=len(background.genes), n_reached=n_reached):
        return not_computed(name, weight, reason, n_genes=n_reached)
    z = background.z[here]
    # The walk as a signature: its heaviest genes, which hold 80 % of its squares, signed.
    heaviest = np.argsort(-np.abs(mass), kind="stable")
    held = np.cumsum(mass[heaviest] ** 2)
    n_core = int(np.searchsorted(held, CORE * held[-1])) + 1
    core = {network.genes[i]: int(np.sign(mass[i])) for i in heaviest[:n_core]}
    signatures, moved = competing_with_asked(background, core, basis=basis)
    networks, claimed = _competing_networks(mass, genes=genes, z=z, basis=basis)
    claimed |= background.genes[here].isin(list(moved))
    least = min_set_genes(len(background.genes))
    p_competitive, n_sets = network_null(mass[genes], genes=genes, z=z, kept=~claimed, basis=basis, least=least)
    reasons = left_out_words(signatures)
    if networks:
        reasons.append(f"the network of {networks[0]} fits the response better; the genes that it claims were excluded")
    if n_sets < basis.settings.n_draws:
        reasons.append(
            f"compared with {n_sets:,} genes that have about as many targets as its own: p cannot be below 1 in "
            f"{n_sets + 1:,}"
        )
    leading, edges = _leading(mass, genes=genes, z=z, basis=basis)
    finding = Finding(
        statistic=float(_agreement(mass[genes][:, None], z)[0]),
        n_genes=n_reached,
        p_self_contained=evidence.self_contained.get(name).up,
        p_donors=evidence.self_contained.over_donors(name).up,
        p_competitive=p_competitive,
        why_no_self_contained=why_no_self_contained(evidence),
        reasons=reasons,
        detail={
            "competing": [*dict.fromkeys(signatures + networks)][:N_SHOWN],
            "n_start_sets": n_sets,
            "leading_genes": leading,
            "leading_edges": edges,
        },
    )
    return scored_component(name, weight, finding, basis=basis)


def network_null(
    mass: Floats,
    *,
    genes: Positions,
    z: Floats,
    kept: NDArray[np.bool_],
    basis: Basis,
    least: int = MIN_SET_GENES,
) -> tuple[float, int]:
    """Competitive null of a walk: its agreement with the effects, against walks from random starts like the targets.

    Parameters
    ----------
    mass, z
        The asked walk and the effects, per tested gene of the network.
    genes
        Positions of those genes in the network.
    kept
        Which of them no competing signature or network claims.
    basis
        Query, knowledge, settings and context.
    least
        Number of reached genes that must be kept; p is 1 where fewer are.

    Returns
    -------
    P value over the kept genes, and the number of random starts that it rests on. With one target every gene like it
    is used once, so p cannot be below 1 in (their number + 1).
    """
    if np.count_nonzero(mass[kept]) < least:
        return 1.0, basis.settings.n_draws  # nothing specific is left
    network = build_network(basis.knowledge)
    sources = find_sources(basis.knowledge, asked_targets(basis))
    pools = _start_pools(mass, genes=genes, sources=sources, basis=basis)
    used = sorted({gene for pool in pools for gene in pool})
    if not used:
        return 1.0, 0
    action = np.sign(mass @ network.walks(sources)[genes].mean(axis=1))
    mass, z, genes = mass[kept], z[kept], genes[kept]
    walks = action * network.walks(used)[genes]
    # The statistic of a sum of walks needs their products with z and with each other only, computed here once.
    top, gram = z @ walks, walks.T @ walks
    column = {gene: i for i, gene in enumerate(used)}
    choices = [np.array([column[gene] for gene in pool]) for pool in pools]
    observed = float(_agreement(mass[:, None], z)[0])
    n_draws = basis.settings.n_draws if len(choices) > 1 else choices[0].size
    rng = np.random.default_rng([basis.context.seed, _PURPOSE])
    above = 0
    for start in range(0, n_draws, _BLOCK):
        n_block = min(_BLOCK, n_draws - start)
        if len(choices) == 1:
            drawn = choices[0][start : start + n_block][:, None]
        else:
            drawn = np.stack([rng.choice(choice, n_block) for choice in choices], axis=1)
        squares = gram[drawn[:, :, None], drawn[:, None, :]].sum(axis=(1, 2))
        length = np.sqrt(np.maximum(squares, 0.0))
        reached = np.divide(top[drawn].sum(axis=1), length, out=np.zeros(n_block), where=length > 1e-12)
        above += int((reached >= observed - 1e-10 * abs(observed)).sum())
    return (1 + above) / (n_draws + 1), n_draws


def _start_pools(mass: Floats, *, genes: Positions, sources: Sequence[int], basis: Basis) -> list[list[int]]:
    """For each target the genes with about as many targets, from which a random walk may start.

    Genes whose walk says the same as the asked one (cosine above 0.5 in size) are left out: a receptor of the same
    pathway is no chance comparison.
    """
    network = build_network(basis.knowledge)
    degree = np.log(np.maximum(network.n_targets, 1))
    own = mass / np.linalg.norm(mass)
    can_start = np.flatnonzero(network.n_targets > 0)
    pools = []
    for source in sources:
        distance = np.abs(degree[can_start] - degree[source])
        nearest = can_start[np.argsort(distance, kind="stable")][: N_LIKE + len(sources)]
        walks = network.walks(nearest.tolist())[genes]
        length = np.linalg.norm(walks, axis=0)
        cosine = np.abs(np.divide(own @ walks, length, out=np.ones(len(nearest)), where=length > 0))
        pools.append([int(nearest[i]) for i in np.flatnonzero(cosine <= EQUIVALENT) if nearest[i] not in sources])
    return [pool for pool in pools if pool]


def _competing_networks(
    mass: Floats, *, genes: Positions, z: Floats, basis: Basis
) -> tuple[list[str], NDArray[np.bool_]]:
    """Perturbations whose walk agrees better with the effects, strongest first, and the genes that they claim."""
    query = basis.query
    own = mass[genes] / np.linalg.norm(mass[genes])
    asked = query.perturbation.name if query.perturbation is not None else None
    exempt = equivalents(query.expected_targets, basis.knowledge.perturbations, name=asked)
    names, walks = [], []
    for name, whole in known_walks(basis.knowledge).items():
        walk = whole[genes]
        reaches = np.count_nonzero(walk) >= MIN_REACHED
        if name not in exempt and reaches and walk @ own <= EQUIVALENT * np.linalg.norm(walk):
            names.append(name)
            walks.append(walk)
    if not walks:
        return [], np.zeros(len(genes), dtype=bool)
    stacked = np.stack(walks, axis=1)
    strengths = _agreement(stacked, z)
    to_beat = max(float(_agreement(own[:, None], z)[0]), 0.0)
    order = [i for i in np.argsort(-strengths, kind="stable") if strengths[i] > to_beat]
    claimed: NDArray[np.bool_] = np.any(np.abs(stacked[:, order]) > np.abs(own)[:, None], axis=1)
    return [names[i] for i in order], claimed


def _agreement(mass: Floats, z: Floats) -> Floats:
    """Statistic w z / |w| of each column w of ``mass``; 0 for a walk that reaches nothing."""
    length = np.linalg.norm(mass, axis=0)
    return np.divide(z @ mass, length, out=np.zeros(mass.shape[1]), where=length > 0)


def _leading(mass: Floats, *, genes: Positions, z: Floats, basis: Basis) -> tuple[list[str], list[str]]:
    """Genes that contribute most to the statistic, and for each the edge that brings most of its mass."""
    network = build_network(basis.knowledge)
    gain = mass[genes] * z
    order = [i for i in np.argsort(-gain, kind="stable")[:N_LEADING] if gain[i] > 0]
    sources = find_sources(basis.knowledge, asked_targets(basis))
    action = np.sign(mass @ network.walks(sources).mean(axis=1))
    passing = action * network.spread(sources).mean(axis=1)
    edges = []
    for target in (int(genes[i]) for i in order):
        arriving = network.arrivals[[target], :].toarray().ravel() * passing
        regulator = int(np.argmax(arriving * np.sign(mass[target])))
        arrow = "activates" if network.arrivals[target, regulator] > 0 else "inhibits"
        edges.append(f"{network.genes[regulator]} {arrow} {network.genes[target]}")
    return [network.genes[int(genes[i])] for i in order], edges


def _why_not(basis: Basis, *, n_tested: int, n_reached: int) -> str:
    """Why the component cannot be computed; empty when it can."""
    targets = asked_targets(basis)
    name = basis.query.perturbation.name if basis.query.perturbation is not None else "this question"
    if reason := too_few_tested(n_tested, basis=basis):
        return reason
    if not targets:
        return f"no targets of {name} are in the knowledge tables"
    if not find_sources(basis.knowledge, targets):
        return f"no target of {name} ({', '.join(targets[:5])}) regulates a gene of the network"
    if not asked_action(basis):
        return f"whether {name} activates or inhibits its targets is not known"
    least = MIN_REACHED if n_tested >= FULL else PANEL_REACHED
    if n_reached < least:
        return f"its network reaches {n_reached} of the tested genes; at least {least} are needed"
    return ""
