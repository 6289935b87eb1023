"""What the strategies see: the conditions of the atlases without the hidden ones, and the tables to judge them by.

In: an atlas, knowledge, settings and the run's config. Out: one :class:`AtlasView`, and cell sets cut from its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel import keys
from haystack_kernel.knowledge import resolve
from haystack_kernel.retrieval.hidden import CANONICAL, is_hidden
from haystack_kernel.schema import CellSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas
    from haystack_kernel.schema import RunConfig
    from haystack_kernel.settings import RetrievalSettings

N_CELLS = "n_cells"
DEPTH = "median_total_counts"
TYPE_KEY = "type_key"  # CL id, or the label where a cell has none
_TEXT = (
    keys.ATLAS,
    keys.DATASET,
    keys.CELL_TYPE_ID,
    keys.CELL_TYPE,
    keys.PERTURBATION,
    keys.TISSUE_ID,
    keys.TISSUE,
    keys.DONOR,
    keys.DISEASE_ID,
    keys.DISEASE,
)
_NO_DONOR = frozenset({"", "unknown", "na", "nan", "none", "pooled"})


@dataclass(frozen=True, eq=False)
class AtlasView:
    """One search's world.

    Attributes
    ----------
    conditions
        Rows of :meth:`Atlas.conditions` that may be seen, with ``canonical_perturbation`` and ``type_key``.
    hidden
        The rows that may not, kept only to say so.
    """

    conditions: pd.DataFrame
    hidden: pd.DataFrame
    knowledge: Knowledge
    settings: RetrievalSettings
    config: RunConfig

    @property
    def controls(self) -> pd.DataFrame:
        """Unperturbed conditions."""
        return self.conditions[self.conditions[keys.IS_CONTROL]]

    @property
    def treated(self) -> pd.DataFrame:
        """Perturbed conditions."""
        return self.conditions[~self.conditions[keys.IS_CONTROL]]


def build_view(atlas: Atlas, *, knowledge: Knowledge, settings: RetrievalSettings, config: RunConfig) -> AtlasView:
    """Read the conditions once, name perturbations canonically and take the hidden pairs away.

    Raises
    ------
    InvalidInputError
        A hidden pair names a cell type that the knowledge table lacks.
    """
    table = atlas.conditions().reset_index(drop=True)
    for column in _TEXT:
        table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str)
    table[keys.IS_CONTROL] = table[keys.IS_CONTROL].astype(bool)
    names = {name: canonical_name(name, knowledge=knowledge) for name in table[keys.PERTURBATION].unique()}
    table[CANONICAL] = table[keys.PERTURBATION].map(names)
    table[TYPE_KEY] = table[keys.CELL_TYPE_ID].where(table[keys.CELL_TYPE_ID] != "", table[keys.CELL_TYPE])
    hide = is_hidden(table, pairs=config.hide, knowledge=knowledge)
    return AtlasView(
        conditions=table[~hide].reset_index(drop=True),
        hidden=table[hide].reset_index(drop=True),
        knowledge=knowledge,
        settings=settings,
        config=config,
    )


def canonical_name(name: str, *, knowledge: Knowledge) -> str:
    """Knowledge table's name of a perturbation; the name itself where it is not known for certain."""
    if not name or name in knowledge.perturbations:
        return name
    match = resolve(name, kind="perturbation", knowledge=knowledge).match
    return match.id if match is not None and match.how != "fuzzy" else name


def groups(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows of each (atlas, dataset, perturbation, cell type), in a fixed order; each becomes one candidate."""
    state = rows[keys.PERTURBATION].where(~rows[keys.IS_CONTROL], "")  # controls are one condition: PBS, vehicle, …
    for _, group in rows.groupby([rows[keys.ATLAS], rows[keys.DATASET], state, rows[TYPE_KEY]], sort=True):
        yield group


def has_donor(rows: pd.DataFrame) -> pd.Series:
    """Whether the donor of each row is recorded (a prefixed placeholder such as ``kang:unknown`` is not)."""
    bare = rows[keys.DONOR].str.rsplit(":", n=1).str[-1].str.strip().str.lower()
    return ~bare.isin(_NO_DONOR)


def type_label(rows: pd.DataFrame) -> str:
    """Cell type of the rows in words: the label most of their cells carry."""
    counts = rows.groupby(keys.CELL_TYPE, sort=True)[N_CELLS].sum()
    return str(counts.idxmax())


def cells_of(label: str) -> str:
    """Plural of a cell type: "B cells", "monocytes", "fibroblast of lung cells"."""
    return f"{label}s" if label.endswith(("cell", "cyte", "blast", "phage", "phil")) else f"{label} cells"


def cell_set(rows: pd.DataFrame, *, by_tissue: bool = False) -> CellSet:
    """Cell set of rows of one dataset and one condition.

    Parameters
    ----------
    rows
        Rows of :attr:`AtlasView.conditions` with one value of atlas, dataset, is_control and, where perturbed,
        perturbation. Rows without a recorded donor are left out where others have one.
    by_tissue
        Also restrict to the tissues of the rows.
    """
    known = has_donor(rows)
    rows = rows[known] if known.any() else rows
    first = rows.iloc[0]
    is_control = bool(first[keys.IS_CONTROL])
    ids = _unique(rows[keys.CELL_TYPE_ID])
    return CellSet(
        atlas=first[keys.ATLAS],
        dataset=first[keys.DATASET],
        is_control=is_control,
        perturbation=None if is_control else first[keys.PERTURBATION],
        cell_type_ids=ids,
        cell_type_names=() if ids else _unique(rows[keys.CELL_TYPE]),
        donor_ids=_unique(rows[keys.DONOR]) if known.any() else (),
        tissue_ids=_unique(rows[keys.TISSUE_ID]) if by_tissue and (rows[keys.TISSUE_ID] != "").all() else (),
        n_cells=int(rows[N_CELLS].sum()),
        label=", ".join(_unique(rows[keys.CELL_TYPE])),
    )


def _unique(values: pd.Series) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in values if value}))
