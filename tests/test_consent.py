"""All ways to start anything, with every lack of consent: the Batch service is asked to create nothing."""

import io
import shutil
from dataclasses import dataclass, field, replace

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ApprovalNeededError, HaystackError
from haystack_kernel.jupyter.execute import execute_run
from haystack_kernel.manage import fork, submit
from haystack_kernel.ports import Consent
from haystack_kernel.run import attach, open_run, resume
from tests.servers import batch as served

pytestmark = pytest.mark.slow

QUESTION = "How would B cells respond to IFN-beta?"
RUN_ID = "run-20260102t030405-abcdef"
GIVEN = {"approve": True, "max_cost": 100.0}
LACKING = {  # arguments of the call, and the standing cap
    "none was given": ({}, None),
    "it was refused": ({"approve": False}, None),
    "a cap alone": ({"max_cost": 100.0}, None),
    "the cap of the call is too small": ({"approve": True, "max_cost": 0.0001}, None),
    "the standing cap is too small": ({"approve": True}, "0.0001"),
    "both caps, the smaller holds": ({"approve": True, "max_cost": 100.0}, "0.0001"),
}
LOST = {"end": 50001, "is_dead": True}


@dataclass
class World:
    """A run folder whose next step costs money, and a service."""

    store: object
    prepared: object
    server: served.BatchServer
    kept: dict = field(default_factory=dict)  # where runs stood before: folder, jobs of the service, plans

    def begin_anew(self):
        """The run as it was before anything was started, and a service without jobs."""
        self._restore(self.prepared, {}, [])

    def stand(self, stands):
        """The run and the service where ``stands`` leaves them; it goes that way once, later they are copied."""
        if stands not in self.kept:
            self.begin_anew()
            stands(self)
            folder = self.prepared.with_name(stands.__name__)
            shutil.copytree(self.store, folder)
            self.kept[stands] = folder, copies(self.server.jobs), list(self.server.plans)
        self._restore(*self.kept[stands])

    def _restore(self, folder, jobs, plans):
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(folder, self.store)
        self.server.jobs.clear()
        self.server.jobs.update(copies(jobs))
        self.server.plans[:] = plans

    def lose(self, job):
        """Look at a job until its machine is lost; whoever looks has no consent."""
        executor = connect(load_settings()).executors["batch"]
        while "next attempt" not in executor.status(job).detail:
            pass


def copies(jobs):
    """The jobs of a service; what happens to them later does not change the copies."""
    return {name: replace(held, job=type(held.job)(held.job), tasks=list(held.tasks)) for name, held in jobs.items()}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where the runs of this module lie, and where the one is kept that each test begins with."""
    folder = tmp_path_factory.mktemp("consent")
    return folder / "store", folder / "prepared"


@pytest.fixture
def world(few_cells, places, tmp_path, monkeypatch):
    store, prepared = places
    monkeypatch.setenv("HAYSTACK_STORAGE", str(store))
    monkeypatch.setenv("LIGHT_LOG", str(tmp_path / "computed.txt"))
    with served.batch_server() as server:
        given = {
            "PROJECT": "lab",
            "REGION": "us-central1",
            "INFERENCE_IMAGE": "registry/haystack-inference:1",
            "ORCHESTRATOR_IMAGE": "registry/haystack-orchestrator:1",
            "ENDPOINT": server.address,
            "INSECURE": "true",
            "POLL_INTERVAL_S": "0.05",
            "SETTLE_S": "0",
        }
        for name, value in given.items():
            monkeypatch.setenv(f"HAYSTACK_BATCH__{name}", value)
        if not prepared.exists():
            open_run(QUESTION, run_id=RUN_ID, executor="batch", max_rounds=1).work(until="submit")
            shutil.move(store, prepared)
        yield World(store, prepared, server)


# --- where a run may stand ------------------------------------------------------------------------------------------


def nothing_started(world):
    pass


def no_machine_yet(world):
    """Nothing was started, and what is started waits for a machine, whoever looks at it."""
    world.server.plans = [served.Plan(is_idle=True)]


def prediction_lost(world):
    """The machine of the prediction was taken back while nobody looked."""
    world.server.plans = [served.Plan(**LOST)]
    run = resume(RUN_ID, **GIVEN).work(until="collect")
    world.lose(run.record.rounds[0].job)


def orchestrator_lost(world):
    world.server.plans = [served.Plan(**LOST)]
    world.lose(submit(RUN_ID, **GIVEN).record.orchestrator)


def forget(world):
    """What a process leaves that was killed between the intent on record and the call: no job, no confirmation."""
    for path in world.store.glob("runs/*/jobs/*/attempt-*.job.json"):
        path.unlink()
    world.server.jobs.clear()


def prediction_unconfirmed(world):
    resume(RUN_ID, **GIVEN).work(until="collect")
    forget(world)


def orchestrator_unconfirmed(world):
    submit(RUN_ID, **GIVEN)
    forget(world)


# --- how it may go on -----------------------------------------------------------------------------------------------


def by_open_run(consent):
    open_run(QUESTION, run_id=RUN_ID, **consent).work(until="ground")


def by_resume(consent):
    resume(RUN_ID, **consent).work(until="ground")


def by_fork(consent):
    child = fork(RUN_ID, changes={"threshold": 9})
    resume(child.run_id, **consent).work(until="ground")


def by_submit(consent):
    submit(RUN_ID, **consent)


def by_a_new_submit(consent):
    submit(QUESTION, executor="batch", **consent)


def by_looking(consent):
    """Whoever looks gives no consent, whatever was given before."""
    run = attach(RUN_ID)
    run.status()
    run.job_status()
    if run.record.orchestrator is not None:
        run.follow(lambda line: None, poll_s=0.01)


def by_papermill(consent):
    outcome = execute_run(QUESTION, storage=None, run_id=RUN_ID, options={}, spending=consent, stream=io.StringIO())
    if outcome.error:
        raise outcome.error


def by_an_assistant(consent):
    """A client whose person answers the form so; what the form offers as the most it may cost is left as it is."""
    from mcp.types import ElicitResult

    from haystack_kernel.mcp.bench import Bench
    from tests.mcp.conftest import call

    async def person(context, params):
        if not consent.get("approve"):
            return ElicitResult(action="decline")
        offered = params.requested_schema["properties"]["max_cost_usd"]["default"]
        cap = consent.get("max_cost", offered)
        return ElicitResult(action="accept", content={"approve": True, "max_cost_usd": cap})

    settings = load_settings()
    bench = Bench(settings.model_copy(update={"mcp": settings.mcp.model_copy(update={"max_usd": 100.0})}))
    options = {"executor": "batch", "max_rounds": 1}
    found = call(bench, "start", {"question": QUESTION, "options": options}, person=person)
    if isinstance(found, str) or not found["started"]:
        raise ApprovalNeededError(str(found))


WALK = (  # where a run stands, how it goes on, and how many jobs good consent creates
    (nothing_started, by_open_run, 1),
    (nothing_started, by_resume, 1),
    (nothing_started, by_fork, 1),
    (nothing_started, by_submit, 1),
    (nothing_started, by_a_new_submit, 1),
    (no_machine_yet, by_an_assistant, 1),
    (prediction_lost, by_open_run, 1),
    (prediction_lost, by_resume, 1),
    (prediction_lost, by_fork, 1),
    (prediction_lost, by_submit, 1),
    (prediction_lost, by_looking, 0),
    (orchestrator_lost, by_submit, 1),
    (orchestrator_lost, by_looking, 0),
    (prediction_unconfirmed, by_resume, 1),
    (prediction_unconfirmed, by_looking, 0),
    (orchestrator_unconfirmed, by_submit, 1),
    (orchestrator_unconfirmed, by_looking, 0),
)


def count_created(world, stands, goes_on, consent):
    """Jobs that the service created while the run went on, and the class of the error that ended it."""
    before, ended = set(world.server.jobs), ""
    try:
        goes_on(consent)
    except HaystackError as error:
        ended = type(error).__name__
    return len(set(world.server.jobs) - before), ended


@pytest.mark.filterwarnings("ignore:run ")
def test_without_consent_no_way_creates_a_job_and_with_it_each_creates_its_own(world, monkeypatch):
    for stands, goes_on, n_jobs in WALK:
        acts = n_jobs > 0
        for name, (consent, standing) in LACKING.items() if acts else ():
            world.stand(stands)
            with monkeypatch.context() as patch:
                if standing is not None:
                    patch.setenv("HAYSTACK_COST__MAX_USD", standing)
                found = count_created(world, stands, goes_on, consent)
            assert found == (0, "ApprovalNeededError"), f"{stands.__name__}, {goes_on.__name__}: {name}"
        world.stand(stands)
        n_created, _ = count_created(world, stands, goes_on, GIVEN)
        assert n_created == n_jobs, f"{stands.__name__}, {goes_on.__name__}"


@pytest.mark.filterwarnings("ignore:run ")
def test_papermill_and_a_saved_notebook_start_nothing_without_consent(world):
    """The saved notebook was approved with a small cap; without the cap only the missing consent holds it back."""
    for consent in ({}, {"approve": True, "max_cost": 0.0001}):
        world.begin_anew()
        assert count_created(world, nothing_started, by_papermill, consent) == (0, "ApprovalNeededError"), consent
    path = world.store / "runs" / RUN_ID / "run.ipynb"
    text = path.read_text()
    assert "max_cost = 0.0001" in text
    path.write_text(text.replace("max_cost = 0.0001", "max_cost = 100.0"))
    with pytest.raises(PapermillExecutionError, match="ApprovalNeededError"):
        papermill.execute_notebook(str(path), str(path), engine_name="haystack", progress_bar=False)
    assert not world.server.jobs


def test_what_waits_for_approval_says_so_and_with_which_command(world):
    world.begin_anew()
    orchestrator_lost(world)
    run = attach(RUN_ID)
    shown = run.status()
    assert shown["status"] == "running"
    assert shown["next_commands"][0] == f"haystack submit {RUN_ID} --yes"
    assert "waits for approval: The orchestrator would cost about" in shown["orchestrator"]["detail"]
    assert shown["cost_by_kind"]["orchestrator"] > 0
    with pytest.raises(ApprovalNeededError, match=f"haystack submit {RUN_ID} --yes"):
        run.follow(lambda line: None)
    assert len(world.server.jobs) == 1


def test_the_orchestrator_and_its_predictions_share_one_cap(world):
    """A cap that holds the orchestrator, or the prediction, but not both starts neither."""
    world.begin_anew()
    run = attach(RUN_ID)
    prediction = run.estimate().high_usd
    with pytest.raises(ApprovalNeededError, match="the first job that it starts may cost") as caught:
        submit(RUN_ID, approve=True, max_cost=0.0001)
    orchestrator = caught.value.facts["high_usd"]
    with pytest.raises(ApprovalNeededError):
        submit(RUN_ID, approve=True, max_cost=orchestrator + 0.5 * prediction)
    assert world.server.jobs == {}
    world.server.plans = [served.Plan(is_idle=True)]
    submit(RUN_ID, approve=True, max_cost=orchestrator + prediction + 0.001)
    # what the live orchestrator may cost is reserved: a prediction beside it needs room for both
    ports = connect(load_settings(), consent=Consent(approve=True, max_usd=orchestrator + 0.5 * prediction))
    record = ports.store.load(RUN_ID)
    spec = record.rounds[-1].spec.placed_in(ports.store.uri(RUN_ID))
    with pytest.raises(ApprovalNeededError, match="are reserved for jobs that may still run"):
        ports.executors["batch"].submit(spec)
    assert len(world.server.jobs) == 1
