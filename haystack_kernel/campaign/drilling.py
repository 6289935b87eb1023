"""A full run of one question of a screen, with its cells and predictions taken over: report, notebook, explorer.

In: a screen and the number of a question. Out: a run, which still has to predict what the screen left out (baselines),
and to be scored, interpreted and published. It is made by the steps of every run; the screen's predictions are taken
over where the run has chosen the same cells, so that the run is that of the question asked alone.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from haystack_kernel import flow
from haystack_kernel.campaign.result import read_judged, tabulate
from haystack_kernel.campaign.screening import WAITING, open_screen
from haystack_kernel.campaign.steps import SCREEN
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import ConflictError, InvalidInputError
from haystack_kernel.ports import Consent
from haystack_kernel.progress import notebook_progress
from haystack_kernel.run import Run, first_record
from haystack_kernel.store import keep_with_run, layout
from inference.manifest import RESULT_SUFFIX, dump_result, parse_manifest, parse_result

if TYPE_CHECKING:
    from haystack_kernel.batches.folder import CampaignFolder
    from haystack_kernel.ports import Ports, Progress
    from haystack_kernel.schema import ExecutorName, FileRef, RunRecord, ScreenPlan, Settings

_UNPREDICTED = "submit"  # the step before which nothing of a round is predicted


def drill(  # noqa: PLR0913 - which question, where, and what may be spent
    screen: str,
    number: int,
    *,
    storage: str | None = None,
    settings: Settings | None = None,
    ports: Ports | None = None,
    executor: ExecutorName | None = None,
    approve: bool | None = None,
    max_cost: float | None = None,
    progress: Progress | None = None,
) -> Run:
    """Make a full run of one question of a screen, without predicting it again.

    Parameters
    ----------
    screen
        Id of the screen, or the address of its folder.
    number
        Number of the question in its table.
    storage, settings, ports
        As in :func:`haystack_kernel.campaign.open_screen`; the run lies in the same storage.
    executor
        Where the predictions are made that the screen did not make; None: where the screen's were made.
    approve, max_cost
        Consent to spending and its cap in dollars, where these run in the cloud.
    progress
        Listener of progress events.

    Returns
    -------
    The run, ready to go on: ``run.work()`` predicts what the screen left out, scores it and writes the report. Its
    id follows from the screen and the number, so that the same call finds the same run.

    Raises
    ------
    InvalidInputError
        There is no such question, or it was not predicted; the message says why.
    ConflictError
        The atlas, a file or the tables have changed since the screen, so that its predictions are not the run's.

    Examples
    --------
    >>> run = haystack.campaign.drill("screen-0123456789ab", 12).work()  # doctest: +SKIP
    >>> run.explore()  # doctest: +SKIP
    """
    opened = open_screen(screen, storage=storage, settings=settings if ports is None else ports.settings)
    if ports is None:
        heard = progress or notebook_progress()
        ports = connect(opened.files.settings, progress=heard, consent=Consent.given(approve, max_cost))
    plan, folder = opened.plan, opened.files
    _check_predicted(plan, number, folder=folder)
    one = plan.questions[number - 1]
    run_id = f"{SCREEN.id_of(plan)}-{number:04d}"
    if ports.store.has(run_id):
        run = Run(ports.store.load(run_id), ports=ports)
    else:
        options: dict[str, Any] = plan.config.model_dump() | {"engine": one.engine, "engine_default": None}
        options |= {"executor": executor} if executor is not None else {}
        config = build_config(ports.settings, **options)
        record = first_record(one.question, run_id=run_id, config=config, ports=ports)
        if one.donor and record.query is not None:  # as the atlas names it, as the screen asked
            record = record.model_copy(update={"query": record.query.model_copy(update={"donor_id": one.donor})})
        note = f"question {number} of {SCREEN.id_of(plan)}: cells and predictions were taken over from the screen"
        keep_with_run(record, ports)
        run = Run(ports.store.create(record.model_copy(update={"notes": (*record.notes, note)})), ports=ports)
    run.work(until=_UNPREDICTED)
    if flow.next_step(run.record) == _UNPREDICTED:
        run.record = ports.store.save(_take_over(run.record, plan, number, folder=folder, ports=ports))
    return run


def _check_predicted(plan: ScreenPlan, number: int, *, folder: CampaignFolder) -> None:
    """Refuse a question that the screen has not predicted, with the reason."""
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(plan.questions):
        msg = f"question {number!r} of {SCREEN.id_of(plan)}: its questions have the numbers 1 to {len(plan.questions)}"
        raise InvalidInputError(msg, number=str(number))
    row = tabulate(plan, *read_judged(plan, folder=folder)).iloc[number - 1]
    if row["status"] == WAITING:
        msg = f"question {number} is not predicted yet; repeat the command of the screen, which goes on where it is"
        raise InvalidInputError(msg, number=number)
    if row["status"] != "predicted":
        msg = f"question {number} was {row['status']}: {row['reason']}. Ask another one, or `haystack run` with cells"
        raise InvalidInputError(msg, number=number)


def _take_over(record: RunRecord, plan: ScreenPlan, number: int, *, folder: CampaignFolder, ports: Ports) -> RunRecord:
    """The record with the screen's cells, byte for byte, beside its predictions of them, which then count as made."""
    _check_same_sources(record, plan)
    place, last = layout.question_folder(number), record.rounds[-1]
    own = layout.round_folder(last.number)
    taken: dict[str, FileRef] = {}
    for role in (*layout.ROLES, layout.TREATMENTS):
        path, data = layout.cells_file(own, role), folder.read(layout.cells_file(place, role))
        if data is None or not ports.store.exists(record.run_id, path):
            continue
        if (mine := ports.store.read(record.run_id, path)) != data:
            _check_same_cells(mine, data, role=role)
            taken[path] = ports.store.write(record.run_id, path, data)
    manifest = parse_manifest(ports.store.read(record.run_id, layout.round_file(last.number, layout.MANIFEST)))
    for task in manifest.tasks:
        source, path = layout.output_file(place, task.id), layout.output_file(own, task.id)
        predicted, made = folder.read(source), folder.read(source + RESULT_SUFFIX)
        if predicted is None or made is None:
            continue
        result = replace(parse_result(made), id=task.id, output=task.output)
        ports.store.write(record.run_id, path, predicted)
        ports.store.write(record.run_id, path + RESULT_SUFFIX, dump_result(result).encode())
    files = tuple(taken.get(ref.path, ref) for ref in last.files)
    rounds = (*record.rounds[:-1], last.model_copy(update={"files": files}))
    return record.model_copy(update={"rounds": rounds})


def _check_same_sources(record: RunRecord, plan: ScreenPlan) -> None:
    now = record.digests | record.inputs
    changed = [name for name, digest in plan.digests.items() if now.get(name, digest) != digest]
    if changed:
        msg = f"{', '.join(changed)} changed since the screen: its prediction is of other cells. {_anew(record)}"
        raise ConflictError(msg, changed=changed)


def _check_same_cells(mine: bytes, data: bytes, *, role: str) -> None:
    """Two files of the same cells may differ in how they were written; other cells would be another question."""
    import anndata as ad
    import numpy as np

    one, two = (ad.read_h5ad(io.BytesIO(held)) for held in (mine, data))
    is_same = one.obs_names.equals(two.obs_names) and one.var_names.equals(two.var_names)
    if not is_same or not np.array_equal(np.asarray(one.X.sum(axis=0)), np.asarray(two.X.sum(axis=0))):
        msg = f"the {role} cells that a run would take are not those of the screen; ask the question anew"
        raise ConflictError(msg, role=role)


def _anew(record: RunRecord) -> str:
    return f'Ask anew: haystack run "{record.question}"'
