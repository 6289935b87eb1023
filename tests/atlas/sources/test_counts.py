import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from pandas import DataFrame

from haystack_kernel.atlas.sources import counts as module
from haystack_kernel.atlas.sources.counts import cell_stats, find_counts
from haystack_kernel.errors import InvalidInputError

N_CELLS, N_GENES = 6000, 40
GENES = [f"GENE{number}" for number in range(1200)]
FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}


def cells(values, **parts):
    return ad.AnnData(X=values, var=DataFrame(index=GENES[: values.shape[1]]), **parts)


@pytest.fixture(scope="module")
def matrix():
    values = np.random.default_rng(1).poisson(0.4, (N_CELLS, N_GENES)).astype(np.float32)
    values[17] = 0  # an empty cell
    return values


@pytest.fixture(params=list(FORMS))
def h5(request, matrix, tmp_path):
    path = tmp_path / "m.h5ad"
    cells(FORMS[request.param](matrix)).write_h5ad(path, compression="gzip")
    with h5py.File(path) as opened:
        yield opened


def test_cell_stats_equal_sums(h5, matrix):
    ticks = []
    n_genes, totals = cell_stats(h5, find_counts(h5, uri="m"), tick=ticks.append)
    np.testing.assert_array_equal(n_genes, (matrix > 0).sum(axis=1))
    np.testing.assert_array_equal(totals, matrix.sum(axis=1))
    assert ticks[-1] == 1.0


def test_cell_stats_check_values_that_the_sample_missed(tmp_path):
    values = np.tile(np.float32([1, 2]), (N_CELLS, 1))
    values[N_CELLS // 4, 0] = 0.5  # between the sampled start and middle
    path = tmp_path / "m.h5ad"
    cells(sp.csr_matrix(values)).write_h5ad(path)
    with h5py.File(path) as opened:
        counts = find_counts(opened, uri="m")
        with pytest.raises(InvalidInputError, match=r"X holds fractions such as 0\.5"):
            cell_stats(opened, counts)


def test_blocks_smaller_than_a_row_give_the_same_sums(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "m.h5ad"
    cells(sp.csr_matrix(values)).write_h5ad(path)
    with h5py.File(path) as opened:
        found = find_counts(opened, uri="m")
        blocks = list(module.value_blocks(opened["X"], found, n_values=3))
    totals = np.zeros(3)
    for rows, block, _ in blocks:
        np.add.at(totals, rows, block)
    assert len(blocks) == 4
    np.testing.assert_array_equal(totals, values.sum(axis=1))


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_of_ranks_is_refused_and_the_counts_in_a_layer_are_taken(form, tmp_path):
    ranks = np.stack([np.random.default_rng(i).permutation(1200) + 1 for i in range(3)]).astype(np.float32)
    path = tmp_path / "m.h5ad"
    cells(FORMS[form](ranks)).write_h5ad(path)
    with (
        h5py.File(path) as opened,
        pytest.raises(InvalidInputError, match=r"no zero among 1,200 genes, so it is ranks"),
    ):
        find_counts(opened, uri="m")
    cells(FORMS[form](ranks), layers={"counts": FORMS[form](ranks // 900)}).write_h5ad(path)
    with h5py.File(path) as opened:
        assert find_counts(opened, uri="m").path == "layers/counts"
