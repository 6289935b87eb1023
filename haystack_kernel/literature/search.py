"""Search all sources at the same time; sources that fail or are slow do not delay the others.

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
    """Search the literature sources; implements :class:`haystack_kernel.ports.LiteratureSource`.

    Parameters
    ----------
    settings
        Which sources are asked, and for how long.
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
        """Search the sources in threads of their own; one that takes longer than ``timeout_s`` is left behind.

        Parameters
        ----------
        query
            Names of the perturbation, cells and genes.
        sources
            Sources to ask; None asks all.

        Returns
        -------
        The merged papers, and how each source answered.

        Examples
        --------
        >>> searcher.search(PaperQuery(perturbation=("IFN-beta",))).papers  # doctest: +SKIP
        """
        asked = [name for name in TRUST if sources is None or name in sources]
        outcomes = self._ask_all(asked, query)
        papers, dropped = merge_papers(
            paper for outcome in outcomes.values() if not isinstance(outcome, str) for paper in outcome
        )
        n_dropped = Counter(paper.sources[0] for paper in dropped)
        answers = []
        for name, outcome in outcomes.items():
            if isinstance(outcome, str):
                answers.append(SourceAnswer(source=name, reason=outcome))
                continue
            n_out = n_dropped[name]
            left = f"{n_out} left out: their identifiers belong to papers of another title" if n_out else ""
            answers.append(SourceAnswer(source=name, n_papers=len(outcome) - n_out, reason=left))
        return PaperSearch(query=query, searched_at=self._clock.now(), papers=tuple(papers), answers=tuple(answers))

    def _ask_all(self, asked: Sequence[PaperSource], query: PaperQuery) -> dict[PaperSource, list[Paper] | str]:
        """Return what each source found, or why it found nothing, in the order asked."""
        found: dict[PaperSource, list[Paper] | str] = {}
        threads = []
        for name in asked:
            thread = threading.Thread(
                target=self._ask, args=(name, query, found), name=f"literature-{name}", daemon=True
            )
            thread.start()
            threads.append(thread)
        until = self._clock.monotonic() + self._settings.timeout_s
        for thread in threads:
            thread.join(max(until - self._clock.monotonic(), 0.05))
        late = f"it did not answer within {self._settings.timeout_s:g} s (setting literature.timeout_s)"
        # Copied here, so that a thread left behind cannot change the result.
        return {name: found.get(name, late) for name in asked}

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
