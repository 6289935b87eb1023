"""Settings become ports: the one place that decides who implements what.

In: Settings and a progress listener. Out: Ports.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.config.pace import paced
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import InvalidInputError
from haystack_kernel.jobs import BatchExecutor, LocalExecutor, SystemClock
from haystack_kernel.jobs.places import Places
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.literature import PaperSearcher
from haystack_kernel.planners.claude import ClaudePlanner, ReplayPlanner
from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.ports import Consent, Ports, ProgressEvent
from haystack_kernel.schema import DEMO_ATLAS
from haystack_kernel.store import RunStore
from inference.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from haystack_kernel.atlas.fetch import CellReader
    from haystack_kernel.ports import Atlas, Clock, Planner, Progress
    from haystack_kernel.schema import Settings

RECORDED = ("haystack-kernel", "anndata", "duckdb", "numpy", "pandas", "scipy", "scikit-learn", "fastumap")


def connect(
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
    consent: Consent | None = None,
    patience_s: float | None = None,
) -> Ports:
    """Build everything a run talks to.

    Parameters
    ----------
    settings
        None reads them from the packaged layers, ``haystack.toml`` and the environment.
    progress
        Listener of progress events; None listens to nothing.
    consent
        Consent to spending of the call that is under way; None: none, so that nothing that costs money is started.
    patience_s
        How long a failing bucket is waited for where somebody waits for an answer; None: as the settings say.

    Raises
    ------
    InvalidInputError
        The storage is no usable address, or the cache no local folder.
    """
    settings = settings or load_settings()
    if "://" in settings.cache:
        msg = f"cache {settings.cache!r} must be a local folder: jobs of this machine keep their logs there"
        raise InvalidInputError(msg, cache=settings.cache)
    clock, consent = SystemClock(), consent or Consent()
    is_heard, progress = progress is not None, progress or _silent
    patience = _bucket_patience(settings, clock=clock, progress=progress)
    if patience_s is not None:
        patience = replace(patience, seconds=min(patience_s, patience.seconds), saving_s=None)
    knowledge = load_knowledge(settings.knowledge)
    planners: tuple[Planner, ...] = (
        OfflinePlanner(knowledge),
        ClaudePlanner(settings, knowledge, clock=clock, consent=consent),
        ReplayPlanner(
            settings, knowledge, clock=clock, consent=consent, read=Places(patience.seconds, clock=clock).read
        ),
    )
    store = RunStore(settings.storage, patience=patience)
    return Ports(
        settings=settings,
        planners={planner.name: planner for planner in planners},
        open_atlas=_atlas_opener(settings, progress=progress),
        store=store,
        literature=PaperSearcher(settings.literature, folder=Path(settings.cache) / "literature", clock=clock),
        executors={
            "local": LocalExecutor(str(Path(settings.cache) / "jobs"), clock=clock, consent=consent),
            "batch": BatchExecutor(settings, clock=clock, consent=consent),
        },
        clock=clock,
        progress=paced(progress, store) if is_heard else progress,
        consent=consent,
        patience_s=patience.seconds,
    )


def software_versions() -> dict[str, str]:
    """Versions for the record: Python, platform and the packages that numbers depend on."""
    return dict(_installed())


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """What a process loads does not change under it, and reading the metadata of packages takes a tenth of a second."""
    versions = {}
    for name in RECORDED:
        with suppress(metadata.PackageNotFoundError):  # fastumap has no build for every platform
            versions[name] = metadata.version(name)
    told = {"python": platform.python_version(), "platform": platform.platform(terse=True), **versions}
    return tuple(told.items())


def _atlas_opener(settings: Settings, *, progress: Progress) -> Callable[[Sequence[str]], Atlas]:
    def open_atlas(names: Sequence[str]) -> Atlas:
        from haystack_kernel.atlas import local_root, open_atlases

        root = local_root(settings.atlas_root, cache=settings.cache, names=names)
        if DEMO_ATLAS in names:
            from haystack_kernel.atlas.demo import ensure_demo

            ensure_demo(root, progress=progress)
        return open_atlases(names, root=root, reader=_cell_reader(settings, progress=progress))

    return open_atlas


def _bucket_patience(settings: Settings, *, clock: Clock, progress: Progress) -> Patience:
    def tell(line: str) -> None:
        progress(ProgressEvent(run_id="", phase="storage", message=line))

    return Patience(
        seconds=settings.bucket.patience_s,
        saving_s=settings.bucket.save_patience_s,
        sleep=clock.sleep,
        monotonic=clock.monotonic,
        tell=tell,
    )


def _cell_reader(settings: Settings, *, progress: Progress) -> CellReader:
    from haystack_kernel.atlas.fetch import CellReader
    from haystack_kernel.atlas.sources.chunk_cache import ChunkCache
    from haystack_kernel.atlas.sources.row_store import RowStore

    folder, limits = Path(settings.cache) / "cells", settings.cells
    return CellReader(
        cache=ChunkCache(folder, limit_bytes=int(limits.cache_gib * 2**30)),
        row_store=RowStore(folder, int(limits.rows_gib * 2**30)),
        progress=progress,
    )


def _silent(event: ProgressEvent) -> None:
    """Listen to nothing."""
