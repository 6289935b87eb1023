"""Resolve a label as people write it to the term that it means, with the terms that it may also mean.

In: text and a kind of term. Out: a ``Resolution``; a wrong guess is worse than none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rapidfuzz.distance import OSA

from haystack_kernel.knowledge import normalise
from haystack_kernel.knowledge.entries import combination_of, resolve_genetic, split_combination
from haystack_kernel.knowledge.index import DOUBT_SCORE, SYNONYM_SCORE, index_of
from haystack_kernel.knowledge.labels import (
    ASIDE,
    GENERIC,
    MODIFIERS,
    SALTS,
    STATES,
    expansions,
    split_brackets,
    without_modifiers,
    without_redundant,
    without_salt,
)
from haystack_kernel.knowledge.ontology import ancestors
from haystack_kernel.knowledge.spelling import are_safe_slips, correct_words
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
MAX_DROPPED = 4  # words before a more general term
_SEVERAL = re.compile(r"[/&,;]|\band\b|\bor\b")  # between the terms of a label that names several
_NUMBERED = re.compile(r"\d\s*/\s*\d")  # layer 2/3
MAX_JOINED = 4  # terms that one label may join
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
    if found := _of_id(text, index=index, knowledge=knowledge):
        return found
    words = normalise.split_words(text)
    if not words:
        return Resolution(text=text, kind=kind)
    short = index.short_forms.get(normalise.spaced_key(words))
    if short is not None:
        return _of_short_form(text, short, index=index)
    if found := _named_together(text, index=index, knowledge=knowledge) or _plain(text, words, index=index):
        return found
    if kind == "perturbation" and (made := resolve_genetic(text) or _given_together(text, knowledge=knowledge)):
        return made
    brackets = split_brackets(text)
    if brackets is not None and (found := _in_brackets(text, *brackets, index=index, knowledge=knowledge)):
        return found
    return _guessed(text, words, index=index, knowledge=knowledge)


def _given_together(text: str, *, knowledge: Knowledge) -> Resolution | None:
    """Resolve treatments given together, as in "CD40L+IL-4", where each part is sure; None for anything else."""
    found = [resolve(part, kind="perturbation", knowledge=knowledge) for part in split_combination(text)]
    sure = {one.match.id for one in found if one.match and one.match.how != "fuzzy" and not one.ambiguous}
    if len(sure) < 2 or len(sure) < len(found):
        return None
    name = combination_of(sure, knowledge=knowledge)
    match = Match(id=name, name=name, score=SYNONYM_SCORE, how="synonym")
    return Resolution(text=text, kind="perturbation", match=match)


def _of_id(text: str, *, index: Index, knowledge: Knowledge) -> Resolution | None:
    """Resolve an id of a term, current or retired."""
    said = text.strip().replace("_", ":")
    known = index.id_of(text.strip()) or index.id_of(said)
    if known is not None:
        return _resolution(text, [Match(id=known, name=index.name_of(known), score=1, how="id")], index=index)
    retired = knowledge.obsolete.get(said.upper())
    return _of_retired(text, retired, index=index) if retired else None


def _named_together(text: str, *, index: Index, knowledge: Knowledge) -> Resolution | None:
    """Return several terms that a label joins, as in "T/NK", as doubtful; None for a label of one term."""
    ids = _joined_terms(text, index=index)
    if len(ids) < 2 or _is_one_term(text, ids, index=index, knowledge=knowledge):
        return None
    note = f"names several: {', '.join(index.name_of(term) for term in ids)}"
    return _doubtful(text, ids, index=index, note=note)


def _joined_terms(text: str, *, index: Index) -> list[str]:
    """Return the terms of the parts of a label; none unless each part is one known term."""
    parts = [] if index.kind == "perturbation" or _NUMBERED.search(text) else _SEVERAL.split(text)
    if not 2 <= len(parts) <= MAX_JOINED or not all(map(str.strip, parts)):
        return []
    terms = [_terms_of(part, index=index) for part in parts]
    return list(dict.fromkeys(one[0] for one in terms)) if all(len(one) == 1 for one in terms) else []


def _is_one_term(text: str, parts: list[str], *, index: Index, knowledge: Knowledge) -> bool:
    """Whether a name of the tables is written so, or means what lies above all parts: "Mono/Mac"."""
    words = normalise.split_words(text)
    if any(_SEVERAL.search(one.text) for one in index.spaced.get(normalise.spaced_key(words), ())):
        return True
    whole = index.written(words)
    return len(whole) == 1 and all(
        whole[0].id == part or whole[0].id in ancestors(part, knowledge=knowledge) for part in parts
    )


def _guessed(text: str, words: list[Word], *, index: Index, knowledge: Knowledge) -> Resolution:
    """Resolve what is not written as any name: by implied words, typing errors or parts of names, or not at all."""
    if matches := without_redundant(words, index=index, knowledge=knowledge):
        return _resolution(text, matches, index=index)
    if found := _expanded(text, words, index=index):
        return found
    if found := _corrected(text, words, index=index):
        return found
    if matches := _in_part(words, index=index):
        found = _resolution(text, matches, index=index)
        note = "" if found.ambiguous else f"only a part of the name of {matches[0].name!r}"
        return found.model_copy(update={"ambiguous": True, "note": note})  # a part alone is never sure
    if found := _general(text, words, index=index):
        return found
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


def _plain(text: str, words: list[Word], *, index: Index) -> Resolution | None:
    """Resolve a label as written, without salt or dose, or without a modifier, which the note names."""
    if matches := index.written(words):
        return _as_written(text, words, matches, index=index)
    if index.kind == "perturbation" and (matches := without_salt(text, index=index)):
        return _resolution(text, matches, index=index)
    kept = without_modifiers(text, kind=index.kind)
    if kept and (matches := index.written(kept)):
        left = {word.norm for word in kept}
        dropped = ", ".join(word.raw for word in words if word.norm not in left)
        return _close(text, [one.id for one in matches], index=index, note=f"not used: {dropped}")
    return None


def _as_written(text: str, words: list[Word], matches: list[Match], *, index: Index) -> Resolution:
    found = _resolution(text, matches, index=index)
    if matches[0].score == DOUBT_SCORE:
        name, listed_by = matches[0].name, matches[0].id.split(":")[0]
        note = f"{text.strip()!r} is only known as a short or foreign name that {listed_by} lists for {name!r}"
        return found.model_copy(update={"ambiguous": True, "note": f"{note}; it may mean something else"})
    own = index.packaged_name(words) if index.kind == "tissue" else None
    if own and own != matches[0].id:  # data sets name their tissues more closely than they mean them
        note = f"read as {matches[0].name!r}; {own} ({index.name_of(own)}) is a term of its own"
        return found.model_copy(update={"note": note})
    if matches[0].how == "synonym" and (states := _states(words, matches[0], index=index)):
        return found.model_copy(update={"note": f"not used: {states}"})
    return found


def _states(words: list[Word], match: Match, *, index: Index) -> str:
    """Return words for states of cells that a synonym holds and the term does not: activated B cell is B cell."""
    named = {word.norm for word in normalise.split_words(index.name_of(match.id))}
    return ", ".join(word.raw for word in words if word.norm in STATES - named) if index.kind == "cell_type" else ""


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
    return _with_aside(text, outside, inside, terms=out, index=index)


def _with_aside(text: str, outside: str, inside: str, *, terms: list[str], index: Index) -> Resolution:
    """Resolve a known label with brackets that name no term: they say which kind, or something beside it."""
    if joined := index.written(normalise.split_words(f"{inside} {outside}")):  # goblet (nasal)
        return _close(text, [one.id for one in joined], index=index)
    rest = [word.norm for word in normalise.split_words(inside) if word.norm not in MODIFIERS]
    if "cell" in rest and "line" not in rest:  # it names cells that are not known
        return _doubtful(text, terms, index=index)
    if not rest or index.kind == "perturbation":  # a drug has its code in brackets
        return _close(text, terms, index=index)
    is_code = any(map(str.isdigit, inside)) or len(inside) < 3
    if is_code or set(rest) <= ASIDE:
        return _close(text, terms, index=index, note=f"not used: {inside}")
    note = f"{inside!r} in brackets is not understood; it may mean another term"
    return _doubtful(text, terms, index=index, note=note)


def _terms_of(part: str, *, index: Index) -> list[str]:
    words = normalise.split_words(part)
    short = index.short_forms.get(normalise.spaced_key(words))
    if short:
        return list(short.terms)
    found = _plain(part, words, index=index)
    return [one.id for one in (found.match, *found.alternatives) if one] if found else []


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


def _close(text: str, terms: list[str], *, index: Index, note: str = "") -> Resolution:
    return _resolution(text, [index.close(term, score=MODIFIER_SCORE) for term in terms], index=index, note=note)


def _doubtful(
    text: str,
    terms: list[str],
    *,
    index: Index,
    score: float = FAMILY_SCORE,
    note: str = "label and brackets do not name the same term",
) -> Resolution:
    found = _resolution(text, [index.close(term, score=score) for term in terms], index=index)
    return found.model_copy(update={"ambiguous": True, "note": note})


def _expanded(text: str, words: list[Word], *, index: Index) -> Resolution | None:
    """Resolve a label whose short words are written out (EC, monos, LN), whose data set is named, or by an eponym."""
    for reading, note in expansions(text, words, kind=index.kind):
        if found := index.written(reading):
            return _close(text, [one.id for one in found], index=index, note=note)
    return None


def _general(text: str, words: list[Word], *, index: Index) -> Resolution | None:
    """Offer the more general term at the end of a label: an atypical memory B cell is a memory B cell of some kind."""
    if index.kind not in ("cell_type", "tissue") or _SEVERAL.search(text):
        return None
    readings = [words, *(reading for reading, _ in expansions(text, words, kind=index.kind))]
    for reading in readings:
        for first in range(1, min(len(reading) - 1, MAX_DROPPED) + 1):
            if found := _of_substance(reading[first:], index=index):
                said = " ".join(word.raw for word in reading[:first])
                note = f"taken as the more general term; not used: {said}"
                return _doubtful(text, [one.id for one in found], index=index, score=PART_SCORE, note=note)
    return None


def _of_substance(words: list[Word], *, index: Index) -> list[Match]:
    """Return what words mean, unless they say no more than "cell"."""
    says_nothing = all(word.norm in GENERIC for word in words) or len("".join(word.norm for word in words)) < 2
    return [] if says_nothing else index.written(words)


def _corrected(text: str, words: list[Word], *, index: Index) -> Resolution | None:
    """Resolve a label with typing errors; of a treatment most make it doubtful, as another name may be meant."""
    scores: dict[str, float] = {}
    written = normalise.spaced_key(words)
    readings = correct_words(words, index=index, min_length=6, known=MODIFIERS)
    for reading in readings:
        likeness = OSA.normalized_similarity(written, normalise.spaced_key(reading)) * 0.97
        for match in index.written([word for word in reading if word.norm not in MODIFIERS] or reading):
            scores[match.id] = max(likeness, scores.get(match.id, 0))
    if not scores:
        return None
    matches = [index.close(term, score=scores[term]) for term in sorted(scores, key=lambda term: -scores[term])]
    found = _resolution(text, matches, index=index, note=f"read as a misspelling of {matches[0].name!r}")
    if index.kind != "perturbation" or all(are_safe_slips(words, reading) for reading in readings):
        return found
    note = f"perhaps a misspelling of {matches[0].name!r}, perhaps another treatment: names of drugs differ by a letter"
    return found.model_copy(update={"ambiguous": True, "note": note})


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
