"""What the columns of a user's own file say of its cells: which type they are, and whether they were treated.

In: obs of the file. Out: one verdict per cell and column. Columns are found by name, and where a name says little, by
labels that leave no doubt. Each distinct label is read once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd

from haystack_kernel.knowledge import find_mentions, resolve
from haystack_kernel.knowledge.column_words import (
    DOSE,
    MEASURES,
    OFTEN,
    SURE,
    TIME,
    has_word,
    is_before,
    says_acted_on,
    words_of,
)
from haystack_kernel.knowledge.controls import control_words, is_unassigned
from haystack_kernel.retrieval.type_labels import sure_meanings, types_named

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.knowledge import Knowledge

Treated = Literal["untreated", "treated", "unknown", ""]  # "": the column does not say

_TYPE = re.compile(
    r"celltype|cellontologyclass|cellontology|celllabel|cellannotation|cellidentity|cellclass|cellsubtype|cellname|"
    r"^annotations?$|annotations?$|^annot|majorityvoting|^predictedlabels$|^population$|^subset$|^lineage$"
)
_CLUSTER = re.compile(r"^ident$|cluster|leiden|louvain|^labels?$|^celltypes?$|^sort|^gate$|^cells?$")
_ABOUT = re.compile(
    r"score|conf|prob|source|color|colour|entropy|count|umi|fraction|n_genes|pct_|percent", re.IGNORECASE
)
_GUIDE = frozenset(("crispr", "grna", "guide", "guides", "knockdown", "knockout", "sgrna", "sirna", "target"))
_STATE = frozenset(
    ("agent", "agents", "arm", "condition", "conditions", "exposure", "group", "groups", "state", "challenge", "medium")
)
_NEVER = frozenset(  # words of names of columns that say something else, whatever their labels look like
    (
        "age", "assay", "author", "barcode", "cell", "celltype", "chemistry", "cycle", "development", "diagnosis",
        "disease", "doublet", "ethnicity", "gender", "index", "library", "location", "organ", "organism", "phase",
        "platform", "protocol", "race", "sex", "site", "species", "suspension", "term", "tissue", "version",
    )
)  # fmt: skip
_IS_CONTROL, _IS_TREATED = (
    frozenset(("is_control", "control", "is_ctrl")),
    frozenset(("is_treated", "treated", "perturbed")),
)
_DECISIVE = _IS_CONTROL | _IS_TREATED
_HEALTH = frozenset(("healthy", "wild type"))  # kinds of control that a column of diseases or genotypes has too
_ZERO = re.compile(r"[^\d.-]*0+(?:\.0*)?(?![\d.])")
_MAX_LABELS = 2000
_MAX_STATES = 60  # distinct labels of a column whose name does not say that it is about treatments
_CL_ID = re.compile(r"CL[:_]\d{7}")


@dataclass(frozen=True, eq=False)
class Column:
    """One column of obs: ``texts`` per cell in the order of the file, "" where missing."""

    name: str
    texts: pd.Series

    def map(self, read: Callable[[str], object]) -> pd.Series:
        """One value per cell, read from its label."""
        return self.texts.map({label: read(label) for label in self.labels})

    @property
    def labels(self) -> list[str]:
        """Distinct labels."""
        return [str(label) for label in self.texts.unique()]

    def counted(self, where: pd.Series, *, n: int = 6) -> str:
        """The labels of some cells with their numbers, the most frequent first."""
        sizes = self.texts[where].replace("", "(empty)").value_counts()
        shown = ", ".join(f"{label} ({size:,})" for label, size in list(sizes.items())[:n])
        return shown + (f" and {len(sizes) - n} more" if len(sizes) > n else "")


def label_columns(obs: pd.DataFrame) -> list[Column]:
    """Columns of text, numbers or truth values with few enough distinct values to be labels."""
    found = []
    for name in obs.columns:
        values = obs[name]
        if values.nunique() <= _MAX_LABELS:
            texts = values.astype(object).where(values.notna(), "").astype(str).str.strip()
            found.append(Column(str(name), texts.reset_index(drop=True)))
    return found


def type_columns(columns: list[Column], *, knowledge: Knowledge) -> list[tuple[Column, pd.Series]]:
    """Columns that hold cell types, each with the ids per cell (a frozenset, or None where the label is not clear).

    A column counts by its name, or, among columns of clusters, where most of its cells have labels that are cell types.
    """

    def read(label: str) -> frozenset[str] | None:
        if _CL_ID.fullmatch(label):
            return sure_meanings(resolve(label, kind="cell_type", knowledge=knowledge)) or None
        return None if is_unassigned(label) else types_named(label, knowledge=knowledge)

    found = []
    for column in sorted(columns, key=lambda one: one.name.lower() not in ("cell_type", "celltype")):
        squeezed = re.sub(r"[^a-z0-9]", "", column.name.lower())
        is_ids = sum(_CL_ID.fullmatch(label) is not None for label in column.labels) > len(column.labels) / 2
        is_named = _TYPE.search(squeezed) is not None
        if not (is_ids or is_named or _CLUSTER.search(squeezed)) or _ABOUT.search(column.name):
            continue
        ids = column.map(read)
        if is_ids or is_named or ids.notna().mean() > 0.5:
            found.append((column, ids))
    return found


def types_held(obs: pd.DataFrame, *, knowledge: Knowledge) -> dict[str, int]:
    """Cell types that labels surely name, by name with their numbers, the most frequent first.

    Of cells that the labels tell apart as treated and untreated, the untreated ones count.
    """
    columns = label_columns(obs)
    types = type_columns(columns, knowledge=knowledge)
    found = treatment_columns(columns, besides={one.name for one, _ in types}, knowledge=knowledge)
    verdict, _ = untreated(found, n_cells=len(obs))
    among = verdict == "untreated" if (verdict == "untreated").any() else verdict != "unknown"
    for _, ids in types:
        terms = ids[among].map(lambda one: next(iter(one)) if one is not None and len(one) == 1 else None).dropna()
        if len(terms):
            return {knowledge.cell_types[str(term)].name: int(n) for term, n in terms.value_counts().items()}
    return {}


def treatment_columns(
    columns: list[Column], *, besides: set[str], knowledge: Knowledge
) -> list[tuple[Column, pd.Series]]:
    """Columns that say whether cells were treated, each with its verdict per cell ("" where it does not say).

    Parameters
    ----------
    columns
        Those of the file.
    besides
        Names of columns that hold cell types.
    knowledge
        Tables with the treatments.
    """
    found = []
    for column in columns:
        if column.name in besides or _ABOUT.search(column.name) or column.name.lower().endswith("_id_source"):
            continue
        verdicts = _verdicts(column, knowledge=knowledge)
        if verdicts is not None and (verdicts != "").any():
            found.append((column, verdicts))
    return found


def untreated(found: list[tuple[Column, pd.Series]], *, n_cells: int) -> tuple[pd.Series, dict[str, pd.Series]]:
    """Join the verdicts: per cell ``untreated``, ``treated``, ``unknown`` or "" where no column says anything.

    A column such as ``is_control`` decides alone. A dose of 0 or a time of 0 h means untreated whatever else is said; a
    positive dose or time says nothing beside another column. Otherwise one column that says "treated" is enough.

    Returns
    -------
    The verdict per cell, and for the treated ones of each column a mask by the column's name.
    """
    parts = {column.name: verdict for column, verdict in found}
    for name, verdict in parts.items():
        if name.lower() in _DECISIVE:
            return verdict, {name: verdict == "treated"}
    told = {name: verdict for name, verdict in parts.items() if not _measures(name)} or parts
    joined = pd.Series("", index=range(n_cells), dtype=object)
    for word in ("unknown", "untreated", "treated"):  # the later overrides the earlier
        for verdict in told.values():
            joined[verdict == word] = word
    for name, verdict in parts.items():
        joined[(verdict == "untreated") & _measures(name)] = "untreated"
    return joined, {name: (verdict == "treated") & (joined == "treated") for name, verdict in told.items()}


def _measures(name: str) -> bool:
    words = words_of(name)
    return (has_word(words, DOSE) or has_word(words, TIME)) and not has_word(words, SURE)


def _verdicts(column: Column, *, knowledge: Knowledge) -> pd.Series | None:
    words = words_of(column.name)
    if has_word(words, MEASURES) or (words & _NEVER and not _measures(column.name)):
        return None
    if (named := _verdicts_by_name(column, words)) is not None:
        return named
    if _measures(column.name):  # times after the same treatment, or of no treatment at all
        return None
    if len(column.labels) > _MAX_STATES:
        return None
    has_control = any(_is_control(label) for label in column.labels)
    is_state = bool(words & _STATE)
    if not is_state and len(column.labels) < 2:  # one name of a dataset or batch tells no cells apart
        return None
    is_state = is_state and has_control
    return column.map(lambda label: _read_state(label, is_state=is_state, knowledge=knowledge))


def _verdicts_by_name(column: Column, words: frozenset[str]) -> pd.Series | None:
    """What a column says whose name is that of treatments, doses or times; None for another one."""
    lowered = column.name.lower()
    if lowered in _DECISIVE and set(map(str.lower, column.labels)) <= {"true", "false", "1", "0", "yes", "no"}:
        yes = lowered in _IS_CONTROL
        return column.map(lambda text: "untreated" if (text.lower() in ("true", "1", "yes")) is yes else "treated")
    if _measures(column.name):
        tells = has_word(words, DOSE) or any(map(_is_start, column.labels))
        return column.map(_read_amount) if tells else None
    if has_word(words, SURE) or (has_word(words, OFTEN) and any(map(_is_control, column.labels))):
        is_guide = bool(words & _GUIDE)
        # "none" means untreated where no label says so otherwise
        is_none = not any(control_words(label, genetic=is_guide).is_control for label in column.labels)
        return column.map(lambda label: _read_treatment(label, is_guide=is_guide, is_none=is_none))
    return None


def _read_amount(text: str) -> Treated:
    """A dose or time: 0 and "baseline" are untreated."""
    if _is_start(text):
        return "untreated"
    return "treated" if text and not is_unassigned(text) else ""


def _is_start(text: str) -> bool:
    return _ZERO.match(text) is not None or is_before(text)


def _read_treatment(label: str, *, is_guide: bool, is_none: bool) -> Treated:
    if is_none and label.casefold() in ("none", "no", "0"):
        return "untreated"
    if is_unassigned(label):
        return "unknown"
    return "untreated" if control_words(label, genetic=is_guide).is_control else "treated"


def _is_control(label: str) -> bool:
    words = control_words(label)
    return words.is_control and words.kind not in _HEALTH


def _read_state(label: str, *, is_state: bool, knowledge: Knowledge) -> Treated:
    """A label of a column whose name does not say that it is about treatments."""
    if len(label) < 2 or is_unassigned(label):
        return ""
    if control_words(label).is_control:
        return "untreated" if _is_control(label) else ""
    if sure_meanings(resolve(label, kind="disease", knowledge=knowledge)):
        return ""
    if is_state or says_acted_on(label):
        return "treated"
    return "treated" if _names_treatment(label, knowledge=knowledge) else ""


def _names_treatment(label: str, *, knowledge: Knowledge) -> bool:
    found = resolve(label, kind="perturbation", knowledge=knowledge)
    if found.match is not None and found.match.how != "fuzzy" and not found.ambiguous:
        return True
    mentions = find_mentions(label.replace("_", " "), knowledge=knowledge)
    return any(
        one.kind == "perturbation" and one.resolution.match is not None and one.resolution.match.how != "fuzzy"
        for one in mentions
    )


def named(columns: list[Column], *names: str) -> list[Column]:
    """Columns of one of these names, whatever their case and punctuation, in the order of the names."""
    squeezed = {re.sub(r"[^a-z0-9]", "", column.name.lower()): column for column in columns}
    return [squeezed[name] for name in names if name in squeezed]
