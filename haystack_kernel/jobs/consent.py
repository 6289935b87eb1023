"""The gate in front of every executor: a job that costs money is created only with consent that is given now.

In: the consent of the current call, the standing cap, what the owner has spent and reserved so far. Out: nothing, or
ApprovalNeededError. Executors ask the gate right before they create anything: for first and further attempts, for
attempts that are asked for again because the answer was lost, for predictions, orchestrators and campaigns alike. A job
of this machine passes the same gate at a cost of zero. A planner that asks a language model asks the gate before each
request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from haystack_kernel.errors import ApprovalNeededError
from haystack_kernel.jobs.cost import describe, in_usd
from haystack_kernel.ports import Consent

if TYPE_CHECKING:
    from collections.abc import Callable

    from haystack_kernel.schema import CostEstimate, JobOwner, JobSpec, SpendingKind


@dataclass(frozen=True)
class Outlay:
    """What one attempt has cost, or may cost at most while its end is not known."""

    kind: SpendingKind
    job_id: str
    usd: float
    is_reserved: bool


@dataclass(frozen=True)
class Spending:
    """What a run or a campaign has spent and reserved, attempt by attempt."""

    outlays: tuple[Outlay, ...] = ()

    @property
    def spent_usd(self) -> float:
        """Bills of the attempts that have ended."""
        return sum((item.usd for item in self.outlays if not item.is_reserved), start=0.0)

    @property
    def reserved_usd(self) -> float:
        """Highest costs of the attempts that may still run."""
        return sum((item.usd for item in self.outlays if item.is_reserved), start=0.0)

    def without(self, job_id: str) -> Spending:
        """Return the same spending without one attempt."""
        return Spending(tuple(item for item in self.outlays if item.job_id != job_id))


@dataclass(frozen=True)
class Proposal:
    """Something that would cost money, in the words of a refusal.

    ``how_to_approve`` says the command that gives consent with a cap, or with none. ``instead`` follows an offer to
    approve it, and ``or_else`` says what else would bound the cost.
    """

    words: str
    likely_usd: float
    high_usd: float
    owner: JobOwner
    how_to_approve: Callable[[float | None], str]
    follow_up_usd: float = 0.0
    follow_up_words: str = ""
    reserved_for: str = "jobs that may still run"
    instead: str = ""
    or_else: str = ""


class SpendingGate:
    """Decides whether an attempt may be created.

    Parameters
    ----------
    consent
        Consent of the current call.
    standing_cap_usd
        The setting ``cost.max_usd``, which limits but gives no consent; None means no limit.
    """

    def __init__(self, consent: Consent | None = None, *, standing_cap_usd: float | None = None) -> None:
        self.consent = consent or Consent()
        self._standing_cap_usd = standing_cap_usd

    def check(self, spec: JobSpec, estimate: CostEstimate, spending: Spending) -> None:
        """Refuse an attempt that this call does not approve, or that would exceed a cap.

        Parameters
        ----------
        spec
            The job.
        estimate
            Cost of the attempt. Its highest cost, with what is spent and reserved, must not exceed the caps.
        spending
            What the job's owner has spent and reserved, without this attempt.

        Raises
        ------
        ApprovalNeededError
            Nothing has been started or spent by this call.
        """
        if estimate.high_usd == 0:
            return
        what = "The orchestrator" if spec.kind == "orchestrator" else "The job"
        follows = ""
        if spec.follow_up_usd:
            follows = f"; the first job that it starts may cost {in_usd(spec.follow_up_usd)} at most"
        proposal = Proposal(
            words=f"{what} would cost {describe(estimate)}",
            likely_usd=estimate.likely_usd,
            high_usd=estimate.high_usd,
            owner=spec.owner,
            how_to_approve=partial(_command_for, spec),
            follow_up_usd=spec.follow_up_usd,
            follow_up_words=follows,
            or_else="lower jobs.timeout_s, which bounds the highest cost",
        )
        self.decide(proposal, spending)

    def decide(self, proposal: Proposal, spending: Spending) -> None:
        """Refuse what this call does not approve, or what would exceed a cap; as :meth:`check`, for any spending."""
        spent, reserved, owner = spending.spent_usd, spending.reserved_usd, proposal.owner
        words = f"{proposal.words}; {owner.kind} {owner.id} has spent {in_usd(spent)}"
        if reserved:
            words += f", and up to {in_usd(reserved)} are reserved for {proposal.reserved_for}"
        facts = {
            "run_id": owner.id,
            "likely_usd": round(proposal.likely_usd, 4),
            "high_usd": round(proposal.high_usd, 4),
            "spent_usd": round(spent, 4),
            "reserved_usd": round(reserved, 4),
        }
        if not self.consent.approve:
            msg = (
                f"{words}. It was not started: approve it with {proposal.how_to_approve(None)}, and cap it with "
                f"--max-cost USD{proposal.instead}"
            )
            raise ApprovalNeededError(msg, **facts)
        needed = spent + reserved + proposal.high_usd + proposal.follow_up_usd
        caps = [cap for cap in (self.consent.max_usd, self._standing_cap_usd) if cap is not None]
        if not caps or needed <= min(caps):
            return
        rounded = math.ceil(100 * needed) / 100
        msg = f"{words}{proposal.follow_up_words}. The cap is {in_usd(min(caps))}. It was not started: "
        if self._standing_cap_usd is not None and needed > self._standing_cap_usd:
            msg += f"raise the setting cost.max_usd (HAYSTACK_COST__MAX_USD) to {rounded:.2f} first, then give "
        else:
            msg += "raise the cap with "
        msg += f"{proposal.how_to_approve(rounded)}, or {proposal.or_else}"
        raise ApprovalNeededError(msg, **facts)


def _command_for(spec: JobSpec, max_cost: float | None) -> str:
    return approval_command(spec, max_cost=max_cost)


def approval_command(spec: JobSpec, *, max_cost: float | None = None) -> str:
    """Say how to give the consent that a job lacks, on the command line and in Python."""
    owner: JobOwner = spec.owner
    cap = "" if max_cost is None else f", max_cost={max_cost:.2f}"
    flag = "" if max_cost is None else f" --max-cost {max_cost:.2f}"
    if owner.kind != "run":  # of a back-test, which goes on where the same command is given again
        return f"the same command and --yes{flag} (in Python approve=True{cap})"
    verb = "submit" if spec.kind == "orchestrator" else "resume"
    return f"`haystack {verb} {owner.id} --yes{flag}` (in Python {verb}({owner.id!r}, approve=True{cap}))"
