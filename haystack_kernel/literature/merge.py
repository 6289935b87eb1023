"""Merge the papers of several sources into one list: each paper once, with everything known about it.

In: papers by source. Out: papers without duplicates, in the order found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapidfuzz import fuzz

from haystack_kernel.literature.text import paper_id, title_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from haystack_kernel.schema import Paper, PaperSource

TRUST: tuple[PaperSource, ...] = ("pubmed", "europepmc", "semanticscholar")  # the first wins where two differ
SAME_TITLE = 60.0  # two titles of one identifier with less similarity than this: one of the sources is wrong
MIN_TITLE = 20  # shorter titles are shared by different papers
_FIELDS = ("abstract", "doi", "pmid", "journal", "year", "authors")


def merge_papers(papers: Iterable[Paper]) -> tuple[list[Paper], list[Paper]]:
    """Join papers by DOI, then PubMed id, then title.

    Returns
    -------
    The papers, and those dropped because they carry the identifier of a paper with quite another title, which a more
    trusted source returned: a citation must have the title that belongs to its identifier.
    """
    merged: list[Paper] = []
    places: dict[str, int] = {}
    dropped = []
    for paper in sorted(papers, key=lambda item: TRUST.index(item.sources[0])):
        where = next((places[key] for key in _keys(paper) if key in places), None)
        if where is None:
            where = len(merged)
            merged.append(paper)
        elif fuzz.ratio(title_key(merged[where].title), title_key(paper.title)) < SAME_TITLE:
            dropped.append(paper)
            continue
        else:
            merged[where] = _join(merged[where], paper)
        for key in _keys(paper):
            places.setdefault(key, where)
    return merged, dropped


def _keys(paper: Paper) -> list[str]:
    title = title_key(paper.title)
    found = [f"doi:{paper.doi}"] if paper.doi else []
    found += [f"pmid:{paper.pmid}"] if paper.pmid else []
    return found + ([f"title:{title}"] if len(title) >= MIN_TITLE else [])


def _join(first: Paper, second: Paper) -> Paper:
    """Fill what ``first`` lacks from ``second``; a paper retracted in one is retracted."""
    update = {name: getattr(second, name) for name in _FIELDS if not getattr(first, name) and getattr(second, name)}
    update["sources"] = tuple(dict.fromkeys((*first.sources, *second.sources)))
    update["retracted"] = first.retracted or second.retracted
    pmid, doi = update.get("pmid", first.pmid), update.get("doi", first.doi)
    update["id"] = paper_id(pmid, doi, otherwise=first.id)
    return first.model_copy(update=update)
