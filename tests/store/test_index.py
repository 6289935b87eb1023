"""The index of all runs: what is saved appears, several writers lose nothing, what is damaged is made again."""

import threading
from pathlib import Path

import pytest

from haystack_kernel.schema import Access
from haystack_kernel.store import RunIndex, RunStore
from haystack_kernel.store.index import IndexedRun


@pytest.fixture(params=["local", "bucket"])
def place(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "store")
    request.getfixturevalue("bucket_server")
    return "gs://haystack-test/team"


def put(store, record, number, **changes):
    return store.create(record.model_copy(update={"run_id": f"run-20260102t{number:06d}-abcdef", **changes}))


def shown(index):
    return [(row.summary.run_id[13:19], row.summary.status) for row in index.rows()]


def test_what_is_saved_by_others_appears_newest_first(place, record, clock):
    store = RunStore(place)
    put(store, record, 1)
    index = RunIndex(store, clock=clock)
    assert shown(index) == [("000001", "running")]
    other = RunStore(place)  # which sees that there is an index
    second = put(other, record, 2)
    other.save(second.model_copy(update={"status": "done"}))
    clock.sleep(6)
    assert shown(index) == [("000002", "done"), ("000001", "running")]
    assert shown(RunIndex(RunStore(place), clock=clock)) == shown(index)  # a second reader, from the file and the marks


def test_who_owns_a_run_is_in_the_index(place, record, clock):
    store = RunStore(place)
    index = RunIndex(store, clock=clock)
    assert index.rows() == []
    other = RunStore(place)
    run_id = put(other, record, 1).run_id
    access = Access(owner="ada@example.org", submitted_at=clock.now())
    other.change_access(run_id, lambda _: access)
    clock.sleep(6)
    assert [row.access.owner for row in index.rows()] == ["ada@example.org"]
    other.change_access(run_id, lambda found: found.model_copy(update={"everyone": True}))
    clock.sleep(6)
    assert [row.access.everyone for row in index.rows()] == [True]


def test_marks_are_folded_into_the_file_and_removed(tmp_path, record, clock):
    store = RunStore(str(tmp_path))
    index = RunIndex(store, clock=clock)
    index.rows()
    other = RunStore(str(tmp_path))
    for number in range(1, 4):
        put(other, record, number)
    changed = tmp_path / "index" / "changed"
    assert len(list(changed.iterdir())) == 3
    clock.sleep(61)
    assert len(index.rows()) == 3
    assert list(changed.iterdir()) == []
    (Path(tmp_path) / "runs").rename(tmp_path / "elsewhere")  # a new reader takes the rows from the file alone
    again = RunIndex(RunStore(str(tmp_path)), clock=clock)
    again._counted_at = clock.monotonic()
    assert len(again.rows()) == 3


def test_many_writers_and_readers_at_once_lose_no_run(tmp_path, record, clock):
    place = str(tmp_path)
    RunIndex(RunStore(place), clock=clock).rebuild()
    indices = [RunIndex(RunStore(place), clock=clock) for _ in range(3)]

    def write(start):
        store = RunStore(place)
        for number in range(start, start + 8):
            made = put(store, record, number)
            store.save(made.model_copy(update={"status": "done"}))

    def read(index):
        for _ in range(10):
            with index._lock:
                index._folded_at = -1e9  # fold at every look
            index.refresh()

    threads = [threading.Thread(target=write, args=(start,)) for start in (100, 200, 300)]
    threads += [threading.Thread(target=read, args=(index,)) for index in indices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in (*indices, RunIndex(RunStore(place), clock=clock)):
        rows = index.refresh()
        assert len(rows) == 24
        assert {row.summary.status for row in rows} == {"done"}


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x1f\x8b\x08\x00broken", None])
def test_a_file_that_is_damaged_or_of_another_version_is_made_again(tmp_path, record, clock, damage, monkeypatch):
    import gzip
    import json

    store = RunStore(str(tmp_path))
    put(store, record, 1)
    RunIndex(store, clock=clock).rebuild()
    file = tmp_path / "index" / "all.json.gz"
    file.write_bytes(damage if damage is not None else gzip.compress(json.dumps({"version": 99, "rows": []}).encode()))
    assert shown(RunIndex(RunStore(str(tmp_path)), clock=clock)) == [("000001", "running")]
    assert shown(RunIndex(RunStore(str(tmp_path)), clock=clock)) == [("000001", "running")]


def test_a_lost_mark_and_a_deleted_run_are_found_when_the_folders_are_counted(tmp_path, record, clock):
    import shutil

    store = RunStore(str(tmp_path))
    put(store, record, 1)
    index = RunIndex(store, clock=clock)
    index.rows()
    put(store, record, 2)  # this store asked before there was an index, and leaves no mark
    shutil.rmtree(tmp_path / "runs" / "run-20260102t000001-abcdef")
    clock.sleep(601)
    assert shown(index) == [("000002", "running")]


def test_an_older_row_never_replaces_a_newer_one(record, clock, tmp_path):
    store = RunStore(str(tmp_path))
    first = put(store, record, 1)
    index = RunIndex(store, clock=clock)
    (old,) = index.rows()
    store.save(first.model_copy(update={"status": "done"}))
    index.look_again([first.run_id])
    with index._lock:
        index._keep(IndexedRun(old.summary, old.access))
    assert shown(index) == [("000001", "done")]


def test_without_an_index_a_save_leaves_no_mark(tmp_path, record):
    put(RunStore(str(tmp_path)), record, 1)
    assert not (tmp_path / "index").exists()


def test_many_rows_are_read_as_one_is_whatever_the_storage_does(place, record, clock, request):
    store = RunStore(place)
    kept = [put(store, record, number, status="done") for number in range(1, 8)]
    ids = [one.run_id for one in kept]
    store.change_access(ids[0], lambda _: Access(owner="ada@example.org", submitted_at=clock.now()))
    left = store.read(ids[1], "summary.json")  # a copy that was left behind
    store.save(kept[1].model_copy(update={"status": "failed"}))
    store.write(ids[1], "summary.json", left)
    store.write(ids[2], "summary.json", b"damaged")
    store.write(ids[3], "access.json", b"damaged")
    faults = []
    if place.startswith("gs://"):  # each of these is asked again
        fail = request.getfixturevalue("bucket_server").fail
        kinds = {"refuse": 4, "shorten": 5, "reset": 6}
        faults = [fail(f"{ids[n]}/summary.json.*alt=media", kind=kind) for kind, n in kinds.items()]
    wanted = [*ids, "run-20990101t000000-abcdef"]
    found = store.summaries(wanted)
    assert [fault.n_seen for fault in faults] == [1] * len(faults)
    assert [one and one[0].status for one in found] == ["done", "failed", "done", None, "done", "done", "done", None]
    for run_id, one in zip(wanted, found, strict=True):
        assert one is None or one == (store.summary(run_id), store.access(run_id))
    assert [row.summary.run_id for row in RunIndex(store, clock=clock).rows()] == sorted(
        {*ids} - {ids[3]}, reverse=True
    )
