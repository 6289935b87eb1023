"""What several test modules share: fake clock, records, a small designed atlas, ports that work on it."""

import fcntl
import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from haystack_kernel.schema import JobHandle, JobStatus, RunConfig, RunRecord

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a suite that a script started in its background ignores Ctrl-C, and so would every process that a test interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Several workers share the processors: threads of the linear algebra would wait for each other and be no faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read by gcsfs at its first import
# No test asks a language model: neither tests nor what they start know keys and addresses of whoever runs them.
for _name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
    del os.environ[_name]
os.environ["ANTHROPIC_BASE_URL"] = "http://127.0.0.1:9"
os.environ["ANTHROPIC_VERTEX_BASE_URL"] = "http://127.0.0.1:9"
os.environ["ANTHROPIC_GOOGLE_CLOUD_BASE_URL"] = "http://127.0.0.1:9"


class FakeClock:
    """Implements the Clock port; sleeping moves it, nothing waits."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch):
    """Nothing that the SDK of a language model sends may leave this machine, whatever a test sets."""
    if "httpx2" not in sys.modules:  # what is imported later meets the address above
        return
    import httpx2

    send = httpx2.HTTPTransport.handle_request

    def guarded(self, request):
        assert request.url.host in ("127.0.0.1", "::1", "localhost"), f"a test would ask {request.url.host}"
        return send(self, request)

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", guarded)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def record(clock):
    return RunRecord(
        run_id="run-20260102t030405-abcdef",
        question="How would B cells respond to IFN-beta?",
        config=RunConfig(),
        created_at=clock.now(),
    )


@pytest.fixture(scope="session")
def shared():
    """Folder of the real data beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder 'shared' of public data is not beside this checkout")
    return folder


@pytest.fixture(scope="module")  # not longer: Playwright keeps an event loop running in this thread
def browser():
    """Headless Chromium. Tests that need it skip without it, which fails under CI (see the hook below)."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(
        (found for found in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if found), None
    )
    if path is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Fail what needs a browser and is skipped under CI: there it is installed (.ci/run), and a skip hides a fault."""
    report = yield
    needs_browser = item.get_closest_marker("browser") or "browser" in getattr(item, "fixturenames", ())
    if report.skipped and needs_browser and os.environ.get("CI", "").lower() in ("true", "1"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"Browser tests must not be skipped under CI. {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect no garbage while everything is imported, nor look through it later: that is a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure():
    """Let the collector see everything again: a package complains of what the interpreter's end leaves."""
    gc.unfreeze()


def pytest_collection_modifyitems(items):
    """Put files with slow tests first, so that no worker is left alone with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def made_once(tmp_path_factory, name, make):
    """A folder that all workers of a session share: ``make(folder)`` fills it for the first that asks, others wait."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of the workers' own folders
    folder, whole = root / name, root / f"{name}.whole"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


# --- a small designed atlas -----------------------------------------------------------------------------------------

QUESTION = "How would B cells respond to IFN-beta?"
DONORS = ("d1", "d2", "d3")
N_EACH = 12  # cells of one type, treatment and donor
TREATED = {  # treatment -> cell types measured under it; B cells are measured in the control only
    "control": ("CD14+ monocyte", "CD4 T cell", "B cell"),
    "IFN-beta": ("CD14+ monocyte", "CD4 T cell"),
    "TNF-alpha": ("NK cell",),  # without control NK cells: nothing can be matched
}


def tiny_genes(knowledge, *, n_genes=1300):
    """Real symbols: the responses to IFN-beta and TNF-alpha, their pathways, markers, then genes of the demo atlas."""
    from haystack_kernel.atlas import demo

    entries = [knowledge.perturbations[name] for name in ("IFN-beta", "TNF-alpha")]
    wanted = [gene for entry in entries for gene in (*entry.response, *entry.targets)]
    wanted += [gene for entry in entries for name in entry.pathways for gene in knowledge.pathways[name].genes]
    lines = (Path(demo.__file__).parent / "genes.txt").read_text(encoding="utf-8").splitlines()
    wanted += [line.split("\t")[0] for line in lines if line and not line.startswith("#")]
    return list(dict.fromkeys(wanted))[:n_genes]


def simulate_tiny(knowledge, *, seed=11):
    """Counts with three stated causes: cell type (200 genes each), donor (mild), treatment (known response x 6)."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(seed)
    genes = tiny_genes(knowledge)
    base = rng.lognormal(-0.2, 0.8, len(genes))
    types = sorted({name for group in TREATED.values() for name in group})
    of_type = {name: rng.lognormal(0, 0.9, len(genes)) ** (rng.random(len(genes)) < 0.15) for name in types}
    of_donor = {name: rng.lognormal(0, 0.1, len(genes)) for name in DONORS}
    blocks, rows = [], []
    for treatment, names in TREATED.items():
        response = knowledge.perturbations[treatment].response if treatment != "control" else {}
        effect = np.array([6.0 ** response.get(gene, 0) for gene in genes])
        for name in names:
            for donor in DONORS:
                rate = base * of_type[name] * of_donor[donor] * effect
                blocks.append(rng.poisson(rate, size=(N_EACH, len(genes))))
                rows += [(name, treatment, donor)] * N_EACH
    obs = pd.DataFrame(rows, columns=["cell_type", "perturbation", "donor_id"])
    obs.index = [f"cell{i}" for i in range(len(obs))]
    counts = sparse.csr_matrix(np.vstack(blocks).astype(np.float32))
    return ad.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=genes))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The simulated file "tiny.h5ad" and the atlas "tiny" of it in "atlases"; read only."""
    from haystack_kernel.atlas import build_atlas, load_mapping
    from haystack_kernel.knowledge import load_knowledge

    def make(folder):
        knowledge, path = load_knowledge(), folder / "tiny.h5ad"
        simulate_tiny(knowledge).write_h5ad(path)
        mapping = load_mapping("cellxgene", perturbation_column="perturbation", control=["control"])
        build_atlas(str(path), name="tiny", root=folder / "atlases", mapping=mapping, knowledge=knowledge)

    return made_once(tmp_path_factory, "tiny", make)


@pytest.fixture(scope="session")
def tiny_h5ad(tiny_folder):
    """The simulated file behind the tiny atlas."""
    return tiny_folder / "tiny.h5ad"


@pytest.fixture(scope="session")
def tiny_atlas_root(tiny_folder):
    """Folder of the atlas "tiny", see TREATED."""
    return tiny_folder / "atlases"


@pytest.fixture(scope="session")
def demo_atlas_root(tmp_path_factory):
    """Folder of the demo atlas, which is simulated for seconds; read only."""
    from haystack_kernel.atlas.demo import ensure_demo

    return made_once(tmp_path_factory, "demo", ensure_demo)


# --- working on it --------------------------------------------------------------------------------------------------


def tiny_options(tmp_path, root):
    """Settings that finish a run on the tiny atlas in a few seconds, and score with few draws (7.0 at most)."""
    return {
        "storage": str(tmp_path / "store"),
        "atlas_root": str(root),
        "knowledge": str(tmp_path / "knowledge"),
        "cache": str(tmp_path / "cache"),
        "atlases": ["tiny"],
        "grounding": {"n_draws": 199, "n_resamples": 0},
        "inference": {"n_prompt": 60, "n_query": 24},
        "jobs": {"poll_s": 0.05},
    }


@pytest.fixture(scope="session")
def settings_in(tiny_atlas_root):
    """Make the settings of the tiny atlas for a folder: ``settings_in(tmp_path)``."""
    from haystack_kernel.config.settings import load_settings

    return lambda folder: load_settings(layer="test", **tiny_options(folder, tiny_atlas_root))


@pytest.fixture
def tiny_settings(tmp_path, settings_in):
    return settings_in(tmp_path)


@pytest.fixture
def tiny_env(tmp_path, tiny_atlas_root, monkeypatch):
    """The same settings as environment variables, for this process and those it starts."""
    for name, value in tiny_options(tmp_path, tiny_atlas_root).items():
        nested = {f"{name}__{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        for key, item in nested.items():
            monkeypatch.setenv(f"HAYSTACK_{key.upper()}", json.dumps(item) if isinstance(item, list) else str(item))
    monkeypatch.setenv("DYNACONF", "test")
    return tmp_path / "store"


@pytest.fixture
def few_cells(tiny_env, monkeypatch):
    """So few cells that their map is of principal components, and every step is quick."""
    monkeypatch.setenv("HAYSTACK_INFERENCE__N_PROMPT", "4")
    monkeypatch.setenv("HAYSTACK_INFERENCE__N_QUERY", "3")
    return tiny_env


class Heard:
    """Implements the progress port: keeps every event."""

    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)


class InlineExecutor:
    """Implements the Executor port in this process: the job is over when ``submit`` returns."""

    name = "local"

    def __init__(self, clock):
        self.clock = clock
        self.submitted = []
        self.states = {}

    def submit(self, spec):
        from inference import run_inference

        self.submitted.append(spec.job_id)
        if self.states.get(spec.job_id) != "succeeded":
            code = run_inference.main(["--manifest", spec.manifest_uri])
            self.states[spec.job_id] = "succeeded" if code == 0 else "failed"
        return JobHandle(
            job_id=spec.job_id,
            executor="local",
            manifest_uri=spec.manifest_uri,
            spec_hash=spec.spec_hash,
            submitted_at=self.clock.now(),
        )

    def status(self, job):
        return JobStatus(state=self.states.get(job.job_id, "failed"), detail="inline")

    tend = status

    def cancel(self, job):
        if self.states.get(job.job_id) == "running":
            self.states[job.job_id] = "cancelled"
        return self.status(job)


@pytest.fixture
def ports(tiny_settings):
    """Real ports on the tiny atlas, but for the executor; ``ports.progress.events`` is what was heard."""
    return session_ports(tiny_settings)


@pytest.fixture
def begin(ports):
    """Start a run: ``begin()`` or ``begin(question, seed=3)``; the record is saved and has no step yet."""
    from haystack_kernel.config.options import build_config
    from haystack_kernel.store import new_run_id

    def start(question=QUESTION, **options):
        record = RunRecord(
            run_id=new_run_id(ports.clock.now()),
            question=question,
            config=build_config(ports.settings, **options),
            created_at=ports.clock.now(),
        )
        return ports.store.create(record)

    return start


# --- finished runs that several modules read --------------------------------------------------------------------------


def session_ports(settings):
    """Real ports, but for the executor, that outlive a test; ``ports.progress`` keeps what was heard in ``events``."""
    from haystack_kernel.config.connect import connect

    made = connect(settings)
    return replace(made, progress=Heard(), executors={"local": InlineExecutor(made.clock)})


def work_on_tiny(folder, root, *, until=None, **options):
    """Ports and the record of a run on the tiny atlas that was worked on until a step, or to its end."""
    from haystack_kernel import flow
    from haystack_kernel.config.options import build_config
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.run import new_record

    ports = session_ports(load_settings(layer="test", **tiny_options(folder, root)))
    record = new_record(QUESTION, run_id=None, config=build_config(ports.settings, **options), ports=ports)
    return ports, flow.work(ports.store.create(record), ports, until=until)


def worked_once(tmp_path_factory, name, root, **options):
    """The same as :func:`work_on_tiny`, worked on by one worker of the session and read by all; also what it heard."""
    from haystack_kernel.config.settings import load_settings
    from haystack_kernel.ports import ProgressEvent

    def make(folder):
        ports, _ = work_on_tiny(folder, root, **options)
        (folder / "heard.json").write_text(json.dumps([asdict(event) for event in ports.progress.events]))

    folder = made_once(tmp_path_factory, name, make)
    ports = session_ports(load_settings(layer="test", **tiny_options(folder, root)))
    ports.progress.events += [ProgressEvent(**event) for event in json.loads((folder / "heard.json").read_text())]
    (run,) = (folder / "store" / "runs").iterdir()
    return ports, ports.store.load(run.name)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_atlas_root):
    """Ports and record of a run that reached its threshold in the first round; read only."""
    return worked_once(tmp_path_factory, "finished", tiny_atlas_root, threshold=5)


@pytest.fixture(scope="session")
def scored_once(tmp_path_factory, tiny_atlas_root):
    """Ports and record of a run of few cells whose rounds are over and that is not published; read only."""
    return worked_once(tmp_path_factory, "scored", tiny_atlas_root, until="interpret", n_prompt=4, n_query=3)


@pytest.fixture
def scored(scored_once, ports):
    """A copy of the scored run in this test's storage: its record."""
    made, record = scored_once
    source, target = (Path(place.settings.storage) / "runs" / record.run_id for place in (made, ports))
    shutil.copytree(source, target)
    return ports.store.load(record.run_id)


# --- a bucket -------------------------------------------------------------------------------------------------------


def load_server(name):
    """The module ``tests/servers/<name>.py``."""
    path = Path(__file__).parent / "servers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"servers_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bucket_server(monkeypatch):
    """A Cloud Storage of this test's own with the empty bucket ``haystack-test``; ``.fail`` makes it misbehave."""
    pytest.importorskip("google.cloud.storage")
    with load_server("storage").faulty_storage("haystack-test") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        yield server
