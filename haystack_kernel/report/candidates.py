"""The prompt candidates of a run: a table in notebooks, lines in terminals, a data frame for further work.

In: ranked candidates and the rounds that used them. Out: :class:`CandidateTable`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel import get
from haystack_kernel.report.html import Html, folded, paragraph, table
from haystack_kernel.report.words import cell_types, counted
from haystack_kernel.schema import EVIDENCE_WORDS
from haystack_kernel.texts import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from haystack_kernel.schema import Candidate, HiddenCells, Round, RunRecord

_EMPTY = "No prompt candidates have been found yet."
_COLUMNS = (
    "cell type",
    "perturbation",
    "dataset",
    "cells",
    "control cells",
    "rank score",
    "used in rounds",
    "reason",
)


def candidate_table(record: RunRecord) -> CandidateTable:
    """Return the candidates of a run and the rounds in which each was used.

    Parameters
    ----------
    record
        The run; its candidates are in the order of the ranking.

    Returns
    -------
    The table, which can also be indexed and iterated over.

    Examples
    --------
    >>> candidate_table(run.record).to_frame()  # doctest: +SKIP
    """
    return CandidateTable(record.candidates, record.rounds, hidden=record.hidden, measured=record.measured_words)


class CandidateTable:
    """Ranked prompt candidates, best first.

    Parameters
    ----------
    candidates
        In the order of the ranking.
    rounds
        The rounds so far, to say which of them used a candidate.
    hidden
        What the hidden pairs kept out of the search.
    measured
        That the asked response is measured already; empty where it is not.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        rounds: Sequence[Round] = (),
        *,
        hidden: Sequence[HiddenCells] = (),
        measured: str = "",
    ) -> None:
        self._candidates = tuple(candidates)
        self._rounds = tuple(rounds)
        self._hidden = tuple(hidden)
        self._measured = _sentence(measured[:1].upper() + measured[1:])

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates)

    def __getitem__(self, place: int) -> Candidate:
        return self._candidates[place]

    def __repr__(self) -> str:
        lines = []
        for place, one in enumerate(self._candidates, 1):
            prompt = one.prompt
            where = f"{cell_types(one)}, {prompt.perturbation or 'unperturbed'}, {prompt.atlas} / {prompt.dataset}"
            lines.append(
                f"{place}. {where}, {prompt.n_cells} cells, score {one.score:.2f} ({_how(one)})\n"
                f"   {_sentence(one.reason)}\n   Control cells: {_sentence(one.control_reason)}\n   Key: {one.key}"
            )
        shown = [
            f"{one.n_cells} cells: {one.cell_type}, {one.perturbation}, {one.atlas} / {one.dataset} (by {one.pair})"
            for one in self._hidden
            if one.n_cells
        ]
        hidden = [f"Hidden from the search: {self._hidden_words()}", *shown] if self._hidden else []
        measured = [self._measured] if self._measured else []
        return visible("\n".join([*measured, *(lines or [_EMPTY]), *hidden]))

    def _repr_html_(self) -> str:
        return self.html()._repr_html_()

    def html(self) -> Html:
        """Return the table as a fragment with every text escaped; the full reason unfolds in the last column."""
        if not self._candidates:
            return Html(paragraph(_EMPTY) + self._hidden_html())
        caption = f"{len(self)} prompt candidates, best first; select a reason to read it in full"
        shown = table(_COLUMNS, map(self._row, self._candidates), caption=caption, kind="sortable")
        measured = paragraph(self._measured, kind="note") if self._measured else ""
        return Html(measured + shown + self._hidden_html())

    def to_frame(self) -> pd.DataFrame:
        """Return one row per candidate: criteria, numbers of cells, parts of the score, reason and rounds of use."""
        return get.candidate_frame(self._candidates, self._rounds)

    def _row(self, one: Candidate) -> tuple[object, ...]:
        prompt = one.prompt
        why = (
            f"{_sentence(one.reason)} Control cells: {_sentence(one.control_reason)} Relevance {one.relevance:.2f}, "
            f"diversity {one.diversity:.2f}, quality {one.quality:.2f}. Key: {one.key}"
        )
        return (
            cell_types(one),
            prompt.perturbation or "unperturbed",
            prompt.dataset if prompt.dataset == prompt.atlas else f"{prompt.atlas} / {prompt.dataset}",
            prompt.n_cells,
            one.control.n_cells if one.control else 0,
            one.score,
            ", ".join(self._used_in(one)),
            folded(_how(one), why),
        )

    def _hidden_words(self) -> str:
        """How many cells each hidden pair kept out: "420 cells by B cell : IFN-beta"."""
        sizes = dict.fromkeys([one.pair for one in self._hidden], 0)
        for one in self._hidden:
            sizes[one.pair] += one.n_cells
        return "; ".join(f"{counted(n, 'cell') if n else 'no cell'} by {pair}" for pair, n in sizes.items())

    def _hidden_html(self) -> str:
        if not self._hidden:
            return ""
        rows = [
            (one.cell_type, one.perturbation, f"{one.atlas} / {one.dataset}", one.n_cells, one.pair)
            for one in self._hidden
            if one.n_cells
        ]
        columns = ("label of the cells", "treatment or disease", "dataset", "cells", "hidden by")
        caption = "Cells that the search could not see: labels that may hold the answer"
        return paragraph(f"Hidden from the search: {self._hidden_words()}.") + (
            table(columns, rows, caption=caption) if rows else ""
        )

    def _used_in(self, one: Candidate) -> list[str]:
        return [str(past.number) for past in self._rounds if one.key in past.choice.candidate_keys]


def _how(one: Candidate) -> str:
    pinned = "pinned by you; " if one.pinned else ""
    return f"{pinned}{EVIDENCE_WORDS[one.evidence_distance]} ({one.strategy.replace('_', ' ')})"


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}." if text else ""
