"""Commands about atlases: build, list, info, check.

In: arguments. Out: one JSON line each; see the package.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from haystack_kernel.cli.output import print_json, print_rows

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
    perturbation_column: Annotated[str | None, typer.Option(help="obs column that names the treatment.")] = None,
    control: Annotated[list[str] | None, typer.Option(help="Value of that column for controls; repeatable.")] = None,
    perturbation_type: Annotated[str | None, typer.Option(help="cytokine, drug or genetic.")] = None,
    atlas_root: Root = None,
) -> None:
    """Index a file as (part of) an atlas; the file itself stays where it is."""
    from haystack_kernel.atlas import build_atlas, load_mapping
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.progress import stream_progress
    from haystack_kernel.settings import load_settings

    settings = load_settings(atlas_root=atlas_root)
    mapping = load_mapping(
        schema, perturbation_column=perturbation_column, control=control, perturbation_type=perturbation_type
    )
    report = build_atlas(
        file,
        name=name,
        root=settings.atlas_root,
        mapping=mapping,
        dataset=dataset,
        progress=stream_progress(sys.stderr),
        knowledge=load_knowledge(settings.knowledge),
    )
    print_json(report.model_dump(mode="json"))


@app.command(name="list")
def list_(atlas_root: Root = None, table: Annotated[bool, typer.Option("--table", help="For people.")] = False) -> None:
    """Atlases there are."""
    from haystack_kernel.atlas import atlas_info, list_atlases
    from haystack_kernel.settings import load_settings

    root = load_settings(atlas_root=atlas_root).atlas_root
    atlases = [atlas_info(name, root) for name in list_atlases(root)]
    shown = ("name", "n_cells", "n_control", "datasets", "path")
    rows = [{name: list(one[name]) if name == "datasets" else one[name] for name in shown} for one in atlases]
    print_rows(rows, table=table)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="Name of an atlas; `demo` is made on first use.")], atlas_root: Root = None
) -> None:
    """What an atlas holds: datasets, cell types, perturbations, donors, unmapped labels."""
    from haystack_kernel.atlas import atlas_info
    from haystack_kernel.connect import connect
    from haystack_kernel.settings import load_settings

    settings = load_settings(atlas_root=atlas_root)
    connect(settings).open_atlas([name])
    print_json(atlas_info(name, settings.atlas_root))


@app.command()
def check(name: Annotated[str, typer.Argument(help="Name of an atlas.")], atlas_root: Root = None) -> None:
    """Read every byte of an atlas and of its source files again and compare with the record."""
    from haystack_kernel.atlas import check_atlas
    from haystack_kernel.settings import load_settings

    found = check_atlas(name, load_settings(atlas_root=atlas_root).atlas_root)
    print_json(found)
    if not found["ok"]:
        raise typer.Exit(1)
