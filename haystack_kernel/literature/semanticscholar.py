"""Semantic Scholar: a search in plain words, without boolean queries; words with a hyphen find nothing.

In: a PaperQuery. Out: papers. References: https://api.semanticscholar.org/api-docs/graph (paper/search).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from haystack_kernel.literature import text
from haystack_kernel.literature.fetch import Fetcher, MalformedError, Request
from haystack_kernel.literature.json_answer import demand_usable, entries, names, parse_object, section
from haystack_kernel.schema import Paper

if TYPE_CHECKING:
    from haystack_kernel.schema import LiteratureSettings, PaperQuery

INTERVAL_S = 1.1
FIELDS = "title,abstract,year,venue,journal,authors,externalIds,publicationTypes"
N_GENES = 5  # more words find less


def interval_s(_: LiteratureSettings) -> float:
    """Return the minimum time between two requests, as the service asks for."""
    return INTERVAL_S


def find(query: PaperQuery, *, fetcher: Fetcher, settings: LiteratureSettings) -> list[Paper]:
    """Return the papers that fit the words best."""
    words = (*query.perturbation[:1], *query.cell_type[:1], *query.genes[:N_GENES], "gene expression")
    key = settings.semanticscholar_api_key
    request = Request(
        f"{settings.semanticscholar_url}/paper/search",
        params={
            "query": " ".join(re.sub(r"[^\w\s]", " ", " ".join(words)).split()),
            "limit": str(settings.max_papers),
            "fields": FIELDS,
        },
        headers={"x-api-key": key.get_secret_value()} if key else {},
    )
    return fetcher.get(request, _parse)[: settings.max_papers]


def _parse(body: bytes) -> list[Paper]:
    found = parse_object(body)
    if "total" not in found:
        msg = "no total"
        raise MalformedError(msg)
    data = found.get("data", [] if found["total"] == 0 else None)
    if not isinstance(data, list):
        msg = "no list of papers"
        raise MalformedError(msg)
    papers = [paper for entry in entries(found, "data") if (paper := _paper(entry)) is not None]
    return demand_usable(papers, data)


def _paper(entry: dict[str, Any]) -> Paper | None:
    title = text.plain(entry.get("title"), limit=text.MAX_TITLE)
    ids = section(entry, "externalIds")
    pmid, doi, own = text.pmid(ids.get("PubMed")), text.doi(ids.get("DOI")), text.plain(entry.get("paperId"))
    if not title or not (pmid or doi or own):
        return None
    return Paper(
        id=text.paper_id(pmid, doi, otherwise=f"semanticscholar:{own}"),
        title=title,
        abstract=text.plain(entry.get("abstract"), limit=text.MAX_ABSTRACT),
        doi=doi,
        pmid=pmid,
        journal=text.plain(section(entry, "journal").get("name")) or text.plain(entry.get("venue")),
        year=text.year(entry.get("year")),
        authors=tuple(name for item in entries(entry, "authors") if (name := text.plain(item.get("name")))),
        sources=("semanticscholar",),
        retracted=text.is_retracted(title, names(entry.get("publicationTypes"))),
    )
