"""Jobs on Google Cloud Batch, through the real client and a local service: started once, followed, cancelled."""

import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from haystack_kernel.errors import ConflictError, InvalidInputError, JobFailedError, MissingExtraError
from haystack_kernel.jobs import BatchExecutor, expected_handle
from haystack_kernel.jobs.places import Places
from haystack_kernel.ports import Consent
from haystack_kernel.schema import JobSpec

pytestmark = pytest.mark.slow


def load_module(name):
    """A module of tests/servers."""
    path = Path(__file__).parents[2] / "servers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_server_of_jobs", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_submit_then_wait_runs_every_task_once_and_bills_the_one_machine(cloud, start, make_spec, finish, computed):
    executor, spec = start(), make_spec(3)
    job = executor.submit(spec)
    assert cloud.started == []
    status = finish(executor, job)
    assert (status.state, status.attempt) == ("succeeded", 1)
    assert cloud.started == [spec.job_id]
    assert computed() == ["task0", "task1", "task2"]
    (bill,) = status.bills
    # scheduled at 60 s of the service's counter, running at 120, ended 300 later with its own event at 480
    assert bill.seconds == 420
    assert bill.usd == pytest.approx((3.67 + 100 * 0.1 / 730) * 420 / 3600)
    assert executor.status(job).state == "succeeded"
    assert spec.job_id in status.console


def test_submit_when_repeated_by_other_processes_finds_the_one_job(cloud, start, make_spec, finish):
    spec = make_spec()
    jobs = [start().submit(spec), start().submit(spec)]
    executor = start()
    finish(executor, jobs[1])
    assert executor.submit(spec).location == jobs[0].location
    assert list(cloud.jobs) == cloud.started == [spec.job_id]


def test_submit_by_two_kernels_at_once_starts_one_job(cloud, start, make_spec, finish, computed):
    spec, barrier, jobs = make_spec(), threading.Barrier(2), []

    def work(executor):
        barrier.wait()
        jobs.append(executor.submit(spec))

    threads = [threading.Thread(target=work, args=(start(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in jobs:
        finish(start(), job)
    assert cloud.started == [spec.job_id]
    assert len(computed()) == 3


@pytest.mark.parametrize("remembers", [False, True])
def test_submit_when_the_answer_is_lost_attaches_to_the_job_that_was_made(cloud, start, make_spec, finish, remembers):
    cloud.remembers_requests = remembers  # of the same request within the hour the service gives its first answer again
    cloud.fail("create_job", is_lost=True)
    executor, spec = start(), make_spec()
    finish(executor, executor.submit(spec))
    assert cloud.calls.count("create_job") == 2
    assert cloud.started == [spec.job_id]


def test_submit_when_the_cloud_has_another_job_of_that_id_raises_and_starts_nothing(cloud, start, make_spec, tmp_path):
    spec = make_spec()
    start().submit(spec)
    (tmp_path / "store").rename(tmp_path / "elsewhere")  # a storage that knows nothing of it
    make_spec()
    other = spec.model_copy(update={"spec_hash": "f" * 64})
    with pytest.raises(ConflictError, match="another spec"):
        start().submit(other)
    assert len(cloud.jobs) == 1


def test_submit_when_the_run_folder_has_another_job_of_that_id_raises(start, make_spec):
    spec = make_spec()
    start().submit(spec)
    with pytest.raises(ConflictError, match="another spec"):
        start().submit(spec.model_copy(update={"spec_hash": "f" * 64}))


def test_submit_when_the_service_refuses_the_request_says_so_and_the_next_submit_starts_afresh(
    cloud, start, make_spec, finish, served
):
    cloud.fail("create_job", code=served.grpc.StatusCode.INVALID_ARGUMENT, text="image not found")
    executor, spec = start(), make_spec()
    with pytest.raises(InvalidInputError, match=r"refuses the job \(.*image not found.*nothing was started"):
        executor.submit(spec)
    job = executor.submit(spec)
    assert finish(executor, job).attempt == 2
    assert len(cloud.started) == 1


def test_submit_without_the_library_names_the_extra(start, make_spec, monkeypatch):
    executor, spec = start(), make_spec()
    monkeypatch.setitem(sys.modules, "google.cloud.batch_v1", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'haystack-kernel\[gcp\]'"):
        executor.submit(spec)


def test_submit_with_settings_that_cannot_work_asks_nobody_and_records_nothing(cloud, start, make_spec, tmp_path):
    with pytest.raises(InvalidInputError, match=r"set batch\.project"):
        start(project="").submit(make_spec())
    assert cloud.calls == []
    assert not list((tmp_path / "store").glob("runs/*/jobs/*"))


def test_what_a_vanished_job_cost_is_counted_in_full(cloud, start, make_spec, served, clock):
    cloud.plans = [served.Plan(is_idle=True)]
    executor, spec = start(), make_spec()
    job = executor.submit(spec)
    executor.tend(job)
    cloud.vanish(spec.job_id)
    while not (status := executor.tend(job)).is_terminal:
        clock.sleep(30)
    (bill,) = status.bills
    assert bill.seconds == spec.timeout_s
    assert bill.state.startswith("vanished")


def test_status_of_a_job_that_was_never_submitted_is_a_failure_and_asks_nobody(cloud, start, make_spec, clock):
    job = expected_handle(make_spec(), executor="batch", now=clock.now())
    assert start().status(job).state == "failed"
    assert cloud.calls == []


def test_status_never_acts(cloud, start, make_spec, served):
    cloud.plans = [served.Plan(end=50001)]
    executor, spec = start(), make_spec()
    job = executor.submit(spec)
    seen = [executor.status(job).state for _ in range(6)]
    assert seen[:3] == ["scheduled", "running", "queued"]
    assert set(seen[3:]) == {"queued"}
    assert "the next attempt starts when the run is worked on" in executor.status(job).detail
    assert cloud.calls.count("create_job") == 1


def test_status_shows_the_end_of_the_log_and_reads_it_no_more_often_than_the_quota_bears(
    cloud, start, make_spec, monkeypatch, clock
):
    monkeypatch.setenv("LIGHT_FAIL", "task1")
    executor = start()
    job = executor.submit(make_spec())
    for _ in range(5):
        status = executor.status(job)
    assert cloud.calls.count("list_log_entries") == 1
    clock.sleep(20)
    status = executor.status(job)
    assert "task task1 failed: no such prompt" in status.log_tail
    assert cloud.calls.count("list_log_entries") == 2


def test_status_when_the_log_cannot_be_read_says_why(cloud, start, make_spec, served):
    cloud.fail("list_log_entries", code=served.grpc.StatusCode.PERMISSION_DENIED, text="no logging.viewer")
    executor = start()
    assert "cannot be read now: 403 no logging.viewer" in executor.status(executor.submit(make_spec())).log_tail


def test_cancel_stops_the_job_waits_until_it_has_stopped_and_deletes_nothing(cloud, start, make_spec, served):
    cloud.plans = [served.Plan(is_idle=True)]
    executor, spec = start(), make_spec()
    job = executor.submit(spec)
    while executor.tend(job).state != "running":
        pass
    status = executor.cancel(job)
    assert status.state == "cancelled"
    assert cloud.jobs[spec.job_id].job.status.state == served.State.CANCELLED
    assert cloud.calls.count("cancel_job") == 1
    assert executor.cancel(job).state == start().status(job).state == "cancelled"
    assert cloud.calls.count("cancel_job") == 1


def test_cancel_before_the_cloud_knew_of_the_job_keeps_it_from_ever_starting(cloud, start, make_spec, served, clock):
    cloud.fail("create_job", times=6)
    executor, spec = start(), make_spec()
    with pytest.raises(Exception, match="out of reach"):
        executor.submit(spec)
    job = expected_handle(spec, executor="batch", now=clock.now())
    assert executor.cancel(job).state == "cancelled"
    assert start().tend(job).state == "cancelled"
    assert cloud.jobs == {}


def test_cancel_between_two_attempts_keeps_the_next_from_starting(cloud, start, make_spec, served):
    cloud.plans = [served.Plan(end=50001)]
    executor = start()
    job = executor.submit(make_spec())
    while executor.status(job).state != "queued" or not cloud.started:
        pass
    assert executor.cancel(job).state == "cancelled"
    assert start().tend(job).state == "cancelled"
    assert len(cloud.jobs) == 1


def test_cancel_of_a_job_that_succeeded_in_between_is_a_success(cloud, start, make_spec, finish):
    executor = start()
    job = executor.submit(make_spec())
    finish(executor, job)
    assert executor.cancel(job).state == "succeeded"
    assert "cancel_job" not in cloud.calls


def test_an_orchestrator_runs_the_command_of_its_image_on_demand_even_where_predictions_take_spot(cloud, start, finish):
    executor = start(spot=True)
    spec = JobSpec(
        owner={"id": "run-20260102t030405-abcdef"},
        kind="orchestrator",
        job_id="haystack-run-20260102t030405-abcdef-00000000",
        command=("run", "--help"),
        spec_hash="0" * 64,
        n_tasks=1,
        timeout_s=3600,
    )
    job = executor.submit(spec)
    assert finish(executor, job).bills[0].machine == "cpu (e2-standard-4)"
    (held,) = cloud.jobs.values()
    assert held.job.allocation_policy.instances[0].policy.provisioning_model.name == "STANDARD"
    assert "--max-cost" in executor.status(job).log_tail


def test_an_array_shares_its_tasks_over_machines_and_repeats_only_the_failed_shards(
    cloud, start, make_spec, finish, computed, served
):
    # 8 tasks over 4 machines, index::4; machines 1 and 2 are lost after one of their two tasks
    cloud.plans = [served.Plan(end=50004, only=(1, 2), variables={"LIGHT_STOP_AFTER": "1"})]
    executor, spec = start(tasks_per_shard=2), make_spec(8)
    status = finish(executor, executor.submit(spec))
    assert (status.state, status.attempt) == ("succeeded", 2)
    assert sorted(computed()) == [f"task{number}" for number in range(8)]
    first, second = (held.job.task_groups[0] for held in cloud.jobs.values())
    assert (first.task_count, first.parallelism) == (4, 4)
    assert (second.task_count, second.parallelism) == (1, 1)  # two tasks are missing: one machine
    assert [bill.n_machines for bill in status.bills] == [4, 1]


def test_an_array_that_lacks_no_output_but_has_a_bad_one_is_mended_by_one_machine(
    cloud, start, make_spec, finish, computed, served, tmp_path
):
    cloud.plans = [served.Plan(end=1)]
    executor, spec = start(tasks_per_shard=1), make_spec(3)
    job = executor.submit(spec)
    while executor.status(job).state != "failed":
        pass
    (bad,) = tmp_path.glob("store/runs/*/rounds/1/outputs/task1.h5ad")
    bad.write_bytes(b"cut")
    assert executor.tend(job).state == "failed"
    assert finish(executor, executor.submit(spec)).state == "succeeded"
    assert computed()[3:] == ["task1"]
    assert [held.job.task_groups[0].task_count for held in cloud.jobs.values()] == [3, 1]


def test_an_array_whose_program_fails_is_not_repeated_even_where_another_machine_was_lost(
    cloud, start, make_spec, finish, served, monkeypatch
):
    monkeypatch.setenv("LIGHT_FAIL", "task0")
    cloud.plans = [served.Plan(end=50001, only=(1,))]
    executor = start(tasks_per_shard=1)
    with pytest.raises(JobFailedError, match="exit code 1: see the end of its log") as caught:
        finish(executor, executor.submit(make_spec(2)))
    assert caught.value.facts["exit_code"] == 1
    assert "task0" in caught.value.facts["log_tail"]
    assert len(cloud.started) == 1


def test_in_a_bucket_two_kernels_start_one_job_and_a_lost_machine_is_followed_by_one_more(
    cloud, batch_settings, make_spec, finish, clock, served, monkeypatch
):
    with load_module("storage").storage_server("haystack-jobs") as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        settings = batch_settings().model_copy(update={"storage": "gs://haystack-jobs/team"})
        cloud.plans = [served.Plan(end=50001, variables={"LIGHT_STOP_AFTER": "1"})]
        both, spec = (
            [BatchExecutor(settings, clock=clock, consent=Consent(approve=True)) for _ in range(2)],
            make_spec(),
        )
        with ThreadPoolExecutor(2) as pool:
            jobs = list(pool.map(lambda executor: executor.submit(spec), both))
        assert finish(both[0], jobs[0]).attempt == 2
        assert both[1].status(jobs[1]).state == "succeeded"
        assert len(cloud.started) == len(cloud.jobs) == 2
        folder = f"gs://haystack-jobs/team/runs/{spec.owner.id}/jobs/{spec.job_id}"
        assert sorted(Places(5, clock=clock).names(folder)) == [
            f"attempt-000{number}{part}.json" for number in (1, 2) for part in (".end", ".job", "")
        ]


def test_orphans_are_the_live_jobs_that_no_run_folder_counts_on(cloud, start, make_spec, tmp_path, served):
    cloud.plans = [served.Plan(is_idle=True)]
    executor, spec = start(), make_spec()
    executor.submit(spec)
    assert executor.orphans() == []
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    (orphan,) = executor.orphans()
    assert orphan.name == f"projects/lab/locations/us-central1/jobs/{spec.job_id}"
    assert orphan.is_of_this_storage


def test_a_job_of_another_storage_is_never_an_orphan_to_be_cancelled(cloud, start, batch_settings, make_spec, clock):
    spec = make_spec()
    start().submit(spec)
    elsewhere = batch_settings().model_copy(update={"storage": "gs://somebody/else"})
    (theirs,) = BatchExecutor(elsewhere, clock=clock).orphans()
    assert not theirs.is_of_this_storage
    assert "another storage" in theirs.reason
