"""Commands about biological knowledge: add, list.

In: arguments. Out: a readable answer or one JSON line each; see the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli.commands import add as add_command
from haystack_kernel.cli.commands import new_group
from haystack_kernel.cli.output import format_fields, format_rows, show

if TYPE_CHECKING:
    from collections.abc import Sized

app = new_group("Add ontologies, gene sets and target tables.")
Folder = Annotated[
    str | None, typer.Option("--knowledge", metavar="FOLDER", help="Folder of the additions (default: as configured).")
]


def add(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Ontology (OBO or JSON), gene sets (GMT) or targets (TSV), also compressed (.gz).",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="cl, uberon, mondo, genesets, targets, network or regulons (default: recognised from the file).",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the addition; an addition of the same name is replaced.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="Column of a targets table that holds a field: name, target, family, type, synonyms or id:DATABASE; "
            "repeat it for several.",
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Delimiter between values in a cell of a targets table (default: | and ;, between targets also , ).",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option(metavar="TEXT", help="Licence of the file, to be recorded (default: what the file states).")
    ] = "",
    knowledge: Folder = None,
) -> None:
    """Read a file once and keep it in a compact form.

    If any line of the file is wrong, nothing is kept.
    """
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.errors import InvalidInputError
    from haystack_kernel.knowledge.additions import add_knowledge

    columns = {}
    for pair in map_ or []:
        field, equals, column = pair.partition("=")
        if not equals or not field.strip() or not column.strip():
            message = f"--map {pair!r} must be FIELD=COLUMN, as in --map name=pert_iname"
            raise InvalidInputError(message, given=pair)
        columns[field.strip()] = column.strip()
    folder = load_settings(knowledge=knowledge).knowledge
    header = add_knowledge(
        file, folder=folder, kind=kind, name=name, columns=columns, separator=separator, licence=licence
    )
    found = _row(header) | {"folder": folder, "notes": list(header.notes)}
    show(found, lambda: format_fields((key.replace("_", " "), value) for key, value in found.items()))


def list_(knowledge: Folder = None) -> None:
    """List the packaged tables, ontologies and additions, oldest first.

    Later entries override earlier ones.
    """
    from pathlib import Path

    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.knowledge import load_knowledge, load_knowledge_from
    from haystack_kernel.knowledge.compact import list_headers
    from haystack_kernel.knowledge.tables import PACKAGED

    known = load_knowledge_from(PACKAGED)
    tables: tuple[Sized, ...] = (
        *(known.cell_types, known.perturbations, known.pathways, known.tissues, known.diseases),
        *(known.network, known.actions),
    )
    packaged = {
        "name": "packaged",
        "kind": "packaged",
        "version": known.version,
        "n_terms": sum(len(one) for one in tables),
        "n_obsolete": 0,
        "licence": "see the head of each table",
        "file": "",
        "sha256": known.digest,
    }
    folder = Path(load_settings(knowledge=knowledge).knowledge)
    ontologies = [
        {**packaged, "name": one.name, "kind": one.kind, "version": one.version, "n_terms": one.n_terms}
        | {"licence": one.licence, "sha256": one.digest}
        for one in load_knowledge().sources
    ]
    rows = [packaged, *ontologies, *(_row(header) for header in list_headers(folder))]
    show(rows, lambda: format_rows([{**row, "sha256": row["sha256"][:12]} for row in rows]))


for _command in (add, list_):
    add_command(app, _command)


def _row(header: Any) -> dict[str, Any]:  # noqa: ANN401 - a Header, whose module is imported late
    return {
        "name": header.name,
        "kind": header.kind,
        "version": header.version,
        "n_terms": header.n_terms,
        "n_obsolete": header.n_obsolete,
        "licence": header.licence,
        "file": header.file,
        "sha256": header.digest,
    }
