"""PubMed through the E-utilities: a search for ids, then the entries as XML.

In: a PaperQuery. Out: papers. Both requests are posted, so that no key stands in an address.
References: https://www.ncbi.nlm.nih.gov/books/NBK25499 (ESearch, EFetch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from haystack_kernel.literature import text
from haystack_kernel.literature.fetch import Fetcher, MalformedError, Request
from haystack_kernel.literature.json_answer import demand_usable, names, parse_object, section
from haystack_kernel.literature.query import any_of
from haystack_kernel.schema import Paper

if TYPE_CHECKING:
    from haystack_kernel.schema import LiteratureSettings, PaperQuery

INTERVAL_S, INTERVAL_WITH_KEY_S = 0.34, 0.1
TOOL = "haystack-kernel"


def interval_s(settings: LiteratureSettings) -> float:
    """Return the minimum time between two requests, as the service asks for."""
    return INTERVAL_S if settings.ncbi_api_key is None else INTERVAL_WITH_KEY_S


def find(query: PaperQuery, *, fetcher: Fetcher, settings: LiteratureSettings) -> list[Paper]:
    """Return the most relevant papers: their ids first, then the entries; entries with other ids are dropped."""
    groups = [query.perturbation, query.cell_type, query.genes]
    term = " AND ".join(any_of(group, form='"{}"[Title/Abstract]') for group in groups if group)
    private = {"email": settings.email} if settings.email else {}
    if settings.ncbi_api_key is not None:
        private["api_key"] = settings.ncbi_api_key.get_secret_value()
    search = {
        "db": "pubmed",
        "term": f"{term} AND hasabstract",
        "retmax": str(settings.max_papers),
        "retmode": "json",
        "sort": "relevance",
        "tool": TOOL,
    }
    url = settings.pubmed_url
    ids = fetcher.get(Request(f"{url}/esearch.fcgi", form=search, private=private), _parse_ids)[: settings.max_papers]
    if not ids:
        return []
    wanted = {"db": "pubmed", "id": ",".join(ids), "retmode": "xml", "tool": TOOL}
    found = fetcher.get(
        Request(f"{url}/efetch.fcgi", form=wanted, private=private),
        lambda body: demand_usable([paper for paper in _parse_papers(body) if paper.pmid in ids], ids),
    )
    by_id = {paper.pmid: paper for paper in found}
    return [by_id[name] for name in ids if name in by_id]


def _parse_ids(body: bytes) -> list[str]:
    result = section(parse_object(body), "esearchresult")
    if "idlist" not in result:
        msg = "no list of ids"
        raise MalformedError(msg)
    given = result["idlist"]
    if not isinstance(given, list) or (not given and str(result.get("count", "0")) != "0"):
        msg = "no list of ids"
        raise MalformedError(msg)
    return demand_usable([found for name in names(given) if (found := text.pmid(name))], given)


def _parse_papers(body: bytes) -> list[Paper]:
    """Return the entries of a PubmedArticleSet; entities are refused, and nothing external is read."""
    try:
        root = fromstring(body, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except (ParseError, DefusedXmlException, ValueError):
        msg = "no XML, or with entities"
        raise MalformedError(msg) from None
    if root.tag != "PubmedArticleSet":
        msg = "no PubmedArticleSet"
        raise MalformedError(msg)
    return [paper for entry in root.iterfind("PubmedArticle") if (paper := _paper(entry)) is not None]


def _paper(entry: Element) -> Paper | None:
    pmid = text.pmid(_text(entry, "MedlineCitation/PMID"))
    title = text.plain(_text(entry, ".//Article/ArticleTitle"), limit=text.MAX_TITLE)
    if pmid is None or not title:
        return None
    kinds = [_inner(item) for item in entry.iterfind(".//PublicationTypeList/PublicationType")]
    if entry.find(".//CommentsCorrections[@RefType='RetractionIn']") is not None:
        kinds.append("Retracted Publication")
    doi = _text(entry, "PubmedData/ArticleIdList/ArticleId[@IdType='doi']")
    date = _text(entry, ".//JournalIssue/PubDate/Year") or _text(entry, ".//JournalIssue/PubDate/MedlineDate")
    authors = []
    for item in entry.iterfind(".//AuthorList/Author"):
        family, given = _text(item, "LastName"), _text(item, "Initials")
        authors.append(text.plain(f"{family} {given}" if family else _text(item, "CollectiveName")))
    return Paper(
        id=f"pmid:{pmid}",
        title=title,
        abstract=_abstract(entry),
        doi=text.doi(doi or _text(entry, ".//Article/ELocationID[@EIdType='doi']")),
        pmid=pmid,
        journal=text.plain(_text(entry, ".//Journal/Title")),
        year=text.year(date),
        authors=tuple(name for name in authors if name),
        sources=("pubmed",),
        retracted=text.is_retracted(title, kinds),
    )


def _abstract(entry: Element) -> str:
    """Return the parts of the abstract, each after its label."""
    parts = []
    for item in entry.iterfind(".//Article/Abstract/AbstractText"):
        label = item.get("Label")
        parts.append(f"{label.capitalize()}: {_inner(item)}" if label else _inner(item))
    return text.plain(" ".join(parts), limit=text.MAX_ABSTRACT)


def _text(entry: Element, path: str) -> str:
    found = entry.find(path)
    return "" if found is None else _inner(found)


def _inner(item: Element) -> str:
    return "".join(item.itertext())
