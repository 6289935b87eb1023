"""Summarise the columns of one obs table: distinct labels, and how many of these are known terms.

In: an open h5ad. Out: a ``ColumnLook`` per column; of long text columns only the first rows are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from haystack_kernel.atlas.mapping import COMMON_CONTROLS
from haystack_kernel.atlas.sources.h5ad import read_text
from inference.h5 import as_texts, column_names, is_array, n_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from haystack_kernel.atlas.harmonise import Resolvers

_ROWS = 100_000
_MAX_LABELS = 5_000  # a column with more distinct texts holds barcodes, not labels
_TRIED = 150  # labels of one column that are looked up
_CONTROL = re.compile(
    r"\b(control|ctrl|dmso|dimethyl sulfoxide|pbs|vehicle|untreated|unstim\w*|unperturbed|mock|naive|"
    r"non[-_ ]?targeting|ntc|nt|safe[-_ ]?targeting|no[-_ ]?(treatment|drug|stimulation)|medium|media|baseline)\b",
    re.IGNORECASE,
)
_KNOWN = {text.casefold() for text in COMMON_CONTROLS}
_WORD = r"[A-Za-z0-9]"


@dataclass(frozen=True)
class ColumnLook:
    """Summary of one obs column; ``labels`` are the most frequent first, without missing ones."""

    name: str
    labels: tuple[str, ...]
    is_numeric: bool
    known: dict[str, float]  # kind of term -> fraction of the labels that are known terms

    def shown(self, *, n: int = 4) -> str:
        """The first labels as text."""
        return ", ".join(self.labels[:n]) + (", …" if len(self.labels) > n else "")

    def all_match(self, pattern: str) -> bool:
        """Whether most labels match the pattern."""
        hits = sum(re.fullmatch(pattern, label) is not None for label in self.labels)
        return bool(self.labels) and hits > len(self.labels) / 2


def look_at_obs(h5: h5py.File, *, resolvers: Resolvers) -> list[ColumnLook]:
    """Summarise every column of obs that holds labels."""
    obs = h5["obs"]
    looks = []
    for name in column_names(obs):
        labels, is_numeric = _labels(obs, name)
        if len(labels) <= _MAX_LABELS:
            looks.append(ColumnLook(name, labels, is_numeric, {} if is_numeric else _known(labels, resolvers)))
    return looks


def controls_among(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels whose words mean untreated: "control", "vehicle (DMSO)", "NT"."""
    exact = tuple(label for label in labels if label.casefold() in _KNOWN)
    return exact or tuple(label for label in labels if _CONTROL.search(label.replace("_", " ")))


def _labels(obs: h5py.Group, name: str) -> tuple[tuple[str, ...], bool]:
    """Distinct labels, most frequent first and without missing ones, and whether they are numbers."""
    texts, counts, is_numeric = _count_labels(obs, name)
    order = np.argsort(-counts, kind="stable")
    return tuple(texts[at] for at in order if counts[at] and texts[at]), is_numeric


def _count_labels(obs: h5py.Group, name: str) -> tuple[list[str], NDArray[np.int64], bool]:
    """Distinct labels, how often each occurs, and whether they are numbers; long columns are read in part."""
    node = obs[name]
    if isinstance(node, h5py.Group) and {"categories", "codes"} <= set(node) and is_array(node["categories"]):
        texts = _texts(node["categories"][:])
        codes = node["codes"][: min(n_rows(obs), 20 * _ROWS)]
        counts = np.bincount(codes[codes >= 0], minlength=len(texts))
        return texts, counts, node["categories"].dtype.kind in "iuf"
    is_coded = not is_array(obs) and name in obs.get("__categories", ())  # anndata 0.7
    if isinstance(node, h5py.Dataset) and not is_coded and node.ndim == 1 and node.dtype.kind in "OSiufb":
        distinct, counts = np.unique(np.array(_texts(node[:_ROWS]), dtype=str), return_counts=True)
        return distinct.tolist(), counts, node.dtype.kind in "iuf"
    whole = read_text(obs, name)
    texts = [str(text) for text in whole.categories]
    is_numeric = all(re.fullmatch(r"-?\d+(\.\d+)?", text) for text in texts if text)
    return texts, np.bincount(whole.codes, minlength=len(texts)), is_numeric


def _texts(values: Any) -> list[str]:  # noqa: ANN401 - an array of h5py
    texts = [str(one) for one in as_texts(values).tolist()]
    return [text.strip() for text in texts]


def _known(labels: tuple[str, ...], resolvers: Resolvers) -> dict[str, float]:
    tried = [label for label in labels[:_TRIED] if re.search(_WORD, label)]
    treated = [label for label in tried if label not in controls_among(tried)]
    return {
        "cell_type": _fraction(tried, resolvers.cell_type),
        "perturbation": _fraction(treated, resolvers.perturbation),
        "tissue": _fraction(tried, resolvers.tissue),
        "disease": _fraction(tried, resolvers.disease),
    }


def _fraction(labels: list[str], resolver: Any) -> float:  # noqa: ANN401 - one of Resolvers
    if not labels:
        return 0.0
    found = [resolver(label).match for label in labels]
    return sum(one is not None and one.how != "fuzzy" for one in found) / len(labels)
