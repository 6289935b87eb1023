"""From a label as people write it to the term it means, with the terms it may also mean.

In: text and a kind of term. Out: a ``Resolution``; a wrong guess is worse than none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

from haystack_kernel.knowledge import normalise
from haystack_kernel.knowledge.index import index_of
from haystack_kernel.knowledge.normalise import Word
from haystack_kernel.schema import Match, Resolution

if TYPE_CHECKING:
    from haystack_kernel.knowledge.index import Index, Surface
    from haystack_kernel.knowledge.tables import Knowledge
    from haystack_kernel.schema import TermKind

MAX_ALTERNATIVES = 5
MODIFIER_SCORE = 0.93  # "activated B cell" taken as B cell
MIN_NEAREST = 0.5  # similarity from which an unknown text is shown with a known term beside it
FAMILY_SCORE = 0.7  # "JAK inhibitor" taken as one of its members
PART_SCORE = 0.6  # "interferon" taken as one of those that carry the word
MIN_COVERAGE = 0.4  # share of a term's letters that the part must have, where several terms carry it
MIN_COVERAGE_ALONE = 0.5  # the same where one term does
_MODIFIERS = frozenset(
    (
        "human",
        "primary",
        "adult",
        "activated",
        "resting",
        "stimulated",
        "unstimulated",
        "cycling",
        "proliferating",
        "quiescent",
        "unresolved",
        "patient",
        "donor",
        "cultured",
        "isolated",
        "purified",
        "sorted",
        "total",
        "recombinant",
        "treated",
    )
)
_VAGUE = frozenset(
    {
        "factor",
        "growth",
        "receptor",
        "inhibitor",
        "type",
        "knock",
        "out",
        "disease",
        "tissue",
        "human",
        "positive",
        "protein",
    }
)


def resolve(text: str, *, kind: TermKind, knowledge: Knowledge) -> Resolution:
    """Find the known term that a piece of text means.

    Tried in order: id; name or synonym written any way (case, Greek letters, hyphens, plural, British spelling);
    the same words without "cell" or in another order; without a modifier such as "activated"; with typing errors in
    long words; a family or a part of a name. Digits and words of up to five letters are never corrected, so IL-2 is
    not IL-21.

    Parameters
    ----------
    text
        A label or a stretch of a question.
    kind
        Which table to search; donors and datasets have none and are never matched.

    Returns
    -------
    ``match`` None where nothing is close enough, with up to 5 nearest known terms as alternatives. ``ambiguous``
    where other terms fit about as well: ``match`` is then the first of them and the alternatives the others.
    """
    index = index_of(kind, knowledge=knowledge)
    words = normalise.split_words(text)
    by_id = index.ids.get(text.strip().lower()) or index.ids.get(text.strip().lower().replace("_", ":"))
    if by_id is not None:
        return Resolution(text=text, kind=kind, match=Match(id=by_id, name=index.names[by_id], score=1, how="id"))
    if not words:
        return Resolution(text=text, kind=kind)
    matches = (
        _written(words, index=index)
        or _without_modifiers(text, index=index)
        or _corrected(words, index=index)
        or _in_part(words, index=index)
    )
    if not matches:
        return Resolution(text=text, kind=kind, alternatives=_nearest(words, index=index))
    first, *others = matches
    return Resolution(
        text=text, kind=kind, match=first, alternatives=tuple(others[:MAX_ALTERNATIVES]), ambiguous=bool(others)
    )


def correct_words(words: list[Word], *, index: Index, min_length: int) -> list[list[Word]]:
    """The same words with typing errors mended: every reading in which each unknown long word became a known one.

    A word keeps its first letter and changes by one edit (two from twelve letters on, never two in a drug or cytokine).
    Empty where nothing can or need be mended.
    """
    known = index.vocabulary | _MODIFIERS
    readings: list[list[Word]] = [[]]
    changed = False
    for word in words:
        options = [word.norm] if word.norm in known else _spellings(word.norm, index=index, min_length=min_length)
        changed = changed or options != [word.norm]
        readings = [
            [*read, Word(o, word.raw, word.start, word.end)] for read in readings for o in options or [word.norm]
        ]
    return readings if changed and len(readings) <= 8 else []


def _written(words: list[Word], *, index: Index) -> list[Match]:
    """Terms whose name or synonym this is; more than one where terms share a synonym."""
    fold = index.fold_greek
    found = index.spaced.get(normalise.spaced_key(words)) or index.compact.get(
        normalise.compact_key(words, fold_greek=fold)
    )
    if found:
        return _best(found, index=index, lenient=False)
    found = index.bare.get(normalise.bare_key(words, fold_greek=fold)) or index.bag.get(
        normalise.bag_key(words, fold_greek=fold)
    )
    return _best(found, index=index, lenient=True) if found else []


def _best(found: tuple[Surface, ...], *, index: Index, lenient: bool) -> list[Match]:
    named = [surface for surface in found if surface.is_name]
    return [index.match(surface, lenient=lenient) for surface in (named if len(named) == 1 else found)]


def _without_modifiers(text: str, *, index: Index) -> list[Match]:
    outside = normalise.split_words(re.sub(r"\([^()]*\)", " ", text))
    kept = [word for word in outside if word.norm not in _MODIFIERS]
    if not kept or all(word.norm == "cell" for word in kept):
        return []
    return [index.close(match.id, score=MODIFIER_SCORE) for match in _written(kept, index=index)]


def _corrected(words: list[Word], *, index: Index) -> list[Match]:
    scores: dict[str, float] = {}
    written = normalise.spaced_key(words)
    for reading in correct_words(words, index=index, min_length=6):
        likeness = OSA.normalized_similarity(written, normalise.spaced_key(reading)) * 0.97
        for match in _written([word for word in reading if word.norm not in _MODIFIERS] or reading, index=index):
            scores[match.id] = max(likeness, scores.get(match.id, 0))
    return [index.close(term, score=score) for term, score in sorted(scores.items(), key=lambda pair: -pair[1])]


def _spellings(norm: str, *, index: Index, min_length: int) -> list[str]:
    """Known words that one slip of the keyboard away from this one, the nearest only."""
    is_drug_like = index.kind == "perturbation"
    if not norm.isalpha() or len(norm) < max(min_length, 9 if is_drug_like else 0):
        return []
    allowed = 2 if len(norm) >= 12 and not is_drug_like else 1
    near = [
        (OSA.distance(norm, known, score_cutoff=allowed), known)
        for known in index.vocabulary
        if known[0] == norm[0] and abs(len(known) - len(norm)) <= allowed and known.isalpha() and len(known) >= 6
    ]
    best = min((edits for edits, _ in near), default=allowed + 1)
    return sorted(known for edits, known in near if edits == best) if best <= allowed else []


def _in_part(words: list[Word], *, index: Index) -> list[Match]:
    """A family ("JAK inhibitor") or a part of several names ("interferon"): its members, likeliest first."""
    wanted, written = normalise.content_words(words), normalise.spaced_key(words)
    members = index.families.get(written, ())
    if members:
        return [index.close(term, score=FAMILY_SCORE) for term in members]
    if len("".join(wanted)) < 3 or all(word in _VAGUE or word.isdigit() for word in wanted):
        return []
    coverage: dict[str, float] = {}
    for surface in index.surfaces:
        if wanted < normalise.content_words(list(surface.words)):
            coverage[surface.id] = max(len(written) / len(surface.key), coverage.get(surface.id, 0))
    least = MIN_COVERAGE if len(coverage) > 1 else MIN_COVERAGE_ALONE
    return [index.close(term, score=PART_SCORE) for term, share in coverage.items() if share >= least]


def _nearest(words: list[Word], *, index: Index) -> tuple[Match, ...]:
    keys = list(index.spaced)
    scores: dict[str, float] = {}
    written = normalise.spaced_key(words)
    for key, percent, _ in process.extract(written, keys, scorer=fuzz.ratio, limit=25, score_cutoff=100 * MIN_NEAREST):
        for surface in index.spaced[key]:
            scores.setdefault(surface.id, 0.9 * percent / 100)
    return tuple(index.close(term, score=score) for term, score in list(scores.items())[:MAX_ALTERNATIVES])
