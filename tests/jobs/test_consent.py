"""The gate of spending: nothing that costs money passes without consent that is given now and room in every cap."""

import itertools
import json

import pytest

from haystack_kernel.errors import ApprovalNeededError, InvalidInputError
from haystack_kernel.jobs import SpendingGate, estimate_cost
from haystack_kernel.jobs.batch.attempts import Ledger
from haystack_kernel.jobs.consent import Outlay, Spending
from haystack_kernel.jobs.cost import FREE, in_usd
from haystack_kernel.jobs.places import Places
from haystack_kernel.jobs.spec import owner_of
from haystack_kernel.jobs.spending import read_spending
from haystack_kernel.ports import Consent
from haystack_kernel.schema import BatchSettings, Bill, CostEstimate, JobHandle, JobSpec, JobStatus, RunRecord

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


def costing(usd):
    return FREE.model_copy(update={"machine": "m", "high_usd": usd})


def spent(*, ended=0.0, live=0.0):
    outlays = (Outlay("inference", "a", ended, is_reserved=False), Outlay("orchestrator", "b", live, is_reserved=True))
    return Spending(outlays)


@pytest.mark.parametrize("approve", [True, False])
def test_an_attempt_passes_exactly_where_it_is_free_or_approved_within_both_caps(approve):
    caps, amounts = (None, 0, 0.5, 1, 2, 3.5, 4), (0, 1)
    for cap, standing in itertools.product(caps, repeat=2):
        for highest, ended, live, follow_up in itertools.product(amounts, repeat=4):
            walk(approve, cap, standing, highest=highest, ended=ended, live=live, follow_up=follow_up)


def walk(approve, cap, standing, *, highest, ended, live, follow_up):
    gate = SpendingGate(Consent(approve=approve, max_usd=cap), standing_cap_usd=standing)
    needed = ended + live + highest + follow_up
    fits = all(needed <= limit for limit in (cap, standing) if limit is not None)
    spec = spec_of(kind="orchestrator", command=("run",), follow_up_usd=follow_up)
    if highest == 0 or (approve and fits):
        gate.check(spec, costing(highest), spent(ended=ended, live=live))
        return
    with pytest.raises(ApprovalNeededError) as caught:
        gate.check(spec, costing(highest), spent(ended=ended, live=live))
    assert f"haystack submit {RUN_ID} --yes" in str(caught.value)
    assert "not started" in str(caught.value)


def test_the_message_has_the_numbers_and_the_cap_that_it_names_is_enough():
    estimate, so_far = estimate_cost(spec_of(), BatchSettings()), spent(ended=1.0, live=0.5)
    with pytest.raises(ApprovalNeededError, match=rf"resume\('{RUN_ID}', approve=True\)") as caught:
        SpendingGate().check(spec_of(), estimate, so_far)
    assert "has spent 1.00 USD, and up to 0.50 USD are reserved" in str(caught.value)
    assert caught.value.facts["likely_usd"] == round(estimate.likely_usd, 4)
    with pytest.raises(ApprovalNeededError) as caught:
        SpendingGate(Consent(approve=True, max_usd=1.6)).check(spec_of(), estimate, so_far)
    named = float(str(caught.value).partition("--max-cost ")[2].split("`")[0])
    SpendingGate(Consent(approve=True, max_usd=named)).check(spec_of(), estimate, so_far)
    with pytest.raises(ApprovalNeededError, match=r"raise the setting cost\.max_usd"):
        SpendingGate(Consent(approve=True), standing_cap_usd=1.6).check(spec_of(), estimate, so_far)


@pytest.mark.parametrize("approve", ["False", "yes", 1, 0, object()])
def test_only_a_boolean_is_consent(approve):
    with pytest.raises(InvalidInputError, match="give True or False"):
        Consent(approve=approve)


@pytest.mark.parametrize("cap", ["5", -1, float("nan"), True])
def test_only_an_amount_is_a_cap(cap):
    with pytest.raises(InvalidInputError, match="give an amount in US dollars"):
        Consent(approve=True, max_usd=cap)


def test_a_cap_alone_is_no_consent():
    with pytest.raises(ApprovalNeededError):
        SpendingGate(Consent(max_usd=100), standing_cap_usd=100).check(spec_of(), costing(1), Spending())


# --- what is on record ----------------------------------------------------------------------------------------------

OLD_ATTEMPT = {
    "number": 1,
    "first": 1,
    "job_id": f"haystack-{RUN_ID}-89abcdef",
    "spec": {
        "run_id": RUN_ID,
        "round": 0,
        "kind": "orchestrator",
        "job_id": f"haystack-{RUN_ID}-89abcdef",
        "command": ["run", "How?", "--run-id", RUN_ID, "--storage", "gs://b", "--yes", "--max-cost", "5"],
        "spec_hash": "0",
        "n_tasks": 1,
        "timeout_s": 3600,
        "environment": {"HAYSTACK_COST__APPROVE": "@json true", "HAYSTACK_SEED": "@json 3"},
        "budget_usd": 5.0,
    },
    "command": ["run"],
    "tasks": None,
    "n_shards": 1,
    "machine": "cpu",
    "rung": {"spot": False, "locations": ["regions/us-central1"]},
    "created_at": "2026-01-02T00:00:00Z",
}


def test_a_spec_of_an_earlier_version_reads_back_without_its_consent():
    spec = JobSpec(**OLD_ATTEMPT["spec"])
    assert (spec.owner.kind, spec.owner.id, spec.owner.round) == ("run", RUN_ID, 0)
    assert spec.command == ("run", "How?", "--run-id", RUN_ID, "--storage", "gs://b")
    assert spec.environment == {"HAYSTACK_SEED": "@json 3"}
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_bills_and_estimates_of_an_earlier_version_keep_their_spot():
    old = {"job_id": "j", "attempt": 1, "machine": "m", "spot": True, "seconds": 1, "usd": 2, "state": "succeeded"}
    assert (Bill(**old).provisioning, Bill(**old).kind) == ("spot", "inference")
    shown = json.loads(costing(1).model_dump_json())
    shown.pop("provisioning")
    assert CostEstimate(**shown, spot=False).provisioning == "on_demand"


def test_the_ledger_counts_bills_of_what_ended_and_reserves_the_rest(tmp_path, clock):
    folder = tmp_path / "runs" / RUN_ID
    for number, ending in ((1, 0.25), (2, None)):
        job = folder / "jobs" / f"haystack-{RUN_ID}-0000000{number}"
        job.mkdir(parents=True)
        spec = {**OLD_ATTEMPT["spec"], "kind": "inference", "job_id": job.name, "command": []}
        attempt = {**OLD_ATTEMPT, "job_id": job.name, "spec": spec, "highest_usd": 2.0}
        (job / "attempt-0001.json").write_text(json.dumps(attempt))
        if ending is not None:
            bill = {"job_id": job.name, "attempt": 1, "machine": "m", "seconds": 1, "usd": ending, "state": "failed"}
            end = {"state": "failed", "cause": "preempted", "detail": "", "bill": bill}
            (job / "attempt-0001.end.json").write_text(json.dumps(end))
    old = folder / "jobs" / OLD_ATTEMPT["job_id"]
    old.mkdir()
    (old / "attempt-0001.json").write_text(json.dumps(OLD_ATTEMPT))
    places, settings = Places(1, clock=clock), BatchSettings(region="us-central1")
    found = read_spending(str(folder), places=places, settings=settings)
    (attempt,) = Ledger(places, str(old)).attempts()
    reserved_by_old = estimate_cost(attempt.spec, settings).high_usd
    assert found.spent_usd == 0.25
    assert found.reserved_usd == pytest.approx(2.0 + reserved_by_old)
    assert found.without(OLD_ATTEMPT["job_id"]).reserved_usd == 2.0


def test_the_owner_of_a_job_is_a_run_or_a_campaign(clock):
    given = {"executor": "batch", "spec_hash": "0", "submitted_at": clock.now()}
    of_run = JobHandle(job_id=f"haystack-{RUN_ID}-01234567", **given)
    assert owner_of(of_run).id == RUN_ID
    of_campaign = JobHandle(job_id="haystack-x", owner={"kind": "campaign", "id": "campaign-1"}, **given)
    assert owner_of(of_campaign).kind == "campaign"
    with pytest.raises(InvalidInputError, match="is not haystack-"):
        owner_of(JobHandle(job_id="other", **given))


def test_a_back_test_without_consent_says_that_the_same_command_goes_on_with_it():
    spec = spec_of(owner={"kind": "campaign", "id": "backtest-0123456789ab"})
    with pytest.raises(
        ApprovalNeededError, match=r"campaign backtest-.* approve it with the same command and --yes \("
    ):
        SpendingGate().check(spec, costing(1.0), spent())
    with pytest.raises(ApprovalNeededError, match=r"--yes --max-cost 1\.00 \(in Python approve=True, max_cost=1\.00\)"):
        SpendingGate(Consent(approve=True, max_usd=0.5)).check(spec, costing(1.0), spent())


def test_a_record_sums_its_bills_by_kind(record):
    bill = Bill(kind="orchestrator", job_id="o", attempt=1, machine="m", seconds=1, usd=0.5, state="running: so far")
    later = bill.model_copy(update={"usd": 0.75, "state": "succeeded"})
    so_far, ended = JobStatus(state="running", accrued=bill), JobStatus(state="succeeded", bills=(later,))
    billed = record.with_bills_of(None).with_bills_of(so_far).with_bills_of(ended).with_bills_of(ended)
    assert billed.bills == (later,)
    assert billed.cost_by_kind == {"orchestrator": 0.75}
    assert billed.cost_usd == 0.75
    assert RunRecord.model_validate_json(billed.model_dump_json()).cost_usd == 0.75


def test_a_cap_below_a_cent_does_not_read_as_nothing():
    assert [in_usd(amount) for amount in (0.0, 0.0001, 0.01, 12.345)] == [
        "0.00 USD",
        "0.0001 USD",
        "0.01 USD",
        "12.35 USD",
    ]
