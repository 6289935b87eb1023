"""Turns texts into vectors whose cosine is their similarity; everything is local, nothing is downloaded.

In: texts. Out: rows of unit length, by tf-idf over the descriptions of the knowledge tables.
"""

from __future__ import annotations

import functools
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

from haystack_kernel.retrieval.similarity.descriptions import describe_cells, describe_perturbation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge


class Vectoriser(Protocol):
    """Makes vectors of texts; ``version`` changes whenever the same text would get another vector."""

    version: str

    def encode(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Encode each text as one row of unit length; a text without a known word gives a row of zeros."""
        ...


class TfidfVectoriser:
    """Words and letters weighted by how rare they are in a corpus.

    Words and pairs of words carry the meaning. Runs of three to five letters match different spellings of one name
    (TGFBR1, TGF-beta).

    Parameters
    ----------
    corpus
        Texts that the weights are fitted on, when the first text is encoded.
    version
        Name of this corpus and method.
    """

    def __init__(self, corpus: Sequence[str], *, version: str) -> None:
        self.version = version
        self._corpus = tuple(corpus)

    def encode(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Encode each text as one row of unit length."""
        from sklearn.preprocessing import normalize

        return sparse.csr_matrix(normalize(self._fitted.transform(texts)), dtype=np.float32)

    @functools.cached_property
    def _fitted(self) -> Any:  # noqa: ANN401 - a class of scikit-learn, which is imported late
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import FeatureUnion

        words = TfidfVectorizer(token_pattern=r"[a-z0-9]+(?:-[a-z0-9]+)*", ngram_range=(1, 2), sublinear_tf=True)
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2)
        parts = [("words", words), ("letters", letters)]
        union = FeatureUnion(parts, transformer_weights={"words": 1.0, "letters": 0.5})
        return union.fit(self._corpus)


@functools.lru_cache(maxsize=4)
def make_vectoriser(knowledge: Knowledge) -> TfidfVectoriser:
    """Vectoriser fitted on the descriptions of the knowledge tables; the fit waits for the first text."""
    version = f"tfidf-1-{metadata.version('scikit-learn')}-{knowledge.digest}"
    return TfidfVectoriser(knowledge_texts(knowledge) or ("cell",), version=version)


@functools.lru_cache(maxsize=4)
def knowledge_texts(knowledge: Knowledge) -> tuple[str, ...]:
    """Descriptions of every perturbation and of the cell types written by hand, each text once.

    Terms of whole ontologies have no markers and would only change the weights of common words.
    """
    perturbations = [describe_perturbation(name, knowledge=knowledge) for name in knowledge.perturbations]
    own = [one for one, entry in knowledge.cell_types.items() if entry.source != "ontology"]
    cells = [describe_cells(one, "", knowledge=knowledge) for one in own]
    return tuple(dict.fromkeys([*perturbations, *cells]))
