"""Which step writes which field is said once: the table covers both records, and resetting a step follows it."""

from collections import Counter
from itertools import chain

import pytest

from haystack_kernel import flow
from haystack_kernel.schema import RECORD_FIELDS, ROUND_FIELDS, Bill, Round, RunRecord
from haystack_kernel.store import layout


@pytest.mark.parametrize(("table", "model"), [(ROUND_FIELDS, Round), (RECORD_FIELDS, RunRecord)])
def test_every_field_belongs_to_exactly_one_entry(table, model):
    assert Counter(chain.from_iterable(table.values())) == Counter(list(model.model_fields))


@pytest.mark.slow
def test_a_record_before_a_step_goes_on_at_that_step_and_keeps_what_came_before(parent):
    starts = {"understand": "understand", "retrieve": "retrieve", "rounds": "choose", "interpret": "interpret"}
    names = list(RECORD_FIELDS)
    for step, first in starts.items():
        back = parent.model_copy(update={"status": "done"}).before(step)
        assert flow.next_step(back) == first
        for name in chain.from_iterable(RECORD_FIELDS[one] for one in names[: names.index(step)]):
            assert getattr(back, name) == getattr(parent, name), name


@pytest.mark.slow
def test_what_was_spent_on_rounds_that_are_reset_still_counts(parent):
    bill = Bill(job_id="job-1", attempt=1, machine="a machine", seconds=60, usd=2.5, state="succeeded")
    paid = parent.rounds[0].model_copy(update={"bills": (bill,)})
    record = parent.model_copy(update={"rounds": (paid, *parent.rounds[1:])})
    assert record.before("interpret").cost_usd == record.before("retrieve").cost_usd == record.cost_usd == 2.5
    assert record.before("interpret").bills == ()


@pytest.mark.slow
def test_a_round_before_a_step_has_the_fields_of_the_steps_before_it_and_its_spending(parent):
    whole = parent.rounds[0]
    names = list(ROUND_FIELDS)
    for step in ("cells", "predict", "ground", "decide"):
        back = whole.before(step)
        fresh = Round(**whole.written_by("choose"))
        kept = [*names[: names.index(step)], "spending", "running"]
        for entry, fields in ROUND_FIELDS.items():
            source = whole if entry in kept else fresh
            assert {name: getattr(back, name) for name in fields} == {name: getattr(source, name) for name in fields}


@pytest.mark.slow
def test_every_file_of_a_round_belongs_to_the_step_that_wrote_it(parent, world_ports):
    found = {path: layout.step_of(path) for path in world_ports.store.files(parent.run_id)}
    inside = {path.removeprefix("rounds/1/"): step for path, step in found.items() if path.startswith("rounds/1/")}
    assert {name for name, step in inside.items() if step == "cells"} == {"prompt.h5ad", "control.h5ad", "query.h5ad"}
    assert {"manifest.json", "outputs/treated.h5ad"} <= {name for name, step in inside.items() if step == "predict"}
    assert {"de.csv", "predictions.h5ad", "citations.json"} <= {n for n, step in inside.items() if step == "ground"}
    assert {step for path, step in found.items() if not path.startswith("rounds/")} == {None}
