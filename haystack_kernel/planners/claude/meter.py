"""What stands between the planner and the service: consent, caps, retries, and the record of every request.

In: requests of the SDK. Out: its answers, or those recorded earlier; each is kept in the run folder with its cost.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2

from haystack_kernel.errors import ApprovalNeededError, ContractError, LimitError, ServiceError
from haystack_kernel.jobs.consent import Outlay, Proposal, Spending, SpendingGate
from haystack_kernel.jobs.cost import in_usd
from haystack_kernel.planners.claude.cost import price_of, usage_in
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.schema import Call, JobOwner, Usage
from haystack_kernel.store import CallFolder, usage_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from haystack_kernel.ports import Clock, PlannerView
    from haystack_kernel.schema import ClaudeSettings, CostEstimate

OFFLINE = "or go on without a language model: `haystack resume {run_id} --planner offline`"
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # statuses after which another try may succeed
_FIRST_WAIT_S = 2.0
_MOST_LOST = 2  # answers of one step that never came
_NO_CONNECTION = 0  # in place of a status: nothing was sent


class Meter(anthropic.Middleware):
    """Middleware of the client of one step.

    Parameters
    ----------
    view
        The step, and the folder of its run.
    settings
        Section ``claude``: caps and patience.
    gate
        Consent of the current call, and the standing cap.
    clock
        Measures and waits.
    tape
        Recorded calls that answer instead of the service; None asks the service.
    estimate
        What the planner of the run is likely to cost, for the words of a refusal.
    """

    def __init__(
        self,
        view: PlannerView,
        *,
        settings: ClaudeSettings,
        gate: SpendingGate,
        clock: Clock,
        tape: Sequence[Call] | None,
        estimate: CostEstimate,
    ) -> None:
        self.view, self.settings, self._gate, self._clock = view, settings, gate, clock
        self.folder = CallFolder(view.store, view.run_id)
        self.of_step: list[Call] = []
        self.playing: Call | None = None  # the recorded answer that the client returns instead of sending anything
        self._estimate = estimate
        self._is_replay = tape is not None
        self._recorded: dict[str, list[Call]] = defaultdict(list)
        for call in self._kept() if tape is None else tape:
            if call.status is not None:
                self._recorded[call.digest].append(call)

    @property
    def usage(self) -> Usage:
        """What the step used, answers that an interrupted try was given before included."""
        return usage_of(self.of_step)

    def reject(self, reason: str) -> None:
        """Have a repeated step ask again: its answers could not be used."""
        if not self._is_replay:
            self.folder.reject(self.view.step, reason)

    def handle(self, request: anthropic.APIRequest, call_next: anthropic.CallNext) -> Any:  # noqa: ANN401 - the SDK's
        """Send one request, as often as its patience allows, or answer it from the record."""
        body = request.json if isinstance(request.json, dict) else {}
        for number in range(1, self.settings.tries):
            try:
                call, response = self._try(request, call_next, body=body)
            except anthropic.APIConnectionError:
                call = self.of_step[-1]
                if sum(item.status is None for item in self.of_step) >= _MOST_LOST:
                    raise  # each may have been paid for
            else:
                if call.status not in _AGAIN:
                    return response
            self._wait(call, number=number)
        return self._try(request, call_next, body=body)[1]

    # --- one try ---

    def _try(self, request: Any, call_next: Any, *, body: Mapping[str, Any]) -> tuple[Call, Any]:  # noqa: ANN401
        digest = digest_of(body)
        recorded = self._recorded.get(digest, [])
        self.playing = recorded.pop(0) if recorded else None
        if self.playing is not None:
            call = self.playing
            if self._is_replay:
                free = {"is_free": True, "step": self.view.step, "reserved_usd": 0.0, "rejected": ""}
                call = self.folder.begin(call.model_copy(update=free))
            self.of_step.append(call)
            return call, call_next(request)
        if self._is_replay:
            n_asked = len(self.of_step) + 1
            msg = (
                f"the transcript has no answer to request {n_asked} of step {self.view.step!r}: the question, the "
                "prompts, the tables or the cells are others than when it was recorded. Replay it on what it was "
                "recorded with, or ask with planner claude"
            )
            raise ContractError(msg, step=self.view.step, digest=digest)
        return self._send(request, call_next, body=body, digest=digest)

    def _send(self, request: Any, call_next: Any, *, body: Mapping[str, Any], digest: str) -> tuple[Call, Any]:  # noqa: ANN401
        model = str(body["model"])
        call = Call(
            number=1,
            step=self.view.step,
            model=model,
            digest=digest,
            request=dict(body),
            asked_at=self._clock.now(),
            reserved_usd=price_of(model).most(body),
        )
        self._check_limits(call)
        if not self.of_step:
            cap = in_usd(self.settings.max_usd)
            self._tell(f"planner claude asks {model}, at most {in_usd(call.reserved_usd)} a request and {cap} a run")
        call = self.folder.begin(call)
        self.of_step.append(call)
        started = self._clock.monotonic()
        try:
            response = call_next(request)
        except anthropic.APIConnectionError as error:
            is_unsent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
            seconds = self._clock.monotonic() - started
            status = _NO_CONNECTION if is_unsent else None  # what was sent may have been paid for
            self._keep(call.model_copy(update={"status": status, "seconds": seconds}))
            raise
        http = response.http_response
        answer = _body_of(http)
        usage = usage_in(answer, model=model) if http.status_code == httpx2.codes.OK else Usage()
        update = {
            # an answer without usage is not the service's; what the request cost stays open
            "status": None if usage is None else http.status_code,
            "answer": answer,
            "usage": (usage or Usage()).model_copy(update={"calls": 1}),
            "seconds": self._clock.monotonic() - started,
            "retry_after_s": _retry_after(http),
        }
        call = self._keep(call.model_copy(update=update))
        if usage is None:
            msg = f"{request.url} answered with something else than a message: {str(answer)[:120]!r}"
            raise ServiceError(msg, service="claude", retryable=True)
        return call, response

    def _keep(self, call: Call) -> Call:
        self.of_step[-1] = self.folder.save(call)
        return call

    def _kept(self) -> list[Call]:
        """Answers that an earlier, interrupted try of this step was given."""
        return [
            call
            for call in self.folder.calls
            if call.step == self.view.step and call.status == httpx2.codes.OK and not call.rejected
        ]

    # --- limits ---

    def _check_limits(self, call: Call) -> None:
        """Refuse a request beyond a cap of the run, or one that this call does not consent to."""
        limits, paid = self.settings, [item for item in self.folder.calls if not item.is_free]
        used = usage_of(paid)
        seconds = sum(item.seconds for item in paid)
        n_turns = len(self.of_step)
        checks = {
            "max_turns": (n_turns >= limits.max_turns, f"{n_turns} requests in step {self.view.step!r}"),
            "max_total_tokens": (
                used.input_tokens + used.output_tokens >= limits.max_total_tokens,
                f"{used.input_tokens + used.output_tokens:,} tokens",
            ),
            "max_seconds": (seconds >= limits.max_seconds, f"{seconds:.0f} s of waiting"),
        }
        for name, (is_over, used_up) in checks.items():
            if is_over:
                msg = (
                    f"planner claude has used {used_up}, which is the limit claude.{name} of this run. Raise it "
                    f"(HAYSTACK_CLAUDE__{name.upper()}) and resume the run, {self._offline}"
                )
                raise LimitError(msg, limit=f"claude.{name}", run_id=self.view.run_id)
        self._check_money(call, spent=sum(item.usage.usd for item in paid))

    def _check_money(self, call: Call, *, spent: float) -> None:
        high, cap = call.reserved_usd, self.settings.max_usd
        run_id, estimate = self.view.run_id, self._estimate
        all_spent, all_reserved = self.view.spending()
        proposal = Proposal(
            words=(
                f"Planner claude would ask {call.model} in step {self.view.step!r}: this request costs at most "
                f"{in_usd(high)}, the planner of the whole run about {in_usd(estimate.likely_usd)} and at most "
                f"{in_usd(cap)} [{estimate.basis}]"
            ),
            likely_usd=estimate.likely_usd,
            high_usd=high,
            owner=JobOwner(id=run_id),
            how_to_approve=self._how_to_approve,
            reserved_for="jobs that may still run and for requests whose answer was lost",
            instead=f"; {self._offline}",
            or_else=self._offline.removeprefix("or "),
        )
        outlays = (
            Outlay("inference", "all", all_spent, is_reserved=False),
            Outlay("inference", "open", all_reserved, is_reserved=True),
        )
        self._gate.decide(proposal, Spending(outlays))
        if spent + high > cap:
            msg = (
                f"{proposal.words}; it has spent {in_usd(spent)}. It was not asked: raise the setting claude.max_usd "
                f"(HAYSTACK_CLAUDE__MAX_USD) to {spent + high:.2f} and resume the run, {self._offline}"
            )
            facts = {"likely_usd": round(estimate.likely_usd, 4), "high_usd": round(high, 4)}
            raise ApprovalNeededError(msg, run_id=run_id, spent_usd=round(spent, 4), **facts)

    @property
    def _offline(self) -> str:
        if self.view.step == "understand":  # there is no run yet
            return "or ask without a language model: --planner offline"
        return OFFLINE.format(run_id=self.view.run_id)

    def _how_to_approve(self, max_cost: float | None) -> str:
        flag = "" if max_cost is None else f" --max-cost {max_cost:.2f}"
        cap = "" if max_cost is None else f", max_cost={max_cost:.2f}"
        if self.view.step == "understand":
            return f"--yes{flag} (in Python approve=True{cap})"
        run_id = self.view.run_id
        return f"`haystack resume {run_id} --yes{flag}` (in Python resume({run_id!r}, approve=True{cap}))"

    def _wait(self, call: Call, *, number: int) -> None:
        """Wait before another try: as long as the service asks for, unless that is longer than anybody waits."""
        seconds = call.retry_after_s if call.retry_after_s is not None else _FIRST_WAIT_S * 2 ** (number - 1)
        if seconds > self.settings.max_wait_s:
            msg = (
                f"the service of planner claude asks to wait {seconds:.0f} s (status {call.status}), longer than "
                f"claude.max_wait_s = {self.settings.max_wait_s:g}. Resume the run then, {self._offline}"
            )
            raise ServiceError(msg, service="claude", retryable=True, retry_after_s=int(seconds))
        if call.is_free:
            return
        state = f"is busy (status {call.status})" if call.status else "gave no answer"
        message = f"the service of planner claude {state}; trying again in {seconds:.0f} s"
        self._tell(message)
        self._clock.sleep(seconds)

    def _tell(self, message: str) -> None:
        phase, _, number = self.view.step.partition(" ")
        number_of_round = int(number) if number else None
        event = ProgressEvent(run_id=self.view.run_id, phase=phase, message=message, round=number_of_round)
        self.view.progress(event)


def digest_of(body: Mapping[str, Any]) -> str:
    """Return the digest of a request, the same through every provider."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _body_of(http: httpx2.Response) -> Any:  # noqa: ANN401 - JSON, or text where it is none
    try:
        return http.json()
    except ValueError:
        return http.text[:2000]


def _retry_after(http: httpx2.Response) -> float | None:
    try:
        return max(0.0, float(http.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
