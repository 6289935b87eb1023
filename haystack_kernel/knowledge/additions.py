"""Add a user's own files to the knowledge: read once, checked, kept in a compact form.

In: an ontology, gene sets, a network or a table of targets. Out: a file in the knowledge folder, and its header.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.knowledge.compact import ROWS, Addition, Header, list_headers, write_addition
from haystack_kernel.knowledge.genesets import read_gene_sets
from haystack_kernel.knowledge.networks import find_form, read_edges
from haystack_kernel.knowledge.obo import is_obo, read_obo
from haystack_kernel.knowledge.ontology_json import read_ontology_json
from haystack_kernel.knowledge.readers import SourceFile, decode, read_bounded
from haystack_kernel.knowledge.targets import read_targets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.knowledge.terms import SourceKind

ONTOLOGIES = {"cl": "CL", "uberon": "UBERON", "mondo": "MONDO"}
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SUFFIXES = {".gmt": "genesets", ".tsv": "targets", ".csv": "targets", ".txt": "targets"}


def add_knowledge(
    file: str | Path,
    *,
    folder: str | Path,
    kind: str | None = None,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    separator: str | None = None,
    licence: str = "",
) -> Header:
    """Read a file and keep it in the knowledge folder; nothing is kept if any part of it is wrong.

    Parameters
    ----------
    file
        OBO, JSON of labels and ancestors, GMT, TSV or CSV; plain or gzip.
    folder
        Where additions are kept, ``Settings.knowledge``; made where it does not exist.
    kind
        cl, uberon, mondo, genesets, targets, network or regulons; None tells it from the ending of the name, and
        from the ids or columns inside.
    name
        What the addition is called: a-z, 0-9, ``-``, ``_``; None takes the file's. An addition of the same name is
        replaced, and then overrides what was added before this one.
    columns, separator
        For targets, see :func:`~haystack_kernel.knowledge.targets.read_targets`.
    licence
        Terms under which the file may be used; "" takes what the file states.

    Raises
    ------
    NotFoundError
        No such file.
    InvalidInputError
        The file is not what its kind asks for; the message says where and what to do.
    MissingExtraError
        OBO without pronto.
    StorageError
        The folder cannot be written.
    """
    path = Path(file).expanduser()
    if kind not in (None, *ROWS):
        message = f"kind {kind!r} is unknown; possible: {', '.join(ROWS)}"
        raise InvalidInputError(message, kind=kind)
    called = name
    if called is None:
        stem = re.sub(r"(?i)(?:\.(?:gz|obo|json|gmt|tsv|csv|txt))+$", "", path.name)
        called = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")
    if not _NAME.fullmatch(called) or called == "packaged":
        message = (
            f"the name {called!r} is invalid: a-z, 0-9, '-' and '_', at most 63 characters, not 'packaged'. Say --name."
        )
        raise InvalidInputError(message, name=called)
    raw, digest = read_bounded(path)
    found = _kind_of(path, raw) if kind is None else kind
    if (columns or separator) and found != "targets":
        message = f"a column mapping is for targets, and {path.name} is read as {found}. Leave it out, or give --kind."
        raise InvalidInputError(message, kind=found)
    content = _read(raw, path=path, kind=found, columns=columns or {}, separator=separator)
    before = list_headers(Path(folder))
    header = Header(
        name=called,
        kind=cast("SourceKind", found),
        version=content.version,
        digest=digest,
        n_terms=len(content.rows),
        licence=" ".join(licence.split()) or content.licence,
        file=path.name,
        order=max((one.order for one in before), default=0) + 1,
        n_obsolete=len(content.obsolete),
        notes=content.notes,
    )
    write_addition(Addition(header, content.rows, content.obsolete), Path(folder))
    return header


def _read(raw: bytes, *, path: Path, kind: str, columns: Mapping[str, str], separator: str | None) -> SourceFile:
    if kind in ONTOLOGIES:
        read = read_ontology_json if raw.lstrip()[:1] in (b"{", b"[") else read_obo
        return read(raw, path=path, prefix=ONTOLOGIES[kind])
    if kind in ("network", "regulons"):
        return read_edges(raw, path=path, kind=kind)
    if kind == "genesets":
        return read_gene_sets(raw, path=path)
    return read_targets(raw, path=path, columns=columns, separator=separator)


def _kind_of(path: Path, raw: bytes) -> str:
    """Return the kind by the ending of the name; for ontologies by the ids inside, for tables by the columns."""
    name = re.sub(r"(?:\.gz)+$", "", path.name.lower())
    ending = Path(re.sub(r"(?<=\.gmt)\.txt$", "", name)).suffix  # a browser saves x.gmt as x.gmt.txt
    if ending in (".obo", ".json"):
        text = decode(raw, path=path)
        pattern = r"(?m)^id:\s*{}:" if ending == ".obo" else r'"{}:\d+"\s*:\s*\{{'
        counts = {kind: len(re.findall(pattern.format(prefix), text)) for kind, prefix in ONTOLOGIES.items()}
        best = max(counts, key=counts.__getitem__)  # a release also holds terms of the ontologies that it imports
        if not counts[best] or (ending == ".obo" and not is_obo(text)):
            message = f"{path} has no CL, UBERON or MONDO term. Give one of these ontologies, or its kind with --kind."
            raise InvalidInputError(message, path=str(path))
        return best
    if ending in _SUFFIXES:
        form = find_form(raw) if _SUFFIXES[ending] == "targets" else None
        return form.kind if form else _SUFFIXES[ending]
    message = (
        f"the kind of {path.name} cannot be told from its name. Give --kind {'|'.join(ROWS)}, or a file ending in "
        ".obo, .json, .gmt or .tsv (.gz may follow)."
    )
    raise InvalidInputError(message, path=str(path))
