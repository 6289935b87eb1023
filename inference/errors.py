"""Every error the inference program raises, one class per thing the reader can do about it.

In: nothing. Out: exception classes.
"""

from __future__ import annotations


class InputError(ValueError):
    """A cell file cannot be used as it is: the message names the file, what was found and how to fix it.

    ``about`` says which question of the preflight it answers: counts, symbols, duplicates or species; else empty.
    """

    def __init__(self, message: str, *, about: str = "") -> None:
        super().__init__(message)
        self.about = about


class ModelError(InputError):
    """A checkpoint or its gene list cannot be used: the message says what is wrong with it and what to give instead."""


class EngineError(ValueError):
    """The engine asked for is not part of this program: the message names those that are."""


class UriError(ValueError):
    """An address is not one this program reads or writes: the message says which forms are."""


class StorageError(OSError):
    """The disk or the storage service failed: the same command may work once it is back."""


class BucketError(StorageError):
    """A bucket refused or failed for longer than was waited: ``status`` is its HTTP answer, None where none came."""

    def __init__(self, message: str, *, status: int | None = None, is_passing: bool = False) -> None:
        super().__init__(message)
        self.status, self.is_passing = status, is_passing
