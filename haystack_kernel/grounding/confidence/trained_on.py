"""Whether an engine's weights were trained on the data that a prediction is made from or compared with.

In: the citation that weights carry, names of atlases and data sets. Out: one sentence per match, and its aspect.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from haystack_kernel.schema import Aspect
from inference.manifest import MODEL_ENGINE

if TYPE_CHECKING:
    from collections.abc import Iterable

TABLE = Path(__file__).with_name("data") / "training_sets.tsv"
NAME = "training data"


class TrainingSet(NamedTuple):
    """A row of the packaged table; ``model`` is found in a citation, ``data_set`` in the name of a data set."""

    model: str
    data_set: str
    says: str
    source: str


@cache
def load_training_sets(path: Path = TABLE) -> tuple[TrainingSet, ...]:
    """Read the table of what models are known to have been trained on."""
    with path.open(encoding="utf-8", newline="") as handle:
        return tuple(TrainingSet(**row) for row in csv.DictReader(handle, delimiter="\t"))


def trained_on(citation: str, names: Iterable[str]) -> tuple[str, ...]:
    """Say which of the data sets the weights are known to have been trained on.

    Parameters
    ----------
    citation
        What the weights ask to be cited with; empty for an engine without weights.
    names
        Names of atlases and data sets, and of the schemas by which they were read.

    Returns
    -------
    One sentence, without a full stop, for each row of the table that matches.

    Examples
    --------
    >>> trained_on("Stack: In-Context Learning of Single-Cell Biology", ["parse_pbmc"])[0][:47]
    'the aligned STACK weights were trained on the P'
    >>> trained_on("", ["parse_pbmc"])
    ()
    """
    asked, held = citation.casefold(), [name.casefold() for name in names]
    return tuple(
        f"{row.says} ({row.source})"
        for row in load_training_sets()
        if row.model in asked and any(row.data_set in name for name in held)
    )


def training_aspect(engine: str, citation: str, names: Iterable[str]) -> Aspect:
    """The row of the confidence about the data that the weights were trained on.

    Its value is the number of matches; 0 for an engine without weights, and for weights of which the table knows none.

    Parameters
    ----------
    engine
        The engine.
    citation, names
        As :func:`trained_on`.
    """
    if engine == MODEL_ENGINE and not citation:
        return Aspect(name=NAME, value=float("nan"), reason="the output does not say which weights made it")
    if not citation:
        words = "The engine has no weights, so it was trained on nothing and has seen none of these cells before."
        return Aspect(name=NAME, value=0.0, words=words)
    found = trained_on(citation, names)
    if not found:
        words = (
            "The packaged table of training sets names none of the prompt's data sets for these weights; it knows few."
        )
        return Aspect(name=NAME, value=0.0, words=words)
    first = found[0][0].upper() + found[0][1:]
    return Aspect(name=NAME, value=float(len(found)), words=f"{'; '.join([first, *found[1:]])}.")
