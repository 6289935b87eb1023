"""What papers of a run state on genes, as data that holds no text of anybody: gene, direction, stance, and a key.

Text of papers reaches a language model in one place alone, where it reads one paper in a request of its own; steps that
choose or write see statements. A sentence is quoted by its key, and the program puts it in.

In: the citations of a round, and what the model read in the same papers. Out: statements by key.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel.knowledge.genes import load_genes
from haystack_kernel.schema import Citations, CitedQuote, ModelReadings
from haystack_kernel.store import layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from haystack_kernel.ports import PlannerView
    from haystack_kernel.schema import Citation, Paper, Quote, RunRecord

_N_STATEMENTS, _OF_PAPER = 12, 3
_ORDER = ("contradiction", "support", "mention")
_SAYS = {1: "rises", -1: "falls", 0: "no direction"}
_STANCES = {
    "contradiction": "contradicts the prediction",
    "support": "supports the prediction",
    "mention": "takes no side",
}


@dataclass(frozen=True)
class Statement:
    """One sentence of one paper on one gene; ``is_disputed`` where rules and model read its direction differently."""

    paper: Paper
    said: Quote
    readers: tuple[str, ...]
    is_disputed: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """What a model is told: nothing that anybody wrote."""
        told = {
            "gene": self.said.gene,
            "under_the_treatment": _SAYS[self.said.direction],
            "stance": _STANCES[self.said.stance],
            "year": self.paper.year,
            "read_by": " and ".join(self.readers),
        }
        return told | ({"disputed": True} if self.is_disputed else {})

    @property
    def cited(self) -> CitedQuote:
        """The sentence with its paper, for the report."""
        paper = self.paper
        return CitedQuote(
            paper=paper.id,
            title=paper.title,
            quote=self.said.quote,
            doi=paper.doi,
            pmid=paper.pmid,
            year=paper.year,
            retracted=paper.retracted,
        )


def statements_of(record: RunRecord, view: PlannerView) -> dict[str, Statement]:
    """Return what the papers of the best round state on genes, contradictions first, by the keys s1, s2 and so on.

    Parameters
    ----------
    record
        With its best round.
    view
        The run folder.

    Returns
    -------
    At most twelve statements and three of a paper; none of retracted papers, and none on what is no gene symbol.
    """
    genes, found = load_genes().by_symbol, dict[tuple[str, str, str, int], Statement]()
    for reader, item in _read(record, view):
        for said in item.quotes:
            if not item.paper.retracted and said.gene in genes:
                at = (item.paper.id, said.gene, said.where, said.start)
                found[at] = _merged(found.get(at), Statement(item.paper, said, (reader,)))
    kept, of_paper = list[Statement](), Counter[str]()
    for one in sorted(found.values(), key=lambda one: _ORDER.index(one.said.stance)):
        of_paper[one.paper.id] += 1
        if of_paper[one.paper.id] <= _OF_PAPER:
            kept.append(one)
    return {f"s{place}": one for place, one in enumerate(kept[:_N_STATEMENTS], 1)}


def _read(record: RunRecord, view: PlannerView) -> Iterator[tuple[str, Citation]]:
    """Papers of the best round with what each reader found in them."""
    number = record.best_round or 1
    sources: tuple[tuple[str, str, type[Citations] | type[ModelReadings]], ...] = (
        ("rules", layout.CITATIONS, Citations),
        ("a language model", layout.READINGS, ModelReadings),
    )
    for reader, name, kind in sources:
        path = layout.round_file(number, name)
        if view.store.exists(record.run_id, path):
            for item in kind.model_validate_json(view.store.read(record.run_id, path)).citations:
                yield reader, item


def _merged(before: Statement | None, new: Statement) -> Statement:
    """Both readers of one sentence: where they differ, the graver reading leads and the statement is disputed."""
    if before is None:
        return new
    lead = min((before, new), key=lambda one: _ORDER.index(one.said.stance))
    is_disputed = before.said.direction != new.said.direction
    return Statement(lead.paper, lead.said, (*before.readers, *new.readers), is_disputed)
