"""Papers as searched, read and cited.

In: plain values. Out: paper queries, papers, quotes, citations.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from haystack_kernel.schema.base import Frozen, PaperSource, Stance


class PaperQuery(Frozen):
    """What papers are searched for: any name of each group; an empty group asks for nothing."""

    perturbation: tuple[str, ...]
    cell_type: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()


class Paper(Frozen):
    """One paper as the sources gave it; plain text, never markup."""

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
    """How one source answered; ``reason`` is empty when it did so in full."""

    source: PaperSource
    n_papers: int = 0
    reason: str = ""


class PaperSearch(Frozen):
    """What all sources returned for one query, merged; sources that failed say why."""

    query: PaperQuery
    searched_at: datetime
    papers: tuple[Paper, ...] = ()
    answers: tuple[SourceAnswer, ...] = ()


class Quote(Frozen):
    """One sentence about one gene under the asked perturbation, and where it stands."""

    gene: str
    direction: int = Field(ge=-1, le=1, description="what the sentence says: +1 rises, -1 falls, 0 nothing on it")
    stance: Stance
    quote: str
    where: Literal["title", "abstract"]
    start: int = Field(ge=0, description="offset of the quote in the title or abstract, as are all offsets")
    end: int


class Citation(Frozen):
    """A paper that names the perturbation and a gene in one sentence, with those sentences."""

    paper: Paper
    scored: bool = Field(description="False: retracted, or found only by a search for the predicted genes")
    quotes: tuple[Quote, ...]


class Citations(Frozen):
    """citations.json: contradictions first. ``reason`` says why no source was asked, and is empty otherwise."""

    reason: str = ""
    searched_at: datetime | None = None
    answers: tuple[SourceAnswer, ...] = Field(default=(), description="of the search for the perturbation")
    gene_answers: tuple[SourceAnswer, ...] = Field(default=(), description="of the search for the predicted genes")
    n_papers: int = 0
    n_left_out: int = Field(default=0, description="papers with mere mentions that are not listed")
    citations: tuple[Citation, ...] = ()
