"""Tell a treatment from its opposite: a molecule that is blocked, removed, withheld or only measured is not given.

In: the question and a known term found in it. Out: the words that oppose it, or that it is only measured.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Mention

# What may stand between a molecule and the word that opposes it: "an inhibitor of IL-6 receptor signalling".
_BETWEEN = (
    r"(?:(?:the|an?|any|its|their|human|endogenous|recombinant|soluble|small[- ]molecule|chemical|signal+ing|pathway|"
    r"receptors?|gene|mrna|protein|transcripts?|monoclonal|polyclonal|humani[sz]ed|pegylated|therapeutic|specific|"
    r"selective|neutrali[sz]ing|blocking|antagonistic|function|activity|action|expression|production|crispr)[\s-]+){0,4}"
)
_AGENT = (  # what blocks or removes a molecule, and the act of doing so
    r"inhibit(?:ors?|ion)|antagonis(?:ts?|m)|block(?:ers?|ade|age|ing)|antibod(?:y|ies)|mabs?|antisera|antiserum|"
    r"nanobod(?:y|ies)|aptamers?|traps?|decoys?|si-?rnas?|sh-?rnas?|mi-?rnas?|rnai|rna\s+interference|sg-?rnas?|"
    r"g-?rnas?|guides?|anti-?sense(?:\s+(?:rnas?|oligos?|oligonucleotides?))?|asos?|oligonucleotides?|"
    r"morpholinos?|crispr\w?|cas9|protacs?|degraders?|degradation|removal|withdrawal|wash-?out|depletion|deprivation|"
    r"starvation|absence|lack|loss|deletion|ablation|disruption|inactivation|knock-?outs?|knock-?downs?|silencing|"
    r"neutrali[sz]ation|sequestration|scaveng(?:ing|ers?)|consumption|clearance|elimination|abrogation|suppression|"
    r"suppressors?|repression|interference|cessation|discontinuation|reduction|decrease|vaccin\w*|immuni[sz]ation"
)
_BEFORE = re.compile(
    rf"(?:\banti[- ]?|\b(?:(?:{_AGENT})\s+(?:directed\s+|raised\s+|specific\s+)?"
    r"(?:of|to|against|for|targeting|towards?|in)|"
    rf"(?:(?:{_AGENT}|drugs?|compounds?|molecules?|proteins?)\s+(?:that|which)\s+)?"
    r"(?:block(?:ing|s|ed)?|inhibit(?:ing|s|ed)?|neutrali[sz](?:ing|es?|ed)|antagoni[sz](?:ing|es?|ed)|silenc(?:ing|es?|ed)|"
    r"delet(?:ing|es?|ed)|disrupt(?:ing|s|ed)?|knock(?:ing|s|ed)?[- ](?:out|down)|knock-?(?:out|down)|"
    r"remov(?:ing|es?|ed)|withdraw(?:ing|s|n)?|withh(?:olding|olds?|eld)|deplet(?:ing|es?|ed)|scaveng(?:ing|es?|ed)|"
    r"sequester(?:ing|s|ed)?|trap(?:ping|s|ped)|degrad(?:ing|es?|ed)|suppress(?:ing|es|ed)?|target(?:ing|s)|"
    r"mop(?:ping|s|ped)?\s+up|wash(?:ing|es|ed)?\s+(?:out|away|off)|(?:free|devoid|deprived|starved|depleted|empty)\s+of|"
    r"lacking|without|minus|no|not|never|less|lower(?:ed|ing)?|reduced|reducing|decreas(?:ed|ing)|diminished|"
    r"insufficient|stopp(?:ing|ed)|ending|before|prior\s+to|until|dominant[- ]negative|inactive|(?:heat-)?inactivated|"
    r"denatured|boiled|mutant|mutated|truncated)))"
    rf"\s*{_BETWEEN}$",
    re.IGNORECASE,
)
_AFTER = re.compile(
    rf"^[\s-]*{_BETWEEN}(?:{_AGENT}|inhibiting|antagoni[sz]\w+|withdrawn|deprived|starved|depleted|removed|"
    r"neutrali[sz]\w+|scaveng\w+|sequest\w+|degrad\w+|monoclonals?|blocked|deficien\w+|knocked[- ](?:out|down)|kos?|"
    r"null|free|minus|lowering|reducing)\b",
    re.IGNORECASE,
)
_OF_THE_MOLECULE = re.compile(
    r"^(?:[\s-]+(?:signal+ing|pathways?|receptors?|genes?|mrna|activity|action))+\b", re.IGNORECASE
)
_PASSIVE_AFTER = re.compile(
    r"^(?:\s+(?!and\b|or\b|to\b|respon|react)\w+){0,2}?\s+(?:is|are|was|were|be|been|being|gets?|got|becomes?)\s+"
    r"(?:\w+ly\s+|then\s+|all\s+|not\s+){0,2}(?:removed|withdrawn|withheld|blocked|neutrali[sz]ed|inhibited|antagoni[sz]ed|silenced|"
    r"depleted|deleted|disrupted|knocked\s+(?:out|down)|washed\s+(?:out|away|off)|taken\s+away|absent|missing|omitted|"
    r"left\s+out|degraded|sequestered|scavenged|mopped\s+up|suppressed|lacking|gone|unavailable|stopped|discontinued|"
    r"not\s+(?:given|added|present|there))\b",
    re.IGNORECASE,
)
_MEASURED_AFTER = re.compile(
    r"^(?:[\s-]*(?:producing|producers?|secreting|secretors?|expressing|positive|negative|expression|production|"
    r"secretion|release|levels?|receptors?|mRNA|transcripts?|synthesis|concentrations?|gene|"
    r"genes\s+(?:to|that|which))\b|\+)",
    re.IGNORECASE,
)
_MEASURED_BEFORE = re.compile(
    r"\b(?:(?:rais|increas|induc|upregulat|up-regulat|downregulat|down-regulat|elevat|boost|express|secret|produc|"
    r"releas|mak|lower|chang)(?:e|es|ing|ed|s)?|(?:levels?|expression|production|secretion|release|amounts?|"
    r"synthesis)\s+of)\s+(?:the\s+|more\s+|their\s+)?$",
    re.IGNORECASE,
)
_GENETIC = re.compile(
    r"\b(?:knock(?:ing|ed)?[- ]?(?:outs?|downs?)|delet\w+|ablation|disrupt\w+|crispr\w?|cas9|sg-?rnas?|g-?rnas?|"
    r"guides?|kos?|null|si-?rnas?|sh-?rnas?|rnai|rna\s+interference|silenc\w+|anti-?sense|asos?|morpholinos?)\b",
    re.IGNORECASE,
)
_ANTIBODY = re.compile(r"\b(?:anti|antibod\w+|mabs?|monoclonals?|neutrali[sz]\w+)\b", re.IGNORECASE)
_INHIBITOR = re.compile(r"\b(?:inhibit\w+|antagonis\w+|block\w+)\b", re.IGNORECASE)
_SPECIAL = re.compile(
    r"\b(?:small[- ]molecule|chemical|aptamers?|traps?|decoys?|vaccin\w*|protacs?|degrad\w+|nanobod\w+)\b",
    re.IGNORECASE,
)
_WHOLE = (
    re.compile(
        rf"^(?:an?\s+|the\s+)?{_BETWEEN}(?:{_AGENT})\s+(?:\w+\s+)?(?:of|to|against|for|targeting)\s+(?P<molecule>.+)$",
        re.I,
    ),
    re.compile(r"^anti[- ]?(?P<molecule>.+?)(?:[\s-]+(?:monoclonal\s+)?(?:antibod\w+|mabs?|monoclonals?))?$", re.I),
    re.compile(rf"^(?P<molecule>\S.*?)[\s-]+{_BETWEEN}(?:{_AGENT})$", re.I),
)


def opposed_span(mention: Mention, question: str) -> tuple[int, int] | None:
    """Return the stretch that names the opposite of a treatment ("siRNA against STAT1"); None where it is given.

    Parameters
    ----------
    mention
        A known treatment.
    question
        The text it was found in.

    Examples
    --------
    >>> opposed_span(mention, "How would B cells respond to an IFN-beta trap?")  # doctest: +SKIP
    (32, 45)
    """
    before, behind = question[: mention.start], question[mention.end :]
    opposing, following = _BEFORE.search(before), _AFTER.search(behind) or _PASSIVE_AFTER.search(behind)
    if not opposing and not following:
        return None
    following = following or _OF_THE_MOLECULE.search(behind)
    start = opposing.start() if opposing else mention.start
    return start, mention.end + (following.end() if following else 0)


def is_measured(mention: Mention, question: str) -> bool:
    """Whether a molecule is what cells make rather than what they are given ("IL-6 secretion", "raise CXCL10")."""
    before, behind = question[: mention.start], question[mention.end :]
    return _MEASURED_AFTER.search(behind) is not None or _MEASURED_BEFORE.search(before) is not None


def form_of_opposite(words: str) -> Literal["gene", "antibody", "inhibitor", "other"]:
    """Return what kind of treatment the opposite of a molecule is; "other" for removal, traps and the like.

    Examples
    --------
    >>> form_of_opposite("siRNA against STAT1")
    'gene'
    """
    if _GENETIC.search(words):
        return "gene"
    if _SPECIAL.search(words):
        return "other"
    if _ANTIBODY.search(words):
        return "antibody"
    return "inhibitor" if _INHIBITOR.search(words) else "other"


def molecule_opposed(words: str) -> str | None:
    """Return the molecule in words that as a whole name its opposite; None for other words.

    Examples
    --------
    >>> molecule_opposed("TNF inhibitor")
    'TNF'
    """
    found = next((match for form in _WHOLE if (match := form.match(words))), None)
    return found["molecule"].strip() if found else None
