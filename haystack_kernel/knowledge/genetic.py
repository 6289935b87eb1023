"""The grammar of genetic perturbations: any human gene, knocked out or down, silenced, activated or over-expressed.

In: labels of data sets, phrases of questions, the table of genes. Out: genes with the mode of their change; controls
and cells without a guide; what is not understood is None, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from haystack_kernel.knowledge.controls import control_words, is_unassigned
from haystack_kernel.knowledge.genes import load_genes

if TYPE_CHECKING:
    from collections.abc import Iterator

Mode = Literal["knock-out", "knock-down", "CRISPRi", "CRISPRa", "over-expression"]
MODE_SIGNS: dict[Mode, int] = {  # what becomes of the activity of the gene
    "knock-out": -1,
    "knock-down": -1,
    "CRISPRi": -1,
    "CRISPRa": 1,
    "over-expression": 1,
}
ASSUMED: Mode = "knock-out"  # where a guide or a CRISPR perturbation is named without its mode
JOIN = " + "  # between the changes of a combination

# --- words ----------------------------------------------------------------------------------------------------------

_MODE_WORDS: dict[Mode, str] = {  # the first that is found counts
    "CRISPRa": (
        r"crispr[-_ ]?a(?:ctivat(?:ion|ed|ing))?|d-?cas9[-_ ]?(?:vp64|vpr|sam|suntag|p300)|cas9[-_ ]?activation"
    ),
    "CRISPRi": (
        r"crispr[-_ ]?i(?:nterference)?|crispr[-_ ]?repression|"
        r"(?:zim3[-_ ]?)?d-?cas9[-_ ]?(?:krab(?:[-_ ]?mecp2)?|zim3)"
    ),
    "knock-down": (
        r"knock(?:ed|ing|s)?[-_ ]?downs?|kd|(?:e?si|sh)[-_ ]?rnas?|small[- ]interfering[- ]rnas?|"
        r"short[- ]hairpin[- ]rnas?|rnai|rna[- ]interference|"
        r"silenc(?:ed|ing|es)|morpholinos?|antisense(?:[- ]oligo(?:nucleotide)?s?)?|asos?"
    ),
    "over-expression": (
        r"over[-_ ]?express(?:ion|ed|ing|es)?|oe|(?:ectopic|forced|enforced)(?:ly)?[- ]express(?:ion|ed|ing)|orf|cdna|"
        r"gain[- ]of[- ]function|gof"
    ),
    "knock-out": (
        r"knock(?:ed|ing|s)?[-_ ]?outs?|k\.?o\.?|crispr[-_ ]?ko|delet(?:ion|ed|ing)|disrupt(?:ion|ed|ing)|"
        r"ablat(?:ion|ed|ing)|loss(?:[- ]of[- ]function)?|lof|null"
    ),
}
_GUIDE_WORDS = r"crispr(?:[-_/ ]?cas-?9)?|cas-?9|(?:sg|g|cr)[-_ ]?rnas?|guides?(?:[- ]rnas?)?|perturb(?:ation|ed|ing)"
_START, _END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_LOST_BOTH = r"[-\u2212\u2013]/[-\u2212\u2013]"  # JAK2-/-
_MODES = tuple(
    (mode, re.compile(rf"{_START}(?:{words}){_END}{f'|{_LOST_BOTH}' * (mode == 'knock-out')}", re.IGNORECASE))
    for mode, words in _MODE_WORDS.items()
)
_GUIDES = re.compile(f"{_START}(?:{_GUIDE_WORDS}){_END}", re.IGNORECASE)
_FILLERS = re.compile(
    r"\b(?:of|against|targeting|for|the|human|genes?|mediated|by|via|using|is|are|was|were|been|has|have|being|"
    r"double|single|combined|both|stable|transient|partial|complete|homozygous|biallelic)\b",
    re.IGNORECASE,
)
_PARTS = re.compile(r"\s*(?:(?<!_)\+(?!_)|&|;|,|\|+|/|\band\b)\s*")  # between the parts of a combination
_PREFIX = re.compile(
    r"^(?:(?:sg|si|sh|g|cr)RNA[-_ .:]?|(?:sg|si|sh|cr)[-_ ]?(?=[A-Z])|guide[-_ ]|(?:KO|KD|OE|TF|GENE)[-_ :])"
)
_SUFFIX = re.compile(
    r"(?:"
    r"[-_. ]?(?:sg|g|sgRNA|gRNA|guide|sh|si|cr)[-_. ]?\d{1,3}[A-Za-z]?"  # _sg1, g2, -sgRNA_3
    r"|[-_. ](?:sg|g|sgRNA|gRNA|guide|guides|sh|si)"
    r"|[-_]P\d(?:P\d)?"  # transcription start sites of CRISPRi libraries: _P1P2
    r"|[-_]ENS[TG]\d+(?:\.\d+)?"
    r"|[-_][+-](?:[-_]\d+(?:\.\d+)*)?(?:-P\d(?:P\d)?)?"  # strand and place: _+_219134814.23-P1P2
    r"|[-_]p[A-Z]{2,3}\d+(?:-\d+)?"  # plasmid: _pDS258
    r"|[-_][ACGT]{17,25}"  # sequence of the guide
    r"|[-_. ]\d{1,5}[A-Za-z]?"
    r"|[-_. ]?#\d{1,3}"
    r"|[-_]only"
    r")$"
)
_MODE_SUFFIX: tuple[tuple[Mode, re.Pattern[str]], ...] = (  # glued to the symbol: TP53KO, KLF1_i, KLF1_a
    ("knock-out", re.compile(r"[-_]?KO$")),
    ("knock-down", re.compile(r"[-_]?KD$")),
    ("over-expression", re.compile(r"[-_]?OE$")),
    ("CRISPRi", re.compile(r"(?<=[A-Z0-9])[-_]i$")),
    ("CRISPRa", re.compile(r"(?<=[A-Z0-9])[-_]a$")),
)
_MODE_PREFIX: tuple[tuple[Mode, re.Pattern[str]], ...] = (
    ("knock-down", re.compile(r"^s[ih](?:[-_ ]?(?=[A-Z])|RNA[-_ .:])|^KD[-_ :]")),
    ("over-expression", re.compile(r"^OE[-_ :]")),
    ("knock-out", re.compile(r"^KO[-_ :]|^\u0394(?=[A-Z])")),
)
_GUIDE_MARK = re.compile(
    r"^(?:sg|gRNA|sgRNA|crRNA)|[-_. ](?:sg|sgRNA|gRNA|guide)[-_. ]?\d{0,3}$"
)  # a guide for certain
_PLASMID = re.compile(r"[-_]p[A-Z]{2,3}\d+(?:-\d+)?$")  # _pDS258
_MONTHS = {"mar": "MARCHF", "sep": "SEPTIN", "dec": "DELEC"}
_DATE = re.compile(r"^(?:0?(\d{1,2})-(mar|sep|dec)|(mar|sep|dec)-0?(\d{1,2}))$", re.IGNORECASE)


@dataclass(frozen=True)
class GeneChange:
    """One gene and what was done to it; ``is_stated`` is False where a guide was named and no mode."""

    gene: str
    mode: Mode
    is_stated: bool = True

    @property
    def name(self) -> str:
        """Canonical name of the perturbation, such as ``JAK2 knock-out``."""
        return f"{self.gene} {self.mode}"


@dataclass(frozen=True)
class GeneticLabel:
    """What a label or phrase says.

    Attributes
    ----------
    kind
        "change" of genes; "control" cells, with a guide that changes nothing or none by design; "none" where the guide
        of the cell is not known, so that it is neither treated nor a control.
    changes
        The genes, each once, in alphabetical order; several are a combination.
    control
        Kind of control, as :func:`~haystack_kernel.knowledge.controls.control_words` names it.
    notes
        What a reader should know, such as a symbol that is no longer current.
    """

    kind: Literal["change", "control", "none"]
    changes: tuple[GeneChange, ...] = ()
    control: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Canonical name: ``JAK2 knock-out``, or ``JAK2 knock-out + STAT1 knock-out``; "" where no gene is changed."""
        return JOIN.join(change.name for change in self.changes)


def read_genetic(text: str, *, declared: bool = False, mode: Mode | None = None) -> GeneticLabel | None:
    """Read a label or a phrase that names a genetic perturbation.

    Parameters
    ----------
    text
        ``JAK2 knock-out``, ``knock-out of JAK2``, ``siRNA against STAT1``, ``sgJAK2``; and where declared ``JAK2``,
        ``JAK2_g1``, ``JAK2+ctrl``, ``KLF1_MAP2K6``, ``NTC_1``, ``unassigned``.
    declared
        Whether the text stands in a column of genetic perturbations, where a bare symbol means a perturbed gene and
        not, say, the cytokine TNF.
    mode
        What was done to the genes of such a column, where the label does not say; None is taken as a knock-out, and
        marked as not stated.

    Returns
    -------
    None where the text cannot be read whole: a part that is not understood is never dropped.

    Examples
    --------
    >>> read_genetic("siRNA against STAT1").name
    'STAT1 knock-down'
    >>> read_genetic("NTC_1", declared=True).control
    'non-targeting'
    """
    text = text.strip()
    if declared and is_unassigned(text):
        return GeneticLabel("none")
    if declared and (kind := _control_kind(text)):
        return GeneticLabel("control", control=kind)
    parts = _PARTS.split(text)
    if sum(_take_mode(part)[0] is not None for part in parts) > 1:  # each part says what was done to its gene
        labels = [read_genetic(part, declared=declared, mode=mode) for part in parts]
        return _combined([one for one in labels if one is not None]) if all(labels) else None
    return _read_changes(text, declared=declared, mode=mode)


def find_genetic(text: str) -> list[tuple[int, int, GeneticLabel]]:
    """Find the phrases of a text that name a genetic perturbation, such as "knock-out of JAK2".

    Parameters
    ----------
    text
        A question.

    Returns
    -------
    Start, end and meaning of each. In "JAK2 and STAT1 knock-out" these are two; with "double" or "+" a combination.

    Examples
    --------
    >>> find_genetic("silencing STAT1 in B cells")[0][:2]
    (0, 15)
    """
    found: list[tuple[int, int, GeneticLabel]] = []
    for start, end in _mode_places(text):
        for stretch in _stretches(text, start, end):
            if labels := _read_stretch(text, stretch):
                found += labels
                break
    for glued in _GLUED.finditer(text):
        label = read_genetic(glued.group())
        if label is not None and not any(start < glued.end() and glued.start() < end for start, end, _ in found):
            found.append((glued.start(), glued.end(), label))
    return sorted(found, key=lambda one: one[:2])


# --- labels ---------------------------------------------------------------------------------------------------------


def _read_changes(text: str, *, declared: bool, mode: Mode | None) -> GeneticLabel | None:
    """Read a label that states one mode or none: first as it stands, then without words of guides and of grammar."""
    stated, rest = _take_mode(text)
    has_words = stated is not None or _GUIDES.search(rest) is not None
    readings = [rest, _FILLERS.sub(" ", _GUIDES.sub(" ", rest))] if has_words else [rest]
    reader = _Reader(mode=stated or mode, is_free=declared or has_words, is_declared=declared)
    found = (reader.read(" ".join(reading.split()).strip(" -_:()[]")) for reading in readings)
    return next(filter(None, found), None)


@dataclass(frozen=True)
class _Reader:
    """Reads what is left of a label without words of mode; ``is_free`` where a bare symbol is enough."""

    mode: Mode | None
    is_free: bool
    is_declared: bool

    def read(self, text: str) -> GeneticLabel | None:
        changes: dict[str, GeneChange] = {}
        notes: list[str] = []
        for part in _PARTS.split(text) if text else []:
            if _control_kind(part) and (self.is_declared or "+" in text):
                continue
            read = self._part(part)
            if not read:
                return None
            for change, note in read:
                changes.setdefault(change.gene, change)
                notes += [note] if note else []
        if not changes:
            return None
        return GeneticLabel("change", tuple(changes[gene] for gene in sorted(changes)), notes=tuple(notes))

    def _part(self, part: str) -> list[tuple[GeneChange, str]]:
        """The gene of one part, or the genes of ``KLF1_MAP2K6``; empty where it is not understood."""
        if one := self._gene(part):
            return [one]
        if not self.is_free:
            return []
        for mark in ("_", "-", " "):
            pieces = [piece for piece in part.split(mark) if not _control_kind(piece)]
            if len(part.split(mark)) > 1 and pieces:
                found = [self._gene(piece) for piece in pieces]
                if all(found):
                    return cast("list[tuple[GeneChange, str]]", found)
        return []

    def _gene(self, part: str) -> tuple[GeneChange, str] | None:
        mode, is_free, rest = self.mode, self.is_free, part.strip()
        if _control_kind(rest):  # sgAAVS1
            return None
        for _ in range(6):  # symbol, then without one ending or beginning after the other
            if symbol := self._symbol(rest, is_free=is_free):
                note = f"{rest} is {symbol}" if rest.upper() != symbol.upper() else ""
                change = GeneChange(symbol, mode or ASSUMED, is_stated=mode is not None)
                return (change, note) if is_free else None
            said, shorter = _shorter(rest)
            if shorter in ("", rest):
                return None
            is_free = is_free or said is not None or _GUIDE_MARK.search(rest) is not None
            mode, rest = said or mode, shorter
        return None

    def _symbol(self, text: str, *, is_free: bool) -> str | None:
        """The current symbol of a gene written so; other capitals, former symbols and aliases only where it is free."""
        found = load_genes().find(text)
        if len(text) == 1 and not self.is_declared:
            return None
        if found.how in {"symbol", "ensembl"}:
            return found.symbol
        if not is_free:
            return None
        if date := _DATE.match(text):  # a spreadsheet made a date of the symbol
            return load_genes().find(_MONTHS[(date[2] or date[3]).lower()] + (date[1] or date[4])).symbol
        # Without a number a word in small letters may be plain English: rest, impact, set.
        return found.symbol if text.isupper() or any(map(str.isdigit, text)) else None


def _shorter(text: str) -> tuple[Mode | None, str]:
    """A label without one ending or beginning, and the mode that this states."""
    for mode, form in (*_MODE_PREFIX, *_MODE_SUFFIX):
        if form.search(text):
            return mode, form.sub("", text, count=1)
    without = _SUFFIX.sub("", text)
    return None, _PREFIX.sub("", text) if without == text else without


def _control_kind(text: str) -> str:
    """Kind of control that a label or a part of one names; "" for none."""
    words = control_words(_PLASMID.sub("", text), genetic=True)
    return words.kind if words.is_control else ""


def _take_mode(text: str) -> tuple[Mode | None, str]:
    """The mode that words state, and the text without them."""
    for mode, words in _MODES:
        if words.search(text):
            rest = text
            for _, others in _MODES:  # "CRISPRi knock-down" states one thing twice
                rest = others.sub(" ", rest)
            return mode, rest
    return None, text


# --- phrases --------------------------------------------------------------------------------------------------------

_SYMBOL = r"[A-Za-z][A-Za-z0-9]*(?:[-.][A-Za-z0-9]+)*"
_LIST = rf"{_SYMBOL}(?:(?:\s*(?:,|\+|&|/)\s*|\s+and\s+|,\s*and\s+){_SYMBOL})*"
_LINK = r"(?:[\s-]+(?:of|against|targeting|for|to|the|human|gene|both|expression\s+of))*"
_AFTER = re.compile(rf"^{_LINK}[\s-]+(?P<list>{_LIST})")
_BEFORE = re.compile(
    rf"(?P<list>{_LIST})(?:[\s_-]+(?:gene|double|is|was|are|were|has\s+been|have\s+been|being|stably|targeting))*[\s_-]*$"
)
_LINKED = re.compile(r"^\s+(?:of|against|targeting|for|to)\b")
_VERB = re.compile(r"ing$|ing[- ](?:out|down)$", re.IGNORECASE)
_GLUED = re.compile(
    r"(?<![A-Za-z0-9-])(?:(?:sg|si|sh)[A-Z][A-Z0-9]+(?:-[A-Z0-9]+)?|[A-Z][A-Z0-9-]*[A-Z0-9](?:KO|KD)|"
    r"[A-Z][A-Z0-9-]*[A-Z0-9]_(?:sg|g)\d)(?![A-Za-z0-9])"
)
_DOUBLE = re.compile(r"\b(?:double|combined|simultaneous\w*|dual)\b", re.IGNORECASE)


def _mode_places(text: str) -> Iterator[tuple[int, int]]:
    """Places of words of mode, or of guides beside no such word."""
    places = sorted({found.span() for _, words in _MODES for found in words.finditer(text)})
    last = -1
    for start, end in places:
        if start >= last:
            yield start, end
            last = end
    for found in _GUIDES.finditer(text):
        if not any(start < found.end() and found.start() < end for start, end in places):
            yield found.span()


def _stretches(text: str, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """Start and end of a phrase, and of its list of symbols, the likelier side first."""
    sides: list[tuple[int, int, int, int]] = []
    if before := _BEFORE.search(text[:start]):
        sides.append((before.start("list"), end, before.start("list"), before.end("list")))
    if after := _AFTER.match(text[end:]):
        right = (start, end + after.end("list"), end + after.start("list"), end + after.end("list"))
        is_linked = _LINKED.match(text[end:]) is not None or _VERB.search(text[start:end]) is not None
        sides.insert(0 if is_linked else len(sides), right)
    return sides


def _read_stretch(text: str, stretch: tuple[int, int, int, int]) -> list[tuple[int, int, GeneticLabel]]:
    """Read one phrase: of its list the symbols nearest to the words of mode count, up to the first that is no gene."""
    start, end, first, last = stretch
    is_before = first == start  # the symbols stand before the mode
    words = text[start:first] + " " + text[last:end]
    names = [(first + one.start(), first + one.end()) for one in re.finditer(_SYMBOL, text[first:last])]
    read = _read_list(text, names[::-1] if is_before else names, words=words)
    if not read:
        return []
    left, right = read[0][0], read[-1][1]
    more = re.match(r"\s+genes?\b", text[right:])
    whole = (left, end) if is_before else (start, right + (more.end() if more else 0))
    is_one = "+" in text[left:right] or _DOUBLE.search(text[max(0, whole[0] - 12) : whole[1]])
    if len(read) == 1 or is_one:
        return [(*whole, _combined([label for _, _, label in read]))]
    nearest = -1 if is_before else 0  # this one takes the words of mode into its stretch
    a, b, label = read[nearest]
    read[nearest] = (a, whole[1], label) if is_before else (whole[0], b, label)
    return read


def _combined(labels: list[GeneticLabel]) -> GeneticLabel:
    changes = {change.gene: change for label in labels for change in label.changes}
    notes = tuple(note for label in labels for note in label.notes)
    return GeneticLabel("change", tuple(changes[gene] for gene in sorted(changes)), notes=notes)


def _read_list(text: str, names: list[tuple[int, int]], *, words: str) -> list[tuple[int, int, GeneticLabel]]:
    """Read each symbol of a list with the words of mode, up to the first that is no gene; in order of the text."""
    read: list[tuple[int, int, GeneticLabel]] = []
    for a, b in names:
        if text[a:b].lower() == "and":
            continue
        label = read_genetic(f"{words} {text[a:b]}")
        # Only the nearest may be an alias: in "LPS and STAT1 knock-out" LPS is no name of IRF6.
        if label is None or (read and load_genes().find(text[a:b]).how != "symbol"):
            break
        read.append((a, b, label))
    return sorted(read, key=lambda one: one[:2])
