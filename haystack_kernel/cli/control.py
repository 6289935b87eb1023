"""Commands of control over runs: list, fork, compare, gc, doctor.

In: arguments. Out: one JSON line each; see the package.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli.output import format_rows, print_json, print_rows
from haystack_kernel.cli.runs import MaxCost, Yes, go_on, spending_of

if TYPE_CHECKING:
    from haystack_kernel.manage.doctor import Line

RunIdArgument = Annotated[str, typer.Argument(metavar="RUN_ID", help="As printed by `haystack run` and `list`.")]
Storage = Annotated[str | None, typer.Option(help="Where run folders live: a folder or gs://bucket/prefix.")]
Table = Annotated[bool, typer.Option("--table", help="For people.")]
_MIB = 2**20


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (list_, fork, compare, gc, doctor):
        app.command(name=command.__name__.rstrip("_"))(command)


def list_(
    storage: Storage = None,
    status: Annotated[str | None, typer.Option(help="Only runs that are running, done, failed or cancelled.")] = None,
    since: Annotated[str | None, typer.Option(help="Only runs begun then or later: a date, or an age (7d).")] = None,
    text: Annotated[str | None, typer.Option(help="Only runs whose question or id holds this.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    table: Table = False,
) -> None:
    """Runs of a storage, newest first."""
    from haystack_kernel.manage import list_summaries

    found = list_summaries(storage=storage, status=status, since=since, text=text, limit=limit)
    rows = [
        {
            "run_id": item.run_id,
            "status": item.status,
            "score": None if item.score != item.score else round(item.score, 2),
            "rounds": item.rounds,
            "engine": item.engine,
            "question": item.question,
        }
        for item in found
    ]
    print_rows(rows, table=table)


def fork(
    run_id: RunIdArgument,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the run to change; repeatable.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Another question; nothing is taken over then.")] = None,
    new_run_id: Annotated[str | None, typer.Option(help="Id of the new run; made when left out.")] = None,
    no_run: Annotated[bool, typer.Option("--no-run", help="Only make the new run; `haystack resume` runs it.")] = False,
    storage: Storage = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
) -> None:
    """Branch off a new run with one change; steps that the change does not touch are taken over."""
    from haystack_kernel.manage import fork as branch
    from haystack_kernel.manage.changes import parse_changes

    made = branch(run_id, changes=parse_changes(set_ or []), question=question, new_run_id=new_run_id, storage=storage)
    origin = made.record.forked_from
    reused = ", ".join(origin.reused) if origin and origin.reused else "nothing"
    sys.stderr.write(f"run {made.run_id} branches off {run_id}; taken over: {reused}\n")
    if no_run:
        print_json({**made.status(), "reused": list(origin.reused) if origin else []})
    else:
        go_on(made, storage=storage, spending=spending_of(yes, max_cost))


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B")],
    storage: Storage = None,
    table: Table = False,
) -> None:
    """What differs between two runs, and how far their predictions agree."""
    from haystack_kernel.manage import compare as put_side_by_side

    found = put_side_by_side(run_a, run_b, storage=storage)
    if table:
        print(repr(found))
    else:
        print_json(found.to_dict())


def gc(
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="[RUN_ID]...", help="Only these; else all.")] = None,
    keep: Annotated[int | None, typer.Option(help="Leave the newest so many runs alone.")] = None,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="Leave younger runs alone.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is found; without it nothing is.")] = False,
    storage: Storage = None,
    table: Table = False,
) -> None:
    """Find what no record needs: cells and outputs of rounds that are not the best, leftovers, logs of old jobs."""
    from haystack_kernel.manage import collect_garbage

    found = collect_garbage(run_ids or (), storage=storage, keep=keep, older_than_days=older_than, delete=delete)
    rows: list[dict[str, Any]] = [
        {"run_id": item.run_id, "files": len(item.paths), "n_bytes": item.n_bytes, "kept": item.kept}
        for item in found.runs
        if item.paths or item.kept
    ]
    what = "freed" if found.is_deleted else "would be freed; --delete does it"
    sys.stderr.write(f"{found.n_bytes:,} bytes ({found.n_bytes / _MIB:.1f} MiB) {what}\n")
    if table:
        print(
            format_rows(
                [
                    *rows,
                    {"run_id": "(job scratch)", "files": len(found.scratch.paths), "n_bytes": found.scratch.n_bytes},
                ]
            )
        )
        return
    scratch = {"folders": list(found.scratch.paths), "n_bytes": found.scratch.n_bytes}
    print_json({"deleted": found.is_deleted, "n_bytes": found.n_bytes, "runs": rows, "scratch": scratch})


def doctor(
    for_: Annotated[
        str, typer.Option("--for", metavar="local|batch", help="What the installation is used for.")
    ] = "local",
    table: Table = False,
) -> None:
    """Check the installation; exit code 1 where something needed is missing."""
    from haystack_kernel.manage import examine
    from haystack_kernel.manage.doctor import is_well

    lines = examine(for_)
    if table:
        print("\n".join(_explained(line) for line in lines))
    else:
        print_json([line.to_dict() for line in lines])
    if not is_well(lines):
        raise typer.Exit(1)


def _explained(line: Line) -> str:
    """A check for people: a mark, what was found, and below it what to do."""
    mark = "ok  " if line.ok else "FAIL" if line.needed else "note"
    remedy = f"\n      -> {line.remedy}" if line.remedy else ""
    return f"{mark}  {line.check}: {line.found}{remedy}"
