import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from haystack_kernel import keys
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.retrieval import assemble_cells, read_own_cells, search_candidates
from haystack_kernel.schema import RunConfig


@pytest.fixture
def own(tmp_path):
    """Twelve cells of raw counts; one donor is missing."""
    counts = np.arange(1, 12 * 15 + 1).reshape(12, 15) % 7
    obs = pd.DataFrame({"cell_type": ["NK"] * 12, "donor": ["p1"] * 11 + [None], "score": 0.5})
    obs.index = [f"mine-{i}" for i in range(12)]
    names = ["CD14", "ISG15", "MX1", "NKG7", "LYZ", "IFIT1", "IFIT3", "CXCL10", "B2M", "ACTB", "GAPDH", "CD3D"]
    adata = ad.AnnData(
        X=sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=[*names, "A", "B", "C"])
    )
    path = tmp_path / "my cells.h5ad"
    adata.write_h5ad(path)
    return path, counts


@pytest.fixture
def read(ask, knowledge):
    """All cells of a file, for a question about the NK cells that it holds."""

    def run(uri):
        return read_own_cells(RunConfig(query_h5ad=str(uri)), query=ask("CL:0000623"), knowledge=knowledge)

    return run


def test_own_cells_keep_index_and_columns_and_gain_the_agreed_ones(own, read):
    path, counts = own
    adata, notes = read(path).adata, read(path).notes
    assert list(adata.obs_names[:2]) == ["mine-0", "mine-1"]
    assert adata.obs["score"].eq(0.5).all()
    assert {*keys.CELL_COLUMNS, keys.ATLAS} <= set(adata.obs.columns)
    assert list(adata.obs[keys.DONOR]) == ["p1"] * 11 + [""]
    assert set(adata.obs[keys.CELL_TYPE]) == {"NK"}
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    np.testing.assert_array_equal(adata.obs[keys.TOTAL_COUNTS], counts.sum(axis=1))
    np.testing.assert_array_equal(adata.obs[keys.N_GENES], (counts > 0).sum(axis=1))
    assert isinstance(notes, tuple)


def test_own_cells_are_read_by_address_as_well(own, read):
    path, counts = own
    assert read(f"file://{path}").adata.shape == counts.shape


def test_own_cells_when_missing_or_broken_or_normalised_then_say_what_to_do(own, read, tmp_path):
    path, _ = own
    for uri in (tmp_path / "no.h5ad", f"file://{tmp_path}/no.h5ad"):
        with pytest.raises(NotFoundError, match="no such file"):
            read(uri)
    broken = tmp_path / "broken.h5ad"
    broken.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidInputError, match=r"broken.h5ad"):
        read(broken)
    adata = ad.read_h5ad(path)
    adata.X = adata.X / 3
    adata.write_h5ad(tmp_path / "norm.h5ad")
    with pytest.raises(InvalidInputError, match=r"norm.h5ad.*counts"):
        read(tmp_path / "norm.h5ad")


def test_own_cells_of_a_question_are_those_of_its_type_and_carry_their_label(own, ask, knowledge):
    found = read_own_cells(RunConfig(query_h5ad=str(own[0])), query=ask("CL:0000623"), knowledge=knowledge)
    assert found.choice.source == "all 12 cells of my cells.h5ad"
    assert set(found.adata.obs[keys.CELL_TYPE]) == {"NK"}
    assert "query cells: all 12 cells of my cells.h5ad; whether the query cells are untreated" in repr(found)
    with pytest.raises(InvalidInputError, match=r"no cells that its labels call untreated B cells.*NK \(12\)"):
        read_own_cells(RunConfig(query_h5ad=str(own[0])), query=ask("CL:0000236"), knowledge=knowledge)


def test_assemble_with_own_cells_samples_them(own, blood, ask, knowledge, settings):
    config, query = RunConfig(query_h5ad=str(own[0]), n_query=5), ask("CL:0000623")
    (one, *_) = search_candidates(query, atlas=blood, knowledge=knowledge, settings=settings, config=config)
    mine = read_own_cells(config, query=query, knowledge=knowledge)
    cells = assemble_cells([one], query_set=None, atlas=blood, config=config, round_number=1, own_cells=mine)
    assert cells.query_cells.n_obs == 5
    assert set(cells.query_cells.obs["role"]) == {"query"}
    assert any("5 of these 12 cells" in note for note in cells.notes)
    assert any("all 12 cells of my cells.h5ad" in note for note in cells.notes)


def test_assemble_spells_genes_as_the_query_cells_do(own, blood, ask, knowledge, settings):
    """The file writes ``Lyz`` for the atlas's LYZ; its other gene ISG15 is the same, and A1BG is only the atlas's."""
    path, _ = own
    adata = ad.read_h5ad(path)
    adata.var_names = ["Lyz" if name == "LYZ" else name for name in adata.var_names]
    adata.write_h5ad(path)
    config, query = RunConfig(query_h5ad=str(path)), ask("CL:0000623")
    (one, *_) = search_candidates(query, atlas=blood, knowledge=knowledge, settings=settings, config=config)
    mine = read_own_cells(config, query=query, knowledge=knowledge)
    cells = assemble_cells([one], query_set=None, atlas=blood, config=config, round_number=1, own_cells=mine)
    assert list(cells.prompt_cells.var_names) == ["A1BG", "ISG15", "Lyz"]
    assert list(cells.control_cells.var_names) == ["A1BG", "ISG15", "Lyz"]
    assert "Lyz" in cells.query_cells.var_names
