"""What the findings of a campaign have in common: targets and classes among the treatments, pathways among the genes.

In: ranked questions with classes of treatments, or effects with gene sets. Out: one row a class, or a question and set.

Treatments are the units of the first test: those that a class holds are compared with draws of as many treatments. A
question that was predicted from treatments with the same targets would find its class by construction; only treatments
that were measured themselves are tested, as :func:`haystack_kernel.campaign.rank.combined_p` says. Genes move together,
which a test that draws genes does not know; the second test pays for the correlation of the genes of a set.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.campaign.rank import LEVEL, check_level, control_false, find_in_families
from haystack_kernel.errors import InvalidInputError, MissingKeyError
from haystack_kernel.grounding.distributions import hypergeometric, t_above

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import anndata as ad
    from numpy.typing import NDArray

    from haystack_kernel.knowledge import Knowledge

    Floats = NDArray[np.float64]

CLASSES = ("target", "family", "pathway")
MIN_MEMBERS = 2  # treatments of a class; one alone is its own row of the ranking
MIN_GENES = 5
N_DRAWS = 9_999
_COLUMNS = ("family", "n", "n_found", "expected", "p_found", "p_ranks", "p", "q", "found", "reason")
LEAST_CORRELATION = 0.01  # of the genes of a set, whatever few questions say
MIN_SILENT = 10  # questions without a finding that the correlation of genes is estimated from


def classes_of(perturbations: Collection[str], *, kind: str, knowledge: Knowledge) -> dict[str, tuple[str, ...]]:
    """Sort treatments into classes by what is known of them.

    Parameters
    ----------
    perturbations
        Known names.
    kind
        ``target`` (a gene), ``family`` (a mechanism) or ``pathway``.
    knowledge
        The tables.

    Returns
    -------
    Name of a class -> its treatments, in alphabetical order. A treatment of which nothing is known is in no class.

    Raises
    ------
    InvalidInputError
        The kind is none of :data:`CLASSES`.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> classes_of(["IFN-beta", "IFN-gamma"], kind="family", knowledge=load_knowledge())
    {'type I interferon': ('IFN-beta',), 'type II interferon': ('IFN-gamma',)}
    """
    from haystack_kernel.knowledge.entries import perturbation_of

    if kind not in CLASSES:
        msg = f"kind of a class is {kind!r}; possible: {', '.join(CLASSES)}"
        raise InvalidInputError(msg, given=kind)
    found: dict[str, list[str]] = {}
    for name in sorted(set(perturbations)):
        entry = perturbation_of(name, knowledge=knowledge)
        if entry is None:
            continue
        of = {"target": entry.targets, "family": (entry.family,), "pathway": tuple(entry.pathways)}[kind]
        for one in of:
            if one:
                found.setdefault(one, []).append(name)
    return {one: tuple(found[one]) for one in sorted(found)}


def enrich_treatments(
    ranked: pd.DataFrame,
    classes: Mapping[str, Collection[str]],
    *,
    level: float = LEVEL,
    seed: int = 0,
) -> pd.DataFrame:
    """Test whether classes of treatments hold more findings, and smaller p values, than as many treatments by chance.

    Parameters
    ----------
    ranked
        From :func:`haystack_kernel.campaign.rank.rank_questions`. A treatment's p value is that of Simes over its
        questions; it is a finding where its ``q`` over all treatments is at most ``level``.
    classes
        Name -> treatments, such as from :func:`classes_of`, or any list of your own.
    level
        False discovery rate of the findings.
    seed
        Of the draws.

    Returns
    -------
    One row a class, the smallest ``q`` first: ``family``, ``n`` (tested treatments), ``n_found``, ``expected``
    (findings among as many treatments by chance), ``p_found`` (hypergeometric), ``p_ranks`` (mean rank of the p values
    against 9,999 draws; needs no threshold), ``p`` (twice the smaller of both), ``q`` over the classes, ``found``
    (names of the findings) and ``reason``: a class with fewer than two tested treatments has no p value.
    ``attrs["n_untested"]`` counts treatments without a test.

    Examples
    --------
    >>> enrich_treatments(ranked, {"mine": ["ruxolitinib", "tofacitinib"]})  # doctest: +SKIP
    """
    check_level(level)
    treatments, _ = find_in_families(ranked, "perturbation", level=level)
    tested = treatments[treatments["p"].notna()].reset_index(drop=True)
    n, is_found = len(tested), (tested["q"] <= level).to_numpy(bool)
    ranks = np.asarray(tested["p"].rank(), dtype=np.float64)
    rng = np.random.default_rng([seed, 18])
    names = {
        family: tested.index[tested["family"].isin(set(members))].to_numpy() for family, members in classes.items()
    }
    sizes = {len(places) for places in names.values() if len(places) >= MIN_MEMBERS}
    drawn = _mean_ranks(ranks, sizes=sizes, rng=rng)
    rows = []
    for family, places in names.items():
        found = tested["family"].iloc[places[is_found[places]]]
        row = {"family": family, "n": len(places), "n_found": len(found), "found": "; ".join(found)}
        row |= {"expected": len(places) * float(is_found.mean()) if n else np.nan}
        if len(places) < MIN_MEMBERS:
            few = "one tested treatment" if len(places) else "no tested treatment"
            rows.append(row | {"reason": f"{few}: a class needs {MIN_MEMBERS}"})
            continue
        counts = np.arange(len(found), len(places) + 1)
        chances = hypergeometric(counts, n=n, n_called=int(is_found.sum()), n_drawn=len(places))
        p_found = min(float(chances.sum()), 1.0)
        lower = int((drawn[len(places)] <= ranks[places].mean() + 1e-9).sum())
        p_ranks = (1 + lower) / (N_DRAWS + 1)
        p = min(2 * min(p_found, p_ranks), 1.0)
        rows.append(row | {"p_found": p_found, "p_ranks": p_ranks, "p": p, "reason": ""})
    table = pd.DataFrame(rows, columns=[*_COLUMNS])
    table["q"] = control_false(table["p"].to_numpy(float))
    table = table.sort_values(["q", "p", "family"], kind="stable", na_position="last").reset_index(drop=True)
    table.attrs["n_untested"] = int(treatments["p"].isna().sum())
    return table


def _mean_ranks(ranks: Floats, *, sizes: Collection[int], rng: np.random.Generator) -> dict[int, Floats]:
    """Mean rank of the first few of shuffled treatments, for each number of them."""
    if not sizes:
        return {}
    shuffled = rng.permuted(np.tile(ranks, (N_DRAWS, 1)), axis=1)[:, : max(sizes)]
    sums = np.cumsum(shuffled, axis=1)
    return {size: sums[:, size - 1] / size for size in sizes}


def enrich_genes(
    effects: ad.AnnData,
    sets: Mapping[str, Collection[str]],
    *,
    silent: Collection[int] = (),
) -> pd.DataFrame:
    """Test for each question whether the genes of a set change more, up or down, than the other genes.

    Parameters
    ----------
    effects
        Effects of a campaign: ``X`` on the scale of ``delta``, the layer ``effect_sd``; obs holds ``number``. NaN: the
        effect of a gene cannot be told.
    sets
        Name -> genes.
    silent
        Numbers of questions without a finding, which the correlation of the genes of a set is estimated from. With
        fewer than ten of them nothing is tested: a correlation of .05 that is not known makes 17 % of p values under
        the null smaller than .05.

    Returns
    -------
    One row a question and set, in that order: ``number``, ``set``, ``n_genes``, ``difference`` (mean effect of the set
    minus that of the other genes), ``correlation``, ``p`` (two-sided), ``q`` over all rows, ``leading`` (the genes that
    change most the same way), and ``reason`` where there is no p value: fewer than five genes that can be told, or too
    few silent questions.

    Raises
    ------
    MissingKeyError
        The layer or the column is missing.

    Examples
    --------
    >>> enrich_genes(screen.effects, {"interferon": ["ISG15", "IFI6", "MX1", "OAS1", "IFIT1"]})  # doctest: +SKIP

    References
    ----------
    Wu and Smyth, Nucleic Acids Res 40:e133 (2012), the test CAMERA.
    """
    if keys.EFFECT_SD not in effects.layers or "number" not in effects.obs:
        msg = f"effects need the layer {keys.EFFECT_SD!r} and the column 'number' in obs; take screen.effects"
        raise MissingKeyError(msg)
    values, raw = _ranked(effects), _dense(effects.X)
    numbers = effects.obs["number"].astype(int).to_numpy()
    genes = pd.Index(effects.var_names)
    quiet = values[np.isin(numbers, list(silent))]
    places = {name: np.unique(genes.get_indexer(list(members))) for name, members in sets.items()}
    places = {name: found[found >= 0] for name, found in places.items()}
    correlations = {name: _correlation(quiet, found) for name, found in places.items()}
    rows = []
    for row, number in enumerate(numbers):
        for name, members in places.items():
            one = _test_set(
                values[row], raw[row], members=members, genes=genes, r=correlations[name], n_silent=len(quiet)
            )
            rows.append({"number": int(number), "set": name, **one})
    columns = ["number", "set", "n_genes", "difference", "correlation", "p", "leading", "reason"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(6, "q", control_false(table["p"].to_numpy(float)))
    return table


def _test_set(
    values: Floats, raw: Floats, *, members: NDArray[np.intp], genes: pd.Index, r: float, n_silent: int
) -> dict[str, object]:
    """The row of one question and set: ranks are tested, effects are told."""
    known = ~np.isnan(values)
    inside = np.zeros(len(genes), bool)
    inside[members] = True
    inside, outside = inside & known, ~inside & known
    t = _camera(values[inside], values[outside], r=r)
    # the correlation is itself estimated, from so many questions
    p = np.nan if math.isnan(t) else 2 * float(t_above(abs(t), n_silent - 1))
    difference = float(raw[inside].mean() - raw[outside].mean()) if inside.any() and outside.any() else np.nan
    reason = "" if not math.isnan(p) else "the genes do not differ at all"
    if n_silent < MIN_SILENT:
        reason = f"only {n_silent} questions without a finding tell how genes correlate"
    if inside.sum() < MIN_GENES:
        reason = f"fewer than {MIN_GENES} genes can be told"
    leading = _leading(raw, genes=genes, places=np.flatnonzero(inside), up=difference > 0)
    return {
        "n_genes": int(inside.sum()),
        "difference": difference,
        "correlation": r,
        "p": p,
        "leading": leading,
        "reason": reason,
    }


def _ranked(effects: ad.AnnData) -> Floats:
    """Rank of each gene within its question, as a share of those that can be told.

    They are ranked by the effect in units of its standard deviation, moderated by the median so that no gene leads by a
    small one. Ranks have no outliers, which would make the mean of correlated genes anything but normal.
    """
    values, sds = _dense(effects.X), _dense(effects.layers[keys.EFFECT_SD])
    middle = np.nanmedian(sds) if (~np.isnan(sds)).any() else np.nan
    return np.asarray(pd.DataFrame(values / (sds + middle)).rank(axis=1, pct=True), dtype=float)


def _dense(matrix: object) -> Floats:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=float)


def _correlation(quiet: Floats, places: NDArray[np.intp]) -> float:
    """Mean correlation of the genes of a set over questions without a finding; NaN with too few of them."""
    some = quiet[:, places]
    some = some[:, ~np.isnan(some).any(axis=0)]
    if some.shape[0] < MIN_SILENT:
        return math.nan
    some = some - some.mean(axis=0)
    spread = some.std(axis=0)
    some = some[:, spread > 0] / spread[spread > 0]
    m = some.shape[1]
    if m < 2:
        return LEAST_CORRELATION
    mean_variance = float((some.mean(axis=1) ** 2).mean())  # of the mean of m standard variables: (1 + (m - 1) r) / m
    return min(max((m * mean_variance - 1) / (m - 1), LEAST_CORRELATION), 1.0)


def _camera(own: Floats, other: Floats, *, r: float) -> float:
    """Student's t of the mean of a set against that of the other genes, its genes being correlated by ``r``."""
    m, k = own.size, other.size
    if m < MIN_GENES or k < MIN_GENES:
        return math.nan
    pooled = (own.var() * m + other.var() * k) / (m + k - 2)
    if pooled <= 0:
        return math.nan
    error = math.sqrt(pooled * ((1 + (m - 1) * r) / m + 1 / k))
    return float(own.mean() - other.mean()) / error


def _leading(values: Floats, *, genes: pd.Index, places: NDArray[np.intp], up: bool) -> str:
    some = values[places] if up else -values[places]
    order = places[np.argsort(-some, kind="stable")[:5]]
    return ";".join(str(genes[place]) for place in order if (values[place] > 0) == up and values[place] != 0)
