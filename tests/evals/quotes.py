"""Have planner claude read the synthetic papers of ``papers.json`` and hold its statements against what they say.

In: ports. Out: how many quotes are not in their paper, and whether the statements are the right ones.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from haystack_kernel.config.options import build_config
from haystack_kernel.knowledge import perturbation_of
from haystack_kernel.ports import PapersToRead
from haystack_kernel.rounds import planner_view
from haystack_kernel.run import new_record
from haystack_kernel.schema import Paper, Perturbation
from haystack_kernel.store import CallFolder
from tests.servers import messages

GENES = re.findall(
    r"\w+",
    "ACTA2 CCL17 CD14 COL1A1 CXCL10 CXCL8 HNF4A IL10 IL6 IRF7 MMP1 MMP3 MRC1 MX1 PPARG SERPINE1 SOCS1 SOCS3 STAT1",
)


def papers():
    """The papers: treatment, title, abstract, what they say as "GENE sign", and answers written by hand."""
    return json.loads(Path(__file__).with_name("papers.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Proven:
    """What was read in one paper."""

    n_unproven: int
    n_quotes: int
    says: tuple
    right: bool
    usd: float


def ask(ports, case):
    """Have one paper read."""
    question = f"How would cells respond to {case['treatment']}?"
    record = new_record(question, run_id=None, config=build_config(ports.settings, planner="claude"), ports=ports)
    planner = ports.planner_named("claude")
    entry = perturbation_of(case["treatment"], knowledge=planner.knowledge)
    paper = Paper(id="pmid:1", title=case["title"], abstract=case["abstract"], sources=("pubmed",))
    readings, _ = planner.read_papers(
        PapersToRead(
            papers=[paper],
            treatment=Perturbation(text=entry.name, name=entry.name, synonyms=entry.synonyms),
            genes=GENES,
        ),
        view=planner_view(record, ports, step="read"),
    )
    quotes = [quote for item in readings.citations for quote in item.quotes]
    says = tuple(sorted(f"{quote.gene} {quote.direction}" for quote in quotes))
    return Proven(
        n_unproven=readings.n_unproven,
        n_quotes=len(quotes) + readings.n_unproven,
        says=says,
        right=says == tuple(sorted(case["says"])),
        usd=sum(call.usage.usd for call in CallFolder(ports.store, record.run_id).calls),
    )


def answering():
    """A model for the local server that gives the statements written by hand: the next ones after each repair."""

    def reply(body):
        shown = "\n".join(messages.shown_strings(body))
        case = next(case for case in papers() if json.dumps(case["title"])[1:-1] in shown)
        n_before = sum(message["role"] == "assistant" for message in body["messages"])
        return messages.says({"statements": case["replies"][min(n_before, len(case["replies"]) - 1)]})

    return reply
