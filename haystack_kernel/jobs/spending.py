"""Read what all jobs and the planner of a run have spent and reserved, from the files of attempts and of calls.

In: the owner's folder. Out: a :class:`haystack_kernel.jobs.consent.Spending`. An attempt that has ended counts its
bill. An attempt that runs, waits, or was never confirmed counts the highest cost that its intent reserved. An
orchestrator, the predictions that it starts and the language model that plans them therefore share one cap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.jobs.batch.attempts import Ledger
from haystack_kernel.jobs.consent import Outlay, Spending
from haystack_kernel.jobs.cost import estimate_attempt
from haystack_kernel.schema import Call
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from haystack_kernel.jobs.places import Places
    from haystack_kernel.schema import BatchSettings


def read_spending(folder: str, *, places: Places, settings: BatchSettings) -> Spending:
    """Return what the jobs of a run folder or a campaign folder have cost and reserved."""
    found = []
    for job_id in places.names(f"{folder}/{layout.JOBS}"):
        ledger = Ledger(places, f"{folder}/{layout.job_folder(job_id)}")
        for attempt in ledger.attempts():
            ending = ledger.ending(attempt)
            if ending is not None:
                usd = ending.bill.usd
            elif attempt.highest_usd is not None:
                usd = attempt.highest_usd
            else:  # recorded by a version that reserved nothing
                usd = estimate_attempt(attempt, settings).high_usd
            found.append(Outlay(attempt.spec.kind, attempt.job_id, usd, is_reserved=ending is None))
    return Spending((*found, *_of_planner(folder, places)))


def _of_planner(folder: str, places: Places) -> list[Outlay]:
    """What the language model cost; a call whose answer never came counts what it reserved."""
    found = []
    for name in places.names(f"{folder}/{layout.CALLS}"):
        call = Call.model_validate_json(places.read(f"{folder}/{layout.CALLS}/{name}"))
        is_open = call.status is None
        if not call.is_free:
            usd = call.reserved_usd if is_open else call.usage.usd
            found.append(Outlay("planner", f"{layout.CALLS}/{name}", usd, is_reserved=is_open))
    return found
