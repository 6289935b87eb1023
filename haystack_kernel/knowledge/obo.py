"""Read an ontology in the OBO flat format through pronto.

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
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pronto

LINKS = ("part_of", "develops_from")
_LINK_IDS = {  # the same relations by their ids in the Relation Ontology
    "part_of": "part_of",
    "BFO:0000050": "part_of",
    "develops_from": "develops_from",
    "RO:0002202": "develops_from",
}
_TAGS = {  # stanza -> tags that are read; the header has no name
    "": frozenset(("data-version",)),
    "[Term]": frozenset(("id", "name", "synonym", "is_a", "relationship", "is_obsolete", "alt_id")),
}
_REPLACED = re.compile(r"(replaced_by|consider):[ \t]*(\S+)")
_EMPTY_NAME = "(no name)"
_FOREIGN = "links to terms of other files left out"
_VALUELESS = "lines without a value left out"
_NO_VALUE = re.compile(r"\s*(?:!.*)?$")


def is_obo(text: str) -> bool:
    """Whether a text begins as OBO files do; nothing else, such as XML, reaches a parser."""
    return re.match(r"\s*(?:!.*\n\s*)*(?:format-version|data-version|ontology|\[Term\])", text) is not None


def read_obo(raw: bytes, *, path: Path, prefix: str) -> SourceFile:
    """Read terms whose id starts with ``prefix`` and a colon, with exact synonyms only.

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
    lines, notes = _wanted(text)
    ontology = _parse("\n".join(lines), path=path)
    found = [term for term in ontology.terms() if term.id.startswith(f"{prefix}:")]
    check_count(len(found), path=path, what="terms")
    in_use = [term for term in found if not term.obsolete]
    if not in_use:
        message = f"{path} has no {prefix} term that is in use. Give the ontology of the file with --kind."
        raise InvalidInputError(message, path=str(path), prefix=prefix)
    known = frozenset(term.id for term in in_use)
    live = [_term(term, known=known, path=path) for term in in_use]
    check_acyclic({term.id: term.parents for term in live}, path=path)
    return SourceFile(
        rows=tuple(live),
        obsolete=tuple(_obsolete(found, text=text, path=path)),
        version=ontology.metadata.data_version or version_in_name(path),
        licence=find_licence(text[: text.find("[Term]")]),
        notes=notes,
    )


def _wanted(text: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the lines that matter, with a declaration of each relation, and notes on how many were left out."""
    defined = set(re.findall(r"(?m)^id:[ \t]*(\S+)", text))
    kept = ["format-version: 1.2"]
    n_dropped = {_FOREIGN: 0, _VALUELESS: 0}
    stanza = ""
    for line in text.splitlines():
        if line.startswith("["):
            stanza = line.strip()
            kept += ["", stanza] if stanza == "[Term]" else []
            continue
        tag, colon, _ = line.partition(":")
        if colon and tag in _TAGS.get(stanza, ()):
            written, reason = _rewritten(line, defined=defined)
            kept += [written] if written else []
            if reason:
                n_dropped[reason] += 1
    for link in LINKS:
        kept += ["", "[Typedef]", f"id: {link}", f"name: {link}"]
    return [*kept, ""], tuple(f"{count:,} {reason}" for reason, count in n_dropped.items() if count)


def _is_wanted(line: str, *, stanza: str) -> bool:
    tag, colon, _ = line.partition(":")
    if not colon:
        return False
    return tag in _TAGS if stanza == "[Term]" else not stanza and tag == "data-version"


def _rewritten(line: str, *, defined: set[str]) -> tuple[str, str]:
    """Return a line as the parser shall see it, empty for none, and why it was left out, empty without a reason."""
    tag, _, value = line.partition(":")
    if _NO_VALUE.match(value):
        return (f"name: {_EMPTY_NAME}" if tag == "name" else ""), _VALUELESS
    if tag not in ("is_a", "relationship"):
        return line, ""
    words = [*value.split("!")[0].split(), ""]
    relation, target = ("is_a", words[0]) if tag == "is_a" else (_LINK_IDS.get(words[0], ""), words[1])
    if not relation:
        return "", ""
    if target not in defined:
        return "", _FOREIGN
    return (f"is_a: {target}" if tag == "is_a" else f"relationship: {relation} {target}"), ""


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


def _term(term: pronto.Term, *, known: frozenset[str], path: Path) -> OntologyTerm:
    """Return a term in use, without links to itself, to retired terms or to those of another ontology."""
    name = clean_name(term.name or "", path=path, where=term.id)
    if not name or name == _EMPTY_NAME:
        message = f"{path}: {term.id} is in use but has no name. Give a released file of the ontology."
        raise InvalidInputError(message, path=str(path), id=term.id)
    exact = {
        clean_name(one.description, path=path, where=term.id): None for one in term.synonyms if one.scope == "EXACT"
    }
    exact.pop(name, None)
    above: dict[str, Iterable[pronto.Term]] = {"is_a": term.superclasses(distance=1, with_self=False)}
    above.update((relation.id, targets) for relation, targets in term.relationships.items())
    links: dict[str, tuple[str, ...]] = {}
    for link in ("is_a", *LINKS):
        ids = known.intersection(other.id for other in above.get(link, ()))
        links[link] = tuple(sorted(ids - {term.id}))
    return OntologyTerm(term.id, name, tuple(sorted(exact)), links["is_a"], links["part_of"], links["develops_from"])


def _obsolete(terms: list[pronto.Term], *, text: str, path: Path) -> Iterator[Obsolete]:
    """Yield retired terms and alternative ids.

    Their successors are read from the text, because pronto knows only those that the file defines.
    """
    stanzas = {term: stanza for stanza in text.split("\n[") for term in re.findall(r"(?m)^id:[ \t]*(\S+)", stanza)[:1]}
    for term in terms:
        if not term.obsolete:
            for other in sorted(term.alternate_ids):
                yield Obsolete(other, "", (term.id,))
            continue
        name = re.sub(r"(?i)^obsolete\s+", "", clean_name(term.name or "", path=path, where=term.id))
        said: dict[str, list[str]] = {"replaced_by": [], "consider": []}
        for tag, successor in _REPLACED.findall(stanzas[term.id]):
            said[tag].append(successor)
        name = "" if name == _EMPTY_NAME else name
        yield Obsolete(term.id, name, tuple(said["replaced_by"]), tuple(said["consider"]))
