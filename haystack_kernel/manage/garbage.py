"""Space given back: files of rounds that are not the result, leftovers of interrupted writes, logs of old jobs.

In: which runs. Out: what can be removed and what it takes up; removed only when asked to, and then the record says so.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ConflictError, ContractError, InvalidInputError, NotFoundError
from haystack_kernel.schema import FileRef, JobHandle
from haystack_kernel.store import check_run_id, layout
from inference.manifest import RESULT_SUFFIX, ManifestError, parse_result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunRecord

_TEMPORARY_AGE_S = 3600.0  # a younger one may be in the middle of its writing
_SCRATCH = "jobs"  # of the cache folder


@dataclass(frozen=True)
class Garbage:
    """What one run folder or the cache holds for nothing; ``kept`` says why a run was left alone."""

    run_id: str
    paths: tuple[str, ...] = ()
    n_bytes: int = 0
    kept: str = ""


@dataclass(frozen=True)
class Collection:
    """What garbage collection found; ``is_deleted`` says whether it is gone."""

    runs: tuple[Garbage, ...]
    scratch: Garbage
    is_deleted: bool = False
    skipped: tuple[str, ...] = field(default=())

    @property
    def n_bytes(self) -> int:
        """Bytes of everything found."""
        return sum(item.n_bytes for item in (*self.runs, self.scratch))


def collect_garbage(
    run_ids: Sequence[str] = (),
    *,
    storage: str | None = None,
    keep: int | None = None,
    older_than_days: float | None = None,
    delete: bool = False,
) -> Collection:
    """Find, and with ``delete`` remove, what no record needs.

    Of a finished run: the cells and outputs of rounds that are not the best; tables, manifests, logs of decisions stay.
    Of a stopped run also its last round stays, so that it can go on. Temporary files of interrupted writes, and job
    scratch in the cache of runs that are done, superseded attempts included. Never: record, notebook, report, published
    files, the best round. A running run is left alone.

    Parameters
    ----------
    run_ids
        Only these; none means all runs of the storage.
    keep
        Leave the newest so many runs alone.
    older_than_days
        Leave younger runs alone.

    Raises
    ------
    ConflictError
        A run named in ``run_ids`` is running.
    NotFoundError
        A run named there does not exist.
    """
    if (keep is not None and keep < 0) or (older_than_days is not None and older_than_days < 0):
        msg = f"keep {keep} and older_than_days {older_than_days} must not be negative"
        raise InvalidInputError(msg)
    ports = connect(load_settings(storage=storage))
    wanted = [check_run_id(run_id) for run_id in run_ids] or ports.store.list_runs()[keep or 0 :]
    found, done, now = [], set(), ports.clock.now()
    for run_id in wanted:
        record, why = (ports.store.load(run_id), "") if run_ids else _read(run_id, ports)
        if record is not None and not why and older_than_days is not None:
            why = "" if _age_days(record, now) > older_than_days else "young"
        if record is not None and record.status == "running" and run_ids:
            msg = f"run {run_id} is running; wait for it, or `haystack cancel {run_id}` first"
            raise ConflictError(msg, run_id=run_id)
        if record is None or why:
            found.append(Garbage(run_id, kept=why))
            continue
        done |= {run_id} if record.status in ("done", "cancelled") else set()
        found.append(_of_run(record, ports))
        if delete and found[-1].paths:
            _remove(record, found[-1], ports)
    scratch = _scratch(Path(ports.settings.cache) / _SCRATCH, done=done, ports=ports, delete=delete)
    return Collection(runs=tuple(found), scratch=scratch, is_deleted=delete)


def _read(run_id: str, ports: Ports) -> tuple[RunRecord | None, str]:
    try:
        record = ports.store.load(run_id)
    except NotFoundError:
        return None, "no record"
    except ContractError:
        return None, "of another version"
    return record, "running" if record.status == "running" else ""


def _of_run(record: RunRecord, ports: Ports) -> Garbage:
    """Cells of rounds that are decided and not the best, and old temporary files."""
    needed = {record.best_round} | ({len(record.rounds)} if record.status != "done" else set())
    useless = [
        f"{layout.round_folder(item.number)}/" for item in record.rounds if item.decision and item.number not in needed
    ]
    files = ports.store.files(record.run_id)
    paths = [
        path
        for path in files
        if (path.endswith(".h5ad") and path.startswith(tuple(useless))) or _is_temporary(path, record, ports)
    ]
    return Garbage(record.run_id, paths=tuple(paths), n_bytes=sum(files[path] for path in paths))


def _is_temporary(path: str, record: RunRecord, ports: Ports) -> bool:
    """Whether it was left by a write that never ended: a hidden ``.tmp`` beside its file, an hour old."""
    name = path.rpartition("/")[2]
    if not (name.startswith(".") and name.endswith(".tmp")):
        return False
    local = Path(ports.store.uri(record.run_id)) / path
    return local.exists() and ports.clock.now().timestamp() - local.stat().st_mtime > _TEMPORARY_AGE_S


def _remove(record: RunRecord, garbage: Garbage, ports: Ports) -> None:
    """Say in the record what goes, then let it go: a crash in between leaves files that the next call finds."""
    refs = {ref.path: ref for item in record.rounds for ref in item.files}
    sizes = ports.store.files(record.run_id)
    gone = [
        refs.get(path) or _ref_of_output(record.run_id, path, n_bytes=sizes.get(path, 0), ports=ports)
        for path in garbage.paths
        if path not in {ref.path for ref in record.removed}
        and path.startswith(f"{layout.ROUNDS}/")
        and path.endswith(".h5ad")
    ]
    if gone:
        ports.store.save(record.model_copy(update={"removed": (*record.removed, *gone)}))
    ports.store.remove(record.run_id, garbage.paths)


def _ref_of_output(run_id: str, path: str, *, n_bytes: int, ports: Ports) -> FileRef:
    """Reference of an output of inference; its digest stands in the result file beside it, which stays."""
    try:
        digest = parse_result(ports.store.read(run_id, path + RESULT_SUFFIX)).sha256
    except (NotFoundError, ManifestError):  # an output that was never finished
        digest = ""
    return FileRef(path=path, sha256=digest, n_bytes=n_bytes)


def _scratch(folder: Path, *, done: set[str], ports: Ports, delete: bool) -> Garbage:
    """Attempt folders of jobs of this machine: all of runs that are done, else those that a later attempt replaced."""
    gone: list[Path] = []
    for job in sorted(folder.glob("haystack-*")):
        run_id = job.name.removeprefix("haystack-").rpartition("-")[0]
        handle = JobHandle(job_id=job.name, executor="local", spec_hash="", submitted_at=ports.clock.now())
        attempts = sorted(job.glob("attempt-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        if run_id in done and ports.executors["local"].status(handle).is_terminal:
            gone.append(job)
        else:
            gone += [path for path in attempts[:-1] if (path / "exit").exists()]
    n_bytes = sum(path.stat().st_size for top in gone for path in top.rglob("*") if path.is_file())
    if delete:
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)
    return Garbage("", paths=tuple(str(path.relative_to(folder)) for path in gone), n_bytes=n_bytes)


def _age_days(record: RunRecord, now: datetime) -> float:
    return (now - record.created_at).total_seconds() / 86400
