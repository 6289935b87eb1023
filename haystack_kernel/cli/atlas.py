"""Commands about atlases: build, init, list, info, check, move.

In: arguments. Out: one JSON line each; see the package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli.output import format_rows, print_json, print_rows
from haystack_kernel.errors import InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    help="Index single-cell files so that runs can find prompt cells in them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Root = Annotated[str | None, typer.Option("--atlas-root", help="Folder of the atlases.")]


@app.command()
def build(
    file: Annotated[str, typer.Argument(help="h5ad with raw counts in X, raw or layers['counts'].")],
    name: Annotated[str, typer.Option(help="Name of the atlas: a-z, 0-9, '-', '_'.")],
    schema: Annotated[
        str, typer.Option(help="parse_pbmc, openproblems, tabula_sapiens, cellxgene, or a YAML mapping file.")
    ] = "cellxgene",
    dataset: Annotated[str | None, typer.Option(help="Name of this file within the atlas.")] = None,
    add: Annotated[bool, typer.Option("--add", help="Add to an atlas, or replace one dataset of it.")] = False,
    skip_totals: Annotated[
        bool, typer.Option("--skip-totals", help="Read only a sample of the counts; for files of hundreds of GB.")
    ] = False,
    perturbation_column: Annotated[str | None, typer.Option(help="obs column that names the treatment.")] = None,
    control: Annotated[list[str] | None, typer.Option(help="Value of that column for controls; repeatable.")] = None,
    perturbation_type: Annotated[str | None, typer.Option(help="cytokine, drug or genetic.")] = None,
    atlas_root: Root = None,
) -> None:
    """Index a file as (part of) an atlas; the file itself stays where it is."""
    from haystack_kernel.atlas import BuildOptions, build_atlas, load_mapping
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.progress import stream_progress
    from haystack_kernel.retrieval import prepare_vectors

    settings = load_settings(atlas_root=atlas_root)
    knowledge = load_knowledge(settings.knowledge)
    mapping = load_mapping(
        schema, perturbation_column=perturbation_column, control=control, perturbation_type=perturbation_type
    )
    report = build_atlas(
        file,
        name=name,
        root=settings.atlas_root,
        mapping=mapping,
        options=BuildOptions(dataset=dataset, add=add, skip_totals=skip_totals),
        progress=stream_progress(sys.stderr),
        knowledge=knowledge,
    )
    prepare_vectors(settings.atlas_root, name, knowledge=knowledge)
    _tell_unmapped([one.model_dump(mode="json") for one in report.unmapped], notes=report.notes)
    print_json(report.model_dump(mode="json"))


@app.command()
def init(
    file: Annotated[str, typer.Argument(help="h5ad to look at.")],
    output: Annotated[Path | None, typer.Option(help="Write the mapping to this .yaml file.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Print the mapping itself, for people.")] = False,
) -> None:
    """Draft a mapping for a file by looking at its obs; check it, then give it to build as --schema."""
    from haystack_kernel.atlas import draft_mapping
    from haystack_kernel.knowledge import load_knowledge

    if output is not None and output.exists():
        msg = f"{output} exists and may hold your changes; choose another name, or delete it first"
        raise InvalidInputError(msg, path=str(output))
    draft = draft_mapping(file, knowledge=load_knowledge())
    if output is not None:
        try:
            output.write_text(draft.text, encoding="utf-8")
        except OSError as error:
            msg = f"{output} cannot be written ({error}); choose another place"
            raise StorageError(msg, path=str(output)) from error
    if table:
        print(draft.text, end="")
        return
    fields = {one.field: one.value for one in draft.guesses}
    written = {"output": str(output)} if output is not None else {"yaml": draft.text}
    print_json({"file": file, "fields": fields, "missing": draft.missing, **written})


@app.command(name="list")
def list_(atlas_root: Root = None, table: Annotated[bool, typer.Option("--table", help="For people.")] = False) -> None:
    """Atlases there are."""
    from haystack_kernel.atlas import atlas_info, list_atlases
    from haystack_kernel.config.settings import load_settings

    root = load_settings(atlas_root=atlas_root).atlas_root
    atlases = [atlas_info(name, root) for name in list_atlases(root)]
    shown = ("name", "n_cells", "n_control", "datasets", "path")
    rows = [{name: list(one[name]) if name == "datasets" else one[name] for name in shown} for one in atlases]
    print_rows(rows, table=table)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="Name of an atlas; `demo` is made on first use.")],
    table: Annotated[bool, typer.Option("--table", help="For people.")] = False,
    atlas_root: Root = None,
) -> None:
    """What an atlas holds: datasets, cell types, perturbations, donors, unmapped labels."""
    from haystack_kernel.atlas import atlas_info
    from haystack_kernel.config.connect import DEMO_ATLAS, connect
    from haystack_kernel.config.settings import load_settings

    settings = load_settings(atlas_root=atlas_root)
    if name == DEMO_ATLAS:
        connect(settings).open_atlas([name])  # made on first use
    found = atlas_info(name, settings.atlas_root)
    if table:
        _print_info(found)
    else:
        print_json(found)


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="Name of an atlas; without it all are checked.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every source file, also those of the same time.")] = False,
    table: Annotated[bool, typer.Option("--table", help="For people.")] = False,
    atlas_root: Root = None,
) -> None:
    """Compare an atlas and its source files with its record; says what to do where they differ."""
    from haystack_kernel.atlas import check_atlas, list_atlases
    from haystack_kernel.config.settings import load_settings

    root = load_settings(atlas_root=atlas_root).atlas_root
    checked = [check_atlas(one, root, deep=deep) for one in ([name] if name else list_atlases(root))]
    if table:
        _print_check(checked)
    else:
        print_json(checked[0] if name else checked)
    if not all(one["ok"] for one in checked):
        raise typer.Exit(1)


@app.command()
def move(
    name: Annotated[str, typer.Argument(help="Name of an atlas.")],
    new: Annotated[str, typer.Argument(help="Where the source file is now.")],
    dataset: Annotated[str | None, typer.Option(help="Dataset of that file, where the atlas has several.")] = None,
    atlas_root: Root = None,
) -> None:
    """Point an atlas at the new place of a source file; refused unless it is the same file."""
    from haystack_kernel.atlas import move_source
    from haystack_kernel.config.settings import load_settings

    print_json(move_source(name, new, root=load_settings(atlas_root=atlas_root).atlas_root, dataset=dataset))


def _tell_unmapped(labels: list[dict[str, Any]], *, notes: Sequence[str]) -> None:
    """Labels that nothing known answers to, and remarks, for people."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if labels:
        print(f"{len(labels)} labels are unknown and kept as they stand:", file=sys.stderr)
        print(format_rows(_unmapped_rows(labels)), file=sys.stderr)


def _unmapped_rows(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ordered = sorted(labels, key=lambda one: (one["kind"], -one["n_cells"], one["label"]))
    return [{**one, "nearest": ", ".join(one["nearest"])} for one in ordered]


def _print_check(checked: list[dict[str, Any]]) -> None:
    """Files one below the other, long paths cut at their start, and every remedy in full."""
    rows = [{"atlas": one["name"], **file} for one in checked for file in one["files"]]
    shown = ("atlas", "status", "dataset", "detail")
    print_rows([{**{key: row[key] for key in shown}, "file": _tail(row["file"])} for row in rows], table=True)
    for row in rows:
        if row["remedy"]:
            print(f"{row['status']}: {row['file']}\n  {row['remedy']}")


def _tail(path: str) -> str:
    return path if len(path) <= 60 else f"...{path[-57:]}"


def _print_info(found: dict[str, Any]) -> None:
    """Sections of an atlas one below the other."""
    kinds = ("datasets", "cell_types", "perturbations", "donors", "tissues", "diseases", "unmapped")
    print("  ".join(f"{key}: {value}" for key, value in found.items() if key not in kinds))
    sections = {**{key: found[key] for key in kinds}}
    sections["datasets"] = [{"name": key, **value} for key, value in found["datasets"].items()]
    sections["unmapped"] = _unmapped_rows(found["unmapped"])
    for key, rows in sections.items():
        print(f"\n{key.replace('_', ' ')}")
        print_rows(rows, table=True)
