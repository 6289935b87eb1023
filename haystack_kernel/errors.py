"""Errors, one class per remedy.

In: nothing. Out: one base class and one class per remedy; every module raises these and no others.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "ApprovalNeededError",
    "ConflictError",
    "ContractError",
    "HaystackError",
    "InvalidInputError",
    "JobFailedError",
    "LimitError",
    "MissingExtraError",
    "MissingKeyError",
    "NoCandidateError",
    "NotAllowedError",
    "NotFoundError",
    "ServiceError",
    "StorageError",
]


class HaystackError(Exception):
    """Base class of all errors; ``message`` is for users, ``facts`` are for programs.

    Parameters
    ----------
    message
        What was given, what was possible, what to do next. Plain text, no markup.
    **facts
        The same as data: file names, counts, ids; never a secret.
    """

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.facts = facts

    def __reduce__(self) -> tuple[object, ...]:  # so that facts survive pickling between processes
        return partial(type(self), **self.facts), self.args  # type: ignore[arg-type]


class InvalidInputError(HaystackError, ValueError):
    """An input must be changed: a question, a file, an id or a setting."""


class MissingKeyError(HaystackError, KeyError):
    """A column, layer or gene is missing from the data."""

    __str__ = Exception.__str__  # KeyError would show the repr


class MissingExtraError(HaystackError, ImportError):
    """An optional package is missing; the message names the extra to install."""


class NotFoundError(HaystackError, LookupError):
    """A run, atlas or file does not exist; the message lists those that do."""


class NoCandidateError(HaystackError, LookupError):
    """The atlases hold no cells that can be prompt or query; add an atlas or widen the question."""


class ConflictError(HaystackError):
    """Another process works on the run or saved its record first; attach to it instead of writing."""


class StorageError(HaystackError, OSError):
    """The run folder cannot be written or read: disk full, bucket missing or forbidden."""


class ServiceError(HaystackError):
    """An external service failed or refused; facts: ``service``, ``retryable``."""


class JobFailedError(HaystackError):
    """A job failed; facts: ``job_id``, ``state``, ``exit_code``, ``log_tail``."""


class ApprovalNeededError(HaystackError):
    """Spending must be approved, or its cap raised; facts: ``run_id``, ``likely_usd``, ``high_usd``, ``spent_usd``."""


class LimitError(HaystackError):
    """A limit of the service is reached; wait, or ask who runs it to raise it. Facts: ``limit``, ``retry_after_s``."""


class NotAllowedError(HaystackError):
    """The person may not do this; the message says who may."""


class ContractError(HaystackError):
    """Two parts of HAYSTACK disagree (versions, shapes, digests); install the same version everywhere, or report it."""


def explain_refusals(error: ValidationError, *, whole: str = "value") -> list[str]:
    """One line per refused value: its name and what is wrong with it, without pydantic's own preamble.

    Parameters
    ----------
    error
        What pydantic raised.
    whole
        Name in a line about the values as a whole.
    """
    return [
        f"{'.'.join(str(part) for part in item['loc']) or whole}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    ]


class RunInterrupted(KeyboardInterrupt):
    """The stop button or Ctrl-C ended the work on a run.

    It still stops the later cells of a notebook, as every KeyboardInterrupt does; IPython shows its lines in place of
    a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()
