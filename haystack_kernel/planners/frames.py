"""Find the places of a question where a cell type or a treatment must stand, whatever words fill them.

In: the question. Out: slots, spans of the text with the kind of term they should hold, surest first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SlotKind = Literal["cell_type", "perturbation"]

CELL_LIKE = re.compile(
    r"(?:cells?|cytes?|blasts?|phages?|phils?|clasts?|neurons?|glia|cyte\s+progenitors?)$", re.IGNORECASE
)


@dataclass(frozen=True)
class Slot:
    """A place of the text; ``start``:``end`` spans it without lead-in words and trailing clauses."""

    kind: SlotKind
    text: str
    start: int
    end: int


_VERB = r"(?:would|will|do|does|did|might|could|can|should|may)"
_CELL = r"(?P<cell_type>[^?;!]{1,120}?)"
_CELL_END = r"(?P<cell_type>[^?;!]{1,120})"
_DRUG = r"(?P<perturbation>[^?;!]{1,120}?)"
_DRUG_END = r"(?P<perturbation>[^?;!]{1,120})"
_TREATED = r"(?:treated|stimulated|exposed|cultured|incubated|challenged|primed|perturbed|activated|polari[sz]ed|dosed)"
_CHANGE = r"(?:respond|react|change|adapt|behave|be\s+affected|be\s+altered|be\s+changed|shift)"
_RESPONSE = r"(?:responses?|reactions?|effects?|signatures?|programmes?|programs?|stimulation|treatment)"
_MOVE = r"(?:transfer|translate|project|port|carry(?:\s+over)?|apply|map)"
_MISSING = r"(?:project|transfer|impute|reconstruct|fill\s+in|generate|synthesi[sz]e|predict|simulate|model)"

# surest first: the first frame that yields a term decides
_FRAMES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        (
            rf"\b{_MOVE}\s+(?:the\s+)?(?:(?:responses?|effects?)\s+(?:to|of)\s+{_DRUG}\s+(?:measured|seen|from|in|of)\b"
            rf"[^?;!]{{0,120}}?)\s(?:on)?to\s+{_CELL_END}"
        ),
        (rf"\b{_MOVE}\s+(?:the\s+)?{_DRUG}\s+{_RESPONSE}\s+(?:[^?;!]{{0,120}}?\s)?(?:on)?to\s+{_CELL_END}"),
        (
            rf"\b{_VERB}\s+{_CELL}\s+{_CHANGE}\s+(?:in\s+response\s+)?"
            rf"(?:to|with|under|upon|following|after|on|by|against|(?:when|if|once)\s+(?:they\s+are\s+)?{_TREATED}\s+"
            rf"(?:with|to|by|in))\s+{_DRUG_END}"
        ),
        rf"\b(?:effects?|impact|influence|action|consequences?)\s+of\s+{_DRUG}\s+(?:on|in|upon)\s+{_CELL_END}",
        rf"\b(?:responses?|reactions?|sensitivity)\s+of\s+{_CELL}\s+to\s+{_DRUG_END}",
        rf"\b(?:responses?|reactions?)\s+to\s+{_DRUG}\s+(?:in|of|by|from|for|among)\s+{_CELL_END}",
        rf"\b(?:what|how\s+much)\s+{_VERB}\s+{_DRUG}\s+do\s+(?:to|in)\s+{_CELL_END}",
        rf"\b(?:add|give|administer|adding|giving|administering|applying|apply)\s+{_DRUG}\s+to\s+{_CELL_END}",
        (
            rf"\b(?:treat|stimulate|expose|perturb|challenge|treating|stimulating|exposing)\s+{_CELL}\s+(?:with|to|by)\s+"
            rf"{_DRUG_END}"
        ),
        (
            rf"\bhappens?\s+(?:to|in)\s+{_CELL}\s+(?:(?:that\s+are\s+|when\s+|if\s+|once\s+)?(?:they\s+are\s+)?{_TREATED}\s+"
            rf"(?:with|to|by|in)|under|after|upon|with|on|following)\s+{_DRUG_END}"
        ),
        (
            rf"\b{_MISSING}\s+(?:the\s+)?(?:responses?\s+of\s+)?{_CELL}\s+(?:{_TREATED}|responding)\s+(?:with|to|by|in)\s+"
            rf"{_DRUG_END}"
        ),
        (
            rf"\b{_VERB}\s+{_DRUG}\s+(?:affect|change|alter|influence|modulate|impact|perturb|activate|reprogram|act\s+on|"
            rf"work\s+on)\s+(?!(?:in|under|with|to|after|on|upon|by|when|if)\b){_CELL_END}"
        ),
        (
            rf"\b{_VERB}\s+{_DRUG}\s+(?:induce|upregulate|downregulate|repress|suppress|regulate|trigger|elicit|cause|"
            rf"work|act|switch\s+on|turn\s+on)\s+(?:[^?;!]{{0,60}}?\s)?(?:in|on)\s+{_CELL_END}"
        ),
        rf"\b{_TREATED}\s+(?:with|to|by)\s+{_DRUG_END}",
        rf"\b(?P<perturbation>[\w\-.]+)[-\s]{_TREATED}\s+(?!(?:with|by|to|in|on|for)\b){_CELL_END}",
        (
            r"\b(?:the|an?)\s+(?P<perturbation>[\w\-.]+(?:\s+[\w\-.]+)?)\s+(?:responses?|effects?|treatment|stimulation)\s+"
            rf"(?:in|of|on)\s+{_CELL_END}"
        ),
        rf"\b{_VERB}\s+{_CELL}\s+(?:look|express|appear|be\s+like|differ|resemble)\b",
        (
            rf"\b{_MISSING}\s+(?:the\s+)?(?!expression|profile|gene\b|transcriptome)"
            rf"{_CELL}\s+(?:for|in|of|from|as|that|which)\b"
        ),
        (
            r"\b(?:expression|profile|transcriptome)\s+of\s+"
            rf"(?:(?:the\s+)?(?:donor|patient|individual|subject|sample)\s+[\w:.-]+?'s\s+)?{_CELL_END}"
        ),
        rf"\bexpression\s+(?:in|for)\s+{_CELL_END}",
        rf"(?:donor|patient|individual|subject|sample)\s+[\w:.-]+?'s\s+{_CELL_END}",
        rf"\blook(?:s)?\s+like\s+in\s+{_CELL_END}",
    )
)

_LEAD = re.compile(
    r"^(?:(?:the|an?|any|some|all|this|that|these|those|my|our|their|its|your|single|human|more|cytokine|drug|compound|"
    r"new|unknown|further|additional|primary|cultured|purified|isolated|missing|absent|unmeasured|unobserved)\s+|"
    r"(?:treatment|stimulation|exposure|incubation|addition|administration|activation|challenge|presence|use|"
    r"application|responses?|effects?|reactions?|expression|profile|profiles|transcriptomes?|gene\s+expression)\s+"
    r"(?:with|by|to|of|in|for)\s+|(?:being\s+)?(?:treated|stimulated|exposed)\s+(?:with|to|by)\s+|"
    r"(?:donor|patient|individual|subject|sample)\s+\S*\d\S*?(?:'s)?\s+)+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s*(?:[,;?!(]|\.(?:\s|$)|\s(?:in|on|from|for|at|compared|relative|versus|vs|after|before|when|while|during|than|as|"
    r"like|measured|seen|observed|using|given|instead|rather|but|within|across|over|if|that|which|who|where|look|be|"
    r"respond|react|change|treated|stimulated|exposed|response|responses|treatment|stimulation|effect|effects)\b)",
    re.IGNORECASE,
)
_TAIL_OF_CELLS = re.compile(r"\s(?:of|with|under|upon|to|and|or|by)\b", re.IGNORECASE)
_JOIN = re.compile(
    r"\s+(?:and|plus|or|together\s+with|combined\s+with|in\s+combination\s+with|followed\s+by)\s+|\s+[+/&]\s+|,\s+",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"^(?:but\s+)?not\s|\b(?:what|which|how|why|me|you|we|tell|show|see|then|is|are|was|were)\b", re.IGNORECASE
)
_EMPTY = frozenset(
    re.findall(
        r"\S+",
        "cell cells they them it its these those this that patients patient donors donor people human humans gene "
        "genes expression transcriptome transcriptomes profile profiles treatment treatments stimulation drug "
        "drugs cytokine cytokines compound perturbation agent stimulus response responses effect effects different "
        "various other same what when would do does will once transcriptional immune cellular overall expected "
        "strongest corresponding matching which things sample samples type types be therapy exposure activation "
        "antibody antibodies inhibitor inhibitors blocker blockers antagonist antagonists "
        "not conditions we you i one there others individual individuals subject subjects he she so each tissue "
        "tissues organ levels changes baseline the a an of in and to dataset study atlas cohort",
    )
)


def find_slots(question: str) -> list[Slot]:
    """Return the places that a cell type or a treatment should fill.

    Parameters
    ----------
    question
        Cleaned text.

    Returns
    -------
    Slots, the surest frame first; places filled by a pronoun or a general word ("cells", "treatment") are left out.
    A place with several treatments gives one slot for each; words that a surer frame took are not taken again.
    """
    slots: dict[tuple[str, int, int], Slot] = {}
    for frame in _FRAMES:
        for found in frame.finditer(question):
            for kind in ("cell_type", "perturbation"):
                if kind not in frame.groupindex or not found.group(kind):
                    continue
                for slot in _trimmed(question, kind=kind, span=found.span(kind)):
                    others = (old for old in slots.values() if old.kind != kind)
                    if all(old.end <= slot.start or old.start >= slot.end for old in others):
                        slots.setdefault((slot.kind, slot.start, slot.end), slot)
    return list(slots.values())


def _trimmed(question: str, *, kind: SlotKind, span: tuple[int, int]) -> list[Slot]:
    """Cut lead-in and trailing words off a place; several treatments become several slots."""
    start, end = span
    lead = _LEAD.match(question[start:end])
    start += lead.end() if lead else len(question[start:end]) - len(question[start:end].lstrip())
    parts = []
    if kind == "perturbation":
        text = question[start:end]
        tail = _TAIL.search(re.sub(r",\s", "  ", text))  # a comma may join two treatments; any other tail ends them
        text = text[: tail.start()] if tail else text
        begin = start
        for join in _JOIN.finditer(text):
            parts.append((begin, start + join.start()))
            begin = start + join.end()
        parts.append((begin, start + len(text)))
    else:
        tail = _TAIL_OF_CELLS.search(question[start:end])
        parts.append((start, start + tail.start() if tail else end))
    slots = []
    for first, last in parts:
        tail = _TAIL.search(question[first:last])
        last = first + tail.start() if tail else last
        text = question[first:last].rstrip(" .,'\"")
        if _CLAUSE.search(text):
            continue
        if not all(word in _EMPTY for word in re.findall(r"[\w\-]+", text.lower())) and len(text.split()) <= 8:
            slots.append(Slot(kind, text, first, first + len(text)))
    return slots
