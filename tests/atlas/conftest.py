"""Small designed files: every test says what its file holds."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from haystack_kernel.atlas import BuildOptions, build_atlas
from haystack_kernel.knowledge import load_knowledge

GENES = ["CD14", "ISG15", "MX1", "NKG7", "LYZ", "C1orf56"]


def _counts_of(n_cells, n_genes=6, seed=0):
    return np.random.default_rng(seed).poisson(1.5, (n_cells, n_genes)).astype(np.float32)


@pytest.fixture
def counts_of():
    """Designed counts by number of cells, genes and seed."""
    return _counts_of


@pytest.fixture
def gene_names():
    return GENES


@pytest.fixture
def write(tmp_path):
    """Write an h5ad: obs columns, counts (CSR unless given otherwise), gene names, further var columns and layers."""

    def write_h5ad(name, obs, *, counts=None, genes=None, var=None, layers=None, raw=None):
        table = pd.DataFrame(obs)
        table.index = [f"cell{i}" for i in range(len(table))]
        counts = sp.csr_matrix(_counts_of(len(table))) if counts is None else counts
        genes = GENES[: counts.shape[1]] if genes is None else genes
        adata = ad.AnnData(X=counts, obs=table, var=pd.DataFrame(var or {}, index=genes), layers=layers)
        if raw is not None:
            adata.raw = ad.AnnData(X=raw[0], obs=table, var=pd.DataFrame(index=raw[1]))
        path = tmp_path / name
        adata.write_h5ad(path)
        return str(path)

    return write_h5ad


@pytest.fixture
def obs():
    """Eight cells: monocytes and NK cells of two donors, half treated with IFN-beta."""
    return {
        "cell_type": ["classical monocyte"] * 4 + ["natural killer cell"] * 4,
        "treatment": ["none", "none", "IFN-beta", "IFN-beta"] * 2,
        "donor_id": ["d1", "d2"] * 4,
    }


@pytest.fixture(scope="session")
def knowledge():
    return load_knowledge()


@pytest.fixture
def build(tmp_path, knowledge):
    def run(source, mapping, *, name="tiny", progress=None, **options):
        return build_atlas(
            source,
            name=name,
            root=tmp_path / "atlases",
            mapping=mapping,
            knowledge=knowledge,
            options=BuildOptions(**options),
            progress=progress,
        )

    return run


@pytest.fixture
def root(tmp_path):
    return tmp_path / "atlases"
