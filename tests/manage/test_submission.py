"""A run handed to a job: the intent is saved first, a repeat finds the job, a dead job shows in the status."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest

import haystack_kernel as haystack
from haystack_kernel import manage
from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ConflictError, InvalidInputError, JobFailedError, ServiceError
from haystack_kernel.manage import submit
from haystack_kernel.manage.submission import check_reachable, orchestrator_spec, travelling_settings
from haystack_kernel.run import Run, attach, open_run, resume
from haystack_kernel.schema import JobStatus, RunConfig, Settings
from haystack_kernel.steering import describe
from tests.workers import Program

QUESTION = "How would B cells respond to IFN-beta?"
RUN_ID = "run-20260102t030405-abcdef"


class Cloud:
    """Implements the Executor port without doing anything: a job is what ``state`` says."""

    name = "local"

    def __init__(self, state="queued", *, refuses=False):
        self.state, self.refuses = state, refuses
        self.submitted, self.cancelled = [], []
        self.detail = ""

    def submit(self, spec):
        if self.refuses:
            msg = "the cloud is out of reach"
            raise ServiceError(msg, service="batch", retryable=True)
        self.submitted.append(spec)

    def status(self, job):
        return JobStatus(state=self.state, detail=self.detail)

    tend = status

    def cancel(self, job):
        self.cancelled.append(job.job_id)
        self.state = "cancelled"
        return self.status(job)


@pytest.fixture
def cloud():
    return Cloud()


@pytest.fixture
def cloud_ports(tiny_settings, cloud):
    return replace(connect(tiny_settings), executors={"local": cloud})


@pytest.fixture
def hand_over(cloud_ports):
    def call(question=QUESTION, **options):
        return submit(question, ports=cloud_ports, **options)

    return call


# --- handing over ---------------------------------------------------------------------------------------------------


def test_submit_saves_the_intent_before_the_job_and_returns_at_once(hand_over, cloud):
    made = hand_over(seed=4)
    assert (made.record.serial, made.record.status) == (1, "running")
    assert [time.step for time in made.record.steps] == ["understand"]  # once: the job goes on from there
    (spec,) = cloud.submitted
    assert (spec.kind, spec.owner.round, spec.job_id) == ("orchestrator", 0, made.record.orchestrator.job_id)
    options = ("--run-id", made.run_id, "--storage", made._ports.settings.storage)
    assert spec.command == ("run", *options, "--", QUESTION)
    assert made.record.config.seed == 4
    assert made.status()["orchestrator"]["state"] == "queued"


def test_the_first_record_is_there_when_the_job_starts(cloud_ports, cloud):
    seen = []

    class Looking(Cloud):
        def submit(self, spec):
            seen.append(cloud_ports.store.load(spec.owner.id).orchestrator.job_id == spec.job_id)

    submit(QUESTION, ports=replace(cloud_ports, executors={"local": Looking()}))
    assert seen == [True]


def test_submit_again_finds_the_job(hand_over, cloud):
    first = hand_over(run_id=RUN_ID)
    again = hand_over(run_id=RUN_ID)
    by_id = hand_over(RUN_ID)
    assert first.record == again.record == by_id.record
    assert len(cloud.submitted) == 1


def test_submit_after_the_job_died_starts_it_again_under_the_same_id(hand_over, cloud):
    first = hand_over(run_id=RUN_ID)
    cloud.state = "failed"
    again = hand_over(RUN_ID)
    assert again.record.serial == first.record.serial + 1
    assert [spec.job_id for spec in cloud.submitted] == [first.record.orchestrator.job_id] * 2


def test_submit_goes_on_with_a_run_that_a_notebook_began(hand_over, cloud, cloud_ports, tiny_settings):
    begun = open_run(QUESTION, settings=tiny_settings).cancel()
    made = hand_over(begun.run_id)
    assert made.record.status == "running"
    assert made.record.orchestrator.job_id == cloud.submitted[0].job_id


def test_submit_of_a_run_that_is_done_starts_nothing(hand_over, cloud, cloud_ports):
    made = hand_over()
    cloud_ports.store.save(made.record.model_copy(update={"status": "done"}))
    assert hand_over(made.run_id).record.status == "done"
    assert len(cloud.submitted) == 1


def test_a_submit_that_fails_leaves_a_failed_run_that_can_be_submitted_again(hand_over, cloud, cloud_ports):
    cloud.refuses = True
    with pytest.raises(ServiceError, match="out of reach"):
        hand_over(run_id=RUN_ID)
    record = cloud_ports.store.load(RUN_ID)
    assert (record.status, record.failure.kind, record.failure.step) == ("failed", "ServiceError", "retrieve")
    cloud.refuses = False
    assert hand_over(RUN_ID).record.status == "running"


@pytest.mark.parametrize(
    ("question", "options", "says"),
    [
        ("B cells?", {}, "too short"),
        (QUESTION, {"threshold": 99}, "threshold"),
        (QUESTION, {"atlases": ["absent"]}, "absent"),
        ("run-20200101t000000-000000", {}, "no run"),
        (QUESTION, {"query_h5ad": "/gone.h5ad"}, r"gone\.h5ad"),
    ],
)
def test_submit_refuses_what_run_refuses_and_submits_nothing(hand_over, cloud, tmp_path, question, options, says):
    with pytest.raises(Exception, match=says):
        hand_over(question, **options)
    assert cloud.submitted == []
    assert not (tmp_path / "store").exists()


def test_submit_of_another_question_under_the_same_id_is_refused(hand_over, cloud):
    hand_over(run_id=RUN_ID)
    cloud.state = "failed"
    with pytest.raises(InvalidInputError, match="asks 'How would B cells"):
        hand_over("How would NK cells respond to IFN-beta?", run_id=RUN_ID)


# --- what travels ---------------------------------------------------------------------------------------------------


def test_settings_that_differ_from_the_defaults_travel_and_read_back_the_same(tmp_path, monkeypatch):
    settings = Settings(
        storage=str(tmp_path / "s"),
        atlases=("a", "b"),
        seed=3,
        grounding={"n_draws": 199},
        inference={"model": "gs://b/m.ckpt"},
        jobs={"poll_s": 0.5},
    )
    found = travelling_settings(settings, config=RunConfig())
    assert set(found) == {
        "HAYSTACK_ATLASES",
        "HAYSTACK_SEED",
        "HAYSTACK_GROUNDING__N_DRAWS",
        "HAYSTACK_INFERENCE__MODEL",
        "HAYSTACK_JOBS__POLL_S",
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DYNACONF", raising=False)
    assert load_settings(storage=settings.storage) == settings


def test_a_key_never_travels():
    settings = Settings(literature={"ncbi_api_key": "very-secret", "max_papers": 7})
    assert travelling_settings(settings, config=RunConfig()) == {"HAYSTACK_LITERATURE__MAX_PAPERS": "@json 7"}


def test_folders_of_this_machine_do_not_travel_to_another():
    settings = Settings(cache="/c", knowledge="/k", atlas_root="gs://b/atlases", atlases=("a",))
    config = RunConfig(atlases=("a",), executor="batch")
    assert set(travelling_settings(settings, config=config)) == {"HAYSTACK_ATLASES", "HAYSTACK_ATLAS_ROOT"}
    only_demo = RunConfig(executor="batch")
    assert "HAYSTACK_ATLAS_ROOT" not in travelling_settings(settings, config=only_demo)


def test_consent_is_in_no_spec_and_no_setting(hand_over, cloud):
    hand_over(approve=True, max_cost=5)
    (spec,) = cloud.submitted
    assert "--yes" not in spec.command
    assert not [name for name in spec.environment if "COST" in name]


def test_the_time_limit_of_the_job_leaves_room_for_every_round(cloud_ports, record):
    record = record.model_copy(update={"config": RunConfig(max_rounds=4)})
    spec = orchestrator_spec(record, cloud_ports)
    assert spec.timeout_s >= 4 * cloud_ports.settings.jobs.timeout_s


@pytest.mark.parametrize(
    ("settings", "config", "named"),
    [
        ({"storage": "/runs"}, {}, r"storage .* is /runs"),
        ({"atlas_root": "/atlases"}, {"atlases": ("kang",)}, "atlas_root .* is /atlases"),
        ({}, {"query_h5ad": "~/mine.h5ad"}, r"query_h5ad .* is ~/mine\.h5ad"),
        ({}, {"engine": "stack", "model": "/m.ckpt", "genelist": "gs://b/g"}, r"model .* is /m\.ckpt"),
        ({}, {"engine": "stack", "model": "gs://b/m", "genelist": "/g.json"}, r"genelist .* is /g\.json"),
    ],
)
def test_a_cloud_job_refuses_files_of_this_machine_and_names_where_they_belong(settings, config, named):
    whole = Settings(**{"storage": "gs://b/runs", "atlas_root": "gs://b/atlases", **settings})
    with pytest.raises(InvalidInputError, match=f"{named}.*Copy each to a bucket"):
        check_reachable(RunConfig(executor="batch", **config), whole)


def test_a_cloud_job_needs_no_atlas_of_ours_for_the_demo():
    whole = Settings(storage="gs://b/runs", atlas_root="/local")
    check_reachable(RunConfig(executor="batch", engine="stack", model="demo"), whole)
    check_reachable(RunConfig(query_h5ad="/mine.h5ad"), Settings(storage="/runs"))  # local reads what is here


def test_a_storage_in_memory_cannot_be_handed_over():
    with pytest.raises(InvalidInputError, match="ends with this process"):
        check_reachable(RunConfig(), Settings(storage="memory://x"))


# --- seen and steered from outside ----------------------------------------------------------------------------------


def test_an_orchestrator_that_died_shows_as_failure_with_its_reason_and_the_next_step(hand_over, cloud):
    made = hand_over(run_id=RUN_ID)
    cloud.state, cloud.detail = "failed", "image not found"
    found = made.status()
    assert (found["status"], found["failure"]["kind"]) == ("failed", "JobFailedError")
    assert "image not found" in found["failure"]["message"]
    assert found["next_commands"] == [f"haystack resume {RUN_ID}", f"haystack submit {RUN_ID}"]
    with pytest.raises(JobFailedError, match=r"image not found.*haystack resume"):
        made.follow(lambda line: None)


def test_an_orchestrator_that_ended_after_the_run_was_done_is_no_failure(hand_over, cloud, cloud_ports):
    made = hand_over()
    cloud.state = "succeeded"
    cloud_ports.store.save(made.record.model_copy(update={"status": "done"}))
    found = describe(made.record, cloud_ports)  # with a record that was read before the run ended
    assert (found["status"], found["failure"], found["orchestrator"]["state"]) == ("done", None, "succeeded")


def test_looking_needs_no_executor(hand_over, cloud_ports):
    made = hand_over()
    elsewhere = Run(made.record, ports=replace(cloud_ports, executors={}))
    assert elsewhere.status()["orchestrator"]["state"] == "unknown"
    assert elsewhere.status()["status"] == "running"


def test_cancel_ends_the_run_and_its_orchestrator(hand_over, cloud):
    made = hand_over().cancel()
    assert made.record.status == "cancelled"
    assert cloud.cancelled == [made.record.orchestrator.job_id]
    assert made.status()["status"] == "cancelled"


def test_cancel_holds_against_a_job_that_begins_at_that_moment(cloud_ports):
    class Late(Cloud):
        def cancel(self, job):
            record = cloud_ports.store.load(RUN_ID)
            cloud_ports.store.save(record.model_copy(update={"status": "running"}))  # as the job's first step does
            return super().cancel(job)

    ports = replace(cloud_ports, executors={"local": Late()})
    made = submit(QUESTION, run_id=RUN_ID, ports=ports).cancel()
    assert made.record.status == "cancelled"
    assert made.status()["status"] == "cancelled"


@pytest.mark.parametrize("state", ["queued", "running", "unknown"])
def test_resume_leaves_a_run_to_the_job_that_works_on_it(hand_over, cloud, state):
    made = hand_over()
    cloud.state = state
    with pytest.raises(ConflictError, match=r"is worked on by its orchestrator.*haystack attach"):
        made.check_free()


@pytest.mark.parametrize("state", ["failed", "succeeded", "cancelled"])
def test_resume_goes_on_where_the_job_is_over(hand_over, cloud, state):
    made = hand_over()
    cloud.state = state
    made.check_free()


# --- for real -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_submitted_run_outlives_the_shell_and_is_followed_to_its_end(few_cells, tmp_path):
    program = Program("submit", QUESTION, "--threshold", "5")
    out, err = program.communicate(600)
    assert program.returncode == 0, err
    (line,) = out.splitlines()
    shown = json.loads(line)
    assert (shown["status"], shown["executor"]) == ("running", "local")
    run_id = shown["run_id"]
    with pytest.raises(ConflictError):
        resume(run_id)
    assert json.loads(Program("submit", run_id).communicate(600)[0])["job_id"] == shown["job_id"]
    found = attach(run_id).follow(lambda line: None)
    assert found.record.status == "done"
    assert (few_cells / "runs" / run_id / "report.html").exists()
    assert len(list((tmp_path / "cache" / "jobs" / shown["job_id"]).iterdir())) == 1


@pytest.mark.slow
def test_a_submitted_run_whose_process_is_killed_is_resumed(few_cells):
    made = submit(QUESTION)
    (folder,) = (few_cells.parent / "cache" / "jobs" / made.record.orchestrator.job_id).iterdir()
    while not made.refresh().record.steps:
        time.sleep(0.1)
    os.killpg(json.loads((folder / "pid.json").read_text())["pid"], signal.SIGKILL)
    while not made.orchestrator_status().is_terminal:
        time.sleep(0.1)
    with pytest.raises(JobFailedError, match="vanished"):
        made.follow(lambda line: None)
    assert made.status()["status"] == "failed"
    deadline = time.monotonic() + 120
    while (attach(made.run_id).status()["worker"] or {}).get("alive"):  # until its kernel notices that nobody is left
        assert time.monotonic() < deadline
        time.sleep(0.1)
    record = resume(made.run_id).work(until="choose").record
    assert record.candidates


def test_the_verbs_are_on_the_face_of_the_package():
    assert haystack.submit is submit
    assert haystack.fork is manage.fork
    assert haystack.compare is manage.compare
