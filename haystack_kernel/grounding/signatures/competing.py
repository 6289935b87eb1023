"""Competing signatures: other perturbations whose known response explains the prediction better than the asked one.

In: tested genes with their effects, the asked signature, the knowledge tables. Out: the competing signatures, strongest
first, and the genes that they claim.

A response that another perturbation explains better is not specific to the asked one. The genes of such a competing
signature are therefore taken out before a set is tested against the competitive null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haystack_kernel.grounding.de.background import MIN_SET_GENES
from haystack_kernel.grounding.signatures.sets import EQUIVALENT, equivalents, overlap_coefficient, overlaps

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from haystack_kernel.grounding.de.background import Background, SignedSet
    from haystack_kernel.grounding.records import Basis
    from haystack_kernel.knowledge import Knowledge, PerturbationEntry

RIDGE = 1.0  # penalty on unit-length signatures
N_RANKED = 3  # signatures named in a ranking


def competing_signatures(
    background: Background,
    asked: SignedSet,
    *,
    perturbations: Mapping[str, PerturbationEntry],
    exempt: Collection[str],
) -> list[str]:
    """Names of the perturbations that explain the response better than the asked set does, strongest first.

    Parameters
    ----------
    background
        Tested genes with their effects and the statistic of every known response.
    asked
        Signed genes of what was asked for.
    perturbations
        The perturbations of the knowledge tables.
    exempt
        Perturbations that do not compete: the asked one and its equivalents.

    Returns
    -------
    Perturbations outside ``exempt`` whose response overlaps the asked set by at most 0.5 and has a statistic that is
    positive and above that of the asked set.
    """
    to_beat, strengths = max(background.statistic(asked), 0.0), background.strengths
    found = [
        name
        for name, strength in strengths.items()
        if strength > to_beat
        and name not in exempt
        and overlap_coefficient(asked, perturbations[name].response) <= EQUIVALENT
    ]
    return sorted(found, key=lambda name: (-strengths[name], name))


def competing_genes(names: Iterable[str], knowledge: Knowledge, *, spared: Collection[str]) -> set[str]:
    """Genes that perturbations claim: their responses and their pathways, except the ``spared`` pathways."""
    claimed = set[str]()
    for name in names:
        entry = knowledge.perturbations[name]
        claimed |= entry.response.keys()
        for pathway in entry.pathways.keys() & knowledge.pathways.keys() - set(spared):
            claimed |= knowledge.pathways[pathway].genes.keys()
    return claimed


def competing_with_asked(background: Background, instead: SignedSet, *, basis: Basis) -> tuple[list[str], set[str]]:
    """Signatures that compete with the asked perturbation, strongest first, and the genes that they claim.

    The asked perturbation stands by its own known response, or by ``instead`` where fewer than five genes of that
    response were tested. The asked pathways are spared.
    """
    query, known = basis.query, basis.knowledge.perturbations
    asked: SignedSet = query.expected_targets
    if background.locate(asked)[0].size < MIN_SET_GENES:
        asked = instead
    exempt = equivalents(asked, known, name=query.perturbation.name if query.perturbation else None)
    names = competing_signatures(background, asked, perturbations=known, exempt=exempt)
    return names, competing_genes(names, basis.knowledge, spared=set(query.expected_pathways))


def left_out_words(names: Collection[str]) -> list[str]:
    """The sentence that names the strongest competing signature; empty where there is none."""
    return [f"{next(iter(names))} fits the response better; shared genes were excluded"] if names else []


@dataclass(frozen=True)
class Competition:
    """Ridge coefficients of the asked signature (with its equivalents) and of the strongest competing one.

    Attributes
    ----------
    asked, competing_value
        The two coefficients, in units of the response's length.
    competing
        Name of the strongest competing signature; empty where there is none.
    ranking
        The three largest coefficients with their names; "" is the asked signature.
    """

    asked: float
    competing: str
    competing_value: float
    ranking: tuple[tuple[str, float], ...] = ()

    @property
    def leads(self) -> bool:
        """Whether the asked signature explains the response, and does so at least as well as any other."""
        return self.asked > 0 and self.asked >= self.competing_value


def compete(background: Background, asked: SignedSet, *, signatures: Mapping[str, SignedSet]) -> Competition:
    """Explain the response by all signatures at once, and see which one leads.

    Parameters
    ----------
    background
        Tested genes with their effects.
    asked
        Signed response genes of the asked perturbation.
    signatures
        Name -> signed response genes of the other perturbations. Those that overlap the asked one by more than 0.5
        count for it, and those that overlap another one count for that one, so that near-twins do not split their
        weight.

    Returns
    -------
    Coefficients of a ridge regression on centred unit-length columns (penalty 1), in units of the response's length.

    References
    ----------
    Jiang et al., Nat Methods 18:1181 (2021), use a ridge over cytokine signatures; the grouping of near-twins is
    defined here.
    """
    names, sets = [""], [asked]
    for name, genes in signatures.items():
        if background.locate(genes)[0].size >= MIN_SET_GENES:
            names.append(name)
            sets.append(genes)
    columns = np.zeros((len(background.genes), len(sets)))
    for column, genes in enumerate(sets):
        where, signs = background.locate(genes)
        columns[where, column] = signs
    design = np.column_stack([_unit(column) for column in columns.T])
    weights = np.linalg.solve(design.T @ design + RIDGE * np.eye(len(sets)), design.T @ _unit(background.z))
    same = overlaps(sets) > EQUIVALENT
    np.fill_diagonal(same, val=True)
    values = {names[i]: float(weights[same[i] & ~same[0]].sum()) for i in range(len(sets)) if not same[0, i]}
    strongest = max(values, key=lambda name: values[name], default="")
    asked_value = float(weights[same[0]].sum())
    ranking = sorted([("", asked_value), *values.items()], key=lambda one: (-one[1], one[0]))[:N_RANKED]
    return Competition(asked_value, strongest, values.get(strongest, 0.0), ranking=tuple(ranking))


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > 0 else centred
