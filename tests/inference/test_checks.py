from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from inference.checks import check_counts, read_cells
from inference.errors import InputError


def _logged(adata):
    normal = adata.copy()
    dense = adata.X.toarray()
    normal.X = sparse.csr_matrix(np.log1p(1e4 * dense / dense.sum(1, keepdims=True)))
    return normal


def test_counts_in_x_are_found(make_adata):
    adata = make_adata(0)
    checked = check_counts(adata)
    assert (checked.source, checked.notes) == ("X", ())
    assert checked.counts.dtype == np.float32
    assert np.array_equal(checked.counts.toarray(), adata.X.toarray())


def test_counts_in_x_as_dense_integers_are_found(make_adata):
    adata = make_adata(0)
    dense = ad.AnnData(adata.X.toarray().astype(np.int64), obs=adata.obs, var=adata.var)
    assert np.array_equal(check_counts(dense).counts.toarray(), dense.X)


def test_counts_in_the_layer_are_found_when_x_is_normalised(make_adata):
    adata = _logged(make_adata(0))
    adata.layers["counts"] = make_adata(0).X
    checked = check_counts(adata)
    assert checked.source == "layers/counts"
    assert np.array_equal(checked.counts.toarray(), make_adata(0).X.toarray())
    assert "taken from layers/counts" in checked.notes[0]


def test_counts_in_raw_are_found_with_their_own_genes(make_adata):
    adata = _logged(make_adata(0))
    adata.raw = make_adata(0)
    checked = check_counts(adata[:, :10].copy())
    assert (checked.source, len(checked.genes), checked.var.shape[0]) == ("raw/X", 40, 40)


def test_check_leaves_the_callers_object_alone(make_adata):
    adata = make_adata(0)
    adata.X[0, 0] = 5
    before = adata.X.data.copy()
    check_counts(adata)
    assert np.array_equal(adata.X.data, before)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (np.log1p, "looks log-normalised"),
        (lambda x: x * 1.5 + 20.25, "looks normalised"),
        (lambda x: x - x.mean(0), "negative values"),
        (lambda x: np.where(x == x.max(), np.nan, x), "NaN or infinite"),
        (lambda x: x * 0, "only zeros"),
        (lambda x: x * 1e8, "above 16777215"),
    ],
)
def test_values_that_are_not_counts_are_refused(make_adata, change, match):
    adata = make_adata(0)
    adata.X = change(adata.X.toarray().astype(np.float64))
    with pytest.raises(InputError, match=match) as caught:
        check_counts(adata, name="mine.h5ad")
    assert str(caught.value).startswith("mine.h5ad: ")
    assert "layers['counts']" in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_no_cells_or_no_genes_are_refused(shape):
    with pytest.raises(InputError, match=f"{shape[0]} cells x {shape[1]} genes"):
        check_counts(ad.AnnData(sparse.csr_matrix(shape, dtype=np.float32)))


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_repeated_gene_names_are_refused_by_name(make_adata):
    adata = make_adata(0)
    adata.var_names = ["TWICE", "TWICE", *adata.var_names[2:]]
    with pytest.raises(InputError, match=r"1 gene names occur more than once in var \(TWICE\).*var_names_make_unique"):
        check_counts(adata)


def test_mouse_genes_are_refused(make_adata):
    adata = make_adata(0)
    adata.var_names = ["Actb", "mt-Nd1", "H2-K1", "Cd4", *[f"Gapdh{i}" for i in range(36)]]
    with pytest.raises(InputError, match="mouse genes"):
        check_counts(adata)


def test_human_genes_with_small_letters_pass(make_adata):
    adata = make_adata(0)
    adata.var_names = [f"C{i}orf{i}" for i in range(15)] + [f"CD{i}" for i in range(25)]
    assert len(check_counts(adata).genes) == 40


def test_ensembl_ids_without_symbols_are_refused_naming_the_columns(make_adata):
    adata = make_adata(0)
    adata.var_names = [f"ENSG{i:011d}.3" for i in range(40)]
    with pytest.raises(InputError, match=r"Ensembl ids .*feature_name, gene_symbols, gene_symbol, gene_name"):
        check_counts(adata)


def test_ensembl_ids_with_a_symbol_column_are_translated(make_adata):
    adata = make_adata(0)
    adata.var_names = [f"ENSG{i:011d}" for i in range(40)]
    adata.var["feature_name"] = ["ISG15", "ISG15", None, *[f"G{i}" for i in range(37)]]
    checked = check_counts(adata)
    assert checked.genes[:4] == ("ISG15", "ENSG00000000001", "ENSG00000000002", "G0")
    assert any("var['feature_name']" in note for note in checked.notes)
    assert any("1 of 40 genes repeat" in note for note in checked.notes)


def test_mouse_ensembl_ids_are_refused(make_adata):
    adata = make_adata(0)
    adata.var_names = [f"ENSMUSG{i:011d}" for i in range(40)]
    with pytest.raises(InputError, match="mouse genes"):
        check_counts(adata)


def test_empty_cells_are_noted(make_adata):
    adata = make_adata(0)
    dense = adata.X.toarray()
    dense[:2] = 0
    adata.X = sparse.csr_matrix(dense)
    assert "2 of 30 cells hold no counts" in check_counts(adata).notes[0]


def test_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_cells(tmp_path / "nothing.h5ad", name="gs://b/nothing.h5ad")


@pytest.mark.parametrize("keep", [0, 200, 0.6])
def test_file_that_is_cut_short_is_refused(tmp_path, make_adata, keep):
    path = tmp_path / "cells.h5ad"
    make_adata(0).write_h5ad(path, convert_strings_to_categoricals=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep < 1 else keep])
    with pytest.raises(InputError, match=r"given: not a readable h5ad file(: it is empty| .*cut short)"):
        read_cells(path, name="given")


def test_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "cells.h5ad"
    pd.DataFrame({"a": [1]}).to_csv(path)
    with pytest.raises(InputError, match="not a readable h5ad"):
        read_cells(path, name="given")


def test_symbols_come_from_the_column_asked_for_or_from_elsewhere_with_a_note(make_adata):
    adata = make_adata(0)
    adata.var["mine"] = [f"M{i}" for i in range(40)]
    checked = check_counts(adata, symbols="mine")
    assert checked.genes == tuple(f"M{i}" for i in range(40))
    checked = check_counts(adata, name="x.h5ad", symbols="absent")
    assert checked.genes == tuple(adata.var_names)
    assert checked.notes[0] == "x.h5ad: var has no column 'absent'; gene names are looked for elsewhere"


def test_ranks_are_refused():
    ranks = np.stack([np.random.default_rng(i).permutation(1200) + 1 for i in range(3)])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(1200)])
    with pytest.raises(InputError, match="no zero among 1,200 genes"):
        check_counts(ad.AnnData(sparse.csr_matrix(ranks.astype(np.float32)), var=var))
