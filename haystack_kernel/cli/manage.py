"""Commands about several runs and about the installation: list, fork, compare, export, gc, doctor, orphans.

In: arguments. Out: a readable answer or one JSON line each; see the package.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_rows, show, wrap
from haystack_kernel.cli.runs import (
    AcceptChanges,
    MaxCost,
    RunIdArgument,
    Storage,
    Yes,
    at,
    go_on,
    spending_of,
    status_text,
)

if TYPE_CHECKING:
    from haystack_kernel.manage.comparison import Comparison

_MIB = 2**20


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (list_, gallery, fork, compare, export, verify, gc):
        commands.add(app, command, group=commands.RESULTS)
    commands.add(app, doctor, group=commands.SYSTEM)
    commands.add(app, orphans, group=commands.SYSTEM)


def list_(
    storage: Storage = None,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS", help="Only runs in this state: running, done, failed, cancelled, or interrupted."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Only runs that began at this date or later, or an age: 12h, 7d, 2w."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only runs whose question or id contains this text.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Maximum number of runs to show.")] = None,
) -> None:
    """List the runs of a storage, newest first."""
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
    show(
        rows, lambda: format_rows(rows) if rows else _nothing_listed(storage, has_filter=bool(status or since or text))
    )


def _nothing_listed(storage: str | None, *, has_filter: bool) -> str:
    from haystack_kernel.config.settings import load_settings

    where = load_settings(storage=storage).storage
    if has_filter:
        return wrap(f"No run in {where} matches these filters; `haystack list{at(storage)}` shows all runs.")
    return wrap(f'Storage {where} holds no runs yet. Ask a question with `haystack run "…"{at(storage)}`.')


def gallery(
    storage: Storage = None,
    to: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to write the page (default: in the storage).")
    ] = None,
) -> None:
    """Write a searchable page over the runs of a storage.

    It is for people without the service: it opens offline, links the reports, and shows every run of the storage,
    whoever asked it.
    """
    from haystack_kernel.manage import write_gallery

    made = write_gallery(storage=storage, to=to)
    show(
        {"gallery": made.address, "runs": made.n_runs, "reports": made.n_reports},
        lambda: f"{made.address}: {made.n_runs:,} runs, {made.n_reports:,} with a report",
    )


def verify(
    report: Annotated[
        str, typer.Argument(metavar="REPORT", help="File of a report, or the id of a run.", show_default=False)
    ],
    storage: Storage = None,
) -> None:
    """Check that a report says what its record says.

    Every text, number, table, figure, digest and quotation is checked, and the run is opened where it is at hand.
    """
    from haystack_kernel.manage import verify_report

    found = verify_report(report, storage=storage)
    words = {True: "ok", False: "WRONG", None: "not checked"}
    rows = [{"check": line.check, "result": words[line.ok], "found": line.found} for line in found.lines]
    show({"run_id": found.run_id, "ok": found.ok, "checks": rows}, lambda: format_rows(rows))
    if not found.ok:
        raise typer.Exit(1)


def fork(
    run_id: RunIdArgument,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the run to change; repeat it for several."),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(metavar="QUESTION", help="Ask another question; no step of the first run is reused then."),
    ] = None,
    new_run_id: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="Id of the new run (default: made from the date and time).")
    ] = None,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Make the new run without starting it; `haystack resume` starts it.")
    ] = False,
    storage: Storage = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
    accept_changes: AcceptChanges = False,
) -> None:
    """Make a new run of an existing one with some options changed.

    Steps that the changes do not affect are reused.
    """
    from haystack_kernel.manage import fork as branch
    from haystack_kernel.manage.changes import parse_changes

    made = branch(
        run_id,
        changes=parse_changes(set_ or []),
        question=question,
        new_run_id=new_run_id,
        storage=storage,
        accept_changes=accept_changes,
    )
    origin = made.record.forked_from
    reused = list(origin.reused) if origin else []
    sys.stderr.write(f"run {made.run_id} is forked from {run_id}; reused steps: {', '.join(reused) or 'none'}\n")
    if not no_run:
        go_on(made, storage=storage, spending=spending_of(yes, max_cost))
        return
    found = made.leave().status()
    show({**found, "reused": reused}, lambda: status_text(found, question=made.record.question, storage=storage))


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="Id of the first run.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Id of the second run.")],
    storage: Storage = None,
) -> None:
    """Compare options, scores and predictions of two runs."""
    from haystack_kernel.manage import compare as put_side_by_side

    found = put_side_by_side(run_a, run_b, storage=storage)
    show(found.to_dict(), lambda: _comparison_text(found))


def _comparison_text(found: Comparison) -> str:
    """A comparison as aligned tables of the terminal's width."""
    parts = [wrap(line) for line in found.summary()]
    parts.append(
        format_rows(list(found.differences)) if found.differences else "Question, options and inputs are equal."
    )
    parts.append("\nscores, 1 (chance) to 10")
    scores = found.to_frame().rename(columns={"what": "score", "difference": "b - a"})
    parts.append(
        format_rows([{name: row[name] for name in ("score", "a", "b", "b - a")} for _, row in scores.iterrows()])
    )
    pathways = found.to_dict()["pathways"]
    if pathways:
        parts.append("\npathways with the highest scores in either run")
        parts.append(format_rows(pathways))
    return "\n".join(parts)


def export(
    run_id: RunIdArgument,
    what: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORM",
            help="pseudobulk (counts and design for DESeq2), gmt (called genes as gene sets) or csv (all tables); "
            "repeat it for several (default: all).",
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where the files go (default: RUN_ID).")] = None,
    storage: Storage = None,
) -> None:
    """Write a run in the forms of other tools."""
    from haystack_kernel import export as forms
    from haystack_kernel.run import attach as find

    written = forms.write(find(run_id, storage=storage), folder=output or run_id, what=what or forms.FORMS)
    show({"run_id": run_id, "files": written}, lambda: "\n".join(written))


def gc(
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="RUN_ID", help="Runs to look at (default: all of the storage).")
    ] = None,
    keep: Annotated[int | None, typer.Option(metavar="N", min=0, help="Number of newest runs to leave alone.")] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Only runs older than this many days.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the listed files (default: dry run).")] = False,
    storage: Storage = None,
) -> None:
    """Find and delete files that no record needs.

    These are cells and outputs of rounds that are not the best, leftovers of interrupted writes, and logs of old jobs.
    """
    from haystack_kernel.manage import collect_garbage

    found = collect_garbage(run_ids or (), storage=storage, keep=keep, older_than_days=older_than, delete=delete)
    rows: list[dict[str, Any]] = [
        {"run_id": item.run_id, "files": len(item.paths), "n_bytes": item.n_bytes, "kept": item.kept}
        for item in found.runs
        if item.paths or item.kept
    ]
    what = "freed" if found.is_deleted else "would be freed; --delete does it"
    sys.stderr.write(f"{found.n_bytes:,} bytes ({found.n_bytes / _MIB:.1f} MiB) {what}\n")
    scratch = {"folders": list(found.scratch.paths), "n_bytes": found.scratch.n_bytes}
    of_jobs = {
        "run_id": "(job scratch)",
        "files": len(found.scratch.paths),
        "n_bytes": found.scratch.n_bytes,
        "kept": "",
    }
    show(
        {"deleted": found.is_deleted, "n_bytes": found.n_bytes, "runs": rows, "scratch": scratch},
        lambda: format_rows([*rows, of_jobs]),
    )


def orphans(
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel those of this storage (default: list them); needs --yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm --cancel.")] = False,
    storage: Storage = None,
) -> None:
    """List cloud jobs that bill without a run folder.

    Such a job lives on after its run folder was deleted. Jobs of another storage are listed too, because they may bill
    the same project, but they are never cancelled.
    """
    from haystack_kernel.errors import InvalidInputError
    from haystack_kernel.manage import find_orphans

    if cancel and not yes:
        msg = "--cancel stops jobs that cannot be started again; confirm it with --cancel --yes"
        raise InvalidInputError(msg)
    found = find_orphans(storage=storage, cancel=cancel)
    rows = [
        {
            "job_id": item.job_id,
            "kind": item.kind,
            "run_id": item.owner,
            "state": item.state,
            "cancelled": cancel and item.is_of_this_storage,
            "reason": item.reason,
        }
        for item in found
    ]
    show(rows, lambda: format_rows(rows))


def doctor(
    for_: Annotated[
        str, typer.Option("--for", metavar="local|batch", help="What the installation is used for.")
    ] = "local",
) -> None:
    """Check the installation and say what is missing.

    The exit code is 1 if something needed is missing.
    """
    from haystack_kernel.manage import examine
    from haystack_kernel.manage.doctor import is_well

    lines = examine(for_)
    texts = []
    for line in lines:
        mark = "ok"
        if not line.ok:
            mark = "FAIL" if line.needed else "note"
        texts.append(wrap(f"{mark:<4}  {line.check}: {line.found}", indent="      ")[6:])
        if line.remedy:
            texts.append(wrap(f"-> {line.remedy}", indent="      "))
    show([line.to_dict() for line in lines], lambda: "\n".join(texts))
    if not is_well(lines):
        raise typer.Exit(1)
