import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from haystack_kernel.errors import InvalidInputError
from haystack_kernel.grounding import compute_embedding
from haystack_kernel.grounding.embedding import gather, one_thread, place

COLUMNS = ["cell_id", "role", "cell_type_name"]


def test_embedding_when_an_effect_is_strong_then_roles_lie_apart_and_seed_repeats(world):
    shift = {f"G{i}": 6.0 for i in range(1000, 1100)}
    parts = {"query": world.cells(40), "predicted": world.cells(50, shift=shift)}
    table = compute_embedding(parts, seed=0, n_max=45)
    assert list(table.columns) == [*COLUMNS, "umap1", "umap2"]
    assert table["role"].value_counts().to_dict() == {"query": 40, "predicted": 45}
    centres = table.groupby("role")[["umap1", "umap2"]].mean()
    spread = table.groupby("role")[["umap1", "umap2"]].std().max(axis=None)
    assert np.linalg.norm(centres.loc["query"] - centres.loc["predicted"]) > 2 * spread
    assert table.equals(compute_embedding(parts, seed=0, n_max=45))


def test_embedding_when_few_cells_then_principal_components(world):
    query = world.cells(6)
    query.obs.loc[query.obs_names[0], "cell_type_name"] = None
    table = compute_embedding({"query": query, "prompt": world.cells(5)[:, ::-1].copy()}, seed=0)
    assert list(table.columns) == [*COLUMNS, "pc1", "pc2"]
    assert table["cell_type_name"].tolist()[:2] == ["", "T cell"]
    assert np.isfinite(table[["pc1", "pc2"]]).all(axis=None)
    assert abs(float(np.corrcoef(table["pc1"], table["pc2"])[0, 1])) < 1e-6


def test_embedding_where_fastumap_is_not_installed_then_principal_components(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastumap", None)  # as on macOS, for which it has no build
    table = compute_embedding({"query": world.cells(20), "prompt": world.cells(20)}, seed=0)
    assert list(table.columns) == [*COLUMNS, "pc1", "pc2"]


def test_a_map_places_cells_among_their_own_kind(world):
    starts = range(700, 1500, 200)
    parts = {f"kind {n}": world.cells(60, shift={f"G{i}": 6.0 for i in range(n, n + 100)}) for n in starts}
    table = compute_embedding(parts, seed=0)
    places, kinds = table[["umap1", "umap2"]].to_numpy(), table["role"].to_numpy()
    nearest = np.argsort(((places[:, None] - places) ** 2).sum(axis=2), axis=1)[:, 1:6]
    assert np.mean(kinds[nearest] == kinds[:, None]) > 0.95


def test_embedding_when_a_single_cell_then_it_sits_at_the_origin(world):
    table = compute_embedding({"query": world.cells(1), "control": world.cells(1)[:0].copy()}, seed=0)
    assert table[["pc1", "pc2"]].to_numpy().tolist() == [[0.0, 0.0]]


def test_embedding_when_nothing_is_shared_then_raises(world):
    other = world.cells(5)
    other.var_names = [f"X{i}" for i in range(other.n_vars)]
    with pytest.raises(InvalidInputError, match="share no gene"):
        compute_embedding({"query": world.cells(5), "prompt": other}, seed=0)
    with pytest.raises(InvalidInputError, match="no cells"):
        compute_embedding({}, seed=0)


def test_a_map_placed_beside_other_work_is_the_same_and_linear_algebra_gets_its_threads_back(world):
    def n_threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    parts = {"query": world.cells(70), "prompt": world.cells(70)}
    with threadpool_limits(2, user_api="blas"):
        with one_thread(), ThreadPoolExecutor(1) as beside:
            found = beside.submit(place, gather(parts, seed=3), seed=3)
            during = beside.submit(n_threads)
        after = n_threads()
        assert found.result().equals(compute_embedding(parts, seed=3))
    assert during.result() == {1}
    assert after == {2}
