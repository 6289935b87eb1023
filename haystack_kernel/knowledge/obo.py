"""An ontology in the OBO flat format, read through pronto.

In: bytes of the file and the prefix of the wanted ids. Out: an ``SourceFile``.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

from haystack_kernel.errors import InvalidInputError, MissingExtraError
from haystack_kernel.knowledge.readers import (
    OntologyTerm,
    SourceFile,
    check_acyclic,
    check_count,
    clean_name,
    decode,
    find_licence,
    version_in_name,
)
from haystack_kernel.knowledge.terms import Obsolete

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pronto

LINKS = ("part_of", "develops_from")
_LINK_IDS = {  # the same relations by their ids in the Relation Ontology
    "part_of": "part_of",
    "BFO:0000050": "part_of",
    "develops_from": "develops_from",
    "RO:0002202": "develops_from",
}
_TAGS = frozenset(("id", "name", "synonym", "is_a", "relationship", "is_obsolete", "alt_id"))
_REPLACED = re.compile(r"(replaced_by|consider):[ \t]*(\S+)")
_EMPTY_NAME = "(no name)"
_NO_VALUE = re.compile(r"\s*(?:!.*)?$")


def is_obo(text: str) -> bool:
    """Whether a text begins as OBO files do; XML and everything else is left to no parser at all."""
    return re.match(r"\s*(?:!.*\n\s*)*(?:format-version|data-version|ontology|\[Term\])", text) is not None


def read_obo(raw: bytes, *, path: Path, prefix: str) -> SourceFile:
    """Terms whose id starts with ``prefix`` and a colon; exact synonyms only.

    Only the lines that matter here reach the parser: no import is followed, no definition or cross-reference is read.
    Links to terms that the file does not define, and lines without a value, are left out and counted in ``notes``.

    Raises
    ------
    MissingExtraError
        pronto is not installed.
    InvalidInputError
        Not OBO, not valid, cyclic, or without a term of that prefix.
    """
    text = decode(raw, path=path)
    if not is_obo(text):
        message = (
            f"{path} is not in OBO format, which begins with 'format-version:'. Give the .obo file of the ontology."
        )
        raise InvalidInputError(message, path=str(path))
    lines, dropped = _wanted(text)
    ontology = _parse("\n".join(lines), path=path)
    found = [term for term in ontology.terms() if term.id.startswith(f"{prefix}:")]
    check_count(len(found), path=path, what="terms")
    live = [_term(term, path=path) for term in found if not term.obsolete]
    if not live:
        message = f"{path} holds no {prefix} term that is in use. Give --kind as the ontology that it holds."
        raise InvalidInputError(message, path=str(path), prefix=prefix)
    known = {term.id for term in live}
    live = [_with_known_links(term, known=known) for term in live]
    check_acyclic({term.id: term.parents for term in live}, path=path)
    header = text[: text.find("[Term]")]
    return SourceFile(
        rows=tuple(live),
        obsolete=tuple(_obsolete(found, text=text, path=path)),
        version=ontology.metadata.data_version or version_in_name(path),
        licence=find_licence(header),
        notes=tuple(f"{count:,} {what}" for what, count in dropped.items() if count),
    )


def _wanted(text: str) -> tuple[list[str], dict[str, int]]:
    """The lines that matter, with a declaration of each relation, and what was left out."""
    defined = set(re.findall(r"(?m)^id:[ \t]*(\S+)", text))
    kept = ["format-version: 1.2"]
    dropped = {"links to terms of other files left out": 0, "lines without a value left out": 0}
    stanza = ""
    for line in text.splitlines():
        if line.startswith("["):
            stanza = line.strip()
            kept += ["", stanza] if stanza == "[Term]" else []
            continue
        tag, colon, value = line.partition(":")
        if not colon or (stanza != "[Term]" and (stanza or tag != "data-version")) or (stanza and tag not in _TAGS):
            continue
        if _NO_VALUE.match(value):
            dropped["lines without a value left out"] += 1
            kept += [f"name: {_EMPTY_NAME}"] if tag == "name" else []
            continue
        if tag in ("is_a", "relationship"):
            words = value.split("!")[0].split()
            relation = "is_a" if tag == "is_a" else _LINK_IDS.get(words[0])
            target = words[0] if tag == "is_a" else (words[1] if len(words) > 1 else "")
            if relation is None:
                continue
            if target not in defined:
                dropped["links to terms of other files left out"] += 1
                continue
            line = f"is_a: {target}" if relation == "is_a" else f"relationship: {relation} {target}"
        kept.append(line)
    declared = [line for link in LINKS for line in ("", "[Typedef]", f"id: {link}", f"name: {link}")]
    return [*kept, *declared, ""], dropped


def _parse(text: str, *, path: Path) -> pronto.Ontology:
    try:
        import pronto
    except ImportError as error:
        message = (
            "reading OBO files needs pronto: pip install 'haystack-kernel[ontology]'. The JSON form needs nothing."
        )
        raise MissingExtraError(message, extra="ontology") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the style of the file, in the thousands
            return pronto.Ontology(io.BytesIO(text.encode()), import_depth=0)
    except (SyntaxError, ValueError, KeyError, TypeError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        line = (error.text or "").strip() if isinstance(error, SyntaxError) else ""
        shown = f" near {line[:80]!r}" if line else ""
        message = f"{path} is not valid OBO: {reason}{shown}. Give a released file of the ontology."
        raise InvalidInputError(message, path=str(path)) from error


def _term(term: pronto.Term, *, path: Path) -> OntologyTerm:
    name = clean_name(term.name or "", path=path, where=term.id)
    if not name or name == _EMPTY_NAME:
        message = f"{path}: {term.id} is in use but has no name. Give a released file of the ontology."
        raise InvalidInputError(message, path=str(path), id=term.id)
    exact = {
        clean_name(one.description, path=path, where=term.id): None for one in term.synonyms if one.scope == "EXACT"
    }
    exact.pop(name, None)
    links: dict[str, tuple[str, ...]] = dict.fromkeys(LINKS, ())
    for relation, targets in term.relationships.items():
        if relation.id in links:
            links[relation.id] = tuple(sorted(target.id for target in targets))
    parents = tuple(sorted(up.id for up in term.superclasses(distance=1, with_self=False)))
    return OntologyTerm(term.id, name, tuple(sorted(exact)), parents, links["part_of"], links["develops_from"])


def _with_known_links(term: OntologyTerm, *, known: set[str]) -> OntologyTerm:
    """The same term without links to retired terms or to those of another ontology."""

    def keep(ids: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one for one in ids if one in known and one != term.id)

    return OntologyTerm(
        term.id, term.name, term.synonyms, keep(term.parents), keep(term.part_of), keep(term.develops_from)
    )


def _obsolete(terms: list[pronto.Term], *, text: str, path: Path) -> Iterator[Obsolete]:
    """Retired terms; their successors are read here, because pronto knows only those that the file defines."""
    stanzas = {term: stanza for stanza in text.split("\n[") for term in re.findall(r"(?m)^id:[ \t]*(\S+)", stanza)[:1]}
    for term in terms:
        if term.obsolete:
            name = re.sub(r"(?i)^obsolete\s+", "", clean_name(term.name or "", path=path, where=term.id))
            said = _REPLACED.findall(stanzas[term.id])
            replaced, consider = (tuple(x for tag, x in said if tag == one) for one in ("replaced_by", "consider"))
            yield Obsolete(term.id, "" if name == _EMPTY_NAME else name, replaced, consider)
        else:
            for other in sorted(term.alternate_ids):
                yield Obsolete(other, "", (term.id,))
