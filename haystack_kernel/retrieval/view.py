"""What the strategies see: the conditions of the atlases without the hidden ones, and the knowledge tables.

In: an atlas, knowledge, settings and the run's config. Out: one :class:`AtlasView`, and cell sets made of its rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from haystack_kernel import keys
from haystack_kernel.knowledge import perturbation_of, resolve, resolve_genetic
from haystack_kernel.retrieval.hidden import CANONICAL, HIDDEN_BY, hidden_by, list_hidden
from haystack_kernel.schema import CellSet, RetrievalSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.schema import HiddenCells, RunConfig, StructuredQuery

T = TypeVar("T")
N_CELLS = "n_cells"
DEPTH = "median_total_counts"
HAS_DONOR = "has_donor"
TYPE_KEY = "type_key"  # CL id, or the label of a cell type without one
_CRITERIA = (
    keys.ATLAS,
    keys.DATASET,
    keys.IS_CONTROL,
    keys.PERTURBATION,
    keys.CELL_TYPE_ID,
    keys.CELL_TYPE,
    keys.DONOR,
    keys.TISSUE_ID,
    keys.DISEASE_ID,
    keys.CONTROL_KIND,
)
_DESCRIBED: WeakKeyDictionary[Atlas, tuple[Knowledge, Conditions]] = WeakKeyDictionary()  # of atlases that are open
_NO_DONOR = frozenset({"", "unknown", "na", "nan", "none", "pooled"})


@dataclass(frozen=True, eq=False)
class Conditions:
    """Rows of :meth:`Atlas.conditions` with what searches look up in them, each worked out when it is first needed.

    Several views may share one: nothing in it may be changed.
    """

    table: pd.DataFrame

    @cached_property
    def controls(self) -> pd.DataFrame:
        """Unperturbed conditions."""
        return self.table[self.table[keys.IS_CONTROL]]

    @cached_property
    def treated(self) -> pd.DataFrame:
        """Perturbed conditions."""
        return self.table[~self.table[keys.IS_CONTROL]]

    @cached_property
    def controls_by_set(self) -> dict[Any, pd.DataFrame]:
        """(atlas, dataset) -> its unperturbed conditions."""
        return dict(iter(self.controls.groupby([keys.ATLAS, keys.DATASET])))

    @cached_property
    def set_places(self) -> dict[Any, Any]:
        """(atlas, dataset) -> positions of its conditions."""
        return dict(self.table.groupby([keys.ATLAS, keys.DATASET]).indices)

    @cached_property
    def places(self) -> dict[Any, Any]:
        """(atlas, dataset, type key) -> positions of its conditions."""
        return dict(self.table.groupby([keys.ATLAS, keys.DATASET, TYPE_KEY]).indices)

    @cached_property
    def codes(self) -> dict[str, tuple[NDArray[np.intp], dict[Any, int]]]:
        """Columns that cells are selected by, as whole numbers, which are compared much faster than text."""
        coded = {}
        for column in _CRITERIA:
            codes, values = pd.factorize(self.table[column])
            coded[column] = codes, {value: code for code, value in enumerate(values)}
        return coded


@dataclass(frozen=True, eq=False)
class AtlasView:
    """Everything that one search works with.

    Attributes
    ----------
    visible
        Visible rows of :meth:`Atlas.conditions`, with ``canonical_perturbation``, ``type_key`` and ``has_donor``.
    hidden
        The other rows with ``hidden_by``, used only in messages and in the list of what was hidden.
    cache
        Folder for vectors of descriptions; None keeps none.
    """

    visible: Conditions
    hidden: pd.DataFrame
    cache: Path | None
    knowledge: Knowledge
    settings: RetrievalSettings
    config: RunConfig
    _found: dict[str, tuple[StructuredQuery, Any]] = field(default_factory=dict)

    def once(self, name: str, query: StructuredQuery, find: Callable[[], T]) -> T:
        """What ``find`` finds for a query, which several strategies ask for; found once for each name."""
        kept = self._found.get(name)
        if kept is None or kept[0] is not query:
            kept = self._found[name] = (query, find())
        found: T = kept[1]
        return found

    @property
    def conditions(self) -> pd.DataFrame:
        """Visible conditions."""
        return self.visible.table

    @property
    def controls(self) -> pd.DataFrame:
        """Unperturbed visible conditions."""
        return self.visible.controls

    @property
    def treated(self) -> pd.DataFrame:
        """Perturbed visible conditions."""
        return self.visible.treated

    def controls_of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Unperturbed conditions of the dataset of the rows."""
        first = rows.iloc[0]
        return self.visible.controls_by_set.get((first[keys.ATLAS], first[keys.DATASET]), self.controls.iloc[:0])

    def same_cells(self, rows: pd.DataFrame) -> NDArray[np.intp]:
        """Positions of all conditions, treated or not, that share dataset and cell type with the rows."""
        first = rows.iloc[0]
        here = (first[keys.ATLAS], first[keys.DATASET])
        if not first[keys.CELL_TYPE_ID]:  # selected by a label, which rows with an id may have as well
            return self.visible.set_places[here]
        return self.visible.places[(*here, first[TYPE_KEY])]

    def selected(self, one: CellSet, among: NDArray[np.intp]) -> NDArray[np.intp]:
        """Positions among those given whose conditions satisfy the criteria, as the atlas would select them."""
        wanted = {
            keys.ATLAS: (one.atlas,),
            keys.DATASET: (one.dataset,),
            keys.IS_CONTROL: (one.is_control,),
            keys.PERTURBATION: () if one.perturbation is None else (one.perturbation,),
            keys.CELL_TYPE_ID: one.cell_type_ids,
            keys.CELL_TYPE: one.cell_type_names,
            keys.DONOR: one.donor_ids,
            keys.TISSUE_ID: one.tissue_ids,
            keys.DISEASE_ID: one.disease_ids,
            keys.CONTROL_KIND: one.control_kinds,
        }
        for column, values in wanted.items():
            if values:
                codes, of = self.visible.codes[column]
                among = among[np.isin(codes[among], [of[value] for value in values if value in of])]
        return among


def build_view(
    atlas: Atlas,
    *,
    knowledge: Knowledge,
    settings: RetrievalSettings,
    config: RunConfig,
    cache: Path | None = None,
) -> AtlasView:
    """Read the conditions, add canonical names of perturbations, and separate the hidden pairs.

    Parameters
    ----------
    atlas
        Cells of one or several atlases; only their conditions are read.
    knowledge
        Tables with the canonical names.
    settings
        Limits of the search.
    config
        Hidden pairs, pins and bans of the run.
    cache
        Folder for vectors of descriptions; None keeps nothing.

    Returns
    -------
    The conditions that strategies may see.

    Raises
    ------
    InvalidInputError
        A hidden pair names a cell type that the knowledge table lacks.
    """
    described = _described(atlas, knowledge)
    visible, hidden = described, described.table.iloc[:0].assign(**{HIDDEN_BY: ""})
    if config.hide:
        table = described.table
        by = hidden_by(table, pairs=config.hide, knowledge=knowledge)
        hide = by != ""
        visible = Conditions(table[~hide].reset_index(drop=True))
        hidden = table[hide].assign(**{HIDDEN_BY: by[hide]}).reset_index(drop=True)
    return AtlasView(
        visible=visible,
        hidden=hidden,
        cache=cache,
        knowledge=knowledge,
        settings=settings,
        config=config,
    )


def _described(atlas: Atlas, knowledge: Knowledge) -> Conditions:
    """Conditions with canonical names, type keys and known donors; worked out once for an open atlas.

    An atlas of 100 million cells has some 300,000 conditions, and one question looks at them several times.
    """
    kept = _DESCRIBED.get(atlas)
    if kept is None or kept[0] is not knowledge:
        kept = _DESCRIBED[atlas] = (knowledge, Conditions(_describe(atlas.conditions(), knowledge)))
    return kept[1]


def _describe(conditions: pd.DataFrame, knowledge: Knowledge) -> pd.DataFrame:
    table = conditions.reset_index(drop=True)
    kinds = table[[keys.PERTURBATION, keys.PERTURBATION_TYPE]].drop_duplicates().itertuples(index=False, name=None)
    names = {(name, kind): canonical_name(name, kind=kind, knowledge=knowledge) for name, kind in kinds}
    stored = zip(table[keys.PERTURBATION], table[keys.PERTURBATION_TYPE], strict=True)
    table[CANONICAL] = [names[pair] for pair in stored]
    table[TYPE_KEY] = table[keys.CELL_TYPE_ID].where(table[keys.CELL_TYPE_ID] != "", table[keys.CELL_TYPE])
    nameless = {one for one in table[keys.DONOR].unique() if one.rpartition(":")[2].strip().lower() in _NO_DONOR}
    table[HAS_DONOR] = ~table[keys.DONOR].isin(nameless)
    return table


def find_hidden(atlas: Atlas, *, knowledge: Knowledge, config: RunConfig) -> tuple[HiddenCells, ...]:
    """List what the hidden pairs of a run keep out of its search.

    Parameters
    ----------
    atlas
        Cells of one or several atlases; only their conditions are read.
    knowledge
        Tables with the canonical names.
    config
        The hidden pairs.

    Returns
    -------
    One line per dataset, treatment and label, the largest first; a pair that hides nothing has a line without cells.

    Examples
    --------
    >>> find_hidden(atlas, knowledge=knowledge, config=config)[0].n_cells  # doctest: +SKIP
    420
    """
    if not config.hide:
        return ()
    view = build_view(atlas, knowledge=knowledge, settings=RetrievalSettings(), config=config)
    return list_hidden(view.hidden, pairs=config.hide, knowledge=knowledge)


def canonical_name(name: str, *, knowledge: Knowledge, kind: str = "") -> str:
    """Known name of a perturbation; the name itself where the match is not certain.

    Where ``kind`` is "genetic", a bare symbol is the knock-out of the gene, in an atlas of an earlier version too.
    """
    if not name or perturbation_of(name, knowledge=knowledge) is not None:
        return name
    if kind == "genetic":
        found = resolve_genetic(name, declared=True)
        return found.match.id if found is not None and found.match is not None else name
    match = resolve(name, kind="perturbation", knowledge=knowledge).match
    return match.id if match is not None and match.how != "fuzzy" else name


def groups(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the rows of each (atlas, dataset, perturbation, cell type) in a fixed order; each is one candidate."""
    # All controls (PBS, vehicle, …) are one condition.
    state = rows[keys.PERTURBATION].where(~rows[keys.IS_CONTROL], "")
    for _, group in rows.groupby([rows[keys.ATLAS], rows[keys.DATASET], state, rows[TYPE_KEY]], sort=True):
        yield group


def large_groups(rows: pd.DataFrame, *, view: AtlasView) -> Iterator[pd.DataFrame]:
    """Yield the groups that have at least ``settings.min_cells`` cells."""
    return (group for group in groups(rows) if sum(group[N_CELLS].tolist()) >= view.settings.min_cells)


def has_donor(rows: pd.DataFrame) -> pd.Series:
    """Whether the donor of each row is recorded (a prefixed placeholder such as ``kang:unknown`` is not)."""
    return rows[HAS_DONOR]


def type_label(rows: pd.DataFrame) -> str:
    """Label that most cells of the rows carry."""
    counts = Counter[str]()
    for label, n_cells in zip(rows[keys.CELL_TYPE].tolist(), rows[N_CELLS].tolist(), strict=True):
        counts[label] += n_cells
    return min(counts, key=lambda label: (-counts[label], label))


def cells_of(label: str) -> str:
    """Plural of a cell type, for sentences.

    Parameters
    ----------
    label
        Name of a cell type in the singular.

    Returns
    -------
    The plural.

    Examples
    --------
    >>> cells_of("B cell"), cells_of("monocyte"), cells_of("fibroblast of lung")
    ('B cells', 'monocytes', 'fibroblast of lung cells')
    """
    return f"{label}s" if label.endswith(("cell", "cyte", "blast", "phage", "phil")) else f"{label} cells"


def cell_set(
    rows: pd.DataFrame,
    *,
    by_tissue: bool = False,
    by_disease: bool = False,
    control_kinds: tuple[str, ...] = (),
    view: AtlasView | None = None,
) -> CellSet:
    """Build the cell set that selects rows of one dataset and one condition.

    Parameters
    ----------
    rows
        Rows of :attr:`AtlasView.conditions` with one value of atlas, dataset, is_control and, where perturbed,
        perturbation. Rows without a recorded donor are left out where others have one.
    by_tissue
        Also restrict the set to the tissues of the rows.
    by_disease
        Also restrict the set to the diseases of the rows: a donor may be a patient in one sample and not in another.
    control_kinds
        Also restrict the set to these kinds of control.
    view
        The view that the rows come from. With it, tissue and disease become criteria where the set would otherwise
        select more than the rows; None skips this check.
    """
    known = has_donor(rows)
    rows = rows[known] if known.any() else rows
    first = rows.iloc[0]
    is_control = bool(first[keys.IS_CONTROL])
    ids = _unique(rows[keys.CELL_TYPE_ID])
    one = CellSet(
        atlas=first[keys.ATLAS],
        dataset=first[keys.DATASET],
        is_control=is_control,
        perturbation=None if is_control else first[keys.PERTURBATION],
        cell_type_ids=ids,
        cell_type_names=() if ids else _unique(rows[keys.CELL_TYPE]),
        donor_ids=_unique(rows[keys.DONOR]) if known.any() else (),
        tissue_ids=_unique(rows[keys.TISSUE_ID]) if by_tissue and (rows[keys.TISSUE_ID] != "").all() else (),
        disease_ids=_unique(rows[keys.DISEASE_ID]) if by_disease and (rows[keys.DISEASE_ID] != "").all() else (),
        control_kinds=control_kinds,
        n_cells=int(rows[N_CELLS].sum()),
        label=", ".join(_unique(rows[keys.CELL_TYPE])),
    )
    return one if view is None else _exact(one, rows=rows, view=view)


def _exact(one: CellSet, *, rows: pd.DataFrame, view: AtlasView) -> CellSet:
    """Narrow the set by tissue, then by disease, until it selects no more than ``rows``."""
    found = view.selected(one, view.same_cells(rows))
    for criterion, column in {"tissue_ids": keys.TISSUE_ID, "disease_ids": keys.DISEASE_ID}.items():
        if len(found) > len(rows) and (rows[column] != "").all():
            one = one.model_copy(update={criterion: _unique(rows[column])})
            found = view.selected(one, found)
    return one.model_copy(update={"n_cells": int(view.conditions[N_CELLS].to_numpy()[found].sum())})


def _unique(values: pd.Series) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in values if value}))
