"""Decides which matrix of a file holds raw counts: one rule for atlases, query cells, prompts and ``haystack model``.

In: sampled rows of every matrix of a file, from whoever reads it. Out: the chosen place, or why none holds counts.

The thresholds were set on real count files and on values that look like counts (rounded CPM, CP10k and log values,
multiples, ranks, binarised and summed counts). A sample below 300 genes or 50 cells is too small for the statistical
ones: they are then reported and do not refuse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MAX_COUNT = 2**24 - 1  # the largest whole number up to which float32 is exact
N_SAMPLED_CELLS = 600
N_RUNS = 3  # the sampled cells are neighbours at the start, in the middle and at the end of a file

_MIN_GENES, _MIN_CELLS = 300, 50  # below either, statistics of a sample do not refuse
_MIN_GENES_WITH_ZEROS = 1000  # no single cell detects all of so many genes
_SMALL = np.arange(1, 6)
_COUNT_NAME = ("counts", "count", "raw_counts", "raw_count", "counts_raw", "raw", "umi", "umis", "umi_counts")
_PART_NAME = ("spliced", "unspliced", "ambiguous", "exonic", "intronic", "nascent", "mature")


@dataclass(frozen=True)
class Judgement:
    """Whether values can be raw counts: ``fault`` says why not, ``doubts`` what is unusual; empty where all is well."""

    fault: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A matrix of a file that may hold the counts.

    Attributes
    ----------
    path
        ``X``, ``raw/X`` or ``layers/…``.
    n_genes
        Number of its genes that matter: those of the model where one is known, otherwise all.
    sample
        Returns rows of it; called once.
    fault
        Why it cannot be read at all; empty where it can.
    """

    path: str
    n_genes: int
    sample: Callable[[], sparse.csr_matrix] | None
    fault: str = ""


@dataclass(frozen=True)
class Choice:
    """The place that holds the counts; ``path`` is empty where none does, and ``faults`` say why not, one per place.

    ``notes`` name what is unusual about the chosen values, and other places that hold other counts.
    """

    path: str
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()


def choose_counts(places: Sequence[Place], *, first: str = "X") -> Choice:
    """Choose the place with raw counts of most genes.

    Parameters
    ----------
    places
        All matrices of the file.
    first
        Path of the place that wins over equally good ones.

    Returns
    -------
    Counts without a doubt win over doubtful ones, then more genes, then ``first``, then ``X``, layers named as counts,
    ``raw/X`` and other layers, in this order. Layers of spliced or unspliced counts are parts of the counts and are
    never chosen.
    """
    usable, faults = _judged(places)
    if not usable:
        return Choice("", tuple(faults))
    best = min(usable, key=lambda one: (bool(one.doubts), -one.place.n_genes, _rank(one.place.path, first)))
    notes = [f"{best.place.path} {doubt}: check that it holds raw counts" for doubt in best.doubts]
    notes += [
        f"{other.place.path} holds other whole numbers than {best.place.path}, which was taken for the counts"
        for other in usable
        if other.place.n_genes == best.place.n_genes and _differ(best.rows, other.rows)
    ]
    return Choice(best.place.path, tuple(faults), tuple(notes))


@dataclass(frozen=True)
class _Usable:
    """A place that may hold the counts, and its sampled rows."""

    place: Place
    doubts: tuple[str, ...]
    rows: sparse.csr_matrix


def _judged(places: Sequence[Place]) -> tuple[list[_Usable], list[str]]:
    """The places that may hold the counts, and why the others do not."""
    usable: list[_Usable] = []
    faults: list[str] = []
    parts: list[tuple[str, sparse.csr_matrix]] = []
    for place in places:
        rows = None if place.fault or place.sample is None else place.sample()
        if rows is None:
            faults.append(f"{place.path} {place.fault or 'is missing'}")
            continue
        fault = _fault_of_place(place.path)
        if fault:
            parts.append((place.path, rows))
        found = Judgement(fault) if fault else judge(rows)
        if found.fault:
            faults.append(f"{place.path} {found.fault}")
        else:
            usable.append(_Usable(place, found.doubts, rows))
    return [_doubt_part(one, parts) for one in usable], faults


def _doubt_part(one: _Usable, parts: Sequence[tuple[str, sparse.csr_matrix]]) -> _Usable:
    """Doubt a matrix that repeats a part of the counts, as scVelo keeps spliced ones in X."""
    same = [path for path, rows in parts if not _differ(one.rows, rows)]
    doubt = f"holds the same as {same[0]}, only a part of the counts" if same else ""
    return replace(one, doubts=(*one.doubts, doubt)) if doubt else one


def _fault_of_place(path: str) -> str:
    if path.startswith("layers/") and path.removeprefix("layers/").lower() in _PART_NAME:
        return "is only a part of the counts: add spliced and unspliced ones up"
    return ""


def _rank(path: str, first: str) -> int:
    """Order of places with equally good counts."""
    if path == first:
        return -1
    ranks = {"X": 0, "raw/X": 2, "raw.X": 2}
    return ranks.get(path, 1 if path.removeprefix("layers/").lower() in _COUNT_NAME else 3)


def no_counts(name: str, faults: Sequence[str]) -> str:
    """The message about a file without raw counts."""
    return (
        f"{name}: no raw counts: {'; '.join(faults) or 'X is missing'}. Put non-negative whole numbers (UMI counts "
        "before any normalisation) into X, raw/X or layers['counts'] and write the file again"
    )


def sampled_runs(n_cells: int) -> list[tuple[int, int]]:
    """First and last (exclusive) row of each run of cells that is sampled, in order; they do not overlap."""
    if n_cells <= N_SAMPLED_CELLS:
        return [(0, n_cells)] if n_cells else []
    length = N_SAMPLED_CELLS // N_RUNS
    starts = np.linspace(0, n_cells - length, N_RUNS).astype(int)
    return [(int(start), int(start) + length) for start in starts]


def sample_rows(values: Any) -> sparse.csr_matrix:  # noqa: ANN401 - a matrix of numpy or scipy
    """Rows of a matrix in memory to judge it by, of cells that have any value where it is sparse."""
    filled = np.arange(values.shape[0])
    if sparse.issparse(values):
        filled = np.flatnonzero(np.bincount(values.nonzero()[0], minlength=values.shape[0]))
    return sparse.csr_matrix(values[sampled_of(filled)])


def sampled_of(filled: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows to judge a matrix by, of those that have any value."""
    return np.concatenate([filled[a:b] for a, b in sampled_runs(len(filled))] or [filled])


def judge(rows: sparse.csr_matrix) -> Judgement:
    """Judge by sampled rows whether a matrix holds raw counts of single cells.

    Parameters
    ----------
    rows
        Cells x genes.

    Returns
    -------
    The first fault found, or the doubts.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> judge(sparse.csr_matrix(np.array([[0.5, 1.0]]))).fault[:15]
    'holds fractions'
    """
    if fault := fault_of_values(rows.data):
        return Judgement(fault)
    matrix = rows.astype(np.float64)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    matrix = matrix[np.flatnonzero(np.diff(matrix.indptr))]
    if not matrix.nnz:
        return Judgement("holds only zeros")
    n_cells, n_genes = matrix.shape
    if matrix.nnz == n_cells * n_genes and n_genes >= _MIN_GENES_WITH_ZEROS:
        return Judgement(f"holds no zero among {n_genes:,} genes, so it is ranks, scores or bulk, not single cells")
    shape = _Shape.of(matrix)
    is_small = n_genes < _MIN_GENES or n_cells < _MIN_CELLS
    if fault := _fault_of_shape(shape):
        return Judgement("", (fault,)) if is_small else Judgement(fault)
    return Judgement("", (*_summed(shape), *([] if is_small else _doubts(shape))))


def fault_of_values(values: NDArray[Any]) -> str:
    """Why these values cannot be counts, whatever else there is; empty if they can."""
    if values.dtype.kind not in "biuf":
        return f"holds {values.dtype} values, not numbers"
    if values.dtype.kind == "f" and values.dtype.itemsize < 4:
        return "is stored as float16, which rounds counts above 2,048: store it as float32"
    if not values.size:
        return ""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return f"holds {int((~np.isfinite(values)).sum())} NaN or infinite values"
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return f"holds negative values (down to {low:.4g}), so it is scaled or batch-corrected, not counts"
    if values.dtype.kind == "f" and (odd := values[values != np.rint(values)]).size:
        kind = "log-normalised" if high < 20 else "normalised"
        return f"holds fractions such as {float(odd[0]):.4g} (maximum {high:.4g}), so it looks {kind}, not counts"
    if high > MAX_COUNT:
        return f"holds a count of {high:.3g}, above {MAX_COUNT}"
    return ""


@dataclass(frozen=True)
class _Shape:
    """Statistics of sampled cells that have counts; ``matrix`` holds no zeros."""

    matrix: sparse.csr_matrix
    depth: NDArray[np.float64]
    frac_minimum_one: float  # cells whose smallest count is 1
    variation: float  # coefficient of variation of the depth
    frac_zeros: float
    highest: float

    @classmethod
    def of(cls, matrix: sparse.csr_matrix) -> _Shape:
        starts = matrix.indptr[:-1]
        depth = np.add.reduceat(matrix.data, starts)
        lowest = np.minimum.reduceat(matrix.data, starts)
        return cls(
            matrix=matrix,
            depth=depth,
            frac_minimum_one=float((lowest == 1).mean()),
            variation=float(depth.std() / depth.mean()),
            frac_zeros=1 - matrix.nnz / (matrix.shape[0] * matrix.shape[1]),
            highest=float(matrix.data.max()),
        )

    @property
    def is_downsampled(self) -> bool:
        """Whether all cells have exactly the same depth and otherwise look like counts."""
        return bool(np.ptp(self.depth) == 0) and self.frac_minimum_one == 1 and _frac_small(self) >= 0.9

    def lacks_ones(self, frac: float) -> bool:
        """Whether fewer cells than this share have a count of 1, though there are zeros."""
        return self.frac_minimum_one < frac and self.frac_zeros > 0.3

    @property
    def is_reads(self) -> bool:
        """Whether the depth is that of reads, whose smallest number in a cell need not be 1."""
        return bool(np.median(self.depth) > 50_000) and self.variation > 0.2


def _fault_of_shape(shape: _Shape) -> str:
    values, n_genes = shape.matrix.data, shape.matrix.shape[1]
    if shape.highest <= 1:
        return "holds only zeros and ones, so it is binarised, not counts"
    if (step := int(np.gcd.reduce(values.astype(np.int64)))) > 1:
        return f"holds only multiples of {step}, so it is scaled, not counts"
    if _frac_ranks(shape) > 0.9:
        return "holds every whole number from 1 on once in each cell, so it is ranks, not counts"
    if shape.variation < 0.02 and not shape.is_downsampled:
        return f"sums to about {shape.depth.mean():,.0f} in every cell, so it is normalised and rounded, not counts"
    if shape.highest <= 12 and n_genes > 60 and shape.frac_minimum_one < 0.9:
        return f"is whole numbers up to {shape.highest:.0f} of which few are 1, so it is rounded logarithms, not counts"
    if shape.lacks_ones(0.95 if shape.variation < 0.12 else 0.5) and not shape.is_reads:
        return f"{_without_ones(shape)}, so it is normalised and rounded, not counts"
    return ""


def _doubts(shape: _Shape) -> list[str]:
    found = []
    if shape.is_downsampled:
        found.append(f"has exactly {shape.depth[0]:,.0f} counts in every cell, as after down-sampling")
    elif shape.variation < 0.12:
        found.append(f"has nearly the same depth in every cell (varies by {shape.variation:.1%})")
    if shape.is_reads and shape.frac_minimum_one < 0.9:
        found.append("holds reads rather than molecules")
    elif shape.lacks_ones(0.9):
        found.append(_without_ones(shape))
    if shape.frac_zeros == 0:
        found.append("holds no zero")
    detected = np.diff(shape.matrix.indptr)
    if float(np.median(detected)) >= 200 and not shape.is_reads:  # of shallow cells the numbers 2 to 5 are rare
        found += _doubts_of_deep_cells(shape, detected)
    return found


def _doubts_of_deep_cells(shape: _Shape, detected: NDArray[np.int64]) -> list[str]:
    found = []
    if shape.frac_minimum_one >= 0.9 and (frac := _frac_small(shape)) < 0.93:
        found.append(f"lacks some of the numbers 1 to 5 in most cells ({frac:.0%} present)")
    if shape.highest <= 12 and np.ptp(detected) and np.ptp(shape.depth):
        relation = float(np.corrcoef(np.log(shape.depth), np.log(detected))[0, 1])
        if relation > 0.97:
            found.append("grows with the number of detected genes as rounded logarithms do")
    return found


def _summed(shape: _Shape) -> list[str]:
    """Whether rows look like sums of cells, of which a file may have few."""
    depth, n_genes = float(np.median(shape.depth)), shape.matrix.shape[1]
    if n_genes >= _MIN_GENES_WITH_ZEROS and (depth > 500_000 or (depth > 50_000 and shape.frac_zeros < 0.6)):
        return [f"has {depth:,.0f} counts in a row and few zeros, as summed cells or bulk have"]
    return []


def _without_ones(shape: _Shape) -> str:
    return f"has no count of 1 in {1 - shape.frac_minimum_one:.0%} of the cells"


def _frac_small(shape: _Shape) -> float:
    """Share of the numbers 1 to 5 that occur in the cells, over cells and numbers."""
    indptr, data = shape.matrix.indptr, shape.matrix.data
    present = [np.count_nonzero(np.logical_or.reduceat(data == number, indptr[:-1])) for number in _SMALL]
    return float(np.mean(present)) / shape.matrix.shape[0]


def _frac_ranks(shape: _Shape) -> float:
    """Share of cells whose values are 1, 2, … up to their number."""
    lengths = np.diff(shape.matrix.indptr)
    highest = np.maximum.reduceat(shape.matrix.data, shape.matrix.indptr[:-1])
    possible = shape.matrix[np.flatnonzero((highest == lengths) & (lengths > 1))]  # the few that are worth sorting
    if not possible.nnz:
        return 0.0
    indptr, data = possible.indptr, possible.data
    cell = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    ordered = data[np.lexsort((data, cell))]
    expected = np.arange(len(data)) - indptr[:-1][cell] + 1
    same = np.add.reduceat(ordered == expected, indptr[:-1], dtype=np.int64) == np.diff(indptr)
    return float(same.sum() / len(lengths))


def _differ(one: sparse.csr_matrix, other: sparse.csr_matrix) -> bool:
    return one.shape != other.shape or bool((one != other).nnz)
