"""What a step reads changes its digest, and the digests of the steps after it; nothing else does."""

import pytest

from haystack_kernel.manage.step_inputs import MODEL_OPTIONS, OPTIONS, UNREAD_OPTIONS, step_inputs, step_names
from haystack_kernel.schema import HiddenPair, RunConfig, RunRecord, Settings

STEPS = step_names(2)


@pytest.fixture
def base(clock):
    return RunRecord(
        run_id="run-20260102t030405-abcdef",
        question="How would B cells respond to IFN-beta?",
        config=RunConfig(engine="weighted", planner="offline"),
        settings={
            name: value
            for name, value in Settings().model_dump().items()
            if name in ("retrieval", "rounds", "grounding")
        },
        digests={"atlas:demo": "a" * 64, "knowledge": "b" * 64},
        versions={"haystack-kernel": "0.1.0", "numpy": "2"},
        created_at=clock.now(),
    )


def test_every_option_of_a_run_is_read_by_a_step_or_said_to_be_read_by_none():
    read = {*MODEL_OPTIONS}.union(*OPTIONS.values())
    assert read | {*UNREAD_OPTIONS} == set(RunConfig.model_fields)
    assert read.isdisjoint(UNREAD_OPTIONS)


def first_changed(base, **update):
    """Steps whose digest differs, and the first of them."""
    other = base.model_copy(update=update)
    changed = [step for step in STEPS if step_inputs(base, step) != step_inputs(other, step)]
    return changed


def with_config(base, **changes):
    return {"config": base.config.model_copy(update=changes)}


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"planner": "claude"}, "understand"),
        ({"control_strategy": "query_as_control"}, "understand"),
        ({"atlases": ("other",)}, "retrieve"),
        ({"query_atlas": "other"}, "retrieve"),
        ({"query_h5ad": "~/cells.h5ad"}, "retrieve"),
        ({"hide": (HiddenPair(cell_type_id="CL:0000236", perturbation="IFN-beta"),)}, "retrieve"),
        ({"pin": ("x",)}, "retrieve"),
        ({"ban": ("x",)}, "retrieve"),
        ({"n_prompt": 10}, "cells 1"),
        ({"n_query": 10}, "cells 1"),
        ({"seed": 5}, "cells 1"),
        ({"engine": "mean"}, "predict 1"),
        ({"literature": True}, "ground 1"),
    ],
)
def test_an_option_changes_the_step_that_reads_it_and_all_after_it(base, changes, first):
    assert first_changed(base, **with_config(base, **changes)) == STEPS[STEPS.index(first) :]


@pytest.mark.parametrize("changes", [{"threshold": 9.0}, {"max_rounds": 2}])
def test_when_to_stop_is_read_by_the_decisions_alone(base, changes):
    assert first_changed(base, **with_config(base, **changes)) == ["decide 1", "decide 2"]


@pytest.mark.parametrize("changes", [{"model": "m"}, {"genelist": "g"}, {"diffusion_steps": 9}])
def test_what_describes_a_model_counts_only_where_a_model_predicts(base, changes):
    assert first_changed(base, **with_config(base, **changes)) == []
    stack = base.model_copy(update=with_config(base, engine="stack"))
    assert first_changed(stack, **with_config(stack, **changes)) == STEPS[STEPS.index("predict 1") :]


def test_an_engine_that_cannot_pool_changes_the_choice_where_there_is_one(base):
    shift = with_config(base, engine="shift")
    assert first_changed(base, **shift)[0] == "predict 1"
    several = base.model_copy(update={"candidates": (None, None)})
    assert first_changed(several, **shift)[0] == "choose 1"


@pytest.mark.parametrize(
    ("update", "first"),
    [
        ({"question": "How would T cells respond to IFN-beta?"}, "understand"),
        ({"digests": {"atlas:demo": "c" * 64, "knowledge": "b" * 64}}, "retrieve"),
        ({"digests": {"atlas:demo": "a" * 64, "knowledge": "c" * 64}}, "understand"),
        ({"versions": {"haystack-kernel": "9"}}, "understand"),
    ],
)
def test_what_lies_outside_the_run_counts(base, update, first):
    assert first_changed(base, **update) == STEPS[STEPS.index(first) :]


@pytest.mark.parametrize(("section", "first"), [("retrieval", "retrieve"), ("grounding", "ground 1")])
def test_a_section_of_the_settings_counts_for_the_step_that_reads_it(base, section, first):
    update = {"settings": {**base.settings, section: {"other": 1}}}
    changed = first_changed(base, **update)
    assert changed == STEPS[STEPS.index(first) :]


def test_the_rules_of_stopping_count_for_decisions_alone(base):
    assert first_changed(base, settings={**base.settings, "rounds": {"other": 1}}) == ["decide 1", "decide 2"]


def test_what_has_no_part_in_a_step_changes_nothing(base):
    same = {"run_id": "run-20260102t030405-ffffff", "serial": 9, "versions": {"haystack-kernel": "0.1.0", "numpy": "3"}}
    assert first_changed(base, **same, notes=("x",), **with_config(base, executor="batch")) == []
