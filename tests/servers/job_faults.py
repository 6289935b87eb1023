"""What can happen to a job in the cloud, one case each: the injection, what must come of it, and what it may cost.

In: a world, that is a local service, a clock that does not wait, a run folder and a job of four tasks. Out: how the
job ended. The tests assert the cases; tests/benchmarks/job_faults.py prints them as a table.
"""

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import HaystackError
from haystack_kernel.jobs import BatchExecutor, build_job_spec, expected_handle, wait
from haystack_kernel.ports import Consent
from inference.manifest import Manifest, Task, dump_manifest

RUN_ID = "run-20260102t030405-abcdef"
ZONES = ["us-central1-a", "us-central1-b"]
N_TASKS = 4


class Killed(BaseException):
    """The process ends here, whatever it was about to do."""


class Clock:
    """Sleeping moves it; wall time can jump, and a process can be killed while it sleeps."""

    def __init__(self):
        self.seconds = 0.0
        self.jump = timedelta()
        self.on_sleep = {}  # number of the sleep -> what happens then
        self.n_sleeps = 0

    def now(self):
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=self.seconds) + self.jump

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.n_sleeps += 1
        self.seconds += seconds
        self.on_sleep.pop(self.n_sleeps, lambda: None)()


class World:
    """A service, a clock, a run folder with a job's manifest."""

    def __init__(self, folder, server, served):
        self.folder = Path(folder)
        self.server = server
        self.served = served
        self.clock = Clock()
        self.batch = {}
        self.max_usd = None
        self.approve = True

    def executor(self):
        """As a process that starts now has it, with consent to spending unless that is withdrawn."""
        given = {
            "project": "lab",
            "region": "us-central1",
            "inference_image": "registry/haystack-inference:1",
            "endpoint": self.server.address,
            "insecure": True,
            **self.batch,
        }
        storage = str(self.folder / "store")
        settings = load_settings(layer="test", storage=storage, knowledge=str(self.folder), batch=given)
        return BatchExecutor(settings, clock=self.clock, consent=Consent(approve=self.approve, max_usd=self.max_usd))

    def spec(self):
        """The job, its manifest written."""
        folder = self.folder / "store" / "runs" / RUN_ID / "rounds" / "1"
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"task{number}" for number in range(N_TASKS)]
        tasks = tuple(
            Task(id=name, prompt="p", query="q", output=f"{folder}/outputs/{name}.h5ad", seed=0, engine="shift")
            for name in names
        )
        manifest = Manifest(tasks=tasks)
        (folder / "manifest.json").write_text(dump_manifest(manifest))
        uri = f"{folder}/manifest.json"
        spec = build_job_spec(manifest, run_id=RUN_ID, round_number=1, manifest_uri=uri, timeout_s=1800)
        return spec.model_copy(update={"needs_gpu": True})

    def finish(self, executor=None, job=None):
        """Submit unless there is a job, and wait; returns state and detail, errors as their class and text."""
        executor = executor or self.executor()
        try:
            job = job or executor.submit(self.spec())
            limits = {"timeout_s": 2400, "poll_s": 10, "queue_timeout_s": 7200}
            status = wait(job, executor=executor, clock=self.clock, **limits)
        except HaystackError as error:
            return f"{type(error).__name__}: {error}"
        return f"{status.state} {status.detail}".strip()

    def plan(self, *plans):
        """What becomes of the jobs, in the order they are made."""
        self.server.plans = [self.served.Plan(**plan) for plan in plans]

    @property
    def computed(self):
        """Ids of the tasks that were computed, each as often as it was paid for."""
        path = self.folder / "computed.txt"
        return path.read_text().split() if path.exists() else []


@contextmanager
def world(folder, served):
    """A world in a folder; LIGHT_LOG must name ``computed.txt`` there."""
    with served.batch_server() as server:
        yield World(folder, server, served)


@dataclass(frozen=True)
class Case:
    """One fault."""

    name: str
    run: object  # World -> how it ended
    ends: str  # what that must match
    n_jobs: int  # machines started, which must be those needed
    n_tasks: int = N_TASKS  # tasks computed in all
    n_created: int | None = None  # jobs made, of which some never got a machine; None: as n_jobs


LOST = {"end": 50001, "variables": {"LIGHT_STOP_AFTER": "1"}}  # a Spot machine taken back after one task
RESUMED = {"end": 50003, "variables": {"LIGHT_STOP_AFTER": "2"}}


def _answer_lost(here):
    here.server.fail("create_job", is_lost=True)
    return here.finish()


def _outage(here):
    """Answers come back as errors for half an hour while the job runs."""
    executor = here.executor()
    job = executor.submit(here.spec())
    here.server.fail("get_job", times=40)
    return here.finish(executor, job)


def _preempted_once(here):
    here.batch = {"spot": True}
    here.plan(LOST)
    return here.finish()


def _preempted_thrice(here):
    here.batch = {"spot": True, "spot_attempts": 3}
    here.plan(LOST, LOST, LOST)
    ended = here.finish()
    spots = [held.job.allocation_policy.instances[0].policy.provisioning_model for held in here.server.jobs.values()]
    assert [spot.name for spot in spots] == ["SPOT", "SPOT", "SPOT", "STANDARD"]
    return ended


def _preempted_for_ever(here):
    here.batch = {"spot": True}
    here.plan(*[{"end": 50001, "variables": {"LIGHT_STOP_AFTER": "0"}}] * 20)
    return here.finish()


def _cap(here):
    """An attempt costs 2.58 USD at the most and the first, on Spot, 0.17: a cap of 2.70 holds no second one.

    With a larger cap the same job goes on.
    """
    here.batch = {"spot": True}
    here.plan({"end": 50001, "variables": {"LIGHT_STOP_AFTER": "0"}})
    here.max_usd = 2.70
    executor = here.executor()
    job = executor.submit(here.spec())
    first = here.finish(executor, job)
    assert len(here.server.jobs) == 1
    here.max_usd = 2.80
    assert here.finish(here.executor(), job).startswith("succeeded")
    return first


def _restarted(here):
    here.plan(RESUMED)
    return here.finish()


def _broken_off_when_all_was_done(here):
    here.plan({"end": 50001})
    return here.finish()


def _quota_zero(here):
    here.plan({"waits": here.served.QUOTA_ZERO})
    return here.finish()


def _quota_used_up(here):
    here.plan({"waits": here.served.QUOTA})
    return here.finish()


def _stockout(here):
    here.batch = {"zones": ZONES}
    here.plan({"waits": here.served.STOCKOUT})
    ended = here.finish()
    places = [list(held.job.allocation_policy.location.allowed_locations) for held in here.server.jobs.values()]
    assert places == [["zones/us-central1-a"], ["zones/us-central1-b"]]
    return ended


def _stockout_everywhere(here):
    """There is no other place on the ladder: it keeps its turn in the queue."""
    here.plan({"waits": here.served.STOCKOUT})
    return here.finish()


def _stockout_on_spot(here):
    """The machines that Spot lacks are there on demand."""
    here.batch = {"spot": True, "spot_attempts": 1}
    here.plan({"waits": here.served.STOCKOUT})
    return here.finish()


def _invalid_field(here):
    here.plan({"waits": here.served.INVALID})
    return here.finish()


def _events_late(here):
    here.plan({**LOST, "events_after": 2, "is_terse": True})
    return here.finish()


def _events_absent(here):
    here.plan({"end": 1, "variables": {"LIGHT_STOP_AFTER": "3"}, "events_after": -1, "is_terse": True})
    return here.finish()


def _failed_without_the_word_error(here):
    here.plan({"end": 3, "variables": {"LIGHT_STOP_AFTER": "3"}, "is_terse": True})
    return here.finish()


def _console_cancel(here):
    here.plan({"is_idle": True})
    executor = here.executor()
    job = executor.submit(here.spec())
    while executor.tend(job).state != "running":
        pass
    here.server.cancel_in_console(job.job_id)
    return here.finish(executor, job)


def _vanished(here):
    here.plan({"is_idle": True})
    executor = here.executor()
    job = executor.submit(here.spec())
    while executor.tend(job).state != "running":
        pass
    here.server.vanish(job.job_id)
    first = here.finish(executor, job)
    assert here.finish().startswith("succeeded")  # the run is resumed: a new job, under a new id
    return first


def _odd_states(here):
    here.plan({"states": (0, 99, 6, 7)})  # unspecified, unknown to this version, being deleted, being cancelled
    return here.finish()


def _too_long(here):
    here.plan({"end": 50005, "variables": {"LIGHT_STOP_AFTER": "2"}})
    first = here.finish()
    assert here.finish().startswith("succeeded")
    return first


def _killed_before_the_call(here):
    """The intent is on record, the cloud was never asked."""
    executor = here.executor()
    here.server.fail("create_job", times=6)
    with suppress(HaystackError):
        executor.submit(here.spec())
    assert here.server.jobs == {}
    return here.finish()


def _killed_before_the_call_and_only_tended(here):
    """The same, and the run's record says that the job was submitted."""
    executor = here.executor()
    here.server.fail("create_job", times=6)
    spec = here.spec()
    with suppress(HaystackError):
        executor.submit(spec)
    job = expected_handle(spec, executor="batch", now=here.clock.now())
    return here.finish(here.executor(), job)


def _killed_while_waiting(here):
    here.clock.on_sleep = {2: _kill}
    with suppress(Killed):
        here.finish()
    return here.finish()


def _killed_between_attempts(here):
    """The attempt is lost while nobody looks."""
    here.plan(LOST)
    executor = here.executor()
    job = executor.submit(here.spec())
    for _ in range(4):
        executor.status(job)
    assert here.executor().status(job).state == "queued"
    return here.finish(here.executor(), job)


def _killed_during_download(here):
    assert here.finish().startswith("succeeded")
    return here.finish()


def _half_output(here):
    here.plan({"variables": {"LIGHT_HALF": "1"}})
    first = here.finish()
    assert first.startswith("JobFailedError")
    assert "exit code 137" in first
    return here.finish()


def _credentials_expired(here):
    executor = here.executor()
    job = executor.submit(here.spec())
    here.server.fail("get_job", code=grpc.StatusCode.UNAUTHENTICATED, text="token expired")
    first = here.finish(executor, job)
    assert here.finish(here.executor(), job).startswith("succeeded")
    return first


def _credentials_expired_behind_the_plugin(here):
    text = "Getting metadata from plugin failed with error: Reauthentication is needed"
    executor = here.executor()
    job = executor.submit(here.spec())
    here.server.fail("get_job", text=text)
    first = here.finish(executor, job)
    assert here.finish(here.executor(), job).startswith("succeeded")
    return first


def _clock_jump(here):
    def jump():
        here.clock.jump += timedelta(days=30)

    here.clock.on_sleep = {1: jump}
    return here.finish()


def _stuck_queue(here):
    here.plan({"waits": "Job is waiting"})
    ended = here.finish()
    assert here.clock.seconds < 7200 + 200
    return ended


def _stuck_run(here):
    here.plan({"is_idle": True})
    return here.finish()


def _two_orchestrators(here):
    """Both tend the job in turns, through a preemption."""
    here.batch = {"spot": True}
    here.plan(LOST)
    both = [here.executor(), here.executor()]
    jobs = [executor.submit(here.spec()) for executor in both]
    for _ in range(12):
        states = [executor.tend(job).state for executor, job in zip(both, jobs, strict=True)]
    return " and ".join(states)


def _provisioning(here):
    jobs = [held.job for held in here.server.jobs.values()]
    return [job.allocation_policy.instances[0].policy.provisioning_model.name for job in jobs]


def _quota_refused(here):
    """The service goes on refusing to create the job."""
    text = "Quota exceeded for quota metric 'GPUs' and limit 'GPUs per region' of project 'lab'"
    here.server.fail("create_job", code=grpc.StatusCode.RESOURCE_EXHAUSTED, times=6, text=text)
    first = here.finish()
    assert here.server.jobs == {}
    assert here.finish().startswith("succeeded")
    return first


def _on_demand_taken_away(here):
    here.plan(LOST)
    executor = here.executor()
    job = executor.submit(here.spec())
    while (status := executor.tend(job)).attempt == 1:
        pass
    assert "Spot" not in status.detail
    assert here.finish(executor, job).startswith("succeeded")
    return status.detail


def _drivers_fail(here):
    says = "installing drivers: installing GPU drivers: exit status 255"
    here.plan({"end": 50002, "is_dead": True, "says": says})
    executor = here.executor()
    job = executor.submit(here.spec())
    while (status := executor.tend(job)).attempt == 1:
        pass
    assert here.finish(executor, job).startswith("succeeded")
    return status.detail


def _drivers_hang(here):
    """The machine is paid for all the while, though the program never ran."""
    here.plan({"boots_for_ever": True, "says": "installing GPU drivers"})
    executor = here.executor()
    job = executor.submit(here.spec())
    while (status := executor.tend(job)).attempt == 1:
        here.clock.sleep(60)
    assert 1800 <= here.clock.seconds < 2000
    assert status.bills[0].seconds > 0
    assert here.finish(executor, job).startswith("succeeded")
    return status.detail


def _boot_hangs(here):
    here.plan({"boots_for_ever": True})
    return here.finish()


def _disk_full(here):
    here.plan({"end": 1, "is_dead": True, "says": "failed to register layer: write /x: no space left on device"})
    return here.finish()


def _flex_start(here):
    """Between Spot and on demand; each is taken back."""
    here.batch = {"spot": True, "spot_attempts": 1, "flex_start": True}
    here.plan(LOST, LOST)
    ended = here.finish()
    assert _provisioning(here) == ["SPOT", "FLEX_START", "STANDARD"]
    return ended


def _no_flex_start(here):
    """No event says that there is none: it is waited for as long as the setting says."""
    here.batch = {"flex_start": True}
    here.plan({"waits": "Job is waiting"})
    ended = here.finish()
    assert _provisioning(here) == ["FLEX_START", "STANDARD"]
    assert 1800 <= here.clock.seconds < 2200
    return ended


def _consent_withdrawn(here):
    """Who follows the job after its machine was lost has given no consent; nothing is lost."""
    here.plan(LOST)
    job = here.executor().submit(here.spec())
    here.approve = False
    first = here.finish(here.executor(), job)
    assert len(here.server.jobs) == 1
    here.approve = True
    assert here.finish(here.executor(), job).startswith("succeeded")
    return first


def _orphan(here):
    """The run folder is gone while the job runs: the sweep names the job and stops it."""
    here.plan({"is_idle": True})
    executor = here.executor()
    job = executor.submit(here.spec())
    while executor.tend(job).state != "running":
        pass
    (here.folder / "store").rename(here.folder / "elsewhere")
    (orphan,) = here.executor().orphans()
    here.executor().cancel_orphan(orphan)
    assert here.executor().orphans() == []
    return f"{orphan.reason}: {orphan.state}"


def _kill():
    raise Killed


CASES = (
    Case("create_job's answer lost", _answer_lost, "succeeded", 1),
    Case("service out of reach for many looks", _outage, "succeeded", 1),
    Case("preempted once", _preempted_once, "succeeded", 2),
    Case("preempted three times", _preempted_thrice, "succeeded", 4),
    Case("preempted for ever", _preempted_for_ever, r"on-demand machine was taken away.*4 of 4 attempts", 4, n_tasks=0),
    Case("preempted, and the cap holds no other attempt", _cap, r"The cap is 2\.70 USD.*--max-cost 2\.76", 2),
    Case("machine restarted after two tasks", _restarted, "succeeded", 2),
    Case("preempted after the last output", _broken_off_when_all_was_done, "succeeded everything was published", 1),
    Case("quota of 0", _quota_zero, "JobFailedError.*has none of this quota.*Limit: 0", 0, n_tasks=0, n_created=1),
    Case("quota used up", _quota_used_up, "still queued after 7200 s.*used up", 0, n_tasks=0, n_created=1),
    Case("stock-out in the first zone", _stockout, "succeeded", 1, n_created=2),
    Case("stock-out and no other place", _stockout_everywhere, "still queued after 7200 s", 0, n_tasks=0, n_created=1),
    Case("stock-out of Spot machines", _stockout_on_spot, "succeeded", 1, n_created=2),
    Case("field that the service cannot use", _invalid_field, "check machine, network", 0, n_tasks=0, n_created=1),
    Case("task events late", _events_late, "succeeded", 2),
    Case("task events absent", _events_absent, "JobFailedError.*no task left an exit code", 1, n_tasks=3),
    Case(
        "failed without the word 'error'", _failed_without_the_word_error, "JobFailedError.*exit code 3", 1, n_tasks=3
    ),
    Case("cancelled from the console", _console_cancel, "cancelled: cancelled from outside", 1, n_tasks=0),
    Case("job vanished, run resumed", _vanished, "vanished from the cloud", 2, n_created=1),
    Case("states unknown or passing", _odd_states, "succeeded", 1),
    Case("time limit reached, run resumed", _too_long, "time limit was reached: raise jobs.timeout_s", 2),
    Case("kernel killed between intent and call", _killed_before_the_call, "succeeded", 1),
    Case("the same, and nobody submits again", _killed_before_the_call_and_only_tended, "succeeded", 1),
    Case("kernel killed while it waits", _killed_while_waiting, "succeeded", 1),
    Case("kernel dead while the machine is lost", _killed_between_attempts, "succeeded", 2),
    Case("kernel killed while it downloads", _killed_during_download, "succeeded", 1),
    Case("half an output, then death", _half_output, "succeeded", 2),
    Case("credentials expired", _credentials_expired, "log in again with `gcloud", 1),
    Case("credentials expired, seen as an outage", _credentials_expired_behind_the_plugin, "log in again", 1),
    Case("clock jumps by 30 days", _clock_jump, "succeeded", 1),
    Case("queue that never moves", _stuck_queue, "still queued after 7200 s", 0, n_tasks=0, n_created=1),
    Case("machine that does nothing", _stuck_run, "still running after 2400 s", 1, n_tasks=0),
    Case("quota refused when the job is created", _quota_refused, r"quota is used up.*metric 'GPUs'.*ask for more", 1),
    Case("on-demand machine taken away", _on_demand_taken_away, "attempt 2.*the on-demand machine was taken away", 2),
    Case("GPU driver installation fails", _drivers_fail, "the GPU driver was not installed.*exit status 255", 2),
    Case("GPU driver installation hangs", _drivers_hang, "installation of the GPU driver does not end", 1, n_created=2),
    Case("machine that never begins to work", _boot_hangs, "succeeded", 1, n_created=2),
    Case("boot disk full", _disk_full, r"raise batch\.boot_disk_gib \(it has 100 GiB\)", 1, n_tasks=0),
    Case("Spot and flex-start machines taken back", _flex_start, "succeeded", 3),
    Case("no flex-start machine comes", _no_flex_start, "succeeded", 1, n_created=2),
    Case("consent withdrawn after a lost machine", _consent_withdrawn, "ApprovalNeededError.*haystack resume", 2),
    Case("run folder gone while its job runs", _orphan, "no attempt of run .* is this job: running", 1, n_tasks=0),
    Case("two orchestrators on one job", _two_orchestrators, "succeeded and succeeded", 2),
)
