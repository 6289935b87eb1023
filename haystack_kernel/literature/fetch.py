"""Send one polite request: paced, cached on disk, retried where that can help, within limits of time and size.

In: requests of a source. Out: the parsed answer, or SourceError with a reason that holds no address and no key.
"""

from __future__ import annotations

import functools
import random
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import TYPE_CHECKING, TypeVar

import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from haystack_kernel.literature.cache import AnswerCache
    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import LiteratureSettings

Parsed = TypeVar("Parsed")
RETRIED = (429, 500, 502, 503, 504)
FIRST_PAUSE_S = 0.5
READ_TIMEOUT_S = 10.0


class SourceError(Exception):
    """A source gave no answer; the message says why. Never leaves this package."""


class MalformedError(ValueError):
    """An answer that is not in the form the source documents."""


@dataclass(frozen=True)
class Request:
    """A request. ``form`` goes in the body; ``private`` (keys, addresses) is sent and never stored."""

    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    private: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return the text by which equal requests are recognised."""
        return repr((self.url, sorted(self.params.items()), sorted(self.form.items())))


class Pace:
    """Minimum time between the starts of two requests to one source, from any thread."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s, self._next, self._lock = interval_s, 0.0, threading.Lock()

    def wait(self, clock: Clock) -> None:
        """Wait for the next start."""
        with self._lock:
            now = clock.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval_s
        if start > now:
            clock.sleep(start - now)


class Fetcher:
    """Send requests to one source.

    Parameters
    ----------
    settings
        Tries, timeouts and size limit.
    clock
        Measures time and waits.
    pace
        Shared by all requests to this source.
    cache
        Stored answers; None stores none.
    deadline
        End of the search by ``clock.monotonic``.
    """

    def __init__(
        self,
        settings: LiteratureSettings,
        *,
        clock: Clock,
        cache: AnswerCache | None,
        pace: Pace,
        deadline: float,
    ) -> None:
        self._settings, self._clock, self._cache = settings, clock, cache
        self._pace, self._deadline = pace, deadline
        agent = f"haystack-kernel/{metadata.version('haystack-kernel')}"
        self._agent = f"{agent} (mailto:{settings.email})" if settings.email else agent

    def get(self, request: Request, parse: Callable[[bytes], Parsed]) -> Parsed:
        """Return the parsed answer of a request; only an answer that could be parsed is stored.

        Parameters
        ----------
        request
            What is asked.
        parse
            Reads the answer; raises MalformedError where it is not in the documented form.

        Raises
        ------
        SourceError
            No usable answer within the tries and the time.
        """
        if self._cache is not None and (kept := self._cache.read(request.key)) is not None:
            with suppress(MalformedError):
                return parse(kept)
        for attempt in range(1, self._settings.tries + 1):
            try:
                body = self._ask(request)
                parsed = parse(body)
            except _TransientError as error:
                if attempt == self._settings.tries:
                    msg = f"{error} ({attempt} tries)"
                    raise SourceError(msg) from None
                self._pause(error, attempt=attempt)
            except MalformedError as error:
                msg = f"its answer is not in the documented form: {error}"
                raise SourceError(msg) from None
            else:
                if self._cache is not None:
                    self._cache.write(request.key, body)
                return parsed
        raise SourceError("it was not searched")  # pragma: no cover - tries is at least 1 # noqa: EM101

    def _ask(self, request: Request) -> bytes:
        self._pace.wait(self._clock)
        left = self._deadline - self._clock.monotonic()
        if left <= 0:
            raise SourceError(_no_time(self._settings))
        limits = httpx.Timeout(min(READ_TIMEOUT_S, left), connect=min(self._settings.connect_timeout_s, left))
        method = "POST" if request.form else "GET"
        try:
            with (
                httpx.Client(
                    verify=_certificates(), timeout=limits, headers={"User-Agent": self._agent, **request.headers}
                ) as client,
                client.stream(
                    method,
                    request.url,
                    params={**request.params} or None,
                    data={**request.form, **request.private} if request.form else None,
                ) as response,
            ):
                self._check(response)
                return self._read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            msg = "it could not be reached: no connection to the internet, or its address is wrong"
            raise SourceError(msg) from None
        except httpx.TimeoutException:
            raise _TransientError("it did not answer in time") from None  # noqa: EM101
        except httpx.TransportError as error:
            msg = f"the connection was lost ({type(error).__name__})"
            raise _TransientError(msg) from None
        except httpx.DecodingError:
            raise _TransientError("its answer is damaged") from None  # noqa: EM101

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in RETRIED:
            what = "too many requests" if status == 429 else "a fault of the service"
            wait_s = self._retry_after(response.headers.get("Retry-After", ""))
            msg = f"it answered {status}, {what}"
            raise _TransientError(msg, wait_s=wait_s)
        if status != 200:
            hint = "; check the key" if status in (401, 403) else ""
            msg = f"it answered {status}{hint}"
            raise SourceError(msg)

    def _read(self, response: httpx.Response) -> bytes:
        limit, found, size = int(self._settings.max_mib * 2**20), [], 0
        for part in response.iter_bytes():
            size += len(part)
            if size > limit:
                msg = f"its answer is larger than {self._settings.max_mib:g} MiB"
                raise SourceError(msg)
            if self._clock.monotonic() > self._deadline:
                raise SourceError(_no_time(self._settings))
            found.append(part)
        return b"".join(found)

    def _retry_after(self, text: str) -> float | None:
        """Return the seconds that the source asks to wait, given as a number or as a date."""
        if text.strip().isdigit():
            return float(text)
        try:
            when = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        return max((when.replace(tzinfo=when.tzinfo or UTC) - self._clock.now()).total_seconds(), 0.0)

    def _pause(self, error: _TransientError, *, attempt: int) -> None:
        """Wait as long as the source asked for, else exponentially with jitter; give up where time is too short."""
        jitter = 0.5 + random.random()
        pause = FIRST_PAUSE_S * 2 ** (attempt - 1) * jitter if error.wait_s is None else error.wait_s
        if self._clock.monotonic() + pause >= self._deadline:
            msg = f"{error}, and asked to wait {pause:.0f} s" if error.wait_s is not None else str(error)
            raise SourceError(msg) from None
        self._clock.sleep(pause)


class _TransientError(Exception):
    """Worth another try; ``wait_s`` is how long the source asked to wait, None where it did not say so."""

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return the certificates, read once: reading them takes longer than a request."""
    return httpx.create_ssl_context()


def _no_time(settings: LiteratureSettings) -> str:
    return f"it did not answer within {settings.timeout_s:g} s (setting literature.timeout_s)"
