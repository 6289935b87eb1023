"""Find the words of a question that name the cells and the treatment, known or not.

In: mentions and slots of the question. Out: one term for each role, with the unknown ones beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import perturbation_of, resolve
from haystack_kernel.planners.frames import CELL_LIKE
from haystack_kernel.planners.offline.opposed import look_up_opposite
from haystack_kernel.planners.opposites import is_measured, molecule_opposed, opposed_span
from haystack_kernel.schema import Match, Resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge, Mention
    from haystack_kernel.planners.frames import Slot, SlotKind

_N_NEAREST = 5
_APPOSED = re.compile(
    r"[\s,(]*(?:such\s+as|like|e\.?g\.?,?|i\.e\.,?|called|named|namely|an?|the)?[\s(]*", re.IGNORECASE
)
_ADJECTIVES = re.compile(  # of antibodies and of changed genes
    r"(?:\b(?:neutrali[sz]ing|blocking|monoclonal|polyclonal|humani[sz]ed|therapeutic|crispr(?:[-/ ]?cas9)?|transient|"
    r"stable|complete|s[ih]rna|rnai)(?:-(?:mediated|based))?\s+)+$",
    re.IGNORECASE,
)
_WITHHELD = re.compile(
    r"(?:not|no|without|minus|never|less|lower\w*|reduced|before|prior|until|lacking)\b", re.IGNORECASE
)
_CONTRAST = re.compile(r"(?:[,(]|\bbut|\band)\s*$", re.IGNORECASE)  # "IL-2, not IL-15" asks about IL-2
_BESIDE = 20  # characters between two treatments of one list
_GENETIC = re.compile(r"\b(?:knock-?outs?|knock-?downs?|crispr\w?|delet\w+|overexpress\w+|silenc\w+|mutant|ko)\b", re.I)


@dataclass(frozen=True)
class Term:
    """What fills one role of the question: a mention, a match found by spelling, or an unknown text."""

    resolution: Resolution | None = None
    span: tuple[int, int] = (0, 0)
    others: tuple[Resolution, ...] = ()  # further unknown terms standing in the same place
    describing: tuple[tuple[int, int], ...] = ()  # stretches that say of what kind a treatment is

    @property
    def match(self) -> Match | None:
        """The known term, if any."""
        return self.resolution.match if self.resolution else None


def choose_cells(mentions: Sequence[Mention], slots: Sequence[Slot], *, knowledge: Knowledge) -> Term:
    """Choose the cells asked about: the known term in the surest place.

    A place filled by unknown words that look like cells ("blorbocytes") beats a known term elsewhere.
    """
    return _choose("cell_type", mentions=mentions, slots=slots, knowledge=knowledge)


def choose_treatment(
    question: str, mentions: Sequence[Mention], slots: Sequence[Slot], *, knowledge: Knowledge
) -> Term:
    """Choose the treatment asked about; a blocked molecule is kept as an unknown treatment, never as the molecule."""
    meant = [mention for mention in mentions if is_meant(mention, question)]
    opposed, describing = _opposites(question, mentions, meant=meant)
    slots = [slot for slot in slots if not any(_overlap((slot.start, slot.end), span) for span in describing)]
    drug = _choose("perturbation", mentions=meant, slots=slots, knowledge=knowledge)
    for mention, span in opposed:
        words = question[slice(*span)].strip()
        term = Term(look_up_opposite(words, molecule=mention.text, knowledge=knowledge), span)
        drug = _beside_opposite(drug, mention, term)
    describing += _family_spans(drug, question, knowledge=knowledge)
    return replace(drug, describing=tuple(describing))


def _beside_opposite(drug: Term, opposed: Mention, term: Term) -> Term:
    """Return the treatment of a question that also names the opposite of a molecule, which is ``term``."""
    if drug.resolution is None or _overlap(term.span, drug.span):
        return replace(term, others=drug.others)
    is_other = drug.match is None or drug.match != opposed.resolution.match
    if term.resolution and not term.match and is_other:
        return replace(drug, others=(*drug.others, term.resolution))
    return drug


def _family_spans(drug: Term, question: str, *, knowledge: Knowledge) -> list[tuple[int, int]]:
    """Return where a question says of what kind its treatment is: "the JAK inhibitor X", "neutralising anti-TNF"."""
    entry = perturbation_of(drug.match.id, knowledge=knowledge) if drug.match else None
    if entry is None or drug.match is None:
        return []
    family = entry.family
    found = re.finditer(rf"\b{re.escape(family)}s?\b", question, re.IGNORECASE) if family else ()
    spans = [match.span() for match in found]
    if entry.type == "genetic" or entry.name.lower().startswith("anti-"):
        adjectives = _ADJECTIVES.search(question[: drug.span[0]])
        spans += [adjectives.span()] if adjectives else []
    return spans


def _opposites(
    question: str, mentions: Sequence[Mention], *, meant: Sequence[Mention]
) -> tuple[list[tuple[Mention, tuple[int, int]]], list[tuple[int, int]]]:
    """Return the molecules that are blocked or removed, and apart from them the stretches that describe a drug."""
    found = [(item, opposed_span(item, question)) for item in mentions if item.kind == "perturbation"]
    opposed = [
        (item, span) for item, span in found if span is not None and not _is_contrast(span, question, meant=meant)
    ]
    describing = [span for _, span in opposed if _describes(span, question, mentions=meant)]
    return [(item, span) for item, span in opposed if span not in describing], describing


def _is_contrast(span: tuple[int, int], question: str, *, meant: Sequence[Mention]) -> bool:
    """Whether a question only sets its treatment against another one: "IL-2, not IL-15"."""
    if not question[span[0] :].lower().startswith("not ") or not _CONTRAST.search(question[: span[0]]):
        return False
    return any(item.kind == "perturbation" and item.end <= span[0] for item in meant)


def is_meant(mention: Mention, question: str) -> bool:
    """Whether a known term is used as itself: neither blocked ("anti-TNF") nor only measured ("IL-6 secretion")."""
    if mention.resolution.match is None:
        return False
    if mention.kind != "perturbation":
        return True
    return not is_measured(mention, question) and opposed_span(mention, question) is None


# --- choosing -----------------------------------------------------------------------------------------------------


def _choose(kind: SlotKind, *, mentions: Sequence[Mention], slots: Sequence[Slot], knowledge: Knowledge) -> Term:
    known = [mention for mention in mentions if mention.kind == kind and mention.resolution.match]
    chosen, others = _fill(kind, slots=slots, known=known, mentions=mentions, knowledge=knowledge)
    if chosen is None:
        return _known(known[0]) if known else Term()
    if kind == "perturbation" and chosen.match is None:
        # In "frobnicatol and IFN-beta" the known treatment is enough to go on.
        beside = _first_beside(chosen, known)
        if beside is not None:
            others, chosen = [chosen, *others], beside
    listed = [other.resolution for other in others if other.resolution and _is_beside(other, chosen)]
    return replace(chosen, others=tuple(listed))


def _first_beside(term: Term, known: Sequence[Mention]) -> Term | None:
    return next((item for item in map(_known, known) if _is_beside(item, term)), None)


def _fill(
    kind: SlotKind,
    *,
    slots: Sequence[Slot],
    known: Sequence[Mention],
    mentions: Sequence[Mention],
    knowledge: Knowledge,
) -> tuple[Term | None, list[Term]]:
    """Return the term of the surest slot that has one, and the unknown terms of later slots."""
    chosen: Term | None = None
    others: list[Term] = []
    for slot in slots:
        if slot.kind != kind:
            continue
        inside = next((item for item in known if _is_in(item, slot)), None)
        if inside is not None:
            chosen = chosen or _known(inside)
        elif _may_hold(slot, mentions=mentions, is_known=bool(known or chosen)):
            term = _look_up(slot, mentions=mentions, knowledge=knowledge)
            if chosen is None:
                chosen = term
            elif term.match is None:
                others.append(term)
    return chosen, others


def _known(mention: Mention) -> Term:
    return Term(mention.resolution, (mention.start, mention.end))


def _may_hold(slot: Slot, *, mentions: Sequence[Mention], is_known: bool) -> bool:
    """Whether the unknown words of a slot can be meant as its kind of term."""
    other = {item.kind for item in mentions if _is_in(item, slot)}
    if slot.kind == "perturbation":
        return not (is_known and other)
    return CELL_LIKE.search(slot.text) is not None or not (is_known or other - {"tissue"})


def _is_beside(left: Term, right: Term) -> bool:
    """Whether two terms stand in one list, as "A and B" does."""
    gap = max(left.span[0], right.span[0]) - min(left.span[1], right.span[1])
    return 0 <= gap <= _BESIDE


def _is_in(mention: Mention, slot: Slot) -> bool:
    return mention.start < slot.end and mention.end > slot.start


def _look_up(slot: Slot, *, mentions: Sequence[Mention], knowledge: Knowledge) -> Term:
    """Return the known term whose spelling is close to a slot, or else its words with the closest known terms."""
    span = (slot.start, slot.end)
    found = resolve(slot.text, kind=slot.kind, knowledge=knowledge)
    opposite = _opposite_in(slot, found, knowledge=knowledge)
    if opposite is not None:
        return Term(opposite, span)
    other = next((item for item in mentions if _is_in(item, slot)), None)
    # Nothing is guessed by spelling where another term fills the slot, or where it names a gene that is changed.
    is_filled = other is not None and other.end - other.start >= len(slot.text) - 2
    may_be_guessed = not is_filled and _GENETIC.search(slot.text) is None
    if found.match and (found.match.how != "fuzzy" or may_be_guessed):
        return Term(found, span)
    alternatives = _alternatives(found, other=other, knowledge=knowledge)
    return Term(Resolution(text=slot.text, kind=slot.kind, alternatives=alternatives), span)


def _opposite_in(slot: Slot, found: Resolution, *, knowledge: Knowledge) -> Resolution | None:
    """Return the opposite of a molecule that a slot names; None where it names none, or where its words are a term."""
    molecule = molecule_opposed(slot.text) if slot.kind == "perturbation" else None
    if molecule is None or (found.match and found.match.how != "fuzzy"):
        return None
    opposite = look_up_opposite(slot.text, molecule=molecule, knowledge=knowledge)
    return opposite if opposite.match or not found.match else None


def _alternatives(found: Resolution, *, other: Mention | None, knowledge: Knowledge) -> tuple[Match, ...]:
    """Return the closest known terms; for unknown cells of a known tissue the cells that live there."""
    nearest = [*([found.match] if found.match else []), *found.alternatives]
    tissue = other.resolution.match if other and other.kind == "tissue" else None
    if found.kind == "cell_type" and tissue is not None:
        living = [entry for entry in knowledge.cell_types.values() if tissue.id in entry.tissues]
        cells = [Match(id=entry.id, name=entry.name, score=0, how="fuzzy") for entry in living[:_N_NEAREST]]
        nearest = cells or nearest
    return tuple(dict.fromkeys(nearest))[:_N_NEAREST]


def _describes(span: tuple[int, int], text: str, *, mentions: Sequence[Mention]) -> bool:
    """Whether the opposite of a molecule only describes a treatment that is named beside it: "the IL-6 blocker X"."""
    if _WITHHELD.match(text[span[0] :]):  # "IL-2 without IL-15" does not say of what kind IL-2 is
        return False
    named = [item for item in mentions if item.kind == "perturbation"]
    gaps = [text[span[1] : item.start] for item in named if item.start >= span[1]]
    gaps += [text[item.end : span[0]] for item in named if item.end <= span[0]]
    return any(map(_APPOSED.fullmatch, gaps))


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])
