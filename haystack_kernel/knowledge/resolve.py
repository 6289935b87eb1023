"""Resolve a label as people write it to the term that it means, with the terms that it may also mean.

In: text and a kind of term. Out: a ``Resolution``; a wrong guess is worse than none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rapidfuzz.distance import OSA

from haystack_kernel.knowledge import normalise
from haystack_kernel.knowledge.entries import resolve_genetic
from haystack_kernel.knowledge.index import ABBREVIATION_SCORE, SYNONYM_SCORE, index_of
from haystack_kernel.knowledge.labels import (
    MODIFIERS,
    SALTS,
    split_brackets,
    without_modifiers,
    without_redundant,
    without_salt,
)
from haystack_kernel.knowledge.ontology import ancestors
from haystack_kernel.knowledge.spelling import correct_words
from haystack_kernel.knowledge.terms import CellType
from haystack_kernel.schema import Match, Resolution

if TYPE_CHECKING:
    from haystack_kernel.knowledge.index import Index
    from haystack_kernel.knowledge.normalise import Word
    from haystack_kernel.knowledge.terms import Knowledge, Obsolete, ShortForm
    from haystack_kernel.schema import TermKind

MAX_ALTERNATIVES = 5
MODIFIER_SCORE = 0.93  # "activated B cell" taken as B cell
MIN_NEAREST = 0.5  # spelling similarity from which a known term is offered for an unknown text
FAMILY_SCORE = 0.7  # "JAK inhibitor" taken as one of its members
PART_SCORE = 0.6  # "interferon" taken as one of those that carry the word
MIN_COVERAGE = 0.4  # share of a term's letters that the part must have, where several terms carry it
MIN_COVERAGE_ALONE = 0.5  # the same where one term does
_ID = re.compile(r"[A-Za-z]+[:_]\d{5,}")  # an id is near to no name
_VAGUE = frozenset(
    (
        "factor", "growth", "receptor", "inhibitor", "type", "knock", "out", "disease", "tissue", "human", "positive",
        "protein",
    )
)  # fmt: skip


def resolve(text: str, *, kind: TermKind, knowledge: Knowledge) -> Resolution:
    """Find the known term that a piece of text means.

    Tried in order: id; an abbreviation with several meanings; name or synonym written any way (case, Greek letters,
    hyphens, plural, British spelling); the same words without "cell", in another order, or in other words of the same
    meaning (renal, kidney); without a modifier such as "activated", the salt of a drug or a dose; a change of any human
    gene ("siRNA against STAT1"); label and explanation in brackets; without words that the term implies (blood
    monocyte); with typing errors in long words; a family or a part of a name. Digits and words of up to five letters
    are never corrected, so IL-2 is not IL-21.

    Parameters
    ----------
    text
        A label or a stretch of a question.
    kind
        Which table to search; donors and datasets have none and are never matched.
    knowledge
        The tables.

    Returns
    -------
    ``match`` is None where nothing is close enough, with up to 5 closest known terms as alternatives. ``ambiguous``
    where other terms fit about as well: ``match`` is then the first of them and the alternatives the others. ``note``
    says what a reader should know: an obsolete id, a short form of several things, a corrected spelling.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> resolve("cDC1", kind="cell_type", knowledge=load_knowledge()).match.name
    'CD141-positive myeloid dendritic cell'
    """
    index = index_of(kind, knowledge=knowledge)
    said = text.strip().replace("_", ":")
    known = index.id_of(text.strip()) or index.id_of(said)
    if known is not None:
        return _resolution(text, [Match(id=known, name=index.name_of(known), score=1, how="id")], index=index)
    if retired := knowledge.obsolete.get(said.upper()):
        return _of_retired(text, retired, index=index)
    words = normalise.split_words(text)
    if not words:
        return Resolution(text=text, kind=kind)
    short = index.short_forms.get(normalise.spaced_key(words))
    if short is not None:
        return _of_short_form(text, short, index=index)
    if matches := _plain(text, words, index=index):
        named = _resolution(text, matches, index=index)
        if matches[0].score == ABBREVIATION_SCORE:
            listed_by = matches[0].id.split(":")[0]
            note = f"an abbreviation that {listed_by} lists for {matches[0].name!r}; it may mean something else"
            named = named.model_copy(update={"ambiguous": True, "note": note})
        return named
    if kind == "perturbation" and (genetic := resolve_genetic(text)):
        return genetic
    brackets = split_brackets(text)
    if brackets is not None and (found := _in_brackets(text, *brackets, index=index, knowledge=knowledge)):
        return found
    return _guessed(text, words, index=index, knowledge=knowledge)


def _guessed(text: str, words: list[Word], *, index: Index, knowledge: Knowledge) -> Resolution:
    """Resolve what is not written as any name: by implied words, typing errors or parts of names, or not at all."""
    if matches := without_redundant(words, index=index, knowledge=knowledge):
        return _resolution(text, matches, index=index)
    if matches := _corrected(words, index=index):
        return _resolution(text, matches, index=index, note=f"read as a misspelling of {matches[0].name!r}")
    if matches := _in_part(words, index=index):
        found = _resolution(text, matches, index=index)
        note = "" if found.ambiguous else f"only a part of the name of {matches[0].name!r}"
        return found.model_copy(update={"ambiguous": True, "note": note})  # a part alone is never sure
    if _ID.fullmatch(text.strip()):  # no term is offered for an unknown id
        return Resolution(text=text, kind=index.kind)
    similar = index.similar(normalise.spaced_key(words), limit=25, at_least=MIN_NEAREST)
    scores = {surface.id: 0.9 * similarity for surface, similarity in similar}
    for term, share in _coverage(words, index=index, packaged=True).items():
        if share >= MIN_COVERAGE:  # a part of a name of the whole ontologies is offered, never taken
            scores[term] = max(PART_SCORE * share, scores.get(term, 0))
    scores = dict(sorted(scores.items(), key=lambda pair: -pair[1]))
    near = [index.close(term, score=score) for term, score in list(scores.items())[:MAX_ALTERNATIVES]]
    return Resolution(text=text, kind=index.kind, alternatives=tuple(near))


def _resolution(text: str, matches: list[Match], *, index: Index, note: str = "") -> Resolution:
    first, *others = matches
    return Resolution(
        text=text,
        kind=index.kind,
        match=first,
        alternatives=tuple(others[:MAX_ALTERNATIVES]),
        ambiguous=bool(others),
        note=note or _of_line(first, index=index),
    )


def _of_line(match: Match, *, index: Index) -> str:
    """Say that a match is a cell line and what it models; "" for anything else."""
    entry = index.entries[match.id]
    if not isinstance(entry, CellType) or not entry.line:
        return ""
    models = " or ".join(index.name_of(term) for term in entry.parents)
    article = "an" if entry.line[0] in "aeiou" else "a"
    return f"{entry.name}, {article} {entry.line} ({entry.id}): a model of {models}, not primary cells"


def _of_retired(text: str, retired: Obsolete, *, index: Index) -> Resolution:
    """Resolve a retired id to its one replacement, or else offer the candidates."""
    note = f"{retired.id} ({retired.name}) is obsolete" if retired.name else f"{retired.id} is obsolete"
    live = [term for term in retired.replaced_by if term in index.entries]
    if len(live) == 1:
        name = index.name_of(live[0])
        match = Match(id=live[0], name=name, score=1, how="id")
        return Resolution(text=text, kind=index.kind, match=match, note=f"{note}; replaced by {live[0]} ({name})")
    offered = [term for term in (*retired.replaced_by, *retired.consider) if term in index.entries]
    if not offered and retired.replaced_by:
        note += f"; replaced by {', '.join(retired.replaced_by)}, which is not known here"
    near = tuple(index.close(term, score=MIN_NEAREST) for term in offered[:MAX_ALTERNATIVES])
    return Resolution(text=text, kind=index.kind, alternatives=near, note=note)


def _of_short_form(text: str, short: ShortForm, *, index: Index) -> Resolution:
    names = [index.name_of(term) for term in short.terms]
    score = SYNONYM_SCORE if short.is_sure else FAMILY_SCORE
    first = Match(id=short.terms[0], name=names[0], score=score, how="synonym" if short.is_sure else "fuzzy")
    others = [index.close(term, score=FAMILY_SCORE) for term in short.terms[1:]]
    meanings = " or ".join(names) if others else f"{names[0]}, or something else"
    return Resolution(
        text=text,
        kind=index.kind,
        match=first,
        alternatives=tuple(others[:MAX_ALTERNATIVES]),
        ambiguous=True,
        note=f"{short.form} is short for several things: {meanings}",
    )


def _plain(text: str, words: list[Word], *, index: Index) -> list[Match]:
    """Match a label as written, without salt or dose, or without a modifier."""
    if found := index.written(words):
        return found
    if index.kind == "perturbation" and (found := without_salt(text, index=index)):
        return found
    kept = without_modifiers(text, kind=index.kind)
    return [index.close(one.id, score=MODIFIER_SCORE) for one in index.written(kept)] if kept else []


def _in_brackets(text: str, outside: str, inside: str, *, index: Index, knowledge: Knowledge) -> Resolution | None:
    """Resolve a label with an explanation: both say the same, one says more, or they contradict each other."""
    out, within = _terms_of(outside, index=index), _terms_of(inside, index=index)
    if out and within:
        return _of_both(text, out, within, index=index, knowledge=knowledge)
    if within:
        label = normalise.split_words(outside)
        if len(label) == 1 and len(label[0].norm) <= 4:  # an abbreviation and what it stands for
            return _close(text, within, index=index)
        return _doubtful(text, within, index=index)
    if not out:
        return None
    rest = [word.norm for word in normalise.split_words(inside) if word.norm not in MODIFIERS]
    if "cell" in rest and "line" not in rest:  # it names cells that are not known
        return _doubtful(text, out, index=index)
    return _close(text, out, index=index)


def _terms_of(part: str, *, index: Index) -> list[str]:
    words = normalise.split_words(part)
    short = index.short_forms.get(normalise.spaced_key(words))
    return list(short.terms) if short else [one.id for one in _plain(part, words, index=index)]


def _of_both(text: str, out: list[str], within: list[str], *, index: Index, knowledge: Knowledge) -> Resolution:
    """Resolve a label and an explanation that are both known."""
    both = [term for term in within if term in out]
    if len(both) == 1 or (both and set(out) == set(within)):
        return _resolution(text, [index.close(term, score=SYNONYM_SCORE) for term in both], index=index)
    if len(out) == len(within) == 1 and index.kind == "cell_type":
        if out[0] in ancestors(within[0], knowledge=knowledge):
            return _close(text, within, index=index)
        if within[0] in ancestors(out[0], knowledge=knowledge):
            return _close(text, out, index=index)
    return _doubtful(text, list(dict.fromkeys((*within, *out))), index=index)


def _close(text: str, terms: list[str], *, index: Index) -> Resolution:
    return _resolution(text, [index.close(term, score=MODIFIER_SCORE) for term in terms], index=index)


def _doubtful(text: str, terms: list[str], *, index: Index) -> Resolution:
    found = _resolution(text, [index.close(term, score=FAMILY_SCORE) for term in terms], index=index)
    return found.model_copy(update={"ambiguous": True, "note": "label and brackets do not name the same term"})


def _corrected(words: list[Word], *, index: Index) -> list[Match]:
    scores: dict[str, float] = {}
    written = normalise.spaced_key(words)
    for reading in correct_words(words, index=index, min_length=6, known=MODIFIERS):
        likeness = OSA.normalized_similarity(written, normalise.spaced_key(reading)) * 0.97
        for match in index.written([word for word in reading if word.norm not in MODIFIERS] or reading):
            scores[match.id] = max(likeness, scores.get(match.id, 0))
    return [index.close(term, score=score) for term, score in sorted(scores.items(), key=lambda pair: -pair[1])]


def _in_part(words: list[Word], *, index: Index) -> list[Match]:
    """Return the members of a family ("JAK inhibitor"), or the names that contain a part ("interferon")."""
    members = index.families.get(normalise.spaced_key(words), ())
    if members:
        return [index.close(term, score=FAMILY_SCORE) for term in members]
    coverage = _coverage(words, index=index, packaged=False)
    least = MIN_COVERAGE if len(coverage) > 1 else MIN_COVERAGE_ALONE
    return [index.close(term, score=PART_SCORE) for term, share in coverage.items() if share >= least]


def _coverage(words: list[Word], *, index: Index, packaged: bool) -> dict[str, float]:
    """Return each term with all these words and more -> the largest share of a name's letters that they make up."""
    wanted = normalise.content_words(words)
    is_vague = all(map(str.isdigit, wanted - _VAGUE - SALTS))
    if is_vague or len("".join(wanted)) < 3:
        return {}
    coverage: dict[str, float] = {}
    n_letters = len(normalise.spaced_key(words))
    for surface in index.holding(wanted, packaged=packaged):
        if wanted < frozenset(surface.norms) - normalise.STOP_WORDS:
            coverage[surface.id] = max(n_letters / len(surface.key), coverage.get(surface.id, 0))
    return coverage
