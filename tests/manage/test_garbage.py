"""Garbage collection frees what no record needs, and only that; afterwards everything still opens."""

import os
from pathlib import Path

import pytest

from haystack_kernel.errors import ConflictError, InvalidInputError, NotFoundError
from haystack_kernel.manage import collect_garbage, compare, fork
from haystack_kernel.run import attach
from haystack_kernel.store import Lease

pytestmark = pytest.mark.slow

ROLES = ("prompt", "control", "query", "predictions")


@pytest.fixture
def finished(parent, world, world_ports, monkeypatch):
    """A run of two rounds that counts as done, and its store."""
    for name in ("storage", "atlas_root", "cache", "knowledge"):
        monkeypatch.setenv(f"HAYSTACK_{name.upper()}", getattr(world, name))
    record = fork(parent.run_id, changes={"threshold": 9}, settings=world).record
    return world_ports.store.save(record.model_copy(update={"status": "done"}))


def worst_of(record):
    return 3 - record.best_round


def test_without_delete_nothing_is_removed_and_the_bytes_are_told(finished, world_ports):
    before = world_ports.store.files(finished.run_id)
    found = collect_garbage([finished.run_id])
    (item,) = found.runs
    expected = {path for path in before if path.startswith(f"rounds/{worst_of(finished)}/") and path.endswith(".h5ad")}
    assert set(item.paths) == expected
    assert item.n_bytes == sum(before[path] for path in expected) > 0
    assert not found.is_deleted
    assert world_ports.store.files(finished.run_id) == before


def test_delete_keeps_the_best_round_and_every_table_and_records_what_is_gone(finished, world_ports):
    before = world_ports.store.files(finished.run_id)
    found = collect_garbage([finished.run_id], delete=True)
    after = world_ports.store.files(finished.run_id)
    record = world_ports.store.load(finished.run_id)
    gone = set(before) - set(after)
    assert {path.split("/")[0] for path in set(after) - set(before)} == {"lease", "record"}
    assert gone == set(found.runs[0].paths) == {ref.path for ref in record.removed}
    assert all(ref.sha256 and ref.n_bytes == before[ref.path] for ref in record.removed)
    assert record.status == "done"
    assert {f"rounds/{worst_of(record)}/{name}.csv" for name in ("de", "pathways", "prompts")} <= set(after)
    assert {f"rounds/{record.best_round}/{role}.h5ad" for role in ROLES} <= set(after)
    assert collect_garbage([finished.run_id], delete=True).n_bytes == 0
    assert world_ports.store.load(finished.run_id).serial == record.serial


def test_after_garbage_collection_a_run_still_opens_reports_compares_and_forks(finished, parent, world):
    collect_garbage([finished.run_id], delete=True)
    run = attach(finished.run_id)
    assert len(run.de) > 1000
    assert run.predictions.n_obs == 24
    assert run.status()["status"] == "done"
    assert finished.question in Path(run.write_report()).read_text(encoding="utf-8")
    assert compare(parent.run_id, finished.run_id).pearson == pytest.approx(1)
    made = fork(finished.run_id, changes={"threshold": 8}, settings=world)
    kept = "ground 1" in made.record.forked_from.reused
    assert kept == (finished.best_round == 1)  # a round without its cells is done again


def test_a_run_that_stopped_keeps_its_last_round_to_go_on(finished, world_ports):
    stopped = world_ports.store.save(finished.model_copy(update={"status": "failed", "termination": None}))
    paths = collect_garbage([stopped.run_id]).runs[0].paths
    assert not [path for path in paths if path.startswith(("rounds/2/", f"rounds/{stopped.best_round}/"))]


def test_a_running_run_is_refused_by_name_and_skipped_among_others(finished, parent, world):
    with pytest.raises(ConflictError, match="is running"):
        collect_garbage([parent.run_id], delete=True)
    every = {item.run_id: item for item in collect_garbage().runs}
    assert every[parent.run_id].kept == "running"
    assert every[finished.run_id].paths


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_run_that_a_worker_holds_is_left_alone_whatever_its_record_says(finished, world_ports, status):
    record = world_ports.store.save(finished.model_copy(update={"status": status}))
    before = world_ports.store.files(record.run_id)
    with Lease.acquire(world_ports.store, record.run_id, clock=world_ports.clock):
        kept = {item.run_id: item.kept for item in collect_garbage(delete=True).runs}
        assert kept[record.run_id] == "running"
        with pytest.raises(ConflictError, match="is being worked on by process"):
            collect_garbage([record.run_id], delete=True)
    assert before.keys() <= world_ports.store.files(record.run_id).keys()
    leases = [path for path in world_ports.store.files(record.run_id) if path.startswith("lease/")]
    assert bool(collect_garbage([record.run_id], delete=True).runs[0].paths) == (status == "done")
    assert set(leases) <= world_ports.store.files(record.run_id).keys()


def test_young_and_newest_runs_can_be_kept(finished):
    assert {item.kept for item in collect_garbage(older_than_days=1).runs} <= {"young", "running"}
    assert collect_garbage(keep=10_000).runs == ()
    with pytest.raises(InvalidInputError, match="negative"):
        collect_garbage(keep=-1)


def test_a_run_that_is_not_there_is_named(finished):
    with pytest.raises(NotFoundError):
        collect_garbage(["run-20200101t000000-000000"])


def test_temporary_files_are_removed_once_they_are_old(finished, world):
    folder = Path(world.storage) / "runs" / finished.run_id
    for name in (".old.h5ad.1234.tmp", ".new.h5ad.1234.tmp"):
        (folder / name).write_text("half")
    os.utime(folder / ".old.h5ad.1234.tmp", (1, 1))
    paths = collect_garbage([finished.run_id], delete=True).runs[0].paths
    assert [path for path in paths if path.endswith(".tmp")] == [".old.h5ad.1234.tmp"]
    assert (folder / ".new.h5ad.1234.tmp").exists()


def test_scratch_goes_for_runs_that_are_done_and_for_replaced_attempts(finished, world):
    jobs = Path(world.cache) / "jobs"
    for name, attempts in ((f"haystack-{finished.run_id}-00000000", 1), ("haystack-run-of-another-11111111", 2)):
        for number in range(1, attempts + 1):
            folder = jobs / name / f"attempt-{number}"
            folder.mkdir(parents=True)
            (folder / "exit").write_text("0")
            (folder / "log.txt").write_text("words")
    found = collect_garbage([finished.run_id], delete=True)
    assert sorted(found.scratch.paths) == [
        f"haystack-{finished.run_id}-00000000",
        "haystack-run-of-another-11111111/attempt-1",
    ]
    assert found.scratch.n_bytes == 2 * len("0words")
    assert [path.name for path in jobs.glob("*/*")] == ["attempt-2"]
