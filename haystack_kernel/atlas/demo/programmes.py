"""Effects of each treatment in the simulated world: half of the genes are in the knowledge tables, half are not.

In: a seed, the knowledge tables, gene abundances. Out: one ``Programme`` per treatment, with its effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from haystack_kernel.atlas.demo.facts import CELL_TYPES, CYTOKINES, DRUGS
from haystack_kernel.atlas.demo.profiles import load_genes, rng_of, tree_noise
from haystack_kernel.knowledge import perturbation_of, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from haystack_kernel.knowledge import Knowledge, PerturbationEntry

Role = Literal["true", "wrong", "reversed", "inert"]

TWINS = {"IFN-alpha1": "IFN-beta"}  # the first acts like the second, but more weakly, and shares its role
N_KNOWN = 36  # genes of a typical programme from the tables, if they have as many; and as many private ones
LABELS = (*CYTOKINES, *DRUGS)
FRACTIONS: dict[Role, float] = {
    "inert": 0.10,
    "wrong": 0.08,  # the tables name genes of other pathways
    "reversed": 0.07,  # the tables have the direction wrong
}
_FRAC_NON_RESPONDERS = 0.12  # of cell types, whether or not they have the receptor
# natural log fold changes: (mean, sd) of the size
_RESPONSE, _PATHWAY, _PRIVATE, _SPECIFIC = (1.5, 0.5), (1.0, 0.4), (1.2, 0.5), (1.1, 0.4)
_FRAC_UP = 0.65  # of private genes
_STRENGTH_SD = 0.25  # between treatments, natural log; the stronger move more genes, and each of them more
_STRONG = {"IFN-beta": 1.4, "IFN-gamma": 1.4, "TNF-alpha": 1.2, "IL-15": 1.2}  # as in blood cells
_SCALE_SD = 0.30  # between cell types, natural log
_INTERACTION_SD = 0.25  # between cell types, gene by gene, as a fraction of the effect
_FRAC_SPECIFIC = 0.07  # of the programme's size, at each branch of the lineage tree
_TWIN_SCALE, _TWIN_SD = 0.85, 0.12
_EXPRESSED_CP10K = (
    1.0,
    60.0,
)  # in the cell type that has most: genes the world may choose; more would dilute all others
_LARGEST = 3.0  # natural log


@dataclass(frozen=True, eq=False)
class Programme:
    """One treatment. ``effects`` is the natural log fold change by cell type (rows as CELL_TYPES) and gene."""

    name: str  # canonical name in the knowledge tables
    label: str  # as the simulated file writes it
    kind: Literal["cytokine", "drug"]
    role: Role
    known: dict[str, int]  # gene -> sign as the tables expect it, for the genes the programme took from them
    private: tuple[str, ...]
    non_responders: tuple[str, ...]  # CL ids
    effects: NDArray[np.float32]


def draw_roles(
    seed: int, *, labels: Sequence[str] = LABELS, fractions: Mapping[Role, float] = FRACTIONS
) -> dict[str, Role]:
    """Return which treatments follow the tables; drawn over the full list, so that it depends on the seed only."""
    names = [name for name in labels if name not in TWINS]
    order = [str(name) for name in rng_of(seed, "roles").permutation(names)]
    roles: dict[str, Role] = dict.fromkeys(names, "true")
    for role, fraction in fractions.items():
        n_names = round(fraction * len(names))
        roles.update(dict.fromkeys(order[:n_names], role))
        del order[:n_names]
    return roles | {twin: roles[original] for twin, original in TWINS.items() if original in roles}


def make_programmes(
    seed: int,
    *,
    knowledge: Knowledge,
    abundance: NDArray[np.float64],
    labels: Sequence[str] = LABELS,
    fractions: Mapping[Role, float] = FRACTIONS,
) -> dict[str, Programme]:
    """Canonical name -> programme, for the treatments that are in the tables with their genes.

    Parameters
    ----------
    labels
        Names of the treatments, those of the demo unless given; twins need their original.
    fractions
        Share of the treatments that do nothing, or not what the tables say.
    """
    roles = draw_roles(seed, labels=labels, fractions=fractions)
    entries = {label: _entry(label, knowledge=knowledge) for label in labels}
    usable = {label: entry for label, entry in entries.items() if entry and expected_genes(entry, knowledge=knowledge)}
    made = (
        _make_programme(label, usable, role=roles[label], seed=seed, knowledge=knowledge, abundance=abundance)
        for label in usable
    )
    return {programme.name: programme for programme in made}


def _make_programme(
    label: str,
    entries: dict[str, PerturbationEntry],
    *,
    role: Role,
    seed: int,
    knowledge: Knowledge,
    abundance: NDArray[np.float64],
) -> Programme:
    """The programme of one of ``entries``, which are the treatments of the demo by label."""
    entry, original = entries[label], TWINS.get(label, label)
    # twins share every draw, so what one must avoid the other must avoid too
    family = [twin for name, twin in entries.items() if TWINS.get(name, name) == original]
    avoid = set().union(*(expected_genes(twin, knowledge=knowledge) for twin in family))
    model = entries.get(original, entry)
    taken_from = _stranger(model, entries=entries, seed=seed) if role == "wrong" else model
    sign = -1 if role == "reversed" else 1
    core = _Core(seed, original, role)
    known = core.choose_known(taken_from, knowledge=knowledge)
    private = core.choose_private(known, avoid=avoid, abundance=abundance)
    effects = core.effects({gene: sign * size for gene, size in known.items()}, private, abundance=abundance)
    if label in TWINS:
        effects = effects * _TWIN_SCALE * rng_of(seed, "twin", label).normal(1, _TWIN_SD, effects.shape)
    return Programme(
        name=entry.name,
        label=label,
        kind="cytokine" if entry.type == "cytokine" else "drug",
        role=role,
        known={gene: int(np.sign(size)) for gene, size in known.items()},
        private=tuple(private),
        non_responders=core.non_responders(),
        effects=effects.astype(np.float32),
    )


def expected_genes(entry: PerturbationEntry, *, knowledge: Knowledge) -> dict[str, int]:
    """Gene -> sign expected by the tables after the treatment, for genes of the demo; response genes come first."""
    place = set(load_genes()[0])
    expected = {gene: sign for gene, sign in entry.response.items() if gene in place}
    for pathway, sign in entry.pathways.items():
        for gene, with_pathway in knowledge.pathways[pathway].genes.items():
            if gene in place:
                expected.setdefault(gene, sign * with_pathway)
    return expected


def _entry(label: str, *, knowledge: Knowledge) -> PerturbationEntry | None:
    resolution = resolve(label, kind="perturbation", knowledge=knowledge)
    if resolution.match is None or resolution.match.how == "fuzzy":
        return None
    return perturbation_of(resolution.match.id, knowledge=knowledge)


def _stranger(mine: PerturbationEntry, *, entries: dict[str, PerturbationEntry], seed: int) -> PerturbationEntry:
    """Return a treatment of another family that shares no pathway; its genes replace the right ones."""
    others = [
        entry
        for entry in entries.values()
        if entry.family != mine.family and not set(entry.pathways) & set(mine.pathways)
    ]
    return others[int(rng_of(seed, "stranger", mine.name).integers(len(others)))]


@dataclass(frozen=True)
class _Core:
    """Draws of one treatment; a twin draws with its original's name and so gets the same."""

    seed: int
    name: str
    role: Role

    def _rng(self, what: str) -> np.random.Generator:
        return rng_of(self.seed, "programme", self.name, what)

    def strength(self) -> float:
        """Return a factor on the number of genes and on their fold changes, 1 for a typical treatment."""
        return _STRONG.get(self.name, 1.0) * float(np.exp(self._rng("strength").normal(0, _STRENGTH_SD)))

    def choose_known(self, entry: PerturbationEntry, *, knowledge: Knowledge) -> dict[str, float]:
        """Gene -> signed log fold change with the signs that the tables expect."""
        expected = expected_genes(entry, knowledge=knowledge)
        response = sorted(gene for gene in expected if gene in entry.response)
        others = sorted(gene for gene in expected if gene not in entry.response)
        rng = self._rng("known")
        order = [*rng.permutation(response), *rng.permutation(others)][: round(N_KNOWN * self.strength())]
        rank = rng_of(self.seed, "size", self.name)
        sizes = {str(gene): _size(rank, _RESPONSE if gene in entry.response else _PATHWAY) for gene in order}
        return {gene: expected[gene] * size for gene, size in sizes.items()}

    def choose_private(
        self, known: dict[str, float], *, avoid: set[str], abundance: NDArray[np.float64]
    ) -> dict[str, float]:
        """As many genes that no table expects, chosen from genes that some cell type expresses."""
        genes, _ = load_genes()
        pool = [genes[column] for column in _eligible(abundance) if genes[column] not in {*known, *avoid}]
        rng = self._rng("private")
        chosen = [str(gene) for gene in rng.choice(pool, size=len(known), replace=False)]
        return {gene: (1 if rng.random() < _FRAC_UP else -1) * _size(rng, _PRIVATE) for gene in chosen}

    def non_responders(self) -> tuple[str, ...]:
        """CL ids of the cell types in which nothing happens."""
        if self.role == "inert":
            return tuple(cell_type.id for cell_type in CELL_TYPES)
        silent = self._rng("silent").random(len(CELL_TYPES)) < _FRAC_NON_RESPONDERS
        return tuple(cell_type.id for cell_type, is_silent in zip(CELL_TYPES, silent, strict=True) if is_silent)

    def effects(
        self, known: dict[str, float], private: dict[str, float], *, abundance: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Log fold change by cell type and gene: common programme x interaction + genes of the lineage alone."""
        genes, _ = load_genes()
        place = {gene: column for column, gene in enumerate(genes)}
        base = np.zeros(len(genes))
        for gene, size in {**private, **known}.items():
            base[place[gene]] = size
        words = ("programme", self.name)
        scale = np.exp(tree_noise(self.seed, *words, "scale", draw=lambda rng: rng.normal(0, _SCALE_SD, 1)))
        factor = 1 + tree_noise(
            self.seed, *words, "interaction", draw=lambda rng: rng.normal(0, _INTERACTION_SD, len(genes))
        )
        n_specific = round(_FRAC_SPECIFIC * len(known | private))
        eligible = _eligible(abundance)

        def branch(rng: np.random.Generator) -> NDArray[np.float64]:
            own = np.zeros(len(genes))
            for column in rng.choice(eligible, size=n_specific, replace=False):
                own[column] = (1 if rng.random() < _FRAC_UP else -1) * _size(rng, _SPECIFIC)
            return own

        n_levels = np.sqrt([[len(cell_type.lineage) + 1] for cell_type in CELL_TYPES])
        specific = tree_noise(self.seed, *words, "specific", draw=branch) * n_levels  # a sum along the path, not a mean
        effects = self.strength() * scale * (base * np.clip(factor, -0.5, 2.5) + specific)
        effects = np.clip(effects, -_LARGEST, _LARGEST)
        silent = set(self.non_responders())
        return effects * np.array([[cell_type.id not in silent] for cell_type in CELL_TYPES])


def _eligible(abundance: NDArray[np.float64]) -> NDArray[np.int64]:
    low, high = _EXPRESSED_CP10K
    most = 1e4 * abundance.max(axis=0)
    return np.flatnonzero((most > low) & (most < high))


def _size(rng: np.random.Generator, shape: tuple[float, float]) -> float:
    return float(abs(rng.normal(*shape)))
