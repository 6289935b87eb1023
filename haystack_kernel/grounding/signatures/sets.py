"""Signed gene sets on the background of tested genes: statistics, overlaps, rivals and the ridge between them.

In: the DE table and signed sets. Out: standardised effects, set statistics, who explains the response better.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.de.table import MEAN_CONTROL, SD

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from haystack_kernel.knowledge import Knowledge, PerturbationEntry

    SignedSet = Mapping[str, float]  # gene -> +1 or -1, or any signed weight

MIN_SET_GENES = 5
EQUIVALENT = 0.5  # overlap coefficient above which two sets count as the same answer
RIDGE = 1.0  # penalty on unit-length signatures


@dataclass(frozen=True, eq=False)
class Background:
    """The tested genes of one comparison.

    ``z`` = delta / (sd + median sd), ``level`` = mean log1p-CP10k in the control arm, ``strengths`` = statistic of
    every perturbation's response of which at least five genes were tested.
    """

    genes: pd.Index
    z: NDArray[np.float64]
    level: NDArray[np.float64]
    strengths: dict[str, float] = field(default_factory=dict)

    def place(self, genes: SignedSet) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Positions and signs of the genes of a set that were tested."""
        found = [(self._position[gene], sign) for gene, sign in genes.items() if gene in self._position]
        where, signs = zip(*found, strict=True) if found else ((), ())
        return np.array(where, dtype=np.intp), np.array(signs, dtype=float)

    def places(self, genes: Sequence[str]) -> NDArray[np.intp]:
        """Position of each gene among the tested ones; -1 where it was not tested."""
        return np.array([self._position.get(gene, -1) for gene in genes], dtype=np.intp)

    def statistic(self, genes: SignedSet) -> float:
        """Mean of s_g z_g over the tested genes of a set; NaN when none was tested."""
        where, signs = self.place(genes)
        return float(np.mean(signs * self.z[where])) if where.size else float("nan")

    @functools.cached_property
    def _position(self) -> dict[str, int]:
        return {gene: place for place, gene in enumerate(self.genes)}


def effect_background(de: pd.DataFrame, *, perturbations: Mapping[str, PerturbationEntry]) -> Background:
    """Standardise the effects of the tested genes of a table from :func:`compute_de`; weigh every perturbation."""
    tested = de[de[keys.IS_TESTED].to_numpy(bool)].drop_duplicates(keys.GENE)
    sd = tested[SD].to_numpy(float)
    background = Background(
        genes=pd.Index(tested[keys.GENE].to_numpy(object)),
        z=standardise(tested[keys.DELTA].to_numpy(float), sd),
        level=tested[MEAN_CONTROL].to_numpy(float),
    )
    for name, entry in perturbations.items():
        if background.place(entry.response)[0].size >= MIN_SET_GENES:
            background.strengths[name] = background.statistic(entry.response)
    return background


def standardise(delta: NDArray[np.float64], sd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Delta / (sd + median sd); 0 where no gene varies at all."""
    scale = sd + (np.median(sd) if sd.size else 0.0)
    return np.divide(delta, scale, out=np.zeros_like(delta), where=scale > 0)


def merge_signed(sets: Iterable[tuple[SignedSet, int]]) -> dict[str, int]:
    """Union of signed sets, each multiplied by its sign; a gene asked to rise and to fall alike is left out."""
    votes: dict[str, float] = {}
    for genes, direction in sets:
        for gene, sign in genes.items():
            votes[gene] = votes.get(gene, 0) + sign * direction
    return {gene: 1 if vote > 0 else -1 for gene, vote in votes.items() if vote}


def overlap_coefficient(one: SignedSet, two: SignedSet) -> float:
    """Genes that both sets move the same way, over the size of the smaller set; 0 for an empty set."""
    if not one or not two:
        return 0.0
    return len(one.items() & two.items()) / min(len(one), len(two))


def equivalents(
    asked: SignedSet, perturbations: Mapping[str, PerturbationEntry], *, name: str | None = None
) -> set[str]:
    """Perturbations that cannot be told from the asked one by their response: overlap above 0.5, and itself."""
    same = {other for other, entry in perturbations.items() if overlap_coefficient(asked, entry.response) > EQUIVALENT}
    return same | ({name} if name is not None else set())


def stronger_rivals(
    background: Background,
    asked: SignedSet,
    *,
    perturbations: Mapping[str, PerturbationEntry],
    exempt: Collection[str],
) -> list[str]:
    """Perturbations that explain the response better than the asked set does, strongest first.

    A rival lies outside ``exempt``, its response overlaps the asked set by at most 0.5, and its strength is positive
    and above the statistic of the asked set.
    """
    bar, strengths = max(background.statistic(asked), 0.0), background.strengths
    found = [
        name
        for name, strength in strengths.items()
        if strength > bar
        and name not in exempt
        and overlap_coefficient(asked, perturbations[name].response) <= EQUIVALENT
    ]
    return sorted(found, key=lambda name: (-strengths[name], name))


def rival_genes(rivals: Iterable[str], knowledge: Knowledge, *, spared: Collection[str]) -> set[str]:
    """Genes of the rivals: their responses and their pathways, but not the ``spared`` ones."""
    found = set[str]()
    for name in rivals:
        entry = knowledge.perturbations[name]
        found |= entry.response.keys()
        for pathway in entry.pathways.keys() & knowledge.pathways.keys() - set(spared):
            found |= knowledge.pathways[pathway].genes.keys()
    return found


@dataclass(frozen=True)
class Competition:
    """Ridge coefficients: the asked signature (with its equivalents) and the strongest other one."""

    asked: float
    rival: str
    rival_value: float
    ranking: tuple[tuple[str, float], ...] = ()  # the strongest three, "" the asked one

    @property
    def leads(self) -> bool:
        """Whether the asked signature explains the response, and does so better than any other."""
        return self.asked > 0 and self.asked >= self.rival_value


def compete(background: Background, asked: SignedSet, *, signatures: Mapping[str, SignedSet]) -> Competition:
    """Explain the response by all signatures at once and see who leads.

    Parameters
    ----------
    background
        Tested genes with their effects.
    asked
        Signed response genes of the asked perturbation.
    signatures
        Name -> signed response genes of the others. Near-twins of the asked one (overlap above 0.5) count for it,
        near-twins of another count for that other, so that twins do not split their weight.

    Returns
    -------
    Coefficients of a ridge on centred unit-length columns (penalty 1), in units of the response's length.

    References
    ----------
    Jiang et al., Nat Methods 18:1181 (2021) use a ridge over cytokine signatures; grouping of twins defined here.
    """
    sets = [asked, *signatures.values()]
    names = ["", *signatures]
    usable = [i for i, genes in enumerate(sets) if i == 0 or background.place(genes)[0].size >= MIN_SET_GENES]
    sets, names = [sets[i] for i in usable], [names[i] for i in usable]
    design = np.column_stack([_unit(_column(background, genes)) for genes in sets])
    weights = np.linalg.solve(design.T @ design + RIDGE * np.eye(len(sets)), design.T @ _unit(background.z))
    same = _same_answer(sets)
    rivals = {names[i]: float(weights[same[i] & ~same[0]].sum()) for i in range(len(sets)) if not same[0, i]}
    rival = max(rivals, key=lambda name: rivals[name], default="")
    asked_weight = float(weights[same[0]].sum())
    ranking = sorted([("", asked_weight), *rivals.items()], key=lambda one: (-one[1], one[0]))[:3]
    return Competition(asked=asked_weight, rival=rival, rival_value=rivals.get(rival, 0.0), ranking=tuple(ranking))


def _same_answer(sets: Sequence[SignedSet]) -> NDArray[np.bool_]:
    same = np.eye(len(sets), dtype=bool)
    for i, one in enumerate(sets):
        for j in range(i):
            same[i, j] = same[j, i] = overlap_coefficient(one, sets[j]) > EQUIVALENT
    return same


def _column(background: Background, genes: SignedSet) -> NDArray[np.float64]:
    where, signs = background.place(genes)
    column = np.zeros(len(background.genes))
    column[where] = signs
    return column


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > 0 else centred
