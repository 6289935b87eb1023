"""Whose run it is, and who else may read it.

In: plain values. Out: Access, ShareLink.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime

from pydantic import Field

from haystack_kernel.schema.base import Frozen


class ShareLink(Frozen):
    """A link whoever holds it may read the run with, until it expires; only the digest of its secret is stored."""

    digest: str
    made_at: datetime
    expires_at: datetime

    def opens_with(self, secret: str, now: datetime) -> bool:
        """Whether the link is this one and has not expired."""
        return now < self.expires_at and hmac.compare_digest(self.digest, secret_digest(secret))


class Access(Frozen):
    """Whose run it is and with whom it is shared; sharing lets others read, never steer.

    A run without this file, such as one of the command line, belongs to whoever runs the service.
    """

    owner: str
    serial: int = Field(default=0, ge=0, description="one more with every change")
    submitted_at: datetime
    shared_with: tuple[str, ...] = Field(default=(), description="people who may read the run")
    everyone: bool = Field(default=False, description="everyone whom the service lets in may read the run")
    links: tuple[ShareLink, ...] = ()

    def lets_read(self, person: str, *, secret: str | None = None, now: datetime) -> bool:
        """Whether the person may read the run; ``secret`` is that of a link they opened."""
        if self.everyone or person == self.owner or person in self.shared_with:
            return True
        return secret is not None and any(link.opens_with(secret, now) for link in self.links)


def secret_digest(secret: str) -> str:
    """Return the digest under which the secret of a link is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()
