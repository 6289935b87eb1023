"""Read papers by rules: what they say about each gene under the asked perturbation, as one signed gene set.

In: a PaperSearch, names, genes. Out: a ``Reading``, which does not depend on any prediction.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from haystack_kernel.literature.direction import read_direction
from haystack_kernel.literature.names import GeneNames, PhraseNames
from haystack_kernel.literature.sentences import split_sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import Paper, PaperSearch


class Claim(NamedTuple):
    """One sentence of a paper on one gene under the perturbation; ``direction`` 0 says nothing on it."""

    gene: str
    direction: int
    quote: str
    where: Literal["title", "abstract"]
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Reading:
    """The statements of the papers of one search.

    ``claims`` by paper id, ``signed`` gene -> +1 or -1 by majority of papers, ``votes`` gene -> (papers that say it
    rises, that it falls), ``popularity`` gene -> papers that name it at all. Retracted papers have claims, but
    no vote and no popularity. ``reason`` says why nothing was read, and is empty otherwise.
    """

    claims: dict[str, tuple[Claim, ...]] = field(default_factory=dict)
    signed: dict[str, int] = field(default_factory=dict)
    votes: dict[str, tuple[int, int]] = field(default_factory=dict)
    popularity: dict[str, int] = field(default_factory=dict)
    n_papers: int = 0
    n_telling: int = 0
    reason: str = ""


def read_papers(search: PaperSearch, *, genes: Sequence[str]) -> Reading:
    """Read title and abstract of every paper of a search.

    Parameters
    ----------
    search
        Papers, and the query with the perturbation's names.
    genes
        Upper-case symbols to look for.

    Returns
    -------
    A paper has one vote per gene, the sign of the sum over its sentences; a gene with as many votes up as down is not
    in ``signed``. The perturbation's own gene, where its name stands for the perturbation, is not read.
    """
    reason = _why_nothing(search)
    if reason:
        return Reading(reason=reason)
    names, asked = GeneNames(genes), PhraseNames(search.query.perturbation)
    claims, popularity = dict[str, tuple[Claim, ...]](), Counter[str]()
    ups, downs = Counter[str](), Counter[str]()
    n_papers = n_telling = 0
    for paper in search.papers:
        claims[paper.id], votes, named = _read(paper, names=names, asked=asked)
        if paper.retracted:  # shown, but without a vote
            continue
        popularity.update(named)
        ups.update(gene for gene, vote in votes.items() if vote > 0)
        downs.update(gene for gene, vote in votes.items() if vote < 0)
        n_papers += 1
        n_telling += bool(votes)
    counted = {gene: (ups[gene], downs[gene]) for gene in sorted(ups.keys() | downs.keys())}
    return Reading(
        claims=claims,
        signed={gene: 1 if up > down else -1 for gene, (up, down) in counted.items() if up != down},
        votes=counted,
        popularity=dict(popularity),
        n_papers=n_papers,
        n_telling=n_telling,
    )


def _why_nothing(search: PaperSearch) -> str:
    """Return why there is nothing to read; empty where there is."""
    failed = [answer for answer in search.answers if answer.reason and not answer.n_papers]
    if search.answers and len(failed) == len(search.answers):
        reasons = "; ".join(f"{answer.source}: {answer.reason}" for answer in failed)
        return f"no literature source answered ({reasons})"
    if not search.papers:
        return "the literature sources found no paper on this perturbation in these cells"
    return ""


def _read(paper: Paper, *, names: GeneNames, asked: PhraseNames) -> tuple[tuple[Claim, ...], dict[str, int], set[str]]:
    """Return the claims of one paper, its vote on each gene, and every gene that it names."""
    claims, named = [], set[str]()
    parts: tuple[tuple[Literal["title", "abstract"], str], ...] = (("title", paper.title), ("abstract", paper.abstract))
    for where, text in parts:
        for start, end in split_sentences(text):
            sentence = text[start:end]
            directions, genes = _read_sentence(sentence, names=names, asked=asked)
            named |= genes
            claims += [Claim(gene, said, sentence, where, start, end) for gene, said in directions.items()]
    totals = Counter[str]()
    for claim in claims:
        totals[claim.gene] += claim.direction
    votes = {gene: 1 if total > 0 else -1 for gene, total in totals.items() if total}
    return tuple(claims), votes, named


def _read_sentence(sentence: str, *, names: GeneNames, asked: PhraseNames) -> tuple[dict[str, int], set[str]]:
    """Return what a sentence says about each gene, if it names the perturbation, and every gene that it names."""
    perturbations = asked.find(sentence)
    # Where the perturbation is itself a gene, its name is not read as one.
    genes = [
        gene
        for gene in names.find(sentence)
        if not any(span.start < gene.end and gene.start < span.end for span in perturbations)
    ]
    named = {gene.name for gene in genes}
    letters = list(filter(str.isalpha, sentence))
    is_shouted = sum(map(str.isupper, letters)) > 0.7 * len(letters)  # in capitals any word may look like a symbol
    if not perturbations or is_shouted:
        return {}, named
    directions: dict[str, int] = {}
    for gene in genes:  # of several mentions of a gene the first that says anything counts
        said = read_direction(sentence, gene, genes=genes, asked=perturbations)
        directions[gene.name] = directions.get(gene.name, 0) or said
    return directions, named
