"""Commands about one run: run, submit, resume, attach, status, cancel, demo, report, resolve.

In: arguments. Out: a readable answer or one JSON line each; see the package.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli import commands
from haystack_kernel.cli.output import format_fields, format_rows, show, wrap
from haystack_kernel.schema import CELL_OPTIONS, ControlStrategy, ExecutorName, PlannerName, address_fault
from inference.manifest import AUTO, ENGINES

if TYPE_CHECKING:
    from haystack_kernel.run import Run

_NO_OPTION = ("storage", "run_id", "question", "yes", "max_cost")  # of a run's configuration
DEMO_QUESTION = "How would lung fibroblasts respond to TGF-beta?"

Question = Annotated[
    str,
    typer.Argument(
        metavar="QUESTION",
        help="A question in English, 10 to 2,000 characters, e.g. 'How would B cells respond to IFN-beta?'",
        show_default=False,
    ),
]
RunIdArgument = Annotated[str, typer.Argument(metavar="RUN_ID", help="Id of a run; `haystack list` shows them.")]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE", help="Folder or gs://bucket/prefix that holds the run folders (default: as configured)."
    ),
]
Atlases = Annotated[
    list[str] | None,
    typer.Option("--atlas", metavar="NAME", help="Atlas to search for prompt cells; repeat it for several."),
]
QueryAtlas = Annotated[
    str | None, typer.Option(metavar="NAME", help="Atlas that the query cells are taken from (default: any).")
]
QueryH5ad = Annotated[
    str | None,
    typer.Option(
        "--query",
        "--query-h5ad",
        metavar="FILE",
        help="Your own query cells: an h5ad file of raw counts (path or gs:// address).",
    ),
]
PromptH5ad = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="FILE",
        help="Your own prompt cells, which show the effect: an h5ad file of raw counts (default: from the atlases).",
    ),
]
ControlH5ad = Annotated[
    str | None,
    typer.Option(
        "--control",
        metavar="FILE",
        help="Untreated cells that match your own prompt cells (default: by the labels of the prompt).",
    ),
]
QueryCells = Annotated[
    str | None,
    typer.Option(
        metavar="'COLUMN=VALUE,…'",
        help="Which cells of that file, by columns of its obs, e.g. 'cell_type=B cell,condition=ctrl', or 'all' "
        "(default: the untreated cells of the type asked for, by its labels).",
    ),
]
Planner = Annotated[
    PlannerName | None,
    typer.Option(
        help="Who reads the question, chooses the prompt and words the answer: rules (offline), or Claude, which costs "
        "money (default: auto, claude if its credentials are configured)."
    ),
]
Hide = Annotated[
    list[str] | None,
    typer.Option(
        metavar="'CELL TYPE:PERTURBATION'", help="Measured pair that the search may not use; repeat it for several."
    ),
]
Pin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CANDIDATE",
        help="Candidate that every round must use: its key, or criteria such as 'dataset=kang,cell_type=B cell'; "
        "repeat it for several.",
    ),
]
Ban = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CANDIDATE",
        help="Candidate that no round may use: its key, or criteria such as 'donor=1256'; repeat it for several.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Approve jobs that cost money.")]
AcceptChanges = Annotated[
    bool,
    typer.Option("--accept-changes", help="Continue even if a file that the run reads was replaced."),
]
ModelFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Checkpoint for engine stack: a path, a gs:// address, or 'demo'.")
]
GeneListFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Gene list that belongs to the model: a path or gs:// address.")
]
MaxCost = Annotated[
    float | None,
    typer.Option(metavar="USD", min=0, help="Maximum cost of all jobs of the run together, in US dollars."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (run, submit, resume, attach, status, cancel, demo):
        commands.add(app, command, group=commands.ASK)
    commands.add(app, report, group=commands.RESULTS)
    commands.add(app, resolve, group=commands.DATA)


def run(
    question: Question,
    storage: Storage = None,
    atlas: Atlases = None,
    query_atlas: QueryAtlas = None,
    query_h5ad: QueryH5ad = None,
    query_cells: QueryCells = None,
    prompt_h5ad: PromptH5ad = None,
    control_h5ad: ControlH5ad = None,
    planner: Planner = None,
    transcript: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Transcript of another run, whose answers --planner replay gives again."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Method of prediction: {', '.join((AUTO, *ENGINES))}, or an installed engine; `haystack engine list` "
            "explains them (default: stack if a model is configured, otherwise weighted).",
        ),
    ] = None,
    model: ModelFile = None,
    genelist: GeneListFile = None,
    diffusion_steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Generation steps of engine stack.", **commands.limits("diffusion_steps")),
    ] = None,
    control_strategy: Annotated[
        ControlStrategy | None,
        typer.Option(
            help="What the prediction is compared with: a prediction from control cells, or the query cells themselves."
        ),
    ] = None,
    hide: Hide = None,
    pin: Pin = None,
    ban: Ban = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Score at which no further round is run.", **commands.limits("threshold")),
    ] = None,
    max_rounds: Annotated[
        int | None, typer.Option(metavar="N", help="Maximum number of rounds.", **commands.limits("max_rounds"))
    ] = None,
    n_prompt: Annotated[
        int | None, typer.Option(metavar="CELLS", help="Maximum number of prompt cells.", **commands.limits("n_prompt"))
    ] = None,
    n_query: Annotated[
        int | None, typer.Option(metavar="CELLS", help="Maximum number of query cells.", **commands.limits("n_query"))
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed.", **commands.limits("seed"))] = None,
    literature: Annotated[
        bool | None,
        typer.Option("--literature/--no-literature", help="Search PubMed, Europe PMC and Semantic Scholar."),
    ] = None,
    executor: Annotated[
        ExecutorName | None, typer.Option(help="Where jobs run: on this machine, or on Google Cloud Batch.")
    ] = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            metavar="RUN_ID", help="Id of the run; an existing run goes on (default: made from the date and time)."
        ),
    ] = None,
) -> None:
    """Ask a question and work it to the end.

    The run folder then holds run.ipynb (executed notebook), report.html, run.json (record) and the tables.
    """
    options = _options(locals())
    execute(question, storage=storage, run_id=run_id, options=options, spending=spending_of(yes, max_cost))


def submit(**given: Any) -> None:  # noqa: ANN401 - the options of ``run``
    """Hand a question to a background job.

    The job works it on this machine or in the cloud, and the command returns at once. A RUN_ID in place of the question
    continues that run. Submitting the same run again finds its job.
    """
    from haystack_kernel.manage import submit as hand_over

    storage, run_id, question, yes, max_cost = (given[name] for name in _NO_OPTION)
    made = hand_over(
        question,
        run_id=run_id,
        storage=storage,
        show=lambda line: sys.stderr.write(f"{line}\n"),
        **spending_of(yes, max_cost),
        **_options(given),
    )
    found = made.status()
    job = found["orchestrator"] or {"job_id": None, "executor": None, "state": None}
    next_ = {
        f"{verb}_command": f"haystack {verb} {made.run_id}{at(storage)}" for verb in ("status", "attach", "cancel")
    }
    shown = {name: job[name] for name in ("job_id", "executor", "state")}
    show(
        {"run_id": made.run_id, "status": found["status"], **shown, "folder": found["folder"], **next_},
        lambda: status_text(found, question=made.record.question, storage=storage),
    )


setattr(submit, "__signature__", inspect.signature(run, eval_str=True))  # noqa: B010 - typer reads it, mypy knows it not


def demo(storage: Storage = None) -> None:
    """Ask the demonstration question on the simulated demo atlas."""
    execute(
        DEMO_QUESTION, storage=storage, run_id=None, options={"atlases": ["demo"], "planner": "offline"}, spending={}
    )


def resume(
    run_id: RunIdArgument,
    storage: Storage = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
    accept_changes: AcceptChanges = False,
    planner: Annotated[
        PlannerName | None, typer.Option(help="Who plans the steps that are left (default: who planned the others).")
    ] = None,
) -> None:
    """Continue a run that was interrupted, failed or was cancelled.

    Finished steps are not repeated, and a job that was already paid for is found again.
    """
    from haystack_kernel.run import attach as find

    found = find(run_id, storage=storage)
    found.check_free()
    if accept_changes or planner is not None:
        from haystack_kernel.run import resume as take_up

        with warnings.catch_warnings(action="ignore"):  # going on prints the notes of the run
            take_up(run_id, storage=storage, accept_changes=accept_changes, planner=planner)
    go_on(found, storage=storage, spending=spending_of(yes, max_cost))


def go_on(run: Run, *, storage: str | None, spending: dict[str, Any]) -> None:
    """Execute the notebook of a run that exists, and print the outcome."""
    execute(run.record.question, storage=storage, run_id=run.run_id, options={}, spending=spending)


def attach(run_id: RunIdArgument, storage: Storage = None) -> None:
    """Follow a run that another process works on, until it ends.

    The run is only read; Ctrl-C stops following it, not the run.
    """
    from haystack_kernel.run import attach as find

    found = find(run_id, storage=storage)
    try:
        found.follow(lambda line: sys.stderr.write(line + "\n"))
    except KeyboardInterrupt:
        again = f"haystack cancel {run_id}{at(storage)}"
        sys.stderr.write(f"stopped following run {run_id}, which goes on; `{again}` stops it\n")
        _show_status(found, storage=storage)
        raise typer.Exit(commands.INTERRUPTED) from None
    _show_status(found, storage=storage)


def status(run_id: RunIdArgument, storage: Storage = None) -> None:
    """Show the state of a run and what can be done next."""
    from haystack_kernel.run import attach as find

    _show_status(find(run_id, storage=storage), storage=storage)


def cancel(run_id: RunIdArgument, storage: Storage = None) -> None:
    """Stop a run and its jobs; finished steps are kept."""
    from haystack_kernel.run import attach as find

    _show_status(find(run_id, storage=storage).cancel(), storage=storage)


def report(run_id: RunIdArgument, storage: Storage = None) -> None:
    """Render report.html again.

    It is made from the record, its tables and the executed notebook.
    """
    from haystack_kernel.run import attach as find

    found = find(run_id, storage=storage)
    address = found.write_report(notebook=found.notebook())
    show({"run_id": run_id, "report": address}, lambda: format_fields([("run", run_id), ("report", address)]))


def resolve(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A question, or a phrase of biological terms.", show_default=False)
    ],
) -> None:
    """Show how a question or a phrase is understood.

    The answer lists the terms with their ids, and what else they may mean.
    """
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.planners.offline import explain

    found = explain(text, knowledge=load_knowledge(load_settings().knowledge))
    alternatives: dict[str, list[dict[str, Any]]] = {}
    for name in ("resolutions", "unresolved"):
        terms = found.setdefault(name, [])
        for term in terms:
            if term["alternatives"]:
                alternatives.setdefault(term["text"], []).extend(term["alternatives"])
        found[name] = [{key: value for key, value in term.items() if key != "alternatives"} for term in terms]
    found.pop("alternatives", None)
    found |= {"alternatives": alternatives}
    show(found, lambda: _resolved_text(found))


def _resolved_text(found: dict[str, Any]) -> str:
    """What was understood: one row per term, what each term may also mean, and whether a run could answer."""
    rows = []
    for term in (*found["resolutions"], *found["unresolved"]):
        match = term["match"] or {"name": "(unknown)", "id": ""}
        rows.append(
            {"text": term["text"], "kind": term["kind"].replace("_", " "), "is": match["name"], "id": match["id"]}
        )
    notes = [f"note: {term['note']}" for term in (*found["resolutions"], *found["unresolved"]) if term["note"]]
    for text, others in found["alternatives"].items():
        notes.append(f"{text!r} may also mean: {', '.join(other['name'] for other in others)}")
    if found.get("task_type"):
        notes.append(f"task: {found['task_type'].replace('_', ' ')}")
    is_label = len(rows) < 2  # that one term alone is no question goes without saying
    if found["answerable"]:
        notes += [f"taken as: {found['taken_as']}", "A run can answer this."]
    else:
        notes.append("A run cannot answer this" + (" as it stands." if is_label else f": {found['refusal']}"))
    return "\n".join([format_rows(rows), "", *(wrap(note) for note in notes)])


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """What was typed, as fields of RunConfig; what was not typed stays as configured."""
    options = {("atlases" if name == "atlas" else name): value for name, value in given.items()}
    options = {name: options[name] for name in options if name not in _NO_OPTION}
    for name in CELL_OPTIONS:  # the notebook of the run may work in another folder
        own = options.get(name)
        if own and "://" not in own and not address_fault(own):  # an address with a slip is refused as it was typed
            options[name] = str(Path(own).absolute())
    return {name: value for name, value in options.items() if value is not None and value != []}


def spending_of(yes: bool, max_cost: float | None) -> dict[str, Any]:
    """What was said about money; what was not said stays as configured."""
    given = {"approve": yes or None, "max_cost": max_cost}
    return {name: value for name, value in given.items() if value is not None}


def _leave_quickly() -> None:
    """Spare the interpreter half a second of taking modules apart, unless a package would complain about that."""
    if "duckdb" not in sys.modules:
        gc.freeze()


def execute(
    question: str, *, storage: str | None, run_id: str | None, options: dict[str, Any], spending: dict[str, Any]
) -> None:
    """Run the notebook through papermill and print the outcome; errors end in their exit codes."""
    from haystack_kernel.jupyter.kernels import early_kernel

    atexit.register(_leave_quickly)
    # started before anything else is loaded, because the first steps wait for it
    with early_kernel(storage=storage, options=options if run_id is None else None) as kernel:
        from haystack_kernel.jupyter.execute import execute_run

        outcome = execute_run(
            question,
            storage=storage,
            run_id=run_id,
            options=options,
            spending=spending,
            stream=sys.stderr,
            kernel=kernel,
        )
    if outcome.interrupted:
        sys.stderr.write(f"\n{outcome.interrupted}\n")
    show(outcome.summary, lambda: status_text(outcome.summary, question=question, storage=storage))
    if outcome.interrupted:
        raise typer.Exit(outcome.exit_code)
    if outcome.error is not None:
        raise outcome.error


def at(storage: str | None) -> str:
    """The option that names the storage of this call, for the commands that may come next."""
    return f" --storage {shlex.quote(storage)}" if storage else ""


def _show_status(run: Run, *, storage: str | None) -> None:
    found = run.status()
    show(found, lambda: status_text(found, question=run.record.question, storage=storage))


def _cost_text(by_kind: dict[str, float]) -> str | None:
    """What a run has cost, by kind of spending; None where it cost nothing."""
    from haystack_kernel.jobs import in_usd

    return ", ".join(f"{in_usd(usd)} ({kind})" for kind, usd in by_kind.items() if usd) or None


def status_text(found: dict[str, Any], *, question: str, storage: str | None) -> str:
    """The state of a run for a person: what it is, how far it came, and the commands that may come next."""
    n_rounds, scored = found["rounds"], found["score_words"]
    rounds = f"{n_rounds} round{'s' if n_rounds != 1 else ''}"
    state = found["status"]
    if found["termination"]:
        state += f" after {rounds}: {found['termination'].replace('_', ' ')}"
    elif found["next_step"]:
        state += f" after {rounds}; next step: {found['next_step']}"
    failure = found["failure"]
    job, worker = found["orchestrator"], found["worker"]
    fields = [
        ("run", found["run_id"]),
        ("question", question),
        ("taken as", found["taken_as"]),
        ("status", state),
        ("measured", found["measured_already"]),
        ("engine", found["engine_chosen"]),
        ("answer", found["headline"]),
        ("score", f"{scored} (round {found['best_round']} of {n_rounds})" if scored else None),
        ("accuracy", found["accuracy_words"]),
        ("tested", "\n".join(found["tested"])),
        ("failure", f"{failure['step']}: {failure['message']}" if failure else None),
        ("worker", f"process {worker['pid']} on {worker['host']}" if worker and worker["alive"] else None),
        ("note", found["detail"]),
        ("job", {name: job[name] for name in ("job_id", "executor", "state", "detail")} if job else None),
        ("cost", _cost_text(found["cost_by_kind"])),
        ("forked from", found["forked_from"]),
        ("notes", "\n".join(found["notes"])),
        ("folder", found["folder"]),
        ("report", found["report"]),
        ("next", "\n".join(f"{command}{at(storage)}" for command in found["next_commands"])),
    ]
    return format_fields(fields)
