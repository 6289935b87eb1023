"""The errors of the inference program, one class for each remedy.

In: nothing. Out: exception classes.
"""

from __future__ import annotations


class InputError(ValueError):
    """A cell file cannot be used as it is; the message names the file, what was found and how to fix it.

    ``about`` names the question of the preflight: counts, symbols, duplicates or species; it may be empty.
    """

    def __init__(self, message: str, *, about: str = "") -> None:
        super().__init__(message)
        self.about = about


class ModelError(InputError):
    """A checkpoint or its gene list cannot be used; the message says what is wrong and what to give instead."""


class EngineError(ValueError):
    """The engine or device asked for is not available; the message names those that are."""


class UriError(ValueError):
    """The program cannot read or write an address of this form; the message names the possible forms."""


class StorageError(OSError):
    """The disk or the storage service failed; the same command may succeed later."""


class BucketError(StorageError):
    """A bucket refused, or failed for too long; ``status`` is its HTTP status, None where there was no response."""

    def __init__(self, message: str, *, status: int | None = None, is_passing: bool = False) -> None:
        super().__init__(message)
        self.status, self.is_passing = status, is_passing
