"""Chunks of remote files kept on this disk, up to a size; several processes may use it at once.

In: keys and checked bytes. Out: the bytes again. A fault of the cache never fails a read: it counts as a missing
entry, and a damaged entry or file is dropped.
"""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
    used INTEGER NOT NULL, n_bytes INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_use ON chunks (used, n_bytes);
CREATE TABLE IF NOT EXISTS content (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS gone AFTER DELETE ON chunks BEGIN DELETE FROM content WHERE id = OLD.id; END;
"""  # the bytes are in a table of their own: marking a use would write them again
_AT_ONCE = 500
_KEPT_SHARE = 0.9  # an eviction goes below the limit by this, so that not every fetch evicts
TIMEOUT_S = 10.0


class ChunkCache:
    """A cache that drops the least recently used chunks when ``limit_bytes`` is exceeded.

    Parameters
    ----------
    folder
        Folder of the cache's one file; created on first use.
    limit_bytes
        Sum of the chunks kept; 0 keeps nothing.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._path = folder / "chunks.sqlite"
        self._limit = limit_bytes

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the entries that exist and mark them as used; damaged ones are dropped."""
        wanted = list(keys)
        found: dict[str, bytes] = {}
        if not wanted or not self._path.is_file():
            return found
        damaged = []
        try:
            with closing(self._connect()) as connection, connection:
                for first in range(0, len(wanted), _AT_ONCE):
                    part = wanted[first : first + _AT_ONCE]
                    marks = ",".join("?" * len(part))
                    rows = connection.execute(
                        f"SELECT key, crc, data FROM chunks JOIN content USING (id) WHERE key IN ({marks})", part
                    )
                    for key, crc, data in rows:
                        if zlib.crc32(data) == crc:
                            found[key] = data
                        else:
                            damaged.append((key,))
                now = _next_use(connection)
                connection.executemany("UPDATE chunks SET used = ? WHERE key = ?", [(now, key) for key in found])
                connection.executemany("DELETE FROM chunks WHERE key = ?", damaged)
        except sqlite3.Error as error:
            self._drop_if_damaged(error)
        return found

    def put(self, entries: Mapping[str, bytes]) -> None:
        """Store the entries of one call, all or none; the least recently used are dropped to make room."""
        kept = {key: data for key, data in entries.items() if len(data) <= self._limit}
        if not kept:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection, connection:
                now = _next_use(connection)
                connection.executemany("DELETE FROM chunks WHERE key = ?", [(key,) for key in kept])
                for key, data in kept.items():
                    row = (key, now, len(data), zlib.crc32(data))
                    added = connection.execute("INSERT INTO chunks (key, used, n_bytes, crc) VALUES (?, ?, ?, ?)", row)
                    connection.execute("INSERT INTO content VALUES (?, ?)", (added.lastrowid, data))
                self._evict(connection)
        except sqlite3.Error as error:
            self._drop_if_damaged(error)
        except OSError:  # the folder cannot be made: nothing is kept
            return

    def n_bytes(self) -> int:
        """Sum of the chunks kept."""
        if not self._path.is_file():
            return 0
        with closing(self._connect()) as connection:
            return int(connection.execute("SELECT total(n_bytes) FROM chunks").fetchone()[0])

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=TIMEOUT_S)
        try:
            connection.executescript(_SCHEMA)
            connection.execute("PRAGMA synchronous = OFF")  # a lost entry is fetched again, a damaged one is seen
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _evict(self, connection: sqlite3.Connection) -> None:
        held = int(connection.execute("SELECT total(n_bytes) FROM chunks").fetchone()[0])
        if held <= self._limit:
            return
        surplus, going = held - int(self._limit * _KEPT_SHARE), []
        for number, n_bytes in connection.execute("SELECT id, n_bytes FROM chunks ORDER BY used, id"):
            going.append((number,))
            surplus -= n_bytes
            if surplus <= 0:
                break
        connection.executemany("DELETE FROM chunks WHERE id = ?", going)

    def _drop_if_damaged(self, error: sqlite3.Error) -> None:
        """Delete a damaged file; keep one that is only busy, full or not writable."""
        if isinstance(error, sqlite3.OperationalError):
            return
        for path in (self._path, self._path.with_name(self._path.name + "-journal")):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _next_use(connection: sqlite3.Connection) -> int:
    """A number above all earlier ones; a clock may jump, and processes would not share it."""
    return int(connection.execute("SELECT coalesce(max(used), 0) + 1 FROM chunks").fetchone()[0])
