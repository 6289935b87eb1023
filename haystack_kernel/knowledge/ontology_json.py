"""Read an ontology in the JSON form of labels and ancestors: ``{id: {label, ancestors: {id: distance}, synonyms, …}}``.

In: bytes of the file and the prefix of the wanted ids. Out: an ``SourceFile``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.readers import (
    OntologyTerm,
    SourceFile,
    check_acyclic,
    check_count,
    clean_name,
    decode,
    version_in_name,
)
from haystack_kernel.knowledge.terms import Obsolete

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_ontology_json(raw: bytes, *, path: Path, prefix: str) -> SourceFile:
    """Read terms whose id starts with ``prefix`` and a colon.

    Ancestors at distance 1 become parents, and farther ones that no parent leads to; the form does not say along which
    relation, so all count as is_a. Version: the date in the file's name.

    Raises
    ------
    InvalidInputError
        Not JSON, not of this form, cyclic, or without a term of that prefix.
    """
    content = _parse(raw, path=path)
    wanted = {
        term: _checked(term, entry, path=path) for term, entry in content.items() if term.startswith(f"{prefix}:")
    }
    known = {term for term, entry in wanted.items() if not entry.get("deprecated")}
    if not known:
        message = f"{path} has no {prefix} term that is in use. Give the ontology of the file with --kind."
        raise InvalidInputError(message, path=str(path), prefix=prefix)
    above = {term: wanted[term].get("ancestors", {}).keys() & known for term in known}
    terms, retired = [], []
    for term, entry in wanted.items():
        if term in known:
            terms.append(_term(term, entry, above=above, path=path))
        else:
            name = re.sub(r"(?i)^obsolete\s+", "", clean_name(entry["label"] or "", path=path, where=term))
            retired.append(Obsolete(term, name, _ids(entry.get("replaced_by")), _ids(entry.get("consider"))))
    check_acyclic({term.id: term.parents for term in terms}, path=path)
    return SourceFile(tuple(terms), tuple(retired), version_in_name(path), licence="")


def _parse(raw: bytes, *, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(decode(raw, path=path))
    except (json.JSONDecodeError, RecursionError) as error:
        message = f"{path} is not valid JSON: {error}. Download the file again."
        raise InvalidInputError(message, path=str(path)) from error
    if not isinstance(content, dict) or not content:
        _refuse(path, "the file", "must be an object of terms")
    check_count(len(content), path=path, what="terms")
    return content


def _checked(term: str, entry: object, *, path: Path) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("label", 0), (str, type(None))):
        _refuse(path, term, "must have a label")
    if not _is_of(entry.get("ancestors", {}), dict, int):
        _refuse(path, term, "must have ancestors as {id: distance}")
    if not _is_of(entry.get("synonyms", []), list, str):
        _refuse(path, term, "must have synonyms as a list of texts")
    if not entry["label"] and not entry.get("deprecated"):
        _refuse(path, term, "is in use but has no label")
    return entry


def _is_of(value: Any, container: type[list[Any]] | type[dict[str, Any]], item: type) -> bool:  # noqa: ANN401 - parsed JSON
    """Whether a value is a list or a dict, as asked, whose values are of one type."""
    if not isinstance(value, container):
        return False
    items: list[Any] = list(value.values() if isinstance(value, dict) else value)
    return all(isinstance(one, item) for one in items)


def _term(term: str, entry: dict[str, Any], *, above: Mapping[str, set[str]], path: Path) -> OntologyTerm:
    name = clean_name(entry["label"], path=path, where=term)
    synonyms = dict.fromkeys(clean_name(one, path=path, where=term) for one in entry.get("synonyms", []))
    for other in ("", name):
        synonyms.pop(other, None)
    parents = {up for up in above[term] if entry["ancestors"][up] == 1}
    # Of the ancestors that no parent leads to, the lowest count as parents too.
    rest = above[term] - parents - {term}
    if rest:
        rest -= set[str]().union(*(above[up] for up in parents))
        parents |= {up for up in rest if not any(up in above[other] for other in rest)}
    return OntologyTerm(term, name, tuple(synonyms), tuple(sorted(parents)))


def _ids(value: object) -> tuple[str, ...]:
    """Return the ids in a text, a list or nothing."""
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(re.sub(r"^.*/(\w+)_(\d+)$", r"\1:\2", one) for one in listed if isinstance(one, str))


def _refuse(path: Path, where: str, what: str) -> NoReturn:
    message = (
        f"{path}: {where} {what}. The form is {{id: {{label, ancestors: {{id: distance}}, synonyms, deprecated}}}}; "
        "give such a file, or the ontology as OBO."
    )
    raise InvalidInputError(message, path=str(path))
