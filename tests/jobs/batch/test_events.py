"""Reading a job: states, order of events, exit codes, why it waits, what was paid for."""

from datetime import UTC, datetime, timedelta

import pytest
from google.cloud import batch_v1

from haystack_kernel.jobs.batch.events import exit_code_of, in_order, paid_seconds, read_job

NOW = datetime(2026, 1, 2, tzinfo=UTC)
State, TaskState = batch_v1.JobStatus.State, batch_v1.TaskStatus.State


def event(text, at_s, *, code=None):
    made = batch_v1.StatusEvent(description=text, event_time=NOW + timedelta(seconds=at_s))
    if code is not None:
        made.task_execution = batch_v1.TaskExecution(exit_code=code)
    return made


def moved(before, after, at_s):
    return event(f"Job state is set from {before} to {after} for job projects/p/locations/l/jobs/j.", at_s)


def job_of(state, *events):
    return batch_v1.Job(status=batch_v1.JobStatus(state=state, status_events=list(events)))


def task_of(state, *events):
    return batch_v1.Task(status=batch_v1.TaskStatus(state=state, status_events=list(events)))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.QUEUED, "queued"),
        (State.SCHEDULED, "scheduled"),
        (State.RUNNING, "running"),
        (State.SUCCEEDED, "succeeded"),
        (State.FAILED, "failed"),
        (State.CANCELLED, "cancelled"),
        (State.CANCELLATION_IN_PROGRESS, "unknown"),
        (State.DELETION_IN_PROGRESS, "unknown"),
        (State.STATE_UNSPECIFIED, "unknown"),
    ],
)
def test_each_of_the_states_is_read(state, expected):
    assert read_job(job_of(state)).state == expected


def test_events_are_sorted_by_time_whatever_order_they_come_in():
    events = [event("c", 30), event("a", 10), event("b", 20)]
    assert [item.description for item in in_order(events)] == ["a", "b", "c"]


def test_paid_seconds_count_from_the_machines_start_to_the_end():
    events = in_order([moved("RUNNING", "SUCCEEDED", 900), moved("QUEUED", "SCHEDULED", 100)])
    assert paid_seconds(events) == 0  # it never ran: no machine
    job = job_of(State.SUCCEEDED)
    job.status.run_duration = timedelta(seconds=70)
    assert read_job(job).seconds == 70  # no event was kept
    events = in_order([*events, moved("SCHEDULED", "RUNNING", 250)])
    assert paid_seconds(events) == 800


def test_the_exit_code_is_that_of_the_newest_event_that_has_an_execution():
    failed = task_of(TaskState.FAILED, event("again", 20, code=7), event("first", 10, code=50001), event("later", 30))
    assert exit_code_of(failed) == 7


def test_a_task_that_succeeded_in_the_end_has_no_exit_code_though_an_old_event_has_one():
    assert exit_code_of(task_of(TaskState.SUCCEEDED, event("lost", 10, code=50001), event("done", 20))) is None


def test_a_failed_task_whose_events_have_no_execution_has_no_exit_code_rather_than_0():
    assert exit_code_of(task_of(TaskState.FAILED, event("x", 1))) is None


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (50000, "unknown"),
        (50001, "preempted"),
        (50002, "machine"),
        (50003, "machine"),
        (50004, "machine"),
        (50005, "too_long"),
        (50006, "machine"),
        (1, "program"),
        (137, "program"),
    ],
)
def test_the_class_of_a_failure_follows_from_its_exit_code(code, cause):
    reading = read_job(job_of(State.FAILED), [task_of(TaskState.FAILED, event("x", 1, code=code))])
    assert (reading.cause, reading.exit_code) == (cause, code)


def test_of_several_failed_tasks_the_one_that_must_not_be_repeated_decides():
    tasks = [task_of(TaskState.FAILED, event("x", 1, code=code)) for code in (50001, 50005, 50002)]
    assert read_job(job_of(State.FAILED), tasks).cause == "too_long"
    tasks.append(task_of(TaskState.FAILED, event("x", 1, code=2)))
    assert read_job(job_of(State.FAILED), tasks).cause == "program"


def test_without_tasks_the_exit_code_is_read_from_the_words_of_the_job():
    text = "Job state is set from RUNNING to FAILED for job j. Job failed due to task failures. For example, task with "
    text += "index 0 failed, failed task event description is Task state is updated on z with exit code 50001."
    assert read_job(job_of(State.FAILED, event(text, 1))).cause == "preempted"


def test_a_job_that_failed_in_the_queue_tells_why_it_waited():
    text = "CODE_GCE_QUOTA_EXCEEDED: Quota 'NVIDIA_A100_GPUS' exceeded. Limit: 0.0 in region us-east1."
    reading = read_job(job_of(State.FAILED, event(text, 1), moved("QUEUED", "FAILED", 2)))
    assert reading.cause == "quota_zero"
    assert reading.seconds == 0


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("CODE_GCE_QUOTA_EXCEEDED: Quota 'NVIDIA_A100_GPUS' exceeded. Limit: 0.0 in region r", "quota_zero"),
        ("CODE_GCE_QUOTA_EXCEEDED: Quota 'CPUS' exceeded. Limit: 24.0 in region r", "quota"),
        ("CODE_GCE_QUOTA_EXCEEDED: Quota 'DISKS' exceeded. Limit: 0.5 in region r", "quota"),
        ("code - CODE_GCE_ZONE_RESOURCE_POOL_EXHAUSTED, description - error", "stockout"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "stockout"),
        ("there is non-retryable information: CODE_GCE_INVALID_FIELD_VALUE", "invalid"),
        ("Job is scheduled, no error", ""),
    ],
)
def test_why_a_job_waits_is_read_from_its_events(text, cause):
    assert read_job(job_of(State.SCHEDULED, event(text, 1))).cause == cause


def test_the_newest_reason_counts():
    stockout, zero = "RESOURCE_POOL_EXHAUSTED", "Quota 'X' exceeded. Limit: 0.0"
    assert read_job(job_of(State.QUEUED, event(stockout, 20), event(zero, 10))).cause == "stockout"


def test_a_job_that_runs_or_is_done_waits_for_nothing_though_it_once_did():
    waited = event("CODE_GCE_ZONE_RESOURCE_POOL_EXHAUSTED error", 1)
    assert read_job(job_of(State.RUNNING, waited)).cause == ""
    assert read_job(job_of(State.SUCCEEDED, waited)).cause == ""
