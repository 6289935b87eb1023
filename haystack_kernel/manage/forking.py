"""A new run with one change: what the change does not touch is taken over from the old run, files included.

In: a run and what to change. Out: a new run, ready to go on at the first step that reads something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from haystack_kernel import rounds
from haystack_kernel.config.connect import connect
from haystack_kernel.config.drift import current_digests, pinned
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.manage.changes import change_config
from haystack_kernel.manage.step_inputs import step_inputs
from haystack_kernel.run import Run, new_record
from haystack_kernel.schema import Fork, Round
from haystack_kernel.store import check_run_id, layout, read_h5ad, write_h5ad
from inference.manifest import RESULT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import FileRef, RunRecord, Settings

_OF_CHOICE = ("number", "choice", "candidates")
_OF_CELLS = ("query_cells", "n_prompt", "n_control", "n_query")
_OF_PREDICTION = ("control_strategy", "control_note", "spec", "job", "task_seconds", "frac_genes_found")
_OF_GROUNDING = ("model", "components", "composite", "agreement", "n_de", "top_genes")
_ROLES = ("prompt", "control", "query")
_TABLES = (layout.DE, layout.PATHWAYS, layout.PROMPTS)


def fork(
    run_id: str,
    *,
    changes: Mapping[str, Any] | None = None,
    question: str | None = None,
    new_run_id: str | None = None,
    storage: str | None = None,
    settings: Settings | None = None,
) -> Run:
    """Branch a new run off an old one.

    The new run keeps the settings that the old one began with. A step is taken over where everything it reads is the
    same (:func:`haystack_kernel.manage.step_inputs.step_inputs`) and its files are still there: ``{"threshold": 9}``
    takes over every score and decides anew, ``{"seed": 1}`` the candidates, ``{"engine": "shift"}`` the cells.

    Parameters
    ----------
    run_id
        The old run; it is only read.
    changes
        Options of a run and their new values.
    question
        Another question; nothing is taken over then.
    new_run_id
        Id of the new run; None makes one.
    settings
        None reads them from the layers and the environment, with ``storage`` over them.

    Raises
    ------
    InvalidInputError
        An unknown option, a bad value, or nothing that differs.
    """
    settings = settings or load_settings(storage=storage)
    ports = connect(settings)
    parent = ports.store.load(check_run_id(run_id))
    config = change_config(parent.config, changes or {}, settings=settings)
    child = new_record(question or parent.question, run_id=new_run_id, config=config, ports=ports)
    before, after = parent.config.model_dump(mode="json"), config.model_dump(mode="json")
    changed = {name: value for name, value in after.items() if value != before[name]}
    changed |= {"question": child.question} if child.question != parent.question else {}
    if not changed:
        msg = f"nothing of run {run_id} would change; give an option another value, e.g. --set threshold=9"
        raise InvalidInputError(msg, run_id=run_id)
    child = child.model_copy(update={"settings": parent.settings or child.settings})
    return Run(ports.store.create(_take_over(child, parent=parent, changed=changed, ports=ports)), ports=ports)


def _take_over(child: RunRecord, *, parent: RunRecord, changed: dict[str, Any], ports: Ports) -> RunRecord:
    """``child`` with every step of ``parent`` that need not be repeated; files come before the record."""
    as_now = child.model_copy(update={"digests": current_digests(child.config, ports)}) if parent.digests else child

    def is_same(step: str) -> bool:
        return step_inputs(parent, step) == step_inputs(as_now, step)

    reused: list[str] = []
    if parent.query is not None and is_same("understand"):
        reused.append("understand")
        child = child.model_copy(update={"query": parent.query})
    if parent.candidates and reused and is_same("retrieve"):
        reused.append("retrieve")
        kept = {"candidates": parent.candidates, "query_set": parent.query_set, "digests": parent.digests}
        child = child.model_copy(update=kept)
        as_now = as_now.model_copy(update={"candidates": parent.candidates})
        taker = _RoundTaker(parent=parent, ports=ports)
        for old in parent.rounds:
            same = [name for name in ("choose", "cells", "predict", "ground") if is_same(f"{name} {old.number}")]
            child, names = taker.take(child, old, same=same)
            reused += [f"{name} {old.number}" for name in names]
            if "ground" not in names or child.termination is not None:
                break
    origin = Fork(run_id=parent.run_id, changes=changed, reused=tuple(reused))
    return child.model_copy(update={"forked_from": origin})


class _RoundTaker:
    """Takes rounds over, one after the other, each as far as its steps are the same and its files are there."""

    def __init__(self, *, parent: RunRecord, ports: Ports) -> None:
        self._parent = parent
        self._ports = ports
        self._files = ports.store.files(parent.run_id)

    def take(self, child: RunRecord, old: Round, *, same: list[str]) -> tuple[RunRecord, list[str]]:
        """``child`` with the round as far as it can be taken, and the names of the steps taken."""
        if "choose" not in same:
            return child, []
        new, names = Round(**_fields(old, _OF_CHOICE)), ["choose"]
        for name, take in (("cells", self._take_cells), ("predict", self._take_prediction)):
            taken = take(child.run_id, old, new) if name in same else None
            if taken is None:
                return _with_round(child, new), names
            new, names = taken, [*names, name]
        grounded = self._take_grounding(child, old, new) if "ground" in same else None
        if grounded is None:
            return _with_round(child, new), names
        return self._decide(_with_round(child, grounded)), [*names, "ground"]

    def _take_cells(self, run_id: str, old: Round, new: Round) -> Round | None:
        paths = [
            layout.cells_file(layout.round_folder(old.number), role)
            for role in _ROLES
            if role != "control" or old.n_control
        ]
        if not old.n_query or not self._copy(paths, to=run_id):
            return None
        return new.model_copy(update={**_fields(old, _OF_CELLS), "files": _refs(old, paths)})

    def _take_prediction(self, run_id: str, old: Round, new: Round) -> Round | None:
        folder = layout.round_folder(old.number)
        outputs = [layout.output_file(folder, name) for name in old.task_seconds]
        paths = [f"{folder}/{layout.MANIFEST}", *outputs, *(f"{path}{RESULT_SUFFIX}" for path in outputs)]
        if not outputs or not self._copy(paths, to=run_id):
            return None
        files = (*new.files, *_refs(old, paths))
        return new.model_copy(update={**_fields(old, _OF_PREDICTION), "files": files})

    def _take_grounding(self, child: RunRecord, old: Round, new: Round) -> Round | None:
        """Take the tables as they are, and the predictions with what they say of their run set right."""
        from haystack_kernel.grounding import retell

        folder = layout.round_folder(old.number)
        tables = [f"{folder}/{name}" for name in _TABLES]
        predictions = f"{folder}/{layout.PREDICTIONS}"
        if old.composite is None or predictions not in self._files or not self._copy(tables, to=child.run_id):
            return None
        for name in (layout.EMBEDDING, layout.CITATIONS):  # not every round has them
            self._copy([f"{folder}/{name}"], to=child.run_id)
        new = new.model_copy(update=_fields(old, _OF_GROUNDING))
        facts = rounds.prediction_facts(_with_round(child, new), scored=new)
        told = retell(read_h5ad(self._ports.store, self._parent.run_id, predictions), facts=facts)
        written = write_h5ad(self._ports.store, child.run_id, predictions, told)
        return new.model_copy(update={"files": (*new.files, *_refs(old, tables), written)})

    def _decide(self, child: RunRecord) -> RunRecord:
        """Decide anew: it costs nothing, and only the decision reads the threshold and the number of rounds."""
        settings = pinned(self._ports.settings, child).rounds
        best, termination, reason = rounds.decide(child, settings=settings)
        decided = child.rounds[-1].model_copy(update={"decision": reason})
        update = {"rounds": (*child.rounds[:-1], decided), "best_round": best, "termination": termination}
        return child.model_copy(update=update)

    def _copy(self, paths: Iterable[str], *, to: str) -> bool:
        """Copy all of ``paths`` into the new run, or none where one is gone."""
        wanted = list(paths)
        if any(path not in self._files for path in wanted):
            return False
        for path in wanted:
            self._ports.store.copy(self._parent.run_id, path, to)
        return True


def _fields(old: Round, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(old, name) for name in names}


def _refs(old: Round, paths: Iterable[str]) -> tuple[FileRef, ...]:
    wanted = set(paths)
    return tuple(ref for ref in old.files if ref.path in wanted)


def _with_round(record: RunRecord, new: Round) -> RunRecord:
    return record.model_copy(update={"rounds": (*record.rounds, new)})
