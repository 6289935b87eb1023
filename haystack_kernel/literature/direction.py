"""Read what one sentence says about one gene under the asked perturbation: rises, falls, or nothing certain.

In: the sentence, and where gene, other genes and perturbation stand. Out: +1, -1 or 0. A rule that is not sure says 0:
questions, negations, comparisons with the perturbation, inhibited perturbations, other agents, and statements on
anything but expression. Words around the gene must be known ones, because the nouns that turn a statement into one on
something else ("degradation of", "binding to") have no end.
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
    r"silenc(?:es|ed|ing)|impair\w*|prevent(?:s|ed|ing)?|revers(?:es|ed|ing|al)|counteract\w*|block(?:s|ed|ing)?|"
    r"antagoni[sz]\w+|blunt(?:s|ed|ing)?|oppos(?:es|ed|ing)"
)
_VERB = re.compile(rf"\b(?:(?P<up>{_UP})|(?P<down>{_DOWN}))\b", re.IGNORECASE)
_GENE, _ASKED = "\x01", "\x02"  # letters that mask genes and the perturbation
_WORDS_BETWEEN = 12
_HEDGE = re.compile(
    r"\b(?:whether|hypothes\w+|to (?:determine|test|examine|investigate|assess) |may|might|could|would|should|unclear|"
    r"unknown|if|possib\w+|perhaps|potentially|presum\w+|controversial|predict(?:s|ed)?|expected to|in silico|"
    r"conflicting|inconsistent\w*|contrary to|synergi\w+|plus|combin\w+|co-?treat\w+|together with|"
    r"restor\w+|rescu\w+|normali[sz]\w+)\b|\?\s*$",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|none|without|cannot|lack(?:s|ed|ing)?|fail(?:s|ed|ing|ure)?|unable|rarely|hardly|"
    r"barely|scarcely|seldom|little|minimal\w*|negligibl\w+|nothing|absen(?:t|ce)|refus\w+|ineffective|"
    r"insufficient)\b|n't\b",
    re.IGNORECASE,
)
_NOT_THE_CAUSE = re.compile(  # between a statement and the perturbation
    r"\b(?:than|compar\w+|relative to|versus|vs|before|prior to|until|without|instead|except|despite|independent\w*|"
    r"unlike|regardless|absence|presence|untreated|unstimulated|control|which|low|lower|poor|less)\b",
    re.IGNORECASE,
)
_EXPRESSION = (
    r"expression|m?RNAs?|transcripts?|transcription|levels?|proteins?|genes?|production|synthesis|secretion|release|abundance|"
    r"amounts?|up-?regulation|down-?regulation|induction|suppression|repression|concentrations?"
)
_OBJECT = re.compile(  # from a verb to the gene: nothing that is increased or reduced in its place
    rf"(?:[\s,/()]|\x01|\b(?:{_EXPRESSION}|the|a|an|of|in|its|own|their|both|all|several|many|some|various|other|such|as|"
    r"including|like|e\.g\.|and|or|well|with|to|known|classical|canonical|early|late|basal|total|surface|cell-surface|"
    r"intracellular|endogenous|significant|marked|strong|robust|substantial|further|increased?|decreased?|higher|lower|"
    r"reduced|elevated|markers?|targets?|factors?|cytokines?|chemokines?|ligands?|molecules?|collagens?|receptors?|"
    r"checkpoint|antiviral|(?:pro-?|anti-?)?(?:inflammatory|fibrotic|apoptotic)|ISGs?|interferon-stimulated|"
    r"rise|drop|decline|increases?|decreases?|\w+ly)\b|"
    r"[\w\x01-]+-(?:induced|stimulated|mediated|driven|elicited|triggered|dependent)\b)*",
    re.IGNORECASE,
)
_OF_ANOTHER = re.compile(  # before a gene: the subject is something of the gene, or another thing beside it
    r"\b(?P<noun>[\w-]+)\s+(?:of|in|on|to|at|for|from|by|with|against|between|via|through|towards?)\s+(?:the\s+|both\s+)?"
    r"(?:[\s,/]|\x01|\band\b|\bor\b)*$",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(  # after a gene and the genes beside it: the statement ends, or goes on about its expression
    rf"(?:[\s,/()-]|\x01|\b(?:and|or|as|well|{_EXPRESSION})\b)*(?:$|[.;:\x02\[]|\b(?:but|while|whereas|although|however|"
    r"which|that|who|where|when|thereby|thus|in|on|by|at|after|upon|following|with|within|during|under|via|through|from|"
    r"for|to|both|is|are|was|were|be|been|being|has|have|had|did|does|do|compared|relative|than|versus|vs|only|not|also|"
    r"even|over|up|down|p|n|both|the|a|an|other|several|many|\w*fold|\d[\w.,%-]*|\w+ly|increas\w+|decreas\w+|reduc\w+|"
    r"ris(?:es|ing|e)|rose|induc\w+|elevat\w+|lower\w*|higher|suppress\w+|enhanc\w+|diminish\w*|declin\w+|"
    r"attenuat\w+|abrogat\w+|abolish\w*|upregulat\w*|downregulat\w*)\b)",
    re.IGNORECASE,
)
_ACTS = re.compile(  # the gene's product, its carriers or its loss, not its expression
    r"[\s-]*(?:induced|stimulated|treated|mediated|dependent|independent|positive|negative|expressing|primed|driven|"
    r"knock\w*|null|\w*deficien\w+|high|low|lo|hi)\b|[+\u207a]|\s*-/-",
    re.IGNORECASE,
)
_NEW_VERB = re.compile(
    r"(?:,|\b(?:and|or|but|while|whereas|also|then))\s*(?:(?:\w+ly|also|it|to|even)\s+)*$", re.IGNORECASE
)
_ALTERED = re.compile(
    r"\b(?:\w*deficien\w+|knock-?\s?(?:out|down)\w*|null|mutant\w*|lacking|\w*siRNA|\w*shRNA)\b|-/-", re.I
)
_PLACED = re.compile(  # before a perturbation that is named ahead of a passive statement
    r"\b(?:upon|after|following|with|in|by|under|to|of|received|given)\s+(?:\w+\s+)?$", re.IGNORECASE
)
_TREATS = re.compile(
    r"[\s-]*(?:treat\w+|stimulat\w+|expos\w+|induc\w+|administ\w+|therapy|injection|addition|challeng\w+|respon\w+|"
    r"incubat\w+|infus\w+|primed|activated|up-?regulat\w+|caus\w+|led|leads|result\w+)\b",
    re.IGNORECASE,
)
_NOT_A_TREATMENT = re.compile(  # after the perturbation: something measured that bears its name
    r"[\s-]*(?:signatures?|scores?|target|targets|expression|levels?|production|secretion|mRNA|proteins?|transcripts?|"
    r"promoter|genes?|concentrations?|titers?|(?:response|responsive|inducible|stimulated|regulated)\s+genes?|"
    r"producing|expressing|release|synthesis|positive|negative|low|high|non-?responders?|resistan\w+)\b",
    re.IGNORECASE,
)
_ATTACHED = re.compile(r"[\s-](?:induced|stimulated|elicited|triggered|driven)\b", re.IGNORECASE)
_WEAKENED = re.compile(  # before the perturbation
    r"(?:\banti|\b(?:inhibit\w*|block\w*|antagoni\w+|neutrali\w+|deplet\w+|loss|absence|lack\w*|knock\w*|silenc\w+|"
    r"deficien\w+|attenuat\w+|suppress\w+|abrogat\w+|prevent\w*|revers\w+|counteract\w*|against|without|withdrawal|"
    r"reduc\w+|decreas\w+|remov\w+|washout|stopp\w+|discontinu\w+|low|lower|less|impaired|defective|insufficient))"
    r"(?:\s+(?:of|the|endogenous|exogenous|autocrine|effects?|actions?|both|either|levels?))*[\s-]*$|"
    r"\b(?:not|nor|neither|unlike|except|than)(?:\s+(?:the|by|with|to|in|response|after|upon|either))*\s*$",
    re.IGNORECASE,
)
_TAKEN_AWAY = re.compile(  # after the perturbation
    r"[\s-]*(?:signal\w*\s+|pathway\s+)?(?:receptors?|inhibit(?:or|ors|ion)|blockade|blocking|blockers?|"
    r"antagonis(?:t|ts|m)|(?:auto)?antibod\w+|absence|loss|depriv\w+|washout|neutrali[sz](?:ing|ation)|deficien\w+|knock(?:-?out|-?down|ed)\w*|siRNA|shRNA|null|deplet\w+|withdrawal|"
    r"(?:was|were|is|are)\s+(?:\w+ly\s+)?(?:inhibit|block|neutrali|antagon|deplet|silenc|knock)\w*)\b|\s*-/-",
    re.IGNORECASE,
)
_BOUNDARY = re.compile(r"[;:]|\b(?:whereas|while|but|although|however|yet|unlike|despite)\b", re.IGNORECASE)
_PASSIVE = re.compile(
    rf"(?:[\s,/()]|{_GENE}|\b(?:and|or|as|well|both|{_EXPRESSION})\b)*"
    r"(?P<aux>\b(?:was|were|is|are|be|been|being)\b)?(?P<adverbs>(?:\s+(?:\w+ly|not|also|more|most|both|further|even|highly|up|down))*)\s*$",
    re.IGNORECASE,
)
_NOUN = re.compile(rf"\b(?:{_EXPRESSION})\b", re.IGNORECASE)
_BY = re.compile(r"\b(?:by|in response to|after|upon|following|with|under|in|on)\b", re.IGNORECASE)
_SETTING = re.compile(
    r"\b(?:in|of|with|on|at|after|upon|under|through|via|from|to|as)\b", re.IGNORECASE
)  # another agent acts
_SHOWS = re.compile(
    r"(?:show\w*|display\w*|exhibit\w*|had|have|has|led to|leads to|result\w* in|caus\w+)(?:\s+(?:a|an|\w+ly))*\s*$",
    re.I,
)
_SMALL = re.compile(
    r"(?:\s|\b(?:the|of|in|an|a|its|their|both|basal|gene|expression|mRNA|any)\b|"
    r"[\w\x01-]+-(?:induced|stimulated|mediated|driven|elicited|triggered|dependent)\b)*$",
    re.IGNORECASE,
)
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
    masked = _mask(_mask(sentence, genes, _GENE), asked, _ASKED)
    named = [span for span in asked if not _is_weakened(sentence, span)]
    if not named or _HEDGE.search(sentence) or not _is_expressed(masked, gene):
        return 0
    verbs = _verbs(masked, named=named)
    verb = _passive_verb(masked, verbs, gene=gene)
    if verb is not None:
        return _passive(masked, verb, gene=gene, named=named)
    before = [verb for verb in verbs if verb.end <= gene.start]
    return _active(masked, before, gene=gene, named=named) if before else 0


def _is_expressed(masked: str, gene: Span) -> bool:
    """Whether what follows the gene leaves the statement one on its expression, in a clause that denies nothing."""
    end = gene.start
    while masked[end : end + 1] == _GENE:
        end += 1
    is_other = _ACTS.match(masked, end) or not _FOLLOWS.match(masked, end)
    return not is_other and not _NEGATION.search(_clause(masked, gene.start))


def _clause(masked: str, place: int) -> str:
    """Return the clause that a place stands in."""
    turns = list(_BOUNDARY.finditer(masked))
    start = max((turn.end() for turn in turns if turn.end() <= place), default=0)
    return masked[start : min((turn.start() for turn in turns if turn.start() > place), default=len(masked))]


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


def _passive(masked: str, verb: _Verb, *, gene: Span, named: Sequence[Span]) -> int:
    """Read the passive: GENE was increased by ASKED; upon ASKED, GENE was increased."""
    agent = re.match(r"\s*(?:\w+\s+){0,2}?by\s+", masked[verb.end :], re.IGNORECASE)
    behind = next((span for span in named if span.start >= verb.end), None)
    ahead = next((span for span in named if span.end <= gene.start), None)
    if agent:
        is_cause = behind is not None and _is_listed(masked[verb.end + agent.end() : behind.start])
    elif behind is not None:
        is_cause = _is_cause(masked[verb.end : behind.start]) and not _ALTERED.search(masked)
    else:
        is_cause = ahead is not None and _is_setting(masked, ahead, verb)
    return verb.sign if is_cause and not _is_of_another(masked, gene) else 0


def _is_of_another(masked: str, gene: Span) -> bool:
    """Whether the subject is something else that the gene only belongs to: "phosphorylation of GENE was"."""
    owner = _OF_ANOTHER.search(masked[: gene.start])
    return owner is not None and not re.fullmatch(_EXPRESSION, owner["noun"], re.IGNORECASE)


def _is_listed(agents: str) -> bool:
    """Whether only other agents stand between "by" and the perturbation, no statement and no setting."""
    turns = _VERB.search(agents) or _BOUNDARY.search(agents) or _SETTING.search(agents)
    return len(agents) <= 30 and not turns


def _is_setting(masked: str, asked: Span, verb: _Verb) -> bool:
    """Whether a perturbation named first is a treatment under which the passive statement holds."""
    if _BOUNDARY.search(masked[asked.end : verb.start]) or _NOT_A_TREATMENT.match(masked, asked.end):
        return False
    is_treatment = _TREATS.match(masked, asked.end) or _PLACED.search(masked[: asked.start])
    return bool(is_treatment) and not _ALTERED.search(masked[: verb.start])


def _active(masked: str, verbs: list[_Verb], *, gene: Span, named: Sequence[Span]) -> int:
    """Read the active: ASKED increased GENE; ASKED-induced GENE; increased GENE in response to ASKED."""
    verb = verbs[-1]
    # Too many words in between, or words such as "by", give the verb another object than the gene.
    gap = masked[verb.end : gene.start]
    if len(gap.split()) > _WORDS_BETWEEN or not _OBJECT.fullmatch(gap):
        return 0
    if _is_attached_to(masked, verb.start, named):
        return verb.sign
    head = _head(masked, verbs)
    if head is None or _NEGATION.search(_clause(masked, head.start)) or _ALTERED.search(masked[: head.start]):
        return 0
    return head.sign if _is_agent(masked, head, gene=gene, named=named) else 0


def _head(masked: str, verbs: Sequence[_Verb]) -> _Verb | None:
    """Return the first verb of the chain that ends with the last one, with the sign of all; None: not sure.

    "suppressed the induction of GENE" means that it falls; "reduced the decline of GENE" is no rise.
    """
    head = verbs[-1]
    for earlier in reversed(verbs[:-1]):
        between = masked[earlier.end : head.start]
        if not _SMALL.fullmatch(between):
            # a verb of its own follows "and" or a comma; what else stands between leaves open which verb governs
            return head if _NEW_VERB.search(between) or _SHOWS.search(between) else None
        if earlier.sign < 0 and head.sign < 0:
            return None
        head = _Verb(earlier.start, earlier.end, head.sign * earlier.sign)
    return head


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
    is_apart = _BOUNDARY.search(gap) or _NOT_THE_CAUSE.search(gap) or _VERB.search(gap)
    return _BY.search(gap) is not None and not is_apart


def _is_subject(masked: str, asked: Span, verb: _Verb) -> bool:
    """Whether nothing between the perturbation and the verb is a subject of its own."""
    between = masked[asked.end : verb.start]
    if (
        _NOT_A_TREATMENT.match(between)
        or _NOT_THE_CAUSE.search(between)
        or _NOT_THE_CAUSE.search(masked[: asked.start])
    ):
        return False
    turns = list(_BOUNDARY.finditer(between))
    if turns and not _ONLY_ADVERBS.fullmatch(between[turns[-1].end() :]):
        return False
    if _GENE in between and not _NEW_VERB.search(between):
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
