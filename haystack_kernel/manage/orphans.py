"""Find cloud jobs that still run and cost money, although no run folder counts on them.

In: settings. Out: such jobs of this application in the region; those of this storage can be cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jobs import BatchExecutor, SystemClock

if TYPE_CHECKING:
    from haystack_kernel.jobs.batch.executor import Orphan
    from haystack_kernel.schema import Settings


def find_orphans(
    *, settings: Settings | None = None, storage: str | None = None, cancel: bool = False
) -> tuple[Orphan, ...]:
    """Find jobs of Google Cloud Batch that still run although no run folder counts on them.

    A job becomes an orphan if its run folder is deleted while it runs. A job of another storage is listed too, because
    it costs the same project money, but it may be somebody else's and is never cancelled from here.

    Parameters
    ----------
    settings
        None reads them from the settings files and the environment. Section ``batch`` names the project and the region.
    storage
        Where the run folders are; None takes the settings'.
    cancel
        Whether to ask the orphans of this storage to stop. Their records in the cloud stay.

    Returns
    -------
    The jobs found, with the reason for each; ``is_of_this_storage`` tells which are cancelled.

    Raises
    ------
    InvalidInputError
        The settings name no project or no region.
    ServiceError
        The cloud cannot be asked.

    Examples
    --------
    >>> for job in find_orphans():  # doctest: +SKIP
    ...     print(job.name, job.reason)
    """
    settings = settings or load_settings(storage=storage)
    if missing := [name for name in ("project", "region") if not getattr(settings.batch, name)]:
        named = ", ".join(f"batch.{name} (HAYSTACK_BATCH__{name.upper()})" for name in missing)
        msg = f"set {named} to say where jobs of Google Cloud Batch are looked for"
        raise InvalidInputError(msg, missing=missing)
    executor = BatchExecutor(settings, clock=SystemClock())
    found = tuple(executor.orphans())
    for orphan in found if cancel else ():
        if orphan.is_of_this_storage:
            executor.cancel_orphan(orphan)
    return found
