from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from inference.errors import ModelError
from inference.preflight import COVERAGE, examine, load_model_genes

GENES = [f"GENE{i}" for i in range(40)]  # those of make_adata


def answers(found):
    return {one.question: one.ok for one in found.answers}


def logged(adata):
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray()))
    return adata


def test_good_cells_get_yes_to_every_question(make_adata):
    found, checked = examine(make_adata(0), model_genes=GENES)
    assert found.ok
    assert set(answers(found).values()) == {True}
    assert found.frac_model_genes == 1
    assert checked.source == "X"
    assert found.lines[1].strip().startswith("yes  raw counts: non-negative whole numbers in X")


@pytest.mark.parametrize("place", ["layers/counts", "raw/X"])
def test_where_the_counts_were_found_is_said(make_adata, place):
    adata = logged(make_adata(0))
    if place == "raw/X":
        adata.raw = make_adata(0)
    else:
        adata.layers["counts"] = make_adata(0).X
    found, checked = examine(adata)
    assert found.ok
    assert f"in {place}, X holds other values" in found.lines[1]
    np.testing.assert_array_equal(checked.counts.toarray(), make_adata(0).X.toarray())


@pytest.mark.parametrize(
    ("n_known", "is_ok", "ok"),
    [(40, True, True), (20, True, True), (19, True, None), (1, True, None), (0, False, False)],
)
def test_coverage_is_the_share_of_the_models_genes(make_adata, n_known, is_ok, ok):
    """The model has 40 genes, in other case; the cells have ``n_known`` of them and 40 - n_known others."""
    model = [name.lower() for name in GENES[:n_known]] + [f"OTHER{i}" for i in range(40 - n_known)]
    found, checked = examine(make_adata(0), name="mine", model_genes=model)
    assert (found.ok, answers(found)[COVERAGE], checked is not None) == (is_ok, ok, is_ok)
    assert found.frac_model_genes == n_known / 40
    if not is_ok:
        assert "mine: none of the model's 40 genes" in found.refusals[0]
        assert "gene list that belongs to the model" in found.refusals[0]


def test_without_a_model_coverage_is_not_asked(make_adata):
    found, _ = examine(make_adata(0))
    assert COVERAGE not in answers(found)
    assert np.isnan(found.frac_model_genes)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_every_fault_is_told_at_once(make_adata):
    """Normalised, repeated genes, repeated cells: three refusals, each with its remedy; the species is left open."""
    adata = logged(make_adata(0))
    adata.var_names = ["TWICE", "TWICE", *adata.var_names[2:]]
    adata.obs_names = ["same", "same", *adata.obs_names[2:]]
    found, checked = examine(adata, name="mine", model_genes=GENES)
    assert checked is None
    asked = answers(found)
    assert [name for name, ok in asked.items() if ok is False] == [
        "raw counts",
        "each gene once",
        "each cell name once",
    ]
    assert asked["human genes"] is None
    assert len(found.refusals) == 3
    for said in ("log-normalised", "TWICE", "obs_names_make_unique"):
        assert any(said in refusal for refusal in found.refusals)
    assert np.isnan(found.frac_model_genes)


def test_ensembl_ids_with_and_without_symbols(make_adata):
    adata = make_adata(0)
    adata.var_names = [f"ENSG{i:011d}" for i in range(40)]
    found, _ = examine(adata)
    assert answers(found)["gene names"] is False
    adata.var["feature_name"] = GENES
    found, _ = examine(adata, model_genes=GENES)
    assert found.ok
    assert any("gene symbols taken from var['feature_name']" in line for line in found.lines)


def test_mouse_genes_are_a_no(make_adata):
    adata = make_adata(0)
    adata.var_names = ["Actb", "mt-Nd1", "H2-K1", "Cd4", *[f"Gapdh{i}" for i in range(36)]]
    found, _ = examine(adata)
    assert (answers(found)["raw counts"], answers(found)["human genes"]) == (True, False)


def test_empty_cells_are_noted_and_no_cells_refused(make_adata):
    adata = make_adata(0)
    dense = adata.X.toarray()
    dense[:3] = 0
    adata.X = sparse.csr_matrix(dense)
    found, _ = examine(adata)
    assert found.ok
    assert "note  cells with counts: 3 of 30 hold no counts" in "\n".join(found.lines)
    found, checked = examine(adata[:0].copy(), name="mine")
    assert (found.ok, checked, answers(found)["cells and genes"]) == (False, None, False)
    assert "mine: 0 cells x 40 genes" in found.refusals[0]


def test_a_gene_list_is_read_or_refused(tmp_path):
    (tmp_path / "genes.json").write_text('["ISG15", "mx1"]')
    assert load_model_genes(tmp_path / "genes.json", name="g") == ("ISG15", "MX1")
    (tmp_path / "genes.json").write_text("[1, 2]")
    with pytest.raises(ModelError, match="g: "):
        load_model_genes(tmp_path / "genes.json", name="g")
