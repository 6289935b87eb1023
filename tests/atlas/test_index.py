from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from haystack_kernel import keys
from haystack_kernel.atlas import load_mapping, open_atlases
from haystack_kernel.errors import InvalidInputError, MissingKeyError, NotFoundError, StorageError
from haystack_kernel.schema import CellSet

pytestmark = pytest.mark.slow


@pytest.fixture
def sources(write, obs, counts_of):
    other = {"cell_type": ["classical monocyte", "Zork cell"], "donor_id": ["x", "y"]}
    counts = sp.csr_matrix(counts_of(2, 3, seed=5))
    return {
        "tiny": write("a.h5ad", obs),
        "healthy": write("b.h5ad", other, counts=counts, genes=["LYZ", "CD14", "ACTB"]),
    }


@pytest.fixture
def atlas(build, sources, root):
    treated = load_mapping("cellxgene", perturbation_column="treatment", control=["none"], perturbation_type="cytokine")
    build(sources["tiny"], treated)
    build(sources["healthy"], load_mapping("cellxgene"), name="healthy")
    return open_atlases(["tiny", "healthy"], root=root)


def chosen(collection, **criteria):
    given = {"atlas": "tiny", "dataset": "tiny", "is_control": True, **criteria}
    return sorted(collection.select(CellSet(**given))[keys.CELL_INDEX])


def test_conditions_count_every_cell_once(atlas, counts_of):
    table = atlas.conditions()
    assert table["n_cells"].sum() == 10
    row = table[(table[keys.CELL_TYPE_ID] == "CL:0000860") & (table[keys.PERTURBATION] == "IFN-beta")].iloc[0]
    assert row["n_cells"] == 1
    assert row[keys.DONOR] == "tiny:d1"
    assert row["median_total_counts"] == counts_of(8)[2].sum()
    assert not table.isna().any().any()


def test_select_by_each_criterion(atlas):
    assert chosen(atlas) == [0, 1, 4, 5]
    assert chosen(atlas, is_control=False) == [2, 3, 6, 7]
    assert chosen(atlas, is_control=False, perturbation="IFN-beta", cell_type_ids=("CL:0000860",)) == [2, 3]
    assert chosen(atlas, is_control=False, perturbation="TNF") == []
    assert chosen(atlas, donor_ids=("tiny:d2",)) == [1, 5]
    assert chosen(atlas, tissue_ids=("UBERON:0002107",)) == []
    assert chosen(atlas, dataset="other") == []


def test_select_takes_ids_or_names(atlas):
    healthy = {"atlas": "healthy", "dataset": "healthy"}
    assert chosen(atlas, **healthy, cell_type_names=("Zork cell",)) == [1]
    assert chosen(atlas, **healthy, cell_type_ids=("CL:0000860",), cell_type_names=("Zork cell",)) == [0, 1]


def test_select_when_text_is_sql_then_it_is_only_text(atlas):
    assert chosen(atlas, cell_type_names=("' OR 1=1 --",)) == []
    assert chosen(atlas, is_control=False, perturbation="'; DROP TABLE cells; --") == []


def test_select_is_ordered_by_cell_id_and_has_every_column(atlas):
    cells = atlas.select(CellSet(atlas="tiny", dataset="tiny", is_control=True))
    assert list(cells[keys.CELL_ID]) == ["tiny/tiny/0", "tiny/tiny/1", "tiny/tiny/4", "tiny/tiny/5"]
    assert set(cells.columns) == {keys.CELL_ID, keys.ATLAS, *keys.CELL_COLUMNS}


def test_fetch_equals_slicing_the_file_in_the_order_asked(atlas, sources, gene_names):
    cells = atlas.select(CellSet(atlas="tiny", dataset="tiny", is_control=False)).iloc[[3, 0, 2]]
    fetched = atlas.fetch(cells)
    truth = ad.read_h5ad(sources["tiny"])[cells[keys.CELL_INDEX].to_numpy()]
    np.testing.assert_array_equal(fetched.X.toarray(), truth.X.toarray())
    assert list(fetched.obs_names) == list(cells[keys.CELL_ID])
    assert list(fetched.var_names) == gene_names
    assert fetched.X.dtype == np.float32
    assert isinstance(fetched.X, sp.csr_matrix)
    assert list(fetched.obs[keys.DONOR]) == list(cells[keys.DONOR])


def test_fetch_from_two_sources_takes_the_union_of_genes(atlas, sources, tmp_path, gene_names):
    import pandas as pd

    tiny = atlas.select(CellSet(atlas="tiny", dataset="tiny", is_control=True))
    healthy = atlas.select(CellSet(atlas="healthy", dataset="healthy", is_control=True))
    cells = pd.concat([tiny, healthy]).iloc[[4, 0, 5, 1]]
    fetched = atlas.fetch(cells)
    assert set(fetched.var_names) == {*gene_names, "ACTB"}
    truth = ad.read_h5ad(sources["healthy"])
    np.testing.assert_array_equal(
        fetched[[0, 2], ["LYZ", "CD14", "ACTB"]].X.toarray(), truth[[0, 1], ["LYZ", "CD14", "ACTB"]].X.toarray()
    )
    assert fetched[[0, 2], ["MX1", "NKG7"]].X.nnz == 0
    assert fetched[[1, 3], "ACTB"].X.nnz == 0
    fetched.write_h5ad(tmp_path / "round.h5ad")


def test_fetch_without_cells_or_columns_says_what_is_needed(atlas):
    cells = atlas.select(CellSet(atlas="tiny", dataset="tiny", is_control=True))
    with pytest.raises(InvalidInputError, match="no cells to fetch"):
        atlas.fetch(cells.iloc[:0])
    with pytest.raises(MissingKeyError, match="cells lack"):
        atlas.fetch(cells.drop(columns=keys.DATASET))


def test_fetch_calls_the_second_gene_of_a_symbol_by_its_id(write, build, root, counts_of):
    ids = [f"ENSG{number:011d}" for number in range(6)]
    source = write(
        "a.h5ad",
        {"cell_type": ["B cell"] * 3, "donor_id": ["a"] * 3},
        genes=ids,
        var={"feature_name": ["CD14", "CD14", "MX1", "NKG7", "LYZ", "ACTB"]},
    )
    build(source, load_mapping("cellxgene"))
    atlas = open_atlases(["tiny"], root=root)
    fetched = atlas.fetch(atlas.select(CellSet(atlas="tiny", dataset="tiny", is_control=True)))
    assert list(fetched.var_names) == ["CD14", ids[1], "MX1", "NKG7", "LYZ", "ACTB"]
    assert list(atlas.genes("tiny", "tiny")) == list(fetched.var_names)
    np.testing.assert_array_equal(fetched.X.toarray(), counts_of(3))


def test_digests_change_with_the_source(atlas, build, write, obs, root, counts_of):
    before = atlas.digests()
    assert set(before) == {"tiny", "healthy"}
    treated = load_mapping("cellxgene", perturbation_column="treatment", control=["none"])
    build(write("c.h5ad", obs, counts=sp.csr_matrix(counts_of(8, seed=9))), treated)
    after = open_atlases(["tiny", "healthy"], root=root).digests()
    assert after["tiny"] != before["tiny"]
    assert after["healthy"] == before["healthy"]


def test_open_when_name_unknown_then_the_known_are_listed(atlas, root):
    with pytest.raises(NotFoundError, match=r"no atlas 'blood'.*atlases there: healthy, tiny"):
        open_atlases(["blood"], root=root)
    with pytest.raises(NotFoundError, match="not open; open are tiny, healthy"):
        atlas.select(CellSet(atlas="blood", dataset="x", is_control=True))
    with pytest.raises(NotFoundError, match="no dataset 'x'; it has tiny"):
        atlas.genes("tiny", "x")


def test_open_when_source_moved_or_cut_then_path_and_remedy_are_named(atlas, sources, root):
    path = Path(sources["tiny"])
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(
        InvalidInputError, match=r"a\.h5ad has .* changed or truncated; restore it, or build dataset 'tiny'"
    ):
        open_atlases(["tiny"], root=root)
    path.rename(path.with_suffix(".moved"))
    with pytest.raises(
        NotFoundError, match=r"a\.h5ad, which does not exist any more; put it back, or give its new path with"
    ):
        open_atlases(["tiny"], root=root)


def test_open_when_index_is_not_the_recorded_one_then_it_says_so(atlas, root):
    [index] = (root / "tiny" / "cells.parquet").glob("*")
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(StorageError, match="is missing or damaged"):
        open_atlases(["tiny"], root=root)


def test_root_with_pattern_characters_is_taken_literally(atlas, root):
    moved = root.with_name("a[1]*?")
    root.rename(moved)
    assert len(open_atlases(["tiny"], root=moved).conditions()) == 8
