"""Find known terms in a free text: the longest names first, none twice.

In: a question. Out: mentions in order of appearance, each with its resolution.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from haystack_kernel.knowledge import normalise
from haystack_kernel.knowledge.entries import combinations_of, perturbation_of, resolution_of
from haystack_kernel.knowledge.genetic import find_genetic, read_genetic
from haystack_kernel.knowledge.index import index_of
from haystack_kernel.knowledge.resolve import resolve
from haystack_kernel.knowledge.spelling import correct_words
from haystack_kernel.schema import Match, Resolution

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from haystack_kernel.knowledge.index import Index, Surface
    from haystack_kernel.knowledge.normalise import Word
    from haystack_kernel.knowledge.terms import Knowledge
    from haystack_kernel.schema import TermKind

KINDS: tuple[TermKind, ...] = ("cell_type", "perturbation", "tissue", "disease")  # first wins where two claim a text
MAX_WORDS = 9
MIN_TYPO_LENGTH = 8  # shorter words of a sentence are never taken for a misspelt term
_JOIN = re.compile(r"[\s\-\u2010\u2011\u2013_/]*")  # what may stand between the words of one name
_JOIN_WIDE = re.compile(r"[\s\-\u2010\u2011\u2013_/,()]*")  # official names hold commas and brackets too
_AND = re.compile(
    r"\s*(?:\+|&|/|,|,?\s+and|plus|(?:together|combined|in\s+combination)\s+with|with)\s*", re.IGNORECASE
)  # between the parts of a combination
_LISTED = re.compile(r"(?<![\w-])(?P<word>[\w+-]*\w\+?)(?:\s*[,/&]\s*|,?\s+(?:and|or)\s+)$", re.IGNORECASE)
_SHORT = 4  # names up to this length are abbreviations: their writing matters
_WHOLE_GROUPS = frozenset({"interferon", "ifn", "interleukin"})  # words that stand for several cytokines
_ENGLISH = frozenset(
    (
        "a", "act", "acts", "ad", "age", "aid", "all", "am", "an", "and", "april", "are", "art", "as", "at",
        "bad", "bag", "ball", "base", "be", "best", "big", "but", "by", "can", "cap", "car", "cat", "cell", "cold",
        "come", "control", "day", "dex", "did", "do", "dose", "drug", "fas", "fast", "find", "for",
        "from", "gas", "gene", "get", "go", "had", "has", "have", "her", "high", "his", "how", "human", "if",
        "im", "in", "is", "it", "its", "kit", "lab", "last", "less", "light", "like", "long", "low", "mac", "made",
        "make", "man", "map", "max", "may", "me", "met", "mix", "mono", "more", "most", "ms", "much", "no", "non",
        "none", "nor", "not", "now", "of", "off", "on", "one", "or", "our", "out", "pan", "per", "ra",
        "rat", "rest", "same", "scar", "seen", "set", "show", "so", "some", "stem", "such", "tap", "tell", "tex",
        "than", "that", "the", "them", "then", "they", "this", "to", "trail", "treated", "tweak", "two", "up",
        "use", "was", "we", "well", "were", "what", "when", "who", "will", "with", "would", "you",
    )
)  # fmt: skip
_NOT_THE_TERM_AFTER = frozenset(
    {"receptor", "inhibitor", "inhibition", "blockade", "blocker", "blocking", "antagonist", "antibody", "antibodie"}
)
_AFTER_A_HYPHEN = frozenset(
    (
        "activated", "associated", "cell", "dependent", "derived", "driven", "exposed", "exposure", "induced",
        "infiltrating", "knockout", "ko", "like", "mediated", "positive", "primed", "related", "resident",
        "responsive", "specific", "stimulated", "stimulation", "treated", "treatment",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Mention:
    """A stretch ``text`` of the question, ``question[start:end]``, that names a known term."""

    kind: TermKind
    text: str
    start: int
    end: int
    resolution: Resolution


@dataclass(frozen=True)
class _Span:
    """Words ``first`` up to, not including, ``stop`` that name a term of this kind, and its meaning where known."""

    kind: TermKind
    first: int
    stop: int
    is_exact: bool
    resolution: Resolution | None = None


def find_mentions(text: str, *, knowledge: Knowledge) -> list[Mention]:
    """Find the cell types, perturbations, tissues and diseases that a text names.

    The longest name wins and names do not overlap: "lung fibroblasts" is one cell type, "fibroblasts in the lung" a
    cell type and a tissue. Treatments joined by "and" are the combination of them that the tables hold. Words of a
    family ("interferon") are found and marked ambiguous, unless a member is named too. Typing errors are corrected
    in words of eight letters or more. Ordinary English words and the word "cell" alone are not mentions.

    Parameters
    ----------
    text
        A question, or any text.
    knowledge
        The tables that terms are looked up in.

    Returns
    -------
    Mentions in order of appearance; empty where nothing is named.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> [mention.text for mention in find_mentions("lung fibroblasts under TNF", knowledge=load_knowledge())]
    ['lung fibroblasts', 'TNF']
    """
    words = normalise.split_words(text)
    spans = list(_genetic_spans(text, words))
    spans += [span for kind in KINDS for span in _spans(text, words, index=index_of(kind, knowledge=knowledge))]
    spans.sort(key=lambda span: (words[span.first].start - words[span.stop - 1].end, not span.is_exact))
    taken: set[int] = set()
    mentions = []
    for span in spans:
        if taken.isdisjoint(range(span.first, span.stop)):
            start, end = words[span.first].start, words[span.stop - 1].end
            resolution = span.resolution or resolve(text[start:end], kind=span.kind, knowledge=knowledge)
            if resolution.match is not None:
                taken.update(range(span.first, span.stop))
                mentions.append(Mention(span.kind, text[start:end], start, end, resolution))
    kept = [mention for mention in mentions if not _is_said_closer(mention, mentions, knowledge=knowledge)]
    kept = _with_listed(text, kept, knowledge=knowledge)
    return _combined(text, sorted(kept, key=lambda mention: mention.start), knowledge=knowledge)


def _with_listed(text: str, mentions: list[Mention], *, knowledge: Knowledge) -> list[Mention]:
    """Add the cells that share the last words of others: the T cells of "T and B cells"."""
    found = list(mentions)
    for mention in mentions:
        if mention.kind == "cell_type":
            listed = list(_listed_before(text, mention, mentions=found, knowledge=knowledge))
            found = [one for one in found if not any(_overlap(one, other) for other in listed)] + listed
    return found


def _listed_before(text: str, mention: Mention, *, mentions: list[Mention], knowledge: Knowledge) -> Iterator[Mention]:
    end = mention.start
    while listed := _LISTED.search(text[:end]):
        end = listed.start("word")
        place = replace(mention, text=listed["word"], start=end, end=listed.end("word"))
        taken = [other.kind for other in mentions if _overlap(place, other)]
        # "lung" is no tissue in "lung and skin fibroblasts"; any other term is one of its own.
        is_free = not taken or (set(taken) == {"tissue"} and _is_tissue(mention.text.split()[0], knowledge))
        found = _sharing(place.text, mention, knowledge=knowledge) if is_free else None
        if found is None:
            return
        yield replace(place, resolution=found)


def _sharing(word: str, mention: Mention, *, knowledge: Knowledge) -> Resolution | None:
    """Return the cell type that a word and the last words of other cells name for sure."""
    said = mention.text.split()
    for first in range(1, len(said) if word not in _ENGLISH else 1):
        found = resolve(" ".join([word, *said[first:]]), kind="cell_type", knowledge=knowledge)
        if found.match and found.match.how != "fuzzy" and not found.ambiguous:
            return found
    return None


def _overlap(one: Mention, other: Mention) -> bool:
    return one.start < other.end and other.start < one.end


def _is_tissue(word: str, knowledge: Knowledge) -> bool:
    match = resolve(word, kind="tissue", knowledge=knowledge).match
    return match is not None and match.how != "fuzzy"


def _combined(text: str, mentions: list[Mention], *, knowledge: Knowledge) -> list[Mention]:
    """Join the treatments of one list, "TNF and IL-17A", to the one combination of them that the tables hold."""
    known = combinations_of(knowledge)
    found: list[Mention] = []
    for mention in mentions:
        found.append(mention)
        for first in range(len(found) - 1):  # the longest list first
            parts = found[first:]
            gaps = [text[before.end : after.start] for before, after in pairwise(parts)]
            name = known.get(frozenset(part.resolution.match.id for part in parts if part.resolution.match))
            if name and all(map(_AND.fullmatch, gaps)) and all(part.kind == "perturbation" for part in parts):
                start, end = parts[0].start, mention.end
                match = Match(id=name, name=name, score=1, how="name" if text[start:end] == name else "synonym")
                resolution = Resolution(text=text[start:end], kind="perturbation", match=match)
                found[first:] = [Mention("perturbation", text[start:end], start, end, resolution)]
                break
    return found


def _is_said_closer(mention: Mention, others: list[Mention], *, knowledge: Knowledge) -> bool:
    """Whether a family is named beside one of its members: "the JAK inhibitor ruxolitinib" means ruxolitinib."""
    found = mention.resolution
    if mention.kind != "perturbation" or not found.ambiguous or found.match is None:
        return False
    exact = [other.resolution for other in others if other.kind == "perturbation" and not other.resolution.ambiguous]
    families = _families([found.match, *found.alternatives], knowledge=knowledge)
    return not families.isdisjoint(_families([one.match for one in exact], knowledge=knowledge))


def _families(matches: Iterable[Match | None], *, knowledge: Knowledge) -> set[str]:
    entries = [perturbation_of(match.id, knowledge=knowledge) for match in matches if match is not None]
    return {entry.family for entry in entries if entry is not None}


def _genetic_spans(text: str, words: list[Word]) -> Iterator[_Span]:
    """Yield the stretches that name a change of a gene, known to the tables or not: "siRNA against STAT1"."""
    for start, end, label in find_genetic(text):
        inside = [place for place, word in enumerate(words) if word.start < end and word.end > start]
        stretch = text[start:end]
        # In "TNF and IL6 knock-out" the word TNF alone is a cytokine, so its resolution does not repeat it.
        said = stretch if read_genetic(stretch) == label else label.name
        found = resolution_of(said, label)
        yield _Span("perturbation", inside[0], inside[-1] + 1, is_exact=True, resolution=found)


def _spans(text: str, words: list[Word], *, index: Index) -> list[_Span]:
    """Return every stretch that names a term; misspelt names only where no exact one covers them."""
    spans = list(_named_spans(text, words, index=index))
    covered = {place for span in spans for place in range(span.first, span.stop)}
    for place, word in enumerate(words):
        if place in covered or word.norm in _ENGLISH:
            continue
        for corrected in correct_words([word], index=index, min_length=MIN_TYPO_LENGTH):
            reading = [*words[:place], *corrected, *words[place + 1 :]]
            spans += _named_spans(text, reading, index=index, around=place)
    return spans


def _named_spans(text: str, words: list[Word], *, index: Index, around: int | None = None) -> Iterator[_Span]:
    """Yield every stretch of at most MAX_WORDS words that names a term; all, or those around a corrected word."""
    firsts = range(len(words)) if around is None else range(max(0, around - MAX_WORDS), around + 1)
    for first in firsts:
        shortest = first + 1 if around is None else around + 1
        for stop in range(shortest, min(first + MAX_WORDS, len(words)) + 1):
            if _is_named(text, words, (first, stop), index=index):
                yield _Span(index.kind, first, stop, is_exact=around is None)


def _is_named(text: str, words: list[Word], place: tuple[int, int], *, index: Index) -> bool:
    first, stop = place
    part = words[first:stop]
    gaps = [text[before.end : after.start] for before, after in pairwise(part)]
    if not all(_JOIN_WIDE.fullmatch(gap) for gap in gaps) or _means_another(text, words, place, index=index):
        return False
    key = normalise.spaced_key(part)
    if not all(_JOIN.fullmatch(gap) for gap in gaps):  # with commas or brackets: only a name that has commas too
        return any("," in surface.text for surface in index.spaced.get(key, ()))
    found = _surfaces(part, gaps, index=index)
    if not found:
        return key in index.families or (index.kind == "perturbation" and key in _WHOLE_GROUPS)
    return any(_is_written_so(part, text=text, surface=surface) for surface in found)


def _surfaces(part: list[Word], gaps: list[str], *, index: Index) -> tuple[Surface, ...]:
    """Return the names that words may be: as they stand, read as one word, or in another order around "of"."""
    norms = [word.norm for word in part]
    found = index.spaced.get(normalise.spaced_key(part), ())
    if not found and _is_one_word(part, gaps):
        found = index.compact.get(normalise.compact_key(norms, fold_greek=index.fold_greek), ())
    if not found and _is_joined_by_of(part, index=index):
        found = index.bag.get(normalise.bag_key(norms, fold_greek=index.fold_greek), ())
    return found


def _is_one_word(part: list[Word], gaps: list[str]) -> bool:
    """Whether words may be read as one: hyphens join them, or blanks before a number or a Greek letter (IL 2)."""
    if part[0].raw in _ENGLISH and gaps[:1] == [" "]:  # "at 1 ng/ml" does not name AT1 cells
        return False
    tails = [word.norm for word in part[1:]]
    return all(
        " " not in gap or tail.isdigit() or tail in normalise.GREEK_NAMES or len(tail) == 1 or tail == "cell"
        for gap, tail in zip(gaps, tails, strict=True)
    )


def _is_joined_by_of(part: list[Word], *, index: Index) -> bool:
    """Whether words may be read in another order: fibroblasts of the lung, knock-out of IFNGR1."""
    norms = [word.norm for word in part]
    return "of" in norms[1:-1] and norms[0] != "cell" and ("cell" not in norms or index.kind == "cell_type")


def _is_written_so(part: list[Word], *, text: str, surface: Surface) -> bool:
    """Whether an abbreviation keeps its capitals and a name is more than an ordinary word."""
    written = text[part[0].start : part[-1].end]
    if surface.text.lower() in ("cell", "cells"):
        return False
    if len(part) > 1 or not written.isalpha():
        return any(map(str.isalpha, written))
    stem = written[:2] + written[2:].removesuffix("s")
    if _n_capitals(stem) >= 2:
        return True
    if not _ENGLISH.isdisjoint((part[0].norm, written.lower())):
        return False
    if stem == surface.text:
        return len(stem) >= 2
    # Abbreviations of cells need more letters without their capitals than other names do.
    is_abbreviation = len(surface.text) <= _SHORT and _n_capitals(surface.text) >= 2
    is_treatment = surface.id.isascii() and ":" not in surface.id  # ids of ontologies have a colon
    return len(stem) >= (4 if is_abbreviation and not is_treatment else 3)


def _n_capitals(text: str) -> int:
    return sum(letter.isupper() for letter in text)


def _means_another(text: str, words: list[Word], place: tuple[int, int], *, index: Index) -> bool:
    """Whether a name is part of another one: anti-TNF and IL-6 receptor are not the cytokine."""
    first, stop = place
    start, end = words[first].start, words[stop - 1].end
    is_treatment, is_short = index.kind == "perturbation", end - start <= _SHORT
    if first:
        before = words[first - 1]
        if is_treatment and before.norm == "anti":
            return True
        if is_short and text[before.end : start] == "-":
            return True
    if stop < len(words):
        after = words[stop]
        if is_treatment and after.norm in _NOT_THE_TERM_AFTER:
            longer = normalise.spaced_key(words[first : stop + 1])
            if longer not in index.families:  # "JAK inhibitor" is a family of treatments itself
                return True
        # "TNF-treated" still names TNF; other words behind a hyphen make a new name.
        return is_short and text[end : after.start] == "-" and after.norm not in _AFTER_A_HYPHEN
    return False
