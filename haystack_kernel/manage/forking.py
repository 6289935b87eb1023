"""Make a new run with one change, and take over from the old run, with its files, what the change does not affect.

In: a run and what to change. Out: a new run, ready to go on at the first step that reads something else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from haystack_kernel import rounds
from haystack_kernel.config.connect import connect
from haystack_kernel.config.drift import current_digests, pinned
from haystack_kernel.config.inputs import check_unchanged
from haystack_kernel.config.opening import check_opening, check_query
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.manage.changes import change_config
from haystack_kernel.manage.step_inputs import step_inputs
from haystack_kernel.run import Run, first_record, new_record
from haystack_kernel.schema import Fork, Round
from haystack_kernel.store import check_run_id, keep_with_run, layout, read_h5ad, recall, write_h5ad
from inference.manifest import RESULT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import Access, FileRef, RoundStep, RunConfig, RunRecord, Settings

_STEPS_WITH_FILES: tuple[RoundStep, ...] = ("cells", "predict", "ground")


def fork(  # noqa: PLR0913 - what is changed, and for whom
    run_id: str,
    *,
    changes: Mapping[str, Any] | None = None,
    question: str | None = None,
    new_run_id: str | None = None,
    storage: str | None = None,
    settings: Settings | None = None,
    accept_changes: bool = False,
    access: Access | None = None,
) -> Run:
    """Start a new run from an existing one, and reuse every step that the changes do not affect.

    The new run keeps the settings that the old one began with. A step is reused if everything it reads is the same
    (:func:`haystack_kernel.manage.step_inputs.step_inputs`) and its files still exist: ``{"threshold": 9}`` reuses
    every score and decides again, ``{"seed": 1}`` reuses the candidates, ``{"engine": "shift"}`` the cells. What the
    old run spent is not part of the new one.

    Parameters
    ----------
    run_id
        The old run, which is only read.
    changes
        Options of a run and their new values.
    question
        Another question; nothing is reused then.
    new_run_id
        Id of the new run; None makes one.
    storage
        Where the run folders are; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    accept_changes
        Go on even though a file that both runs read (own cells, model, gene list) was replaced.
    access
        Whose the new run is, where a service makes it for a person; saved before the first record.

    Returns
    -------
    The new run, saved and ready to go on with :meth:`haystack_kernel.Run.work`.

    Raises
    ------
    InvalidInputError
        An option is unknown, a value is invalid, or nothing differs from the old run.
    NotFoundError
        The run, an atlas or a file of the changes does not exist.

    Examples
    --------
    >>> import haystack_kernel as haystack
    >>> new = haystack.fork("run-20260102t030405-1a2b3c", changes={"threshold": 9})  # doctest: +SKIP
    >>> new.work().score  # doctest: +SKIP
    8.5
    """
    settings = settings or load_settings(storage=storage)
    ports = connect(settings)
    parent = ports.store.load(check_run_id(run_id))
    recall(parent, ports)
    config = change_config(parent.config, changes or {}, settings=settings)
    if question is None:
        child = _same_question(parent, run_id=new_run_id, config=config, ports=ports)
    else:
        child = _other_question(question, run_id=new_run_id, config=config, ports=ports)
    if not accept_changes:  # a file that the changes name is expected to differ
        common = {
            name: one for name, one in parent.inputs.items() if getattr(config, name) == getattr(parent.config, name)
        }
        check_unchanged(common, child.inputs, config, run_id=run_id)
    before, after = parent.config.model_dump(mode="json"), config.model_dump(mode="json")
    changed = {name: value for name, value in after.items() if value != before[name]}
    changed |= {"question": child.question} if child.question != parent.question else {}
    if not changed:
        msg = f"nothing of run {run_id} would change; give an option another value, e.g. --set threshold=9"
        raise InvalidInputError(msg, run_id=run_id)
    child = child.model_copy(update={"settings": parent.settings or child.settings})
    child, reused = _reuse_steps(child, parent=parent, ports=ports)
    origin = Fork(run_id=parent.run_id, changes=changed, reused=tuple(reused))
    ports.store.claim(child.run_id, access)
    keep_with_run(child, ports)
    return Run(ports.store.create(child.model_copy(update={"forked_from": origin})), ports=ports)


def _other_question(question: str, *, run_id: str | None, config: RunConfig, ports: Ports) -> RunRecord:
    from haystack_kernel.planners.check import check_human

    if config.planner != "claude":
        return first_record(question, run_id=run_id, config=config, ports=ports)
    # it reads the question when the run goes on, with the consent of that call
    child = new_record(check_human(question), run_id=run_id, config=config, ports=ports)
    check_opening(config, ports, run_id=child.run_id)
    return child


def _same_question(parent: RunRecord, *, run_id: str | None, config: RunConfig, ports: Ports) -> RunRecord:
    """Check everything that can be known about the new run, and return its first record."""
    child = new_record(parent.question, run_id=run_id, config=config, ports=ports)
    check_opening(config, ports, run_id=child.run_id)
    if parent.query is not None:
        check_query(parent.query, config, ports, run_id=child.run_id)
    return child


def _reuse_steps(child: RunRecord, *, parent: RunRecord, ports: Ports) -> tuple[RunRecord, list[str]]:
    """``child`` with every step of ``parent`` that need not be repeated, and the names of these steps.

    Files are copied before the record is saved, so a record never names a file that is missing.
    """
    as_now = child.model_copy(update={"digests": current_digests(child.config, ports)}) if parent.digests else child
    known = {name: digest for name, digest in child.inputs.items() if name in parent.inputs}
    as_now = as_now.model_copy(update={"inputs": known})  # a parent of an earlier version has no digests of files

    def is_same(step: str) -> bool:
        return step_inputs(parent, step) == step_inputs(as_now, step)

    if parent.query is None or not is_same("understand"):
        return child, []
    child = child.model_copy(update=parent.written_by("understand"))
    if not parent.candidates or not is_same("retrieve"):
        return child, ["understand"]
    child = child.model_copy(update=parent.written_by("retrieve"))
    as_now = as_now.model_copy(update={"candidates": parent.candidates})
    reused = ["understand", "retrieve"]
    there = set(ports.store.files(parent.run_id))
    for old in parent.rounds:
        child, names = _reuse_round(child, old, parent=parent, there=there, is_same=is_same, ports=ports)
        reused += [f"{name} {old.number}" for name in names]
        if "ground" not in names or child.termination is not None:
            break
    return child, reused


def _reuse_round(
    child: RunRecord,
    old: Round,
    *,
    parent: RunRecord,
    there: set[str],
    is_same: Callable[[str], bool],
    ports: Ports,
) -> tuple[RunRecord, list[RoundStep]]:
    """``child`` with the round up to the first step that differs or whose files are gone, and the steps reused."""
    if not is_same(f"choose {old.number}"):
        return child, []
    names: list[RoundStep] = ["choose"]
    new = Round(**old.written_by("choose"))
    for step in _STEPS_WITH_FILES:
        listed, unlisted = _files_of(old, step)
        if not listed or not listed <= there or not is_same(f"{step} {old.number}"):
            return _with_round(child, new), names
        for path in sorted(listed | (unlisted & there)):
            ports.store.copy(parent.run_id, path, child.run_id)
        refs = tuple(ref for ref in old.files if ref.path in listed)
        new = new.model_copy(update={**old.written_by(step), "files": (*new.files, *refs)})
        names.append(step)
    child = _correct_predictions(_with_round(child, new), ports)
    # The decision and the feedback are made again: they cost nothing, and only they read the threshold.
    settings = pinned(ports.settings, child)
    best, termination, reason = rounds.decide(child, settings=settings.rounds)
    feedback = rounds.read_feedback(child, replace(ports, settings=settings))
    decided = child.rounds[-1].model_copy(update={"decision": reason, "feedback": feedback})
    child = child.model_copy(update={"rounds": (*child.rounds[:-1], decided)})
    return child.model_copy(update={"best_round": best, "termination": termination}), names


def _files_of(old: Round, step: RoundStep) -> tuple[set[str], set[str]]:
    """Paths of the files without which ``step`` must be done again (none: it has not finished), and of its others."""
    listed = {ref.path for ref in old.files if layout.step_of(ref.path) == step}
    unlisted: set[str] = set()
    if step == "predict":
        if not old.task_seconds:  # the manifest is written before the job starts
            return set(), set()
        # Outputs are not listed in the record; beside each is a result file with its digest.
        outputs = [layout.output_file(layout.round_folder(old.number), task) for task in old.task_seconds]
        listed = listed.union(outputs, (f"{path}{RESULT_SUFFIX}" for path in outputs))
    if step == "ground":
        unlisted = {layout.round_file(old.number, name) for name in (layout.EMBEDDING, layout.PAPERS)}
        if old.number == 1:
            unlisted.add(layout.PAPERS)
    return listed, unlisted


def _correct_predictions(child: RunRecord, ports: Ports) -> RunRecord:
    """Make the copied predictions of the last round name the new run, its configuration and its rounds."""
    from haystack_kernel.grounding import update_run_facts

    last = child.rounds[-1]
    path = layout.round_file(last.number, layout.PREDICTIONS)
    facts = rounds.prediction_facts(child, scored=last)
    predictions = update_run_facts(read_h5ad(ports.store, child.run_id, path), facts=facts)
    written = write_h5ad(ports.store, child.run_id, path, predictions)
    files: list[FileRef] = [written if ref.path == path else ref for ref in last.files]
    corrected = last.model_copy(update={"files": tuple(files)})
    return child.model_copy(update={"rounds": (*child.rounds[:-1], corrected)})


def _with_round(record: RunRecord, new: Round) -> RunRecord:
    return record.model_copy(update={"rounds": (*record.rounds, new)})
