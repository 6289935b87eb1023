"""A whole back-test on a small designed atlas: what comes out, what a repeat does, and what a killed one keeps."""

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.sparse as sp

from haystack_kernel.atlas import build_atlas, calibrations, load_mapping
from haystack_kernel.backtest.judge import DECOY, REPLICATE, TYPE_MEAN
from haystack_kernel.backtest.tasks import build_tasks, read_prepared
from haystack_kernel.backtest.work import make_plan, plan_in_words, run_backtest
from haystack_kernel.backtest.worker import BACKTEST
from haystack_kernel.batches.folder import CampaignFolder
from haystack_kernel.campaign import leaderboard
from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ApprovalNeededError, InvalidInputError, JobFailedError
from haystack_kernel.jobs import BatchExecutor, in_usd
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import Consent
from haystack_kernel.store import layout
from tests.conftest import FakeClock, InlineExecutor, load_server
from tests.workers import Program

pytestmark = pytest.mark.slow

TYPES = {"B cell": "CL:0000236", "monocyte": "CL:0000576", "natural killer cell": "CL:0000623"}
TREATMENTS = ("IFN-beta", "TNF-alpha")
N_GENES, N_EACH = 300, 26
PATIENCE_S = 600  # ends a hang; a busy machine may need minutes


def make_cells():
    """Two treatments with programmes of their own, three cell types that scale them, two donors."""
    rng = np.random.default_rng(0)
    base = rng.gamma(0.6, 2.0, N_GENES) + 0.02
    programme = {name: np.exp(rng.normal(0, 1.2, N_GENES) * (rng.random(N_GENES) < 0.3)) for name in TREATMENTS}
    parts, obs = [], []
    for place, (label, cl_id) in enumerate(TYPES.items()):
        own = base * np.exp(rng.normal(0, 0.4, N_GENES))
        for name in ("control", *TREATMENTS):
            effect = np.ones(N_GENES) if name == "control" else programme[name] ** (1 - 0.15 * place)
            for donor in ("d1", "d2"):
                parts.append(rng.poisson(own * effect, (N_EACH, N_GENES)))
                obs += [{"cell_type": label, "cl": cl_id, "perturbation": name, "donor_id": donor}] * N_EACH
    table = pd.DataFrame(obs, index=[f"c{number}" for number in range(len(obs))])
    table["cell_type_ontology_term_id"] = table.pop("cl")
    genes = [f"GENE{number}" for number in range(N_GENES)]
    return ad.AnnData(sp.csr_matrix(np.vstack(parts).astype(np.float32)), obs=table, var=pd.DataFrame(index=genes))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings whose only atlas is the designed one."""
    folder = tmp_path_factory.mktemp("backtest")
    source = folder / "cells.h5ad"
    make_cells().write_h5ad(source)
    found = load_settings(
        storage=str(folder / "storage"), atlas_root=str(folder / "atlases"), cache=str(folder / "cache")
    )
    columns = {"perturbation_column": "perturbation", "control": ["control"], "perturbation_type": "cytokine"}
    build_atlas(
        str(source),
        name="tiny",
        root=found.atlas_root,
        mapping=load_mapping("cellxgene", **columns),
        knowledge=load_knowledge(),
    )
    return found


OPTIONS = {"n_pairs": 4, "held": ["donor", "cell_type"], "engines": ["none", "weighted"]}


@pytest.fixture(scope="module")
def ports(settings):
    """Ports whose jobs run in this process."""
    found = connect(settings)
    return replace(found, executors={"local": InlineExecutor(found.clock)})


@pytest.fixture(scope="module")
def tested(ports):
    """A finished back-test of four pairs."""
    return run_backtest("tiny", ports=ports, **OPTIONS)


def test_every_pair_and_engine_has_a_row_and_good_engines_are_told_from_decoys(tested):
    table = tested.table
    assert set(table["engine"]) == {"none", "weighted", TYPE_MEAN, DECOY, REPLICATE}
    assert len(table) == 4 * 5
    assert set(table["held"]) == {"donor", "cell_type"}
    assert tested.failures.empty
    near = table.groupby("engine")["pearson"].mean()
    assert near["weighted"] > 0.7
    assert near[DECOY] < 0.4
    assert table.loc[table["engine"] == "none", "pearson"].isna().all()
    assert table["discrimination"].isna().all()  # one treatment of each cell type: nothing to tell it from


def test_summary_says_how_far_each_engine_is_between_the_mean_and_a_replicate(tested):
    summary = tested.summary.set_index(["evidence", "engine"])
    row = summary.loc[("other_cell_type", "weighted")]
    assert row["n"] == 2
    assert row["anchored_r"] > 0.5
    assert row["not_told"]  # two pairs tell no metric from another


def test_a_leaderboard_uses_what_was_tested_and_tests_what_is_missing_on_the_same_pairs(tested, settings, tmp_path):
    """In folders of its own: what it tests is kept with the atlas."""
    places = {name: shutil.copytree(getattr(settings, name), tmp_path / name) for name in ("storage", "atlas_root")}
    own = connect(settings.model_copy(update={name: str(path) for name, path in places.items()}))
    own = replace(own, executors={"local": InlineExecutor(own.clock)})
    campaigns = places["storage"] / layout.CAMPAIGNS
    before = {path.name for path in campaigns.iterdir()}
    board = leaderboard("tiny", engines=["none", "weighted"], ports=own)
    assert board.table["engine"].tolist() == ["weighted", "none"]
    assert tested.id in board.backtests
    found = board.table.set_index("engine").loc["weighted", "pearson"]
    assert found == pytest.approx(tested.table.set_index("engine").loc["weighted", "pearson"].mean())
    assert not own.executors["local"].submitted
    more = leaderboard("tiny", engines=["weighted", "additive"], ports=own)
    assert set(more.table["engine"]) == {"weighted", "additive"}
    assert (more.table["pairs"] == 4).all()
    made = {path.name for path in campaigns.iterdir()} - before
    assert len(made) == 1
    n_jobs = len(own.executors["local"].submitted)
    again = leaderboard("tiny", engines=["weighted", "additive"], ports=own)
    assert set(again.backtests) == set(more.backtests)
    assert again.table.equals(more.table)
    assert len(own.executors["local"].submitted) == n_jobs


def test_what_the_back_test_says_lies_beside_the_atlas_and_in_its_own_folder(tested, settings):
    found = calibrations.find("tiny", "weighted", root=settings.atlas_root, cache=settings.cache)
    assert found == tested.calibrations["weighted"]
    assert found.backtest == tested.id
    assert {one.evidence for one in found.strata} == set(tested.table["evidence"])
    assert all(one.method == "t" for one in found.strata)
    assert (Path(tested.folder) / layout.calibration_file("weighted")).is_file()
    assert calibrations.find("tiny", "shift", root=settings.atlas_root, cache=settings.cache) is None


def test_a_calibration_of_another_content_of_the_atlas_is_not_used(tested, settings):
    stale = tested.calibrations["weighted"].model_copy(update={"digest": "of another day", "engine": "mean"})
    calibrations.save(stale, root=settings.atlas_root)
    assert calibrations.find("tiny", "mean", root=settings.atlas_root, cache=settings.cache) is None


def test_a_repeat_reads_the_result_and_makes_nothing(tested, settings):
    folder = Path(tested.folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.h5ad")}
    again = run_backtest("tiny", settings=settings, **OPTIONS)
    assert again.id == tested.id
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.h5ad")} == before
    pd.testing.assert_frame_equal(again.table, tested.table)


def finished_files(folder):
    """Files of the pairs that are prepared, with the time at which each was made; a pair in hand is begun anew."""
    pairs = [path.parent for path in Path(folder).rglob(layout.PREPARED)]
    return {path: path.stat().st_mtime_ns for pair in pairs for path in pair.rglob("*.*") if path.is_file()}


def test_what_was_finished_when_the_program_and_later_its_workers_were_killed_is_not_made_again(
    tested, settings, tmp_path
):
    storage = str(tmp_path / "storage")
    folder = Path(storage) / "campaigns" / tested.id
    words = ["backtest", "tiny", "--pairs", "4", "--held", "donor", "--held", "cell_type", "--workers", "2"]
    words += ["--engine", "none", "--engine", "weighted", "--storage", storage, "--atlas-root", settings.atlas_root]
    program = Program(*words)
    deadline = time.monotonic() + PATIENCE_S
    while not list(folder.rglob(layout.PREPARED)):
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    workers = psutil.Process(program.pid).children()
    os.kill(program.pid, signal.SIGKILL)
    program.communicate(timeout=PATIENCE_S)
    assert not psutil.wait_procs(workers, timeout=PATIENCE_S)[1]  # they end by themselves
    first = finished_files(folder)
    assert first
    assert not list(folder.rglob(layout.JUDGED))

    there = settings.model_copy(update={"storage": storage})
    found = connect(there)

    beside = {}  # processes of the pool, by phase

    def listen(event):
        for process in psutil.Process().children():
            with suppress(psutil.Error):  # it has ended
                if "haystack_kernel.batches.worker" in process.cmdline():
                    beside.setdefault(event.phase, set()).add(process.pid)
                    if event.phase == "judge" and ": pair " in event.message:
                        process.kill()

    with_killer = replace(found, executors={"local": InlineExecutor(found.clock)}, progress=listen)
    with pytest.raises(JobFailedError, match=r"SIGKILL.*same command goes on where it stopped"):
        run_backtest("tiny", ports=with_killer, workers=2, **OPTIONS)
    assert len(beside["prepare"]) == 1  # with this one they are two
    assert beside["prepare"] == beside["judge"]
    second = finished_files(folder)
    assert first.items() <= second.items()
    again = run_backtest("tiny", ports=replace(with_killer, progress=str), **OPTIONS)
    assert second.items() <= finished_files(folder).items()
    pd.testing.assert_frame_equal(again.table, tested.table)


def test_jobs_that_still_work_when_a_killed_back_test_goes_on_keep_their_tasks(tested, settings, tmp_path):
    """Two jobs share the tasks, and one of them still works: a call with one worker starts no third one."""
    storage = str(tmp_path / "storage")
    shutil.copytree(Path(tested.folder).parent, Path(storage) / "campaigns")
    found = connect(settings.model_copy(update={"storage": storage}))
    executor = InlineExecutor(found.clock)
    ports = replace(found, executors={"local": executor})

    def is_stopped():
        for path in Path(storage).rglob("weighted.h5ad*"):
            path.unlink()
        (Path(storage) / "campaigns" / tested.id / layout.RESULTS).unlink()

    is_stopped()
    run_backtest("tiny", ports=ports, workers=2, **OPTIONS)
    both = list(executor.submitted)
    assert len(both) == 2
    is_stopped()
    executor.states[both[1]] = "running"
    run_backtest("tiny", ports=ports, **OPTIONS)
    assert executor.submitted[2:4] == both
    is_stopped()
    executor.states = dict.fromkeys(both, "failed")
    run_backtest("tiny", ports=ports, **OPTIONS)
    assert not set(executor.submitted[-1:]) & set(both)


def test_decoys_come_from_other_treatments_and_tasks_share_no_truth(tested, settings):
    plan = tested.plan
    folder = CampaignFolder(settings, BACKTEST.id_of(plan), clock=connect(settings).clock)
    prepared = read_prepared(plan, folder=folder)
    for task in build_tasks(plan, prepared, folder=folder):
        number, _, name = task.id.partition("-")
        pair = plan.pairs[int(number) - 1]
        labels = ("perturbation_name", "cell_type_name", "donor_id")
        prompt = folder.read_cells(task.prompt.removeprefix(folder.root + "/"), labels)
        hidden = (prompt.obs["perturbation_name"] == pair.perturbation).to_numpy()
        if pair.held == "cell_type":
            hidden &= (prompt.obs["cell_type_name"] == pair.cell_type).to_numpy()
        if pair.held == "donor":
            hidden &= prompt.obs["donor_id"].isin(pair.donors).to_numpy()
        assert not hidden.any(), (pair.words, name)
        truth = folder.read_cells(layout.cells_file(layout.pair_folder(int(number)), layout.TRUTH_CONTROL))
        for uri in (task.control, task.query):
            cells = folder.read_cells(uri.removeprefix(folder.root + "/"))
            if name != DECOY:  # whose prompt and control cells are those of another pair
                assert not set(cells.obs_names) & set(truth.obs_names), (pair.words, name)


def test_options_that_make_no_sense_are_refused_before_anything_is_written(settings, ports):
    given = {"n_pairs": 4, "held": ["donor"], "engines": None, "decoy": True, "ports": ports}
    with pytest.raises(InvalidInputError, match="what is held out is 'gene'; possible: donor, cell_type, perturbation"):
        make_plan("tiny", **(given | {"held": ["gene"]}))
    with pytest.raises(InvalidInputError, match="engine 'magic' is unknown"):
        make_plan("tiny", **(given | {"engines": ["magic"]}))
    with pytest.raises(InvalidInputError, match="workers is 0"):
        run_backtest("tiny", settings=settings, workers=0)
    assert make_plan("tiny", **given).pairs[0].held == "donor"
    plan = make_plan("tiny", **given)
    assert plan.engines == ("none", "mean", "shift", "weighted")
    words = (
        "4 pairs of atlas tiny are hidden and predicted with none, mean, shift, weighted on this machine, which costs "
    )
    said = plan_in_words(plan, workers=1)
    assert said.startswith(f"{words}nothing, in about 6 s to 25 s; it may be stopped at any time")
    there = plan.model_copy(update={"executor": "batch"})
    assert "in the cloud, besides which" in plan_in_words(there, workers=2)


def test_the_command_prints_the_table_and_what_later_runs_can_expect(tested, settings, capsys, monkeypatch):
    from haystack_kernel.cli import main

    words = ["haystack", "backtest", "tiny", "--pairs", "4", "--held", "donor", "--held", "cell_type"]
    words += ["--engine", "none", "--engine", "weighted"]
    words += ["--storage", settings.storage, "--atlas-root", settings.atlas_root]
    monkeypatch.setattr("sys.argv", [*words, "--table"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "Predicted from the same treatment in other cell types\nengine " in shown
    assert max(len(line) for line in shown.splitlines() if line.startswith(("engine ", "weighted "))) <= 80
    said = "2 hidden pairs of atlas tiny were predicted by weighted from the same treatment in other cell types"
    assert f"{said}: an average prompt reaches" in shown
    assert tested.id in shown
    monkeypatch.setattr("sys.argv", [*words, "--json"])
    with pytest.raises(SystemExit):
        main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["id"] == tested.id
    assert answer["n_pairs"] == 4
    assert {row["engine"] for row in answer["summary"]} >= {"weighted", "none", REPLICATE}


def test_a_later_run_quotes_the_back_test_and_says_that_its_engine_has_no_weights(tested, settings):
    from haystack_kernel.run import open_run

    few = settings.grounding.model_copy(update={"n_draws": 99, "n_seeds": 0})
    run = open_run(
        "How would monocytes respond to IFN-beta?",
        settings=settings.model_copy(update={"grounding": few}),
        atlases=["tiny"],
        engine="weighted",
        hide=["monocyte:IFN-beta"],
        max_rounds=1,
        literature=False,
    ).work(until="decide")
    aspects = {one.name: one for one in run.record.rounds[0].confidence.aspects}
    quoted = aspects["back-tested accuracy"]
    stratum = next(one for one in tested.calibrations["weighted"].strata if one.evidence == "other_cell_type")
    assert quoted.value == pytest.approx(np.tanh(stratum.intercept))
    assert f"{stratum.n_pairs} hidden pairs of atlas tiny" in quoted.words
    assert "Not calibrated for other treatments: 2 treatments tested, 10 are needed" in quoted.words
    assert "no weights" in aspects["training data"].words


@pytest.fixture
def cloud(settings, tmp_path):
    """A local Batch service: ``cloud.work(approve=True)`` is a back-test there; ``cloud.heard`` what it told."""
    served = load_server("batch")
    with served.batch_server(served.REAL) as server:
        own = {"project": "lab", "region": "us-central1", "inference_image": "registry/haystack-inference:1"}
        own |= {"endpoint": server.address, "insecure": True, "tasks_per_shard": 4}
        batch = type(settings.batch)(**own)
        there = settings.model_copy(update={"batch": batch, "storage": str(tmp_path / "storage")})
        options = {"n_pairs": 2, "held": ["donor"], "engines": ["weighted", "shift"], "executor": "batch"}

        def listen(event):
            server.heard.append(event.message)
            if event.message == server.interrupted_at:
                raise KeyboardInterrupt

        def work(*, workers=1, **given):  # of this machine; there it is one job
            consent, clock = Consent(**given), FakeClock()
            executor = BatchExecutor(there, clock=clock, consent=consent)
            found = replace(connect(there), clock=clock, executors={"batch": executor}, progress=listen)
            return run_backtest("tiny", ports=found, workers=workers, **options)

        server.heard, server.interrupted_at, server.work, server.Plan = [], "", work, served.Plan
        yield server


def test_in_the_cloud_predictions_are_one_array_that_nothing_makes_or_pays_for_twice(cloud):
    """Consent, cap, a machine that is taken away, a program that is interrupted: with the real Batch protocol."""
    with pytest.raises(ApprovalNeededError, match="--yes"):
        cloud.work(approve=False)
    with pytest.raises(ApprovalNeededError, match=r"The cap is 0\.01 USD"):
        cloud.work(approve=True, max_usd=0.01)
    assert cloud.calls == []
    assert any("the predictions cost about 0." in text for text in cloud.heard)
    # the machine of the second share is taken away before it has made anything
    nothing = {"BATCH_TASK_INDEX": "8", "BATCH_TASK_COUNT": "9"}
    cloud.plans = [cloud.Plan(end=50001, only=(1,), variables=nothing)]
    cloud.interrupted_at = "8 predictions, job running"
    with pytest.raises(KeyboardInterrupt):
        cloud.work(approve=True)
    assert len(cloud.started) == 1
    cloud.interrupted_at = ""
    tested = cloud.work(approve=True, max_usd=1)
    assert tested.failures.empty
    assert len(cloud.started) == len(cloud.jobs) == 2
    spent = 3 * (0.134 + 10 / 730) * 420 / 3600  # two machines, then one
    assert f"8 predictions, job succeeded, {in_usd(spent)} for 2 attempts" in cloud.heard
    made = [line.partition(":")[0] for log in cloud.logs.values() for line in log.splitlines() if " -> " in line]
    assert len(made) == len(set(made)) == 8
    assert cloud.work(approve=False).id == tested.id
    (Path(tested.folder) / layout.RESULTS).unlink()
    cloud.work(approve=False, workers=2)
    assert len(cloud.started) == 2
