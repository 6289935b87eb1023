"""A fork takes over exactly the steps that its change does not touch, and its result is that of a run from scratch."""

import json

import pytest

from haystack_kernel import flow
from haystack_kernel.config.options import build_config
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.manage import fork
from haystack_kernel.manage.changes import parse_changes
from haystack_kernel.report.trust import trust_table
from haystack_kernel.run import new_record
from haystack_kernel.schema import RECORD_FIELDS, ROUND_FIELDS, Round
from haystack_kernel.store import layout, read_h5ad

pytestmark = pytest.mark.slow

ROUND = ["choose", "cells", "predict", "ground"]


def of_rounds(*numbers, upto="ground"):
    return [f"{name} {number}" for number in numbers for name in ROUND[: ROUND.index(upto) + 1]]


def reused(run):
    return list(run.record.forked_from.reused)


CHANGES = [
    {"threshold": 9},
    {"max_rounds": 1},
    {"seed": 1},
    {"engine": "mean"},
    {"n_query": 12},
    {"n_prompt": 30},
    {"literature": True},
    {"ban": ["donor=d1"]},
    {"question": "How would NK cells respond to IFN-beta?"},
]


def fields(item, names):
    """The named fields as JSON, in which NaN equals NaN."""
    return item.model_dump_json(include=set(names))


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_every_field_that_a_reused_step_wrote_is_the_parents_and_every_other_is_empty(parent, world, changes):
    options = {name: value for name, value in changes.items() if name != "question"}
    made = fork(parent.run_id, changes=options, question=changes.get("question"), settings=world)
    record, taken = made.record, reused(made)
    for step in ("understand", "retrieve"):
        if step == "understand" and "question" in changes:
            continue  # a new question is understood before the fork is saved
        source = parent if step in taken else parent.before("understand")
        assert fields(record, RECORD_FIELDS[step]) == fields(source, RECORD_FIELDS[step])
    assert len(record.rounds) == len([name for name in taken if name.startswith("choose")])
    for old, new in zip(parent.rounds, record.rounds, strict=False):
        empty = Round(**old.written_by("choose"))
        steps = {name.partition(" ")[0] for name in taken if name.endswith(f" {old.number}")}
        for entry in ("choose", "cells", "predict", "ground", "spending"):
            source = old if entry in steps else empty
            assert fields(new, ROUND_FIELDS[entry]) == fields(source, ROUND_FIELDS[entry])
        assert new.feedback == (old.feedback if "ground" in steps else ())
        assert bool(new.decision) == ("ground" in steps)
        digests = {ref.path: ref.sha256 for ref in old.files if layout.step_of(ref.path) in steps}
        found = {ref.path: ref.sha256 for ref in new.files}
        assert found.keys() == digests.keys()
        rewritten = layout.round_file(old.number, layout.PREDICTIONS)  # it names the run that it belongs to
        assert {path for path in digests if digests[path] != found[path]} <= {rewritten}


@pytest.fixture(scope="module")
def criticised(world, world_ports):
    """A scored run whose prompt has no matched control cells, which every round says; read only."""
    config = build_config(world, threshold=10)
    record = new_record("How would B cells respond to TNF-alpha?", run_id=None, config=config, ports=world_ports)
    return flow.work(world_ports.store.create(record), world_ports, until="interpret")


def test_the_report_of_a_fork_shows_the_confidence_and_the_feedback_of_its_parent(criticised, world):
    record = fork(criticised.run_id, changes={"threshold": 9}, settings=world).record
    shown = str(trust_table(record))
    assert shown == str(trust_table(criticised))
    for text in (criticised.best.confidence.aspects[0].name, criticised.rounds[0].feedback[0].sentence):
        assert text in shown


def test_feedback_follows_the_threshold_of_the_fork(criticised, world):
    first = criticised.rounds[0]
    assert first.feedback
    reached = fork(
        criticised.run_id, changes={"threshold": round(first.composite.value - 0.05, 2)}, settings=world
    ).record
    assert reached.rounds[0].feedback == ()  # nothing has to change once the threshold is reached
    again = fork(reached.run_id, changes={"threshold": 10}, settings=world).record
    assert again.rounds[0].feedback == first.feedback
    assert flow.next_step(again) == "choose"


def test_a_higher_threshold_takes_over_every_score_and_decides_anew(parent, world, world_ports):
    made = fork(parent.run_id, changes={"threshold": 9}, settings=world)
    record = made.record
    assert reused(made) == ["understand", "retrieve", *of_rounds(1, 2)]
    assert record.forked_from.changes == {"threshold": 9.0}
    assert (record.config.threshold, parent.config.threshold) == (9, 10)
    assert [item.composite for item in record.rounds] == [item.composite for item in parent.rounds]
    assert flow.next_step(record) == "interpret"
    assert "threshold 9" in record.rounds[0].decision
    for item in record.rounds:
        for ref in item.files:
            assert len(world_ports.store.read(record.run_id, ref.path)) == ref.n_bytes


def test_a_lower_threshold_ends_where_a_run_from_scratch_would(parent, world):
    first = parent.rounds[0].composite.value
    record = fork(parent.run_id, changes={"threshold": round(first - 0.05, 2)}, settings=world).record
    assert (len(record.rounds), record.termination, record.best_round) == (1, "threshold", 1)


def test_another_seed_takes_over_the_candidates_and_gives_what_a_new_run_gives(parent, world, world_ports):
    made = fork(parent.run_id, changes={"seed": 1, "max_rounds": 1}, settings=world)
    assert reused(made) == ["understand", "retrieve", "choose 1"]
    assert flow.next_step(made.record) == "assemble"
    done = flow.work(made.record, world_ports, until="collect")
    fresh = new_record(parent.question, run_id=None, config=made.record.config, ports=world_ports)
    fresh = flow.work(world_ports.store.create(fresh), world_ports, until="collect")
    for name in ("prompt", "control", "query", "outputs/treated"):
        one, other = (read_h5ad(world_ports.store, item.run_id, f"rounds/1/{name}.h5ad") for item in (done, fresh))
        assert one.obs_names.equals(other.obs_names)
        assert (one.X != other.X).nnz == 0


def test_another_engine_takes_over_the_cells_and_writes_a_manifest_of_its_own(parent, world, world_ports):
    made = fork(parent.run_id, changes={"engine": "mean"}, settings=world)
    assert reused(made) == ["understand", "retrieve", *of_rounds(1, upto="cells")]
    assert flow.next_step(made.record) == "assemble"
    record = flow.work(made.record, world_ports, until="submit")
    manifest = json.loads(world_ports.store.read(record.run_id, "rounds/1/manifest.json"))
    assert {task["engine"] for task in manifest["tasks"] if task["id"] == "treated"} == {"mean"}
    assert record.run_id in manifest["tasks"][0]["query"]
    old, new = ({ref.path: ref.sha256 for ref in item.rounds[0].files} for item in (parent, record))
    assert {path: new[path] for path in ("rounds/1/prompt.h5ad", "rounds/1/query.h5ad")} == {
        path: old[path] for path in ("rounds/1/prompt.h5ad", "rounds/1/query.h5ad")
    }
    record = flow.work(record, world_ports, until="ground")
    assert record.rounds[0].task_seconds


def test_another_question_takes_over_nothing(parent, world):
    made = fork(parent.run_id, question="How would NK cells respond to IFN-beta?", settings=world)
    assert reused(made) == []
    assert made.record.query.cell_type_name == "natural killer cell"
    assert flow.next_step(made.record) == "retrieve"


def test_predictions_of_a_fork_name_the_fork(parent, world, world_ports):
    record = fork(parent.run_id, changes={"threshold": 8}, settings=world).record
    told = read_h5ad(world_ports.store, record.run_id, "rounds/1/predictions.h5ad").uns["haystack"]
    assert json.loads(told["run_id"]) == record.run_id
    assert json.loads(told["config"])["threshold"] == 8
    before = read_h5ad(world_ports.store, parent.run_id, "rounds/1/predictions.h5ad")
    assert json.loads(before.uns["haystack"]["run_id"]) == parent.run_id
    assert told["enrichment"] == before.uns["haystack"]["enrichment"]


def test_a_round_whose_files_are_gone_is_done_again(parent, world, world_ports):
    copy = fork(parent.run_id, changes={"threshold": 9.5}, settings=world).record
    world_ports.store.remove(copy.run_id, ["rounds/1/outputs/treated.h5ad"])
    made = fork(copy.run_id, changes={"threshold": 9.6}, settings=world)
    assert reused(made) == ["understand", "retrieve", *of_rounds(1, upto="cells")]
    assert flow.next_step(made.record) == "assemble"


def test_a_fork_keeps_the_settings_its_parent_began_with(parent, world):
    later = world.model_copy(update={"grounding": world.grounding.model_copy(update={"n_draws": 999})})
    made = fork(parent.run_id, changes={"threshold": 9}, settings=later)
    assert made.record.settings == parent.settings
    assert reused(made) == ["understand", "retrieve", *of_rounds(1, 2)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"treshold": 9}, "did you mean 'threshold'.*possible: atlases"),
        ({"threshold": 99}, "threshold"),
        ({"seed": "many"}, "seed"),
        ({"threshold": 10}, "nothing of run .* would change"),
        ({}, "nothing of run"),
        ({"pin": ["cell_type=no such cells"]}, "no such cells"),
    ],
)
def test_fork_refuses_what_cannot_be_changed_and_makes_nothing(parent, world, world_ports, changes, says):
    before = world_ports.store.list_runs()
    with pytest.raises(InvalidInputError, match=says):
        fork(parent.run_id, changes=changes, settings=world)
    assert world_ports.store.list_runs() == before


def test_changes_are_read_from_text():
    assert parse_changes(["threshold=9", "max-rounds = 2", "model=", "engine=none"]) == {
        "threshold": "9",
        "max_rounds": "2",
        "model": None,
        "engine": "none",
    }
    assert parse_changes(["ban=donor=d1", "ban=dataset=a,cell_type=B cell"])["ban"] == [
        "donor=d1",
        "dataset=a,cell_type=B cell",
    ]
    assert parse_changes(['atlases=["a", "b"]', "atlases=c"])["atlases"] == ["a", "b", "c"]
    assert parse_changes(["ban="])["ban"] == []


@pytest.mark.parametrize(
    ("text", "says"), [("threshold", "KEY=VALUE"), ("x=1", "not an option"), ("ban=[1", "JSON list")]
)
def test_changes_that_cannot_be_read_are_refused(text, says):
    with pytest.raises(InvalidInputError, match=says):
        parse_changes([text])
