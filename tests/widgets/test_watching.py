"""A run watched by others: phases, estimates, queue and machine time, money, waiting, cancelling, going on."""

import _thread
from datetime import timedelta

import pytest

from haystack_kernel.manage.watching import Usual, job_times, phases_of, usual_times
from haystack_kernel.schema import Bill, Choice, JobHandle, JobOwner, JobSpec, JobStatus, Round, RunConfig, StepTime
from haystack_kernel.widgets.watching import Monitor

DONE = ("understand", "retrieve", "choose 1", "assemble 1", "submit 1")


@pytest.fixture
def waiting(record, clock):
    """A record whose first job is waited for, 30 s after it was submitted."""
    spec = JobSpec(
        owner=JobOwner(id=record.run_id), job_id="job-1", command=("x",), spec_hash="h", n_tasks=4, timeout_s=60
    )
    job = JobHandle(job_id="job-1", executor="batch", spec_hash="h", submitted_at=clock.now())
    chosen = Round(number=1, choice=Choice(candidate_keys=("k",), reason="r"), candidates=(), spec=spec, job=job)
    steps = tuple(StepTime(step=name, finished_at=clock.now(), seconds=2.0) for name in DONE)
    config = RunConfig(executor="batch")
    clock.sleep(30)
    return record.model_copy(update={"rounds": (chosen,), "steps": steps, "config": config})


def bill(attempt, *, usd=0.25, seconds=10.0, state="preempted"):
    return Bill(
        job_id=f"job-1-{attempt}", attempt=attempt, machine="l4 (g2-standard-8)", seconds=seconds, usd=usd, state=state
    )


def test_phases_say_what_is_done_what_is_under_way_and_how_far(waiting, clock):
    state = {"next_step": "collect", "status": "running"}
    usual = {"search": 2.0, "prediction": 62.0, "score": 5.0, "report": 1.0}
    found = phases_of(waiting, state=state, now=clock.now(), usual=usual, n_done=1)
    assert [(item.title, item.state) for item in found] == [
        ("question", "done"),
        ("search", "done"),
        ("round 1: cells", "done"),
        ("round 1: prediction", "now"),
        ("round 1: score", "waiting"),
        ("report", "waiting"),
    ]
    cells, now = found[2], found[3]
    assert (cells.seconds, now.seconds, now.fraction, now.left_s) == (4.0, 32.0, 0.25, 30.0)
    assert sum(item.left_s for item in found) == 36.0


def test_a_stopped_run_has_a_stopped_phase_and_a_done_one_has_none(waiting, clock):
    stopped = phases_of(waiting, state={"next_step": "collect", "status": "failed"}, now=clock.now())
    assert [item.state for item in stopped].count("stopped") == 1
    assert stopped[3].seconds == 2.0  # the clock does not go on for it
    done = phases_of(waiting, state={"next_step": None, "status": "done"}, now=clock.now())
    assert {item.state for item in done} == {"done"}
    assert {item.fraction for item in done} == {1.0}
    following = phases_of(waiting, state={"next_step": "choose", "status": "running"}, now=clock.now())
    assert [item.title for item in following if item.state == "now"] == ["round 2: cells"]


def test_a_phase_that_takes_longer_than_usual_promises_nothing(waiting, clock):
    state = {"next_step": "collect", "status": "running"}
    found = phases_of(waiting, state=state, now=clock.now(), usual={"prediction": 10.0})
    assert found[3].left_s is None
    bare = phases_of(waiting, state={"next_step": "retrieve", "status": "running"}, now=clock.now())
    assert bare[1].fraction is None  # nothing tells, so the bar says so


def test_queue_time_is_what_no_machine_was_paid_for(waiting, clock):
    job = JobStatus(state="running", bills=(bill(1),), accrued=bill(2, seconds=5.0, state="running"))
    assert job_times(waiting, job, now=clock.now()) == (15.0, 15.0)
    assert job_times(waiting, None, now=clock.now()) == (30.0, 0.0)
    assert job_times(waiting.model_copy(update={"rounds": ()}), None, now=clock.now()) == (None, None)


def test_usual_times_are_medians_of_finished_runs_like_it(finished):
    ports, record = finished
    found = usual_times(record.config, ports)
    assert found.n_runs == 1
    assert found.queue_s == (0.0, 0.0)
    taken = {time.step: time.seconds for time in record.steps}
    assert found.seconds["score"] == pytest.approx(taken["ground 1"] + taken["decide 1"])
    assert found.total_s(n_rounds=1) == pytest.approx(sum(taken.values()))
    assert found.total_s(n_rounds=2) > found.total_s(n_rounds=1)
    other = record.config.model_copy(update={"engine": "shift"})
    assert usual_times(other, ports) == Usual()
    assert Usual().total_s(n_rounds=1) is None
    assert found.words(max_rounds=2).startswith("By 1 earlier run it takes ")
    assert "is not known" in Usual().words(max_rounds=2)


def test_a_finished_run_shows_its_answer_and_nothing_to_press_but_in_the_fork_form(finished):
    ports, record = finished
    seen = Monitor(record.run_id, open_ports=lambda consent: ports)
    assert (seen.seen.status, seen.is_moving) == ("done", False)
    page = seen.picture(live=True)
    assert "data-do" not in page
    assert record.interpretation.headline[:20] in page
    assert record.score_words.startswith(f"{record.score:.1f} of at most ")  # as in the report
    assert record.score_words in page
    assert "report.html" in page
    assert page.count('<li class="done"') == len(seen.seen.phases)
    assert seen.wait().score == record.score  # returns at once


@pytest.fixture
def started(looked, do):
    """A run that a job works on."""
    return do(looked, "start").run


@pytest.fixture
def monitor(started, open_ports):
    made = Monitor(started.run_id, open_ports=open_ports)
    yield made
    made.close()


def test_a_running_run_is_watched_from_its_folder_alone(monitor, started):
    assert monitor.is_moving
    assert monitor.seen.status == "running"
    page = monitor.picture(live=True)
    assert 'data-do="cancel"' in page
    assert "no earlier run tells" in page
    still = str(monitor.still())
    assert f"haystack.attach(&quot;{started.run_id}&quot;)" in still
    assert "data-do" not in still


def test_interrupting_the_kernel_ends_the_waiting_and_not_the_run(monitor):
    def interrupt():
        if "kernel waits" in monitor.said:
            _thread.interrupt_main()

    monitor.listen(interrupt)
    run = monitor.wait(timeout_s=120)
    assert "Stopped waiting" in monitor.said
    assert run.run_id in monitor.picture(live=True)
    assert run.refresh().record.status == "running"


def test_cancelling_ends_the_run_and_says_what_was_billed(monitor, do):
    do(monitor, "cancel")
    assert monitor.run.record.status == "cancelled"
    assert monitor.seen.is_over
    assert "Cancelled. Nothing was billed" in monitor.said
    assert 'data-do="resume"' in monitor.picture(live=True)


def test_a_cancelled_run_goes_on_by_one_press(monitor, do, jobs):
    do(monitor, "cancel")
    jobs.status_now = JobStatus(state="running")
    do(monitor, "resume")
    assert monitor.problem == ""
    assert len(jobs.submitted) == 2
    assert monitor.run.refresh().record.status == "running"


def test_a_lost_job_is_told_with_its_cause(monitor, jobs, do):
    jobs.status_now = JobStatus(state="failed", detail="the process vanished <b>", log_tail="<script>alert(1)</script>")
    monitor.refresh()
    page = monitor.picture(live=True)
    assert monitor.seen.status == "failed"
    assert "the process vanished &lt;b&gt;" in page
    assert "<script" not in page
    assert "&lt;script" in page
    assert not monitor.is_moving


def test_money_so_far_is_shown_against_the_cap(ask, do, open_ports, jobs, clock):
    run = do(do(ask(executor="batch"), "look"), "start", approve=["yes"], max_cost="2").run
    paid = bill(1, usd=0.25), bill(2, usd=0.5, state="running")
    orchestrator = {"kind": "orchestrator"}
    jobs.status_now = JobStatus(
        state="running",
        detail="spot <b>",
        bills=(paid[0].model_copy(update=orchestrator),),
        accrued=paid[1].model_copy(update=orchestrator),
    )
    monitor = Monitor(run.run_id, open_ports=open_ports, max_cost=2.0)
    page = monitor.picture(live=False)
    assert monitor.seen.spent_usd == pytest.approx(0.75)
    assert "0.75 USD" in page
    assert "of 2.00 USD at most" in page
    assert "preempted" in page
    assert "orchestrator 1" in page
    jobs.status_now = jobs.status_now.model_copy(update={"accrued": None, "bills": (*jobs.status_now.bills,)})
    do(monitor, "cancel")
    assert "Billed: 0.25 USD for 1 attempt" in monitor.said


def test_the_follower_ends_with_the_run(monitor, started):
    monitor.follow()
    started.cancel()
    monitor.wait(timeout_s=120)
    assert monitor.seen.status == "cancelled"


def test_a_run_of_long_ago_and_a_clock_that_went_back_show_no_negative_times(waiting, clock):
    state = {"next_step": "collect", "status": "running"}
    before = clock.now() - timedelta(hours=1)
    assert min(item.seconds for item in phases_of(waiting, state=state, now=before)) >= 0
    assert job_times(waiting, None, now=before) == (0.0, 0.0)
