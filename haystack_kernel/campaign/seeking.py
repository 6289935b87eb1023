"""Seek: which treatment moves cells toward a state, searched among measured responses and predicted effects.

In: a question, an atlas, optionally a state of the user's own and a screen. Out: :class:`Sought`, a ranked table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.campaign.measured import LEFT_OUT, LEVEL, MEASURED, PREDICTED, SOURCE, measure_effects
from haystack_kernel.campaign.rank import control_false
from haystack_kernel.campaign.screening import open_screen
from haystack_kernel.campaign.screening import screen as run_screen
from haystack_kernel.campaign.states import read_state, state_in_atlas, type_keys_of, untreated_cells
from haystack_kernel.campaign.toward import COLUMNS, N_DRAWS, compute_toward
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.config.vocabulary import read_vocabulary
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding.signatures.sets import equivalents
from haystack_kernel.knowledge import load_knowledge, perturbation_of, with_vocabulary
from haystack_kernel.planners.offline.seeking import parse_seek
from haystack_kernel.retrieval import build_view, cells_of
from haystack_kernel.retrieval.view import CANONICAL, TYPE_KEY
from inference.effects import profile_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import anndata as ad

    from haystack_kernel.campaign.toward import TargetState
    from haystack_kernel.knowledge import Knowledge, PerturbationEntry
    from haystack_kernel.ports import Atlas, Ports
    from haystack_kernel.retrieval.view import AtlasView
    from haystack_kernel.schema import SeekQuery

LEVEL_OF_FALSE = 0.1  # expected share of false rows among those that are named
MIN_ROWS = 10  # effects that show which genes move together; with fewer, groups of untreated cells do
GROUP_CELLS = 10  # cells of such a group
LEAST_CERTAIN = 0.2  # share of a state's size below which it says nothing
N_NOTES = 8  # notes that the words repeat; the table has all
N_NAMED = 5  # rows that the words name
_FACTS = ("perturbation", "type", "cell_type", SOURCE, keys.DATASET, "evidence", "engine", "n_treated", "n_donors")
_NOTE = "note"


@dataclass(frozen=True, eq=False)
class Sought:
    """What a search found.

    Attributes
    ----------
    query
        The question as it was read.
    state
        Where the cells are to be moved.
    table
        One row per measured response and predicted effect: ``rank``, what it is and whether it is measured or
        predicted, the columns of :func:`haystack_kernel.campaign.toward.compute_toward`, ``q_toward`` (the false
        discovery rate at which the row would be found) and ``note``.
    left_out
        What could not be searched, one sentence each.
    notes
        What was taken for granted, one sentence each.

    Examples
    --------
    >>> found = haystack.campaign.seek("Which cytokine moves B cells toward IFN-beta-treated monocytes?")
    ... # doctest: +SKIP
    >>> found.top(3)[["perturbation", "source", "toward", "q_toward"]]  # doctest: +SKIP
    """

    query: SeekQuery
    state: TargetState
    table: pd.DataFrame
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def top(self, n: int = 10) -> pd.DataFrame:
        """Return the first rows."""
        return self.table.head(n)

    @property
    def words(self) -> tuple[str, ...]:
        """What was found and what it rests on, one sentence each."""
        said = (*_found_words(self), *self.state.notes, *self.query.notes, *self.notes)
        return tuple(f"{one[0].upper()}{one[1:].rstrip('.')}." for one in said if one)

    def __repr__(self) -> str:
        shown = self.top()[["rank", "perturbation", "cell_type", SOURCE, *COLUMNS[:5], "q_toward"]]
        return "\n".join([self.query.words, "", shown.to_string(index=False, float_format="%.2g"), "", *self.words])

    def _repr_html_(self) -> str:
        from haystack_kernel.report.html import Html, escape, paragraph

        rows = self.top(20)[["rank", "perturbation", "cell_type", SOURCE, *COLUMNS[:5], "q_toward", _NOTE]]
        head = "".join(f"<th>{escape(name)}</th>" for name in rows.columns)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{escape(_shown(name, value))}</td>" for name, value in zip(rows.columns, row, strict=True))
            + "</tr>"
            for row in rows.itertuples(index=False)
        )
        words = "".join(paragraph(one) for one in self.words)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        made: str = Html(f"<h3>{escape(self.query.words)}</h3>{table}{words}")._repr_html_()
        return made


def seek(  # noqa: PLR0913 - what is sought, the state, where to search, and how exactly
    question: str,
    *,
    state: Any = None,  # noqa: ANN401 - an AnnData, a path, genes
    against: Any = None,  # noqa: ANN401 - an AnnData or a path
    gene_set: str | None = None,
    atlases: Sequence[str] | None = None,
    screen: Any = None,  # noqa: ANN401 - a Screen, its id, or an AnnData of effects
    predict: bool = False,
    workers: int = 1,
    hide: Sequence[str] = (),
    n_draws: int = N_DRAWS,
    seed: int | None = None,
    ports: Ports | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Sought:
    """Search which treatment moves cells toward a state.

    Parameters
    ----------
    question
        Such as "Which cytokine moves B cells toward IFN-beta-treated monocytes?". It is read by rule.
    state, against, gene_set
        The target where the question only names it: cells, cells to compare them with, a gene set; see
        :func:`haystack_kernel.campaign.states.read_state`.
    atlases
        Names of atlases; None: as configured.
    screen
        A screen, its id, or its ``effects``: its predictions for these cells are searched beside what was measured.
    predict, workers
        Whether treatments that the atlas has measured in other cells only are predicted for these, as a screen by so
        many processes; the consent of ``ports`` holds for it.
    hide
        Pairs "CELL TYPE:PERTURBATION" that nothing may be known of.
    n_draws, seed
        Number of random states, and the random seed.
    ports
        Where atlases and tables are; None: as configured.
    progress
        Called with a message and the fraction done.

    Returns
    -------
    Sought
        The table, the most aligned first. Measured responses are those of the cells themselves; a predicted effect is
        marked so.

    Raises
    ------
    InvalidInputError
        The question, the cells or the state are not understood, or nothing was measured or predicted in these cells.

    Examples
    --------
    >>> found = seek("Which cytokine moves B cells toward IFN-beta-treated monocytes?")  # doctest: +SKIP
    >>> found.table["perturbation"].iloc[0]  # doctest: +SKIP
    'IFN-beta'
    """
    ports = ports or connect()
    options = {"atlases": atlases, "hide": list(hide), "seed": seed}
    given: dict[str, Any] = {name: value for name, value in options.items() if value not in (None, [])}
    config = build_config(ports.settings, **given).located()
    knowledge = load_knowledge(ports.settings.knowledge)
    named = with_vocabulary(knowledge, read_vocabulary(config, ports))
    query = parse_seek(question, knowledge=named, is_given=state is not None)
    atlas = ports.open_atlas(config.atlas_names)
    view = build_view(atlas, knowledge=named, settings=ports.settings.retrieval, config=config)
    types = type_keys_of(query.cell_type_id, query.cell_type, view=view)
    start = untreated_cells(types, view=view, atlas=atlas) if types else None
    if state is None:
        target = state_in_atlas(query, view=view, atlas=atlas, start=start)
    else:
        target = read_state(state, against=against, gene_set=gene_set, start=start, knowledge=named)
        if query.sign < 0:
            target = replace(target, name=f"away from {target.name}", direction=-target.direction)
    if isinstance(screen, str):
        screen = open_screen(screen, settings=ports.settings)
    elif predict and screen is None and (others := _unmeasured(query, types, view=view)):
        screen = run_screen(others, [query.cell_type], workers=workers, ports=ports, **given)
    effects, left_out = _searched(query, types, view=view, atlas=atlas, screen=screen, progress=progress)
    structure = _groups(start, seed=config.seed) if effects.n_obs < MIN_ROWS else None
    scored = compute_toward(effects, target, structure=structure, n_draws=n_draws, seed=config.seed)
    table = _ranked(effects, scored, query=query, knowledge=named, start=start)
    return Sought(query, target, table, left_out, _cautions(target, n_effects=effects.n_obs))


def _cautions(target: TargetState, *, n_effects: int) -> tuple[str, ...]:
    """What weakens a search as a whole."""
    notes = []
    if target.certainty < LEAST_CERTAIN:
        notes.append(
            f"the state can hardly be told from noise: {target.certainty:.0%} of its size is certain; give more cells, "
            "or a state that differs more"
        )
    if n_effects < MIN_ROWS:
        notes.append(
            f"only {n_effects} effects were searched, which do not show what genes move together under treatments: "
            "random states share what untreated cells show of it, and p values may be too small"
        )
    return tuple(notes)


def _unmeasured(query: SeekQuery, types: list[str], *, view: AtlasView) -> list[str]:
    """Treatments of the kind sought that were measured, but not in cells of these types."""
    treated = view.treated
    names = sorted(set(treated[CANONICAL]) - set(treated.loc[treated[TYPE_KEY].isin(types), CANONICAL]))
    kinds = dict(zip(treated[CANONICAL], treated[keys.PERTURBATION_TYPE].astype(str), strict=True))
    return [one for one in names if not query.kinds or _kind(one, kinds[one], knowledge=view.knowledge) in query.kinds]


def _searched(
    query: SeekQuery,
    types: list[str],
    *,
    view: AtlasView,
    atlas: Atlas,
    screen: Any,  # noqa: ANN401 - a Screen, or an AnnData of effects
    progress: Callable[[str, float], None] | None,
) -> tuple[ad.AnnData, tuple[str, ...]]:
    """Measured responses and predicted effects of the cells as one AnnData, and what could not be searched."""
    parts: list[ad.AnnData] = []
    left_out: list[str] = []
    if not types:
        left_out.append(f"no atlas holds {cells_of(query.cell_type)}, so nothing was measured in them")
    else:
        try:
            parts = [measure_effects(atlas, view=view, cell_types=types, progress=progress)]
            left_out += list(parts[0].uns[LEFT_OUT])
        except InvalidInputError as error:
            left_out.append(f"no response was measured in {cells_of(query.cell_type)}: {error}")
    if screen is not None:
        predicted, why = _predicted(query, screen)
        parts, left_out = [*parts, *predicted], [*left_out, *why]
    parts = [_of_kind(one, query=query, knowledge=view.knowledge) for one in parts]
    parts = [one for one in parts if one.n_obs]
    if not parts:
        what = " or ".join(query.kinds) or "treatment"
        reasons = "; ".join(left_out[:3]) or f"the atlas holds no {what} in these cells"
        msg = (
            f"there is nothing to search for {cells_of(query.cell_type)} ({reasons}). Make predictions for them with "
            "`haystack screen` and give that screen"
        )
        raise InvalidInputError(msg, left_out=left_out)
    return _joined(parts), tuple(left_out)


def _joined(parts: list[ad.AnnData]) -> ad.AnnData:
    """All rows over all genes, with the level of genes in control cells where it is known."""
    import anndata

    joined = anndata.concat(parts, join="outer", merge=None, fill_value=np.nan)
    if levels := [one.var[LEVEL] for one in parts if LEVEL in one.var]:
        joined.var[LEVEL] = levels[0].reindex(joined.var_names)
    return joined


def _predicted(query: SeekQuery, screen: Any) -> tuple[list[ad.AnnData], list[str]]:  # noqa: ANN401 - as in seek
    """The predictions of a screen for the cells of a question, and what it does not tell of them."""
    effects: ad.AnnData = getattr(screen, "effects", screen)
    of_cells = effects.obs["cell_type_id"].astype(str) == query.cell_type_id
    if not query.cell_type_id:
        of_cells = effects.obs["cell_type"].astype(str).str.casefold() == query.cell_type.casefold()
    left_out = []
    table = getattr(screen, "table", None)
    if table is not None:
        lost = table[(table["cell_type"].astype(str) == query.cell_type) & (table["status"] != "predicted")]
        left_out = [f"{row.perturbation} is not predicted: {row.reason}" for row in lost.itertuples()]
    if not of_cells.any():
        held = ", ".join(sorted(set(effects.obs["cell_type"].astype(str)))[:6])
        return [], [*left_out, f"the screen has no prediction for {cells_of(query.cell_type)}; it has {held}"]
    found = effects[of_cells.to_numpy()].copy()
    found.obs[SOURCE] = PREDICTED
    found.obs_names = [f"p{name}" for name in found.obs_names]
    return [found], left_out


def _of_kind(effects: ad.AnnData, *, query: SeekQuery, knowledge: Knowledge) -> ad.AnnData:
    """The rows whose treatment is of the kind that is sought."""
    stored = effects.obs["type"].astype(str) if "type" in effects.obs else [""] * effects.n_obs
    names = effects.obs["perturbation"].astype(str)
    effects.obs["type"] = [_kind(name, kind, knowledge=knowledge) for name, kind in zip(names, stored, strict=True)]
    return effects[effects.obs["type"].isin(query.kinds).to_numpy()].copy() if query.kinds else effects


def _kind(name: str, stored: str, *, knowledge: Knowledge) -> str:
    """Kind of a treatment by the tables, else as the atlas has it."""
    entry = perturbation_of(name, knowledge=knowledge)
    return entry.type if entry is not None and entry.type != "unspecified" else stored


def _groups(start: ad.AnnData | None, *, seed: int) -> pd.DataFrame:
    """Mean profiles of random groups of untreated cells, centred: what moves together without treatment."""
    if start is None or start.n_obs < 3 * GROUP_CELLS:
        return pd.DataFrame()
    order = np.random.default_rng(seed).permutation(start.n_obs)
    groups = np.array_split(order, start.n_obs // GROUP_CELLS)
    rows = np.array([profile_counts(start.X[np.sort(one)])[0] for one in groups])
    names = start.var_names
    table = pd.DataFrame(rows - rows.mean(axis=0), columns=names)
    return table.loc[:, ~names.duplicated()]


def _ranked(
    effects: ad.AnnData, scored: pd.DataFrame, *, query: SeekQuery, knowledge: Knowledge, start: ad.AnnData | None
) -> pd.DataFrame:
    """Facts and scores of every row, the most aligned first, with what is to be known of a row in words."""
    table = effects.obs.reindex(columns=list(_FACTS)).join(scored)
    for name in ("perturbation", "type", "cell_type", SOURCE, keys.DATASET, "evidence", "engine"):
        table[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
    is_state = _is_state(table, query=query)
    fit = table["p_toward"].to_numpy(float).copy()
    fit[is_state] = np.nan  # cells compared with themselves
    table["q_toward"] = control_false(fit)
    table[_NOTE] = [
        "; ".join(_notes(row, same=bool(same), query=query, knowledge=knowledge, start=start))
        for row, same in zip(table.to_dict("records"), is_state, strict=True)
    ]
    table["_last"] = np.isnan(fit)
    table = table.sort_values(["_last", "toward"], ascending=[True, False], kind="stable").drop(columns="_last")
    n = int((~np.isnan(fit)).sum())
    table.insert(0, "rank", [*range(1, n + 1), *([0] * (len(table) - n))])
    return table.reset_index(names="name")


def _is_state(table: pd.DataFrame, *, query: SeekQuery) -> np.ndarray:
    """Rows that are the cells that the target itself was measured from."""
    own = query.perturbation if query.target_kind == "condition" else query.start
    cells = query.target_cell_type if query.target_kind == "condition" else ""
    if not own or (cells and cells != query.cell_type):
        return np.zeros(len(table), dtype=bool)
    return ((table["perturbation"] == own) & (table[SOURCE] == MEASURED)).to_numpy(bool)


def _notes(
    row: dict[Any, Any], *, same: bool, query: SeekQuery, knowledge: Knowledge, start: ad.AnnData | None
) -> list[str]:
    """What is to be known of one row: whether it made the state, whose twin it is, whether its receptor is seen."""
    name, entry = str(row["perturbation"]), perturbation_of(str(row["perturbation"]), knowledge=knowledge)
    found = []
    if same:
        found.append("these cells are the target itself: not ranked")
    elif name and name == query.perturbation:
        found.append("the treatment that makes the target")
    if entry is not None:
        found += _kinship(entry, query=query, knowledge=knowledge)
        found += _receptor(entry, start=start)
    if np.isnan(row["toward"]):
        found.append(f"only {int(row['n_genes_toward'])} genes of the state are known of it")
    return found


def _kinship(entry: PerturbationEntry, *, query: SeekQuery, knowledge: Knowledge) -> list[str]:
    """Whether a treatment is a twin of the one that makes the state, or of its family."""
    maker = perturbation_of(query.perturbation, knowledge=knowledge) if query.perturbation else None
    if maker is None or entry.name == maker.name:
        return []
    if entry.name in equivalents(maker.response, {entry.name: entry}):
        return [f"its known response is that of {maker.name}"]
    return [f"of the family of {maker.name} ({entry.family})"] if entry.family == maker.family != "" else []


def _receptor(entry: PerturbationEntry, *, start: ad.AnnData | None) -> list[str]:
    """A receptor that the untreated cells do not show; not detected is not absent."""
    if entry.type != "cytokine" or start is None or not entry.targets:
        return []
    seen = start.var_names.intersection(list(entry.targets))
    if len(seen) and start[:, seen].X.sum():
        return []
    return [f"receptor not detected in these cells ({', '.join(entry.targets)}), which is not absence"]


def _found_words(found: Sought) -> list[str]:
    table = found.table
    named = table[(table["rank"] > 0) & (table["q_toward"] <= LEVEL_OF_FALSE) & (table["toward_low"] > 0)]
    n = int((table["rank"] > 0).sum())
    if not n:
        said = f"Nothing could be ranked among {len(table)} effects in {cells_of(found.query.cell_type)}"
        return [said, *_noted(found)]
    sources = table.loc[table["rank"] > 0, SOURCE].value_counts()
    searched = " and ".join(f"{count} {name}" for name, count in sources.items())
    words = [f"{searched} effects in {cells_of(found.query.cell_type)} were compared with {found.state.name}."]
    if named.empty:
        best = table[table["rank"] == 1]
        nearest = (
            "" if best.empty else f" The nearest is {best['perturbation'].iloc[0]} ({best['toward'].iloc[0]:.2f})."
        )
        words.append(
            f"None of {n} moves them there more than toward random states (false discovery rate 10 %).{nearest}"
        )
    else:
        listed = [
            f"{row.perturbation} ({row.source}, {row.toward:.2f}, {row.toward_low:.2f} to {row.toward_high:.2f})"
            for row in named.head(N_NAMED).itertuples()
        ]
        more = f" and {len(named) - N_NAMED} more" if len(named) > N_NAMED else ""
        words.append(f"Toward it, at a false discovery rate of 10 %: {', '.join(listed)}{more}.")
    return [*words, *_noted(found)]


def _noted(found: Sought) -> list[str]:
    """Notes of rows, the same note once, and what was neither understood nor searched."""
    by_note: dict[str, list[str]] = {}
    for row in found.table.to_dict("records"):
        if row[_NOTE]:
            by_note.setdefault(str(row[_NOTE]), []).append(f"{row['perturbation']} ({row[SOURCE]})")
    words = []
    for note, rows in list(by_note.items())[:N_NOTES]:
        more = f" and {len(rows) - N_NAMED} more" if len(rows) > N_NAMED else ""
        words.append(f"{', '.join(rows[:N_NAMED])}{more}: {note}")
    if found.query.unused:
        words.append(f"Not understood, and not used: {', '.join(found.query.unused)}")
    if found.left_out:
        words.append(f"Not searched: {'; '.join(found.left_out[:3])}{'; …' if len(found.left_out) > 3 else ''}")
    return words


def _shown(name: str, value: object) -> str:
    from haystack_kernel.report.html import MISSING

    if isinstance(value, float):
        digits = ".2g" if name.startswith(("p_", "q_")) else ".2f"
        return MISSING if np.isnan(value) else format(value, digits)
    return str(value)
