"""What every request passes: size, time, identity, origin, rate, the headers of the answer, one audit line.

In: an ASGI application. Out: the same behind the guard. What is open to everybody is listed here and nowhere else, so
that a new route is closed unless it is put on the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio.to_thread

from haystack_kernel.service.identity import with_links
from haystack_kernel.service.problems import MEDIA_TYPE, new_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from haystack_kernel.manage.tenancy import Person
    from haystack_kernel.schema import ServiceSettings
    from haystack_kernel.service.identity import Identity

AUDIT = logging.getLogger("haystack.audit")
LOG = logging.getLogger("haystack.service")
SIGN_IN = "/sign-in"
OPEN_PATHS = ("/health/live", "/health/ready", SIGN_IN)
_SIGN_INS_PER_MINUTE = 20
OPEN_PREFIX = "/static/"
WAKE_PATH = "/hooks/batch"  # of the wake account alone, which gets nowhere else
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]", "testserver")
_MAX_PEOPLE = 10_000  # whose rates are kept
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
)


@dataclass
class _Bucket:
    """Requests that are left of a rate, refilled as time goes by."""

    left: float
    at: float = field(default_factory=time.monotonic)

    def take(self, per_minute: int) -> float:
        """Take one; returns 0, or the seconds until there is one."""
        now = time.monotonic()
        self.left = min(float(per_minute), self.left + (now - self.at) * per_minute / 60.0)
        self.at = now
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) * 60.0 / per_minute


class _BodyError(Exception):
    """The body is too large, or takes too long."""


class Guard:
    """The guard in front of the application.

    Parameters
    ----------
    app
        What it guards.
    identity
        Tells who sends a request.
    settings
        Limits and names.
    wake
        Tells whether a request to ``WAKE_PATH`` comes from the account that may wake the service; None: nobody may.
    refusal
        Makes the page that a browser gets of a refusal, from its scope, status and sentence; None where it gets none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        identity: Identity,
        settings: ServiceSettings,
        wake: Identity | None = None,
        refusal: Callable[[Scope, int, str], bytes | None] = lambda scope, status, detail: None,
    ) -> None:
        self._app, self._identity, self._settings, self._refusal = app, identity, settings, refusal
        self._wake = wake
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        hosts = settings.hosts or (_LOCAL_HOSTS if identity.kind == "token" else ())
        self._hosts = tuple(host.casefold() for host in hosts)
        ancestors = "'self'" if identity.kind == "lab" else "'none'"
        self._headers = [
            (b"content-security-policy", _POLICY.format(ancestors=ancestors).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
        ]
        if identity.kind != "lab":
            self._headers.append((b"x-frame-options", b"DENY"))
        if identity.kind == "iap":
            self._headers.append((b"strict-transport-security", b"max-age=31536000"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        passage = _Passage(
            scope, receive, send, guard_headers=self._headers, settings=self._settings, refusal=self._refusal
        )
        refusal = await self._admit(scope, passage)
        try:
            if refusal is not None:
                await passage.refuse(*refusal)
            else:
                await self._app(scope, passage.receive, passage.send)
            if passage.fault is not None:  # the application made something else of it
                await passage.refuse(*passage.fault)
        except _BodyError:
            await passage.refuse(*(passage.fault or (400, "the body cannot be read")))
        except Exception as error:
            LOG.error("request %s failed: %s", passage.request_id, type(error).__name__, exc_info=error)
            await passage.refuse(500, "the service failed at this request; its log says more under this id")
        finally:
            passage.audit()

    async def _admit(self, scope: Scope, passage: _Passage) -> tuple[int, str] | None:
        """Why the request is refused, as a status and a sentence; None: it may pass."""
        headers, path = passage.headers, _path_of(scope)
        host = headers.get("host", "").casefold()
        name, colon, port = host.rpartition(":")
        if self._hosts and (name if colon and port.isdigit() else host) not in self._hosts:
            return 421, "the service does not answer to this name; see the setting service.hosts"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._settings.max_body_kib * 1024:
            return 413, f"a request may have {self._settings.max_body_kib} KiB"
        if path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
            return await self._let_in(scope, passage, host=host, path=path)
        client = scope["client"][0] if scope.get("client") else "socket"
        if path == SIGN_IN and self._wait("sign-in", client, _SIGN_INS_PER_MINUTE):
            return 429, "too many tries to sign in; wait a minute"
        return None

    async def _let_in(self, scope: Scope, passage: _Passage, *, host: str, path: str) -> tuple[int, str] | None:
        """The same for what is not open to everybody: by who sends it, from where, and how often."""
        headers = passage.headers
        client = scope["client"][0] if scope.get("client") else "socket"
        cookies = _cookies(headers.get("cookie", ""))
        identity = self._wake if self._wake is not None and path == WAKE_PATH else self._identity
        ask = identity.person
        person = await anyio.to_thread.run_sync(ask, headers, cookies) if identity.may_wait else ask(headers, cookies)
        if person is None:
            if self._wait("nobody", client, self._settings.requests_per_minute):
                return 429, "too many requests that nobody is signed in for"
            return 401, _SIGN_IN[identity.kind]
        passage.person = scope["state"]["person"] = with_links(person, cookies)
        scope["state"]["request_id"] = passage.request_id
        method = scope["method"]
        if method not in _SAFE and not _is_own_request(headers, host=host):
            return 403, "the request comes from another site; send it from the pages of this service or with the token"
        return self._within_rate(passage, person, method=method, path=path)

    def _within_rate(self, passage: _Passage, person: Person, *, method: str, path: str) -> tuple[int, str] | None:
        """Refuse a person who sends too much; what starts work has a rate of its own."""
        is_submit = method == "POST" and path.rstrip("/").endswith(("/runs", "/fork", "/resume", "/ask"))
        rates = [("all", self._settings.requests_per_minute)]
        rates += [("submit", self._settings.submits_per_minute)] if is_submit else []
        for kind, per_minute in rates:
            if wait_s := self._wait(kind, person.name, per_minute):
                passage.retry_after_s = wait_s
                return 429, f"more than {per_minute} requests a minute"
        return None

    def _wait(self, kind: str, who: str, per_minute: int) -> float:
        key = (kind, who)
        bucket = self._buckets.setdefault(key, _Bucket(left=float(per_minute)))
        self._buckets.move_to_end(key)
        while len(self._buckets) > _MAX_PEOPLE:
            self._buckets.popitem(last=False)
        return bucket.take(per_minute)


_SIGN_IN = {
    "token": "sign in with the address that `haystack serve` printed, or send the token as Authorization: Bearer",
    "iap": "the request carries no signed header of Identity-Aware Proxy for this service",
    "lab": "open the service from JupyterLab",
    "wake": "the request carries no token of the push subscription that may wake this service",
}


class _Passage:
    """One request on its way through: limits on what comes in, headers on what goes out, the audit line."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        guard_headers: list[tuple[bytes, bytes]],
        settings: ServiceSettings,
        refusal: Callable[[Scope, int, str], bytes | None],
    ) -> None:
        self._refusal = refusal
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.request_id = secrets.token_hex(6)
        self.person: Person | None = None
        self.retry_after_s = 0.0
        self._scope, self._receive, self._send = scope, receive, send
        self._guard_headers, self._settings = guard_headers, settings
        self.fault: tuple[int, str] | None = None  # of the body
        self._n_read, self._deadline, self._has_body = 0, time.monotonic() + settings.request_timeout_s, True
        self._status, self._is_refusing = 0, False
        scope.setdefault("state", {})

    async def receive(self) -> Message:
        """Next part of the request, within its limits; once the body is read only a disconnect comes."""
        if not self._has_body:
            return await self._receive()
        left_s = self._deadline - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), timeout=max(left_s, 0.0))
        except TimeoutError:
            self.fault = (408, f"the body took longer than {self._settings.request_timeout_s:g} s")
            raise _BodyError from None
        if message["type"] == "http.request":
            self._n_read += len(message.get("body", b""))
            self._has_body = message.get("more_body", False)
            if self._n_read > self._settings.max_body_kib * 1024:
                self.fault = (413, f"a request may have {self._settings.max_body_kib} KiB")
                raise _BodyError
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on with the headers that every answer has, unless it sets its own."""
        if self.fault is not None and not self._is_refusing:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = {name.lower() for name, _ in message["headers"]}
            added = [pair for pair in self._guard_headers if pair[0] not in own]
            if b"cache-control" not in own:
                added.append((b"cache-control", b"no-store"))
            added.append((b"x-request-id", self.request_id.encode()))
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    async def refuse(self, status: int, detail: str) -> None:
        """Answer with problem details, unless an answer has begun."""
        if self._status:
            return
        self._is_refusing = True
        page, kind = self._refusal(self._scope, status, detail), "text/html; charset=utf-8"
        problem = new_problem(status, detail, request_id=self.request_id)
        body = page or problem.model_dump_json(exclude_none=True).encode()
        kind = kind if page else MEDIA_TYPE
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 429:
            headers.append((b"retry-after", str(max(1, round(self.retry_after_s))).encode()))
        if status in (408, 413):
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        with contextlib.suppress(OSError):
            await self.send({"type": "http.response.body", "body": body})

    def audit(self) -> None:
        """Write who did what; looking is not written down unless it was refused. Never a query string or a header."""
        method, refused = self._scope["method"], self._status in (401, 403, 421, 429)
        if method in _SAFE and not refused:
            return
        line: dict[str, Any] = {
            "who": self.person.name if self.person else None,
            "what": f"{method} {_shown(_path_of(self._scope))}",
            "status": self._status,
            "request_id": self.request_id,
            **self._scope["state"].get("audit", {}),
        }
        AUDIT.info(json.dumps(line))


def _path_of(scope: Scope) -> str:
    """The path within the application, whatever it is mounted below."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(root) else path


def _shown(path: str) -> str:
    """A path as it may be written down: without the secret of a link."""
    if path.startswith("/shared/"):
        path = "/".join([*path.split("/")[:3], "…"])
    return "".join(letter if letter.isprintable() else "?" for letter in path)[:200]


def _cookies(text: str) -> dict[str, str]:
    try:
        return {name: item.value for name, item in SimpleCookie(text).items()}
    except CookieError:
        return {}


def _is_own_request(headers: Mapping[str, str], *, host: str) -> bool:
    """Whether a request that changes something comes from a page of this service, or from no browser at all.

    A browser says where a request comes from, and no page can change what it says. A request without any of that which
    carries no cookie cannot use somebody's sign-in.
    """
    if headers.get("authorization"):  # a page of another site cannot send it: the service allows no other origin
        return True
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is not None:
        # behind a proxy the host that the browser knows may be another one: then what the browser says of it counts
        return urlsplit(origin).netloc.casefold() == host or site == "same-origin"
    return site is not None or "cookie" not in headers
