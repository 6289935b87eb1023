"""Find donors, datasets, conditions and the reference asked for: everything around cell type and treatment.

In: the question and the mentions found in it. Out: donors and datasets with their role, and conditions as written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from haystack_kernel.knowledge import find_mentions
from haystack_kernel.planners.frames import CELL_LIKE

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from haystack_kernel.knowledge import Knowledge, Mention

_ANY_CELL = "CL:0000000"
Role = Literal["target", "reference", "open"]


@dataclass(frozen=True)
class Named:
    """A donor or a dataset as written, and whether it is predicted for (target) or learned from (reference)."""

    text: str
    start: int
    end: int
    role: Role = "open"


@dataclass(frozen=True)
class Comparison:
    """A stretch that compares, up to the untreated cells it compares with or to the end of its clause."""

    start: int
    end: int
    is_with_untreated: bool
    conditions: tuple[str, ...] = ()  # doses or times that it sets against each other


_PERSON = r"(?:donor|patient|individual|subject|sample|participant|volunteer|person)"
_DONOR = re.compile(
    rf"\b{_PERSON}s?(?:\s+(?:id|no\.?|number|called|named))?\s*[:#]?\s*[\"']?(?P<name>[A-Za-z0-9][\w:.-]*)"
    r"(?!\s*(?:years?|%|ng\b|h\b|hours?\b|days?\b))",
    re.IGNORECASE,
)
_PREFIXED_DONOR = re.compile(r"(?<![\w:])(?!(?:CL|UBERON|MONDO|PATO):)(?P<name>[A-Za-z][\w-]*:[\w.-]*\w)(?![\w:])")
_OTHER_DONOR = re.compile(
    rf"\b(?:new|novel|unseen|another|other|different|untested|held-out|unmeasured)\s+{_PERSON}s?\b", re.IGNORECASE
)
_REFERENCE = re.compile(
    r"\b(?:as|as\s+in|(?<!look\s)(?<!looks\s)like(?:\s+in)?|measured\s+in|observed\s+in|seen\s+in|recorded\s+in|known\s+from|learned\s+from|"
    r"based\s+on|using|given|from)\s+(?:the\s+)?(?:reference\s+)?$|\breference\s+(?:is\s+)?$",
    re.IGNORECASE,
)
_DONOR_REFERENCE = re.compile(
    r"\b(?:as|as\s+in|(?<!look\s)(?<!looks\s)like(?:\s+in)?|(?:measured|observed|seen|recorded)\s+in|(?:known|learned)\s+from|based\s+on|"
    r"using)\s+(?:the\s+)?(?:reference\s+)?$|\breference\s+$|"
    r"\b(?:given|(?:response|effect|data)\s+(?:from|of))\s+(?:the\s+(?:expression|data|profiles?|cells)\s+(?:of|from)\s+)?$",
    re.IGNORECASE,
)
_TARGET = re.compile(r"\b(?:to|onto|into|of|for)\s+(?:the\s+)?(?:target\s+)?$", re.IGNORECASE)
_SET = r"(?:data\s?sets?|study|atlas|cohort|collection)"
_NAME = r"[A-Za-z0-9][\w.-]*"
_BEFORE_SET = re.compile(rf"\b(?P<name>(?:[A-Z]\w*\s+){{0,3}}{_NAME})\s+{_SET}\b")
_AFTER_SET = re.compile(rf"\b(?i:{_SET})\s+(?i:called\s+|named\s+)?[\"']?(?P<name>[A-Z]\w*(?:\s+[A-Z]\w*)+|{_NAME})")
_BARE_SET = re.compile(
    rf"\b(?i:measured\s+in|seen\s+in|observed\s+in|recorded\s+in|from|in|of|onto|into|to)\s+(?:the\s+)?"
    rf"(?P<name>(?:[A-Z]\w*\s+){{1,3}}[A-Z0-9]\w*|{_NAME})"
)
_CUED_SET = re.compile(
    rf"\b(?i:based\s+on|(?:measured|seen|observed|recorded)\s+in|learned\s+from|as\s+in|corresponding\s+cells\s+(?:in|of))"
    rf"\s+(?:the\s+)?(?P<name>{_NAME})"
)
_MOVES = re.compile(r"\b(?:transfer|translate|project|port|carry|carried|cross[- ]dataset|across\s+datasets)", re.I)
_GENERATES = re.compile(r"\b(?:generate|synthesi[sz]e|apply|map|harmoni[sz]e|integrate|convert|simulate)\b", re.I)
_SET_WORD = re.compile(rf"(?:\b{_SET}\s+(?:called\s+|named\s+)?)$", re.IGNORECASE)
_WORD_FOLLOWS = re.compile(r"\s+(?!(?:to|onto|in|from|for|of|as)\b)\w")
_NO_NAME = frozenset(
    re.findall(
        r"\S+",
        "the this that a an our my your their its another other new reference target query same single public each "
        "which of to in from as and with for on or is was are were has have by at into onto what how would will "
        "respond cell cells single-cell scrna-seq rna human vitro vivo silico culture vehicle response responses "
        "effect it them they where when look like treated untreated measured seen observed both two one first "
        "second source transfer generate predict dataset datasets study atlas cohort donor donors patient patients "
        "sample samples healthy blood using whole large small full entire external independent different based "
        "called named respond react generated with without",
    )
)
_DOSE = re.compile(r"\b\d+(?:\.\d+)?\s*(?:ng|[uµμ]g|pg|mg|nM|[uµμ]M|mM|IU|U)(?:\s?/\s?m[lL])?(?![\w])")
_TIME = re.compile(r"\b\d+(?:\.\d+)?[\s-]*(?:h|hr|hrs|hours?|min|minutes?|days?|d)\b", re.IGNORECASE)
_ZERO = re.compile(r"0+(?:\.0+)?(?![\d.])")
_STATE = re.compile(
    r"\b(?:healthy|diseased|inflamed|hypoxi[ac]|fibrotic|aged|elderly|resting|normoxi[ac]|serum[- ]starved)\b", re.I
)
_QUERY_CONTROL = re.compile(
    r"\b(?:compar\w+|relative|versus|vs\.?|against|difference)\s+(?:with\s+|to\s+|from\s+)?(?:the\s+|their\s+)?"
    r"(?:\w+\s+)?(?:query|original|starting|input|same|own)\s+(?:\w+\s+)?(?:cells?|state)\b|"
    r"\bquery(?:[ _]cells)?[ _]as[ _](?:the[ _])?control",
    re.IGNORECASE,
)
_COMPARING = re.compile(
    r"\b(?:compar(?:e|es|ed|ing|ison)|versus|vs\.?|relative\s+to|in\s+contrast\s+to|as\s+opposed\s+to|"
    r"differ(?:s|ed|ing|ence|ences)?\s+(?:\w+\s+){0,6}?(?:from|between)|different(?:ly)?\s+(?:from|to|than)|"
    r"(?<!rather\s)(?<!other\s)than)\b(?P<object>[^?.;]*)",
    re.IGNORECASE,
)
_UNTREATED = re.compile(
    r"\b(?:untreated|unstimulated|unperturbed|controls?|vehicle|baseline|mock|dmso|pbs|medium|query|original|starting|"
    r"input|no\s+treatment|their\s+own|(?<![\w-])\d+)\b",
    re.IGNORECASE,
)
_HEALTHY = re.compile(
    r"\b(?:health(?:y|ier)|normal|unaffected|non-?diseased|disease-free|controls?|(?:people|donors|individuals|those)\s+without)\b",
    re.IGNORECASE,
)
_DIFFERS = re.compile(
    r"\b(?:differ\w*|distinct\w*|chang\w+|alter(?:s|ed|ing|ations?)?|affect\w*|impact\w*|influenc\w+|reprogram\w*|"
    r"(?:dys|de-?|mis|up-?|down-?)regulat\w+|abnormal\w*|disturb\w+|perturb\w+|diseased?|signatures?|hallmarks?|"
    r"compar\w+|versus|vs\.?|happens?|respon[ds]\w*|react\w*|effects?|higher|lower|elevated|increas\w+|decreas\w+|"
    r"reduced|up|down|do(?:es)?\s+to|than|(?:those|ones)(?=\W))\b",
    re.IGNORECASE,
)
_WANTS_CELLS = re.compile(
    r"\b(?:imput\w+|predict\w*|look(?:s)?\s+like|express\w*|generate\w*|synthesi\w+|simulate\w*|respon\w+|react\w*|"
    r"transcriptom\w+|profile)\b",
    re.IGNORECASE,
)


def find_terms(question: str, *, knowledge: Knowledge) -> list[Mention]:
    """Return known terms named in the question, without the root "cell", which every question names."""
    mentions = find_mentions(question, knowledge=knowledge)
    return [item for item in mentions if item.resolution.match is None or item.resolution.match.id != _ANY_CELL]


def find_donors(question: str, *, mentions: Sequence[Mention], held: Container[str] = ()) -> list[Named]:
    """Return donors named by "donor X" (or patient, sample, ...) or by a prefixed id such as ``kang:1256``.

    A word is an id when it is one of ``held``, the case-folded donors of the atlases, or when it has a digit or is one
    to four capitals; and is not part of a known term.
    """
    found = {}
    for match in [*_DONOR.finditer(question), *_PREFIXED_DONOR.finditer(question)]:
        start, name = match.start("name"), match["name"].rstrip(".:-")
        end = start + len(name)
        if (_is_donor_id(name) or name.casefold() in held) and not _inside(mentions, start, end):
            is_reference = _DONOR_REFERENCE.search(question[: match.start()]) is not None
            found[start] = Named(name, start, end, "reference" if is_reference else "target")
    donors = [found[start] for start in sorted(found)]
    if len(donors) > 1 and all(donor.role == "target" for donor in donors):
        # "from donor A to donor B": the first of the two is the one to learn from
        first, second = donors[0], donors[1]
        leads_to = re.search(r"\b(?:on)?to\b", question[first.end : second.start])
        if leads_to and re.search(r"\b(?:from|of|in)\b", question[: first.start]):
            donors[0] = replace(first, role="reference")
    return donors


def _is_donor_id(name: str) -> bool:
    if re.match(r"CD\d+", name, re.IGNORECASE):  # a surface protein, as in "patient CD4 T cells"
        return False
    return any(char.isdigit() for char in name) or (name.isupper() and name.isalpha() and len(name) <= 4)


def asks_for_other_donor(question: str) -> bool:
    """Whether the answer is wanted for a donor nobody measured ("in a new patient")."""
    return _OTHER_DONOR.search(question) is not None


def find_datasets(question: str, *, mentions: Sequence[Mention]) -> list[Named]:
    """Return datasets named beside "dataset", "study", "atlas", "cohort", or bare in questions about a transfer."""
    found: list[Named] = []
    taken = find_donors(question, mentions=mentions)

    def take(pattern: re.Pattern[str]) -> None:
        for named in _names(pattern, question, mentions=mentions):
            if all(named.end <= old.start or named.start >= old.end for old in (*taken, *found)):
                found.append(named)

    take(_BEFORE_SET)
    take(_AFTER_SET)
    has_named_set = bool(found)
    if _MOVES.search(question):
        take(_BARE_SET)
    if has_named_set:  # beside a dataset that is named as one, a cue such as "measured in" is enough for the second
        take(_CUED_SET)
    found.sort(key=lambda named: named.start)
    if len(found) < 2:
        return found
    # A dataset of open role takes the role that the other leaves; of two with the same role the first is the reference.
    first, second, *rest = found
    roles: dict[Role, Role] = {"target": "reference", "reference": "target", "open": "open"}
    if first.role == second.role:
        first, second = replace(first, role="reference"), replace(second, role="target")
    elif first.role == "open":
        first = replace(first, role=roles[second.role])
    elif second.role == "open":
        second = replace(second, role=roles[first.role])
    return [first, second, *rest]


def asks_for_transfer(question: str) -> bool:
    """Whether the question speaks of carrying cells or effects from one dataset to another."""
    return _MOVES.search(question) is not None or _GENERATES.search(question) is not None


def asks_for_cells(question: str) -> bool:
    """Whether the question wants expression, or cells, predicted at all."""
    return _WANTS_CELLS.search(question) is not None


def names_healthy(question: str) -> bool:
    """Whether the question speaks of healthy people, as those that patients are compared with."""
    return _HEALTHY.search(question) is not None


def difference_spans(question: str) -> list[tuple[int, int]]:
    """Return the words that ask how something differs or changes, and those for what it is compared with."""
    return [match.span() for pattern in (_DIFFERS, _HEALTHY) for match in pattern.finditer(question)]


def asks_for_difference(question: str) -> bool:
    """Whether the question asks how something differs or changes, and not only what it looks like."""
    return _DIFFERS.search(question) is not None


def find_comparisons(question: str) -> list[Comparison]:
    """Return where a question compares; a comparison with untreated cells is what every prediction makes."""
    found = []
    for match in _COMPARING.finditer(question):
        against = _conditions(question[: match.start("object")], match["object"])
        untreated = None if against else _UNTREATED.search(match["object"])
        end = match.start("object") + untreated.end() if untreated else match.end()
        found.append(Comparison(match.start(), end, is_with_untreated=untreated is not None, conditions=against))
    return found


def _conditions(before: str, compared: str) -> tuple[str, ...]:
    """Return the doses, or the times, on both sides of a comparison ("at 6 h versus 24 h"); none where one is zero."""
    named = _UNTREATED.search(compared)
    if named and not named.group().isdigit():
        return ()
    for pattern in (_DOSE, _TIME):
        said = [[match.group() for match in pattern.finditer(text)] for text in (before, compared)]
        both = list(dict.fromkeys([*said[0], *said[1]])) if all(said) else []
        if len(both) > 1 and not any(_ZERO.match(text) for text in both):
            return tuple(both)
    return ()


def context_spans(question: str) -> list[tuple[int, int]]:
    """Return the stretches that name a condition, another donor, missing cells or the cells compared with."""
    patterns = (_STATE, _DOSE, _TIME, _OTHER_DONOR, _QUERY_CONTROL)
    spans = [match.span() for pattern in patterns for match in pattern.finditer(question)]
    return spans + [(item.start, item.end) for item in find_comparisons(question) if item.is_with_untreated]


def asks_for_query_control(question: str) -> bool:
    """Whether the prediction is to be compared with the query cells themselves."""
    return _QUERY_CONTROL.search(question) is not None


def find_condition(question: str, *, without_health: bool = False) -> str | None:
    """Return state, dose and time as written, joined by commas; None when none is given.

    With ``without_health`` the words for health and disease are left out, because they are what is compared.
    """
    patterns = (_DOSE, _TIME) if without_health else (_STATE, _DOSE, _TIME)
    parts = [match.group() for pattern in patterns for match in pattern.finditer(question)]
    return ", ".join(dict.fromkeys(parts)) or None


def _names(pattern: re.Pattern[str], question: str, *, mentions: Sequence[Mention]) -> Iterator[Named]:
    for match in pattern.finditer(question):
        start, name = match.start("name"), match["name"].rstrip(".-")
        while name.split()[0].lower() in _NO_NAME and " " in name:  # "The Tabula Sapiens dataset"
            start += len(name) - len(name.split(maxsplit=1)[1])
            name = name.split(maxsplit=1)[1]
        end = start + len(name)
        if name.lower() in _NO_NAME or CELL_LIKE.search(name) or _inside(mentions, start, end):
            continue
        if pattern is _BARE_SET and name.isalpha() and name.islower() and _WORD_FOLLOWS.match(question[end:]):
            continue  # "from healthy cells": a plain word before another word is no name
        yield Named(name, start, end, _role(question[:start]))


def _role(before: str) -> Role:
    """Return the role that the words before a dataset's name give it."""
    before = _SET_WORD.sub("", before)
    if _REFERENCE.search(before):
        return "reference"
    return "target" if _TARGET.search(before) else "open"


def _inside(mentions: Sequence[Mention], start: int, end: int) -> bool:
    return any(start < mention.end and end > mention.start for mention in mentions)
