"""The requests that a run made to a language model, in its folder: an intent before each, the answer after it.

In: a store and a run. Out: the calls so far; a call that was begun and never answered keeps what it reserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from haystack_kernel.errors import ConflictError, ContractError
from haystack_kernel.schema import Bill, Call, Transcript, Usage
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from haystack_kernel.ports import Store


class CallFolder:
    """The calls of one run.

    Parameters
    ----------
    store
        Where run folders are.
    run_id
        The run; it need not have a record yet.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self.calls: list[Call] = self._read()

    def begin(self, call: Call) -> Call:
        """Save the intent of a call under the next number, before anything is sent or spent."""
        call = call.model_copy(update={"number": len(self.calls) + 1})
        if not self._store.create_file(self._run_id, layout.call_file(call.number), _bytes(call)):
            msg = f"another worker asks the planner of run {self._run_id}; attach to the run instead"
            raise ConflictError(msg, run_id=self._run_id)
        self.calls.append(call)
        return call

    def save(self, call: Call) -> Call:
        """Save what became of a call."""
        self._store.write(self._run_id, layout.call_file(call.number), _bytes(call))
        self.calls[call.number - 1] = call
        return call

    def reject(self, step: str, reason: str) -> None:
        """Mark the answers of a step, so that the step asks again when it is repeated."""
        for call in list(self.calls):
            if call.step == step and not call.rejected:
                self.save(call.model_copy(update={"rejected": reason}))

    def _read(self) -> list[Call]:
        names = sorted(self._store.names(self._run_id, layout.CALLS))
        found = []
        for name in names:
            path = f"{layout.CALLS}/{name}"
            try:
                found.append(Call.model_validate_json(self._store.read(self._run_id, path)))
            except ValidationError as error:
                msg = f"{path} of run {self._run_id} is damaged; what it cost is not known. Restore it from a copy"
                raise ContractError(msg, path=path) from error
        return found


def bills_of(calls: Iterable[Call]) -> tuple[Bill, ...]:
    """Return what the calls of each step cost, one bill a step; steps that were answered from a transcript are free.

    Parameters
    ----------
    calls
        Of one run.

    Returns
    -------
    Bills of kind "planner", with what the answers say that they used. A call without an answer may have been paid for:
    caps count the most that it could cost (:func:`haystack_kernel.jobs.spending.read_spending`), a bill does not.

    Examples
    --------
    >>> bills_of(CallFolder(store, run_id).calls)[0].usd  # doctest: +SKIP
    0.012
    """
    found: dict[str, Bill] = {}
    for call in calls:
        if call.is_free:
            continue
        before = found.get(call.step)
        found[call.step] = Bill(
            kind="planner",
            job_id=f"planner-{call.step.replace(' ', '-')}",
            attempt=(before.attempt if before else 0) + 1,
            machine=call.model,
            seconds=(before.seconds if before else 0.0) + call.seconds,
            usd=(before.usd if before else 0.0) + call.usage.usd,
            state="unanswered" if call.status is None else "answered",
        )
    return tuple(found.values())


def usage_of(calls: Iterable[Call]) -> Usage:
    """Return what calls used together.

    Parameters
    ----------
    calls
        Of a step, or of a run.

    Returns
    -------
    Sums of tokens, dollars and requests.
    """
    total = Usage()
    for call in calls:
        total = total + call.usage
    return total


def to_transcript(calls: Iterable[Call]) -> bytes:
    """Write the calls of a run as the file that planner ``replay`` reads.

    Parameters
    ----------
    calls
        In their order.

    Returns
    -------
    JSON.
    """
    return Transcript(calls=tuple(calls)).model_dump_json(indent=1).encode()


def _bytes(call: Call) -> bytes:
    return call.model_dump_json().encode()
