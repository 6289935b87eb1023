"""Free disk space: files of rounds that are not the result, leftovers of interrupted writes, logs of old jobs.

In: which runs. Out: what can be deleted and its size; it is deleted only on request, and then the record says so.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ConflictError, ContractError, HaystackError, InvalidInputError, NotFoundError
from haystack_kernel.schema import FileRef, JobHandle
from haystack_kernel.store import Lease, find_worker, layout, taken
from inference.manifest import RESULT_SUFFIX, ManifestError, parse_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import RunRecord, Settings

_TEMPORARY = re.compile(r"(?:^|/)\.[^/]*\.tmp$")  # the hidden files that a write renames when it is done
_TEMPORARY_AGE_S = 3600.0  # a younger temporary file may still be being written
_SCRATCH = "jobs"  # folder of the local jobs, in the cache folder
_KEPT: dict[type[HaystackError], str] = {  # why a run that was not named is left alone
    NotFoundError: "no record",
    ContractError: "another version",
    ConflictError: "running",
}


@dataclass(frozen=True)
class Garbage:
    """Files of one run folder, or of the cache, that nothing needs; ``kept`` says why a run was left alone."""

    run_id: str
    paths: tuple[str, ...] = ()
    n_bytes: int = 0
    kept: str = ""


@dataclass(frozen=True)
class Collection:
    """What garbage collection found; ``is_deleted`` says whether it was deleted."""

    runs: tuple[Garbage, ...]
    scratch: Garbage
    is_deleted: bool = False

    @property
    def n_bytes(self) -> int:
        """Size of everything found."""
        return sum(item.n_bytes for item in (*self.runs, self.scratch))


def collect_garbage(
    run_ids: Sequence[str] = (),
    *,
    storage: str | None = None,
    settings: Settings | None = None,
    keep: int | None = None,
    older_than_days: float | None = None,
    delete: bool = False,
) -> Collection:
    """Find files that no record needs, and delete them if ``delete`` is true.

    Of a finished run these are the cells and outputs of rounds that are not the best; tables and manifests stay. A run
    that stopped also keeps its last round, so that it can go on. Temporary files of interrupted writes go, and the
    folders of local jobs in the cache: all of runs that are done, and superseded attempts of others. Record, leases,
    notebook, report, published files and the best round are never deleted. A run that is running, or that a worker
    holds, is left alone.

    Parameters
    ----------
    run_ids
        Look only at these runs; none means all runs of the storage.
    storage
        Where the run folders are; None takes the settings'.
    settings
        None reads them from the settings files and the environment, with ``storage`` over them.
    keep
        Number of newest runs to leave alone.
    older_than_days
        Leave runs alone that began fewer days ago.
    delete
        False only reports what would be deleted.

    Returns
    -------
    The files found, by run.

    Raises
    ------
    ConflictError
        A run named in ``run_ids`` is running, or a worker holds it.
    InvalidInputError
        A number is negative.
    NotFoundError
        A run named in ``run_ids``, or the storage, does not exist.

    Examples
    --------
    >>> from haystack_kernel.manage import collect_garbage
    >>> collect_garbage(older_than_days=30).n_bytes  # doctest: +SKIP
    1467023
    >>> collect_garbage(older_than_days=30, delete=True).is_deleted  # doctest: +SKIP
    True
    """
    if min(keep or 0, older_than_days or 0) < 0:
        msg = f"keep {keep} and older_than_days {older_than_days} must not be negative"
        raise InvalidInputError(msg)
    ports = connect(settings or load_settings(storage=storage))
    wanted = list(run_ids) or ports.store.list_runs()[keep or 0 :]
    found: list[Garbage] = []
    ended: set[str] = set()
    for run_id in wanted:
        try:
            record = ports.store.load(run_id)
            found.append(_collect_run(record, ports, older_than_days=older_than_days, delete=delete))
        except (NotFoundError, ContractError, ConflictError) as error:
            if run_ids:
                raise
            found.append(Garbage(run_id, kept=_KEPT[type(error)]))
            continue
        if record.status in ("done", "cancelled") and not found[-1].kept:
            ended.add(run_id)
    scratch = _collect_scratch(Path(ports.settings.cache) / _SCRATCH, ended=ended, ports=ports, delete=delete)
    return Collection(runs=tuple(found), scratch=scratch, is_deleted=delete)


def _collect_run(record: RunRecord, ports: Ports, *, older_than_days: float | None, delete: bool) -> Garbage:
    """Find the garbage of one run, and delete it if asked to.

    Raises
    ------
    ConflictError
        The run is running, or a worker holds it whatever its record says, which is saved only after each step.
    """
    run_id, now = record.run_id, ports.clock.now()
    worker = find_worker(ports.store, run_id)[1]
    if worker is not None and worker.is_alive(now):
        raise taken(run_id, worker)
    if record.status == "running":
        msg = f"run {run_id} is running; wait for it, or `haystack cancel {run_id}` first"
        raise ConflictError(msg, run_id=run_id)
    if older_than_days is not None and (now - record.created_at).total_seconds() <= older_than_days * 86400:
        return Garbage(run_id, kept="young")
    garbage = _find_garbage(record, ports)
    if delete and garbage.paths:
        with Lease.acquire(ports.store, run_id, clock=ports.clock):  # so that no worker starts in the meantime
            _remove(record, garbage, ports)
    return garbage


def _find_garbage(record: RunRecord, ports: Ports) -> Garbage:
    """Cells and outputs of rounds that are decided and not the best, and old temporary files."""
    needed = {record.best_round}
    if record.status != "done":
        needed.add(len(record.rounds))
    useless = tuple(
        f"{layout.round_folder(item.number)}/" for item in record.rounds if item.decision and item.number not in needed
    )
    paths, n_bytes = [], 0
    for path, size in ports.store.files(record.run_id).items():
        is_garbage = path.endswith(".h5ad") and path.startswith(useless)
        if _TEMPORARY.search(path):
            local = Path(ports.store.uri(record.run_id)) / path
            now = ports.clock.now().timestamp()
            is_garbage = local.exists() and now - local.stat().st_mtime > _TEMPORARY_AGE_S
        if is_garbage:
            paths.append(path)
            n_bytes += size
    return Garbage(record.run_id, paths=tuple(paths), n_bytes=n_bytes)


def _remove(record: RunRecord, garbage: Garbage, ports: Ports) -> None:
    """Name the files in the record, then delete them; after a crash in between, the next call finds them again."""
    refs = {ref.path: ref for item in record.rounds for ref in item.files}
    named = {ref.path for ref in record.removed}
    sizes = ports.store.files(record.run_id)
    gone = []
    for path in garbage.paths:
        if path in named or layout.step_of(path) is None or not path.endswith(".h5ad"):
            continue  # a temporary file was never part of the record
        ref = refs.get(path)
        if (
            ref is None
        ):  # outputs are not listed in the record; the result file beside each holds the digest and is kept
            try:
                digest = parse_result(ports.store.read(record.run_id, path + RESULT_SUFFIX)).sha256
            except (NotFoundError, ManifestError):  # an output that was never finished
                digest = ""
            ref = FileRef(path=path, sha256=digest, n_bytes=sizes.get(path, 0))
        gone.append(ref)
    if gone:
        ports.store.save(record.model_copy(update={"removed": (*record.removed, *gone)}))
    ports.store.remove(record.run_id, garbage.paths)


def _collect_scratch(folder: Path, *, ended: set[str], ports: Ports, delete: bool) -> Garbage:
    """Find folders of local jobs: all attempts of runs that ended, and of others those that a later one replaced."""
    useless: list[Path] = []
    for job in sorted(folder.glob("haystack-*")):
        run_id = job.name.removeprefix("haystack-").rpartition("-")[0]
        handle = JobHandle(job_id=job.name, executor="local", spec_hash="", submitted_at=ports.clock.now())
        if run_id in ended and ports.executors["local"].status(handle).is_terminal:
            useless.append(job)
            continue
        attempts = sorted(job.glob("attempt-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        useless += [path for path in attempts[:-1] if (path / "exit").exists()]
    n_bytes = sum(path.stat().st_size for top in useless for path in top.rglob("*") if path.is_file())
    if delete:
        for path in useless:
            shutil.rmtree(path, ignore_errors=True)
    return Garbage("", paths=tuple(str(path.relative_to(folder)) for path in useless), n_bytes=n_bytes)
