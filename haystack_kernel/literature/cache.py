"""Cache answers of the literature services on this disk, each for a limited time.

In: the text that makes two requests the same. Out: the answer's bytes, or None.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from haystack_kernel.ports import Clock


class AnswerCache:
    """A folder of answers; old or damaged ones count as absent, and a full disk only stops caching."""

    def __init__(self, folder: Path, *, days: float, clock: Clock) -> None:
        self._folder, self._age, self._clock = folder, timedelta(days=days), clock

    def read(self, key: str) -> bytes | None:
        """Return the answer stored for ``key``; None where there is none."""
        try:
            head, _, body = self._path(key).read_bytes().partition(b"\n")
            facts = json.loads(head)
            age = self._clock.now() - datetime.fromisoformat(facts["at"])
            is_whole = hashlib.sha256(body).hexdigest() == facts["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return body if is_whole and timedelta(0) <= age <= self._age else None

    def write(self, key: str, body: bytes) -> None:
        """Store an answer and delete those that are too old."""
        head = {"at": self._clock.now().isoformat(), "sha256": hashlib.sha256(body).hexdigest()}
        path = self._path(key)
        temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(json.dumps(head).encode() + b"\n" + body)
            temporary.replace(path)
            oldest = (self._clock.now() - self._age).timestamp()
            for other in self._folder.iterdir():
                if other.stat().st_mtime < oldest:
                    other.unlink()
        except OSError:
            return

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode()).hexdigest()
