"""Vectors of texts, kept in a file so that the next process does not compute them again.

In: texts, a vectoriser, a folder. Out: one row of unit length per text. The file is named by a digest of the
vectoriser and the texts. It appears complete or not at all, so several processes may write it at the same time.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from haystack_kernel.retrieval.similarity.vectoriser import knowledge_texts, make_vectoriser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.knowledge import Knowledge
    from haystack_kernel.retrieval.similarity.vectoriser import Vectoriser


def vector_folder(root: str, atlas: str) -> Path | None:
    """Folder in which the vectors of descriptions are kept with an atlas.

    Parameters
    ----------
    root
        Folder or address of the atlases.
    atlas
        Name of the atlas.

    Returns
    -------
    The folder, or None where the atlas is not in a local folder and no vectors are kept.

    Examples
    --------
    >>> vector_folder("gs://bucket/atlases", "demo") is None
    True
    """
    return None if "://" in root else Path(root) / atlas / "vectors"


def prepare_vectors(root: str, atlas: str, *, knowledge: Knowledge) -> None:
    """Compute the vectors of all descriptions in advance, so that the first question does not wait for them.

    Parameters
    ----------
    root
        Folder or address of the atlases.
    atlas
        Name of the atlas.
    knowledge
        Tables whose entries are described.

    Examples
    --------
    >>> prepare_vectors("atlases", "demo", knowledge=load_knowledge())  # doctest: +SKIP
    """
    described_vectors(knowledge, vector_folder(root, atlas))


def vectors_of(texts: Sequence[str], *, vectoriser: Vectoriser, cache: Path | None) -> sparse.csr_matrix:
    """Read vectors from the cache, or compute them and write them there.

    Parameters
    ----------
    texts
        In the order of the rows.
    cache
        Folder, created where it is missing. Nothing is kept with None, or in a folder that cannot be written.
    """
    if not texts:
        return sparse.csr_matrix((0, 0), dtype=np.float32)
    if cache is None:
        return vectoriser.encode(texts)
    digest = hashlib.sha256(vectoriser.version.encode())
    for text in texts:
        digest.update(f"\0{text}".encode())
    path = cache / f"{digest.hexdigest()[:32]}.npz"
    found = _read(path, n_rows=len(texts))
    if found is not None:
        return found
    found = vectoriser.encode(texts)
    with suppress(OSError):  # an atlas in a read-only folder can be searched all the same
        cache.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, data=found.data, indices=found.indices, indptr=found.indptr, shape=found.shape)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    return found


@functools.lru_cache(maxsize=4)
def described_vectors(knowledge: Knowledge, cache: Path | None) -> tuple[dict[str, int], sparse.csr_matrix]:
    """Vectors of every description of the tables: text -> row, and the rows; one file in the cache."""
    texts = knowledge_texts(knowledge)
    rows = vectors_of(texts, vectoriser=make_vectoriser(knowledge), cache=cache)
    return {text: row for row, text in enumerate(texts)}, rows


def _read(path: Path, *, n_rows: int) -> sparse.csr_matrix | None:
    """Read the rows of a file; None where it is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as parts:
            shape = tuple(int(one) for one in parts["shape"])
            matrix = sparse.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=shape)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return matrix if matrix.shape[0] == n_rows else None
