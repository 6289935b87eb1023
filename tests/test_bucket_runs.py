"""Whole runs whose folder is a bucket: killed at any moment and finished elsewhere; what a run costs in requests."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from haystack_kernel.run import attach, resume
from tests.workers import Program

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"
RUN_ID = "run-20260102t030405-abcdef"
FOLDER = f"team/runs/{RUN_ID}"
STORY = [
    "understand",
    "retrieve",
    "choose",
    "assemble",
    "submit",
    "collect",
    "ground",
    "decide",
    "interpret",
    "publish",
]
WORK = "import sys; from haystack_kernel.run import open_run; open_run(sys.argv[1], run_id=sys.argv[2]).work()"


@pytest.fixture
def in_bucket(few_cells, bucket_server, monkeypatch):
    """Settings of a small run whose folder is in the bucket."""
    monkeypatch.setenv("HAYSTACK_STORAGE", "gs://haystack-test/team")
    return bucket_server


def records(server):
    paths = sorted(key for _, key in server.objects.contents if key.startswith(f"{FOLDER}/record/"))
    return [json.loads(server.objects.contents["haystack-test", path]) for path in paths]


def check_whole(server, run):
    """Every step once and in order, every file that the record names with the bytes it says."""
    assert run.record.status == "done"
    assert [time.step.split()[0] for time in run.record.steps] == STORY
    assert [record["serial"] for record in records(server)] == list(range(1, run.record.serial + 1))
    assert json.loads(server.objects.contents["haystack-test", f"{FOLDER}/run.json"]) == records(server)[-1]
    files = [*run.record.files, *(file for item in run.record.rounds for file in item.files)]
    assert len(files) > 6
    for file in files:
        data = server.objects.contents["haystack-test", f"{FOLDER}/{file.path}"]
        assert hashlib.sha256(data).hexdigest() == file.sha256


def test_a_run_killed_while_it_saves_is_finished_by_another_process_with_an_empty_cache(
    in_bucket, tmp_path, monkeypatch
):
    """Killed with its job running and the record of that on its way to the bucket, where it never arrives."""
    process = subprocess.Popen([sys.executable, "-c", WORK, QUESTION, RUN_ID], start_new_session=True)

    def killed():
        os.killpg(process.pid, signal.SIGKILL)
        return True

    in_bucket.fail("record/0005.json", kind="reset", holds=killed)
    assert process.wait(timeout=600) == -signal.SIGKILL
    before = attach(RUN_ID).record
    assert [time.step.split()[0] for time in before.steps] == STORY[:4]
    monkeypatch.setenv("HAYSTACK_CACHE", str(tmp_path / "another"))
    run = resume(RUN_ID).work()
    check_whole(in_bucket, run)
    assert run.record.steps[: len(before.steps)] == before.steps


def test_the_command_works_in_a_bucket_that_limits_writes_to_one_object(in_bucket):
    in_bucket.objects.min_gap_s = 1.0
    started = time.monotonic()
    program = Program("run", QUESTION, "--run-id", RUN_ID)
    out, err = program.communicate(600)
    seconds = time.monotonic() - started
    assert program.returncode == 0, err
    assert json.loads(out)["status"] == "done"
    check_whole(in_bucket, attach(RUN_ID))
    kept = in_bucket.objects.contents
    assert b"<html" in kept["haystack-test", f"{FOLDER}/report.html"]
    notebook = json.loads(kept["haystack-test", f"{FOLDER}/run.ipynb"])
    assert {cell["metadata"]["papermill"]["status"] for cell in notebook["cells"]} == {"completed"}
    assert not [line for line in in_bucket.requests if "/storage/v1/b?" in line]  # buckets are never listed
    leases = [line for line in in_bucket.requests if "lease" in line]
    uploads = [line for line in in_bucket.requests if "run.ipynb" in line]
    # both are repeated while time passes, so that their number says how busy the machine is
    assert len(in_bucket.requests) - len(leases) - len(uploads) < 200  # 161 in all where nothing has to be tried again
    assert len(leases) < 20 + seconds / 10
