"""The leaderboard of an atlas: engines ranked on its own measured pairs, and which of them cannot be told apart.

In: back-tests of the atlas, those that are there and what is missing of them. Out: a :class:`Leaderboard`.

Every pair ranks the engines on each metric that can tell a replicate of the measurement from the mean response on this
atlas. An engine's place is its mean rank over pairs. Its interval is a bootstrap over treatments, whose pairs are not
independent (over pairs where there are fewer than ten treatments). Two engines are told apart where random signs of
their difference, one for each treatment, reach it in fewer than 5 % of draws, by Holm's rule over all comparisons.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel.atlas import calibrations
from haystack_kernel.backtest.anchored import HIGHER_IS_BETTER
from haystack_kernel.backtest.judge import DECOY, REPLICATE, TYPE_MEAN
from haystack_kernel.backtest.table import MEAN, N_SE, TEXTS, summarise_whole
from haystack_kernel.backtest.work import HELD, run_backtest
from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.ports import Consent
from haystack_kernel.report.html import Html, escape, paragraph
from haystack_kernel.report.html import table as html_table
from haystack_kernel.schema import EVIDENCE_WORDS, MIN_PERTURBATIONS, BacktestPlan
from haystack_kernel.store import layout, parse_csv
from haystack_kernel.store.buckets import open_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.ports import Ports, Progress
    from haystack_kernel.schema import Settings

    Floats = NDArray[np.float64]

REFERENCES = (DECOY, TYPE_MEAN, REPLICATE)  # in every back-test, and no engine
BETTER = {"pearson": True, "overlap": True, "direction": True, **HIGHER_IS_BETTER}  # metric -> whether higher is better
LEVEL, ALPHA = 0.95, 0.05
N_PAIRS = 150  # of a back-test that is made for a leaderboard
MIN_PAIRS = 6  # of an evidence distance that is ranked by itself
N_DRAWS = 4_999
_SEED = 20_260_101
_PREFIX = "backtest-"


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Engines of one atlas, the best first.

    Attributes
    ----------
    atlas
        Name of the atlas.
    table
        One row per engine: ``place``, ``engine``, ``mean_rank`` with ``low`` and ``high`` (95 %), ``group`` (engines
        that share a letter cannot be told apart), ``pairs``, ``failed``, mean ``pearson``, ``overlap``, ``direction``,
        and the anchored values (0 the mean response, 1 the most that a measurement allows; NaN: it cannot be told).
    by_evidence
        The same ranks for each evidence distance with enough pairs.
    metrics, not_told
        What the ranks are made of, and metrics that cannot tell a replicate from the mean response here.
    backtests
        Ids of the back-tests that were used.
    notes
        What limits the comparison.
    """

    atlas: str
    table: pd.DataFrame
    by_evidence: pd.DataFrame
    metrics: tuple[str, ...]
    not_told: tuple[str, ...]
    backtests: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Who leads, and with whom it cannot be told apart, in one sentence."""
        first = self.table.iloc[0]
        n_pairs = int(self.table["pairs"].max())
        if not first["group"]:
            return f"{first['engine']} is the only engine that was ranked, on {n_pairs} pairs of atlas {self.atlas}"
        letters = set(first["group"])
        beside = [row["engine"] for row in self.table.iloc[1:].to_dict("records") if letters & set(row["group"])]
        tied = f"cannot be told apart from {', '.join(beside)}" if beside else "is told apart from all others"
        return f"{first['engine']} leads on {n_pairs} pairs of atlas {self.atlas} and {tied}"

    def __repr__(self) -> str:
        shown = self.table[[name for name in SHOWN if name in self.table]]
        return "\n".join([self.words, shown.to_string(index=False, float_format=lambda value: f"{value:.2f}")])

    def _repr_html_(self) -> str:
        return self.to_html(page=False)

    def to_html(self, *, page: bool = True) -> str:
        """Return the leaderboard as HTML with all texts escaped.

        Parameters
        ----------
        page
            A whole page that opens offline, else a fragment for notebooks.

        Returns
        -------
        HTML.
        """
        rows = [[row[name] for name in SHOWN] for row in self.table.to_dict("records")]
        title = f"Engines on atlas {self.atlas}"
        parts = [paragraph(f"{self.words}."), html_table(list(SHOWN.values()), rows, caption=title)]
        if len(self.by_evidence):
            rows = [[row[name] for name in ("evidence", *BY_EVIDENCE)] for row in self.by_evidence.to_dict("records")]
            heads = ["predicted from", *(SHOWN[name] for name in BY_EVIDENCE)]
            parts.append(html_table(heads, rows, caption="By what was left to predict from"))
        parts += [paragraph(one) for one in (legend(self), *self.notes)]
        fragment = Html("".join(parts))._repr_html_()
        return _PAGE.format(title=escape(title), body=fragment) if page else fragment

    def to_markdown(self) -> str:
        """Return the leaderboard as a table of Markdown, with what it rests on."""
        lines = [f"# Engines on atlas {_plain(self.atlas)}", "", f"{_plain(self.words)}.", ""]
        lines += [f"| {' | '.join(SHOWN.values())} |", f"|{'---|' * len(SHOWN)}"]
        lines += [f"| {' | '.join(_plain(row[name]) for name in SHOWN)} |" for row in self.table.to_dict("records")]
        return "\n".join([*lines, "", legend(self), *self.notes]) + "\n"


SHOWN = {  # column -> heading
    "place": "place",
    "engine": "engine",
    "mean_rank": "mean rank",
    "low": "from",
    "high": "to",
    "group": "group",
    "pairs": "pairs",
    "failed": "failed",
    "pearson": "r",
    "overlap": "top 50",
    "direction": "direction",
    "anchored_r": "0-1",
}
_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta name="color-scheme" content="light dark"><title>{title}</title><style>body{{'
    "font-family:system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}}</style></head>"
    "<body><h1>{title}</h1>{body}</body></html>\n"
)
BY_EVIDENCE = ("place", "engine", "mean_rank", "low", "high", "group", "pairs", "pearson")


def leaderboard(  # noqa: PLR0913 - what is compared, where, and what it may spend
    atlas: str = "demo",
    *,
    engines: Sequence[str] | None = None,
    n_pairs: int | None = None,
    held: Sequence[str] = HELD,
    workers: int = 1,
    settings: Settings | None = None,
    ports: Ports | None = None,
    approve: bool | None = None,
    max_cost: float | None = None,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401 - of a back-test
) -> Leaderboard:
    """Rank engines on the measured pairs of an atlas.

    Back-tests of the atlas that are in the storage are used as they are; only engines that they lack are tested, on the
    same pairs. Where there is none, one is made.

    Parameters
    ----------
    atlas
        Name of the atlas.
    engines
        Engines to rank, those of other packages too; None takes those that were back-tested, else the simple ones and
        that of a run.
    n_pairs
        Number of pairs; None takes the largest back-test there is, else 150.
    held, workers
        As in a back-test.
    settings, ports
        None reads the settings and builds the ports from them.
    approve, max_cost
        Consent to spending, where predictions run in the cloud.
    progress
        Listener of progress events.
    **options
        ``storage``, and those of a back-test: ``model``, ``genelist``, ``executor``, ``seed`` and others.

    Returns
    -------
    Engines with their mean rank, its interval, and groups that cannot be told apart.

    Raises
    ------
    InvalidInputError
        An option is refused, or the atlas has no pair that could be hidden.

    Examples
    --------
    >>> board = haystack.campaign.leaderboard("demo", n_pairs=30)  # doctest: +SKIP
    >>> board.table[["engine", "mean_rank", "group"]]  # doctest: +SKIP
    """
    storage = options.pop("storage", None)
    if ports is None:
        settings = settings or load_settings(storage=storage)
        ports = connect(settings, progress=progress, consent=Consent.given(approve, max_cost))
    found = [] if options else _finished(atlas, ports)
    chosen = _largest(found, n_pairs=n_pairs, held=held, engines=engines)
    new = {"n_pairs": n_pairs or N_PAIRS, "held": held, **options}
    chosen = _completed(chosen, atlas, engines=engines, workers=workers, ports=ports, new=new)
    table = join_tables([one for _, _, one in chosen], engines=engines)
    return rank_engines(table, atlas=atlas, backtests=tuple(name for _, name, _ in chosen))


# --- back-tests that are there ------------------------------------------------------------------------------------

_Tested = tuple[BacktestPlan, str, pd.DataFrame]


def _finished(atlas: str, ports: Ports) -> list[_Tested]:
    """Finished back-tests of the atlas as it is now."""
    settings = ports.settings
    ports.open_atlas([atlas])
    stamp = calibrations.stamp_of(atlas, root=settings.atlas_root, cache=settings.cache)
    files, place = open_files(f"{settings.storage}/{layout.CAMPAIGNS}")
    found = []
    for name in sorted(one.rstrip("/") for one in files.names(place) if one.startswith(_PREFIX)):
        folder = CampaignFolder(settings, name, clock=ports.clock)
        plan, results = folder.read(layout.PLAN), folder.read(layout.RESULTS)
        if plan is None or results is None:
            continue
        known = BacktestPlan.model_validate_json(plan)
        if (known.atlas, known.digest) == (atlas, stamp):
            found.append((known, name, parse_csv(results, texts=TEXTS)))
    return found


def _largest(
    found: list[_Tested], *, n_pairs: int | None, held: Sequence[str], engines: Sequence[str] | None
) -> list[_Tested]:
    """Back-tests of the same pairs, of those that fit the ones with most pairs, then with most of the engines."""
    groups: dict[tuple[Any, ...], list[_Tested]] = {}
    for one in found:
        plan = one[0]
        fits = n_pairs in (None, len(plan.pairs)) and {pair.held for pair in plan.pairs} <= set(held)
        if fits:
            groups.setdefault((plan.pairs, plan.seed, plan.n_prompt, plan.n_query, plan.n_truth), []).append(one)
    wanted = set(engines or ())

    def size(group: list[_Tested]) -> tuple[int, int]:
        held_engines = {engine for plan, _, _ in group for engine in plan.engines}
        return len(group[0][0].pairs), len(held_engines & wanted if wanted else held_engines)

    chosen = max(groups.values(), key=size, default=[])
    return sorted(chosen, key=lambda one: (-len(one[0].engines), one[1]))  # of an engine in several the first counts


def _completed(
    chosen: list[_Tested],
    atlas: str,
    *,
    engines: Sequence[str] | None,
    workers: int,
    ports: Ports,
    new: dict[str, Any],
) -> list[_Tested]:
    """The back-tests with one more of the engines that they lack, on the same pairs; a ``new`` one where none is."""
    tested = {engine for plan, _, _ in chosen for engine in plan.engines}
    missing = [one for one in engines or () if one not in tested]
    if chosen and not missing:
        return chosen
    how = new
    if chosen:
        base = chosen[0][0]
        how = {"pairs": base.pairs, "decoy": False, "n_prompt": base.n_prompt, "n_query": base.n_query}
        how["seed"] = base.seed
    made = run_backtest(atlas, engines=missing or None, workers=workers, ports=ports, **how)
    return [*chosen, (made.plan, made.id, made.table)]


def join_tables(tables: Sequence[pd.DataFrame], *, engines: Sequence[str] | None) -> pd.DataFrame:
    """One table of several back-tests of the same pairs; of an engine in several the first counts.

    Parameters
    ----------
    tables
        Of back-tests.
    engines
        Those to keep beside the references; None keeps all.
    """
    joined = pd.concat(tables, ignore_index=True).drop_duplicates(["pair", "engine"])
    if engines is None:
        return joined
    return joined[joined["engine"].isin([*engines, *REFERENCES, MEAN, ""])].reset_index(drop=True)


# --- ranks --------------------------------------------------------------------------------------------------------


def rank_engines(
    table: pd.DataFrame, *, atlas: str, backtests: tuple[str, ...] = (), engines: Sequence[str] | None = None
) -> Leaderboard:
    """Rank the engines of a back-test's table.

    Parameters
    ----------
    table
        One row per pair and engine.
    atlas, backtests
        Kept with the result.
    engines
        Engines to rank; None takes all but the references.

    Returns
    -------
    The leaderboard.

    Raises
    ------
    InvalidInputError
        No engine was compared on any pair.
    """
    named = list(engines) if engines else _engines_of(table)
    told = [name for name in BETTER if name in table and _tells(table, name)]
    metrics = tuple(told) or ("pearson",)
    ranks = pair_ranks(table, named, metrics)
    if ranks.empty:
        msg = f"no engine was compared on a pair of atlas {atlas}; `haystack backtest {atlas}` says why"
        raise InvalidInputError(msg, atlas=atlas)
    clusters, notes = _clusters(table, ranks)
    whole = summarise_whole(table).set_index("engine")
    rows = [row | _figures(row["engine"], table, whole) for row in _rows(ranks, clusters)]
    if not told:
        notes.append("No metric can tell a replicate from the mean response: engines are ranked by correlation alone.")
    not_told = tuple(name for name in BETTER if name not in metrics)
    return Leaderboard(
        atlas, pd.DataFrame(rows), _by_evidence(table, named, metrics), metrics, not_told, backtests, tuple(notes)
    )


def _engines_of(table: pd.DataFrame) -> list[str]:
    return [str(one) for one in table["engine"].unique() if one not in (*REFERENCES, "")]


def _figures(engine: str, table: pd.DataFrame, whole: pd.DataFrame) -> dict[str, Any]:
    """What a back-test's summary says of an engine over all pairs, and on how many it failed."""
    names = ("pearson", "clean", "overlap", "direction", "anchored_r", *(f"anchored_{one}" for one in HIGHER_IS_BETTER))
    known = whole.loc[engine] if engine in whole.index else pd.Series(dtype=float)
    n_failed = int((table.loc[table["engine"] == engine, "reason"] != "").sum())
    return {"failed": n_failed, **{name: known.get(name, np.nan) for name in names}}


def pair_ranks(table: pd.DataFrame, engines: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Mean rank of each engine on each pair over the metrics, 1 the best.

    An engine that failed on a pair, or predicted no change there, is last where others have a value. A pair on which no
    metric says anything is left out.

    Parameters
    ----------
    table, engines, metrics
        What is ranked, by what.

    Returns
    -------
    Pairs x engines.
    """
    own = table[table["engine"].isin(engines)]
    numbers = own["pair"].unique()
    total, n_said = np.zeros((len(numbers), len(engines))), np.zeros((len(numbers), 1))
    for name in metrics:
        values = own.pivot_table(index="pair", columns="engine", values=name, aggfunc="first", dropna=False)
        values = values.reindex(index=numbers, columns=list(engines))
        said = values.notna().any(axis=1).to_numpy()[:, None]
        ranks = values.rank(axis=1, ascending=not BETTER[name], na_option="bottom", method="average").to_numpy(float)
        total += np.where(said, ranks, 0.0)
        n_said += said
    has_any = n_said[:, 0] > 0
    mean = total[has_any] / n_said[has_any]
    return pd.DataFrame(mean, index=pd.Index(numbers[has_any], name="pair"), columns=list(engines))


def _tells(table: pd.DataFrame, name: str) -> bool:
    """Whether a replicate is better than the mean response by more than two standard errors, over the pairs."""
    by_engine = {one: table[table["engine"] == one].set_index("pair")[name] for one in (REPLICATE, TYPE_MEAN, MEAN)}
    base = by_engine[TYPE_MEAN] if len(by_engine[TYPE_MEAN]) else by_engine[MEAN]
    gain = (by_engine[REPLICATE] - base).dropna()
    if len(gain) < 3:
        return False
    gain = gain if BETTER[name] else -gain
    return bool(gain.mean() > N_SE * gain.std(ddof=1) / np.sqrt(len(gain)))


def _clusters(table: pd.DataFrame, ranks: pd.DataFrame) -> tuple[NDArray[np.intp], list[str]]:
    """Which pairs are drawn together: those of a treatment; where there are few, each pair by itself."""
    treatment = table.drop_duplicates("pair").set_index("pair")["perturbation"].reindex(ranks.index).str.casefold()
    names, places = np.unique(treatment.to_numpy(str), return_inverse=True)
    if len(names) >= MIN_PERTURBATIONS:
        return places, []
    told = "one treatment" if len(names) == 1 else f"{len(names)} treatments"
    note = f"Intervals are over pairs, because there are pairs of {told} only: they say nothing of others."
    return np.arange(len(ranks)), [note]


def _rows(ranks: pd.DataFrame, clusters: NDArray[np.intp]) -> list[dict[str, Any]]:
    """Place, mean rank, interval and group of each engine, the best first."""
    n = int(clusters.max()) + 1
    sums = np.zeros((n, ranks.shape[1]))
    np.add.at(sums, clusters, ranks.to_numpy(float))
    sizes = np.bincount(clusters, minlength=n).astype(float)
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=N_DRAWS)
    drawn = (weights @ sums) / (weights @ sizes)[:, None]
    means = ranks.mean().to_numpy(float)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    order = np.argsort(means, kind="stable")
    letters = _letters(_told_apart(sums, rng), order) if len(order) > 1 else [""]
    places = pd.Series(means).rank(method="min").astype(int)
    return [
        {
            "place": int(places[one]),
            "engine": str(ranks.columns[one]),
            "mean_rank": float(means[one]),
            "low": float(low[one]),
            "high": float(high[one]),
            "group": letters[one],
            "pairs": len(ranks),
        }
        for one in order
    ]


def _told_apart(sums: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which engines differ, by signs of clusters drawn at random and Holm's rule."""
    n, n_engines = sums.shape
    signs = rng.choice([-1.0, 1.0], size=(N_DRAWS, n))
    couples = list(itertools.combinations(range(n_engines), 2))
    p = np.ones(len(couples))
    for place, (one, two) in enumerate(couples):
        difference = sums[:, one] - sums[:, two]
        if np.abs(difference).max() > 1e-12:
            reached = np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9
            p[place] = (1 + reached.sum()) / (1 + N_DRAWS)
    found = np.zeros((n_engines, n_engines), bool)
    for step, place in enumerate(np.argsort(p, kind="stable")):
        if p[place] * (len(couples) - step) >= ALPHA:
            break
        one, two = couples[place]
        found[one, two] = found[two, one] = True
    return found


def _letters(apart: NDArray[np.bool_], order: NDArray[np.intp]) -> list[str]:
    """Letters by engine: those that share one cannot be told apart; as few letters as that takes."""
    rank = {int(one): place for place, one in enumerate(order)}
    cliques = _cliques(apart, [int(one) for one in order])
    cliques.sort(key=lambda clique: sorted(rank[one] for one in clique))
    named = [(_name(place), clique) for place, clique in enumerate(cliques)]
    return ["".join(name for name, clique in named if one in clique) for one in range(len(order))]


def _cliques(apart: NDArray[np.bool_], order: Sequence[int]) -> list[frozenset[int]]:
    """Largest sets of engines of which no two are told apart."""
    cliques: list[frozenset[int]] = [frozenset()]
    for one in order:  # a clique grows by the engine, or splits where one of it differs
        grown: list[frozenset[int]] = []
        for clique in cliques:
            fits = frozenset(each for each in clique if not apart[each, one])
            grown += [fits | {one}] if fits == clique else [clique, fits | {one}]
        cliques = [each for each in dict.fromkeys(grown) if not any(each < other for other in grown)]
    return cliques


def _name(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else f"({place + 1})"


def _by_evidence(table: pd.DataFrame, engines: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    parts = []
    for evidence in EVIDENCE_WORDS:
        some = table[table["evidence"] == evidence]
        ranks = pair_ranks(some, engines, metrics)
        if len(ranks) < MIN_PAIRS:
            continue
        clusters, _ = _clusters(some, ranks)
        for row in _rows(ranks, clusters):
            r = some.loc[some["engine"] == row["engine"], "pearson"].mean()
            parts.append({"evidence": EVIDENCE_WORDS[evidence], **row, "pearson": r})
    return pd.DataFrame(parts)


def legend(board: Leaderboard) -> str:
    """What the columns mean, and what the ranks are made of."""
    metrics = ", ".join(name.replace("_", " ") for name in board.metrics)
    left = ", ".join(name.replace("_", " ") for name in board.not_told)
    without = f" Left out, because they cannot tell a replicate from the mean response here: {left}." if left else ""
    return (
        f"Mean rank over pairs, 1 the best, with its 95 % interval; each pair ranks the engines by {metrics}.{without} "
        "Engines that share a letter cannot be told apart (5 %, all comparisons together). An engine that failed on a "
        "pair is last there. r: mean correlation with the measured response; 0-1: 0 is the mean response, 1 the most "
        "that the noise of the measurement allows."
    )


def _plain(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.2f}"
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
