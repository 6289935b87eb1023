"""All sources asked at the same time; what some of them cannot answer does not hold up the others.

In: a PaperQuery. Out: a PaperSearch with the merged papers and, per source, how it answered.
"""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from typing import TYPE_CHECKING

from haystack_kernel.literature.merge import TRUST, merge_papers
from haystack_kernel.schema import PaperSearch, SourceAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from haystack_kernel.literature.fetch import Pace
    from haystack_kernel.ports import Clock
    from haystack_kernel.schema import LiteratureSettings, Paper, PaperQuery, PaperSource


class PaperSearcher:
    """Implements the LiteratureSource port.

    Parameters
    ----------
    folder
        Where answers are kept for ``settings.cache_days``.
    clock
        Paces the requests.
    """

    def __init__(self, settings: LiteratureSettings, *, folder: Path, clock: Clock) -> None:
        self._settings, self._folder, self._clock = settings, folder, clock
        self._paces: dict[PaperSource, Pace] = {}
        self._lock = threading.Lock()

    def search(self, query: PaperQuery, *, sources: Sequence[PaperSource] | None = None) -> PaperSearch:
        """Ask the sources in threads of their own; one that hangs past ``timeout_s`` is left behind."""
        asked = [name for name in TRUST if sources is None or name in sources]
        found: dict[PaperSource, list[Paper] | str] = {}
        threads = [
            threading.Thread(target=self._ask, args=(name, query, found), name=f"literature-{name}", daemon=True)
            for name in asked
        ]
        for thread in threads:
            thread.start()
        until = self._clock.monotonic() + self._settings.timeout_s
        for thread in threads:
            thread.join(max(until - self._clock.monotonic(), 0.05))
        late = f"it did not answer within {self._settings.timeout_s:g} s (setting literature.timeout_s)"
        outcomes = {name: found.get(name, late) for name in asked}
        papers, dropped = merge_papers(
            paper for name in TRUST for paper in outcomes.get(name, ()) if not isinstance(paper, str)
        )
        n_dropped = Counter(paper.sources[0] for paper in dropped)
        return PaperSearch(
            query=query,
            searched_at=self._clock.now(),
            papers=tuple(papers),
            answers=tuple(_answer(name, outcomes[name], n_dropped=n_dropped[name]) for name in asked),
        )

    def _ask(self, name: PaperSource, query: PaperQuery, found: dict[PaperSource, list[Paper] | str]) -> None:
        from haystack_kernel.literature.cache import AnswerCache
        from haystack_kernel.literature.fetch import Fetcher, Pace, SourceError  # httpx loads only where it is used

        source = importlib.import_module(f"haystack_kernel.literature.{name}")
        settings = self._settings
        with self._lock:
            pace = self._paces.setdefault(name, Pace(source.interval_s(settings)))
        keeps = settings.cache_days > 0
        fetcher = Fetcher(
            settings,
            clock=self._clock,
            cache=AnswerCache(self._folder, days=settings.cache_days, clock=self._clock) if keeps else None,
            pace=pace,
            deadline=self._clock.monotonic() + settings.timeout_s,
        )
        try:
            found[name] = source.find(query, fetcher=fetcher, settings=settings)
        except SourceError as error:
            found[name] = str(error)


def _answer(source: PaperSource, outcome: list[Paper] | str, *, n_dropped: int) -> SourceAnswer:
    if isinstance(outcome, str):
        return SourceAnswer(source=source, reason=outcome)
    left = f"{n_dropped} left out: their identifiers belong to papers of another title" if n_dropped else ""
    return SourceAnswer(source=source, n_papers=len(outcome) - n_dropped, reason=left)
