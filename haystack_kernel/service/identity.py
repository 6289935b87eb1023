"""Who sends a request: the token's holder, a person whom Google's proxy signed in, the user of a JupyterLab, Pub/Sub.

In: headers and cookies. Out: a :class:`haystack_kernel.manage.tenancy.Person`, or None: nobody whom the service knows.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Protocol

import jwt

from haystack_kernel.manage.tenancy import Person

if TYPE_CHECKING:
    from collections.abc import Mapping

    from haystack_kernel.schema import ServiceSettings

ISSUER = "https://cloud.google.com/iap"
GOOGLE = ("https://accounts.google.com", "accounts.google.com")
IAP_HEADER = "x-goog-iap-jwt-assertion"
LAB_HEADER = "x-haystack-lab"
SESSION_COOKIE = "haystack_session"
LINK_COOKIE = "haystack_link_"
TOKEN_PARAMETER = "token"
_LIFE_S = 3900  # IAP signs for ten minutes, Pub/Sub for an hour; what would hold for much longer is not theirs
_LEEWAY_S = 30


class Identity(Protocol):
    """Tells who sends a request."""

    kind: str
    may_wait: bool  # for an answer of the network

    def person(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Person | None:
        """The person, or None where the request does not say who it is in a way that is believed."""
        ...


class TokenIdentity:
    """One person, who holds the token: in the header ``Authorization: Bearer``, or as the cookie of a sign-in.

    Parameters
    ----------
    token
        The secret; the cookie holds a digest of it, so that the token itself lies in no browser.
    name
        Whose runs are made.
    """

    kind = "token"
    may_wait = False

    def __init__(self, token: str, *, name: str = "local") -> None:
        self._token = token
        self._person = Person(name, is_admin=True)
        self.session = hmac.new(token.encode(), b"session", hashlib.sha256).hexdigest()

    def holds(self, token: str) -> bool:
        """Whether a text is the token."""
        return hmac.compare_digest(token.encode(), self._token.encode())

    def person(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Person | None:
        """The holder of the token."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.holds(given.strip()):
            return self._person
        session = cookies.get(SESSION_COOKIE, "")
        return self._person if hmac.compare_digest(session.encode(), self.session.encode()) else None


class IapIdentity:
    """People whom Identity-Aware Proxy signed in; only its signed header is believed, no plain one.

    Parameters
    ----------
    settings
        Audiences, keys and admins. Keys are kept for an hour, and fetched again for a key that is not known yet.
    """

    kind = "iap"
    may_wait = True

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._keys = jwt.PyJWKClient(settings.keys_url, cache_jwk_set=True, lifespan=3600, timeout=10)

    def person(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Person | None:
        """The person of the signed header; None unless everything about it is right."""
        audience = list(self._settings.audience)
        claims = _claims(headers.get(IAP_HEADER, ""), self._keys, algorithm="ES256", audience=audience, issuer=[ISSUER])
        email = claims.get("email")
        if not isinstance(email, str) or "@" not in email or not email.isprintable():
            return None
        name = email.strip().casefold()
        return Person(name, is_admin=name in self._settings.admins)


class WakeIdentity:
    """The service account whose Pub/Sub push subscription wakes the service, by the token that Google signs for it.

    Parameters
    ----------
    settings
        The account, the audience of its tokens, and where Google's keys are.
    """

    kind = "wake"
    may_wait = True

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._keys = jwt.PyJWKClient(settings.wake_keys_url, cache_jwk_set=True, lifespan=3600, timeout=10)

    def person(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Person | None:
        """The account; None unless the token is Google's, for this audience and of this very account."""
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        audience = [self._settings.wake_audience]
        claims = _claims(text.strip(), self._keys, algorithm="RS256", audience=audience, issuer=list(GOOGLE))
        is_account = claims.get("email") == self._settings.wake_account and claims.get("email_verified") is True
        return Person(self._settings.wake_account) if is_account else None


def _claims(
    text: str, keys: jwt.PyJWKClient, *, algorithm: str, audience: list[str], issuer: list[str]
) -> dict[str, Any]:
    """What a signed text claims; nothing unless everything about it is right."""
    if not text:
        return {}
    try:
        if jwt.get_unverified_header(text).get("alg") != algorithm:
            return {}
        claims: dict[str, Any] = jwt.decode(
            text,
            keys.get_signing_key_from_jwt(text).key,
            algorithms=[algorithm],
            audience=audience,
            issuer=issuer,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "iat", "aud", "iss", "sub", "email"]},
        )
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return {}
    return claims if claims["exp"] - claims["iat"] <= _LIFE_S else {}


class LabIdentity:
    """The user of the JupyterLab that started the service: each request carries a secret that only Lab knows.

    Parameters
    ----------
    secret
        Made when the service was started.
    name
        The user's name, e.g. that of a JupyterHub.
    """

    kind = "lab"
    may_wait = False

    def __init__(self, secret: str, *, name: str) -> None:
        self._secret = secret
        self._person = Person(name, is_admin=True)

    def person(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Person | None:
        """The user, where the secret is right."""
        given = headers.get(LAB_HEADER, "")
        return self._person if hmac.compare_digest(given.encode(), self._secret.encode()) else None


def with_links(person: Person, cookies: Mapping[str, str]) -> Person:
    """The person with the secrets of the share links they opened."""
    links = {name.removeprefix(LINK_COOKIE): value for name, value in cookies.items() if name.startswith(LINK_COOKIE)}
    return Person(person.name, is_admin=person.is_admin, links=links) if links else person
