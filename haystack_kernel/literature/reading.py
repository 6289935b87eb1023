"""Papers read by rule: what they say of which gene under the asked perturbation, as one signed gene set.

In: a PaperSearch, names, genes. Out: a ``Reading``; it knows nothing of any prediction.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from haystack_kernel.literature.direction import read_direction
from haystack_kernel.literature.names import GeneNames, PhraseNames
from haystack_kernel.literature.sentences import split_sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    """What the papers of one search say.

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
    """Read title and abstract of every paper.

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
    failed = [answer for answer in search.answers if answer.reason and not answer.n_papers]
    if search.answers and len(failed) == len(search.answers):
        told = "; ".join(f"{answer.source}: {answer.reason}" for answer in failed)
        return Reading(reason=f"no literature source answered ({told})")
    if not search.papers:
        return Reading(reason="the literature sources know no paper on this perturbation in these cells")
    names, asked = GeneNames(genes), PhraseNames(search.query.perturbation)
    claims, popularity = dict[str, tuple[Claim, ...]](), Counter[str]()
    ups, downs = Counter[str](), Counter[str]()
    counted = [paper for paper in search.papers if not paper.retracted]
    for paper in search.papers:
        found, named = _read(paper, names=names, asked=asked)
        claims[paper.id] = found
        if paper.retracted:
            continue
        popularity.update(named)
        for gene, vote in _votes(found).items():
            (ups if vote > 0 else downs)[gene] += 1
    votes = {gene: (ups[gene], downs[gene]) for gene in sorted(ups.keys() | downs.keys())}
    return Reading(
        claims=claims,
        signed={gene: 1 if up > down else -1 for gene, (up, down) in votes.items() if up != down},
        votes=votes,
        popularity=dict(popularity),
        n_papers=len(counted),
        n_telling=sum(bool(_votes(claims[paper.id])) for paper in counted),
    )


def _read(paper: Paper, *, names: GeneNames, asked: PhraseNames) -> tuple[tuple[Claim, ...], set[str]]:
    """Claims of one paper, and every gene it names."""
    claims, named = [], set[str]()
    parts: tuple[tuple[Literal["title", "abstract"], str], ...] = (("title", paper.title), ("abstract", paper.abstract))
    for where, text in parts:
        for start, end in split_sentences(text):
            sentence = text[start:end]
            perturbations = asked.find(sentence)
            genes = [
                gene
                for gene in names.find(sentence)
                if not any(span.start < gene.end and gene.start < span.end for span in perturbations)
            ]
            named |= {gene.name for gene in genes}
            if perturbations and not _is_shouted(sentence):
                found = {gene.name: 0 for gene in genes}
                for gene in genes:
                    said = read_direction(sentence, gene, genes=genes, asked=perturbations)
                    found[gene.name] = found[gene.name] or said
                claims += [Claim(gene, said, sentence, where, start, end) for gene, said in found.items()]
    return tuple(claims), named


def _is_shouted(sentence: str) -> bool:
    """Whether it is all in capitals, where any word may look like a symbol."""
    letters = [letter for letter in sentence if letter.isalpha()]
    return sum(letter.isupper() for letter in letters) > 0.7 * len(letters)


def _votes(claims: Iterable[Claim]) -> dict[str, int]:
    """The paper's word on each gene of which its sentences, summed, say something."""
    totals = Counter[str]()
    for claim in claims:
        totals[claim.gene] += claim.direction
    return {gene: 1 if total > 0 else -1 for gene, total in totals.items() if total}
