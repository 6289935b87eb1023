"""Read what one sentence says about one gene under the asked perturbation: rises, falls, or nothing certain.

In: the sentence, and where gene, other genes and perturbation stand. Out: +1, -1 or 0. A rule that is not sure says 0:
questions, negations, inhibited perturbations, other agents, and statements on activity instead of expression.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.literature.names import Span

_UP = (
    r"induc(?:e|es|ed|ing|tion)|up[- ]?regulat\w+|increas\w+|enhanc(?:e|es|ed|ing|ement)|elevat\w+|"
    r"stimulat(?:e|es|ed|ing|ion)|promot(?:e|es|ed|ing)|augment\w*|rais(?:e|es|ed|ing)|boost\w*|overexpress\w*|higher|"
    r"rise|rises|rose|risen|trigger(?:s|ed)?"
)
_DOWN = (
    r"down[- ]?regulat\w+|suppress(?:es|ed|ing|ion)?|reduc(?:e|es|ed|ing|tions?)|decreas\w+|inhibit(?:s|ed|ing|ion)?|"
    r"repress(?:es|ed|ing|ion)?|attenuat\w+|diminish\w*|lower(?:s|ed|ing)?|abrogat\w+|abolish\w*|declin\w+|dampen\w*|"
    r"silenc(?:es|ed|ing)|impair\w*|prevent(?:s|ed|ing)?"
)
_VERB = re.compile(rf"\b(?:(?P<up>{_UP})|(?P<down>{_DOWN}))\b", re.IGNORECASE)
_GENE, _ASKED = "\x01", "\x02"  # letters that mask genes and the perturbation
_WORDS_BETWEEN = 12
_HEDGE = re.compile(
    r"\b(?:whether|hypothes\w+|to (?:determine|test|examine|investigate|assess) |may|might|could|unclear|unknown|"
    r"predicted to|expected to)\b|\?\s*$",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|without|cannot|lack of|failed to|fails to|fail to|unable to)|n't)\b"
    r"(?:\s+[\w-]+){0,3}\s*$",
    re.IGNORECASE,
)
_OTHER_MATTER = re.compile(  # after a gene: its product acts, or names something else
    r"[\s-]*(?:receptors?|phosphorylation|activation|activity|signal\w*|translocation|binding|methylation|inhibitors?|"
    r"antagonists?|blockade|antibod\w+|siRNA|shRNA|knock\w+|deficien\w+|null|induced|stimulated|treated|mediated|"
    r"dependent|positive|negative|expressing|primed|driven)\b|[+\u207a]|\s*-/-",
    re.IGNORECASE,
)
_ATTACHED = re.compile(r"[\s-](?:induced|stimulated|elicited|triggered|driven)\b", re.IGNORECASE)
_WEAKENED = re.compile(  # before the perturbation
    r"(?:\banti|\b(?:inhibit\w*|block\w*|antagoni\w+|neutrali\w+|deplet\w+|loss|absence|lack\w*|knock\w*|silenc\w+|"
    r"deficien\w+|attenuat\w+|suppress\w+|abrogat\w+|prevent\w*|revers\w+|counteract\w*|against|without|withdrawal|"
    r"reduc\w+|decreas\w+))(?:\s+(?:of|the|endogenous|exogenous|autocrine|effects?|both))*[\s-]*$",
    re.IGNORECASE,
)
_TAKEN_AWAY = re.compile(  # after the perturbation
    r"[\s-]*(?:signal\w*\s+|pathway\s+)?(?:receptors?|inhibit(?:or|ors|ion)|blockade|blocking|antagonis(?:t|ts|m)|"
    r"antibod\w+|neutrali[sz](?:ing|ation)|deficien\w+|knock(?:-?out|-?down|ed)\w*|siRNA|shRNA|null|deplet\w+|withdrawal|"
    r"(?:was|were|is|are)\s+(?:\w+ly\s+)?(?:inhibit|block|neutrali|antagon|deplet|silenc|knock)\w*)\b|\s*-/-",
    re.IGNORECASE,
)
_BOUNDARY = re.compile(r"[;:]|\b(?:whereas|while|but|although|however|yet|unlike|despite)\b", re.IGNORECASE)
_PASSIVE = re.compile(
    rf"(?:[\s,/()]|{_GENE}|\b(?:and|or|as|well|both|genes?|mRNAs?|proteins?|expression|levels?|transcripts?)\b)*"
    r"(?P<aux>\b(?:was|were|is|are|be|been|being)\b)?(?P<adverbs>(?:\s+(?:\w+ly|not|also|more|most|both))*)\s*$",
    re.IGNORECASE,
)
_NOUN = re.compile(r"\b(?:mRNAs?|proteins?|expression|levels?|transcripts?)\b", re.IGNORECASE)
_BY = re.compile(r"\b(?:by|in response to|after|upon|following|with|under|in|on)\b", re.IGNORECASE)
_NOT_THE_OBJECT = re.compile(r"\b(?:by|via|through|using|independent\w*|depend\w*|mediated|than|from)\b", re.IGNORECASE)
_SMALL = re.compile(r"(?:\s|\b(?:the|of|in|an|a|its|their|both|basal|gene|expression|mRNA|any)\b)*$", re.IGNORECASE)
_NO_AGENT = re.compile(
    r"(?:^\W*|\b(?:show\w*|display\w*|exhibit\w*|had|with|in|to|an?|the|of|by|and|observed|revealed|found|demonstrated|"
    r"detected|significant(?:ly)?|marked(?:ly)?|strong(?:ly)?|robust(?:ly)?|was|were)\s+)$",
    re.IGNORECASE,
)
_ONLY_ADVERBS = re.compile(r"\s*(?:(?:\w+ly|also|it|in contrast|instead|both|and),?\s*)*", re.IGNORECASE)
_OBSERVED = re.compile(r"\b(?:we|there (?:was|were)|expression|levels?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Verb:
    start: int
    end: int
    sign: int


def read_direction(sentence: str, gene: Span, *, genes: Sequence[Span], asked: Sequence[Span]) -> int:
    """Return the direction of a gene under the asked perturbation, as one sentence states it.

    Parameters
    ----------
    sentence
        One sentence, plain text.
    gene, genes
        The gene in question, and every gene of the sentence.
    asked
        Where the perturbation is named.

    Returns
    -------
    +1, -1, or 0 where no rule is sure; see the module.
    """
    if _HEDGE.search(sentence) or _OTHER_MATTER.match(sentence, gene.end):
        return 0
    named = [span for span in asked if not _is_weakened(sentence, span)]
    if not named:
        return 0
    masked = _mask(_mask(sentence, genes, _GENE), asked, _ASKED)
    verbs = _verbs(masked, named=named)
    verb = _passive_verb(masked, verbs, gene=gene)
    if verb is not None:
        is_negated = re.search(r"\bnot\b", masked[gene.end : verb.start])
        return 0 if is_negated else _passive(masked, verb, named=named)
    before = [verb for verb in verbs if verb.end <= gene.start]
    return _active(masked, before, gene=gene, named=named) if before else 0


def _verbs(masked: str, *, named: Sequence[Span]) -> list[_Verb]:
    """Return the verbs of direction, without those tied to another agent ("LPS-induced")."""
    found = []
    for match in _VERB.finditer(masked):
        start = match.start()
        if _is_attached_to(masked, start, named) or not _is_attached(masked, start):
            found.append(_Verb(start, match.end(), 1 if match["up"] else -1))
    return found


def _passive_verb(masked: str, verbs: Sequence[_Verb], *, gene: Span) -> _Verb | None:
    """Return the verb whose subject is the gene, if there is one: GENE was increased; GENE expression rose after."""
    verb = next((verb for verb in verbs if verb.start >= gene.end), None)
    if verb is None:
        return None
    said = masked[gene.end : verb.start]
    found = _PASSIVE.match(said)
    if found is None:
        return None
    if found["aux"]:
        return verb
    follows = masked[verb.end :].lstrip()
    ends_clause = not follows or not follows[0].isalnum() or _BY.match(follows)
    return verb if _NOUN.search(said) and ends_clause else None


def _passive(masked: str, verb: _Verb, *, named: Sequence[Span]) -> int:
    """Read the passive: GENE was increased by ASKED; upon ASKED, GENE was increased."""
    agent = re.match(r"\s*(?:\w+\s+){0,2}?by\s+", masked[verb.end :], re.IGNORECASE)
    behind = next((span for span in named if span.start >= verb.end), None)
    if agent:
        near = behind is not None and behind.start - verb.end - agent.end() <= 30
        return verb.sign if near else 0
    if behind is not None:
        return verb.sign if _is_cause(masked[verb.end : behind.start]) else 0
    ahead = next((span for span in named if span.end <= verb.start), None)
    return verb.sign if ahead is not None and not _BOUNDARY.search(masked[ahead.end : verb.start]) else 0


def _active(masked: str, verbs: list[_Verb], *, gene: Span, named: Sequence[Span]) -> int:
    """Read the active: ASKED increased GENE; ASKED-induced GENE; increased GENE in response to ASKED."""
    verb = verbs[-1]
    # Too many words in between, or words such as "by", give the verb another object than the gene.
    gap = masked[verb.end : gene.start]
    if len(gap.split()) > _WORDS_BETWEEN or _BOUNDARY.search(gap) or _NOT_THE_OBJECT.search(gap):
        return 0
    if _is_attached_to(masked, verb.start, named):
        return verb.sign
    # The first verb of a chain has the sign of all: "suppressed the induction of GENE" means that it falls.
    head = verb
    for earlier in reversed(verbs[:-1]):
        if not _SMALL.fullmatch(masked[earlier.end : head.start]):
            break
        head = _Verb(earlier.start, earlier.end, head.sign * earlier.sign)
    if _NEGATION.search(masked[: head.start]):
        return 0
    is_agent = _is_agent(masked, head, gene=gene, named=named)
    return head.sign if is_agent else 0


def _is_agent(masked: str, head: _Verb, *, gene: Span, named: Sequence[Span]) -> bool:
    """Whether the perturbation is the subject of an active verb, or the cause named after its object."""
    ahead = [span for span in named if span.end <= head.start]
    if ahead:
        return _is_subject(masked, ahead[-1], head)
    behind = next((span for span in named if span.start >= gene.end), None)
    if behind is None or not _NO_AGENT.search(masked[: head.start]):
        return False
    return _is_cause(masked[gene.end : behind.start])


def _is_cause(gap: str) -> bool:
    """Whether the words before the perturbation make it the cause, in the same clause."""
    return _BY.search(gap) is not None and not _BOUNDARY.search(gap)


def _is_subject(masked: str, asked: Span, verb: _Verb) -> bool:
    """Whether nothing between the perturbation and the verb is a subject of its own."""
    between = masked[asked.end : verb.start]
    turns = list(_BOUNDARY.finditer(between))
    if turns and not _ONLY_ADVERBS.fullmatch(between[turns[-1].end() :]):
        return False
    if re.search(rf"{_GENE}\s+(?:\w+ly\s+)?$", between) and _VERB.search(between):
        return False
    tail = between.rpartition(",")[2] if "," in between else ""
    is_free = not tail.strip() or _ONLY_ADVERBS.fullmatch(tail) or _OBSERVED.search(tail)
    return bool(_VERB.search(between) or is_free)


def _is_weakened(sentence: str, asked: Span) -> bool:
    """Whether the perturbation is inhibited or missing, so that the statement is not about its presence."""
    if _TAKEN_AWAY.match(sentence, asked.end):
        return True
    return bool(_WEAKENED.search(sentence[: asked.start])) and not _ATTACHED.match(sentence, asked.end)


def _is_attached(masked: str, start: int) -> bool:
    """Whether a hyphen ties the verb to what stands before it: "LPS-induced"."""
    return start > 1 and masked[start - 1] in "-\u2010\u2011\u2013" and not masked[start - 2].isspace()


def _is_attached_to(masked: str, start: int, named: Sequence[Span]) -> bool:
    is_tied = any(span.end == start - 1 for span in named)
    return is_tied and (_is_attached(masked, start) or bool(_ATTACHED.match(masked, start - 1)))


def _mask(sentence: str, spans: Sequence[Span], letter: str) -> str:
    for span in spans:
        sentence = sentence[: span.start] + letter * (span.end - span.start) + sentence[span.end :]
    return sentence
