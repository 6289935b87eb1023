"""Read what all jobs of a run or a campaign have spent and reserved, from the files of their attempts.

In: the owner's folder. Out: a :class:`haystack_kernel.jobs.consent.Spending`. An attempt that has ended counts its
bill. An attempt that runs, waits, or was never confirmed counts the highest cost that its intent reserved. An
orchestrator and the predictions that it starts therefore share one cap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.jobs.batch.attempts import Ledger
from haystack_kernel.jobs.consent import Outlay, Spending
from haystack_kernel.jobs.cost import estimate_attempt
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
    return Spending(tuple(found))
