"""One question becomes one scored run record, step by step. Read this file first.

In: a RunRecord with a question. Out: the same record, one finished step further, saved. The story is
understand -> retrieve -> [choose -> assemble -> submit -> collect -> ground -> decide]* -> interpret -> publish,
and :func:`work` is the one loop behind run, resume and attach: a crash between two steps costs the step under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import rounds
from haystack_kernel.config.vocabulary import own_treatments, read_vocabulary
from haystack_kernel.errors import ConflictError, HaystackError
from haystack_kernel.ports import Answer, ProgressEvent
from haystack_kernel.rounds import EDIT, publishing
from haystack_kernel.schema import Failure, Round, RunRecord, StepTime, Usage
from haystack_kernel.store import hide_home, layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import StructuredQuery

    Step = Callable[[RunRecord, Ports], RunRecord | Answer[RunRecord]]


def next_step(record: RunRecord, *, until: str | None = None) -> str | None:
    """Name of the first unfinished step.

    Parameters
    ----------
    record
        The run.
    until
        Only steps that come before this one in the order of :data:`STEPS`; None: all.

    Returns
    -------
    None when the run is done, cancelled, stopped by an error, or at ``until`` or past it.
    """
    if record.status != "running":
        return None
    if record.query is None:
        step = "understand"
    elif not record.candidates:
        step = "retrieve"
    elif record.termination is None:
        step = _next_in_round(record.rounds[-1] if record.rounds else None)
    else:
        step = "interpret" if record.interpretation is None else "publish"
    order = list(STEPS)
    return step if until is None or order.index(step) < order.index(until) else None


def work(
    record: RunRecord, ports: Ports, *, until: str | None = None, check: Callable[[], None] | None = None
) -> RunRecord:
    """Do every unfinished step, or those that come before ``until`` in the order of :data:`STEPS`.

    A run that is already at ``until`` or past it is returned as it is, so the phases of a notebook stay apart when it
    goes on with an old run.

    Parameters
    ----------
    record
        The run.
    ports
        What the run talks to.
    until
        The step to stop before; None works the run to its end.
    check
        Called before every save; raises ConflictError where another worker has taken the run over.

    Raises
    ------
    HaystackError
        A step failed; the record says which and why, and everything before it is saved.
    """
    while next_step(record, until=until) is not None:
        record = advance(record, ports, check=check)
    return record


def advance(record: RunRecord, ports: Ports, *, check: Callable[[], None] | None = None) -> RunRecord:
    """Do the next unfinished step and save its outcome, good or bad; ``check`` as in :func:`work`."""
    step = next_step(record)
    if step is None:
        return record
    try:
        after = perform(record, step, ports)
    except ConflictError:
        raise
    except Exception as error:  # whatever it was, the record must not say that the run goes on
        save_failure(record, ports, step=step, error=error)
        raise
    if check is not None:
        check()
    record = ports.store.save(after)
    tell_done(record, ports)
    return record


def perform(record: RunRecord, step: str, ports: Ports) -> RunRecord:
    """Do one step and note when it finished and what the planner used; nothing is saved.

    Parameters
    ----------
    record
        The run, at this step.
    step
        Name of the step, one of :data:`STEPS`.
    ports
        What the step talks to.

    Returns
    -------
    The record after the step.
    """
    started = ports.clock.monotonic()
    number = len(record.rounds) + (step == "choose") if step in ROUND_STEPS else None
    ports.progress(ProgressEvent(run_id=record.run_id, phase=step, message=STEPS[step][1], round=number))
    made = STEPS[step][0](record, ports)
    record, usage = made if isinstance(made, Answer) else (made, Usage())
    seconds = ports.clock.monotonic() - started
    time = StepTime(
        step=f"{step} {number}" if number else step,
        finished_at=ports.clock.now(),
        seconds=seconds,
        usage=usage if usage != Usage() else None,
    )
    return rounds.keep_planner_bills(record.model_copy(update={"steps": (*record.steps, time)}), ports)


def tell_done(record: RunRecord, ports: Ports) -> None:
    """Tell the listener that the newest finished step is done, once its record is saved."""
    time = record.steps[-1]
    step, _, number = time.step.partition(" ")
    event = ProgressEvent(
        run_id=record.run_id,
        phase=step,
        message="done",
        round=int(number) if number else None,
        fraction=1.0,
        elapsed_s=time.seconds,
    )
    ports.progress(event)


def revive(record: RunRecord, ports: Ports) -> RunRecord:
    """A stopped run made ready to go on where it stopped; a finished one is returned as it is.

    A job that still runs or has succeeded is kept, one that ended badly is submitted again.
    """
    if record.status == "done":
        return record
    if record.rounds and record.rounds[-1].job is not None:
        record = _with_last(record, rounds.keep_good_job(record, ports))
    return record.model_copy(update={"status": "running", "failure": None})


def edit_query(record: RunRecord, query: StructuredQuery, ports: Ports) -> RunRecord:
    """Save ``query`` in the place of what was understood, as a step of its own; what followed from it is undone.

    Parameters
    ----------
    record
        The run.
    query
        The corrected query.
    ports
        What the run talks to.

    Returns
    -------
    The saved record, whose next step is the search; bills of jobs are kept.
    """
    time = StepTime(step=EDIT, finished_at=ports.clock.now(), seconds=0.0)
    update = {"query": query, "steps": (*record.steps, time), "bills": record.all_bills}
    saved = ports.store.save(record.before("retrieve").model_copy(update=update))
    # outputs that lie where new ones will be written would be taken for them
    old = [path for path in ports.store.files(record.run_id) if path.startswith(f"{layout.ROUNDS}/")]
    ports.store.remove(record.run_id, [*old, layout.REFERENCE])
    return saved


# --- the steps, in order --------------------------------------------------------------------------------------------


def understand(record: RunRecord, ports: Ports) -> Answer[RunRecord]:
    """Question -> StructuredQuery."""
    planner = ports.planner_named(record.config.planner)
    vocabulary = read_vocabulary(record.config, ports, question=record.question)
    view = rounds.planner_view(record, ports, step="understand")
    query, usage = planner.understand(record.question, vocabulary=vocabulary, view=view)
    query = _named_by_user(query, record, ports)
    # a control reading that the question asks for in words wins over the configured default
    if query.control_strategy != "query_as_control":
        query = query.model_copy(update={"control_strategy": record.config.control_strategy})
    ports.progress(ProgressEvent(run_id=record.run_id, phase="understand", message=f"taken as {query.reading}"))
    return Answer(record.model_copy(update={"query": query}), usage)


def _named_by_user(query: StructuredQuery, record: RunRecord, ports: Ports) -> StructuredQuery:
    """Say of a treatment that the user's own prompt cells alone show that its name is theirs."""
    treatment = query.perturbation
    if record.config.prompt_h5ad is None or treatment is None or treatment.targets:
        return query
    if treatment.name not in own_treatments(record.question, ports, held=read_vocabulary(record.config, ports)):
        return query
    note = "no table knows this name: it is taken as yours for what the prompt cells that you give were treated with"
    terms = tuple(
        one.model_copy(update={"note": note}) if one.match is not None and one.match.name == treatment.name else one
        for one in query.resolutions
    )
    return query.model_copy(update={"resolutions": terms})


def retrieve(record: RunRecord, ports: Ports) -> RunRecord:
    """Query -> ranked candidates and the cells to be transformed."""
    found = rounds.search(record, ports)
    if words := found.measured_words:
        ports.progress(ProgressEvent(run_id=record.run_id, phase="retrieve", message=words))
    if found.engine_pick is not None:
        ports.progress(ProgressEvent(run_id=record.run_id, phase="retrieve", message=found.engine_pick.words))
    return found


def choose(record: RunRecord, ports: Ports) -> Answer[RunRecord]:
    """Candidates -> the next round's choice, or the end of the rounds when nothing untried is left."""
    planner = ports.planner_named(record.config.planner)
    view = rounds.planner_view(record, ports, step=f"choose {len(record.rounds) + 1}")
    choice, usage = planner.choose(record, view=view)
    if choice is None:
        return Answer(record.model_copy(update={"termination": "no_more_candidates"}), usage)
    chosen = tuple(item for item in record.candidates if item.key in choice.candidate_keys)
    new = Round(number=len(record.rounds) + 1, choice=choice, candidates=chosen)
    return Answer(record.model_copy(update={"rounds": (*record.rounds, new)}), usage)


def assemble(record: RunRecord, ports: Ports) -> RunRecord:
    """Choice -> cells by role, manifest and job spec in the run folder; nothing has been spent yet."""
    return _with_last(record, rounds.assemble(record, ports))


def submit(record: RunRecord, ports: Ports) -> RunRecord:
    """Job spec -> a running job; the same spec finds its job again, so a repeat never pays twice."""
    return _with_last(record, rounds.submit(record, ports))


def collect(record: RunRecord, ports: Ports) -> RunRecord:
    """Job -> checked predictions."""
    return _with_last(record, rounds.collect(record, ports))


def ground(record: RunRecord, ports: Ports) -> RunRecord:
    """Predictions -> differential expression, components with their nulls, one score."""
    return _with_last(record, rounds.ground(record, ports))


def decide(record: RunRecord, ports: Ports) -> RunRecord:
    """Scores so far -> the best round, whether another one follows, and what that one should do otherwise."""
    best, termination, reason = rounds.decide(record, settings=ports.settings.rounds)
    update = {"decision": reason, "feedback": rounds.read_feedback(record, ports)}
    record = _with_last(record, record.rounds[-1].model_copy(update=update))
    return record.model_copy(update={"best_round": best, "termination": termination})


def interpret(record: RunRecord, ports: Ports) -> Answer[RunRecord]:
    """Best round -> the answer in words; words never set a score."""
    interpretation, usage = publishing.interpret(record, ports)
    return Answer(record.model_copy(update={"interpretation": interpretation}), usage)


def publish(record: RunRecord, ports: Ports) -> RunRecord:
    """Best round -> the files at the top of the run folder, and the report."""
    return publishing.publish(rounds.keep_bills(record, ports), ports)


STEPS: dict[str, tuple[Step, str]] = {
    "understand": (understand, "reading the question"),
    "retrieve": (retrieve, "searching the atlases for prompt cells"),
    "choose": (choose, "choosing the prompt"),
    "assemble": (assemble, "reading the cells"),
    "submit": (submit, "starting the prediction"),
    "collect": (collect, "waiting for the prediction"),
    "ground": (ground, "scoring against known biology"),
    "decide": (decide, "deciding whether to go on"),
    "interpret": (interpret, "putting the result into words"),
    "publish": (publish, "writing the report"),
}
ROUND_STEPS = ("choose", "assemble", "submit", "collect", "ground", "decide")


def _next_in_round(last: Round | None) -> str:
    if last is None or last.decision:
        return "choose"
    if last.spec is None:
        return "assemble"
    if last.job is None:
        return "submit"
    if not last.task_seconds:
        return "collect"
    return "ground" if last.composite is None else "decide"


def _with_last(record: RunRecord, last: Round) -> RunRecord:
    return record.model_copy(update={"rounds": (*record.rounds[:-1], last)})


def save_failure(record: RunRecord, ports: Ports, *, step: str, error: Exception) -> None:
    """Save that ``step`` failed; where even that fails, the error gets a note of it."""
    known = error.facts if isinstance(error, HaystackError) else {}
    facts = {name: value for name, value in known.items() if isinstance(value, (str, int, bool))}
    facts = {name: hide_home(value) if isinstance(value, str) else value for name, value in facts.items()}
    message = hide_home(str(error) or type(error).__name__)
    failure = Failure(kind=type(error).__name__, message=message, step=step, facts=facts)
    try:
        record = rounds.keep_planner_bills(record, ports)  # what was asked before the step failed was paid for
        ports.store.save(record.model_copy(update={"status": "failed", "failure": failure}))
    except HaystackError as second:  # the disk may be what failed: the first error is the one to show
        error.add_note(f"the failure could not be recorded either: {second}")
