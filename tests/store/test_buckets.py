"""The same store in a bucket, through the real client library: one winner, nothing lost while the service fails."""

import json
import threading

import pytest

from haystack_kernel.errors import ConflictError, NotFoundError, ServiceError, StorageError
from haystack_kernel.store import RunStore
from inference.patience import Patience

BUCKET = "gs://haystack-test/team"


@pytest.fixture
def store(bucket_server, clock):
    return RunStore(BUCKET, patience=Patience(sleep=clock.sleep, monotonic=clock.monotonic))


def newest(server, record):
    return json.loads(server.objects.contents["haystack-test", f"team/runs/{record.run_id}/run.json"])


def test_a_run_in_a_bucket_is_saved_loaded_and_listed(store, bucket_server, record):
    assert store.list_runs() == []
    saved = store.save(store.create(record))
    store.write(record.run_id, "rounds/1/de.csv", b"gene\n")
    assert RunStore(BUCKET).load(record.run_id) == saved
    assert store.list_runs() == [record.run_id]
    assert store.read(record.run_id, "rounds/1/de.csv") == b"gene\n"
    assert (store.exists(record.run_id, "rounds/1/de.csv"), store.exists(record.run_id, "rounds/1")) == (True, False)
    assert store.uri(record.run_id, "run.json") == f"{BUCKET}/runs/{record.run_id}/run.json"
    with pytest.raises(NotFoundError, match="has no file"):
        store.read(record.run_id, "rounds/2/de.csv")


def test_a_save_is_three_requests_once_the_run_is_known(store, bucket_server, record):
    record = store.create(record)
    bucket_server.requests.clear()
    store.save(store.save(record))
    assert [line.split()[0] for line in bucket_server.requests] == ["POST"] * 6


def test_of_many_writers_in_a_bucket_exactly_one_wins(store, record, bucket_server):
    base = store.create(record)
    outcomes = []

    def attempt(label):
        try:
            RunStore(BUCKET).save(base.model_copy(update={"question": label}))
            outcomes.append("won")
        except ConflictError:
            outcomes.append("lost")

    threads = [threading.Thread(target=attempt, args=(f"question {i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]


@pytest.mark.parametrize("file", ["record", "run.json"])
def test_a_save_whose_answer_is_lost_is_no_conflict(store, bucket_server, record, file):
    first = store.create(record)
    bucket_server.fail("POST /upload", kind="before", times=int(file == "run.json"), action=lambda: None)
    bucket_server.fail("POST /upload", kind="lose", times=2)
    second = store.save(first)
    assert store.load(record.run_id) == second
    assert newest(bucket_server, record)["serial"] == 2


def test_the_same_record_of_another_process_is_a_conflict(store, record):
    """Two that cancel at the same moment write the same bytes; still one of them has to give way."""
    first = store.create(record)
    RunStore(BUCKET).save(first)
    with pytest.raises(ConflictError, match="haystack attach"):
        store.save(first)


def test_run_json_never_goes_back_to_an_older_record(store, bucket_server, record):
    """The other process saves the next record between this one's record and its copy in run.json."""
    first = store.create(record)
    other = RunStore(BUCKET)

    def overtake():
        bucket_server.faults.clear()
        other.save(other.load(record.run_id))

    bucket_server.fail("POST /upload", kind="before", action=lambda: None)  # the record itself
    bucket_server.fail("POST /upload", kind="before", action=overtake)
    assert store.save(first).serial == 2
    assert newest(bucket_server, record)["serial"] == 3
    assert store.load(record.run_id).serial == 3


def test_429_for_a_minute_loses_nothing(store, bucket_server, clock, record):
    first = store.create(record)
    bucket_server.fail("", status=429, times=1000, holds=lambda: clock.monotonic() < 60)
    second = store.save(first)
    assert clock.monotonic() >= 60
    assert RunStore(BUCKET).load(record.run_id) == second


def test_two_saves_within_the_second_that_one_object_is_limited_to(bucket_server, clock, record):
    bucket_server.objects.min_gap_s, bucket_server.objects.now = 1.0, clock.monotonic
    store = RunStore(BUCKET, patience=Patience(sleep=clock.sleep, monotonic=clock.monotonic))
    saved = store.create(record)
    for _ in range(3):
        saved = store.save(saved)
    assert newest(bucket_server, record)["serial"] == 4
    assert clock.monotonic() < 8


@pytest.mark.parametrize("kind", ["refuse", "reset", "lose", "cut", "shorten"])
def test_whatever_breaks_once_in_every_three_requests_changes_no_byte(store, bucket_server, clock, record, kind):
    seen = iter(range(10**6))
    bucket_server.fail("", kind=kind, times=10**6, holds=lambda: next(seen) % 3 == 0)
    saved = store.create(record)
    for number in range(4):
        store.write(record.run_id, f"rounds/{number}/de.csv", bytes([number]) * 999)
        saved = store.save(saved)
    assert [store.read(record.run_id, f"rounds/{number}/de.csv") for number in range(4)] == [
        bytes([number]) * 999 for number in range(4)
    ]
    assert saved.serial == 5
    assert store.load(record.run_id) == saved
    assert newest(bucket_server, record)["serial"] == 5


def test_credentials_that_expire_in_the_middle_lose_nothing(store, bucket_server, record):
    saved = store.create(record)
    expired = bucket_server.fail("", status=401, times=1000)
    with pytest.raises(StorageError, match="gcloud auth application-default login") as caught:
        store.save(saved)
    assert caught.value.facts["status"] == 401
    expired.times = 0
    assert store.load(record.run_id) == saved
    assert store.save(saved).serial == 2


def test_a_missing_or_forbidden_bucket_is_said(store, bucket_server, record):
    with pytest.raises(StorageError, match=r"bucket .*does not exist; create it"):
        RunStore("gs://no-such-bucket/x").create(record)
    with pytest.raises(StorageError, match="does not exist"):
        RunStore("gs://no-such-bucket/x").list_runs()
    bucket_server.fail("", status=403, times=1000)
    with pytest.raises(StorageError, match=r"permission denied \(403\)"):
        store.create(record)


def test_a_service_that_stays_away_names_status_file_and_what_is_kept(store, bucket_server, record):
    saved = store.create(record)
    bucket_server.fail("", status=503, times=1000)
    with pytest.raises(ServiceError, match=r"record/0002.json.* 503.*resume: what is finished is kept") as caught:
        store.save(saved)
    assert caught.value.facts == {"service": "storage", "retryable": True, "status": 503}


def test_opening_a_store_needs_no_request_and_no_client(bucket_server):
    RunStore("gs://no-such-bucket/x")
    assert bucket_server.requests == []


def test_files_in_a_bucket_are_listed_copied_removed_and_summed_up(store, bucket_server, record):
    one = store.create(record.model_copy(update={"run_id": "run-20260103t000000-aaaaaa"}))
    other = store.create(record.model_copy(update={"run_id": "run-20260103t000000-bbbbbb"}))
    store.write(one.run_id, "rounds/1/cells.h5ad", b"cells")
    store.copy(one.run_id, "rounds/1/cells.h5ad", other.run_id)
    assert store.read(other.run_id, "rounds/1/cells.h5ad") == b"cells"
    assert store.files(other.run_id)["rounds/1/cells.h5ad"] == 5
    store.remove(other.run_id, ["rounds/1/cells.h5ad", "rounds/1/never-there.h5ad"])
    assert set(store.files(other.run_id)) == {"record/0001.json", "run.json", "summary.json"}
    assert store.summary(other.run_id).question == record.question
    with pytest.raises(NotFoundError, match="has no file"):
        store.copy(one.run_id, "rounds/9/cells.h5ad", other.run_id)
