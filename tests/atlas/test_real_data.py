"""The real files beside the checkout, against the numbers their description states."""

import anndata as ad
import numpy as np
import pytest

from haystack_kernel import keys
from haystack_kernel.atlas import BuildOptions, atlas_info, build_atlas, draft_mapping, load_mapping, open_atlases
from haystack_kernel.schema import CellSet

pytestmark = pytest.mark.slow

MONOCYTE, NON_CLASSICAL, NK, B = "CL:0001054", "CL:0002396", "CL:0000623", "CL:0000236"


@pytest.fixture(scope="module")
def blood(shared, knowledge, tmp_path_factory):
    root = tmp_path_factory.mktemp("atlases")
    treated = load_mapping(
        "cellxgene", perturbation_column="perturbation", control=["control"], perturbation_type="cytokine"
    )
    files = {
        "kang": (shared / "data" / "perturbation" / "kang2018_ifnb_public.h5ad", treated),
        "pbmc3k": (shared / "data" / "reference" / "pbmc3k_counts.h5ad", load_mapping("cellxgene")),
    }
    for name, (path, mapping) in files.items():
        build_atlas(str(path), name=name, root=root, mapping=mapping, knowledge=knowledge)
    return open_atlases(list(files), root=root)


@pytest.mark.parametrize(
    ("cell_type", "n_control", "n_treated"), [(MONOCYTE, 286, 285), (NON_CLASSICAL, 86, 0), (NK, 39, 34), (B, 72, 85)]
)
def test_kang_counts_of_cells_are_those_described(blood, cell_type, n_control, n_treated):
    wanted = {"atlas": "kang", "dataset": "kang", "cell_type_ids": (cell_type,)}
    assert len(blood.select(CellSet(is_control=True, **wanted))) == n_control
    assert len(blood.select(CellSet(is_control=False, perturbation="IFN-beta", **wanted))) == n_treated


def test_kang_donors_disease_and_tissue(blood):
    table = blood.conditions().query("atlas == 'kang'")
    assert set(table[keys.DONOR]) == {"kang:101", "kang:1015", "kang:1016", "kang:1256"}
    assert set(table[keys.DISEASE_ID]) == {"MONDO:0007915"}
    assert set(table[keys.TISSUE_ID]) == {"UBERON:0000178"}
    assert set(table[keys.PERTURBATION_TYPE]) == {"", "cytokine"}


def test_kang_fetch_equals_the_file(blood, shared):
    cells = blood.select(CellSet(atlas="kang", dataset="kang", is_control=False, cell_type_ids=(NK,)))
    cells = cells.sample(20, random_state=1)
    fetched = blood.fetch(cells)
    truth = ad.read_h5ad(shared / "data" / "perturbation" / "kang2018_ifnb_public.h5ad")[
        cells[keys.CELL_INDEX].to_numpy()
    ]
    np.testing.assert_array_equal(fetched.X.toarray(), truth.X.toarray())
    np.testing.assert_array_equal(cells[keys.TOTAL_COUNTS], np.asarray(truth.X.sum(axis=1)).ravel())
    np.testing.assert_array_equal(cells[keys.N_GENES], truth.X.getnnz(axis=1))


def test_pbmc3k_without_perturbation_is_all_control(blood):
    table = blood.conditions().query("atlas == 'pbmc3k'")
    assert table[keys.IS_CONTROL].all()
    assert set(table[keys.PERTURBATION]) == {""}
    assert table["n_cells"].sum() == 2700


FILES = {  # file -> obs columns that the draft must find, and what it must say of the treatment
    "perturbation/kang2018_ifnb_public": ("perturbation", "cytokine", ["control"]),
    "perturbation/kang2018_ifnb_extra9k_public": ("perturbation", "cytokine", ["control"]),
    "perturbation/gbm_panobinostat_300genes_public": ("perturbation", "drug", ["control"]),
    "perturbation/papalexi_thp1_299genes_public": ("perturbation", "genetic", ["control"]),
    "reference/pbmc3k_counts": (None, None, None),
    "reference/pbmc_frozen_donorA_counts": (None, None, None),
    "reference/pbmc_multistudy_public_counts": (None, None, None),
}


@pytest.fixture(scope="module")
def drafts(shared, knowledge):
    paths = {name: shared / "data" / f"{name}.h5ad" for name in FILES}
    return {name: draft_mapping(str(path), knowledge=knowledge) for name, path in paths.items()}


@pytest.mark.parametrize("name", FILES)
def test_draft_of_a_real_file_names_its_columns(drafts, name):
    fields = {one.field: one.value for one in drafts[name].guesses}
    perturbation, kind, control = FILES[name]
    assert (fields["cell_type"], fields["cell_type_id"]) == ("cell_type", "cell_type_ontology_term_id")
    assert fields["donor"] == "donor_id"
    assert (fields.get("perturbation"), fields.get("control")) == (perturbation, control)
    assert fields.get("perturbation_type") == ({"value": kind} if kind else None)
    assert fields.get("dataset") == ("dataset" if "multistudy" in name else None)
    assert fields.get("disease") == (None if "papalexi" in name else "disease")


def test_all_real_files_are_one_atlas_through_their_drafts(shared, knowledge, drafts, tmp_path):
    for name, draft in drafts.items():
        path = tmp_path / "mapping.yaml"
        path.write_text(draft.text, encoding="utf-8")
        source, options = str(shared / "data" / f"{name}.h5ad"), BuildOptions(add=True)
        build_atlas(source, name="all", root=tmp_path, mapping=load_mapping(path), knowledge=knowledge, options=options)
    info = atlas_info("all", tmp_path)
    assert (len(info["datasets"]), info["n_cells"], info["unmapped"]) == (9, 26_427, [])
    table = open_atlases(["all"], root=tmp_path).conditions()
    unnamed = table[table[keys.CELL_TYPE_ID] == ""]
    assert (set(unnamed[keys.DATASET]), unnamed["n_cells"].sum()) == ({"pbmc3k_counts"}, 62)
