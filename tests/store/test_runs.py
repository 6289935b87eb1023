"""Run folders: sequence of records, exclusive creation, errors in words."""

import errno
import json
import threading
from pathlib import Path

import pytest

from haystack_kernel.errors import ConflictError, ContractError, InvalidInputError, NotFoundError, StorageError
from haystack_kernel.store import RunStore, check_run_id, check_storage, new_run_id
from haystack_kernel.store.files import storage_errors


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    """The same behaviour on a disk and on an object store."""
    if request.param == "local":
        yield RunStore(str(tmp_path))
        return
    import fsspec

    yield RunStore("memory://bucket/prefix")
    if fsspec.filesystem("memory").exists("/bucket"):
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_save_when_called_twice_keeps_both_records_and_copies_the_newest(store, record):
    first = store.create(record)
    second = store.save(first.model_copy(update={"status": "failed"}))
    assert (first.serial, second.serial) == (1, 2)
    assert store.load(record.run_id) == second
    assert json.loads(store.read(record.run_id, "run.json"))["serial"] == 2
    assert json.loads(store.read(record.run_id, "record/0001.json"))["status"] == "running"


def test_save_when_another_writer_was_first_raises_and_keeps_the_winner(store, record):
    mine = store.create(record)
    theirs = store.save(mine.model_copy(update={"termination": "plateau"}))
    with pytest.raises(ConflictError, match="another process is working on run"):
        store.save(mine.model_copy(update={"termination": "threshold"}))
    assert store.load(record.run_id) == theirs


def test_create_when_the_run_exists_raises(store, record):
    store.create(record)
    with pytest.raises(ConflictError):
        store.create(record)


def test_load_when_absent_names_the_runs_there_are(store, record):
    store.create(record)
    with pytest.raises(NotFoundError, match=record.run_id):
        store.load("run-20990101t000000-ffffff")


def test_load_when_the_schema_differs_raises_a_contract_error(store, record):
    store.write(record.run_id, "record/0001.json", b'{"schema_version": 99}')
    with pytest.raises(ContractError, match="schema version"):
        store.load(record.run_id)


def test_list_runs_is_newest_first_and_ignores_other_folders(store, record):
    for run_id in ("run-20260101t000000-aaaaaa", "run-20260301t000000-aaaaaa"):
        store.create(record.model_copy(update={"run_id": run_id}))
    store.create(record)
    assert store.list_runs() == ["run-20260301t000000-aaaaaa", record.run_id, "run-20260101t000000-aaaaaa"]


def test_write_returns_size_and_digest_of_what_read_gives_back(store, record):
    ref = store.write(record.run_id, "rounds/1/de.csv", b"gene,log2fc\n")
    assert store.read(record.run_id, "rounds/1/de.csv") == b"gene,log2fc\n"
    assert (ref.n_bytes, len(ref.sha256)) == (12, 64)
    assert store.exists(record.run_id, "rounds/1/de.csv")
    with pytest.raises(NotFoundError, match="has no file"):
        store.read(record.run_id, "rounds/2/de.csv")


def test_write_locally_leaves_no_temporary_file(tmp_path, record):
    RunStore(str(tmp_path)).create(record)
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(names) == ["0001.json", "run.json", "summary.json"]


def test_save_when_many_threads_race_lets_exactly_one_win(tmp_path, record):
    base = RunStore(str(tmp_path)).create(record)
    outcomes = []

    def attempt(label):
        try:
            RunStore(str(tmp_path)).save(base.model_copy(update={"question": label}))
            outcomes.append("won")
        except ConflictError:
            outcomes.append("lost")

    threads = [threading.Thread(target=attempt, args=(f"question {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/run.json", "a/../../b", "a\\b", "", "x\n"])
def test_write_when_the_path_leaves_the_run_folder_raises(store, record, path):
    with pytest.raises(InvalidInputError, match="not a path inside a run folder"):
        store.write(record.run_id, path, b"")


@pytest.mark.parametrize(
    "run_id", ["", "short", "Run-20260101", "run/../../x", "run_20260101t000000", "a" * 46, "1run-2026"]
)
def test_check_run_id_when_malformed_raises(run_id):
    with pytest.raises(InvalidInputError, match="not a run id"):
        check_run_id(run_id)


def test_new_run_id_is_valid_and_sorts_by_time(clock):
    early = new_run_id(clock.now())
    clock.sleep(3600)
    assert check_run_id(early) < check_run_id(new_run_id(clock.now()))


@pytest.mark.parametrize("storage", ["", "gs://", "ftp://host/x", "a/../../etc", "gs://b/../c", "x\x00y"])
def test_check_storage_when_unusable_raises(storage):
    with pytest.raises(InvalidInputError, match="storage"):
        check_storage(storage)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left to write"),
        (PermissionError(errno.EACCES, "denied"), "no permission to use"),
        (OSError(errno.EIO, "input/output error"), "cannot be used"),
    ],
)
def test_storage_errors_when_the_disk_fails_says_what_to_do(error, says):
    with pytest.raises(StorageError, match=says), storage_errors("somewhere/run.json"):
        raise error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_write_when_the_disk_is_really_full_raises():
    with (
        pytest.raises(StorageError, match="no space left"),
        storage_errors("/dev/full"),
        Path("/dev/full").open("wb", buffering=0) as handle,
    ):
        handle.write(b"x")


def test_files_are_listed_copied_and_removed_but_never_the_record(tmp_path, record):
    store = RunStore(str(tmp_path))
    store.create(record)
    other = store.create(record.model_copy(update={"run_id": "run-20260102t030405-ffffff"}))
    store.write(record.run_id, "rounds/1/cells.h5ad", b"cells")
    store.copy(record.run_id, "rounds/1/cells.h5ad", other.run_id)
    assert store.files(other.run_id)["rounds/1/cells.h5ad"] == 5
    store.remove(record.run_id, ["rounds/1/cells.h5ad", "rounds/1/never-there.h5ad"])
    assert not store.exists(record.run_id, "rounds/1/cells.h5ad")
    assert store.read(other.run_id, "rounds/1/cells.h5ad") == b"cells"
    for path in ("record/0001.json", "run.json", "summary.json"):
        with pytest.raises(InvalidInputError, match="never deleted"):
            store.remove(record.run_id, [path])
    with pytest.raises(InvalidInputError, match="not a path inside"):
        store.remove(record.run_id, ["../../else"])
    assert store.files("run-20260102t030405-absent") == {}
