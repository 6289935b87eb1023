"""The real files beside the checkout: none is refused or doubted, and names stay as they are."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from inference.checks import read_cells
from inference.counts import judge, sample_rows
from inference.errors import InputError

pytestmark = pytest.mark.slow


def files(shared):
    found = sorted((shared / "data").glob("*/*.h5ad"))
    return [path for path in found if path.parent.name in {"perturbation", "reference"}]


def test_real_counts_are_taken_without_a_doubt_and_names_stay(shared):
    assert len(files(shared)) >= 7
    for path in files(shared):
        adata, checked = read_cells(path, name=path.name)
        assert (checked.source, checked.doubts) == ("X", ()), path.name
        assert all("only in capitals" in note for note in checked.notes), path.name  # C1ORF220 beside C1orf220
        assert list(checked.genes) == list(ad.read_h5ad(path, backed="r").var_names)
        assert checked.counts.shape == (adata.n_obs, adata.n_vars)


def test_real_ranks_are_refused(shared):
    with pytest.raises(InputError, match="ranks, scores or bulk"):
        read_cells(shared / "data" / "signatures" / "neurips2023_ranks_public.h5ad", name="ranks")


def test_fakes_of_real_counts_are_refused(shared):
    for path in files(shared):
        counts = sparse.csr_matrix(ad.read_h5ad(path).X)[:600].astype(float)
        if counts.shape[1] < 300:
            continue
        share = sparse.csr_matrix(counts.multiply(1 / np.asarray(counts.sum(axis=1))))
        fakes = {
            "cpm": (share * 1e6).rint(),
            "cp10k": (share * 1e4).rint(),
            "log": (share * 1e4).log1p().rint(),
            "tenfold": counts * 10,
            "ones": (counts > 0).astype(float),
        }
        for name, values in fakes.items():
            assert judge(sample_rows(values)).fault, (path.name, name)
