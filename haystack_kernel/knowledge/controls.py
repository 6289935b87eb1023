"""Words for unperturbed cells and for cells of which no treatment is known, as labels of treatments use them.

In: one label of a column of treatments, or of a query file. Out: the kind of control it names, and what else it says.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

# Kind of control -> how labels write it, once case, punctuation and camel case are evened out. Kinds are looked for in
# this order, so that "non targeting" is found before "nt".
_GUIDES = r"(?:si|sh|sg|g|cr)?(?:rnas?|guides?|grnas?|oligos?)"
_CONTROL = r"(?:controls?|ctrls?|ctl|cntrl|kontroll\w*|contr[oôó]le?s?|t[eé]moins?)"
_KINDS: Final = {
    "non-targeting": (
        rf"non ?target(?:ing|ed|s)?\d*|nontgt\d*|ntcs?\d*|ntg\d+|nt(?!(?: ?[3-5])(?![^ ]))\d*|"
        rf"(?:si|sh|sg) ?(?:nt|ntc|neg|nc|scr|scrambled?|luc|lacz|gfp|aavs1|con|{_CONTROL})\d*|scr|"
        rf"scrambled?\d*(?: {_GUIDES})?|(?:neg(?:ative)? ?)?{_CONTROL} {_GUIDES}"
    ),
    "safe-targeting": r"safe ?(?:targeting|harbou?r|cutting)\d*|intergenic\d*|no site|(?:one )?non gene(?: site)?",
    "DMSO": r"dmso\d*|dimethyl ?sul(?:f|ph)oxide",
    "PBS": r"d?pbs\d*|phosphate buffered saline",
    "saline": r"saline",
    "ethanol": r"ethanol|etoh",
    "methanol": r"methanol|meoh",
    "water": r"water|d?dh2o|h2o",
    "BSA": r"bsa|bovine serum albumin",
    "medium": r"mediums?|media",
    "isotype": r"isotypes?(?: igg ?\d?[ab]?)?|igg ?\d?[ab]?(?: isotype)?",
    "mock": r"mock\d*",
    "placebo": r"placebo",
    "sham": r"sham",
    "wild type": r"wild ?type|wt|parental|isogenic",
    "healthy": r"healthy|normal|homeostasis|homeostatic|steady state",
    "untreated": (
        r"un ?(?:treated|treat|stimulated|stimulation|stim|perturbed|exposed|infected|induced|transfected|transduced|"
        r"edited|modified|challenged|activated)\d*|(?:not|non|no) ?(?:treated|treatments?|treat|drugs?|compounds?|"
        r"stimulated|stimulations?|stimulus|stim|perturbed|perturbations?|exposed|exposure|infected|infection|virus|"
        r"induced|transfected|transduced|edited|cytokines?|ligands?|additions?|agents?)|untr|unt|utd?|naive|"
        r"unbehandelt|non trait[eé]e?s?|sin tratar|baseline|resting|pre ?treatment|false"
    ),
    "vehicle": r"vehicles?\d*|veh|solvent|carrier",
    "negative control": rf"neg(?:ative)? ?{_CONTROL}\d*",
    "control": rf"{_CONTROL}\d*|ctr|cont|con",
}
_GENETIC: Final = {  # in a screen these are guides without a target in the cell, elsewhere they may be anything
    "non-targeting": r"nc\d*|aavs1|rosa ?26|lacz|luc|luciferase|e?gfp|empty ?vector|ev|non ?coding|nt ?\d+"
}
GENERAL: Final = ("vehicle", "negative control", "control")  # words that say less than another kind beside them
SOLVENTS: Final = frozenset({"DMSO", "PBS", "saline", "ethanol", "methanol", "water", "BSA", "medium", "vehicle"})
GUIDES: Final = frozenset({"non-targeting", "safe-targeting", "negative control"})

_NEUTRAL = re.compile(
    r"\d+(?:\.\d+)?|[a-h]\d\d?|hs|human|h|[hd]pi|hrs?|hours?|mins?|minutes?|days?|weeks?|wks?|u|n|m|[unm]m|[nu]g|ml|"
    r"[lvwx]|percent|(?:r|d|t|g|sg|p|reps?|replicates?|bio ?reps?|techrep|donors?|samples?|batch|plates?|wells?|exp|"
    r"experiments?|runs?|pools?|sets?|groups?|lib|library|s|hto|cmo|tag|hashtag|lanes?)\d*|pooled|cells?|conditions?|"
    r"only|alone|treated|treatments?|"
    r"treat|stimulated|stimulation|stim|infected|infection|exposed|transfected|transduced|perturbation|sgrnas?|grnas?|"
    r"guides?|sirnas?|shrnas?|crispr[ai]?|ko|kd|p1p2|tf|the|of|with|in|and|by|for|no|none|oligos?"
)
_HINT = re.compile(
    r"control|ctrl|dmso|untreat|unstim|vehicle|mock|non[ _.-]?target|scramble|unperturb|non[ _.-]?stim|uninfect",
    re.IGNORECASE,
)
_POSITIVE = re.compile(r"\bpos(?:itive)?\b|\bnon (?:ctrl|control)\b")
_UNASSIGNED = re.compile(
    r"|na|n a|nan|none|null|nil|unknown|unk|unassigned|un assigned|not assigned|no assignment|unidentified|"
    r"not available|not applicable|not determined|not detected|not known|not recorded|not reported|nd|n d|tbd|missing|"
    r"undetermined|undefined|unspecified|unclear|uncertain|unmapped|unclassified|unresolved|unlabell?ed|ambiguous|"
    r"negative|neg|doublets?|multiplets?|multi|multiple|multiples|multiple (?:guides?|sgrnas?|grnas?)|"
    r"multi (?:guides?|sgrnas?|grnas?)|(?:no|without) ?(?:guides?|sgrnas?|grnas?|calls?|barcodes?|hashtags?|htos?|"
    r"labels?|annotations?|features?|genes?)|guide ?less|no feature call|low quality|filtered(?: out)?|excluded?"
)


@dataclass(frozen=True)
class ControlWords:
    """What a label says of controls.

    Attributes
    ----------
    kind
        ``DMSO``, ``PBS``, ``non-targeting``, ``untreated``, ``control``, …; "" if the label has no such word.
    rest
        The other words of the label that mean something: "Dabrafenib" of "Dabrafenib in DMSO"; "" if there are none.
    """

    kind: str = ""
    rest: str = ""

    @property
    def is_control(self) -> bool:
        """Whether the label names a control and nothing else."""
        return bool(self.kind) and not self.rest


def control_words(label: str, *, genetic: bool = False) -> ControlWords:
    """Read which control a label names, if any.

    Parameters
    ----------
    label
        One label of a column of treatments.
    genetic
        Whether the column holds genetic perturbations: there AAVS1, LacZ, GFP and an empty vector are controls.

    Returns
    -------
    The kind of control and the words that are left. Numbers, times, units, replicates and words such as "treated" or
    "cells" beside a control count as nothing. A positive control is a treatment, and has no kind.

    Examples
    --------
    >>> control_words("vehicle (DMSO)").kind, control_words("NT_1").kind, control_words("untreated 24h").kind
    ('DMSO', 'non-targeting', 'untreated')
    >>> control_words("Dabrafenib in DMSO")
    ControlWords(kind='DMSO', rest='dabrafenib')
    >>> control_words("positive control").kind
    ''
    """
    text = _even(label)
    if _POSITIVE.search(text):
        return ControlWords(rest=text)
    kinds: list[str] = []
    for table in (_GENETIC, _KINDS) if genetic else (_KINDS,):
        for kind, pattern in table.items():
            found = re.sub(rf"(?<![^ ])(?:{pattern})(?![^ ])", "|", text)
            if found != text:
                kinds.append(kind)
                text = found
    if not kinds:
        return ControlWords(rest=text)
    telling = {kind for kind in kinds if kind not in GENERAL}
    left = [word for word in text.replace("|", " ").split() if not _NEUTRAL.fullmatch(word)]
    return ControlWords(" + ".join(sorted(telling)) or min(kinds, key=GENERAL.index), " ".join(left))


def hints_at_control(label: str) -> bool:
    """Whether a label has a word such as control or DMSO anywhere, whatever else it says: "CtrlA", "DMSO organoid".

    Parameters
    ----------
    label
        One label of a column of treatments.

    Returns
    -------
    True if it would be rash to count the cells as treated without asking.

    Examples
    --------
    >>> hints_at_control("CtrlA"), hints_at_control("LPS")
    (True, False)
    """
    return _HINT.search(label) is not None and _POSITIVE.search(_even(label)) is None


def is_unassigned(label: str) -> bool:
    """Whether a label says that the treatment of its cells is not known: "", "NA", "unassigned", "no-guide", "doublet".

    "None" is among them although it may mean "no treatment": who reads a file must ask where it is all there is.

    Parameters
    ----------
    label
        One label of a column of treatments.

    Returns
    -------
    True if the cells are neither treated nor controls.

    Examples
    --------
    >>> is_unassigned("N/A"), is_unassigned("no_guide"), is_unassigned("untreated")
    (True, True, False)
    """
    return _UNASSIGNED.fullmatch(_even(label)) is not None


def _even(label: str) -> str:
    """Lower case, one space for punctuation, words of camel case and "24h" apart."""
    text = unicodedata.normalize("NFKC", label)
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text).casefold().replace("ï", "i")
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w.]|_", " ", text)
    return " ".join(re.sub(r"(?<![^ ])(\d+(?:\.\d+)?)(?=[a-z]+(?![^ ]))", r"\1 ", text).split())
