"""Network coherence: whether the prediction moves as a walk from the asked perturbation's targets says.

In: effects on the tested genes, the signed gene network, the query. Out: one ``Component``, judged against both nulls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from haystack_kernel.grounding.components.score import best_of_many, score_from_p
from haystack_kernel.grounding.components.walks import build_network, find_sources, known_walks, walk_of
from haystack_kernel.grounding.signatures.competing import rivals_of_asked
from haystack_kernel.grounding.signatures.sets import EQUIVALENT, MIN_SET_GENES, equivalents
from haystack_kernel.knowledge.actions import action_on_targets
from haystack_kernel.schema import Component

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from haystack_kernel.grounding.records import Basis, Evidence
    from haystack_kernel.grounding.signatures.sets import Background
    from haystack_kernel.knowledge import PerturbationEntry

NAN = float("nan")
MIN_REACHED = 10  # tested genes that a walk must reach
N_LIKE = 200  # seeds whose number of targets is nearest to that of a target
_PURPOSE_SEEDS = 3
_BLOCK = 2000


def asked_entry(basis: Basis) -> PerturbationEntry | None:
    """The asked perturbation as the tables know it; None where they do not."""
    asked = basis.query.perturbation
    return basis.knowledge.perturbations.get(asked.name) if asked is not None else None


def asked_targets(basis: Basis) -> tuple[str, ...]:
    """Receptors or drug targets of the asked perturbation, from the query, else from the tables."""
    asked, entry = basis.query.perturbation, asked_entry(basis)
    return (asked.targets if asked is not None else ()) or (entry.targets if entry is not None else ())


def asked_walk(basis: Basis) -> NDArray[np.float64]:
    """Walk of the asked perturbation over the genes of the network; all 0 where there is none."""
    entry = asked_entry(basis)
    action = action_on_targets(entry, knowledge=basis.knowledge) if entry is not None else 0
    return walk_of(basis.knowledge, targets=asked_targets(basis), action=action)


def expected_by_network(basis: Basis) -> dict[str, float]:
    """Weight of every gene that the walk reaches, signed; never from measured cells."""
    network, mass = build_network(basis.knowledge), asked_walk(basis)
    return {network.genes[i]: float(mass[i]) for i in np.flatnonzero(mass)}


def judge_network(name: str, weight: float, evidence: Evidence) -> Component:
    """Agreement of the walk with the prediction, against seeds like the targets and permuted labels.

    The statistic is w z / |w| over the tested genes that the walk w reaches. p_specificity compares it with walks from
    random seeds with about as many targets, equivalent genes (cosine above 0.5) excepted, after taking out the genes of
    every perturbation whose known response explains the prediction better, and those that a stronger rival's walk
    claims for a larger share than the asked one does.
    """
    background, basis = evidence.background, evidence.basis
    mass = asked_walk(basis)
    genes, here = _shared(background, basis)
    n_reached = int(np.count_nonzero(mass[genes]))
    if reason := _why_not(basis, n_tested=len(background.genes), n_reached=n_reached):
        return Component(name=name, weight=weight, score=NAN, reason=reason, n_genes=n_reached)
    z = background.z[here]
    stronger, moved = rivals_of_asked(background, _core(mass, basis=basis), basis=basis)
    rivals, claimed = _rivals(mass, genes=genes, z=z, basis=basis)
    claimed |= background.genes[here].isin(list(moved))
    p_spec, n_seeds = _p_seeds(mass[genes], genes=genes, z=z, kept=~claimed, basis=basis)
    reasons = [f"{stronger[0]} explains the response better; its genes were left out"] if stronger else []
    if rivals:
        reasons.append(f"the network of {rivals[0]} explains the response better; the genes it claims were left out")
    if n_seeds < basis.settings.n_draws:
        reasons.append(f"compared with {n_seeds:,} seeds like its target: p cannot be below 1 in {n_seeds + 1:,}")
    p_sig = evidence.signal.get(name).up
    if np.isnan(p_sig):
        why = evidence.signal.reason or f"the prompt measures fewer than {MIN_SET_GENES} of its genes"
        reasons.append(f"judged by specificity alone: {why}")
    p = best_of_many(float(np.nanmax([p_sig, p_spec])), n_scored=basis.context.n_scored)
    detail: dict[str, Any] = {
        "p": p,
        "rivals": [*dict.fromkeys(stronger + rivals)][:5],
        "n_seed_sets": n_seeds,
        "n_draws": basis.settings.n_draws,
    }
    detail |= _leading(mass, genes=genes, z=z, basis=basis)
    return Component(
        name=name,
        weight=weight,
        score=score_from_p(p),
        reason="; ".join(reasons),
        statistic=float(_agreement(mass[genes][:, None], z)[0]),
        p_signal=p_sig,
        p_specificity=p_spec,
        n_genes=n_reached,
        detail=detail,
    )


def _core(mass: NDArray[np.float64], *, basis: Basis, share: float = 0.8) -> dict[str, int]:
    """The heaviest genes of a walk, by sign, that hold this share of its squares: it stands by them among responses."""
    genes, order = build_network(basis.knowledge).genes, np.argsort(-np.abs(mass), kind="stable")
    held = np.cumsum(mass[order] ** 2)
    return {genes[i]: int(np.sign(mass[i])) for i in order[: int(np.searchsorted(held, share * held[-1])) + 1]}


def _why_not(basis: Basis, *, n_tested: int, n_reached: int) -> str:
    """Why the component cannot be computed; empty when it can."""
    settings, entry, targets = basis.settings, asked_entry(basis), asked_targets(basis)
    name = basis.query.perturbation.name if basis.query.perturbation is not None else "this question"
    if n_tested < settings.min_tested_genes:
        return f"only {n_tested:,} genes were tested; at least {settings.min_tested_genes:,} are needed"
    if not targets:
        return f"no targets of {name} are in the knowledge tables"
    if not find_sources(basis.knowledge, targets):
        return f"no target of {name} ({', '.join(targets[:5])}) regulates a gene of the network"
    if entry is None or not action_on_targets(entry, knowledge=basis.knowledge):
        return f"whether {name} activates or inhibits its targets is not known"
    if n_reached < MIN_REACHED:
        return f"its network reaches {n_reached} of the tested genes; at least {MIN_REACHED} are needed"
    return ""


def _shared(background: Background, basis: Basis) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of the tested genes of the network: in the network, and in the background."""
    network = build_network(basis.knowledge)
    here = background.places(network.genes)
    return np.flatnonzero(here >= 0), here[here >= 0]


def _agreement(mass: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """W z / |w| per column; 0 for a walk that reaches nothing."""
    length = np.linalg.norm(mass, axis=0)
    return np.divide(z @ mass, length, out=np.zeros(mass.shape[1]), where=length > 0)


def _rivals(
    mass: NDArray[np.float64], *, genes: NDArray[np.intp], z: NDArray[np.float64], basis: Basis
) -> tuple[list[str], NDArray[np.bool_]]:
    """Perturbations whose walk agrees better, strongest first, and the genes that they claim."""
    query = basis.query
    own = mass[genes] / np.linalg.norm(mass[genes])
    exempt = equivalents(
        query.expected_targets,
        basis.knowledge.perturbations,
        name=query.perturbation.name if query.perturbation is not None else None,
    )
    walks: Mapping[str, NDArray[np.float64]] = {
        name: walk[genes]
        for name, walk in known_walks(basis.knowledge).items()
        if name not in exempt
        and np.count_nonzero(walk[genes]) >= MIN_REACHED
        and walk[genes] @ own <= EQUIVALENT * np.linalg.norm(walk[genes])
    }
    if not walks:
        return [], np.zeros(len(genes), dtype=bool)
    names, stacked = list(walks), np.stack(list(walks.values()), axis=1)
    strengths = _agreement(stacked, z)
    bar = max(float(_agreement(own[:, None], z)[0]), 0.0)
    order = [i for i in np.argsort(-strengths, kind="stable") if strengths[i] > bar]
    claimed: NDArray[np.bool_] = np.any(np.abs(stacked[:, order]) > np.abs(own)[:, None], axis=1)
    return [names[i] for i in order], claimed


def _p_seeds(
    mass: NDArray[np.float64],
    *,
    genes: NDArray[np.intp],
    z: NDArray[np.float64],
    kept: NDArray[np.bool_],
    basis: Basis,
) -> tuple[float, int]:
    """P of the agreement over the kept genes among random seeds like the targets, and how many sets it rests on."""
    if np.count_nonzero(mass[kept]) < MIN_SET_GENES:
        return 1.0, basis.settings.n_draws  # nothing specific is left
    network = build_network(basis.knowledge)
    sources = find_sources(basis.knowledge, asked_targets(basis))
    pools = _pools(mass, genes=genes, sources=sources, basis=basis)
    used = sorted({gene for pool in pools for gene in pool})
    if not used:
        return 1.0, 0
    sign = np.sign(mass @ network.walks(sources)[genes].mean(axis=1))
    mass, z, genes = mass[kept], z[kept], genes[kept]
    walks = sign * network.walks(used)[genes]
    top, gram = z @ walks, walks.T @ walks
    column = {gene: i for i, gene in enumerate(used)}
    choices = [np.array([column[gene] for gene in pool]) for pool in pools]
    observed = float(_agreement(mass[:, None], z)[0])
    n_draws = basis.settings.n_draws
    if len(choices) == 1:
        n_draws = choices[0].size  # each seed once
    rng = np.random.default_rng([basis.context.seed, _PURPOSE_SEEDS])
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


def _pools(mass: NDArray[np.float64], *, genes: NDArray[np.intp], sources: list[int], basis: Basis) -> list[list[int]]:
    """For each target the genes with about as many targets, without those whose walk says the same as the asked one."""
    network = build_network(basis.knowledge)
    degree = np.log(np.maximum(network.n_targets, 1))
    own = mass / np.linalg.norm(mass)
    can = np.flatnonzero(network.n_targets > 0)
    pools = []
    for source in sources:
        order = can[np.argsort(np.abs(degree[can] - degree[source]), kind="stable")][: N_LIKE + len(sources)]
        walks = network.walks(order.tolist())[genes]
        length = np.linalg.norm(walks, axis=0)
        cosine = np.abs(np.divide(own @ walks, length, out=np.ones(len(order)), where=length > 0))
        pools.append([int(order[i]) for i in np.flatnonzero(cosine <= EQUIVALENT) if order[i] not in sources])
    return [pool for pool in pools if pool]


def _leading(
    mass: NDArray[np.float64], *, genes: NDArray[np.intp], z: NDArray[np.float64], basis: Basis, n_top: int = 8
) -> dict[str, Any]:
    """Genes that speak most for the walk, each with the edge that brings most of its mass."""
    network = build_network(basis.knowledge)
    gain = mass[genes] * z
    order = [i for i in np.argsort(-gain, kind="stable")[:n_top] if gain[i] > 0]
    sources = find_sources(basis.knowledge, asked_targets(basis))
    action = np.sign(mass @ network.walks(sources).mean(axis=1))
    passing = action * network.spread(sources).mean(axis=1)
    edges = []
    for i in order:
        row = network.arrivals[[int(genes[i])], :].toarray().ravel() * passing
        best = int(np.argmax(row * np.sign(mass[genes[i]])))
        arrow = "activates" if network.arrivals[int(genes[i]), best] > 0 else "inhibits"
        edges.append(f"{network.genes[best]} {arrow} {network.genes[int(genes[i])]}")
    return {"leading_genes": [network.genes[int(genes[i])] for i in order], "leading_edges": edges}
