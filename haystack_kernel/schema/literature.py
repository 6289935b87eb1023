"""Papers as searched, read and cited.

In: plain values. Out: paper queries, papers, quotes, citations, and what a language model read in the papers.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from haystack_kernel.schema.base import Frozen, PaperSource, Stance


class PaperQuery(Frozen):
    """Search terms: a paper must have any name of each group; an empty group is ignored."""

    perturbation: tuple[str, ...]
    cell_type: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()


class Paper(Frozen):
    """One paper as the sources returned it; plain text without markup."""

    id: str = Field(description="pmid:<n>, doi:<doi>, or <source>:<id>")
    title: str
    abstract: str = ""
    doi: str | None = None
    pmid: str | None = None
    journal: str = ""
    year: int | None = None
    authors: tuple[str, ...] = ()
    sources: tuple[PaperSource, ...]
    retracted: bool = Field(default=False, description="retracted, or itself a notice of retraction")


class SourceAnswer(Frozen):
    """The answer of one source; ``reason`` is empty if it is complete."""

    source: PaperSource
    n_papers: int = 0
    reason: str = ""


class PaperSearch(Frozen):
    """The merged results of all sources for one query; sources that failed say why."""

    query: PaperQuery
    searched_at: datetime
    papers: tuple[Paper, ...] = ()
    answers: tuple[SourceAnswer, ...] = ()


class Quote(Frozen):
    """One sentence about one gene under the perturbation, and its position in the paper."""

    gene: str
    direction: int = Field(ge=-1, le=1, description="direction that the sentence states: +1 rises, -1 falls, 0 none")
    stance: Stance
    quote: str
    where: Literal["title", "abstract"]
    start: int = Field(ge=0, description="offset of the quote in the title or abstract, as are all offsets")
    end: int


class Citation(Frozen):
    """A paper with sentences that name both the perturbation and a gene."""

    paper: Paper
    scored: bool = Field(description="False: retracted, or found only by a search for the predicted genes")
    quotes: tuple[Quote, ...]


class Citations(Frozen):
    """Content of citations.json, contradictions first; ``reason`` says why no source was asked, or is empty."""

    reason: str = ""
    searched_at: datetime | None = None
    answers: tuple[SourceAnswer, ...] = Field(default=(), description="of the search for the perturbation")
    gene_answers: tuple[SourceAnswer, ...] = Field(default=(), description="of the search for the predicted genes")
    n_papers: int = 0
    n_left_out: int = Field(default=0, description="papers that only mention a gene and are not listed")
    citations: tuple[Citation, ...] = ()


class ModelReadings(Frozen):
    """Content of readings.json: what a language model read in the papers of a round, beside the reading by rules.

    It is shown and never scored. Every quote stands in its paper; sentences that do not are counted and left out.
    """

    reader: str = Field(description="the model that read")
    reason: str = Field(default="", description="why nothing was read; empty otherwise")
    read: tuple[str, ...] = Field(default=(), description="ids of the papers that it was shown")
    unread: tuple[str, ...] = Field(default=(), description="ids of papers on which its answer could not be used")
    n_unproven: int = Field(default=0, ge=0, description="sentences left out because their paper does not hold them")
    citations: tuple[Citation, ...] = Field(default=(), description="papers in which it found a statement")
