"""Check which questions can be served; the others are refused with the reason and an example that works.

In: the user's text, or the query parsed from it. Out: the cleaned text; InvalidInputError names what to change.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.context import asks_for_cells, find_datasets, find_donors, find_terms
from haystack_kernel.planners.frames import find_slots
from haystack_kernel.schema import PERTURBATIONAL

if TYPE_CHECKING:
    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.schema import StructuredQuery, TermKind

MIN_CHARACTERS = 10
MAX_CHARACTERS = 2000
_STRAIGHT = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}
EXAMPLE = "How would lung fibroblasts respond to TGF-beta?"
SERVED = (
    "HAYSTACK predicts how human cells respond to a treatment, or what a cell type looks like in a donor, "
    f"tissue or dataset where it was not measured. Ask for example: {EXAMPLE}"
)

_NOUNS: dict[TermKind, str] = {
    "cell_type": "cell type",
    "perturbation": "treatment",
    "tissue": "tissue",
    "disease": "disease",
}
# Other species by their common names, in Latin (genus, then species), and by the names of laboratory strains.
_SPECIES = re.compile(
    r"\b(?P<animal>mouse|mice|murine|rats?|rodents?|non-?\s?human(?:\s+primates?)?|primates?|apes?|"
    r"zebrafish|medaka|fish|teleosts?|drosophila|fruit\s+fl(?:y|ies)|"
    r"c\.\s?elegans|nematodes?|planarians?|arabidopsis|yeast\s+cells?|"
    r"macaques?|monkeys?|rhesus|cynomolgus|baboons?|marmosets?|lemurs?|chimpanzees?|gorillas?|orang-?utans?|"
    r"pigs?|piglets?|minipigs?|swine|porcine|bovine|cows?|cattle|cal(?:f|ves)|dogs?|canine|beagles?|cats|feline|"
    r"ferrets?|minks?|bats?(?=\s+\w)|chickens?|chicks?|avian|birds?|ducks?|quails?|xenopus|frogs?|axolotls?|"
    r"salamanders?|hamsters?|gerbils?|voles?|naked\s+mole-?rats?|rabbits?|sheep|lambs?|ovine|goats?|caprine|camels?|"
    r"llamas?|alpacas?|horses?|equine|guinea\s+pigs?|opossums?|"
    r"m\u00e4use|maus|ratten?|souris|rat[o\u00f3]n(?:es)?|schwein\w*|muizen|muis|"
    r"(?-i:Mus|Rattus|Gallus|Macaca|Danio|Sus|Bos|Canis|Felis|Ovis|Capra|Equus|Oryctolagus|Cavia|Mesocricetus|"
    r"Cricetulus|Papio|Callithrix|Chlorocebus|Microcebus|Pan|Gorilla|Mustela|Anas|Coturnix|Heterocephalus|Peromyscus|"
    r"Ambystoma|Oryzias|Salmo|Aedes|Anopheles|Caenorhabditis|Saccharomyces|Drosophila|Xenopus|Camelus|Rousettus|"
    r"Pteropus|Myotis)\s+(?-i:[a-z]{3,})|"
    r"balb/?c?(?:j|by)?|c57bl/?(?:6|10)?\w*|(?<!vitamin\s)(?-i:B6)(?=\s)|black\s?6|fvb(?:/n)?|sjl(?:/j)?|dba/?[12]|c3h(?:/he\w*)?|a/j|akr/j|"
    r"129/?s\w*|(?-i:NOD)(?=\s)|nod[ /-]scid|swiss[- ]webster|sprague[- ]?dawley|wistar|long[- ]evans|"
    r"fischer[- ]344|f344|brown[- ]norway)(?!\w)"
    r"(?!\s+(?:\w+\s+)?(?:anti\b|anti-|double\s+minute|monoclonal|antibod|serum|sera|virus|flu\b|influenza|pox|milk|oils?\b|"
    r"venom|allergen|dander|insulin|collagen|albumin|lactoferrin|gelatin|red\s+blood\s+cells|mammary\s+tumou?r))",
    re.IGNORECASE,
)
_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_NUMBERS = {word: number for number, word in enumerate((*_ONES, *_TEENS), 1)}
_TENS = {"twenty": 20, "thirty": 30}
_SPELLED = re.compile(  # a number in words that is part of a name
    r"\b(?P<name>interleukins?|il|type|class)(?P<gap>[\s-]+)"
    rf"(?:(?P<tens>{'|'.join(_TENS)})(?:[\s-]+(?P<ones>{'|'.join(_ONES)}))?|(?P<single>{'|'.join(_NUMBERS)}))\b",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"\b(?:unlike|not|than|versus|vs\.?|as|known|shown|seen|reported|from|to|with)\s+(?:in\s+|from\s+)?(?:the\s+)?$",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\S+", text))


_ENGLISH = _words(
    "a an and are as be by can cells could did do does effect for from had has have how if in into is it like of on "
    "or predict respond response should show than that the their them they this to under was were what when where "
    "which who why will with would"
)
_FOREIGN = _words(
    # German, French, Spanish, Italian, Portuguese, Dutch
    "wie würden wurden würde wurde werden auf der das den dem ein eine einer und nicht mit bei auf reagieren zellen "
    "comment les des une est dans sur avec pour que qui aux au cellules réagiraient répondraient quel quelle "
    "cómo como los las el una del con por para qué responderían células celulas "
    "gli della delle nel alla cosa risponderebbero cellule "
    "os um uma não em ao responderiam "
    "hoe zouden het een van op reageren cellen"
)


def check_question(question: str, *, knowledge: Knowledge | None = None) -> str:
    """Clean the text and refuse what cannot be a question about human cells.

    Control and invisible characters are dropped, runs of white space become one space. Nothing in the text is ever
    followed as an instruction.

    Parameters
    ----------
    question
        The user's text, 10 to 2,000 characters once cleaned.
    knowledge
        Tables that decide which words are terms; None takes the packaged ones.

    Returns
    -------
    The cleaned text.

    Raises
    ------
    InvalidInputError
        The question is empty, too short, too long, not English, about another species, or not about cells; the
        message says what was given and what can be answered, with an example.

    Examples
    --------
    >>> check_question("  How would B cells respond to IFN-beta? ")
    'How would B cells respond to IFN-beta?'
    """
    text = check_text(question)
    _check_language(text)
    _check_species(text)
    _check_subject(text, knowledge=knowledge or load_knowledge())
    return text


def check_text(question: str) -> str:
    """Clean the text and refuse what no planner can read: nothing, too little or too much.

    Parameters
    ----------
    question
        The user's text.

    Returns
    -------
    The cleaned text.

    Raises
    ------
    InvalidInputError
        It is empty, too short or too long.

    Examples
    --------
    >>> check_text("  How would B cells respond to IFN-beta? ")
    'How would B cells respond to IFN-beta?'
    """
    text = clean_text(question)
    if not text:
        msg = f"the question is empty. {SERVED}"
        raise InvalidInputError(msg, n_characters=0)
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
        size = "short" if len(text) < MIN_CHARACTERS else "long"
        msg = (
            f"the question is too {size}: {len(text):,} characters were given, {MIN_CHARACTERS} to "
            f"{MAX_CHARACTERS:,} are possible. {SERVED}"
        )
        raise InvalidInputError(msg, n_characters=len(text))
    return text


def check_human(question: str) -> str:
    """Refuse what no planner may answer, whatever it reads: text of a bad length, and cells of another species.

    Parameters
    ----------
    question
        The user's text.

    Returns
    -------
    The cleaned text.

    Raises
    ------
    InvalidInputError
        The message says what can be asked instead.

    Examples
    --------
    >>> check_human("Was machen B-Zellen unter IFN-beta?")
    'Was machen B-Zellen unter IFN-beta?'
    """
    text = check_text(question)
    _check_species(text)
    return text


def check_answerable(query: StructuredQuery) -> StructuredQuery:
    """Check that a query names what its task type needs.

    Every task needs a known cell type, and the perturbational tasks a known perturbation. A question that an answer
    would turn into another one is refused: its objections say why, and its unknown terms are named. Ambiguous terms
    pass: they are shown with their alternatives, as are words that were not used.

    Parameters
    ----------
    query
        The parsed question.

    Returns
    -------
    The query, unchanged.

    Raises
    ------
    InvalidInputError
        There is an objection, or a term is missing or unknown; the message names the words and what to ask instead.

    Examples
    --------
    >>> check_answerable(parse_question(question, knowledge=knowledge)).task_type  # doctest: +SKIP
    'perturbation_novel_cell_types'
    """
    if query.objections:
        raise _objection(query)
    if query.unresolved:
        raise _unknown(query)
    missing = {}
    if query.cell_type_name is None:
        missing["cell_type"] = _NOUNS["cell_type"]
    if query.perturbation is None:
        missing["perturbation"] = _NOUNS["perturbation"]
    if query.task_type not in PERTURBATIONAL:
        missing.pop("perturbation", None)
    if missing:
        nouns = " and no ".join(missing.values())
        msg = f"the question {_quoted(query.question)} names no {nouns}. {SERVED}"
        raise InvalidInputError(msg, missing=sorted(missing))
    return query


def clean_text(question: str) -> str:
    """Return the text with composed letters, straight quotes, no control or invisible characters, single spaces.

    Numbers in words become digits where they are part of a name: "interleukin two" is one of many interleukins.
    """
    composed = unicodedata.normalize("NFC", question).translate(_STRAIGHT)
    spaced = "".join(" " if char.isspace() else char for char in composed)
    kept = "".join(char for char in spaced if unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn"})
    return _SPELLED.sub(_in_digits, " ".join(kept.split()))


def _in_digits(found: re.Match[str]) -> str:
    tens, ones, single = (found[name] for name in ("tens", "ones", "single"))
    number = _NUMBERS[single.lower()] if single else _TENS[tens.lower()] + (_NUMBERS[ones.lower()] if ones else 0)
    return f"{found['name']}{found['gap']}{number}"


# --- reasons to refuse --------------------------------------------------------------------------------------------


def _check_species(text: str) -> None:
    names_human = re.search(r"\bhumans?\b|\bpatients?\b", text, re.IGNORECASE) is not None
    for found in _SPECIES.finditer(text):
        # "human cells, unlike in mice" mentions another species without asking about it.
        if names_human and _ASIDE.search(text[: found.start()]):
            continue
        msg = (
            f"the question is about {found['animal']!r}, but all atlases and tables are human. Ask about human "
            f"cells instead. {SERVED}"
        )
        raise InvalidInputError(msg, reason="species", species=found["animal"])


def _check_language(text: str) -> None:
    letters = [char for char in text if char.isalpha()]
    if not letters:
        msg = f"{_quoted(text)} contains no words. {SERVED}"
        raise InvalidInputError(msg, reason="no words")
    words = re.findall(r"[^\W\d_]+", text.lower())
    n_english = sum(word in _ENGLISH for word in words)
    n_foreign = sum(word in _FOREIGN for word in words)
    is_other_script = sum(char.isascii() for char in letters) < 0.6 * len(letters)
    if is_other_script or (n_foreign >= 2 and n_foreign > n_english):
        msg = f"{_quoted(text)} is not in English, the only supported language. {SERVED}"
        raise InvalidInputError(msg, reason="language")


def _check_subject(text: str, *, knowledge: Knowledge) -> None:
    mentions = find_terms(text, knowledge=knowledge)
    kinds = {mention.kind for mention in mentions}
    donors = find_donors(text, mentions=mentions, held=knowledge.donors)
    if not kinds and not find_slots(text) and not donors:
        msg = f"{_quoted(text)} names no cell type, treatment, tissue or donor. {SERVED}"
        raise InvalidInputError(msg, reason="no term")
    named = donors or find_datasets(text, mentions=mentions)
    if kinds <= {"cell_type"} and not named and not find_slots(text) and not asks_for_cells(text):
        msg = f"{_quoted(text)} names no treatment, donor, tissue or dataset to predict the cells for. {SERVED}"
        raise InvalidInputError(msg, reason="no context")


def _objection(query: StructuredQuery) -> InvalidInputError:
    first = query.objections[0]
    msg = f"the question {first.reason} (here: {_quoted(first.text)})."
    if first.questions:
        asked = ", or ".join(f"`haystack run {shlex.quote(text)}`" for text in first.questions)
        msg += f" Ask instead: {asked}"
    else:
        msg += f" Ask for example: {EXAMPLE}"
    if first.kind == "inverse":
        search = f"haystack seek {shlex.quote(query.question)}"
        msg += f" To search for the treatment that moves cells toward a state: `{search}`"
    return InvalidInputError(msg, reason=first.kind, text=first.text, questions=list(first.questions))


def _unknown(query: StructuredQuery) -> InvalidInputError:
    sentences, nearest = [], {}
    for term in query.unresolved:
        near = nearest[term.text] = [match.name for match in term.alternatives]
        hint = f"closest known terms: {', '.join(near)}" if near else "no known term is close"
        note = f"; {term.note}" if term.note else ""
        sentences.append(f"{_quoted(term.text)} is not a known {_NOUNS[term.kind]}{note} ({hint}).")
    known = EXAMPLE
    if query.cell_type_name and query.perturbation:
        known = f"How would {query.cell_type_text} respond to {query.perturbation.text}?"
    msg = f"{' '.join(sentences)} Ask again with a known term, for example: {known}"
    first = query.unresolved[0]
    return InvalidInputError(msg, kind=first.kind, text=first.text, nearest=nearest)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
