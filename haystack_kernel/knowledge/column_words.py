"""Words in the names and labels of columns that say how cells were treated, for atlases and for files of query cells.

In: the name of a column, or one of its labels. Out: whether it is about treatments, doses or times.
"""

from __future__ import annotations

import re

from haystack_kernel.knowledge.controls import control_words

# Words of the names of columns: these hold treatments,
SURE = re.compile(
    r"pert|perturb(?:ed|ations?)?|treat(?:ed|ments?)?|stim|stimul(?:us|i|ants?|ated|ations?)|drugs?|compounds?|"
    r"molecules?|chemicals?|cytokines?|ligands?|agonists?|inhibitors?|guides?|sgrnas?|grnas?|sirnas?|targets?|"
    r"knock(?:out|down)|ko|crispr|transfection|constructs?|orf|overexpression|infect(?:ed|ion)|virus|pathogen|"
    r"expos(?:ed|ure)|challenge|therapy|regimen|rx|iname|sm|vaccin(?:es?|ated|ations?)|allergens?|irradiat(?:ed|ion)|"
    r"behandlung|traitement|tratamiento|tratamento|trattamento"
)
# these do if cells differ in them,
OFTEN = re.compile(
    r"peptides?|antigens?|polari[sz](?:ed|ation)|activat(?:ed|ion|or)|oxygen|hypoxia|surgery|injury|toxins?|bacteria|"
    r"transgenes?|vectors?|plasmids?|medium|media|culture|intervention|radiation|transduc(?:ed|tion)|edit(?:ed|ing)?|"
    r"differentiation|diet|\w+virus|heat|temperature|car"
)
# and these may, if a control is among the labels.
LIKELY = re.compile(
    r"cond|conditions?|groups?|status|states?|samples?|batch|library|orig|ident|experiment|arm|cohort|class|labels?|"
    r"agents?|product|assignment|hto|hashtag|multiseq|id|type|category|genotypes?|mutants?|mutations?|clones?|lines?|"
    r"strains?|characteristics"
)
DOSE = re.compile(r"doses?|dosage|concentrations?|conc|amount|um|nm|moi|gy")
TIME = re.compile(r"times?|timepoints?|hours?|hpi|dpi|hrs?|visits?")
MEASURES = re.compile(  # and these count or measure something, or say how old cells and samples are
    r"umis?|counts?|n|num|numbers?|score|fraction|frac|pct|percent|total|log|expr|size|depth|rank|prob|probability|"
    r"respon(?:se|der)|ages?|process(?:ing|ed)?|storage|sequencing|seq|collection|death|pmi|survival|isolation|"
    r"digestion|naive"
)

_WEAK = re.compile(r"\b(?:naive|resting|baseline|false)\b", re.IGNORECASE)  # cells are so without any treatment
_GENERAL = frozenset({"control", "healthy", "wild type", "negative control"})  # patients have such labels, too
_ACTED_ON = re.compile(
    r"(?i:(?:^|[^a-z])(?:stim(?:ulated)?|treated|perturbed|infected|exposed|ko|knock-?out|kd|knock-?down)(?:[^a-z]|$))|"
    r"[A-Z0-9](?:KO|KD|OE)(?:[^A-Za-z]|$)|[A-Z0-9][-\u2212]/[-\u2212]"
)
_BEFORE = re.compile(
    r"(?:pre|before|baseline|screening|untreated|ut|unstim\w*|mock|none|control|ctrl)(?:[^a-z].*)?", re.IGNORECASE
)
_KEYED = re.compile(r"(?P<key>[A-Za-z][A-Za-z _-]{2,30}):\s+(?P<value>\S.*)")


def words_of(name: str) -> frozenset[str]:
    """Words of a column's name in lower case, camel case read both apart and together.

    Parameters
    ----------
    name
        Name of a column.

    Returns
    -------
    Its words, without digits.

    Examples
    --------
    >>> sorted(words_of("drugName.1"))
    ['drug', 'drugname', 'name']
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return frozenset(word for text in (apart, name) for word in re.findall(r"[a-z]+", text.casefold()))


def has_word(words: frozenset[str], pattern: re.Pattern[str]) -> bool:
    """Whether one of the words is one of a pattern of this module.

    Parameters
    ----------
    words
        From :func:`words_of`.
    pattern
        ``SURE``, ``DOSE``, …

    Returns
    -------
    True for a whole word.

    Examples
    --------
    >>> has_word(words_of("dose_uM"), DOSE)
    True
    """
    return any(pattern.fullmatch(word) for word in words)


def is_plain_control(label: str) -> bool:
    """Whether a label says that cells of an experiment were left untreated, whatever its column is called.

    "control", "healthy" and "wild type" may be said of patients, "naive" and "resting" of cell types.

    Parameters
    ----------
    label
        One label of any column.

    Returns
    -------
    True for DMSO, mock, unstimulated, non-targeting and the like.

    Examples
    --------
    >>> is_plain_control("unstim_d1"), is_plain_control("control"), is_plain_control("naive")
    (True, False, False)
    """
    if _WEAK.search(label):
        return False
    found = [control_words(part) for part in (label, *re.split(r"[_\s.-]+", label))]  # "PBMC_unstim"
    return any(one.is_control and one.kind not in _GENERAL for one in found)


def says_acted_on(label: str) -> bool:
    """Whether a label says that something was done to the cells: "stim_1", "STAT1_KO_c3", "THP1_STAT1KO".

    Parameters
    ----------
    label
        One label of any column.

    Returns
    -------
    True if it does.

    Examples
    --------
    >>> says_acted_on("STAT1_KO_c3"), says_acted_on("Tokyo")
    (True, False)
    """
    return _ACTED_ON.search(label) is not None


def is_before(label: str) -> bool:
    """Whether a label of a column of times says that a treatment was still to come: "Pre", "baseline", "UT".

    Parameters
    ----------
    label
        One label of a column of times.

    Returns
    -------
    True if it does.

    Examples
    --------
    >>> is_before("Pre-treatment"), is_before("week 4")
    (True, False)
    """
    return _BEFORE.fullmatch(label.strip()) is not None


def split_key(label: str) -> tuple[str, str]:
    """The key and the value of a label as GEO writes it: "treatment: LPS"; an empty key for other labels.

    Parameters
    ----------
    label
        One label of any column.

    Returns
    -------
    Key and value.

    Examples
    --------
    >>> split_key("treatment: LPS 100 ng/ml"), split_key("LPS")
    (('treatment', 'LPS 100 ng/ml'), ('', 'LPS'))
    """
    found = _KEYED.fullmatch(label)
    return (found["key"], found["value"]) if found else ("", label)
