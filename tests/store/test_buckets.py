"""The same store in a bucket, through the real client library and a local server that keeps preconditions."""

import importlib.util
import sys
import threading
from pathlib import Path

import pytest

gcsfs = pytest.importorskip("gcsfs")

from haystack_kernel.errors import ConflictError, NotFoundError, StorageError  # noqa: E402
from haystack_kernel.store import RunStore  # noqa: E402


def load_server():
    path = Path(__file__).parents[1] / "servers" / "storage.py"
    spec = importlib.util.spec_from_file_location("storage_server_module", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.storage_server


@pytest.fixture(scope="module")
def bucket():
    with load_server()("haystack-test") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield "gs://haystack-test/team"
        gcsfs.GCSFileSystem.clear_instance_cache()


def test_a_run_in_a_bucket_is_saved_loaded_and_listed(bucket, record):
    store = RunStore(bucket)
    saved = store.save(store.create(record))
    store.write(record.run_id, "rounds/1/de.csv", b"gene\n")
    assert RunStore(bucket).load(record.run_id) == saved
    assert store.list_runs() == [record.run_id]
    assert store.read(record.run_id, "rounds/1/de.csv") == b"gene\n"
    assert store.uri(record.run_id, "run.json") == f"gs://haystack-test/team/runs/{record.run_id}/run.json"
    with pytest.raises(NotFoundError, match="has no file"):
        store.read(record.run_id, "rounds/2/de.csv")


def test_of_many_writers_in_a_bucket_exactly_one_wins(bucket, record):
    record = record.model_copy(update={"run_id": "run-20260102t030405-race00"})
    base = RunStore(bucket).create(record)
    outcomes = []

    def attempt(label):
        try:
            RunStore(bucket).save(base.model_copy(update={"question": label}))
            outcomes.append("won")
        except ConflictError:
            outcomes.append("lost")

    threads = [threading.Thread(target=attempt, args=(f"question {i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]


def test_a_missing_bucket_is_said(bucket, record):
    with pytest.raises(StorageError, match="bucket"):
        RunStore("gs://no-such-bucket/x").create(record)


def test_files_in_a_bucket_are_listed_copied_removed_and_summed_up(bucket, record):
    store = RunStore(bucket)
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
