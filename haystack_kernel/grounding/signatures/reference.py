"""What cell types, donors and tissues look like where they were measured, as profiles and signatures.

In: reference cells, marked by kinship and target, and the ids of the prompt's cells. Out: :class:`ReferenceProfiles`.

A donor or tissue differs from others in the same way in several cell types, or it is noise. Its contrast is therefore
measured in cell types that were not asked for, and tested by whether those types agree with each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.grounding.de.background import standardise
from haystack_kernel.grounding.de.profiles import log_normalise
from haystack_kernel.grounding.nulls.self_contained import permute_within
from haystack_kernel.grounding.nulls.tails import Tails

if TYPE_CHECKING:
    from collections.abc import Collection

    import anndata as ad
    from numpy.typing import NDArray
    from scipy import sparse

    from haystack_kernel.grounding.de.background import SignedSet

    Floats = NDArray[np.float64]

N_SIGNATURE = 50  # genes of a signature in one direction
MIN_CELLS = 5  # of a cell type on either side of a contrast
MIN_TYPES = 2  # cell types in which a contrast must be measured, so that one can be compared with the others
ENOUGH = 20  # asked cells outside the prompt from which on the prompt's own cells are left out
SHRINK_CELLS = 30.0  # number of cells at which a cell type counts half
ASKED = "asked"
_PLACES = {keys.DONOR: "donor", keys.TISSUE: "tissue"}


@dataclass(frozen=True, eq=False)
class Contrast:
    """How one donor or tissue differs from the others, measured in cell types that were not asked for.

    Attributes
    ----------
    label
        The donors or tissues asked for, as text.
    signature
        The genes that differ most, signed; empty where ``reason`` says why there is none.
    competing
        The signatures of every other donor or tissue.
    base, sd
        Mean log1p-CP10k of the asked cell type outside the target, and its standard deviation, per gene.
    self_contained
        P values of the test whether the difference is shared among cell types.
    n_types
        Number of cell types in which the contrast was measured.
    own_prompt
        Whether it was measured on prompt cells, because too few other cells exist.
    reason
        Why there is no signature; empty otherwise.
    """

    label: str
    signature: SignedSet = field(default_factory=dict)
    competing: dict[str, SignedSet] = field(default_factory=dict)
    base: Floats = field(default_factory=lambda: np.zeros(0))
    sd: Floats = field(default_factory=lambda: np.zeros(0))
    self_contained: Tails = field(default_factory=Tails)
    n_types: int = 0
    own_prompt: bool = False
    reason: str = ""


@dataclass(frozen=True, eq=False)
class ReferenceProfiles:
    """Cell types of one dataset, on the log1p-CP10k scale.

    Attributes
    ----------
    genes
        Gene symbols of the profiles.
    types
        Names of the cell types, the asked one first.
    centroids
        Mean profile of each type, types x genes.
    sd
        Standard deviation of the centroids per gene.
    signatures
        For each type the 50 genes by which it exceeds the mean of all types.
    donor, tissue
        Contrasts of the asked donor and of the asked tissue.
    dataset
        Where the cells come from.
    own_prompt
        Whether the asked type's cells are prompt cells as well, because too few others exist.
    """

    genes: pd.Index
    types: tuple[str, ...]
    centroids: Floats
    sd: Floats
    signatures: dict[str, SignedSet]
    donor: Contrast
    tissue: Contrast
    dataset: str = ""
    own_prompt: bool = False

    @property
    def mean(self) -> Floats:
        """Mean over the centroids, each type counting once."""
        return self.centroids.mean(axis=0)


def build_reference(
    cells: ad.AnnData, *, asked: str, prompt_ids: Collection[str], n_draws: int, seed: int, group: str = ""
) -> ReferenceProfiles | None:
    """Average the reference cells by cell type, and measure the contrasts of the asked donor and tissue.

    Parameters
    ----------
    cells
        Raw counts; obs as :func:`haystack_kernel.retrieval.fetch_reference` marks it.
    asked
        Name of the cell type asked for.
    prompt_ids
        Cells of the round's prompt, which are left out where enough cells remain without them.
    n_draws, seed
        Number of permutations behind ``Contrast.self_contained``, and their random seed.
    group
        What the donors asked for are together; "" where they are named one by one.

    Returns
    -------
    None where fewer than two cell types hold five cells, or the asked one holds fewer than five.
    """
    obs = cells.obs
    is_prompt = obs.index.isin(list(prompt_ids))
    own_prompt = int(((obs[keys.KINSHIP] == ASKED) & ~is_prompt).sum()) < ENOUGH
    label = np.where(obs[keys.KINSHIP] == ASKED, asked, obs[keys.CELL_TYPE].astype(str)).astype(object)
    known = (obs[keys.KINSHIP] != "related").to_numpy(bool)  # a broader label may or may not hold asked cells
    in_asked = (obs[keys.KINSHIP] == ASKED).to_numpy(bool)
    kept = known & ~(in_asked & is_prompt & (not own_prompt))
    sizes = pd.Series(label[kept]).value_counts()
    names = [asked, *sorted(str(name) for name, n in sizes.items() if n >= MIN_CELLS and name != asked)]
    if sizes.get(asked, 0) < MIN_CELLS or len(names) < MIN_TYPES:
        return None
    logs = log_normalise(cells.X)
    centroids = np.vstack([_mean(logs[np.flatnonzero(kept & (label == name))]) for name in names])
    sd = centroids.std(axis=0, ddof=1)
    z = standardise((centroids - centroids.mean(axis=0)).ravel(), np.tile(sd, len(names))).reshape(centroids.shape)
    genes = cells.var_names
    table = pd.DataFrame({"type": label, keys.KINSHIP: obs[keys.KINSHIP].to_numpy(object), "is_prompt": is_prompt})
    contrasts = {}
    for column, place in ((keys.IS_TARGET_DONOR, keys.DONOR), (keys.IS_TARGET_TISSUE, keys.TISSUE)):
        marked = table.assign(place=obs[place].astype(str).to_numpy(), target=obs[column].to_numpy(bool))[known]
        found = [
            _contrast(part, logs=logs, genes=genes, what=_PLACES[place], n_draws=n_draws, seed=seed)
            for part in (marked[~marked["is_prompt"]], marked)
        ]
        # competing donors and tissues are measured on all cells, including those of the prompt
        own = bool(found[0].reason)
        named = group if group and place == keys.DONOR else found[own].label
        contrasts[column] = replace(found[own], label=named, competing=found[1].competing, own_prompt=own)
    return ReferenceProfiles(
        genes=genes,
        types=tuple(names),
        centroids=centroids,
        sd=sd,
        signatures={name: _top_genes(z[i], genes=genes, both=False) for i, name in enumerate(names)},
        donor=contrasts[keys.IS_TARGET_DONOR],
        tissue=contrasts[keys.IS_TARGET_TISSUE],
        dataset=str(obs[keys.DATASET].iloc[0]),
        own_prompt=own_prompt,
    )


def _contrast(
    table: pd.DataFrame, *, logs: sparse.csr_matrix, genes: pd.Index, what: str, n_draws: int, seed: int
) -> Contrast:
    """The target's difference from the rest with its competing signatures; a reason where it cannot be measured."""
    others, asked = table[table[keys.KINSHIP] != ASKED], table[(table[keys.KINSHIP] == ASKED) & ~table["target"]]
    target = ", ".join(sorted(others.loc[others["target"], "place"].unique()))
    if len(asked) < MIN_CELLS:
        reason = f"the cell type asked for was measured in no other {what}, so there is nothing to compare with"
        return Contrast(target, reason=reason)
    base = logs[asked.index.to_numpy()]
    start = Contrast(target, base=_mean(base), sd=_sd(base))
    if not target:
        return replace(start, reason=f"the reference dataset holds no other cells of the {what} asked for")
    effects = _effects(others, is_in=others["target"].to_numpy(bool), logs=logs)
    if len(effects) < MIN_TYPES:
        reason = f"{target} shares {len(effects)} other cell types with another {what}; {MIN_TYPES} are needed"
        return replace(start, reason=reason, n_types=len(effects))
    competing: dict[str, SignedSet] = {}
    for name in sorted(set(others.loc[~others["target"], "place"]) - {"", "nan"}):
        found = _effects(others, is_in=(others["place"] == name).to_numpy(bool), logs=logs)
        if len(found) >= MIN_TYPES:
            competing[name] = _top_genes(_pooled(found), genes=genes, both=True)
    return replace(
        start,
        signature=_top_genes(_pooled(effects), genes=genes, both=True),
        competing=competing,
        self_contained=_shared_among_types(others, effects=effects, logs=logs, n_draws=n_draws, seed=seed),
        n_types=len(effects),
    )


def _effects(
    table: pd.DataFrame, *, is_in: NDArray[np.bool_], logs: sparse.csr_matrix
) -> dict[str, tuple[Floats, float]]:
    """Per cell type with five cells on both sides: standardised difference per gene, and its weight (0 to 1)."""
    found = {}
    for name in sorted(table["type"].unique()):
        of_type = (table["type"] == name).to_numpy(bool)
        sides = [logs[table.index[of_type & side].to_numpy()] for side in (is_in, ~is_in)]
        smaller = min(side.shape[0] for side in sides)
        if smaller < MIN_CELLS:
            continue
        sd = _sd(logs[table.index[of_type].to_numpy()])
        found[name] = (standardise(_mean(sides[0]) - _mean(sides[1]), sd), smaller / (smaller + SHRINK_CELLS))
    return found


def _pooled(effects: dict[str, tuple[Floats, float]]) -> Floats:
    """Weighted mean of the differences over cell types."""
    return np.average([z for z, _ in effects.values()], axis=0, weights=[weight for _, weight in effects.values()])


def _shared_among_types(
    table: pd.DataFrame,
    *,
    effects: dict[str, tuple[Floats, float]],
    logs: sparse.csr_matrix,
    n_draws: int,
    seed: int,
) -> Tails:
    """Test whether a difference is shared: permute the target's label within each cell type.

    The cells of a type are scored by the signature of the types before it, the largest type first. Each pair of types
    then counts once. If every type were scored by all the others, two types that agree by chance would count twice,
    and 18 % of null contrasts fell below .05.
    """
    scores, is_in, strata = [], [], []
    ordered = sorted(effects, key=lambda name: (-effects[name][1], name))
    for number, name in enumerate(ordered[1:], start=1):
        rest = _pooled({other: effects[other] for other in ordered[:number]})
        top = _top_positions(rest, both=True)
        rows = table[table["type"] == name]
        block = logs[rows.index.to_numpy()][:, top]
        weight = np.sign(rest[top]) * standardise(np.ones(top.size), _sd(block))
        scores.append(block @ weight / top.size)
        is_in.append(rows["target"].to_numpy(bool))
        strata.append(np.full(len(rows), number))
    return permute_within(
        np.concatenate(scores)[:, None],
        is_treated=np.concatenate(is_in),
        strata=np.concatenate(strata),
        n_draws=n_draws,
        seed=seed,
    )[0]


def _top_genes(z: Floats, *, genes: pd.Index, both: bool) -> dict[str, int]:
    """Signed genes of the largest values, and with ``both`` of the smallest as well."""
    return {str(genes[i]): 1 if z[i] > 0 else -1 for i in _top_positions(z, both=both)}


def _top_positions(z: Floats, *, both: bool) -> NDArray[np.intp]:
    order = np.argsort(-z, kind="stable")
    top = [i for i in order[:N_SIGNATURE] if z[i] > 0]
    low = [i for i in order[::-1][:N_SIGNATURE] if z[i] < 0] if both else []
    return np.array([*top, *low], dtype=np.intp)


def _mean(logs: Any) -> Floats:  # noqa: ANN401 - any sparse matrix
    return np.asarray(logs.mean(axis=0)).ravel()


def _sd(logs: Any) -> Floats:  # noqa: ANN401
    """Standard deviation (n - 1) of every column; 0 for one row."""
    n, mean = logs.shape[0], _mean(logs)
    squares = np.asarray(logs.multiply(logs).sum(axis=0)).ravel() - n * mean**2
    return np.sqrt(np.maximum(squares, 0.0) / max(n - 1, 1))
