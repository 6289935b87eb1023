"""What can go wrong, named by what the reader can do about it.

In: nothing. Out: one base class and one class per remedy; every module raises these and no others.
"""

from __future__ import annotations

from functools import partial

__all__ = [
    "ApprovalNeededError",
    "ConflictError",
    "ContractError",
    "HaystackError",
    "InvalidInputError",
    "JobFailedError",
    "MissingExtraError",
    "MissingKeyError",
    "NoCandidateError",
    "NotFoundError",
    "ServiceError",
    "StorageError",
]


class HaystackError(Exception):
    """Base of all errors; ``message`` is for people, ``facts`` for programs.

    Parameters
    ----------
    message
        What was given, what was possible, what to do next. Plain text, no markup.
    **facts
        The same as data: file names, counts, ids. Never a secret.
    """

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.facts = facts

    def __reduce__(self) -> tuple[object, ...]:  # survives pickling between kernel, subprocess and notebook runner
        return partial(type(self), **self.facts), self.args  # type: ignore[arg-type]


class InvalidInputError(HaystackError, ValueError):
    """Change the input: a question, a file, an id, a setting."""


class MissingKeyError(HaystackError, KeyError):
    """Supply the named column, layer or gene."""

    __str__ = Exception.__str__  # KeyError would show the repr


class MissingExtraError(HaystackError, ImportError):
    """Install the named extra."""


class NotFoundError(HaystackError, LookupError):
    """Name a run, atlas or file that exists; the message lists what does."""


class NoCandidateError(HaystackError, LookupError):
    """No cells in the atlases can serve as prompt or query; add an atlas or widen the question."""


class ConflictError(HaystackError):
    """Another process wrote this run's record first; attach to it instead of writing."""


class StorageError(HaystackError, OSError):
    """The run folder cannot be written or read: disk full, bucket missing or forbidden."""


class ServiceError(HaystackError):
    """An outside service refused; facts: ``service``, ``retryable``."""


class JobFailedError(HaystackError):
    """The inference job ended badly; facts: ``job_id``, ``state``, ``exit_code``, ``log_tail``."""


class ApprovalNeededError(HaystackError):
    """Approve the spending or raise the cap; facts: ``run_id``, ``likely_usd``, ``high_usd``, ``spent_usd``."""


class ContractError(HaystackError):
    """Two parts of HAYSTACK disagree (versions, shapes, digests); reinstall one version everywhere or report it."""
