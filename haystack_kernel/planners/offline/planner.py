"""The planner that needs no model and no network: rules over the knowledge tables.

In: a question, candidates, a finished record. Out: query, choice, interpretation; the same input gives the same output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haystack_kernel.errors import ContractError
from haystack_kernel.knowledge import with_vocabulary
from haystack_kernel.planners.check import check_answerable, check_question
from haystack_kernel.planners.offline.choice import choose_candidates
from haystack_kernel.planners.offline.interpretation import interpret_record
from haystack_kernel.planners.offline.parse import parse_question
from haystack_kernel.ports import Answer
from haystack_kernel.schema import Vocabulary

if TYPE_CHECKING:
    import pandas as pd

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import PapersToRead, PlannerView
    from haystack_kernel.schema import Choice, Interpretation, ModelReadings, RunConfig, RunRecord, StructuredQuery


NOTHING_HELD = Vocabulary()


class OfflinePlanner:
    """Parse, choose and interpret by fixed rules; implements :class:`haystack_kernel.ports.Planner`.

    Parameters
    ----------
    knowledge
        The tables that terms are looked up in.

    Examples
    --------
    >>> from haystack_kernel.knowledge import load_knowledge
    >>> OfflinePlanner(load_knowledge()).understand("How would B cells respond to IFN-beta?").value.cell_type_id
    'CL:0000236'
    """

    name = "offline"

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge

    def check(self, config: RunConfig) -> None:
        """Rules need nothing."""

    def understand(
        self, question: str, *, vocabulary: Vocabulary = NOTHING_HELD, view: PlannerView | None = None
    ) -> Answer[StructuredQuery]:
        """Parse a question and check that it can be served.

        Parameters
        ----------
        question
            The user's text.
        vocabulary
            Names that the atlases hold; they can be asked about although the tables do not know them.
        view
            Not looked at: the rules read the question and the tables alone.

        Returns
        -------
        The query, and what parsing it used (nothing).

        Raises
        ------
        InvalidInputError
            The question cannot be served; the message says why and names the closest known terms.
        """
        del view
        knowledge = with_vocabulary(self.knowledge, vocabulary)
        text = check_question(question, knowledge=knowledge)
        return Answer(check_answerable(parse_question(text, knowledge=knowledge)))

    def choose(self, record: RunRecord, *, view: PlannerView | None = None) -> Answer[Choice | None]:
        """Choose the candidates of the next round; None when nothing untried is left."""
        del view
        if record.query is None:
            msg = f"run {record.run_id} has no query yet; nothing can be chosen for it"
            raise ContractError(msg, run_id=record.run_id)
        return Answer(choose_candidates(record.query, record.candidates, record.rounds, config=record.config))

    def read_papers(self, asked: PapersToRead, *, view: PlannerView) -> Answer[ModelReadings | None]:
        """None: the rules have read the papers already, for the score."""
        del asked, view
        return Answer(None)

    def interpret(
        self, record: RunRecord, *, de: pd.DataFrame, pathways: pd.DataFrame, view: PlannerView | None = None
    ) -> Answer[Interpretation]:
        """Put the best round into words, with numbers of the record and the tables only."""
        del view
        return Answer(interpret_record(record, de=de, pathways=pathways))
