"""Commands about atlases: build, init, list, info, check, move.

In: arguments. Out: a readable answer or one JSON line each; see the package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli.commands import add as add_command
from haystack_kernel.cli.commands import new_group
from haystack_kernel.cli.output import as_text, format_fields, format_rows, show, wrap
from haystack_kernel.errors import InvalidInputError, NotFoundError, StorageError

if TYPE_CHECKING:
    from haystack_kernel.schema import Settings

app = new_group("Index single-cell files for the search of prompt cells.")
Root = Annotated[
    str | None, typer.Option("--atlas-root", metavar="FOLDER", help="Folder of the atlases (default: as configured).")
]


def build(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="h5ad file with raw counts in X, raw or a layer.", show_default=False),
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the atlas: a-z, 0-9, '-' and '_'.")],
    schema: Annotated[
        str,
        typer.Option(
            metavar="SCHEMA",
            help="Naming of the columns: parse_pbmc, openproblems, tabula_sapiens, cellxgene, or a YAML mapping file.",
        ),
    ] = "cellxgene",
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of this file within the atlas (default: the atlas's name).")
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Add the file to an existing atlas, or replace one dataset of it.")
    ] = False,
    skip_totals: Annotated[
        bool,
        typer.Option("--skip-totals", help="Read only a sample of the counts; for files of hundreds of gigabytes."),
    ] = False,
    perturbation_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of obs that names the perturbation.")
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="VALUE", help="Value of that column that marks control cells; repeat it for several."),
    ] = None,
    perturbation_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Kind of the perturbations: cytokine, drug or genetic.")
    ] = None,
    perturbation_also: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Further column of treatments; cells have the treatments of all columns."),
    ] = None,
    treated: Annotated[
        list[str] | None,
        typer.Option(metavar="VALUE", help="Value that is a treatment although it reads like a control."),
    ] = None,
    dose_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of doses; cells at dose 0 are control cells.")
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of times after treatment; cells at 0 are control cells."),
    ] = None,
    vehicle_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the kind of control that belongs to each treatment.")
    ] = None,
    not_treatment: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column that says nothing about treatments although it looks like it."),
    ] = None,
    all_unperturbed: Annotated[
        bool, typer.Option("--all-unperturbed", help="No cell was treated, whatever the columns look like.")
    ] = False,
    atlas_root: Root = None,
) -> None:
    """Index a file as an atlas or as part of one.

    The file itself stays where it is; the index refers to it. A column that looks like treatments and is not used
    stops the build. The answer lists every label of a treatment: read as treated, as which control, or left out.
    """
    from haystack_kernel.atlas import BuildOptions, build_atlas, load_mapping
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.progress import stream_progress
    from haystack_kernel.retrieval import prepare_vectors

    settings = load_settings(atlas_root=atlas_root)
    knowledge = load_knowledge(settings.knowledge)
    mapping = load_mapping(
        schema,
        perturbation_column=perturbation_column,
        control=control,
        perturbation_type=perturbation_type,
        perturbation_also=perturbation_also or None,
        treated=treated or None,
        dose_column=dose_column,
        time_column=time_column,
        vehicle_column=vehicle_column,
        ignore=not_treatment or None,
        unperturbed=all_unperturbed or None,
    )
    built = build_atlas(
        file,
        name=name,
        root=settings.atlas_root,
        mapping=mapping,
        options=BuildOptions(dataset=dataset, add=add, skip_totals=skip_totals),
        progress=stream_progress(sys.stderr),
        knowledge=knowledge,
    )
    prepare_vectors(settings.atlas_root, name, knowledge=knowledge)
    found = built.model_dump(mode="json")
    for note in built.notes:
        print(f"note: {as_text(note)}", file=sys.stderr)
    if found["treatments"]:
        print(f"{len(found['treatments'])} labels of treatments, read as:", file=sys.stderr)
        print(format_rows(_treatment_rows(found["treatments"])), file=sys.stderr)
    if found["unmapped"]:
        print(f"{len(found['unmapped'])} labels match no known term and are kept as they are:", file=sys.stderr)
        print(format_rows(_unmapped_rows(found["unmapped"])), file=sys.stderr)
    single = {key: value for key, value in found.items() if not isinstance(value, (list, dict))}
    show(found, lambda: format_fields((key.replace("_", " "), value) for key, value in single.items()))


def init(
    file: Annotated[str, typer.Argument(metavar="FILE", help="h5ad file to look at.", show_default=False)],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the mapping to this .yaml file.")] = None,
) -> None:
    """Draft a mapping for a file from the columns of its obs.

    Check the mapping, then give it to `haystack atlas build` as --schema.
    """
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
    fields = {one.field: one.value for one in draft.guesses}
    written = {"output": str(output)} if output is not None else {"yaml": draft.text}
    show({"file": file, "fields": fields, "missing": draft.missing, **written}, lambda: draft.text.rstrip("\n"))


def list_(atlas_root: Root = None) -> None:
    """List the atlases."""
    from haystack_kernel.atlas import atlas_info
    from haystack_kernel.config.settings import load_settings

    root = _root(load_settings(atlas_root=atlas_root))
    atlases = [atlas_info(name, root) for name in _names(root)]
    shown = ("name", "n_cells", "n_control", "datasets", "path")
    rows = [{name: list(one[name]) if name == "datasets" else one[name] for name in shown} for one in atlases]
    show(rows, lambda: format_rows(rows))


def info(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Name of an atlas; 'demo' is simulated on first use.", show_default=False),
    ],
    atlas_root: Root = None,
) -> None:
    """Show what an atlas holds.

    The answer lists datasets, cell types, perturbations, donors, and labels that match no known term.
    """
    from haystack_kernel.atlas import atlas_info
    from haystack_kernel.config.connect import DEMO_ATLAS, connect
    from haystack_kernel.config.settings import load_settings

    settings = load_settings(atlas_root=atlas_root)
    if name == DEMO_ATLAS:
        connect(settings).open_atlas([name])  # made on first use
    found = atlas_info(name, _root(settings))
    show(found, lambda: _info_text(found))


def check(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of an atlas (default: all).", show_default=False)
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every source file, also those whose time is unchanged.")
    ] = False,
    atlas_root: Root = None,
) -> None:
    """Compare atlases and their source files with what was recorded.

    Each difference comes with its remedy; the exit code is 1 if there is any.
    """
    from haystack_kernel.atlas import check_atlas
    from haystack_kernel.config.settings import load_settings

    settings = load_settings(atlas_root=atlas_root)
    names = [name] if name else _names(_root(settings))
    root = _root(settings, names=names)
    checked = [check_atlas(one, root, deep=deep) for one in names]
    show(checked[0] if name else checked, lambda: _check_text(checked))
    if not all(one["ok"] for one in checked):
        raise typer.Exit(1)


def move(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of an atlas.", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="FILE", help="Where the source file is now.", show_default=False)],
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Dataset of that file, if the atlas has several.")
    ] = None,
    atlas_root: Root = None,
) -> None:
    """Tell an atlas the new place of a source file.

    It is refused unless the content is the same.
    """
    from haystack_kernel.atlas import move_source
    from haystack_kernel.config.settings import load_settings

    moved = move_source(name, new, root=load_settings(atlas_root=atlas_root).atlas_root, dataset=dataset)
    show(moved, lambda: format_fields((key.replace("_", " "), value) for key, value in moved.items()))


for _command in (build, init, list_, info, check, move):
    add_command(app, _command)


def _root(settings: Settings, *, names: list[str] | None = None) -> str:
    """Local folder of all atlases; of atlases in a bucket the copies of their records, and of ``names`` the indexes."""
    from haystack_kernel.atlas import local_root

    return local_root(settings.atlas_root, cache=settings.cache, names=names)


def _names(root: str) -> list[str]:
    """Names of all atlases of a root that exists; an empty list must not hide that it does not."""
    from haystack_kernel.atlas import list_atlases

    if not Path(root).is_dir():
        msg = (
            f"atlas root {root} does not exist, so it holds no atlases; check --atlas-root or HAYSTACK_ATLAS_ROOT, or "
            "make the demo atlas there with `haystack atlas info demo`"
        )
        raise NotFoundError(msg, atlas_root=root)
    return list_atlases(root)


def _treatment_rows(labels: list[dict[str, Any]], *, most: int = 40) -> list[dict[str, Any]]:
    """Rows of the table of treatments; of many treatments the most frequent ones, of controls and the rest all."""
    treated = [one for one in labels if one["read_as"] == "treated"]
    others = [one for one in labels if one["read_as"] != "treated"]
    shown = ("label", "read_as", "name", "type", "control", "n_cells", "why")
    rows = [{key: one[key] for key in shown} for one in (*treated[:most], *others)]
    if treated[most:]:
        n_cells = sum(one["n_cells"] for one in treated[most:])
        more = f"{len(treated) - most} more"
        rows.insert(most, {**dict.fromkeys(shown, ""), "label": more, "read_as": "treated", "n_cells": n_cells})
    return rows


def _unmapped_rows(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ordered = sorted(labels, key=lambda one: (one["kind"], -one["n_cells"], one["label"]))
    return [{**one, "nearest": ", ".join(one["nearest"])} for one in ordered]


def _check_text(checked: list[dict[str, Any]]) -> str:
    """One row per file, long paths cut at their start, and below them every remedy in full."""
    files = [(one["name"], file) for one in checked for file in one["files"]]
    rows = []
    for name, file in files:
        path = file["file"]
        path = path if len(path) <= 60 else f"...{path[-57:]}"
        rows.append(
            {
                "atlas": name,
                "status": file["status"],
                "dataset": file["dataset"],
                "detail": file["detail"],
                "file": path,
            }
        )
    remedies = [
        f"{file['status']}: {file['file']}\n{wrap(file['remedy'], indent='  ')}" for _, file in files if file["remedy"]
    ]
    return "\n".join([format_rows(rows), *remedies])


def _info_text(found: dict[str, Any]) -> str:
    """The sections of an atlas, one below the other."""
    groups = ("cell_types", "perturbations", "controls", "donors", "tissues", "diseases")
    kinds = ("datasets", *groups, "treatments", "unmapped")
    sections = {key: found[key] for key in kinds}
    sections["datasets"] = [  # the path comes last, where a narrow terminal has a line for it
        {"name": key, **{name: item for name, item in value.items() if name != "source"}, "source": value["source"]}
        for key, value in found["datasets"].items()
    ]
    sections["treatments"] = _treatment_rows(found["treatments"])
    sections["unmapped"] = _unmapped_rows(found["unmapped"])
    text = [format_fields((key.replace("_", " "), as_text(value)) for key, value in found.items() if key not in kinds)]
    for key, rows in sections.items():
        text.append(f"\n{key.replace('_', ' ')}\n{format_rows(rows)}")
    return "\n".join(text)
