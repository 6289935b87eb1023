"""Real cells: FCGR3A+ monocytes whose treated cells nobody has seen (SLE PBMC with and without IFN-beta)."""

import pytest

from haystack_kernel import keys
from haystack_kernel.atlas import BuildOptions, build_atlas, open_atlases
from haystack_kernel.atlas.mapping import load_mapping
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.planners.offline import OfflinePlanner
from haystack_kernel.retrieval import assemble_cells, choose_query_cells, search_candidates
from haystack_kernel.schema import HiddenPair, Perturbation, RetrievalSettings, RunConfig, StructuredQuery

pytestmark = pytest.mark.slow

CD14, CD16, CD4, CD8, T = "CL:0001054", "CL:0002396", "CL:0000624", "CL:0000625", "CL:0000084"
NK = "CL:0000623"


@pytest.fixture(scope="module")
def kang(shared, tmp_path_factory):
    root = tmp_path_factory.mktemp("atlases")
    mapping = load_mapping(
        "cellxgene", perturbation_column="perturbation", control=["control"], perturbation_type="cytokine"
    )
    for name in ("kang2018_ifnb_public", "kang2018_ifnb_extra9k_public"):
        source = str(shared / "data" / "perturbation" / f"{name}.h5ad")
        build_atlas(
            source,
            name="kang",
            root=root,
            mapping=mapping,
            knowledge=load_knowledge(),
            options=BuildOptions(dataset=name, add=True),
        )
    return open_atlases(["kang"], root=root)


def query(cell_type_id, name, task="perturbation_novel_cell_types", **fields):
    treatment = Perturbation(text="IFN-beta", name="IFN-beta", type="cytokine")
    return StructuredQuery(
        question=f"How would {name} cells respond to IFN-beta?",
        task_type=task,
        cell_type_id=cell_type_id,
        cell_type_name=name,
        perturbation=treatment,
        **fields,
    )


def search(asked, atlas, config):
    settings = RetrievalSettings(n_top=50)
    return search_candidates(asked, atlas=atlas, knowledge=load_knowledge(), settings=settings, config=config)


def test_kang_when_asked_for_fcgr3a_monocytes_then_cd14_monocytes_come_first(kang):
    config = RunConfig(atlases=("kang",))
    asked = query(CD16, "CD14-low, CD16-positive monocyte")
    found = search(asked, kang, config)
    assert found[0].prompt.cell_type_ids == (CD14,)
    assert len(found) > 5
    assert all(one.donor_matched for one in found if one.prompt.n_cells > 20)
    assert not any(CD16 in one.prompt.cell_type_ids for one in found)
    query_set = choose_query_cells(asked, atlas=kang, knowledge=load_knowledge(), candidates=found, config=config)
    assert (query_set.cell_type_ids, query_set.n_cells) == ((CD16,), 86)
    cells = assemble_cells(found[:3], query_set=query_set, atlas=kang, config=config, round_number=1)
    assert cells.query_cells.n_obs == 86
    assert set(cells.prompt_cells.obs[keys.PERTURBATION]) == {"IFN-beta"}
    by_hand = sum(len(kang.select(one.prompt)) for one in found[:3])
    assert cells.prompt_cells.n_obs == by_hand == sum(one.prompt.n_cells for one in found[:3])
    # a model sees a mixture, so both sides have one make-up; the other engines compare each type with itself
    for_model = assemble_cells(
        found[:3], query_set=query_set, atlas=kang, config=RunConfig(atlases=("kang",), engine="stack"), round_number=1
    )
    assert cells.control_cells.n_obs > 1.05 * for_model.control_cells.n_obs
    both = (for_model.prompt_cells, for_model.control_cells)
    made_of = [adata.obs[keys.CELL_TYPE].value_counts(normalize=True) for adata in both]
    assert (made_of[0] - made_of[1]).abs().max() < 0.01  # the difference of the two is the effect, not the mixture
    assert set(cells.query_cells.obs_names).isdisjoint(cells.control_cells.obs_names)


def test_kang_when_cd4_t_cells_are_hidden_then_unresolved_t_cells_are_gone_too(kang):
    hide = (HiddenPair(cell_type_id=CD4, perturbation="interferon beta"),)
    asked = query(CD4, "CD4-positive, alpha-beta T cell")
    seen = {one.prompt.cell_type_ids[0] for one in search(asked, kang, RunConfig(atlases=("kang",)))}
    assert {CD4, T} <= seen
    left = {one.prompt.cell_type_ids[0] for one in search(asked, kang, RunConfig(atlases=("kang",), hide=hide))}
    assert left.isdisjoint({CD4, T})
    assert {CD8, CD14} <= left


def test_kang_when_the_sample_is_novel_then_query_cells_are_of_that_donor_and_prompts_of_others(kang):
    config = RunConfig(atlases=("kang",))
    asked = query(CD4, "CD4-positive, alpha-beta T cell", task="perturbation_novel_samples", donor_id="1256")
    found = search(asked, kang, config)
    assert not any(donor.endswith("1256") for one in found for donor in one.prompt.donor_ids)
    query_set = choose_query_cells(asked, atlas=kang, knowledge=load_knowledge(), candidates=found, config=config)
    assert [one.rpartition(":")[2] for one in query_set.donor_ids] == ["1256"]
    assert query_set.n_cells == 85


@pytest.fixture(scope="module")
def two_studies(shared, tmp_path_factory):
    """Kang's lupus blood with and without IFN-beta, and a healthy donor's blood, as one collection of two atlases."""
    root = tmp_path_factory.mktemp("atlases")
    mapping = load_mapping(
        "cellxgene", perturbation_column="perturbation", control=["control"], perturbation_type="cytokine"
    )
    for name, file in (
        ("kang", "perturbation/kang2018_ifnb_public.h5ad"),
        ("pbmc3k", "reference/pbmc3k_counts.h5ad"),
    ):
        build_atlas(
            str(shared / "data" / file),
            name=name,
            root=root,
            mapping=mapping,
            knowledge=load_knowledge(),
            options=BuildOptions(dataset=name),
        )
    return open_atlases(["kang", "pbmc3k"], root=root)


def ask_in_words(question, atlas, **fields):
    config = RunConfig(atlases=("kang", "pbmc3k"), **fields)
    asked = OfflinePlanner(load_knowledge()).understand(question).value
    found = search(asked, atlas, config)
    chosen = choose_query_cells(asked, atlas=atlas, knowledge=load_knowledge(), candidates=found, config=config)
    cells = assemble_cells(found[:2], query_set=chosen, atlas=atlas, config=config, round_number=1)
    return found, chosen, cells


@pytest.mark.slow
def test_two_studies_answer_a_question_about_one_donors_response(two_studies):
    found, chosen, cells = ask_in_words("How would NK cells in donor 1256 respond to IFN-β?", two_studies)
    first = found[0]
    assert (first.prompt.cell_type_ids, first.prompt.perturbation) == ((NK,), "IFN-beta")
    assert (first.evidence_distance, first.relevance, first.donor_matched) == ("same_pair", 1.0, True)
    assert not any(donor.endswith("1256") for one in found for donor in one.prompt.donor_ids)
    assert (chosen.atlas, chosen.donor_ids, chosen.cell_type_ids) == ("kang", ("kang:1256",), (NK,))
    obs = cells.query_cells.obs
    assert set(obs[keys.DONOR]) == {"kang:1256"}
    assert not obs[keys.PERTURBATION].eq("IFN-beta").any()


def test_two_studies_when_the_pair_is_hidden_then_a_type_of_the_same_treatment_stands_in(two_studies):
    hide = (HiddenPair(cell_type_id=NK, perturbation="IFN-beta"),)
    found, _, _ = ask_in_words("How would NK cells in donor 1256 respond to IFN-β?", two_studies, hide=hide)
    assert not any(NK in one.prompt.cell_type_ids for one in found)
    assert {one.prompt.perturbation for one in found} == {"IFN-beta"}
    assert found[0].donor_matched


def test_two_studies_impute_from_the_donors_most_similar_first(two_studies):
    found, chosen, cells = ask_in_words("Impute natural killer cells of donor 101.", two_studies)
    first, healthy = found[0], next(one for one in found if one.prompt.dataset == "pbmc3k")
    assert first.prompt.donor_ids == ("kang:1015", "kang:1016", "kang:1256")
    assert (first.strategy, first.relevance) == ("donor_context", 0.75)  # blood and lupus; age and sex not recorded
    assert "same tissue and disease" in first.reason
    assert healthy.relevance == 0.5  # blood, but healthy
    assert first.control.cell_type_ids == chosen.cell_type_ids
    assert first.control.donor_ids == first.prompt.donor_ids
    assert set(cells.query_cells.obs[keys.DONOR]) == {"kang:101"}
    assert len(two_studies.select(first.prompt)) == first.prompt.n_cells
