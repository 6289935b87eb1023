"""Read a reverse question by rule: "Which cytokine moves B cells toward IFN-beta-treated monocytes?".

In: the question and the knowledge tables. Out: a ``SeekQuery``; words that nothing was made from are listed in it.

The target, first rule that holds:

1. it was given apart from the question (cells or a gene set): its words only name it;
2. the name of a pathway of the tables: its genes;
3. three or more genes with a direction: "high ISG15 and MX1, low CXCL8", "ISG15+ MX1+ CXCL8-";
4. a treatment: the state of cells under it; of the cells that are to be moved unless others are named;
5. a word for untreated cells, where the cells to be moved are under a treatment: their state without it;
6. a cell type: its untreated cells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import resolve
from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.planners.check import clean_text
from haystack_kernel.planners.context import find_terms
from haystack_kernel.planners.offline.terms import is_meant
from haystack_kernel.planners.unused import unused_phrases
from haystack_kernel.schema import Match, SeekQuery

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge, Mention
    from haystack_kernel.schema import TermKind, TreatmentKind

    Span = tuple[int, int]

EXAMPLE = "Which cytokine moves B cells toward IFN-beta-treated monocytes?"
MIN_GENES = 3  # of a target that is named gene by gene
_VERB = (
    r"(?:move|shift|push|drive|bring|turn|convert|change|revert|restore|return|reprogram(?:me)?|polari[sz]e|steer|nudge|"
    r"differentiate|transform|guide|make|pull|switch|normali[sz]e|take|get|lead|force|skew|send)"
)
_FRAME = re.compile(
    rf"^(?P<lead>.*?)\b(?:which|what)\s+(?P<sought>[^?]*?)\b(?P<verb>{_VERB})(?:s|es)?\s+(?P<cells>[^?]+?)\s+"
    r"(?P<way>(?:(?:most|closest|closer|nearer|further|back|more)\s+)*(?:towards?|away\s+from|into|to|like)"
    r"|(?:look|be|become|appear)\s+(?:more\s+)?like|resemble)\s+(?P<target>[^?]+?)\s*[?.!]*$",
    re.IGNORECASE,
)
_EFFECT_FRAME = re.compile(
    r"^(?P<lead>.*?)\b(?:which|what)\s+(?P<sought>[^?]*?)\b(?P<verb>(?P<away>revers|undo|counteract|oppos|cancel|block|"
    r"antagoni[sz]|prevent|suppress|dampen|inhibit)\w*|mimic\w*|phenocop\w+|imitat\w+|reproduc\w+|resembl\w+|recapitulat\w+)"
    r"\s+(?P<way>(?:the\s+)?(?:effects?|responses?|action|state)\s+(?:of|to)\s+)?(?P<target>[^?]+?)\s+(?:in|on|of)\s+"
    r"(?P<cells>[^?]+?)\s*[?.!]*$",
    re.IGNORECASE,
)
_TREATED = re.compile(r"treated|stimulated|exposed|\bunder\b|responses?\s+to|effects?\s+of", re.IGNORECASE)
_AWAY = re.compile(r"\baway\b|\bless\s+like\b", re.IGNORECASE)
_KINDS: dict[TreatmentKind, re.Pattern[str]] = {
    "cytokine": re.compile(r"\b(?:cytokines?|chemokines?|ligands?|growth\s+factors?|interleukins?)\b", re.IGNORECASE),
    "drug": re.compile(r"\b(?:drugs?|compounds?|inhibitors?|small\s+molecules?|molecules?)\b", re.IGNORECASE),
    "genetic": re.compile(
        r"\b(?:knock-?\s?outs?|knock-?\s?downs?|kos?|genes?|crispri?|guides?|deletions?|genetic\s+perturbations?)\b",
        re.IGNORECASE,
    ),
}
_ANY = re.compile(
    r"\b(?:treatments?|perturbations?|stimul(?:us|i)|agents?|conditions?|interventions?|thing|one|best|most|use|used)\b",
    re.IGNORECASE,
)
_UNTREATED = re.compile(
    r"\b(?:untreated|unstimulated|unperturbed|resting|controls?|baseline|normal|quiescent)\b", re.IGNORECASE
)
_DRESS = re.compile(
    r"^(?:the|an?|their|its)\s+|\b(?:state|states|signature|pathway|programme|program|activity|gene\s+set|profile)\s*$",
    re.IGNORECASE,
)
_UP = r"high|higher|more|increased|elevated|up|upregulated|up-regulated|induced|raised|positive|expressing|express"
_DOWN = r"low|lower|less|decreased|reduced|down|downregulated|down-regulated|repressed|lost|negative|no|without"
_TOKEN = re.compile(
    r"(?P<before>[+\-\u2212\u2191\u2193])?(?P<word>[A-Za-z][\w.\-]*\w|[A-Za-z])(?P<after>[+\-\u2212\u2191\u2193](?!\w))?"
)
_SIGNS = {"+": 1, "\u2191": 1, "-": -1, "\u2212": -1, "\u2193": -1}


@dataclass
class _Target:
    """What the words of a target were read as, and the stretches of these words that this used."""

    fields: dict[str, Any] = field(default_factory=dict)
    used: list[Span] = field(default_factory=list)


def parse_seek(question: str, *, knowledge: Knowledge, is_given: bool = False) -> SeekQuery:
    """Read which treatment is sought, for which cells, toward which state.

    Parameters
    ----------
    question
        The user's text.
    knowledge
        The tables that terms are looked up in, with the names that the atlases hold.
    is_given
        Whether the target state was given apart from the question, so that its words only name it.

    Returns
    -------
    The query; ``unused`` lists the content words that nothing was made from.

    Raises
    ------
    InvalidInputError
        It is no question for a treatment, or cells or target are not known; the message says what is possible.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> query = parse_seek(EXAMPLE, knowledge=load_knowledge())
    >>> query.perturbation, query.kinds
    ('IFN-beta', ('cytokine',))
    """
    text = clean_text(question)
    frame, is_away = _frame(text)
    mentions = find_terms(text, knowledge=knowledge)
    cells, start = _cells(frame, mentions, knowledge=knowledge)
    if is_given:
        target = _Target({"target_kind": "given"}, [frame.span("target")])
    else:
        inside = [one for one in mentions if frame.start("target") <= one.start < frame.end("target")]
        target = _read_target(frame, mentions=inside, is_treated=bool(start), knowledge=knowledge)
    used = [cells.span, *start.values(), *target.used, frame.span("verb"), frame.span("way")]
    sought = frame["sought"]
    for pattern in (*_KINDS.values(), _ANY):
        used += [(frame.start("sought") + a, frame.start("sought") + b) for a, b in _spans(pattern, sought)]
    terms = [(one.start, one.end) for one in mentions]
    additive = "effects of treatments were measured and are predicted in untreated cells, and are taken to add up"
    return SeekQuery(
        question=text,
        cell_type=cells.name,
        cell_type_id=cells.id,
        start=next(iter(start), ""),
        sign=-1 if is_away else 1,
        kinds=tuple(kind for kind, pattern in _KINDS.items() if pattern.search(sought)),
        unused=unused_phrases(text, used=used, terms=terms, cells=cells.span, names_people=False),
        notes=(additive,) if start else (),
        **{"target": frame["target"].strip(), **target.fields},
    )


def _frame(text: str) -> tuple[re.Match[str], bool]:
    """The parts of a question for a treatment, and whether it leads away from its target."""
    if (frame := _FRAME.search(text)) is not None:
        return frame, _AWAY.search(frame["way"]) is not None
    if (frame := _EFFECT_FRAME.search(text)) is not None:
        return frame, bool(frame["away"])
    msg = (
        f"{text!r} is not read as a question for a treatment, which names cells and where they are to be moved. Ask "
        f"for example: {EXAMPLE}"
    )
    raise InvalidInputError(msg, question=text)


@dataclass(frozen=True)
class _Cells:
    name: str
    id: str
    span: Span


def _named(kind: TermKind, mentions: list[Mention]) -> list[tuple[Match, Span]]:
    """Terms of one kind with the stretches that name them."""
    found = [(one.resolution.match, (one.start, one.end)) for one in mentions if one.kind == kind]
    return [(match, span) for match, span in found if match is not None]


def _cl_id(match: Match) -> str:
    """Id in an ontology; empty for a label that only an atlas has."""
    return match.id if ":" in match.id or match.id.startswith("CVCL_") else ""


def _cells(frame: re.Match[str], mentions: list[Mention], *, knowledge: Knowledge) -> tuple[_Cells, dict[str, Span]]:
    """The cells that are to be moved, and the treatment that they are under, with the stretches that name them."""
    low, high = frame.span("cells")
    inside = [one for one in mentions if low <= one.start and one.end <= high and is_meant(one, frame.string)]
    start = {match.id: span for match, span in _named("perturbation", inside)}
    for match, span in _named("cell_type", inside):
        return _Cells(match.name, _cl_id(match), span), start
    raise _unknown(frame["cells"].strip(), kind="cell_type", noun="cell type", knowledge=knowledge)


def _read_target(frame: re.Match[str], *, mentions: list[Mention], is_treated: bool, knowledge: Knowledge) -> _Target:
    """Meaning of the words of a target."""
    text, at = frame["target"], frame.start("target")
    if (found := _pathway(text, knowledge=knowledge)) is not None:
        name, members = found
        return _Target({"target_kind": "set", "genes": members, "target": name}, [(at, at + len(text))])
    treatments, types = _named("perturbation", mentions)[:1], _named("cell_type", mentions)[:1]
    of_type: dict[str, str] = {}
    for match, _ in types:
        of_type = {"target_cell_type": match.name, "target_cell_type_id": _cl_id(match)}
    used = [span for _, span in (*treatments, *types)]
    genes, spans = _genes(text)
    if len(genes) >= MIN_GENES and not _TREATED.search(text):  # CXCL8 is a gene and, as IL-8, a treatment
        return _Target({"target_kind": "genes", "genes": genes}, [(at + a, at + b) for a, b in spans])
    for match, _ in treatments:
        return _Target({"target_kind": "condition", "perturbation": match.id, **of_type}, used)
    if is_treated and (untreated := _UNTREATED.search(text)):
        return _Target({"target_kind": "untreated"}, [*used, (at + untreated.start(), at + untreated.end())])
    if types:
        return _Target({"target_kind": "cells", **of_type}, used)
    raise _unknown_target(text, genes=genes, knowledge=knowledge)


def _pathway(text: str, *, knowledge: Knowledge) -> tuple[str, dict[str, int]] | None:
    """Name and genes of the pathway that a text is the name of, whatever its capitals and hyphens."""
    asked = {_plain(text), _plain(_DRESS.sub("", _DRESS.sub("", text)))} - {""}
    for one in knowledge.pathways.values():
        if not asked.isdisjoint({_plain(name) for name in (one.name, *one.synonyms)}):
            return one.name, dict(one.genes)
    return None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.casefold()))


def _genes(text: str) -> tuple[dict[str, int], list[Span]]:
    """Genes of a text with their direction, and the stretches that say so.

    A sign or a word right behind a gene ("CXCL8-", "ISG15 up") counts before a word in front of it ("low CXCL8 and
    IL6"), which holds until the next one.
    """
    tokens = list(_TOKEN.finditer(text))
    found: dict[str, int] = {}
    spans: list[Span] = []
    sign = 1
    for place, token in enumerate(tokens):
        if direction := _direction(token["word"]):
            sign = direction
            spans.append(token.span())
        elif symbol := _symbol(token["word"]):
            found[symbol] = _own_sign(text, tokens, place) or sign
            spans.append(token.span())
    return found, spans


def _symbol(word: str) -> str | None:
    """Symbol of a gene written as one: English words are names of genes, too ("was", "rest", "impact")."""
    is_written_so = any(map(str.isdigit, word)) or (word.isupper() and len(word) > 1)
    return load_genes().find(word).symbol if is_written_so else None


def _own_sign(text: str, tokens: list[re.Match[str]], place: int) -> int:
    """Direction of the mark at a gene, or of the word right behind it; 0 where there is none."""
    token, behind = tokens[place], tokens[place + 1 : place + 2]
    if mark := token["after"] or token["before"]:
        return _SIGNS[mark]
    for word in behind:
        is_next = not text[token.end() : word.start()].strip(" ")
        is_last = re.match(r"\s*[,;]|\s+and\b|\s*$", text[word.end() :]) is not None
        if is_next and is_last:  # "ISG15 low CXCL8": the word belongs to what follows
            return _direction(word["word"])
    return 0


def _direction(word: str) -> int:
    if re.fullmatch(_UP, word, re.IGNORECASE):
        return 1
    return -1 if re.fullmatch(_DOWN, word, re.IGNORECASE) else 0


def _spans(pattern: re.Pattern[str], text: str) -> list[Span]:
    return [found.span() for found in pattern.finditer(text)]


def _unknown(words: str, *, kind: TermKind, noun: str, knowledge: Knowledge) -> InvalidInputError:
    near = [one.name for one in resolve(words, kind=kind, knowledge=knowledge).alternatives][:3]
    hint = f"; near are {', '.join(near)}" if near else ""
    msg = f"{words!r} is no known {noun}{hint}. Name the cells that are to be moved, as in: {EXAMPLE}"
    return InvalidInputError(msg, text=words)


def _unknown_target(text: str, *, genes: dict[str, int], knowledge: Knowledge) -> InvalidInputError:
    """What a target may be, with the nearest names that there are."""
    names = list(knowledge.pathways)
    near = get_close_matches(text, names, n=3, cutoff=0.4)
    hint = f" Pathways of a similar name: {', '.join(near)}." if near else ""
    few = f" It names {len(genes)} genes ({', '.join(genes)}), and {MIN_GENES} are needed." if genes else ""
    msg = (
        f"{text!r} is not understood as a target state.{few}{hint} Name cells under a treatment (IFN-beta-treated "
        "monocytes), a cell type, a pathway, or genes with a direction (ISG15+ MX1+ CXCL8-); or give the state as a "
        "file of cells or of a gene set"
    )
    return InvalidInputError(msg, target=text)
