"""The literature of one run: searched once, kept in the run folder, read, and cited round by round.

In: the record and the ports. Out: a PaperSearch and a Reading for the score; ``rounds/<n>/citations.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from haystack_kernel import keys
from haystack_kernel.errors import ContractError
from haystack_kernel.literature import build_query, with_genes
from haystack_kernel.literature.merge import merge_papers
from haystack_kernel.literature.reading import read_papers
from haystack_kernel.ports import ProgressEvent
from haystack_kernel.schema import Citation, Citations, PaperSearch, Quote
from haystack_kernel.store import layout

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.literature.reading import Claim, Reading
    from haystack_kernel.ports import Ports
    from haystack_kernel.schema import FileRef, PaperQuery, PaperSource, RunRecord, Stance

MAX_MENTIONS = 40  # papers that merely name a gene beside the perturbation
_ORDER: tuple[Stance, ...] = ("contradiction", "support", "mention")
_OFF = "the literature sources were not asked: switched off (--no-literature, or literature.enabled = false)"
_NO_PERTURBATION = "the literature sources were not asked: the question names no perturbation"


def find_papers(record: RunRecord, ports: Ports) -> PaperSearch | None:
    """Papers on the asked perturbation in the asked cells; None where no source is to be asked.

    Every round, and a resumed run, reads the file of the first search, so all predictions of a run, the baselines
    included, are held against the same papers.
    """
    if not record.config.literature or record.query is None:
        return None
    query = build_query(record.query)
    return None if query is None else _search(record, ports, query=query, path=layout.PAPERS)


def cite_papers(
    record: RunRecord, ports: Ports, *, found: PaperSearch | None, reading: Reading | None, de: pd.DataFrame
) -> FileRef:
    """Write ``citations.json`` of the last round: every sentence on a gene under the perturbation, and its stance.

    Papers on the predicted genes are searched for here, after the score: they are shown and not scored, because a
    search for what was predicted finds what was predicted.
    """
    folder = layout.round_folder(record.rounds[-1].number)
    if found is None or reading is None:
        citations = Citations(reason=_NO_PERTURBATION if record.config.literature else _OFF)
    else:
        predicted = predicted_directions(de)
        answering: list[PaperSource] = [answer.source for answer in found.answers if answer.n_papers]
        more = None
        if answering and predicted:
            query = with_genes(found.query, list(predicted))
            more = _search(record, ports, query=query, path=f"{folder}/{layout.PAPERS}", sources=answering)
        citations = collect_citations(found, more, reading=reading, predicted=predicted)
    return ports.store.write(
        record.run_id, f"{folder}/{layout.CITATIONS}", citations.model_dump_json(indent=1).encode()
    )


def predicted_directions(de: pd.DataFrame) -> dict[str, int]:
    """Called gene -> +1 or -1, largest effects first."""
    called = de[de[keys.IS_DE].to_numpy(bool)]
    called = called.iloc[np.argsort(-called[keys.DELTA].abs().to_numpy(float), kind="stable")]
    signs = np.sign(called[keys.DELTA].to_numpy(float)).astype(int)
    return dict(zip(called[keys.GENE].astype(str), (int(sign) for sign in signs), strict=True))


def collect_citations(
    found: PaperSearch, more: PaperSearch | None, *, reading: Reading, predicted: dict[str, int]
) -> Citations:
    """Claims become quotes with a stance towards the prediction; papers with a contradiction come first.

    A direction supports or contradicts only a gene that the prediction calls; no statement is no contradiction.
    """
    scored = {paper.id for paper in found.papers if not paper.retracted}
    claims = dict(reading.claims)
    papers = list(found.papers)
    if more is not None and predicted:
        claims = {**read_papers(more, genes=list(predicted)).claims, **claims}
        papers = merge_papers([*found.papers, *more.papers])[0]
    cited = []
    for paper in papers:
        quotes = [_quote(claim, predicted=predicted) for claim in claims.get(paper.id, ())]
        if quotes:
            quotes.sort(key=lambda item: _ORDER.index(item.stance))
            cited.append(Citation(paper=paper, scored=paper.id in scored, quotes=tuple(quotes)))
    cited.sort(key=lambda item: (_ORDER.index(item.quotes[0].stance), item.paper.retracted, not item.scored))
    n_telling = sum(item.quotes[0].stance != "mention" for item in cited)  # mentions are last in the order
    kept = cited[: n_telling + MAX_MENTIONS]
    return Citations(
        searched_at=found.searched_at,
        answers=found.answers,
        gene_answers=more.answers if more is not None else (),
        n_papers=len(papers),
        n_left_out=len(cited) - len(kept),
        citations=tuple(kept),
    )


def _quote(claim: Claim, *, predicted: dict[str, int]) -> Quote:
    agreement = claim.direction * predicted.get(claim.gene, 0)
    stance: Stance = "mention"
    if agreement != 0:
        stance = "support" if agreement > 0 else "contradiction"
    return Quote(
        gene=claim.gene,
        direction=claim.direction,
        stance=stance,
        quote=claim.quote,
        where=claim.where,
        start=claim.start,
        end=claim.end,
    )


def _search(
    record: RunRecord, ports: Ports, *, query: PaperQuery, path: str, sources: list[PaperSource] | None = None
) -> PaperSearch:
    """The search kept at ``path``, or a new one that is kept there."""
    store = ports.store
    if store.exists(record.run_id, path):
        try:
            kept = PaperSearch.model_validate_json(store.read(record.run_id, path))
        except ValidationError as error:
            msg = (
                f"{path} of run {record.run_id} is damaged; delete it, and `haystack resume {record.run_id}` asks again"
            )
            raise ContractError(msg, path=path) from error
        if kept.query == query:
            return kept
    number = record.rounds[-1].number
    event = ProgressEvent(run_id=record.run_id, phase="ground", message="searching the literature", round=number)
    ports.progress(event)
    found = ports.literature.search(query, sources=sources)
    store.write(record.run_id, path, found.model_dump_json().encode())
    return found
