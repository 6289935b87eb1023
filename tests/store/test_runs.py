"""Run folders: sequence of records, exclusive creation, errors in words."""

import errno
import json
import random
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from haystack_kernel.config.options import build_config
from haystack_kernel.errors import ConflictError, ContractError, InvalidInputError, NotFoundError, StorageError
from haystack_kernel.schema import RunSummary, Settings, address_fault
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
    ("given", "says"),
    [
        ("gs:/bucket/x", "did you mean 'gs://bucket/x'"),
        ("gs:bucket", "did you mean 'gs://bucket'"),
        ("gs//bucket", "did you mean 'gs://bucket'"),
        ("GS://bucket", "did you mean 'gs://bucket'"),
        ("file:/runs", "did you mean '/runs'"),
        ("s3://bucket", "unknown scheme 's3'; give a local path or gs://bucket/prefix"),
        ("gs:/", "names no bucket"),
        ("gs:///folder", "names no bucket"),
        ("g s://bucket", "unknown scheme"),
        ("7z://bucket", "unknown scheme"),
    ],
)
def test_an_address_with_a_slip_is_refused_with_what_was_meant_wherever_one_is_given(given, says):
    with pytest.raises(InvalidInputError, match=says):
        check_storage(given)
    for name in ("storage", "atlas_root", "knowledge", "cache"):
        with pytest.raises(ValidationError, match=says):
            Settings(**{name: given})
    for name in ("model", "genelist"):
        with pytest.raises(ValidationError, match=says):
            Settings(inference={name: given})
    for name in ("model", "genelist", "query_h5ad"):
        with pytest.raises(InvalidInputError, match=says):
            build_config(Settings(), **{name: given})


@pytest.mark.parametrize("given", ["gs://bucket", "gs://b/x", "file:///runs", "memory://x", "runs//x", "a:b", "./gs:x"])
def test_an_address_without_a_slip_passes(given):
    assert address_fault(given) == ""


def test_a_storage_that_does_not_exist_is_told_from_one_without_runs(tmp_path):
    assert RunStore(str(tmp_path)).list_runs() == []
    with pytest.raises(NotFoundError, match="elsewhere does not exist, so it holds no runs"):
        RunStore(str(tmp_path / "elsewhere")).list_runs()


# --- copies of the record -------------------------------------------------------------------------------------------


def check_copies(store, run_id):
    newest = store.load(run_id)
    assert json.loads(store.read(run_id, "run.json"))["serial"] == newest.serial
    assert json.loads(store.read(run_id, "summary.json"))["serial"] == newest.serial
    assert store.summary(run_id) == RunSummary.of(newest)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_copies_are_those_of_the_newest_record_however_a_worker_and_a_cancellation_race(
    place, request, tmp_path, record
):
    if place == "bucket":
        request.getfixturevalue("bucket_server")
    address = str(tmp_path) if place == "disk" else "gs://haystack-test/team"
    stores = RunStore(address), RunStore(address)
    stores[0].create(record)

    def save_some(store, barrier, status):
        barrier.wait()
        for _ in range(3):
            with suppress(ConflictError):
                store.save(store.load(record.run_id).model_copy(update={"status": status}))

    for _ in range(60 if place == "disk" else 8):
        barrier = threading.Barrier(2)
        statuses = ("running", "cancelled")
        pairs = zip(stores, statuses, strict=True)
        threads = [threading.Thread(target=save_some, args=(store, barrier, status)) for store, status in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_copies(stores[0], record.run_id)


def test_a_summary_that_was_left_behind_is_read_anew(store, record):
    """The process ended between the record and its copies."""
    saved = store.create(record)
    left = store.read(record.run_id, "summary.json")
    store.save(saved.model_copy(update={"status": "failed"}))
    store.write(record.run_id, "summary.json", left)
    assert store.summary(record.run_id).status == "failed"
    old = {name: value for name, value in json.loads(left).items() if name != "serial"}  # of the version before
    store.write(record.run_id, "summary.json", json.dumps(old).encode())
    assert store.summary(record.run_id).status == "failed"


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


@pytest.mark.parametrize("place", ["local", "memory", "bucket"])
def test_a_file_is_read_piece_by_piece_and_never_from_two_versions(place, tmp_path, request):
    where = {"local": str(tmp_path), "memory": f"memory://{tmp_path.name}", "bucket": "gs://haystack-test/team"}[place]
    if place == "bucket":
        request.getfixturevalue("bucket_server")
    store, run_id = RunStore(where), new_run_id(datetime(2026, 1, 2, tzinfo=UTC))
    data = random.Random(1).randbytes(2_500_000)
    store.write(run_id, "predictions.h5ad", data)
    found = store.open(run_id, "predictions.h5ad")
    pieces = list(found.pieces(0, found.n_bytes))
    assert (b"".join(pieces), found.n_bytes) == (data, len(data))
    assert max(map(len, pieces)) <= 1 << 20
    assert b"".join(found.pieces(1_048_570, 1_048_590)) == data[1_048_570:1_048_590]
    begun = found.pieces(0, found.n_bytes)
    next(begun)
    store.write(run_id, "predictions.h5ad", data[::-1])
    with pytest.raises(ConflictError, match="was replaced while it was read"):
        next(begun)
    with pytest.raises(NotFoundError, match="has no file"):
        store.open(run_id, "absent.csv")
