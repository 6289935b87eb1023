"""Changes raw counts so that the mean log profile of each gene reaches a target; counts stay sparse whole numbers.

In: counts, the library sizes they are normalised by, one target per gene, a seed. Out: counts.

Genes that go up gain molecules as a Poisson process with rate L_i in cell i; genes that go down lose molecules by
thinning. Both proceed molecule by molecule until the realised mean reaches the target, which solves exactly what a
bisection of the rate would approach. Every random number is a hash of (seed, gene name, counter), so a gene's
result does not depend on the other genes that are drawn, nor on their order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

TARGET_SUM = 1e4
MAX_LOG = float(np.log1p(TARGET_SUM))  # log1p(CP10k) of a cell whose molecules are all of this gene

_UNIT = 2.0**40  # log steps are summed as multiples of 2**-40, so that sums are exact in any order
_BLOCK = 2_000_000  # molecules and dense entries in memory at once
_MAX_BLOCK_GENES = 4096  # the number of a gene in its block takes the top 12 bits of the sorting key
_CELL_SHIFT = np.uint64(24)  # molecules of one gene in one cell are numbered below 2**24
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class _Job:
    """Inputs of every block: counts by column, one scale per cell, and the gain that each gene needs."""

    counts: sparse.csc_matrix
    scale: Floats  # 1e4 / L per cell; 0 for an empty cell
    need: Ints  # per gene, change of the summed log profile in units of 2**-40
    keys: NDArray[np.uint64]  # per gene, hash of seed and name


def log_normalise(counts: sparse.csr_matrix, *, library: Floats | None = None) -> sparse.csr_matrix:
    """Return log1p(1e4 x / L) of raw counts, float64 CSR.

    Parameters
    ----------
    counts
        Raw counts, cells x genes.
    library
        L per cell; the row sums of ``counts`` unless given. Cells with L = 0 stay all zero.
    """
    result = counts.astype(np.float64)
    result.data = np.log1p(result.data * np.repeat(_scale(library_sizes(counts, library)), np.diff(counts.indptr)))
    return result


def library_sizes(counts: sparse.csr_matrix, library: Floats | None = None) -> Floats:
    """Return total counts per cell, or ``library`` where it is given."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel() if library is None else library


def draw_counts(counts: sparse.csr_matrix, *, target: Floats, genes: Sequence[str], seed: int) -> sparse.csr_matrix:
    """Change raw counts so that the mean of log1p(1e4 x' / L) of each gene is as near ``target`` as whole counts allow.

    Parameters
    ----------
    counts
        Raw counts, cells x genes; L is its row sums and stays the reference after the change.
    target
        Mean log1p(CP10k) wanted per gene, within [0, log1p(1e4)].
    genes
        Gene names, the identity of each gene's random stream.
    seed
        Same seed, same cells in the same order: same result.

    Returns
    -------
    Float32 CSR of the shape of ``counts``, non-negative whole numbers. The realised mean misses the target by at most
    half of one molecule's step (about 1 / n_cells); cells without counts stay empty.
    """
    library = library_sizes(counts)
    columns = counts.astype(np.float64).tocsc()
    columns.sum_duplicates()
    columns.eliminate_zeros()
    scale = _scale(library)
    total = np.bincount(_gene_of_entry(columns), np.log1p(columns.data * scale[columns.indices]), columns.shape[1])
    need = np.rint((np.clip(target, 0.0, MAX_LOG) * columns.shape[0] - total) * _UNIT).astype(np.int64)
    # Each gene's stream of random numbers begins at a hash of its name, salted with the seed.
    salt = str(seed).encode()[:16]
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, salt=salt).digest() for name in genes)
    keys = np.frombuffer(digests, dtype="<u8").astype(np.uint64)
    job = _Job(columns, scale, need, keys)
    kept = columns.copy()
    if not library.any():
        return kept.tocsr().astype(np.float32)
    _remove_molecules(job, kept.data)
    result = (kept + _added_molecules(job, library)).tocsr().astype(np.float32)
    result.eliminate_zeros()
    result.sort_indices()
    return result


def _remove_molecules(job: _Job, data: Floats) -> None:
    """Thin the genes with a negative need, in place in ``data`` (the entries of ``job.counts``)."""
    sizes = np.asarray(job.counts.sum(axis=0), np.float64).ravel()
    for block in _blocks(np.flatnonzero((job.need < 0) & (sizes > 0)).astype(np.int64), sizes):
        entries = _ragged(job.counts.indptr[block].astype(np.int64), np.diff(job.counts.indptr)[block])
        gene = np.repeat(np.arange(block.size), np.diff(job.counts.indptr)[block])
        x = job.counts.data[entries].astype(np.int64)
        cell = job.counts.indices[entries].astype(np.int64)
        entry = np.repeat(np.arange(entries.size), x)
        number = _ragged(np.zeros(entries.size, np.int64), x)
        hashed = _hash(job.keys[block][gene[entry]], cell[entry], number)
        when = gene[entry].astype(np.uint64) << np.uint64(52) | hashed >> np.uint64(12)
        entry = entry[np.argsort(when, kind="stable")]
        left = x[entry] - _occurrence(entry)
        scale = job.scale[cell[entry]]
        loss = np.rint((np.log1p(left * scale) - np.log1p((left - 1) * scale)) * _UNIT).astype(np.int64)
        start = np.concatenate([[0], np.cumsum(sizes[block].astype(np.int64))])
        steps, _ = _steps_needed(loss, start, -job.need[block])
        taken = entry[_ragged(start[:-1], steps)]
        data[entries] -= np.bincount(taken, minlength=entries.size)


def _added_molecules(job: _Job, library: Floats) -> sparse.csc_matrix:
    """Poisson additions for the genes with a positive need."""
    share = library / library.sum()
    cumulative = np.cumsum(share)
    cumulative[-1] = 1.0
    # ``first`` is the expected gain of one gene's log sum from its first added molecule.
    entry_scale = job.scale[job.counts.indices]
    have = job.counts.data * entry_scale
    saved = share[job.counts.indices] * (np.log1p(entry_scale) - np.log1p(have + entry_scale) + np.log1p(have))
    first = share @ np.log1p(job.scale) - np.bincount(_gene_of_entry(job.counts), saved, job.counts.shape[1])
    first = np.maximum(first, 1e-12)
    wanted = np.where(job.need > 0, job.need / _UNIT / first, 0.0)
    # A gene rarely needs more tries than this. One that does is drawn again with twice as many from the beginning of
    # its stream, so that the number of tries does not change the result.
    tries = np.ceil(wanted * 1.15 + 4.0 * np.sqrt(wanted) + 4.0)
    pending = np.flatnonzero(job.need > 0)
    found: list[tuple[Ints, Ints]] = []
    while pending.size:
        late = []
        for block in _blocks(pending, tries, job.scale.size):
            n_events = tries[block].astype(np.int64)
            gene = np.repeat(np.arange(block.size), n_events)
            number = _ragged(np.zeros(block.size, np.int64), n_events)
            hashed = _hash(job.keys[block][gene], np.zeros(gene.size, np.int64), number)
            # Each event falls into a cell with a probability proportional to the cell's library size.
            cell = np.searchsorted(cumulative, (hashed >> np.uint64(11)) * 2.0**-53, side="right")
            dense = job.counts[:, block].toarray()
            have = dense[cell, gene] + _occurrence(gene * np.int64(job.scale.size) + cell)
            scale = job.scale[cell]
            gain = np.rint((np.log1p((have + 1.0) * scale) - np.log1p(have * scale)) * _UNIT).astype(np.int64)
            start = np.concatenate([[0], np.cumsum(n_events)])
            steps, is_reached = _steps_needed(gain, start, job.need[block])
            taken = _ragged(start[:-1], np.where(is_reached, steps, 0))
            found.append((cell[taken], block[gene[taken]]))
            late.append(block[~is_reached])
        pending = np.concatenate(late)
        tries[pending] *= 2.0
    cell = np.concatenate([item[0] for item in found]) if found else np.empty(0, np.int64)
    gene = np.concatenate([item[1] for item in found]) if found else np.empty(0, np.int64)
    return sparse.coo_matrix((np.ones(cell.size), (cell, gene)), shape=job.counts.shape).tocsc()


def _steps_needed(step: Ints, start: Ints, need: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Per gene, how many leading steps bring the sum nearest to ``need``, and whether there were enough of them.

    ``step`` holds the genes one after another, gene g at ``start[g]:start[g + 1]``.
    """
    running = np.concatenate([[0], np.cumsum(step)])
    goal = running[start[:-1]] + need
    is_reached = running[start[1:]] >= goal
    upper = np.clip(np.searchsorted(running, goal, side="left"), start[:-1], start[1:])
    lower = np.maximum(upper - 1, start[:-1])
    is_lower = np.abs(running[lower] - goal) <= np.abs(running[upper] - goal)
    return np.where(is_lower, lower, upper) - start[:-1], is_reached


def _blocks(genes: Ints, sizes: Floats, n_dense: int = 0) -> Iterator[Ints]:
    """Cut ``genes`` into runs whose molecules and dense entries stay near the block size."""
    if not genes.size:
        return
    cost = np.cumsum(sizes[genes] + n_dense + _BLOCK / _MAX_BLOCK_GENES)
    yield from np.split(genes, np.flatnonzero(np.diff((cost // _BLOCK).astype(np.int64))) + 1)


def _occurrence(keys: Ints) -> Ints:
    """For each position, how many earlier positions hold the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: keys.size]
    position = np.arange(keys.size)
    result = np.empty(keys.size, np.int64)
    result[order] = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return result


def _ragged(start: Ints, length: Ints) -> Ints:
    """Concatenate the ranges ``start[i] : start[i] + length[i]``."""
    length = length.astype(np.int64)
    offset = np.cumsum(length) - length
    return np.arange(length.sum()) + np.repeat(start - offset, length)


def _gene_of_entry(columns: sparse.csc_matrix) -> Ints:
    return np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))


def _scale(library: Floats) -> Floats:
    return np.divide(TARGET_SUM, library, out=np.zeros_like(library), where=library > 0)


def _hash(key: NDArray[np.uint64], cell: Ints, number: Ints) -> NDArray[np.uint64]:
    """Splitmix64's finaliser over (gene key, cell, number): 64 well-mixed bits per position."""
    counter = (cell.astype(np.uint64) << _CELL_SHIFT) + number.astype(np.uint64)
    value = key + counter * _GOLDEN + _GOLDEN
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
