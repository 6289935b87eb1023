"""Prices and estimates: what a job may cost."""

import pytest

from haystack_kernel.jobs import describe, estimate_cost
from haystack_kernel.jobs.batch.machines import MACHINES
from haystack_kernel.jobs.cost import load_prices, n_shards
from haystack_kernel.schema import BatchSettings, JobSpec

RUN_ID = "run-20260102t030405-abcdef"


def spec_of(**changes):
    given = {
        "owner": {"id": RUN_ID, "round": 1},
        "job_id": f"haystack-{RUN_ID}-01234567",
        "command": (),
        "spec_hash": "0",
        "n_tasks": 6,
        "timeout_s": 1800,
    }
    return JobSpec(**{**given, **changes})


def test_the_price_table_has_every_machine_and_says_how_far_to_trust_it():
    prices = load_prices()
    for machine in MACHINES.values():
        price = prices.usd_per_hour[machine.machine_type]
        assert 0 < price["spot"] < price["on_demand"]
    assert "general knowledge" in prices.note
    assert prices.as_of


def test_the_estimate_is_seconds_times_the_price_of_machine_and_disk():
    estimate = estimate_cost(spec_of(), BatchSettings(boot_disk_gib=73))
    # boot 60, image 120, drivers 120, model 60, six tasks of 20
    assert estimate.likely_s == 60 + 120 + 120 + 60 + 6 * 20
    per_hour = 3.67 + 73 * 0.1 / 730
    assert estimate.likely_usd == pytest.approx(per_hour * estimate.likely_s / 3600)
    assert estimate.high_usd == pytest.approx(per_hour * (120 + 300 + 300 + 1800) / 3600)
    assert estimate.low_usd < estimate.likely_usd < estimate.high_usd


def test_spot_is_cheaper_but_its_highest_cost_is_that_on_demand():
    spot = estimate_cost(spec_of(), BatchSettings(spot=True))
    standard = estimate_cost(spec_of(), BatchSettings())
    assert spot.likely_usd < 0.5 * standard.likely_usd
    assert spot.high_usd == standard.high_usd


def test_times_measured_before_replace_the_typical_ones():
    estimate = estimate_cost(spec_of(), BatchSettings(), measured_s=[1.0, 3.0])
    assert estimate.likely_s == 60 + 120 + 120 + 60 + 6 * 2
    assert "2 task(s) measured before" in estimate.basis


def test_a_job_without_a_model_is_estimated_on_a_machine_without_gpu():
    estimate = estimate_cost(spec_of(needs_gpu=False), BatchSettings())
    assert "e2-standard-4" in estimate.machine
    assert estimate.likely_usd < 0.02


@pytest.mark.parametrize(("n_tasks", "expected"), [(1, 1), (16, 1), (17, 2), (128, 8), (294, 8)])
def test_tasks_are_shared_over_as_many_machines_as_the_bounds_allow(n_tasks, expected):
    assert n_shards(n_tasks, BatchSettings(tasks_per_shard=16, max_shards=8)) == expected


def test_shards_multiply_the_machines():
    estimate = estimate_cost(spec_of(n_tasks=32), BatchSettings())
    assert estimate.n_machines == 2
    alone = estimate_cost(spec_of(n_tasks=16), BatchSettings())
    assert estimate.high_usd == pytest.approx(2 * alone.high_usd)


def test_a_flex_start_machine_is_estimated_at_the_price_on_demand_and_the_estimate_says_so():
    flex = estimate_cost(spec_of(), BatchSettings(flex_start=True))
    standard = estimate_cost(spec_of(), BatchSettings())
    assert flex.provisioning == "flex_start"
    assert flex.likely_usd == standard.likely_usd
    assert "flex start at the price on demand" in flex.basis
    assert "with flex start" in describe(flex)
