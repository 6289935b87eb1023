"""How far a prediction agrees with known biology: effects, null distributions, components, one score.

In: predicted, query and prompt cells. Out: ``Grounded``, ``predictions.h5ad``, an embedding for plots.

``scoring`` is the story. Its sub-packages can be read one by one, and each uses only those before it: ``de`` (effects),
``nulls`` (the two null distributions), ``signatures`` (what is expected, and what else could explain the response),
``components`` (the parts of the score) and ``confidence`` (how far to trust it).
"""

from haystack_kernel.grounding.confidence.feedback import find_feedback
from haystack_kernel.grounding.embedding import compute_embedding
from haystack_kernel.grounding.predictions import PredictionFacts, build_predictions, update_run_facts
from haystack_kernel.grounding.records import Grounded, GroundingCells, GroundingContext
from haystack_kernel.grounding.scoring import score_briefly, score_prediction

__all__ = [
    "score_briefly",
    "score_prediction",
    "build_predictions",
    "update_run_facts",
    "find_feedback",
    "compute_embedding",
    "GroundingCells",
    "GroundingContext",
    "Grounded",
    "PredictionFacts",
]
