"""Account for every content word of a question: what no part of the query was made from is shown as not used.

In: the question and the stretches of it that were used. Out: the other content words, neighbours as one phrase.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from haystack_kernel.knowledge.normalise import spaced_key, split_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    Span = tuple[int, int]

_WORD = re.compile(r"[^\W_][\w.+/'-]*")
_APART = re.compile(r"[^\s\-/]")  # what makes two phrases of neighbouring words
_SUBJECT = re.compile(r"\b(?:we|you|i|they|one|is|are|was|were|has|have|had)\s+$", re.IGNORECASE)
_BEFORE_CELLS = re.compile(r"\s+(?:(?:and|or)\s+[\w-]+\s+)?", re.IGNORECASE)  # "activated and resting B cells"
# Adjectives of cells ("activated B cells"), which elsewhere only ask ("which genes are activated").
_STATES = frozenset({"activated", "stimulated", "treated", "exposed", "primed", "induced", "suppressed", "changed"})
# Words of any question. Never words that turn or narrow a meaning: no, not, other, all, less, reduced, before, without.
_ASKING = frozenset(
    re.findall(
        r"\S+",
        # articles, pronouns, prepositions, conjunctions
        "a an the this that these those it its they them their theirs there here i we you he she me us my our your "
        "one of in on at to for from with by as into onto under upon after following during over via through "
        "within across among between about and or but so then if when while once whether which what who whose how "
        "why where given using based each any some such same "
        # auxiliaries and other common verbs
        "is are was were be been being am do does did done doing have has had having would will could can should "
        "may might must shall let get gets got become becomes happen happens happened happening occur occurs take "
        "takes make makes see sees know learn want wants wish like looks look looking seem seems show shows shown "
        "tell tells give gives gave giving given describe explain list report find help expect expected think say "
        "please thanks need ask asks asked asking wonder wondering interested trying try understand idea ideas "
        # letters, slides and plans
        "hi hello hey dear colleague colleagues regards wishes cheers quick plan plans planning planned pilot "
        "experiment experiments project grant paper reviewer reviewers slide slides figure meeting run something "
        "anything her his him de deg degs hit hits wonders "
        # what questions about a response are made of
        "respond responds responded responding response responses react reacts reacted reacting reaction reactions "
        "effect effects affect affects affected impact impacts influence influences consequence consequences "
        "change changes changed changing alter alters altered shift shifts behave behaves behaviour behavior adapt "
        "adapts move moves treat treats treated treating treatment treatments stimulate stimulates stimulated "
        "stimulating stimulation expose exposes exposed exposing exposure incubate incubated incubation culture "
        "cultured cultures challenge challenged administer administered administration add adds added adding "
        "addition apply applies applied applying dose dosed doses dosing concentration perturb perturbed "
        "perturbation drug compound cytokine therapy induce induces induced trigger triggers triggered cause "
        "causes caused elicit elicits activate activates activated activation suppress suppresses suppressed "
        "repress represses repressed regulate regulates regulated upregulate upregulates upregulated up-regulated "
        "downregulate downregulates downregulated down-regulated turn turned switch switches switched rise rises "
        "fall falls increase increases increased decrease decreases decreased go goes up down gene genes transcript "
        "transcripts transcription transcriptome transcriptomes transcriptomic transcriptional transcriptionally "
        "mrna rna expression express expresses expressed pathway pathways signalling signaling programme "
        "programmes program programs signature signatures profile profiles differential differentially level "
        "levels state phenotype fold strongly strong much many kind type types involved molecular cellular "
        # cells, people and data sets in general
        "cell cells human humans primary purified isolated freshly fresh sorted vitro untreated unstimulated "
        "unperturbed wild-type resting baseline donor donors individual individuals subject "
        "subjects sample samples people "
        "person persons volunteer volunteers participant participants dataset datasets data set study atlas cohort "
        "collection reference target measured measure measurement observed called named "
        # what a prediction is asked with
        "predict predicts predicted predicting prediction predictions forecast simulate simulated simulation model "
        "impute imputed imputing generate generated generating synthesise synthesize reconstruct fill filled "
        "project projected transfer transferred translate translated carry carried map mapped corresponding "
        # adverbs of degree and politeness
        "also just only typically usually normally likely possibly probably potentially really actually exactly "
        "generally overall mainly mostly further first next now well very too most typical general usual possible",
    )
)
_PATIENT = frozenset({"patient", "patients", "patient's", "patients'"})


def unused_phrases(
    question: str, *, used: Iterable[Span], terms: Iterable[Span], cells: Span, names_people: bool
) -> tuple[str, ...]:
    """Return the content words of a question that the query was not made from, in order of appearance.

    Parameters
    ----------
    question
        Cleaned text.
    used
        Stretches that the query was made from.
    terms
        Stretches that name known terms; one that was not used is content as a whole ("T cells").
    cells
        The stretch that names the cells asked about; an adjective of state before it is a content word.
    names_people
        Whether donors or a disease were used, so that the word "patients" says nothing more.

    Returns
    -------
    Phrases, each text once; empty where every content word was used.

    Examples
    --------
    >>> unused_phrases("B cells and low-dose IL-2", used=[(0, 7), (21, 25)], terms=[], cells=(0, 7), names_people=False)
    ('low-dose',)
    """
    spans, left = list(used), list(question)
    for start, end in spans:
        left[start:end] = " " * (end - start)
    content = [term for term in terms if not any(_overlap(term, span) for span in spans)]
    more = _PATIENT if names_people else frozenset[str]()
    for word in _WORD.finditer("".join(left)):
        text = word.group().rstrip(".'-/").lower()
        start, end = word.start(), word.start() + len(text)
        is_adjective = text in _STATES and _BEFORE_CELLS.fullmatch(question[end : cells[0]]) is not None
        if not _is_asking(text, more) or (is_adjective and not _is_verb(question, start, spans)):
            content.append((start, end))
    return tuple(dict.fromkeys(question[start:end] for start, end in _joined(content, question)))


def still_unused(unused: Iterable[str], *, values: Iterable[str]) -> tuple[str, ...]:
    """Return the phrases that a query does not hold after a correction of its fields.

    Parameters
    ----------
    unused
        Phrases that the query was not made from when the question was read.
    values
        Texts of the corrected fields.

    Returns
    -------
    The phrases that none of the values writes, whatever their capitals and plurals.

    Examples
    --------
    >>> still_unused(("T cells", "elderly"), values=["T cell"])
    ('elderly',)
    """
    held = {spaced_key(split_words(value)) for value in values}
    return tuple(phrase for phrase in unused if spaced_key(split_words(phrase)) not in held)


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _joined(content: list[Span], question: str) -> list[Span]:
    """Return neighbouring stretches as one: a gap of blanks joins them, words that were used or that ask do not."""
    found: list[Span] = []
    for start, end in sorted(content):
        if found and not _APART.search(question[found[-1][1] : start]):
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _is_verb(question: str, start: int, spans: Iterable[Span]) -> bool:
    """Whether a word of state says what was done: "we stimulated B cells", or "IFN-beta-treated" after a used name."""
    return _SUBJECT.search(question[:start]) is not None or any(
        first < end <= start and not question[end:start].strip("-\u2010\u2011 ") for first, end in spans
    )


def _is_asking(word: str, more: frozenset[str]) -> bool:
    """Whether a word, or each part of a compound, only asks; ``more`` are further words that do."""
    if len(word) == 1:
        return not word.isdigit()
    return word in _ASKING | more or all(part in _ASKING for part in re.split(r"[-/']", word) if len(part) > 1)
