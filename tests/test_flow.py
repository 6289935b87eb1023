"""The story from question to report on a designed atlas: order, resuming, deciding, choosing."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from haystack_kernel import flow, rounds
from haystack_kernel.config.connect import connect
from haystack_kernel.errors import (
    InvalidInputError,
    NoCandidateError,
    NotFoundError,
)
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.schema import Choice, Composite, Round, RoundSettings
from haystack_kernel.store import read_csv, read_h5ad

ONE_ROUND = ["choose 1", "assemble 1", "submit 1", "collect 1", "ground 1", "decide 1"]
STORY = ["understand", "retrieve", *ONE_ROUND, "interpret", "publish"]
MONOCYTES, T_CELLS = "tiny/tiny/IFN-beta/CL:0001054", "tiny/tiny/IFN-beta/CL:0000624"


def steps_of(record):
    return [time.step for time in record.steps]


def again(ports):
    """The same world seen by a process that starts now: nothing is remembered but what the executor did."""
    return replace(connect(ports.settings, progress=ports.progress), executors=ports.executors)


# --- the story ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_work_when_nothing_goes_wrong_ends_done_with_every_artifact(finished):
    ports, record = finished
    assert (record.status, record.termination, record.best_round) == ("done", "threshold", 1)
    assert steps_of(record) == STORY
    assert 5 <= record.score <= 7  # 199 draws cannot say more than 7
    assert record.serial == len(STORY) + 1
    for ref in (*record.files, *record.rounds[0].files):
        data = ports.store.read(record.run_id, ref.path)
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (ref.sha256, ref.n_bytes)
    names = {ref.path for ref in record.files}
    assert names >= {"predictions.h5ad", "de.csv", "pathways.csv", "prompts.csv", "candidates.csv", "embedding.csv"}
    assert b"<html" in ports.store.read(record.run_id, "report.html")
    heard = [event.phase for event in ports.progress.events if event.message == "done"]
    assert heard == [step.split()[0] for step in STORY]


@pytest.mark.slow
def test_work_predicts_the_response_that_the_atlas_was_designed_with(finished):
    ports, record = finished
    de = read_csv(ports.store, record.run_id, "rounds/1/de.csv").set_index("gene")
    response = [gene for gene in load_knowledge().perturbations["IFN-beta"].response if gene in de.index]
    assert len(response) > 30
    assert (de.loc[response, "log2fc"] > 0.5).mean() > 0.8
    predicted = read_h5ad(ports.store, record.run_id, "rounds/1/predictions.h5ad")
    query = read_h5ad(ports.store, record.run_id, "rounds/1/query.h5ad")
    assert set(query.obs["cell_type_name"]) == {"B cell"}
    assert query.obs_names.equals(predicted.obs_names)
    depth = np.asarray(predicted.X.sum(axis=1)).ravel(), np.asarray(query.X.sum(axis=1)).ravel()
    share = [adata[:, response].X.sum() / total.sum() for adata, total in zip((predicted, query), depth, strict=True)]
    assert share[0] > 2 * share[1]


@pytest.mark.slow
def test_advance_saves_exactly_one_record_a_step_and_says_the_step_before_it_starts(ports, begin):
    record = begin()
    folder = Path(ports.settings.storage) / "runs" / record.run_id / "record"
    while (step := flow.next_step(record)) not in ("ground", None):
        before = len(list(folder.iterdir()))
        record = flow.advance(record, ports)
        assert len(list(folder.iterdir())) == before + 1 == record.serial
        assert record.steps[-1].step.split()[0] == step
        assert json.loads((folder.parent / "run.json").read_text())["serial"] == record.serial


def test_next_step_follows_from_the_record_alone(record):
    bare = Round(number=1, choice=Choice(candidate_keys=("k",), reason="r"), candidates=())
    assert flow.next_step(record) == "understand"
    for status in ("done", "failed", "cancelled"):
        assert flow.next_step(record.model_copy(update={"status": status})) is None
    query = connect().planner_named("auto").understand(record.question).value
    record = record.model_copy(update={"query": query})
    assert flow.next_step(record) == "retrieve"
    record = record.model_copy(update={"candidates": ("any",)})
    assert flow.next_step(record) == "choose"
    filled = {
        "assemble": {},
        "submit": {"spec": "any"},
        "collect": {"job": "any"},
        "ground": {"task_seconds": {"treated": 1.0}},
        "decide": {"composite": Composite(value=2.0, weight_computed=1.0)},
        "choose": {"decision": "go on"},
    }
    for step, update in filled.items():
        bare = bare.model_copy(update=update)
        assert flow.next_step(record.model_copy(update={"rounds": (bare,)})) == step
    record = record.model_copy(update={"rounds": (bare,), "termination": "threshold"})
    assert flow.next_step(record) == "interpret"
    assert flow.next_step(record.model_copy(update={"interpretation": "any"})) == "publish"


@pytest.mark.slow
def test_work_when_restarted_after_every_step_repeats_none_and_ends_the_same(finished, ports, begin):
    elsewhere, straight = finished
    record = begin(threshold=5)
    while flow.next_step(record) is not None:
        fresh = again(ports)
        record = flow.revive(fresh.store.load(record.run_id), fresh)
        record = flow.advance(record, fresh)
    assert steps_of(record) == steps_of(straight) == STORY
    assert len(ports.executors["local"].submitted) == 1
    assert record.rounds[0].composite == straight.rounds[0].composite
    for name in ("de.csv", "pathways.csv", "prompts.csv", "embedding.csv"):
        assert ports.store.read(record.run_id, name) == elsewhere.store.read(straight.run_id, name)


@pytest.mark.slow
def test_work_when_no_round_reaches_the_threshold_tries_every_choice_once_and_publishes_the_best(ports, begin):
    record = flow.work(begin(threshold=10, max_rounds=9, n_prompt=4, n_query=3), ports)
    assert record.termination == "no_more_candidates"
    used = [frozenset(item.choice.candidate_keys) for item in record.rounds]
    assert used == [{MONOCYTES, T_CELLS}, {T_CELLS}, {MONOCYTES}]
    assert steps_of(record)[-3:] == ["choose 4", "interpret", "publish"]
    values = [item.composite.value for item in record.rounds]
    assert values[record.best_round - 1] == max(values)
    for name in ("predictions.h5ad", "de.csv"):
        best = ports.store.read(record.run_id, f"rounds/{record.best_round}/{name}")
        assert ports.store.read(record.run_id, name) == best
    assert len(set(ports.executors["local"].submitted)) == 3


# --- deciding -------------------------------------------------------------------------------------------------------


def with_scores(record, *values, **config):
    made = tuple(
        Round(
            number=number,
            choice=Choice(candidate_keys=(f"k{number}",), reason="r"),
            candidates=(),
            composite=Composite(value=value, weight_computed=1.0, reason="x"),
        )
        for number, value in enumerate(values, 1)
    )
    asked = record.config.model_copy(update={"threshold": 7.0, "max_rounds": 5, **config})
    return record.model_copy(update={"rounds": made, "config": asked})


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "best", "termination"),
    [
        ([6.99], 1, None),
        ([7.0], 1, "threshold"),
        ([3.0, 8.0], 2, "threshold"),
        ([5.0, 3.0, 2.0, 5.5], 4, "plateau"),  # the best round of the last three gains 0.5 only
        ([5.0, 3.0, 2.0, 6.0], 4, None),  # a gain of exactly 1 goes on
        ([5.0, 3.0, 2.0], 1, None),  # three rounds cannot be three without a gain
        ([1.0, 3.0, 2.0, 2.5], 2, None),  # the gain lies within the window
        ([4.0, 6.0, 5.0, 6.5, 6.2], 4, "max_rounds"),  # the best is not the last
        ([5.0, 5.0], 1, None),  # of equals the first
        ([NAN], 1, None),
        ([NAN, 2.0], 2, None),  # any score beats none
        ([2.0, NAN], 1, None),
        ([NAN, NAN, NAN, NAN], 1, "plateau"),
        ([NAN, 2.0, NAN, NAN], 2, None),  # from no score to a score is a gain
        ([NAN] * 5, 1, "max_rounds"),
    ],
)
def test_decide_names_the_best_round_and_why_the_rounds_end(record, values, best, termination):
    found = rounds.decide(with_scores(record, *values), settings=RoundSettings())
    assert found[:2] == (best, termination)
    assert found[2].startswith("go on" if termination is None else "stop")


def test_decide_says_not_scored_where_no_round_has_a_score(record):
    assert "not scored" in rounds.decide(with_scores(record, NAN), settings=RoundSettings())[2]


def test_decide_takes_the_plateau_from_the_settings(record):
    settings = RoundSettings(plateau_rounds=1, plateau_gain=0.5)
    assert rounds.decide(with_scores(record, 3.0, 3.4), settings=settings)[1] == "plateau"
    assert rounds.decide(with_scores(record, 3.0, 3.5), settings=settings)[1] is None


# --- choosing -------------------------------------------------------------------------------------------------------


def test_hidden_pairs_never_become_candidates_or_prompt_cells(ports, begin):
    record = flow.work(begin(hide=["CD14+ monocyte:IFN-beta"]), ports, until="submit")
    assert [item.key for item in record.candidates] == [T_CELLS]
    prompt = read_h5ad(ports.store, record.run_id, "rounds/1/prompt.h5ad")
    assert set(prompt.obs["cell_type_original"]) == {"CD4 T cell"}


def test_pinned_and_banned_candidates_reach_the_rounds(ports, begin):
    record = flow.work(begin(pin=[MONOCYTES], ban=[T_CELLS]), ports, until="submit")
    assert record.rounds[0].choice.candidate_keys == (MONOCYTES,)
    prompt = read_h5ad(ports.store, record.run_id, "rounds/1/prompt.h5ad")
    assert set(prompt.obs["cell_type_original"]) == {"CD14+ monocyte"}
    assert prompt.n_obs == 36


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"pin": ["tiny/none"]}, InvalidInputError, "cannot pin tiny/none"),
        ({"ban": [MONOCYTES, T_CELLS]}, NoCandidateError, "banned"),
        ({"hide": ["CD14+ monocyte:IFN-beta", "CD4 T cell:IFN-beta"]}, NoCandidateError, "hidden"),
    ],
)
def test_choices_that_leave_nothing_are_refused_in_words(ports, begin, options, error, says):
    record = begin(**options)
    with pytest.raises(error, match=says):
        flow.work(record, ports)
    failed = ports.store.load(record.run_id)
    assert (failed.status, failed.failure.kind) == ("failed", error.__name__)
    assert not ports.executors["local"].submitted


@pytest.mark.slow
def test_own_cells_are_transformed_instead_of_those_of_the_atlas(ports, begin, tiny_h5ad, tmp_path):
    own = ad.read_h5ad(tiny_h5ad)  # B cells among others, treated ones too
    own.obs_names = [f"mine{i}" for i in range(own.n_obs)]
    own.write_h5ad(tmp_path / "mine.h5ad")
    record = flow.work(begin(query_h5ad=str(tmp_path / "mine.h5ad")), ports, until="decide")
    assert record.query_set is None
    predicted = read_h5ad(ports.store, record.run_id, "rounds/1/predictions.h5ad")
    assert predicted.n_obs == 24
    fitting = own.obs_names[((own.obs["cell_type"] == "B cell") & (own.obs["perturbation"] == "control")).to_numpy()]
    assert set(predicted.obs_names) <= set(fitting)
    first = record.rounds[0]
    assert first.query_source == f"{len(fitting)} of {own.n_obs} cells of mine.h5ad"
    assert "sampled" in first.query_cells
    assert "treated (perturbation: IFN-beta" in first.query_cells


def test_own_cells_that_are_gone_fail_the_step_that_reads_them(ports, begin, tmp_path):
    record = begin(query_h5ad=str(tmp_path / "gone.h5ad"))
    with pytest.raises(NotFoundError, match=r"gone\.h5ad"):
        flow.work(record, ports)
    assert ports.store.load(record.run_id).failure.step == "assemble"


def manifest_of(record, ports):
    return json.loads(ports.store.read(record.run_id, f"rounds/{len(record.rounds)}/manifest.json"))


def test_query_as_control_when_asked_for_makes_no_control_prediction(ports, begin):
    record = flow.work(begin(control_strategy="query_as_control"), ports, until="submit")
    assert (record.rounds[0].control_strategy, record.rounds[0].control_note) == ("query_as_control", "")
    assert "control" not in [task["id"] for task in manifest_of(record, ports)["tasks"]]
    assert record.rounds[0].n_control > 0  # the engine still needs them to tell the effect from the cell type


@pytest.mark.slow
def test_synthetic_control_is_the_default_and_predicts_from_the_matched_controls(finished):
    ports, record = finished
    assert record.rounds[0].control_strategy == "synthetic_control"
    tasks = {task["id"]: task for task in manifest_of(record, ports)["tasks"]}
    assert tasks["control"]["prompt"] == tasks["treated"]["control"]
    assert tasks["control"]["query"] == tasks["treated"]["query"]


@pytest.mark.slow
def test_without_matched_control_the_run_falls_back_says_so_and_is_capped(ports, begin):
    record = flow.work(begin("How would B cells respond to TNF-alpha?"), ports, until="decide")
    last = record.rounds[0]
    assert last.n_control == 0
    assert (record.config.control_strategy, last.control_strategy) == ("synthetic_control", "query_as_control")
    assert "synthetic_control needs matched control cells: no control" in last.control_note
    assert "control" not in last.task_seconds
    assert last.composite.cap < 7
    assert "no donor-matched control" in last.composite.reason
