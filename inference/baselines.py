"""Simple baselines that every other engine has to beat; they need numpy only and predict raw counts.

In: prompt cells (treated), their control cells (untreated), query cells. Out: the predicted query cells.

Formulas, with y = log1p(1e4 x / L) and d = mean y(prompt) - mean y(control) of one cell type of the prompt: ``none``
leaves the cells alone; ``shift`` adds the average of d over the prompt's cells to each gene's mean, so that a type with
more control cells than another counts no more; ``mean`` adds the plain average of d over the types; ``weighted`` adds
its average with weights exp(10 r) n / (n + 30), r = similarity (correlation) of the type's control profile and the
query cells, n = cells of the smaller arm, and then shrinks each gene's response d to d^3 / (d^2 + se^2), se its
standard error: what is measured well stays, what is mostly noise goes towards 0. Engine ``additive`` is ``weighted``
with what the query's cell type shows under other treatments, see :mod:`inference.additive`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.additive import carry_over, tabulate
from inference.draw import MAX_LOG, draw_counts, log_normalise
from inference.effects import MIN_CELLS, fit_trend, measure_effect, shrink, summarise_arm
from inference.errors import EngineError, InputError
from inference.manifest import ADDITIVE, BASELINES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from inference.additive import Others

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

SIMILARITY_POWER = 10.0
SHRINK_CELLS = 30.0
N_VARIABLE_GENES = 1000
MIN_TYPES_LEFT_OUT, MIN_CELLS_LEFT_OUT = 3, 10  # to learn from the prompt whether shrinking helps
MIN_CELLS_MEAN = 5  # cells that a type needs in both arms to count in the mean response


@dataclass(frozen=True)
class Cells:
    """Raw counts of one role, with the cell type and donor of each cell."""

    counts: sparse.csr_matrix  # cells x genes, whole numbers
    genes: tuple[str, ...]  # symbols; compared without regard to case
    cell_type: NDArray[np.str_]
    donor: NDArray[np.str_]

    def __post_init__(self) -> None:
        shape = (self.cell_type.size, len(self.genes))
        if self.counts.shape != shape or self.donor.size != shape[0]:
            msg = (
                f"cells do not fit together: counts {self.counts.shape}, {len(self.genes)} gene names, "
                f"{self.cell_type.size} cell types, {self.donor.size} donors; give one name per column and one per row"
            )
            raise InputError(msg)


@dataclass(frozen=True)
class Prediction:
    """Predicted counts in the shape of the query cells, and how they were computed."""

    counts: sparse.csr_matrix  # float32, whole numbers; means where the engine was asked for means
    expected_log: NDArray[np.float64]  # per gene, the target mean of log1p(CP10k)
    changeable: NDArray[np.bool_]  # per gene: whether the engine could change it, because its inputs contain it
    weights: dict[str, float] = field(default_factory=dict)  # cell type -> share in the response, summing to 1
    notes: tuple[str, ...] = ()
    expected: NDArray[np.float32] | None = None  # cells x genes: the mean that each count was drawn from
    logits: NDArray[np.float32] | None = None  # per cell, the model's last logit; low ones were rewritten first
    record: dict[str, Any] = field(default_factory=dict)  # further entries of the output's record


@dataclass(frozen=True)
class _Arms:
    """Mean log profiles per cell type over the genes shared by prompt and control."""

    types: tuple[str, ...]
    effect: Floats  # types x genes, prompt minus control; NaN where the type has no cell in one of them
    se: Floats  # its standard error
    control: Floats  # types x genes, NaN where the type has no cell
    treated: Ints  # prompt cells per type
    smaller: Ints  # cells of the smaller arm per type
    pooled: Floats  # mean of all prompt cells minus mean of all control cells
    genes: dict[str, int]  # upper-cased symbol -> column


def predict(
    engine: str, *, prompt: Cells, control: Cells | None, query: Cells, seed: int, others: Others | None = None
) -> Prediction:
    """Apply the prompt's response to the query cells.

    Parameters
    ----------
    engine
        One of ``none``, ``mean``, ``shift``, ``weighted``, ``additive``.
    prompt, control
        Treated cells and their control cells. Without ``control`` the query cells serve as the control.
    query
        Cells to transform; the result keeps their order and genes, and refers to their library sizes.
    seed
        Random seed of the sampled molecules.
    others
        Cells of other treatments with their control cells, which only ``additive`` reads.

    Returns
    -------
    Counts whose mean log1p(CP10k) per gene, by the original library sizes, is max(mean y(query) + response, 0).
    Genes that the prompt or control cells lack stay unchanged, with ``changeable`` False.

    Raises
    ------
    EngineError
        The engine is no baseline.
    InputError
        A role has no cells, or the roles have no gene in common.
    """
    if engine not in (*BASELINES, ADDITIVE):
        msg = f"unknown baseline {engine!r}; possible: {', '.join((*BASELINES, ADDITIVE))}"
        raise EngineError(msg)
    notes: list[str] = []
    is_matched = control is not None
    if control is None:
        control = query
        notes.append("no control cells were given: the query cells served as the control")
    for name, cells in (("prompt", prompt), ("control", control), ("query", query)):
        if not cells.counts.shape[0]:
            msg = f"there is no {name} cell; give at least one"
            raise InputError(msg)
    arms = _compute_arms(prompt, control, notes)
    base = _mean_rows(log_normalise(query.counts))
    column = np.array([arms.genes.get(name.upper(), -1) for name in query.genes], dtype=np.int64)
    changeable = column >= 0
    if not changeable.any():
        msg = (
            f"none of the query's {len(query.genes)} genes (such as {list(query.genes[:3])}) is in both prompt and "
            f"control (such as {list(prompt.genes[:3])}); give all files the same kind of gene symbols"
        )
        raise InputError(msg)
    if engine == "none":
        return Prediction(query.counts.astype(np.float32).tocsr(), base, changeable, {}, tuple(notes))
    if engine == "shift" and not is_matched:  # there is nothing to be stratified by: the cells become like the prompt
        response, weights = arms.pooled, dict[str, float]()
    else:
        simple = "weighted" if engine == ADDITIVE else engine
        response, weights = _response(simple, arms, base=base[changeable], column=column[changeable], notes=notes)
        if engine == ADDITIVE:
            response = _with_others(response, arms, weights, query=query, others=others, notes=notes)
    target = base.copy()
    target[changeable] = np.clip(base[changeable] + response[column[changeable]], 0.0, MAX_LOG)
    counts = draw_counts(query.counts, target=target, genes=query.genes, seed=seed)
    return Prediction(counts, target, changeable, weights, tuple(notes))


def _compute_arms(prompt: Cells, control: Cells, notes: list[str]) -> _Arms:
    """Restrict prompt and control cells to their shared genes, and average them per cell type of the prompt."""
    first, second = _columns(prompt), _columns(control)
    shared = [name for name in first if name in second]
    if len(shared) < len(first.keys() | second.keys()):
        notes.append(f"prompt and control share {len(shared)} of {len(first.keys() | second.keys())} genes")
    treated = log_normalise(prompt.counts[:, [first[name] for name in shared]])
    untreated = log_normalise(control.counts[:, [second[name] for name in shared]])
    types = tuple(sorted(set(prompt.cell_type.tolist())))
    rows = [[np.flatnonzero(cells.cell_type == name) for cells in (prompt, control)] for name in types]
    effect, se, profiles = _type_effects(treated, untreated, rows)
    return _Arms(
        types=types,
        effect=effect,
        se=se,
        control=profiles,
        treated=np.array([len(of_prompt) for of_prompt, _ in rows], np.int64),
        smaller=np.array([min(map(len, both)) for both in rows], np.int64),
        pooled=_mean_rows(treated) - _mean_rows(untreated),
        genes={name: index for index, name in enumerate(shared)},
    )


def _columns(cells: Cells) -> dict[str, int]:
    """Column of each upper-cased symbol; of a repeated one the first."""
    return {name.upper(): place for place, name in reversed(list(enumerate(cells.genes)))}


def _type_effects(
    treated: sparse.csr_matrix, untreated: sparse.csr_matrix, rows: list[list[Ints]]
) -> tuple[Floats, Floats, Floats]:
    """Effect, its standard error and control profile of each type; NaN for a type without cells in one arm."""
    effect, se, profiles = (np.full((len(rows), treated.shape[1]), np.nan) for _ in range(3))
    trend = fit_trend(summarise_arm(untreated))
    for place, both in enumerate(rows):
        if not all(map(len, both)):
            continue
        arms = summarise_arm(treated[both[0]]), summarise_arm(untreated[both[1]])
        # two cells know no variance: that of all control cells takes its place
        found = measure_effect(*arms, trend=trend if max(map(len, both)) < MIN_CELLS else None)
        effect[place], se[place], profiles[place] = found.delta, found.se, arms[1].mean
    return effect, se, profiles


def _response(
    engine: str, arms: _Arms, *, base: Floats, column: Ints, notes: list[str]
) -> tuple[Floats, dict[str, float]]:
    """Change of the mean log profile over the shared genes, and each cell type's share in it."""
    minimum = MIN_CELLS_MEAN if engine == "mean" else 1
    used = np.flatnonzero(arms.smaller >= minimum)
    if dropped := [name for name, n in zip(arms.types, arms.smaller, strict=True) if n < minimum]:
        notes.append(f"left out, fewer than {minimum} cells in prompt or control: {', '.join(dropped)}")
    if not used.size:
        notes.append(f"no cell type has {minimum} cells in both prompt and control: cells were compared across types")
        return arms.pooled, {}
    profiles = arms.control[np.ix_(used, column)]
    share = type_shares(engine, profiles, base=base, smaller=arms.smaller[used], treated=arms.treated[used])
    weights = {arms.types[index]: float(value) for index, value in zip(used, share, strict=True)}
    response = share @ arms.effect[used]
    if engine == "weighted":
        shrunk = shrink(response, share**2 @ arms.se[used] ** 2)
        if _shrinking_helps(arms, used):
            return shrunk, weights
        notes.append("effects were not shrunk: that would predict the prompt's own cell types less well")
    return response, weights


def _with_others(
    response: Floats, arms: _Arms, weights: dict[str, float], *, query: Cells, others: Others | None, notes: list[str]
) -> Floats:
    """The response of ``additive`` where other treatments allow it and speak for it, else the one given; notes why."""
    if others is None or not weights:
        notes.append("additive is weighted here: no cells of other treatments were given")
        return response
    names, n_cells = np.unique(query.cell_type, return_counts=True)
    own = str(names[n_cells.argmax()])
    kept, columns = _shared_columns(arms.genes, _columns(others.cells))
    used = [number for number, name in enumerate(arms.types) if name in weights]
    carried = carry_over(
        tabulate(others, {own, *weights}, columns=columns),
        own=own,
        effect={arms.types[number]: arms.effect[number][kept] for number in used},
        se={arms.types[number]: arms.se[number][kept] for number in used},
        share=weights,
    )
    if carried is None:
        notes.append(f"additive is weighted here: {own} and a type of the prompt need 5 other treatments in common")
        return response
    said = f"on {carried.n_treatments} other treatments of {own} it correlates better by {carried.gain:+.3f}"
    if carried.gain <= 0:
        notes.append(f"additive is weighted here: {said}")
        return response
    notes.append(f"additive: {said} than weighted; {carried.k:.2f} of what is special about the treatment is carried")
    response = response.copy()
    response[kept] = carried.response
    return response


def _shared_columns(first: dict[str, int], second: dict[str, int]) -> tuple[Ints, Ints]:
    """Columns of the genes that both have, in the order of the first."""
    shared = [name for name in first if name in second]
    return np.array([first[name] for name in shared], np.int64), np.array([second[name] for name in shared], np.int64)


def _shrinking_helps(arms: _Arms, used: Ints) -> bool:
    """Whether shrunk effects of the other types predict each type of the prompt no worse than plain ones.

    Without three types of at least ten cells in both arms nothing can be left out, and effects are shrunk.
    """
    large = used[arms.smaller[used] >= MIN_CELLS_LEFT_OUT]
    if large.size < MIN_TYPES_LEFT_OUT:
        return True
    gains = []
    for left in large:
        rest = used[used != left]
        share = type_shares(
            "weighted",
            arms.control[rest],
            base=arms.control[left],
            smaller=arms.smaller[rest],
            treated=arms.treated[rest],
        )
        plain = share @ arms.effect[rest]
        both = np.vstack([arms.effect[left], plain, shrink(plain, share**2 @ arms.se[rest] ** 2)])
        if (np.ptp(both, axis=1) > 0).all():
            to_plain, to_shrunk = np.corrcoef(both)[0, 1:]
            gains.append((to_shrunk - to_plain) * arms.smaller[left] / (arms.smaller[left] + SHRINK_CELLS))
    return sum(gains) >= 0


def type_shares(engine: str, profiles: Floats, *, base: Floats, smaller: Ints, treated: Ints) -> Floats:
    """Share of each cell type in the response.

    Parameters
    ----------
    engine
        ``weighted``, ``shift`` for shares of the prompt's cells, or ``mean`` for equal shares.
    profiles
        Mean log1p(CP10k) of the control cells, types x genes.
    base
        The same of the cells to transform.
    smaller
        Cells of the smaller arm of each type.
    treated
        Prompt cells of each type.

    Returns
    -------
    One share per type; they sum to 1.
    """
    share = np.ones(len(profiles))
    if engine == "shift":
        share = treated.astype(np.float64)
    elif engine == "weighted":
        similarity = profile_similarity(profiles, base)
        share = np.exp(SIMILARITY_POWER * similarity) * smaller / (smaller + SHRINK_CELLS)
    return share / share.sum()


def profile_similarity(profiles: Floats, base: Floats) -> Floats:
    """Pearson correlation of each profile with ``base`` on the 1,000 genes that vary most, clipped at 0."""
    similarity = np.zeros(len(profiles))
    variance = np.vstack([profiles, base]).var(axis=0)
    chosen = np.argsort(-variance, kind="stable")[:N_VARIABLE_GENES]
    chosen = chosen[variance[chosen] > 0]
    if chosen.size:
        left = profiles[:, chosen] - profiles[:, chosen].mean(axis=1, keepdims=True)
        right = base[chosen] - base[chosen].mean()
        norm = np.sqrt((left**2).sum(axis=1) * (right**2).sum())
        similarity = np.clip(np.divide(left @ right, norm, out=similarity, where=norm > 0), 0.0, 1.0)
    return similarity


def _mean_rows(logs: sparse.csr_matrix) -> Floats:
    if not logs.shape[0]:
        return np.full(logs.shape[1], np.nan)
    return np.asarray(logs.sum(axis=0)).ravel() / logs.shape[0]
