"""A whole screen on a small designed atlas: what comes out, what a repeat does, and what is refused in words."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from haystack_kernel import campaign, flow, keys
from haystack_kernel.atlas import build_atlas, load_mapping
from haystack_kernel.campaign.drilling import _check_same_sources, drill
from haystack_kernel.campaign.plan import Asked, read_questions, treatments_and_types, words_of
from haystack_kernel.campaign.result import COLUMNS
from haystack_kernel.campaign.screening import open_screen, plan_screen, preview, run_screen, screen
from haystack_kernel.campaign.seeking import seek
from haystack_kernel.campaign.sources import Sources
from haystack_kernel.campaign.toward import TargetState
from haystack_kernel.config.connect import connect
from haystack_kernel.config.options import build_config
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ApprovalNeededError, ConflictError, InvalidInputError, NotFoundError
from haystack_kernel.jobs import BatchExecutor
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.ports import Consent
from haystack_kernel.run import Run, first_record
from haystack_kernel.store import layout, parse_csv
from inference.manifest import RESULT_SUFFIX, parse_result
from tests.backtest.test_work import PATIENCE_S, make_cells
from tests.conftest import FakeClock, InlineExecutor, load_server
from tests.workers import Program

QUESTIONS = """perturbation\tcell_type\tdose
IFNb\tB cells\t10
TNF-alpha\tmonocyte\t10
interferon beta\tB cell\t3
\tmonocyte\t1
XQ-99\tB cell\t1
IL-6\thepatocyte\t1
"""


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    """Ports of a storage of their own, with a designed atlas; jobs run in this process."""
    folder = tmp_path_factory.mktemp("screens")
    source = folder / "cells.h5ad"
    make_cells().write_h5ad(source)
    settings = load_settings(
        storage=str(folder / "storage"), atlas_root=str(folder / "atlases"), cache=str(folder / "cache")
    )
    few = settings.grounding.model_copy(update={"n_draws": 99, "n_seeds": 0})
    settings = settings.model_copy(update={"grounding": few})
    columns = {"perturbation_column": "perturbation", "control": ["control"], "perturbation_type": "cytokine"}
    build_atlas(
        str(source),
        name="tiny",
        root=settings.atlas_root,
        mapping=load_mapping("cellxgene", **columns),
        knowledge=load_knowledge(),
    )
    found = connect(settings)
    return replace(found, executors={"local": InlineExecutor(found.clock)})


@pytest.fixture(scope="module")
def plan(ports, tmp_path_factory):
    """Six rows of a table, one of which repeats another, three of which cannot be predicted."""
    path = tmp_path_factory.mktemp("questions") / "asked.tsv"
    path.write_text(QUESTIONS)
    return plan_screen(table=path, ports=ports, atlases=["tiny"], engine="weighted")


@pytest.mark.slow
def test_a_plan_drops_nothing_and_says_what_it_did_not_use(plan, ports):
    asked = [(one.perturbation, one.cell_type, bool(one.refusal)) for one in plan.questions]
    assert asked == [
        ("IFN-beta", "B cell", False),
        ("TNF-alpha", "monocyte", False),
        ("", "monocyte", True),
        ("XQ-99", "B cell", True),
        ("IL-6", "hepatocyte", True),
    ]
    assert "row 4 of asked.tsv has no perturbation" in plan.questions[2].refusal
    assert "'XQ-99' is not known; the nearest known:" in plan.questions[3].refusal
    assert "hepatocyte" in plan.questions[4].refusal
    assert plan.questions[0].evidence == "same_pair"
    assert plan.questions[0].measured
    assert any("'dose'" in one for one in plan.not_understood)
    assert any("repeats" in one for one in plan.not_understood)
    found = preview(plan, ports=ports)
    assert (found.n_predicted, found.n_left, found.n_tasks) == (2, 2, 4)
    assert "5 questions: 2 can be predicted by weighted, 3 are refused." in found.lines
    assert not Path(ports.settings.storage).exists()


@pytest.fixture(scope="module")
def done(plan, ports):
    """The finished screen."""
    return run_screen(plan, ports=ports)


@pytest.mark.slow
def test_every_question_has_a_row_and_predicted_ones_have_effects(done, ports):
    table = done.table
    assert tuple(table.columns) == COLUMNS
    assert list(table["status"]) == ["predicted", "predicted", "refused", "refused", "refused"]
    assert table.loc[table["status"] == "refused", "size"].isna().all()
    assert (table.loc[table["status"] == "refused", "reason"] != "").all()
    effects = done.effects
    assert list(effects.obs_names) == ["0001", "0002"]
    assert set(effects.layers) == {keys.EFFECT_SD, keys.PROB_DE, keys.LFSR, keys.LOG2FC}
    sizes = np.sqrt(np.nanmean(np.square(effects.X), axis=1))
    share = sizes / table["size"][:2]  # the size counts what is particular to the cells and cannot be predicted, too
    assert ((share > 0.4) & (share < 1.05)).all()
    assert (table["size_sd"][:2] > 0.1 * table["size"][:2]).all()
    assert table["p_response"][:2].notna().all() == (table["n_donors"][:2] >= 3).all()
    found = preview(done.plan, ports=ports)
    assert found.n_left == 0
    again = open_screen(done.id, settings=ports.settings)
    assert again.table.equals(table)
    assert again.effects.shape == effects.shape


@pytest.mark.slow
def test_a_screen_that_is_not_finished_opens_with_what_there_is_and_goes_on(done, ports):
    folder = f"{ports.settings.storage}/campaigns/{done.id}"
    before = done.table
    for name in (layout.RESULTS, layout.EFFECTS, f"{layout.question_folder(2)}/{layout.JUDGED}"):
        (Path(folder) / name).unlink()
    half = open_screen(folder)
    assert list(half.table["status"][:2]) == ["predicted", "waiting"]
    assert half.effects.n_obs == 1
    assert not half.is_finished
    submitted = len(ports.executors["local"].submitted)
    whole = run_screen(done.plan, ports=ports)
    assert len(ports.executors["local"].submitted) == submitted  # no prediction is made again
    assert whole.table.equals(before)


@pytest.mark.slow
def test_what_makes_no_screen_is_refused(ports):
    given = {"ports": ports, "atlases": ["tiny"], "engine": "weighted"}
    with pytest.raises(InvalidInputError, match="a screen needs treatments and cell types"):
        plan_screen(**given)
    with pytest.raises(InvalidInputError, match=r"treatments are named \(IFN-beta\) and no cell types"):
        plan_screen(["IFN-beta"], **given)
    with pytest.raises(InvalidInputError, match="no data set 'cell' in the atlases; they hold"):
        plan_screen(data_set="cell", **given)
    with pytest.raises(InvalidInputError, match="has no treatment of kind 'drug'; it has cytokine"):
        plan_screen(data_set="tiny", kind="drug", **given)
    with pytest.raises(InvalidInputError, match="workers is 0"):
        screen(["IFN-beta"], ["B cell"], workers=0, ports=ports)
    with pytest.raises(NotFoundError, match="no screen 'screen-000000000000'"):
        open_screen("screen-000000000000", settings=ports.settings)


@pytest.mark.slow
def test_treatments_of_a_data_set_of_a_target_and_of_a_pathway_are_asked_for(ports):
    whole = plan_screen(data_set="tiny", cell_types=["B cell"], ports=ports, atlases=["tiny"], engine="weighted")
    assert [one.perturbation for one in whole.questions] == ["IFN-beta", "TNF-alpha"]
    assert not any(one.refusal for one in whole.questions)
    sources = Sources.open(whole.config, ports)
    types = treatments_and_types(Asked(data_set="tiny", kind="cytokine"), sources=sources)[1]
    assert types == ["B cell", "monocyte", "natural killer cell"]
    for asked in (Asked(target="ifnar1"), Asked(pathway="Type I interferon response")):
        names = treatments_and_types(asked, sources=sources)[0]
        assert "IFN-beta" in names
        assert "TNF-alpha" not in names
    with pytest.raises(InvalidInputError, match="no treatment is known to act on 'IFNARX'"):
        treatments_and_types(Asked(target="IFNARX"), sources=sources)


@pytest.mark.slow
def test_a_donor_is_named_in_the_words_of_the_question(ports):
    assert words_of("IFN-beta", "B cell", "tiny:1256") == "How would B cells of donor 1256 respond to IFN-beta?"
    found = plan_screen(
        ["IFN-beta"], ["B cell"], donors=["d1", "d9"], ports=ports, atlases=["tiny"], engine="weighted"
    ).questions
    assert [bool(one.refusal) for one in found] == [False, True]
    assert "d9" in found[1].refusal


def test_a_table_says_what_it_lacks(tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text("drug,cell_type\nIL-6,B cell\n")
    with pytest.raises(
        InvalidInputError, match=r"asked\.csv has no column 'perturbation'; its columns: drug, cell_type"
    ):
        read_questions(path)
    path.write_text("perturbation,cell_type\n1,2-dichlorobenzene,B cell\n")
    with pytest.raises(InvalidInputError, match=r"line 2 of asked\.csv has more fields than its header"):
        read_questions(path)
    path.write_text("Perturbation,Cell type\nIL-6,B cell\n")
    assert read_questions(path)[0][0].cell_type == "B cell"


# --- one question as a run: drilling ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drilled(done, ports):
    return drill(done.id, 1, ports=ports).work(until="decide")  # the report is that of any run


@pytest.mark.slow
def test_the_run_has_the_numbers_of_the_question_asked_alone(drilled, done, ports):
    options = {"atlases": ["tiny"], "engine": "weighted", "literature": False, "max_rounds": 1, "planner": "offline"}
    config = build_config(ports.settings, **options)
    question = done.plan.questions[0].question
    alone = Run(ports.store.create(first_record(question, run_id="run-alone", config=config, ports=ports)), ports=ports)
    alone.work(until="decide")
    for name in (layout.DE, layout.PATHWAYS):
        path = layout.round_file(1, name)
        assert ports.store.read(drilled.run_id, path) == ports.store.read("run-alone", path), name
    assert drilled.record.rounds[0].composite == alone.record.rounds[0].composite
    assert drilled.record.query == alone.record.query
    assert drilled.record.candidates == alone.record.candidates
    row = done.table.iloc[0]
    assert row["composite"] == pytest.approx(alone.record.rounds[0].composite.value, nan_ok=True)
    assert row["n_called"] == alone.record.rounds[0].n_de
    de = parse_csv(ports.store.read(drilled.run_id, layout.round_file(1, layout.DE)), texts=(keys.GENE,))
    effects = de.set_index(keys.GENE)[keys.EFFECT].reindex(done.effects.var_names)
    np.testing.assert_allclose(done.effects["0001"].X.ravel(), effects, rtol=1e-5)


@pytest.mark.slow
def test_only_what_the_screen_left_out_was_predicted(drilled, done, ports):
    place, own = layout.question_folder(1), layout.round_folder(1)
    tasks = drilled.record.rounds[0].task_seconds
    assert set(tasks) == {"treated", "control", "baseline-none", "baseline-mean", "baseline-shift"}
    for name in ("treated", "control"):
        made = parse_result(done.files.read(layout.output_file(place, name) + RESULT_SUFFIX))
        assert tasks[name] == made.seconds  # that of the screen's prediction: it was skipped here
        held = ports.store.read(drilled.run_id, layout.output_file(own, name))
        assert held == done.files.read(layout.output_file(place, name))
    assert f"question 1 of {done.id}" in drilled.record.notes[-1]


@pytest.mark.slow
def test_the_same_call_finds_the_same_run_and_does_nothing(drilled, done, ports):
    before = len(ports.executors["local"].submitted)
    again = drill(f"{ports.settings.storage}/campaigns/{done.id}", 1, ports=ports)
    assert again.run_id == drilled.run_id == f"{done.id}-0001"
    assert again.record.serial == drilled.record.serial
    assert flow.next_step(again.record) == "decide"
    assert len(ports.executors["local"].submitted) == before


@pytest.mark.slow
def test_a_question_without_a_prediction_says_why(done, ports):
    with pytest.raises(InvalidInputError, match=r"question 4 was refused: .*'XQ-99' is not known"):
        drill(done.id, 4, ports=ports)
    for wrong in (0, 6, True, "1"):
        with pytest.raises(InvalidInputError, match="its questions have the numbers 1 to 5"):
            drill(done.id, wrong, ports=ports)


@pytest.mark.slow
def test_a_changed_atlas_is_noticed(done, ports):
    changed = {name: "0" * 64 for name in done.plan.digests if name.startswith("atlas:")}
    other = done.plan.model_copy(update={"digests": done.plan.digests | changed})
    run = drill(done.id, 2, ports=ports)
    with pytest.raises(ConflictError, match=r'atlas:tiny changed since the screen: .*haystack run "How would'):
        _check_same_sources(run.record, other)


# --- killed, and in the cloud ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_was_finished_when_the_program_was_killed_is_not_made_again(ports, tmp_path):
    """SIGKILL while questions are scored: every whole file stays as it is, and no prediction is asked for again."""
    storage = tmp_path / "storage"
    words = ["screen", "-p", "IFN-beta", "-p", "TNF-alpha", "-c", "B cell", "-c", "monocyte", "--atlas", "tiny"]
    words += ["--engine", "weighted", "--storage", str(storage), "--atlas-root", ports.settings.atlas_root, "--json"]
    program = Program(*words)
    deadline = time.monotonic() + PATIENCE_S
    while not list(storage.rglob(layout.JUDGED)):
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(program.pid, signal.SIGKILL)
    program.communicate(timeout=PATIENCE_S)

    [folder] = (storage / "campaigns").iterdir()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.is_file()}
    half = open_screen(str(folder))
    assert len(half.table) == 4
    assert half.effects.n_obs == (half.table["status"] == "predicted").sum() >= 1
    found = connect(load_settings(storage=str(storage), atlas_root=ports.settings.atlas_root))
    executor = InlineExecutor(found.clock)
    whole = run_screen(half.plan, ports=replace(found, executors={"local": executor}))
    assert (whole.table["status"] == "predicted").all()
    assert executor.submitted == []
    made = {layout.PLAN, layout.RESULTS, layout.EFFECTS}
    assert {path for path, at in kept.items() if path.stat().st_mtime_ns != at and path.name not in made} == set()


@pytest.fixture
def cloud(ports, tmp_path):
    """A local Batch service: ``cloud.work(approve=True)`` is a screen there; ``cloud.heard`` what it told."""
    served = load_server("batch")
    with served.batch_server(served.REAL) as server:
        own = {"project": "lab", "region": "us-central1", "inference_image": "registry/haystack-inference:1"}
        own |= {"endpoint": server.address, "insecure": True, "tasks_per_shard": 2}
        batch = type(ports.settings.batch)(**own)
        there = ports.settings.model_copy(update={"batch": batch, "storage": str(tmp_path / "storage")})

        def listen(event):
            server.heard.append(event.message)
            if event.message == server.interrupted_at:
                raise KeyboardInterrupt

        def work(**given):
            clock = FakeClock()
            executor = BatchExecutor(there, clock=clock, consent=Consent(**given))
            found = replace(connect(there), clock=clock, executors={"batch": executor}, progress=listen)
            options = {"atlases": ["tiny"], "engine": "weighted", "executor": "batch"}
            return screen(["IFN-beta"], ["B cell", "monocyte"], ports=found, **options)

        server.heard, server.interrupted_at, server.work = [], "", work
        yield server


@pytest.mark.slow
def test_in_the_cloud_a_screen_is_one_array_with_one_consent_and_one_bill(cloud):
    with pytest.raises(ApprovalNeededError, match="--yes"):
        cloud.work(approve=False)
    with pytest.raises(ApprovalNeededError, match=r"The cap is 0\.01 USD"):
        cloud.work(approve=True, max_usd=0.01)
    assert cloud.calls == []
    cloud.interrupted_at = "4 predictions, job running"
    with pytest.raises(KeyboardInterrupt):
        cloud.work(approve=True)
    assert len(cloud.started) == 1
    cloud.interrupted_at = ""
    found = cloud.work(approve=False)  # the job that was paid for is found again
    assert list(found.table["status"]) == ["predicted", "predicted"]
    assert len(cloud.started) == len(cloud.jobs) == 1
    assert any("job succeeded" in text and "for one attempt" in text for text in cloud.heard)
    made = [line.partition(":")[0] for log in cloud.logs.values() for line in log.splitlines() if " -> " in line]
    assert len(made) == len(set(made)) == 4
    assert cloud.work(approve=False).table.equals(found.table)


@pytest.mark.slow
def test_predictions_are_laid_beside_a_state_alone_and_in_a_search(done, ports):
    first = done.effects.to_df().iloc[0]
    state = TargetState("mine", first[first.abs().nlargest(20).index], kind="genes")  # what IFN-beta does most
    table = done.toward(state)
    assert list(table["number"]) == list(done.table["number"])
    assert table["toward"].notna().tolist() == (table["status"] == "predicted").tolist()
    assert table.loc[0, "toward"] > table.loc[1, "toward"]
    question = "Which cytokine moves B cells toward what I want?"
    found = seek(question, state=state, screen=done.id, atlases=["tiny"], ports=ports, n_draws=99)
    assert ("IFN-beta", "predicted") in set(zip(found.table["perturbation"], found.table["source"], strict=True))


@pytest.mark.slow
def test_a_screen_is_sealed_as_a_whole_and_its_questions_meet_one_measurement(done, ports):
    """A table of what was predicted for one question, and of another treatment: the rest is listed."""
    settings = ports.settings
    made = campaign.seal(done, settings=settings)
    assert (made.kind, made.of, [one.number for one in made.predictions]) == ("screen", done.id, [1, 2])
    assert campaign.check_seal(made.id, settings=settings).ok
    effects = pd.Series(done.effects.X[0], index=done.effects.var_names)
    table = pd.DataFrame({"gene": effects.index, "delta": effects.to_numpy(), "se": 0.05}).dropna()
    table = pd.concat([table.assign(treatment=name, cell_type="B cell") for name in ("IFN-beta", "IL-2")])
    found = campaign.record_outcome(made, table, settings=settings)
    assert found.table["number"].tolist() == [1]
    assert found.table["pearson"].iloc[0] > 0.9
    assert found.table["coverage"].iloc[0] == 1
    assert len(found.unmatched) == 1
    assert "TNF-alpha in monocyte" in found.unmatched[0]
    assert "rows of other perturbations were left out: IL-2" in found.outcomes[0].unmatched
    path = done.files.uri(f"{layout.question_folder(1)}/{layout.JUDGED}")
    data = Path(path).read_bytes()
    try:
        Path(path).write_bytes(Path(done.files.uri(f"{layout.question_folder(2)}/{layout.JUDGED}")).read_bytes())
        told = campaign.check_seal(made, settings=settings)
        assert [line.check for line in told.lines if line.ok is False] == ["predictions"]
        with pytest.raises(InvalidInputError, match="was changed after it was sealed"):
            campaign.record_outcome(made, table, number=1, settings=settings)
    finally:
        Path(path).write_bytes(data)
