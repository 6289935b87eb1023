"""Read papers with Claude, one at a time: what each says on genes under the treatment, with the sentence for it.

In: papers of the run, its genes, those that are called. Out: ``ModelReadings``; every quote stands in its paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from haystack_kernel.errors import ServiceError
from haystack_kernel.literature.names import GeneNames
from haystack_kernel.literature.quoting import prove
from haystack_kernel.planners.claude.client import UNUSABLE, Answering
from haystack_kernel.planners.claude.understand import as_data
from haystack_kernel.schema import Citation, ModelReadings, Quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from haystack_kernel.literature.quoting import Proof
    from haystack_kernel.planners.claude.client import Service
    from haystack_kernel.ports import PapersToRead
    from haystack_kernel.schema import Paper, Perturbation, Stance

_MOST = 12  # statements of one paper
_SIGNS: dict[str, int] = {"rises": 1, "falls": -1, "none": 0}


class Statement(Answering):
    """One sentence on one gene under the treatment."""

    gene: str = Field(description="official symbol")
    direction: Literal["rises", "falls", "none"]
    quote: str = Field(description="the sentence, copied letter by letter")


class Statements(Answering):
    """What one paper states."""

    statements: list[Statement]


def read_papers(asked: PapersToRead, *, service: Service) -> ModelReadings:
    """Ask for the statements of each paper in a request of its own, so that no paper can speak for another.

    Parameters
    ----------
    asked
        The papers, in the order in which they are read. The model is not told what is predicted.
    service
        The language model.

    Returns
    -------
    Readings. What is not proven after one repair is left out and counted, and a paper without a usable answer is named.

    Raises
    ------
    ServiceError
        The service cannot be asked.

    Examples
    --------
    >>> read_papers(asked, service=service).read  # doctest: +SKIP
    ('pmid:1',)
    """
    names = GeneNames(asked.genes)
    found, unread, n_unproven = [], list[str](), 0
    for paper in asked.papers:
        try:
            answer = _ask(paper, asked.treatment, names=names, service=service)
        except ServiceError as error:
            if error.facts.get("reason") != UNUSABLE:
                raise
            unread.append(paper.id)  # one paper must not hold up a run: it is named and left out
            continue
        quotes, missing = _quotes(answer, paper, names=names, predicted=asked.predicted)
        n_unproven += missing
        if quotes:
            found.append(Citation(paper=paper, scored=paper.id in asked.scored, quotes=quotes))
    return ModelReadings(
        reader=service.settings.small_model,
        read=tuple(paper.id for paper in asked.papers if paper.id not in unread),
        unread=tuple(unread),
        n_unproven=n_unproven,
        citations=tuple(found),
    )


def _ask(paper: Paper, treatment: Perturbation, *, names: GeneNames, service: Service) -> Statements:
    was_told = False

    def check(answer: Statements) -> list[str]:
        nonlocal was_told
        if was_told:  # what is still unproven is left out and counted
            return []
        was_told = True
        return list(_faults(answer, paper, names=names))

    said = (
        f"<treatment>\n{as_data([treatment.name, *treatment.synonyms[:12]])}\n</treatment>\n"
        f"<paper>\n{as_data({'title': paper.title, 'abstract': paper.abstract})}\n</paper>"
    )
    return service.ask(Statements, said, check=check, model=service.settings.small_model)


def _faults(answer: Statements, paper: Paper, *, names: GeneNames) -> Iterator[str]:
    if len(answer.statements) > _MOST:
        yield f"statements: give at most {_MOST}"
    for number, said in enumerate(answer.statements[:_MOST]):
        proof = prove(paper, said.quote)
        if proof is None:
            yield f"statements.{number}.quote: not in the paper; copy the whole sentence or leave the statement out"
        elif not _names(proof, said.gene, names=names):
            yield f"statements.{number}.gene: the sentence does not name {said.gene[:40]!r}"


def _names(proof: Proof, gene: str, *, names: GeneNames) -> bool:
    return any(span.name == gene.upper() for span in names.find(proof.quote))


def _quotes(
    answer: Statements, paper: Paper, *, names: GeneNames, predicted: Mapping[str, int]
) -> tuple[tuple[Quote, ...], int]:
    """The proven statements with their stance, contradictions first, and how many are not proven."""
    quotes, n_unproven = dict[tuple[str, str, int], Quote](), 0
    for said in answer.statements[:_MOST]:
        proof, gene, sign = prove(paper, said.quote), said.gene.upper(), _SIGNS[said.direction]
        if proof is None or not _names(proof, gene, names=names):
            n_unproven += 1
            continue
        agreement = sign * predicted.get(gene, 0)
        stance: Stance = "mention"
        if agreement:
            stance = "support" if agreement > 0 else "contradiction"
        quote = Quote(gene=gene, direction=sign, stance=stance, **proof._asdict())
        quotes.setdefault((gene, proof.where, proof.start), quote)
    order = ("contradiction", "support", "mention")
    return tuple(sorted(quotes.values(), key=lambda item: order.index(item.stance))), n_unproven
