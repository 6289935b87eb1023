"""Read the labels of a column of treatments: treated, control of a kind, or neither.

In: distinct labels with the type, dose, time and vehicle stated beside them. Out: one ``Reading`` each. What cannot be
told apart is refused with the labels, so that no cell is a control or treated by accident.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.column_words import is_before, split_key
from haystack_kernel.knowledge.controls import (
    GENERAL,
    GUIDES,
    SOLVENTS,
    ControlWords,
    control_words,
    hints_at_control,
    is_unassigned,
)
from haystack_kernel.knowledge.genetic import ASSUMED, JOIN, MODE_SIGNS, read_genetic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.atlas.mapping import Mapping
    from haystack_kernel.atlas.record import ReadAs
    from haystack_kernel.atlas.resolvers import Resolvers
    from haystack_kernel.knowledge.genetic import Mode
    from haystack_kernel.schema import Match, Resolution

PERTURBATION_TYPES = ("cytokine", "drug", "genetic")
TREATED: Final = "treated"
CONTROL: Final = "control"
LEFT_OUT: Final = "left out"

_DRUGS = frozenset({"smallmolecule", "compound", "chemical"})
_GENETIC: dict[str, Mode | None] = {
    **{re.sub(r"[\s_-]+", "", mode.casefold()): mode for mode in MODE_SIGNS},
    **{"crisprko": "knock-out", "crisprcas9": "knock-out", "shrna": "knock-down", "orf": "over-expression"},
    **{"crispr": None, "gene": None},
}
_JOINS = re.compile(r"\s*(?:\+|&|;|\|\|?|\bplus\b|\band\b)\s*")
_UNIT = r"(?:[pnuµm]?m|[pnuµm]?mol(?:/l)?|[npuµm]?g/m?l|[um]g/kg|iu/ml|u/ml|iu|units?/ml|c?gy|pfu|moi|%)"
_TIME = r"(?:h|hrs?|hours?|min|minutes?|d|days?|weeks?|wks?|hpi|dpi)"
_ZERO = r"0+(?:\.0+)?"
_ZERO_DOSE = re.compile(rf"(?<![\d.]){_ZERO}\s*{_UNIT}(?![a-z])", re.IGNORECASE)
_ZERO_TIME = re.compile(rf"(?<![\d.a-z]){_ZERO}\s*{_TIME}(?![a-z])|\b(?:t|d|day|time)\s*=?\s*0+\b", re.IGNORECASE)
_ONLY_ZERO = re.compile(rf"(?:(?:t|d|day|time|hour|week)[\s=_]*)?{_ZERO}\s*(?:{_UNIT}|{_TIME})?", re.IGNORECASE)
_NEGATED = re.compile(
    r"(?:no|non|not|without|w/o|minus)\b.|[-\u2212\u2013](?=\w)|.*(?:\w[-\u2212\u2013]|\(-\)|\bneg(?:ative)?)$", re.I
)
_ASIDE = re.compile(  # what says when, how much and where, and not what
    rf"[\s_,;(-]+(?:\d+(?:\.\d+)?\s*(?:{_UNIT}|{_TIME})|(?:rep|replicate|donor|batch|plate|well|sample|r|d|day)[\s_-]?\d+|"
    rf"high|low|mid|treated|stimulated|stim)\)?$",
    re.IGNORECASE,
)
_ESCAPED = re.compile(r"\S[ _]NP$")
_SOLVED = re.compile(r"\b(?:in|with)\b|\(|/", re.IGNORECASE)


@dataclass(frozen=True)
class Stated:
    """What a file says of the treatment of some cells; ``zero`` is "dose" or "time" where that column says 0."""

    label: str
    type: str = ""
    zero: str = ""
    vehicle: str = ""


@dataclass(frozen=True)
class Reading:
    """How one label is read.

    Attributes
    ----------
    name
        Canonical name of the treatment, or the label where no table knows it; "" for other cells.
    type
        cytokine, drug or genetic; "" if unknown.
    control
        Kind of the control; for a treatment the kind of control that the file states for it, "" if it states none.
    why
        What a reader should know; "" if nothing.
    nearest
        Nearest known treatments where no table knows the label.
    is_known
        False for a treatment that a table should know and none does.
    """

    read_as: ReadAs
    name: str = ""
    type: str = ""
    control: str = ""
    why: str = ""
    nearest: tuple[str, ...] = field(default=(), compare=False)
    is_known: bool = True


def is_zero(text: str) -> bool:
    """Whether a dose or a time is none: "0", "0.0 uM", "0 h", "day 0", "T0"; an empty text is not known.

    Parameters
    ----------
    text
        A dose or time with or without its unit.

    Returns
    -------
    True for zero.
    """
    return _ONLY_ZERO.fullmatch(text.strip()) is not None


def is_start(text: str) -> bool:
    """Whether a dose or a time means that nothing had been given yet: zero, "UT", "baseline", "Pre".

    Parameters
    ----------
    text
        A label of a column of doses or times.

    Returns
    -------
    True before the treatment.
    """
    return is_zero(text) or is_before(text)


def read_treatments(stated: Sequence[Stated], mapping: Mapping, resolvers: Resolvers) -> list[Reading]:
    """Read every combination of label, type, dose, time and vehicle that a file has.

    Parameters
    ----------
    stated
        The distinct combinations.
    mapping
        Names the labels that are controls, and labels that are treatments in spite of their words.
    resolvers
        Functions from a label to a known term.

    Returns
    -------
    A reading for each, in their order.

    Raises
    ------
    InvalidInputError
        Some labels have the word of a control beside other words, no label is a control, or a type is unknown.
    """
    reader = _Reader(
        resolvers,
        controls=_folded(mapping.control or ()),
        treated=_folded(mapping.treated),
        has_guides=any(control_words(one.label).kind in GUIDES for one in stated),
    )
    readings = [reader.read(one) for one in stated]
    unsure = sorted({one.label for one, read in zip(stated, readings, strict=True) if read is UNSURE})
    if unsure:
        raise _unsure(unsure)
    has_control = mapping.control is None or len(mapping.control) > 0
    if has_control and not any(one.read_as == CONTROL for one in readings):
        raise _no_control(stated, readings, mapping)
    return readings


def _folded(labels: tuple[str, ...]) -> set[str]:
    return {label.strip().casefold() for label in labels}


def _unsure(labels: list[str]) -> InvalidInputError:
    shown = ", ".join(repr(label) for label in labels[:8]) + (f" and {len(labels) - 8} more" if labels[8:] else "")
    msg = (
        f"{len(labels)} perturbation labels have the word of a control beside other words: {shown}. Say which are "
        "controls with --control LABEL (`control: [labels]` in a YAML mapping) and which are treatments with "
        "--treated LABEL (`treated: [labels]`)"
    )
    return InvalidInputError(msg, labels=labels)


def _no_control(stated: Sequence[Stated], readings: list[Reading], mapping: Mapping) -> InvalidInputError:
    left_out = sorted({one.label for one, read in zip(stated, readings, strict=True) if read.read_as == LEFT_OUT})
    treated = sorted({one.label for one in stated} - set(left_out))
    known = ", ".join(mapping.control) if mapping.control else "usual words such as control, DMSO or untreated"
    msg = (
        f"no cell is a control: the perturbation labels are {', '.join(treated[:12]) or 'none'}; controls are {known}. "
        "Give the control labels with control=[…] (--control LABEL), or an empty list if the file holds treated cells "
        "only"
    )
    if left_out:
        named = ", ".join(repr(label) for label in left_out[:8])
        msg += f". {named}: not known to be treated or not; if these cells are untreated, add the label to the controls"
    return InvalidInputError(msg, labels=treated, left_out=left_out, control=list(mapping.control or ()))


UNSURE: Final = Reading(LEFT_OUT, why="may be a control or not")


@dataclass(frozen=True)
class _Reader:
    resolvers: Resolvers
    controls: set[str]
    treated: set[str]
    has_guides: bool  # other cells of the file have guides against nothing

    def read(self, one: Stated) -> Reading:
        """Read one combination; UNSURE if the label may be a control or not."""
        kind, mode = stated_type(one.type)
        words = control_words(one.label, genetic=kind == "genetic")
        if one.label.casefold() in self.treated:
            return self._treated(one, words, kind, mode) or self._unknown(one.label, kind)
        if untreated := self._untreated(one, words, kind):
            return untreated
        if _NEGATED.match(one.label) and not self._gene(one, kind, mode):
            return UNSURE  # "no LPS", "LPS-"
        found = self._treated(one, words, kind, mode)
        if found is None and (words.kind or hints_at_control(one.label)):
            return UNSURE
        solvent = words.kind if words.kind in SOLVENTS else ""
        return replace(found or self._unknown(one.label, kind), control=one.vehicle or solvent)

    def _treated(self, one: Stated, words: ControlWords, kind: str, mode: Mode | None) -> Reading | None:
        """Cells with a treatment that is known."""
        return (
            self._gene(one, kind, mode)
            or self._combined(one, kind)
            or self._known(one.label, kind)
            or self._in_solvent(one, words, kind)
        )

    def _untreated(self, one: Stated, words: ControlWords, kind: str) -> Reading | None:
        """Cells that are controls, or of which no treatment is known."""
        is_unknown = is_unassigned(one.label)
        if one.label.casefold() in self.controls:
            return _control(words.kind if words.is_control else "untreated" if is_unknown else one.label, one.vehicle)
        if is_unknown:
            return Reading(LEFT_OUT, why="no treatment is recorded for these cells")
        if kind == "genetic" and _ESCAPED.search(one.label):
            return Reading(LEFT_OUT, why="has a guide and is not perturbed, as mixscape writes it")
        if words.is_control and not self._is_gene(one.label, kind):
            return _control(words.kind, one.vehicle)
        if zero := one.zero or _zero_in(one.label):
            why = f"{one.label} at {zero} 0 is no treatment"
            return Reading(CONTROL, control=one.vehicle or f"{zero} 0", why=why)
        return None

    def _is_gene(self, label: str, kind: str) -> bool:
        """Whether CTRL is the gene: in a screen whose controls are guides against nothing."""
        return label == "CTRL" and kind == "genetic" and self.has_guides

    def _gene(self, one: Stated, kind: str, mode: Mode | None) -> Reading | None:
        """A change of genes: any label of a screen, elsewhere one that says what was done ("IL6-/-", "siTNF")."""
        if self._is_gene(one.label, kind):
            return Reading(TREATED, f"CTRL {mode or ASSUMED}", kind)
        found = read_genetic(one.label, declared=kind == "genetic", mode=mode if kind == "genetic" else None)
        if found is None or not found.name:
            return None
        return Reading(TREATED, found.name, "genetic", why="; ".join(found.notes))

    def _known(self, label: str, kind: str) -> Reading | None:
        """One known treatment of the stated type, alone or beside a time, a dose or a replicate ("LPS_24h_rep1")."""
        bare = split_key(label)[1]
        while (shorter := _ASIDE.sub("", bare)) != bare:
            bare = shorter
        for text in (label, bare):
            match = certain(self.resolvers.perturbation(text))
            known_type = self.resolvers.perturbation_type(match.id) if match else ""
            if match is not None and (
                not kind or not known_type or kind == known_type
            ):  # a knock-out of TNF is not TNF
                aside = label.partition(text)[2].strip(" _,;-")
                return Reading(TREATED, match.id, kind or known_type, why=f"{aside} is not used" if aside else "")
        return None

    def _combined(self, one: Stated, kind: str) -> Reading | None:
        """A label of several parts: parts that are controls say nothing of their own, the order does not matter."""
        parts = [self._part(part, kind) for part in _JOINS.split(one.label) if part]
        found = [part for part in parts if part.read_as == TREATED]
        has_control = len(found) < len(parts)
        if len(parts) < 2 or not found or not (has_control or any(part.is_known for part in found)):
            return None
        joined = _join(found, why="the other part of the label is a control" if has_control else "")
        return self._of_table(joined, kind)

    def _of_table(self, joined: Reading, kind: str) -> Reading:
        """A combination that a table knows; parts of different types make none, whatever the table calls it."""
        known = self._known(joined.name, kind) if joined.type else None
        return known or joined

    def _part(self, text: str, kind: str) -> Reading:
        if control_words(text, genetic=kind == "genetic").is_control:
            return Reading(CONTROL)
        return self._known(text, kind) or self._unknown(text, kind)

    def _in_solvent(self, one: Stated, words: ControlWords, kind: str) -> Reading | None:
        """A treatment in its solvent, as in "Dabrafenib (DMSO)"."""
        if words.kind not in SOLVENTS or not words.rest or not _SOLVED.search(one.label):
            return None
        known = self._known(words.rest, kind)
        return known and replace(known, why=f"treatment in {words.kind}")

    def _unknown(self, label: str, kind: str) -> Reading:
        found = self.resolvers.perturbation(label)
        near = [term.name for term in (found.match, *found.alternatives) if term is not None]
        nearest = tuple(dict.fromkeys(near))[:3]
        return Reading(TREATED, label, kind, nearest=nearest, is_known=kind == "genetic")


def _join(parts: list[Reading], *, why: str) -> Reading:
    """One treatment of several; its type is theirs, or not known where they differ."""
    types = {part.type for part in parts}
    name, its_type = JOIN.join(sorted({part.name for part in parts})), types.pop() if len(types) == 1 else ""
    return Reading(TREATED, name, its_type, why=why, is_known=all(part.is_known for part in parts))


def _control(said: str, vehicle: str) -> Reading:
    """A control of the kind that its label says, or of the vehicle beside a label that says no more than control."""
    return Reading(CONTROL, control=vehicle if vehicle and said in GENERAL else said)


def _zero_in(label: str) -> str:
    """The text dose or time where the label itself says that one of them is 0."""
    text = label.replace("_", " ")
    if _ZERO_DOSE.search(text) or is_zero(label):
        return "dose"
    return "time" if _ZERO_TIME.search(text) else ""


def stated_type(kind: str) -> tuple[str, Mode | None]:
    """The type of a perturbation that the file states, "" if none; of a genetic one also what was done, if stated."""
    text = re.sub(r"[\s_-]+", "", kind.casefold())
    if is_unassigned(kind) or control_words(kind).is_control:
        return "", None
    if text in _DRUGS:
        return "drug", None
    if text in _GENETIC:
        return "genetic", _GENETIC[text]
    if text not in PERTURBATION_TYPES:
        msg = (
            f"perturbation type {kind!r} is unknown; possible: {', '.join(PERTURBATION_TYPES)}, and for genetic also "
            f"CRISPR, {', '.join(MODE_SIGNS)}"
        )
        raise InvalidInputError(msg, type=kind)
    return text, None


def certain(found: Resolution | None) -> Match | None:
    """The match if it is certain: a fuzzy one would turn CD4 into CD8, or IL-17A into IL-17F."""
    if found is None or found.match is None or found.match.how == "fuzzy":
        return None
    return found.match
