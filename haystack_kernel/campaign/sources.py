"""What the questions of a screen are answered from, opened once a process.

In: the options of the screen and the ports. Out: :class:`Sources`, which searches and chooses as the first round of a
run does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from haystack_kernel.batches.remembering import Remembering
from haystack_kernel.config.vocabulary import read_vocabulary
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.knowledge import load_knowledge, with_vocabulary
from haystack_kernel.planners.offline.choice import choose_candidates
from haystack_kernel.retrieval import build_view, query_cells_in, search_view, vector_folder
from haystack_kernel.schema import EVIDENCE_WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.ports import Atlas, Ports
    from haystack_kernel.retrieval import AtlasView
    from haystack_kernel.schema import Candidate, CellSet, EvidenceDistance, RunConfig, StructuredQuery, Vocabulary


@dataclass(frozen=True, eq=False)
class Sources:
    """Atlases, tables and names, opened once; ``named`` also has the names that only the atlases have."""

    ports: Ports
    config: RunConfig
    atlas: Atlas
    view: AtlasView
    knowledge: Knowledge
    named: Knowledge
    vocabulary: Vocabulary

    @classmethod
    def open(cls, config: RunConfig, ports: Ports) -> Sources:
        """Open everything that the options name."""
        located = config.located()
        knowledge = load_knowledge(ports.settings.knowledge)
        vocabulary = read_vocabulary(located, ports)
        atlas = Remembering(ports.open_atlas(located.atlas_names))
        names = located.atlas_names
        view = build_view(
            atlas,
            knowledge=knowledge,
            settings=ports.settings.retrieval,
            config=located,
            cache=vector_folder(ports.settings.atlas_root, names[0]) if names else None,
        )
        named = with_vocabulary(knowledge, vocabulary)
        return cls(ports, located, atlas, view, knowledge, named, vocabulary)

    def understand(self, question: str) -> StructuredQuery:
        """Read a question by rule, as a run with the planner ``offline`` does."""
        return self.ports.planner_named("offline").understand(question, vocabulary=self.vocabulary).value

    def search(self, query: StructuredQuery) -> tuple[Candidate, ...]:
        """Ranked candidates."""
        return search_view(query, self.view)

    def choose_query_cells(self, query: StructuredQuery, found: Sequence[Candidate]) -> CellSet:
        """The unperturbed cells that are transformed."""
        return query_cells_in(self.view, query=query, candidates=found)

    def choose(self, query: StructuredQuery, found: Sequence[Candidate], *, engine: str) -> tuple[list[Candidate], str]:
        """Candidates that the first round of a run would take, and why."""
        config = self.config.model_copy(update={"engine": engine})
        choice = choose_candidates(query, found, [], config=config)
        if choice is None:
            msg = f"the search found no candidate for {query.question!r}"
            raise NoCandidateError(msg)
        return [one for one in found if one.key in choice.candidate_keys], choice.reason


def nearest_evidence(chosen: Sequence[Candidate]) -> EvidenceDistance:
    """Evidence distance of the nearest candidate."""
    return min((one.evidence_distance for one in chosen), key=list(EVIDENCE_WORDS).index)
