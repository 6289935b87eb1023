"""Load the packaged tables and the user's additions to them.

In: the knowledge folder, if any. Out: one ``Knowledge``, the same object until something is added.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.knowledge.packed import with_ontologies
from haystack_kernel.knowledge.tables import PACKAGED, load_knowledge_from

if TYPE_CHECKING:
    from haystack_kernel.knowledge.terms import Knowledge

    Mark = tuple[tuple[str, int, int], ...]  # name, size and time of every addition


def load_knowledge(folder: str | Path | None = None) -> Knowledge:
    """Read the packaged tables, with the additions of a folder laid over them.

    Parameters
    ----------
    folder
        Where ``haystack knowledge add`` keeps additions, ``Settings.knowledge``; None, or a folder that does not
        exist, gives the packaged tables alone. A second call returns the same object, unless the folder has changed.

    Returns
    -------
    All terms, pathways and edges of the network.

    Raises
    ------
    ContractError
        A table is missing or broken: the installation, or the addition that is named, is damaged.
    """
    if folder is None or not (paths := sorted(Path(folder).glob("*.json"))):
        return _packaged()
    states = [(path, path.stat()) for path in paths]
    return _with_additions(tuple((str(path), state.st_size, state.st_mtime_ns) for path, state in states))


@functools.cache
def _packaged() -> Knowledge:
    return with_ontologies(load_knowledge_from(PACKAGED), folder=PACKAGED)


@functools.lru_cache(maxsize=4)
def _with_additions(mark: Mark) -> Knowledge:
    from haystack_kernel.knowledge.compact import read_addition
    from haystack_kernel.knowledge.overlay import overlay

    additions = [read_addition(Path(path)) for path, _, _ in mark]
    return overlay(_packaged(), sorted(additions, key=lambda one: (one.header.order, one.header.name)))
