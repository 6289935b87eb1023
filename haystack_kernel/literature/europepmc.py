"""Europe PMC, which also has the preprints of bioRxiv and medRxiv: one search returns whole entries.

In: a PaperQuery. Out: papers. References: https://europepmc.org/RestfulWebService (search, resultType core).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from haystack_kernel.literature import text
from haystack_kernel.literature.fetch import Fetcher, MalformedError, Request
from haystack_kernel.literature.json_answer import demand_usable, entries, names, parse_object, section
from haystack_kernel.literature.query import any_of
from haystack_kernel.schema import Paper

if TYPE_CHECKING:
    from haystack_kernel.schema import LiteratureSettings, PaperQuery

INTERVAL_S = 0.2


def interval_s(_: LiteratureSettings) -> float:
    """Return the minimum time between two requests, as the service asks for."""
    return INTERVAL_S


def find(query: PaperQuery, *, fetcher: Fetcher, settings: LiteratureSettings) -> list[Paper]:
    """Return the most relevant papers with an abstract."""
    groups = [query.perturbation, query.cell_type, query.genes]
    wanted = [any_of(group, form='TITLE_ABS:"{}"') for group in groups if group]
    params = {
        "query": " AND ".join([*wanted, "HAS_ABSTRACT:Y"]),
        "resultType": "core",
        "format": "json",
        "pageSize": str(settings.max_papers),
    }
    request = Request(f"{settings.europepmc_url}/search", params=params)
    return fetcher.get(request, _parse)[: settings.max_papers]


def _parse(body: bytes) -> list[Paper]:
    answer = section(parse_object(body), "resultList")
    if not isinstance(answer.get("result"), list):
        msg = "no list of results"
        raise MalformedError(msg)
    found = entries(answer, "result")
    return demand_usable([paper for entry in found if (paper := _paper(entry)) is not None], answer["result"])


def _paper(entry: dict[str, Any]) -> Paper | None:
    title = text.plain(entry.get("title"), limit=text.MAX_TITLE)
    pmid, doi = text.pmid(entry.get("pmid")), text.doi(entry.get("doi"))
    own = text.plain(entry.get("id"))
    if not title or not (pmid or doi or own):
        return None
    journal = section(section(entry, "journalInfo"), "journal").get("title")
    publisher = section(entry, "bookOrReportDetails").get("publisher")  # of a preprint
    authors = text.plain(entry.get("authorString"), limit=2_000).rstrip(".").split(", ")
    kinds = names(section(entry, "pubTypeList").get("pubType"))
    for item in entries(section(entry, "commentCorrectionList"), "commentCorrection"):
        if str(item.get("type")).casefold() == "retraction in":  # a notice retracts this paper
            kinds.append("Retracted Publication")
    return Paper(
        id=text.paper_id(pmid, doi, otherwise=f"europepmc:{own}"),
        title=title,
        abstract=text.plain(entry.get("abstractText"), limit=text.MAX_ABSTRACT),
        doi=doi,
        pmid=pmid,
        journal=text.plain(journal) or text.plain(publisher),
        year=text.year(entry.get("pubYear")),
        authors=tuple(author for author in authors if author),
        sources=("europepmc",),
        retracted=text.is_retracted(title, kinds),
    )
