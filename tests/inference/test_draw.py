from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from inference.draw import draw_counts, log_normalise


def _cells(seed=0, n_cells=60, n_genes=50):
    rng = np.random.default_rng(seed)
    rates = rng.lognormal(0.0, 1.5, n_genes)
    counts = rng.poisson(rates * rng.uniform(0.5, 2.0, (n_cells, 1)))
    return sparse.csr_matrix(counts.astype(np.float32)), tuple(f"G{i}" for i in range(n_genes))


def _by_hand(before, after):
    """Mean log1p(1e4 x' / L) with L the library before, cell by cell."""
    before, after = (item.toarray().astype(np.float64) for item in (before, after))
    return np.log1p(1e4 * after / before.sum(1, keepdims=True)).mean(0)


def test_log_normalise_of_one_cell_is_the_formula():
    result = log_normalise(sparse.csr_matrix(np.array([[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])))
    np.testing.assert_allclose(result.toarray(), [[np.log1p(2500), 0, np.log1p(7500)], [0, 0, 0]])


def test_realised_mean_when_targets_go_up_and_down_stands_within_half_a_step():
    counts, genes = _cells()
    base = _by_hand(counts, counts)
    target = np.clip(base + np.random.default_rng(1).normal(0, 0.8, base.size), 0, None)
    after = draw_counts(counts, target=target, genes=genes, seed=3)
    largest_step = np.log1p(1e4 / counts.toarray().sum(1).min()) / counts.shape[0]
    assert np.abs(_by_hand(counts, after) - target).max() <= largest_step / 2 + 1e-9


def test_draw_gives_float32_whole_numbers_and_moves_each_gene_one_way():
    counts, genes = _cells()
    base = _by_hand(counts, counts)
    sign = np.where(np.arange(base.size) % 2, 1.0, -1.0)
    after = draw_counts(counts, target=np.maximum(base + 0.5 * sign, 0), genes=genes, seed=3)
    assert after.dtype == np.float32
    assert after.data.min() > 0
    assert np.array_equal(after.data, np.rint(after.data))
    change = after.toarray() - counts.toarray()
    assert change[:, sign > 0].min() >= 0
    assert change[:, sign < 0].max() <= 0


def test_target_of_the_present_mean_leaves_counts_alone():
    counts, genes = _cells()
    after = draw_counts(counts, target=_by_hand(counts, counts), genes=genes, seed=3)
    assert np.array_equal(after.toarray(), counts.toarray())


def test_target_zero_empties_the_gene():
    counts, genes = _cells()
    after = draw_counts(counts, target=np.zeros(len(genes)), genes=genes, seed=3)
    assert after.nnz == 0


def test_additions_to_an_unseen_gene_are_poisson_in_the_library_size():
    counts = np.zeros((4000, 2), np.float32)
    counts[:, 0] = np.repeat([100, 300], 2000)
    after = draw_counts(sparse.csr_matrix(counts), target=np.array([9.21, 2.0]), genes=("A", "B"), seed=0).toarray()[
        :, 1
    ]
    small, large = after[:2000], after[2000:]
    assert large.mean() / small.mean() == pytest.approx(3.0, rel=0.12)
    for part in (small, large):
        rate = part.mean()
        seen = np.bincount(part.astype(int), minlength=3)[:3] / part.size
        np.testing.assert_allclose(seen, stats.poisson.pmf([0, 1, 2], rate), atol=0.035)


def test_removals_are_binomial_with_one_share_for_all_cells():
    counts = np.full((3000, 2), 8, np.float32)
    counts[1500:, 1] = 2
    counts[:, 0] = 1000 - counts[:, 1]
    base = np.log1p(1e4 * counts / 1000).mean(0)
    after = draw_counts(sparse.csr_matrix(counts), target=base * [1, 0.7], genes=("A", "B"), seed=0).toarray()[:, 1]
    share = after.sum() / counts[:, 1].sum()
    np.testing.assert_allclose([after[:1500].mean() / 8, after[1500:].mean() / 2], share, atol=0.02)
    seen = np.bincount(after[1500:].astype(int), minlength=3) / 1500
    np.testing.assert_allclose(seen, stats.binom.pmf([0, 1, 2], 2, share), atol=0.03)


def test_draw_when_genes_are_permuted_or_drawn_alone_is_the_same():
    counts, genes = _cells(n_genes=30)
    target = np.clip(_by_hand(counts, counts) + np.linspace(-1, 1, 30), 0, None)
    whole = draw_counts(counts, target=target, genes=genes, seed=5).toarray()
    order = np.random.default_rng(0).permutation(30)
    names = tuple(genes[i] for i in order)
    permuted = draw_counts(counts[:, order], target=target[order], genes=names, seed=5).toarray()
    assert np.array_equal(permuted, whole[:, order])


def test_draw_when_many_genes_need_many_blocks_is_the_same_as_in_one():
    few, _ = _cells(n_cells=20, n_genes=10)
    pad = sparse.csr_matrix((20, 9000), dtype=np.float32)
    names = tuple(f"G{i}" for i in range(10))
    wide_names = tuple(f"P{i}" for i in range(4500)) + names + tuple(f"Q{i}" for i in range(4500))
    wide = sparse.hstack([pad[:, :4500], few, pad[:, 4500:]]).tocsr()
    target = np.clip(_by_hand(few, few) + np.linspace(-1, 1, 10), 0, None)
    wide_target = np.concatenate([np.full(4500, 0.3), target, np.full(4500, 0.3)])
    narrow = draw_counts(few, target=target, genes=names, seed=5).toarray()
    assert np.array_equal(
        draw_counts(wide, target=wide_target, genes=wide_names, seed=5)[:, 4500:4510].toarray(), narrow
    )


def test_another_seed_gives_other_counts_and_the_same_mean():
    counts, genes = _cells()
    target = _by_hand(counts, counts) + 0.3
    first, second = (draw_counts(counts, target=target, genes=genes, seed=seed) for seed in (1, 2))
    assert (first != second).nnz > 50
    np.testing.assert_allclose(_by_hand(counts, first), _by_hand(counts, second), atol=0.15)


def test_cell_without_counts_stays_empty():
    counts, genes = _cells()
    dense = counts.toarray()
    dense[7] = 0
    with_empty = sparse.csr_matrix(dense)
    after = draw_counts(with_empty, target=np.full(len(genes), 3.0), genes=genes, seed=0)
    assert after[7].nnz == 0
    only_empty = draw_counts(
        sparse.csr_matrix((3, len(genes)), dtype=np.float32), target=np.ones(len(genes)), genes=genes, seed=0
    )
    assert only_empty.nnz == 0
