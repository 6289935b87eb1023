"""Commands about one run: run, submit, resume, attach, status, cancel, report, resolve, demo.

In: arguments. Out: one JSON line each; see the package.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haystack_kernel.cli.output import print_json
from haystack_kernel.schema import ControlStrategy, Engine, ExecutorName

if TYPE_CHECKING:
    from haystack_kernel.run import Run

_NO_OPTION = ("storage", "run_id", "question", "yes", "max_cost")  # of a run's configuration
DEMO_QUESTION = "How would lung fibroblasts respond to TGF-beta?"

Question = Annotated[str, typer.Argument(help="How would <cells> respond to <perturbation>? 10 to 2,000 characters.")]
RunIdArgument = Annotated[str, typer.Argument(metavar="RUN_ID", help="As printed by `haystack run` and `list`.")]
Storage = Annotated[str | None, typer.Option(help="Where run folders live: a folder or gs://bucket/prefix.")]
Atlases = Annotated[list[str] | None, typer.Option("--atlas", help="Atlas to search; may be repeated.")]
QueryAtlas = Annotated[str | None, typer.Option(help="Atlas that the query cells come from.")]
QueryH5ad = Annotated[str | None, typer.Option(help="Your own query cells: an h5ad of raw counts.")]
Hide = Annotated[list[str] | None, typer.Option(help="'CELL TYPE:PERTURBATION' that no strategy may see; repeatable.")]
Pin = Annotated[
    list[str] | None,
    typer.Option(help="Candidates that every round must use: a key, or 'dataset=kang,cell_type=B cell'; repeatable."),
]
Ban = Annotated[
    list[str] | None,
    typer.Option(help="What no round may use: a key, or criteria such as 'donor=1256'; repeatable."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Approve spending on jobs that cost money.")]
MaxCost = Annotated[float | None, typer.Option(help="Dollars that all jobs of the run together may cost.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (run, submit, resume, attach, status, cancel, report, resolve, demo):
        app.command(name=command.__name__)(command)


def run(
    question: Question,
    storage: Storage = None,
    atlas: Atlases = None,
    query_atlas: QueryAtlas = None,
    query_h5ad: QueryH5ad = None,
    engine: Annotated[
        Engine | None,
        typer.Option(help="What predicts; by default stack where there is a model for it, else weighted."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint for engine stack: a path, a gs:// address, or demo.")
    ] = None,
    genelist: Annotated[str | None, typer.Option(help="The model's gene list.")] = None,
    diffusion_steps: Annotated[int | None, typer.Option(help="Generation steps of engine stack.")] = None,
    control_strategy: Annotated[
        ControlStrategy | None, typer.Option(help="What the prediction is compared with.")
    ] = None,
    hide: Hide = None,
    pin: Pin = None,
    ban: Ban = None,
    threshold: Annotated[float | None, typer.Option(help="Score that ends the rounds, 1 to 10.")] = None,
    max_rounds: Annotated[int | None, typer.Option(help="Rounds at most.")] = None,
    n_prompt: Annotated[int | None, typer.Option(help="Prompt cells at most.")] = None,
    n_query: Annotated[int | None, typer.Option(help="Query cells at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn.")] = None,
    literature: Annotated[
        bool | None,
        typer.Option("--literature/--no-literature", help="Ask PubMed, Europe PMC and Semantic Scholar."),
    ] = None,
    executor: Annotated[
        ExecutorName | None, typer.Option(help="Where jobs run: local, or batch (Google Cloud Batch).")
    ] = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
    run_id: Annotated[str | None, typer.Option(help="Id of the run; made from the time when left out.")] = None,
) -> None:
    """Ask a question; leaves run.ipynb, report.html, run.json and the tables in the run folder."""
    options = _options(locals())
    _execute(question, storage=storage, run_id=run_id, options=options, spending=spending_of(yes, max_cost))


def submit(**given: Any) -> None:  # noqa: ANN401 - the options of ``run``
    """Hand a question to a job that works it while you go away; a RUN_ID in its place goes on with that run.

    Returns at once. The same run submitted again finds its job.
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
    where = f" --storage {shlex.quote(storage)}" if storage else ""
    commands = {f"{verb}_command": f"haystack {verb} {made.run_id}{where}" for verb in ("status", "attach", "cancel")}
    shown = {name: job[name] for name in ("job_id", "executor", "state")}
    print_json({"run_id": made.run_id, "status": found["status"], **shown, "folder": found["folder"], **commands})


setattr(submit, "__signature__", inspect.signature(run, eval_str=True))  # noqa: B010 - typer reads it, mypy knows it not


def demo(storage: Storage = None) -> None:
    """Ask the demonstration question on the simulated demo atlas."""
    _execute(DEMO_QUESTION, storage=storage, run_id=None, options={"atlases": ["demo"]}, spending={})


def resume(run_id: RunIdArgument, storage: Storage = None, yes: Yes = False, max_cost: MaxCost = None) -> None:
    """Go on with a run that stopped, failed or was cancelled; finished steps are not repeated."""
    from haystack_kernel.run import attach as find

    found = find(run_id, storage=storage)
    found.check_free()
    go_on(found, storage=storage, spending=spending_of(yes, max_cost))


def go_on(run: Run, *, storage: str | None, spending: dict[str, Any]) -> None:
    """Execute the notebook of a run that exists, and print the outcome."""
    _execute(run.record.question, storage=storage, run_id=run.run_id, options={}, spending=spending)


def attach(run_id: RunIdArgument, storage: Storage = None) -> None:
    """Follow a run of another process until it ends; only reads."""
    from haystack_kernel.run import attach as find

    found = find(run_id, storage=storage)
    found.follow(lambda line: sys.stderr.write(line + "\n"))
    print_json(found.status())


def status(run_id: RunIdArgument, storage: Storage = None) -> None:
    """Where a run stands."""
    from haystack_kernel.run import attach as find

    print_json(find(run_id, storage=storage).status())


def cancel(run_id: RunIdArgument, storage: Storage = None) -> None:
    """Stop a run and its job; what is finished is kept."""
    from haystack_kernel.run import attach as find

    print_json(find(run_id, storage=storage).cancel().status())


def report(run_id: RunIdArgument, storage: Storage = None) -> None:
    """Render report.html again from the record, the artifacts and the executed notebook."""
    from haystack_kernel.run import attach as find

    found = find(run_id, storage=storage)
    print_json({"run_id": run_id, "report": found.write_report(notebook=found.notebook())})


def resolve(text: Annotated[str, typer.Argument(help="A question, or a phrase of biological terms.")]) -> None:
    """Show how a question or a phrase is understood: ids, unresolved terms, last the close seconds of every term."""
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.knowledge import load_knowledge
    from haystack_kernel.planners.offline import explain

    shown = explain(text, knowledge=load_knowledge(load_settings().knowledge))
    alternatives: dict[str, list[dict[str, Any]]] = {}
    for name in ("resolutions", "unresolved"):
        terms = shown.setdefault(name, [])
        for term in terms:
            if term["alternatives"]:
                alternatives.setdefault(term["text"], []).extend(term["alternatives"])
        shown[name] = [{key: value for key, value in term.items() if key != "alternatives"} for term in terms]
    shown.pop("alternatives", None)
    print_json({**shown, "alternatives": alternatives})


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """What was typed, as fields of RunConfig; what was not typed stays as configured."""
    options = {("atlases" if name == "atlas" else name): value for name, value in given.items()}
    options = {name: options[name] for name in options if name not in _NO_OPTION}
    own = options.get("query_h5ad")
    options["query_h5ad"] = str(Path(own).absolute()) if own and "://" not in own else own
    return {name: value for name, value in options.items() if value is not None and value != []}


def spending_of(yes: bool, max_cost: float | None) -> dict[str, Any]:
    """What was said about money; what was not said stays as configured."""
    given = {"approve": yes or None, "max_cost": max_cost}
    return {name: value for name, value in given.items() if value is not None}


def _execute(
    question: str, *, storage: str | None, run_id: str | None, options: dict[str, Any], spending: dict[str, Any]
) -> None:
    """Run the notebook through papermill and print the outcome; errors end in their exit codes."""
    from haystack_kernel.jupyter.execute import execute_run

    outcome = execute_run(
        question, storage=storage, run_id=run_id, options=options, spending=spending, stream=sys.stderr
    )
    print_json(outcome.summary)
    if outcome.error is not None:
        raise outcome.error
