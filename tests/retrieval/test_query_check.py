"""The preflight of a user's own cells as an object."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import haystack_kernel
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.report.displays import card_of
from haystack_kernel.retrieval import check_cells, read_own_cells
from haystack_kernel.schema import RunConfig

GENES = ["CD14", "ISG15", "MX1", "NKG7", "LYZ", "IFIT1", "IFIT3", "CXCL10", "B2M", "ACTB", "GAPDH", "CD3D"]


@pytest.fixture
def write_cells(tmp_path):
    def write(counts=None, name="mine.h5ad"):
        counts = np.arange(1, 10 * 12 + 1).reshape(10, 12) % 7 if counts is None else counts
        obs = pd.DataFrame(index=[f"c{i}" for i in range(len(counts))])
        adata = ad.AnnData(X=sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))
        adata.write_h5ad(tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def genelist(tmp_path):
    """A model of 16 genes: the cells have 12 of them."""
    (tmp_path / "genes.json").write_text(json.dumps([*GENES, "MX2", "OAS1", "OAS2", "OAS3"]))
    return str(tmp_path / "genes.json")


def test_good_cells_are_shown_with_their_coverage(write_cells, genelist):
    found = haystack_kernel.check(write_cells(), genelist=genelist)
    assert found.ok
    assert "can be used" in repr(found)
    assert "75.0% (12 of 16)" in repr(found)
    page = card_of(found)
    assert "75.0% (12 of 16)" in page
    assert page.count('<th scope="row"') == len(found.preflight.answers)
    assert found.require().source == "X"


@pytest.fixture
def notes_of(write_cells, ask, knowledge):
    """Notes about the cells, read for an engine with or without the gene list of a model."""

    def run(genelist=None):
        engine = "stack" if genelist else "weighted"
        config = RunConfig(query_h5ad=write_cells(), engine=engine, genelist=genelist)
        return read_own_cells(config, query=ask("CL:0000236"), knowledge=knowledge).notes

    return run


def test_coverage_is_among_the_notes_of_the_cells(notes_of, genelist):
    assert any("model genes covered: 75.0% (12 of 16)" in note for note in notes_of(genelist))
    assert not any("covered" in note for note in notes_of())


def test_cells_that_cannot_be_used_are_shown_and_refused_when_required(write_cells):
    found = check_cells(write_cells(np.full((4, 12), 0.5)))
    assert not found.ok
    assert "cannot be used" in repr(found)
    assert "NO  raw counts" in repr(found)
    with pytest.raises(InvalidInputError, match=r"these cannot be the query cells: .*whole numbers"):
        found.require()


def test_none_of_the_models_genes_is_refused_before_anything_is_spent(notes_of, tmp_path):
    (tmp_path / "genes.txt").write_text("Gm1\nGm2\n")
    with pytest.raises(InvalidInputError, match="none of the model's 2 genes"):
        notes_of(str(tmp_path / "genes.txt"))


def test_the_name_of_a_file_is_text_not_markup(write_cells):
    found = check_cells(write_cells(name="<b>mine</b>.h5ad".replace("/", "")))
    assert "<b>mine" not in card_of(found)
    assert "&lt;b&gt;mine" in card_of(found)


def test_missing_files_are_named(write_cells, tmp_path, genelist):
    with pytest.raises(NotFoundError, match=r"no query cells at .*no such file"):
        check_cells(str(tmp_path / "no.h5ad"), genelist=genelist)
    with pytest.raises(NotFoundError, match=r"no gene list at .*no such file"):
        check_cells(write_cells(), genelist=f"file://{tmp_path}/no.json")
    assert check_cells(f"file://{write_cells()}", genelist=f"file://{genelist}").ok
