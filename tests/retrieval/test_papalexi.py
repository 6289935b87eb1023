"""Public knock-outs of THP-1 cells, file unmodified: a hidden knock-out is answered from its pathway, or not at all."""

import numpy as np
import pytest

from haystack_kernel.errors import NoCandidateError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.retrieval import search_candidates
from haystack_kernel.schema import HiddenPair, RetrievalSettings, RunConfig

MONOCYTE = "CL:0000576"


@pytest.fixture(scope="module")
def screen(shared):
    return shared / "data" / "perturbation" / "papalexi_thp1_299genes_public.h5ad"


@pytest.fixture(scope="module")
def thp1(screen, tmp_path_factory):
    from haystack_kernel.atlas import build_atlas, load_mapping, open_atlases

    root = tmp_path_factory.mktemp("papalexi")
    mapping = load_mapping("cellxgene", perturbation_column="perturbation", perturbation_type="CRISPR")
    build_atlas(str(screen), name="thp1", root=root, mapping=mapping, knowledge=load_knowledge())
    return open_atlases(["thp1"], root=root)


@pytest.fixture(scope="module")
def effects(screen):
    """Label -> mean log1p(CP10k) of its cells minus that of the controls."""
    import anndata as ad

    adata = ad.read_h5ad(screen)
    counts = np.asarray(adata.X.todense() if hasattr(adata.X, "todense") else adata.X, dtype=float)
    logs, labels = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4), adata.obs["perturbation"].astype(str)
    means = {label: logs[(labels == label).to_numpy()].mean(axis=0) for label in labels.unique()}
    return {label: mean - means["control"] for label, mean in means.items()}


def search(gene, atlas):
    question = f"How would monocytes respond to {gene} knock-out?"
    query = OfflinePlanner(load_knowledge()).understand(question).value
    hidden = HiddenPair(cell_type_id=MONOCYTE, perturbation=query.perturbation.name)
    config = RunConfig(atlases=("thp1",), hide=(hidden,))
    options = {"knowledge": load_knowledge(), "settings": RetrievalSettings(), "config": config}
    return search_candidates(query, atlas=atlas, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("gene", "partner"), [("JAK2", "IFNGR1"), ("IFNGR1", "JAK2")])
def test_a_hidden_knock_out_of_the_pathway_is_answered_from_its_partner(gene, partner, thp1, effects):
    best, *_ = search(gene, thp1)
    assert (best.strategy, best.evidence_distance) == ("mechanistic", "shared_target")
    assert best.prompt.perturbation == f"{partner} knock-out"
    assert np.corrcoef(effects[gene], effects[partner])[0, 1] >= 0.85


@pytest.mark.parametrize("gene", ["IFNGR2", "STAT1", "JAK1", "TYK2"])
def test_a_knock_out_that_the_screen_lacks_is_answered_from_its_pathway(gene, thp1):
    best, *_ = search(gene, thp1)
    assert best.strategy == "mechanistic"
    assert best.prompt.perturbation in {"IFNGR1 knock-out", "JAK2 knock-out", "STAT2 knock-out"}


@pytest.mark.parametrize("gene", ["CAV1", "CD86", "ETV7", "MARCH8", "PDCD1LG2", "SPI1", "UBE2L6"])
def test_a_hidden_knock_out_without_informative_evidence_says_so(gene, thp1):
    with pytest.raises(NoCandidateError, match="no other perturbation there shares a target"):
        search(gene, thp1)
