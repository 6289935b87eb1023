"""A storage service that fails is asked again: which failures may pass, how long they are waited out, what is said.

In: a request as a function. Out: its result, or :class:`BucketError` in words once the patience has ended.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from inference.errors import BucketError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Result = TypeVar("Result")

LOGIN = "gcloud auth application-default login"
PASSING = (408, 429, 500, 502, 503, 504)
_N_DAMAGED = 5  # transfers of one file whose checksum may differ before it is given up
# words of the service's 400, twice, and of the client library where fewer bytes came than the object has
_DAMAGE = ("match calculated", "Malformed multipart", "The X-Goog-Stored-Content-Length is")


# The library stamina was considered for the loops that use these pauses, here and around Google Cloud Batch. It fits
# neither: its sleep and its clock cannot be injected per loop, a deadline cannot start anew when a part of a transfer
# gets through, and what is said before each wait is set once for the whole process.
def growing_pauses(longest_s: float) -> Iterator[float]:
    """Seconds to pause between tries: they double from one up to ``longest_s``, each up to half as long again."""
    pause_s = 1.0  # one object takes one write a second
    while True:
        yield pause_s * random.uniform(1.0, 1.5)
        pause_s = min(2 * pause_s, longest_s)


def _silent(_line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Patience:
    """How long a failing service is asked again: pauses double from one second, each up to half as long again.

    Parameters
    ----------
    seconds
        Longest time between the first failure and the last try; a chunk that gets through starts it anew.
    saving_s
        The same for what is written: what was computed would be lost. None: as ``seconds``.
    sleep, monotonic
        The clock.
    tell
        Called with one line before each wait but the first.
    """

    seconds: float = 300.0
    saving_s: float | None = None
    longest_pause_s: float = 32.0
    sleep: Callable[[float], None] = time.sleep  # noqa: TID251 - the container has no clock to inject
    monotonic: Callable[[], float] = time.monotonic
    tell: Callable[[str], None] = _silent

    def when_saving(self) -> Patience:
        """The patience for what is written."""
        return self if self.saving_s is None else replace(self, seconds=self.saving_s)


class Attempts:
    """The tries of one transfer: waits between them, words when they end."""

    def __init__(self, uri: str, patience: Patience) -> None:
        self._uri, self._patience = uri, patience
        self._n_damaged = 0
        self._start_anew()

    def repeat(self, action: Callable[[], Result]) -> Result:
        """Result of ``action``, tried again while what it raises may pass."""
        while True:
            try:
                return action()
            except _faults() as error:
                self._wait(error)

    def each(self, request: Callable[[], Result]) -> Callable[[], Result]:
        """Wrap one request of several: it alone is tried again, and patience starts anew when it gets through."""

        def tried() -> Result:
            while True:
                try:
                    result = request()
                except _faults() as error:
                    if _is_damage(error) or not _is_passing(error):
                        raise
                    self._wait(error)
                else:
                    self._start_anew()
                    return result

        return tried

    def _start_anew(self) -> None:
        self._deadline: float | None = None
        self._pauses, self._n_waits = growing_pauses(self._patience.longest_pause_s), 0

    def _wait(self, error: BaseException) -> None:
        patience, now = self._patience, self._patience.monotonic()
        self._deadline = now + patience.seconds if self._deadline is None else self._deadline
        self._n_damaged += _is_damage(error)
        may_pass = self._n_damaged < _N_DAMAGED if _is_damage(error) else _is_passing(error)
        if not may_pass or now >= self._deadline:
            raise _worded(self._uri, error, waited_s=patience.seconds) from error
        pause = min(next(self._pauses), self._deadline - now)
        self._n_waits += 1
        if self._n_waits > 1:  # the first is short, and common where one object is written twice in a second
            left = self._deadline - now
            patience.tell(f"{self._uri}: {_cause(error)}; trying again in {pause:.0f} s (for {left:.0f} s at most)")
        patience.sleep(pause)


def _faults() -> tuple[type[BaseException], ...]:
    import requests
    import urllib3
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    connection = (ConnectionError, requests.RequestException, urllib3.exceptions.HTTPError)
    return (GoogleAPICallError, GoogleAuthError, InvalidResponse, DataCorruption, *connection)


def _status(error: BaseException) -> int | None:
    """HTTP status behind an error of the client library, None where there was no answer."""
    found: Any = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return int(found) if isinstance(found, int) else None


def _is_damage(error: BaseException) -> bool:
    return type(error).__name__ == "DataCorruption" or any(words in str(error) for words in _DAMAGE)


def _is_passing(error: BaseException) -> bool:
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(error, GoogleAuthError):
        return isinstance(error, TransportError) or bool(error.retryable)
    status = _status(error)
    return status is None or status in PASSING


def _cause(error: BaseException) -> str:
    status = _status(error)
    text = (str(error).splitlines() or [type(error).__name__])[0][:200]
    if _is_damage(error):
        return "what arrived differs from what was sent"
    return f"the storage service answered {status}" if status else f"no connection ({type(error).__name__}: {text})"


def _worded(uri: str, error: BaseException, *, waited_s: float) -> BucketError:
    from google.auth.exceptions import GoogleAuthError

    status, again = _status(error), "run again or resume: what is finished is kept"
    if status == 401 or (isinstance(error, GoogleAuthError) and not _is_passing(error)):
        msg = f"{uri}: the credentials for Cloud Storage are absent or have expired; run `{LOGIN}`, then {again}"
        return BucketError(msg, status=401)
    if status == 403:
        msg = f"{uri}: permission denied (403); give this account read and write access to the bucket, then {again}"
    elif status == 404:
        msg = f"the bucket of {uri} does not exist; create it first, or check the address"
    elif _is_passing(error):
        msg = f"{uri}: {_cause(error)}, for {waited_s:.0f} s; {again}"
    else:
        msg = f"{uri}: {_cause(error)} ({str(error)[:200]}); {again}"
    return BucketError(msg, status=status, is_passing=_is_passing(error) or _is_damage(error))
