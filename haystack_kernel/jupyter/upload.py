"""An executed notebook on its way to a bucket: kept on this disk, uploaded now and then, whole and verified at the end.

In: the notebook's text each time papermill saves it. Out: the object; the local copy goes once the last is up there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ServiceError, StorageError
from haystack_kernel.store.buckets import bucket_errors
from inference.bucket import Objects
from inference.errors import StorageError as TransferError
from inference.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable

_SHARE = 10  # uploads may take one part in this many of a run's time


class NotebookUpload:
    """papermill's output handler for one address.

    Parameters
    ----------
    uri
        ``gs://`` address of the notebook.
    copy
        Local file that always holds the newest state.
    interval_s
        Shortest time between two uploads while the notebook runs.
    patience
        How long the last upload is tried; those before it are tried once.
    warn
        Called with a line when an upload fails and the run goes on.

    Attributes
    ----------
    is_last
        To be set once the notebook has run: from then on every write has to arrive.
    """

    def __init__(
        self, uri: str, *, copy: Path, interval_s: float, patience: Patience, warn: Callable[[str], None]
    ) -> None:
        self.is_last = False
        self._uri, self._copy, self._interval_s = uri, copy, interval_s
        self._clock, self._warn = patience.monotonic, warn
        self._last, self._now_and_then = Objects(patience), Objects(replace(patience, seconds=0.0, saving_s=0.0))
        self._next_at = self._clock()
        self._uploaded, self._warned = "", ""

    def write(self, text: str, path: str) -> None:
        """Keep the notebook here; upload it when it is time, or when it is the last state."""
        data = text.encode()
        temporary = self._copy.with_suffix(".tmp")
        is_kept = True
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(self._copy)
        except OSError as error:  # the bucket is where it belongs: the run goes on
            self._say(f"no local copy of the notebook can be kept in {self._copy} ({error}); set HAYSTACK_CACHE")
            is_kept = False
        if is_superseded(text):
            where = f"; this one is in {self._copy}" if is_kept else ""
            self._say(f"another process works on this run, so its notebook {path} is left alone{where}")
        elif self.is_last:
            self._finish(data, is_kept=is_kept)
        elif self._clock() >= self._next_at:
            started = self._clock()
            try:
                self._now_and_then.write(self._uri, data)
            except TransferError as error:
                self._say(f"the notebook could not be uploaded yet, the run goes on: {error}")
            else:
                self._uploaded, self._warned = _digest(data), ""
            # The slower the bucket, the rarer the uploads, so that they take a fixed share of the run's time at most.
            self._next_at = self._clock() + max(self._interval_s, _SHARE * (self._clock() - started))

    def read(self, path: str) -> str:
        """Text of the notebook in the bucket."""
        with bucket_errors(path):
            return self._last.read(path).decode()

    def listdir(self, path: str) -> list[str]:
        """Names in a folder of the bucket."""
        with bucket_errors(path):
            return self._last.names(path)

    def pretty_path(self, path: str) -> str:
        """The address as it is."""
        return path

    def _finish(self, data: bytes, *, is_kept: bool) -> None:
        if self._uploaded != _digest(data):
            try:
                with bucket_errors(self._uri):
                    self._last.write(self._uri, data)
            except (StorageError, ServiceError) as error:
                where = f"; the executed notebook is kept in {self._copy}" if is_kept else ""
                msg = f"{error}{where}"
                raise type(error)(msg, **error.facts) from error
            self._uploaded = _digest(data)
        self._copy.unlink(missing_ok=True)

    def _say(self, line: str) -> None:
        if line != self._warned:
            self._warn(line)
        self._warned = line


def open_upload(uri: str, *, warn: Callable[[str], None]) -> NotebookUpload:
    """Handler with the limits and the cache folder of the settings."""
    settings = load_settings()
    copy = Path(settings.cache) / "notebooks" / f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}.ipynb"
    patience = Patience(seconds=settings.bucket.patience_s, saving_s=settings.bucket.save_patience_s, tell=warn)
    return NotebookUpload(uri, copy=copy, interval_s=settings.bucket.save_interval_s, patience=patience, warn=warn)


def is_superseded(text: str) -> bool:
    """Whether a cell ended because another process took the run over; that one's notebook is the run's."""
    cells = json.loads(text)["cells"] if "ConflictError" in text else []
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return any(output.get("ename") == "ConflictError" for output in outputs)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
