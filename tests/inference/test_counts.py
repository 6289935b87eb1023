"""Values that look like counts and are none, counts that look odd, and files with several matrices."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from inference.checks import check_counts, find_counts
from inference.counts import Judgement, fault_of_values, judge, sample_rows, sampled_runs
from inference.errors import InputError

GENES = [f"GENE{number}" for number in range(1500)]


def real_counts(n_cells=120, n_genes=1500, *, depth=2500, seed=1):
    """Molecules of cells whose depth and composition vary as in droplets."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.25, 1, n_genes)
    rates = mean / mean.sum() * depth * rng.gamma(6, 1 / 6, (n_cells, 1)) * rng.gamma(3, 1 / 3, (n_cells, n_genes))
    return rng.poisson(rates).astype(np.float64)


COUNTS = real_counts()
SHARES = COUNTS / COUNTS.sum(axis=1, keepdims=True)
LOGS = np.log1p(SHARES * 1e4)
ORDER = COUNTS.argsort(axis=1).argsort(axis=1)
STANDARD = (LOGS - LOGS.mean(axis=0)) / (LOGS.std(axis=0) + 1e-9)


def ranks_of_detected(counts):
    return np.stack([np.where(row > 0, (row.argsort().argsort() + 1) - (row == 0).sum(), 0) for row in counts])


def reads(counts):
    rng = np.random.default_rng(2)
    return rng.poisson(counts * 60 * rng.gamma(1.5, 1 / 1.5, counts.shape)).astype(float)


def judged(values):
    return judge(sample_rows(sparse.csr_matrix(values)))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.rint(SHARES * 1e6), "normalised"),
        (np.rint(SHARES * 1e4), "normalised"),
        (np.floor(SHARES * 1e4), "normalised"),
        (np.ceil(SHARES * 1e4), "normalised"),
        (np.rint(SHARES * np.median(COUNTS.sum(axis=1))), "normalised"),
        (np.rint(LOGS), "logarithms"),
        (np.ceil(LOGS), "logarithms"),
        (np.rint(np.log1p(SHARES * 1e6)), "normalised|logarithms"),
        (np.rint(np.log2(SHARES * 1e4 + 1)), "normalised|logarithms"),
        (COUNTS * 10, "multiples of 10"),
        (COUNTS * 2, "multiples of 2"),
        (ORDER + 1.0, "no zero among 1,500 genes"),
        (ranks_of_detected(COUNTS), "is ranks"),
        (np.rint(STANDARD), "negative"),
        (np.rint(np.clip(STANDARD, 0, 10)) > 0, "zeros and ones"),
        ((COUNTS > 0).astype(float), "zeros and ones"),
        (COUNTS > 0, "zeros and ones"),
        (COUNTS * 0, "only zeros"),
        (LOGS, "fractions"),
        (COUNTS * 1e6, "above 16777215"),
    ],
)
def test_whole_numbers_that_are_no_counts_are_refused(values, says):
    fault = judged(values).fault
    assert any(word in fault for word in says.split("|")), fault


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.rint(np.log1p(COUNTS)), "rounded logarithms"),
        (np.minimum(COUNTS, 3), "1 to 5"),
        (COUNTS.reshape(12, 10, -1).sum(axis=1) * 7 + COUNTS[:12], "summed cells"),
        (reads(real_counts(depth=5000)), "reads"),
        (np.random.default_rng(1).multinomial(2000, COUNTS.sum(axis=0) / COUNTS.sum(), 120), "exactly 2,000"),
    ],
)
def test_unusual_counts_are_used_and_said(values, says):
    found = judged(values)
    assert not found.fault
    assert any(says in doubt for doubt in found.doubts), found.doubts


@pytest.mark.parametrize(
    "values",
    [
        COUNTS,
        COUNTS.astype(np.uint8 if COUNTS.max() < 256 else np.uint16),
        real_counts(depth=300),
        real_counts(depth=20_000),
        np.random.default_rng(3).binomial(COUNTS.astype(int), 0.2),
        np.rint(np.maximum(COUNTS - 0.3 * COUNTS.mean(axis=0), 0)),  # ambient molecules taken off, rounded
        COUNTS[:, :350],
        COUNTS[:, :20],
        COUNTS[:8],
    ],
)
def test_real_counts_pass_without_a_word(values):
    assert judged(values) == Judgement()


def test_a_sample_too_small_for_statistics_is_reported_and_not_refused():
    found = judged((COUNTS[:, :200] > 0).astype(float))
    assert not found.fault
    assert "zeros and ones" in found.doubts[0]


def test_sampled_runs_cover_start_middle_and_end():
    assert sampled_runs(0) == []
    assert sampled_runs(600) == [(0, 600)]
    runs = sampled_runs(10_001)
    assert (runs[0], runs[-1]) == ((0, 200), (9801, 10_001))
    assert sum(last - first for first, last in runs) == 600


def test_empty_cells_in_front_do_not_make_a_matrix_empty():
    values = np.vstack([np.zeros((2000, 1500)), COUNTS])
    assert judged(values).fault == ""


# --- several matrices in one file -----------------------------------------------------------------------------------


def cells(values=COUNTS, *, genes=GENES, **layers):
    var = pd.DataFrame(index=genes[: values.shape[1]])
    return ad.AnnData(
        sparse.csr_matrix(values.astype(np.float32)),
        var=var,
        layers={name: sparse.csr_matrix(layer.astype(np.float32)) for name, layer in layers.items()},
    )


@pytest.mark.parametrize(
    ("adata", "source"),
    [
        (cells(COUNTS * 0, counts=COUNTS), "layers/counts"),
        (cells(COUNTS > 0, counts=COUNTS), "layers/counts"),
        (cells(LOGS, raw_counts=COUNTS), "layers/raw_counts"),
        (cells(LOGS, anything=COUNTS, scaled=STANDARD), "layers/anything"),
        (cells(np.rint(SHARES * 1e6), umi=COUNTS), "layers/umi"),
        (cells(np.rint(np.log1p(COUNTS)), counts=COUNTS), "layers/counts"),  # doubtful values lose
        (cells(COUNTS, counts=COUNTS), "X"),
        (cells(LOGS, decontX=np.rint(COUNTS * 0.9), counts=COUNTS), "layers/counts"),
        (cells(LOGS, spliced=COUNTS, unspliced=COUNTS // 2, counts=COUNTS), "layers/counts"),
    ],
)
def test_the_matrix_with_real_counts_is_taken(adata, source):
    checked = check_counts(adata)
    assert checked.source == source
    if source != "X":
        assert any(f"taken from {source}" in note for note in checked.notes)


def test_of_several_real_counts_those_of_most_genes_win():
    few = cells(LOGS[:, :200], counts=COUNTS[:, :200])
    few.raw = cells(COUNTS)
    assert check_counts(few).source == "raw/X"
    assert len(check_counts(few).genes) == 1500
    few.raw = cells(LOGS)  # all genes, but no counts
    assert check_counts(few).source == "layers/counts"


def test_of_several_real_counts_those_of_most_model_genes_win():
    few = cells(COUNTS[:, :200])
    few.raw = cells(COUNTS, genes=[f"OTHER{number}" for number in range(1500)])
    assert check_counts(few, model_genes=[gene.lower() for gene in GENES]).source == "X"
    assert check_counts(few).source == "raw/X"


def test_other_counts_beside_the_chosen_ones_are_said():
    checked = check_counts(cells(COUNTS, counts=np.rint(COUNTS * 0.7)))
    assert checked.source == "X"
    assert any("layers/counts holds other whole numbers than X" in note for note in checked.notes)


def test_a_place_named_first_wins_over_equally_good_ones_alone():
    adata = cells(COUNTS, other=COUNTS + 1)
    adata.raw = cells(np.maximum(COUNTS - 1, 0))
    assert find_counts(adata, name="f").path == "X"
    found = find_counts(adata, name="f", first="raw/X")
    assert found.path == "raw/X"
    assert any("X holds other whole numbers than raw/X" in note for note in found.notes)
    adata.raw = cells(LOGS)
    assert find_counts(adata, name="f", first="raw/X").path == "X"
    adata.raw = cells(COUNTS)[:, :700]
    assert find_counts(adata, name="f", first="raw/X").path == "X"


def test_spliced_counts_in_x_lose_to_the_whole_and_are_said_where_there_is_none():
    spliced = np.rint(COUNTS * 0.7)
    assert check_counts(cells(spliced, spliced=spliced, matrix=COUNTS)).source == "layers/matrix"
    alone = check_counts(cells(spliced, spliced=spliced, unspliced=COUNTS - spliced))
    assert alone.source == "X"
    assert any("the same as layers/spliced, only a part of the counts" in note for note in alone.notes)


def test_spliced_counts_alone_are_refused_with_the_remedy():
    with pytest.raises(InputError, match="add spliced and unspliced ones up"):
        check_counts(cells(LOGS, spliced=COUNTS, unspliced=COUNTS // 2))


def test_repeated_entries_are_added_up():
    matrix = sparse.csr_matrix(COUNTS.astype(np.float32))
    parts = np.column_stack([matrix.data - 1, np.ones_like(matrix.data)]).ravel()  # each entry in two parts
    split = sparse.csr_matrix((parts, np.repeat(matrix.indices, 2), matrix.indptr * 2), shape=matrix.shape)
    checked = check_counts(ad.AnnData(split, var=pd.DataFrame(index=GENES)))
    assert checked.counts.nnz == matrix.nnz
    assert np.array_equal(checked.counts.toarray(), COUNTS)


def test_half_precision_is_refused_with_the_remedy():
    half = np.full((3, 4), 2, dtype=np.float16)
    assert "store it as float32" in fault_of_values(half)
