"""How far a prediction agrees with known biology: effects, nulls, components, one score.

In: predicted, query and prompt cells. Out: ``Grounded``, ``predictions.h5ad``, an embedding for plots.
"""

from haystack_kernel.grounding.confidence.feedback import find_feedback
from haystack_kernel.grounding.embedding import compute_embedding
from haystack_kernel.grounding.judge import ground
from haystack_kernel.grounding.predictions import PredictionFacts, build_predictions, retell
from haystack_kernel.grounding.records import Grounded, GroundingCells, GroundingContext

__all__ = [
    "ground",
    "build_predictions",
    "compute_embedding",
    "find_feedback",
    "Grounded",
    "GroundingCells",
    "GroundingContext",
    "PredictionFacts",
    "retell",
]
