"""What a job may cost before it starts, and what it has cost once it has ended.

In: a job, settings, the packaged list prices. Out: CostEstimate and Bill; pure apart from reading the prices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.jobs.batch.attempts import rung_of
from haystack_kernel.jobs.batch.machines import MACHINES, find_machine, machine_of
from haystack_kernel.schema import Bill, CostEstimate
from haystack_kernel.schema.jobs import PROVISIONING_WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.jobs.batch.attempts import Attempt
    from haystack_kernel.jobs.batch.machines import Machine
    from haystack_kernel.schema import BatchSettings, JobSpec, Provisioning

_HOURS_A_MONTH = 730.0
# Flex start is often cheaper than on demand. How much differs between machine types, so estimates do not count on it.
_PRICE_COLUMN: dict[Provisioning, str] = {"spot": "spot", "flex_start": "on_demand", "on_demand": "on_demand"}
FREE = CostEstimate(
    machine="",
    low_usd=0,
    likely_usd=0,
    high_usd=0,
    low_s=0,
    likely_s=0,
    high_s=0,
    basis="a process of this machine costs nothing",
)


@dataclass(frozen=True)
class _Seconds:
    low: float
    likely: float
    high: float

    def __add__(self, other: _Seconds) -> _Seconds:
        return _Seconds(self.low + other.low, self.likely + other.likely, self.high + other.high)


# A machine is paid for from its boot: drivers (GPU only), the image, then the work. The high values are for slow days.
_BOOT = _Seconds(40, 60, 120)
_DRIVERS = _Seconds(60, 120, 300)
_PULL = {"inference": _Seconds(60, 120, 300), "orchestrator": _Seconds(30, 60, 120)}
_LOAD = _Seconds(15, 60, 180)  # of the model, once per process
_TASK = {True: _Seconds(5, 20, 60), False: _Seconds(1, 3, 20)}  # with a GPU, without
_ORCHESTRATOR = _Seconds(300, 1200, 3600)  # a run of a few rounds


@dataclass(frozen=True)
class Prices:
    """The packaged table of list prices."""

    version: int
    as_of: str
    note: str
    usd_per_hour: dict[str, dict[str, float]]
    disk_usd_per_gib_month: float

    def per_hour(self, machine: Machine, *, provisioning: Provisioning, disk_gib: int) -> float:
        """Dollars per hour for one machine with its boot disk."""
        disk = disk_gib * self.disk_usd_per_gib_month / _HOURS_A_MONTH
        return self.usd_per_hour[machine.machine_type][_PRICE_COLUMN[provisioning]] + disk


@cache
def load_prices() -> Prices:
    """Load the packaged list prices; raises LookupError if a machine preset has none."""
    raw = json.loads(Path(__file__).with_name("prices.json").read_text(encoding="utf-8"))
    prices = Prices(
        version=raw["version"],
        as_of=raw["as_of"],
        note=raw["note"],
        usd_per_hour=raw["machine_usd_per_hour"],
        disk_usd_per_gib_month=raw["boot_disk_usd_per_gib_month"],
    )
    missing = {machine.machine_type for machine in MACHINES.values()} - prices.usd_per_hour.keys()
    if missing:
        msg = f"prices.json has no price of {sorted(missing)}"
        raise LookupError(msg)
    return prices


def n_shards(n_tasks: int, settings: BatchSettings) -> int:
    """Number of machines for ``n_tasks`` tasks: one for each ``tasks_per_shard`` tasks, and at most ``max_shards``."""
    return min(settings.max_shards, -(-n_tasks // settings.tasks_per_shard))


def estimate_cost(
    spec: JobSpec,
    settings: BatchSettings,
    *,
    provisioning: Provisioning | None = None,
    measured_s: Sequence[float] = (),
) -> CostEstimate:
    """Estimate the cost of one attempt on Google Cloud Batch.

    Parameters
    ----------
    spec
        The job; its time limit bounds ``high``.
    settings
        Section ``batch``: machines, Spot, disk, shards.
    provisioning
        How the attempt's machines are provisioned; None takes the provisioning of a first attempt.
    measured_s
        Measured seconds of similar tasks, e.g. of earlier rounds; they replace the typical times.

    Returns
    -------
    Dollars for all machines together, and seconds of each machine. ``high`` is the on-demand price of the whole time
    limit after a slow start. An attempt costs more than that only if its machine starts even more slowly.
    """
    machine, prices = machine_of(spec, settings), load_prices()
    provisioning = provisioning or rung_of(spec, 0, settings).provisioning
    has_gpu = bool(machine.accelerator)
    start = _BOOT + _PULL[spec.kind] + (_DRIVERS if has_gpu else _Seconds(0, 0, 0))
    if spec.kind == "orchestrator":
        shards, work = 1, _ORCHESTRATOR
    else:
        shards = n_shards(spec.n_tasks, settings)
        n_each = -(-spec.n_tasks // shards)  # of the machine with the most tasks, rounded up
        task = _TASK[has_gpu]
        if measured_s:
            task = _Seconds(min(measured_s), sum(measured_s) / len(measured_s), max(measured_s))
        load = _LOAD if has_gpu else _Seconds(5, 10, 30)
        work = load + _Seconds(task.low * n_each, task.likely * n_each, task.high * n_each)
    limit = spec.timeout_s
    seconds = _Seconds(start.low + min(work.low, limit), start.likely + min(work.likely, limit), start.high + limit)
    disk_gib = settings.boot_disk_gib
    price = prices.per_hour(machine, provisioning=provisioning, disk_gib=disk_gib) * shards / 3600
    dearest = prices.per_hour(machine, provisioning="on_demand", disk_gib=disk_gib) * shards / 3600
    if measured_s:
        seen = f"{len(measured_s)} task(s) measured before"
    elif spec.engines:
        seen = f"typical times of HAYSTACK's own engines, none measured yet of {', '.join(spec.engines)}"
    else:
        seen = "typical times, none measured yet"
    flex = "; flex start at the price on demand, the provider may charge less" if provisioning == "flex_start" else ""
    return CostEstimate(
        machine=machine.words,
        provisioning=provisioning,
        n_machines=shards,
        low_usd=seconds.low * price,
        likely_usd=seconds.likely * price,
        high_usd=seconds.high * dearest,
        low_s=seconds.low,
        likely_s=seconds.likely,
        high_s=seconds.high,
        basis=f"list prices of {prices.as_of} (version {prices.version}, to be checked){flex}; {seen}; high: the whole "
        f"time limit of {limit:g} s on demand",
    )


def estimate_attempt(attempt: Attempt, settings: BatchSettings) -> CostEstimate:
    """Estimate the cost of a planned or recorded attempt, from its own tasks and the provisioning of its machines."""
    spec = attempt.spec
    if attempt.tasks:
        spec = spec.model_copy(update={"n_tasks": len(attempt.tasks)})
    return estimate_cost(spec, settings, provisioning=attempt.rung.provisioning)


def bill_of(attempt: Attempt, settings: BatchSettings, *, state: str, seconds: float) -> Bill:
    """Return the bill of an attempt whose machines were each paid for ``seconds``."""
    machine, provisioning = find_machine(attempt.machine), attempt.rung.provisioning
    per_hour = load_prices().per_hour(machine, provisioning=provisioning, disk_gib=settings.boot_disk_gib)
    return Bill(
        kind=attempt.spec.kind,
        job_id=attempt.job_id,
        attempt=attempt.number,
        machine=machine.words,
        provisioning=provisioning,
        n_machines=attempt.n_shards,
        seconds=seconds,
        usd=per_hour * seconds * attempt.n_shards / 3600,
        state=state,
    )


def in_usd(amount: float) -> str:
    """Put an amount in words, with the digits that keep a small one from reading as nothing.

    Parameters
    ----------
    amount
        US dollars.

    Returns
    -------
    Two decimals; below a cent two significant digits.

    Examples
    --------
    >>> in_usd(12.345), in_usd(0.0001)
    ('12.35 USD', '0.0001 USD')
    """
    return f"{amount:.2f} USD" if amount == 0 or amount >= 0.01 else f"{amount:.2g} USD"


def describe(estimate: CostEstimate) -> str:
    """Put an estimate into words: likely cost, range, machines and time.

    Parameters
    ----------
    estimate
        Of one attempt of a job.

    Returns
    -------
    One phrase, without a full stop.
    """
    where = f"{estimate.n_machines} x {estimate.machine} {PROVISIONING_WORDS[estimate.provisioning]}"
    low, likely, high = (in_usd(amount) for amount in (estimate.low_usd, estimate.likely_usd, estimate.high_usd))
    usd = f"about {likely} ({low} to at most {high} an attempt)"
    time = f"{estimate.low_s / 60:.0f} to {estimate.high_s / 60:.0f} min"
    return f"{usd} on {where} for {time} [{estimate.basis}]"
