"""What is known about one gene: expectations, pathways, regulators with their own predicted change, papers.

In: a gene, the knowledge tables, the run's tables and citations. Out: :class:`GeneEvidence`, plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_kernel import keys
from haystack_kernel.report.literature import paper_link

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.knowledge import Edge, Knowledge
    from haystack_kernel.schema import Citations, RunRecord

N_EDGES = 30  # regulators, and genes regulated, that are listed at most
_KINDS = {
    "ligand": "ligand of the receptor",
    "signalling": "signals to",
    "transcription": "transcription factor of",
    "association": "associated with",
}


@dataclass(frozen=True)
class GeneEvidence:
    """Evidence about one gene as plain values, ready for JSON.

    Attributes
    ----------
    gene
        The gene.
    facts
        Sentences: the call, what the question expects, and whether they agree.
    pathways
        Pathways that hold the gene: name, direction, statistic and score of the run.
    regulators, targets
        Links of the network to and from the gene: the other gene, direction, kind, source, its own predicted change.
    papers
        Sentences of papers that name the gene: stance, quote, title, year, link.
    notes
        What was not looked up, and how many links are left out.
    """

    gene: str
    facts: tuple[str, ...]
    pathways: tuple[dict[str, Any], ...]
    regulators: tuple[dict[str, Any], ...]
    targets: tuple[dict[str, Any], ...]
    papers: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


def gene_evidence(
    gene: str,
    *,
    record: RunRecord,
    de: pd.DataFrame,
    pathways: pd.DataFrame,
    knowledge: Knowledge,
    citations: Citations | None,
) -> GeneEvidence:
    """Collect what is known about a gene.

    Parameters
    ----------
    gene
        Symbol as in the DE table.
    record, de, pathways, citations
        The run, the tables of its best round, and its papers; None where the round has none.
    knowledge
        Pathways and networks.

    Returns
    -------
    The evidence; empty lists where nothing is known, with a note where nothing was looked up.

    Examples
    --------
    >>> gene_evidence("STAT1", record=record, de=de, pathways=pathways, knowledge=knowledge, citations=None)
    ... # doctest: +SKIP
    """
    rows = de.drop_duplicates(keys.GENE).set_index(keys.GENE)
    links = {
        "links to": [_link(edge, other=edge.regulator, rows=rows) for edge in knowledge.network if edge.target == gene],
        "links from": [
            _link(edge, other=edge.target, rows=rows) for edge in knowledge.network if edge.regulator == gene
        ],
    }
    notes = [] if knowledge.network else ["No network of genes is installed: `haystack knowledge add` adds one."]
    for what, found in links.items():
        found.sort(key=lambda item: (not item["called"], -abs(item["log2fc"] or 0.0), item["gene"]))
        if len(found) > N_EDGES:
            notes.append(f"{len(found) - N_EDGES} more {what} this gene are not listed.")
    papers, why = _papers(gene, citations=citations)
    into, out = (tuple(found[:N_EDGES]) for found in links.values())
    return GeneEvidence(
        gene=gene,
        facts=tuple(_facts(gene, rows=rows, record=record)),
        pathways=tuple(_holding(gene, pathways=pathways, knowledge=knowledge)),
        regulators=into,
        targets=out,
        papers=tuple(papers),
        notes=(*notes, *([why] if why else [])),
    )


def _holding(gene: str, *, pathways: pd.DataFrame, knowledge: Knowledge) -> list[dict[str, Any]]:
    """Pathways that hold the gene, the expected ones first, with what the run says of them."""
    statistics = {str(row["pathway"]): row for row in pathways.to_dict("records")}
    found: list[dict[str, Any]] = []
    for name, one in knowledge.pathways.items():
        if (sign := one.genes.get(gene)) is None:
            continue
        known: dict[Any, Any] = statistics.get(name, {})
        told = {key: float(known[key]) if key in known else None for key in ("statistic", "score")}
        found.append({"pathway": name, "sign": sign, **told, "expected": bool(known.get("is_expected", False))})
    return sorted(found, key=lambda item: (not item["expected"], -(item["score"] or 0.0)))


def _facts(gene: str, *, rows: pd.DataFrame, record: RunRecord) -> list[str]:
    expected = record.query.expected_targets.get(gene, 0) if record.query else 0
    row: Any = rows.loc[gene]
    called = bool(row[keys.IS_DE])
    change = float(row[keys.LOG2FC])
    if not bool(row[keys.IS_TESTED]):
        told = "Not tested: too few cells hold it."
    elif called:
        told = f"Called: predicted to {'rise' if change > 0 else 'fall'} (log2 fold change {change:+.2f})."
    else:
        told = f"Not called differentially expressed (log2 fold change {change:+.2f})."
    found = [told]
    if bool(row.get(keys.PADDED, False)):
        found.append("The engine or its prompt lacks this gene, so its prediction could not change it.")
    if bool(row.get("flips", False)):
        found.append("The call differs between the two control strategies.")
    if expected:
        wanted = "rise" if expected > 0 else "fall"
        agrees = "the prediction agrees" if change * expected > 0 else "the prediction is the opposite"
        if not called:
            agrees = "the prediction does not call it so"
        found.append(f"Expected to {wanted} under the treatment asked about; {agrees}.")
    return found


def _link(edge: Edge, *, other: str, rows: pd.DataFrame) -> dict[str, Any]:
    known: Any = rows.loc[other] if other in rows.index else None
    return {
        "gene": other,
        "sign": edge.sign,
        "kind": _KINDS[edge.kind],
        "source": edge.source,
        "log2fc": None if known is None else float(known[keys.LOG2FC]),
        "called": False if known is None else bool(known[keys.IS_DE]),
    }


def _papers(gene: str, *, citations: Citations | None) -> tuple[list[dict[str, Any]], str]:
    """Sentences about the gene, contradictions first as the citations are; and why there are none to look through."""
    if citations is None:
        return [], "The version that made this run did not search the literature."
    if citations.reason:
        return [], f"{citations.reason[0].upper()}{citations.reason[1:]}."
    found = [
        {
            "stance": quote.stance,
            "quote": quote.quote,
            "title": item.paper.title,
            "year": item.paper.year,
            "journal": item.paper.journal,
            "link": paper_link(item.paper),
            "retracted": item.paper.retracted,
        }
        for item in citations.citations
        for quote in item.quotes
        if quote.gene == gene
    ]
    return found, "" if found else f"No paper that was found ({citations.n_papers} in all) states anything about it."
