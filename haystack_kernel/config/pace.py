"""How long a step took in earlier runs, told to whoever listens to progress.

In: a listener and the store. Out: a listener that adds the usual time to the first event of every step.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from haystack_kernel.errors import HaystackError
from haystack_kernel.store import finished_like

if TYPE_CHECKING:
    from haystack_kernel.ports import Progress, ProgressEvent, Store


def paced(progress: Progress, store: Store) -> Progress:
    """Add to events what their steps took in earlier runs like theirs.

    Parameters
    ----------
    progress
        The listener.
    store
        Where the run and earlier ones are; it is read once for each run, at its first event of a saved run.

    Returns
    -------
    A listener for the flow.

    Examples
    --------
    >>> listen = paced(stream_progress(sys.stderr), store)  # doctest: +SKIP
    """
    usual: dict[str, dict[str, float]] = {}

    def tell(event: ProgressEvent) -> None:
        if event.run_id not in usual and event.message != "done":
            with suppress(HaystackError):  # of a run that is not saved yet, or no run
                usual[event.run_id] = _usual(event.run_id, store)
        progress(replace(event, usual_s=usual.get(event.run_id, {}).get(event.phase, 0.0)))

    return tell


def _usual(run_id: str, store: Store) -> dict[str, float]:
    """Median seconds of every step, by its name without the round."""
    taken: dict[str, list[float]] = {}
    for record in finished_like(store.load(run_id).config, store):
        for time in record.steps:
            taken.setdefault(time.step.partition(" ")[0], []).append(time.seconds)
    return {step: median(seconds) for step, seconds in taken.items()}
