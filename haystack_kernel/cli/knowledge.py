"""Commands about what is known of biology: add, list.

In: arguments. Out: one JSON line each; see the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli.output import print_json, print_rows

if TYPE_CHECKING:
    from collections.abc import Sized

app = typer.Typer(
    help="Add ontologies, gene sets and target tables to what is known.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[str | None, typer.Option("--knowledge", help="Folder of the additions.")]


@app.command()
def add(
    file: Annotated[
        str, typer.Argument(help="Ontology (OBO or JSON), gene sets (GMT) or targets (TSV); .gz may follow.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            help="cl, uberon, mondo, genesets, targets, network or regulons; told from the file when left out."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; an addition of that name is replaced.")] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="For targets: FIELD=COLUMN; name, target, family, type, synonyms, id:DATABASE; repeatable."
        ),
    ] = None,
    separator: Annotated[str, typer.Option(help="For targets: what stands between several in one cell.")] = "|",
    knowledge: Folder = None,
) -> None:
    """Read a file once and keep it in a compact form; where any of it is wrong nothing is kept."""
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
    header = add_knowledge(file, folder=folder, kind=kind, name=name, columns=columns, separator=separator)
    print_json(_row(header) | {"folder": folder, "notes": list(header.notes)})


@app.command(name="list")
def list_(
    knowledge: Folder = None, table: Annotated[bool, typer.Option("--table", help="For people.")] = False
) -> None:
    """What is known, oldest first: the packaged tables, then additions; later ones override earlier ones."""
    from pathlib import Path

    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.knowledge.compact import list_headers

    known = load_knowledge()
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
    print_rows([packaged, *(_row(header) for header in list_headers(folder))], table=table)


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
