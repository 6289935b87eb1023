"""Each strategy alone on designed conditions: what it proposes, in which order, with which relevance."""

import pytest

from haystack_kernel import keys
from haystack_kernel.errors import NoCandidateError
from haystack_kernel.knowledge import Knowledge, PerturbationEntry, load_knowledge
from haystack_kernel.retrieval.search import STRATEGIES, search_candidates, strategy_order
from haystack_kernel.retrieval.strategies.direct import direct
from haystack_kernel.retrieval.strategies.donor_context import donor_context
from haystack_kernel.retrieval.strategies.mechanistic import mechanistic
from haystack_kernel.retrieval.strategies.ontology import ontology
from haystack_kernel.retrieval.strategies.semantic import semantic
from haystack_kernel.retrieval.strategies.tissue_atlas import tissue_atlas
from haystack_kernel.retrieval.view import build_view
from haystack_kernel.schema import HiddenPair, RetrievalSettings, RunConfig

CD4, CD8, T, B, NK, CD14, CD16, DC = (
    "CL:0000624",
    "CL:0000625",
    "CL:0000084",
    "CL:0000236",
    "CL:0000623",
    "CL:0001054",
    "CL:0002396",
    "CL:0000451",
)
BLOOD, LUNG, SPLEEN = ("UBERON:0000178", "blood"), ("UBERON:0002048", "lung"), ("UBERON:0002106", "spleen")
NORMAL, ILL = ("PATO:0000461", "normal"), ("MONDO:0007915", "systemic lupus erythematosus")


@pytest.fixture(scope="module")
def drugs(knowledge):
    """ "A" acts on G1, G2 and pathway P up, Q down; the others share more or less of it, "anti" moves it back."""

    def drug(name, targets, pathways, family="kinase inhibitor"):
        return PerturbationEntry(name, "drug", (), tuple(targets), pathways, {}, {}, family)

    entries = (
        drug("A", ("G1", "G2"), {"P": 1, "Q": -1}),
        drug("half", ("G2", "G3", "G4"), {"P": 1}),  # targets 1 of 4, pathways 1 of 2
        drug("same", ("G1", "G2"), {"P": 1, "Q": -1}),
        drug("anti", ("G1", "G2"), {"P": -1, "Q": 1}),
        drug("far", ("G9",), {"R": 1}, "antibiotic"),
        drug("weak", ("G2", "G5", "G6", "G7", "G8"), {}),  # targets 1 of 6: 0.1
    )
    table = {one.name: one for one in entries}
    return Knowledge(knowledge.cell_types, table, {}, {}, {}, version="drugs", digest="drugs")


@pytest.fixture
def view_of(make_atlas):
    def build(rows, knowledge, **settings):
        config = RunConfig(hide=settings.pop("hide", ()))
        return build_view(make_atlas(rows), knowledge=knowledge, settings=RetrievalSettings(**settings), config=config)

    return build


@pytest.fixture
def screen(row):
    """Every drug but A in CD16; "same" also in CD14, which is two steps away; A itself in CD14 only."""
    rows = [row("s", CD16, name, "d", 20) for name in ("half", "same", "anti", "far", "weak")]
    rows += [row("s", CD14, "same", "d", 90), row("s", CD14, "A", "d", 30)]
    rows += [row("t", CD14, "same", "d", 40), row("t", DC, "same", "d", 40)]
    return [*rows, row("s", CD16, "", "d", 20), row("s", CD14, "", "d", 20)]


def summary(proposals):
    return [(one.key.removeprefix("tiny/"), pytest.approx(one.evidence.relevance)) for one in proposals]


# --- mechanistic --------------------------------------------------------------------------------------------------


def test_mechanistic_weighs_targets_and_signed_pathways_and_leaves_opposites_out(screen, drugs, ask, view_of):
    found = summary(mechanistic(ask(CD16, "A"), view_of(screen, drugs)))
    assert found == [
        (f"s/same/{CD16}", 1.0),
        (f"s/half/{CD16}", 0.6 * 1 / 4 + 0.4 * 1 / 2),
        (f"t/same/{CD14}", 1.0 * 0.9 / 3),  # dataset t has no CD16 under it: the nearest type, two steps
    ]


def test_mechanistic_says_what_is_shared_and_how_far_the_evidence_is(screen, drugs, ask, view_of):
    first, second, _ = mechanistic(ask(CD16, "A"), view_of(screen, drugs))
    assert first.evidence.words == "same shares targets G1, G2; pathways P, Q with A; in the cell type asked for"
    assert second.evidence.words.startswith("half shares target G2; pathway P with A")
    assert {first.evidence.distance, second.evidence.distance} == {"shared_target"}


def test_mechanistic_when_nothing_is_known_of_the_perturbation_then_proposes_nothing(screen, drugs, ask, view_of):
    assert list(mechanistic(ask(CD16, "mystery"), view_of(screen, drugs))) == []
    assert list(mechanistic(ask(CD16, None, task="cell_type_imputation"), view_of(screen, drugs))) == []


def test_mechanistic_floor_is_a_setting(screen, drugs, ask, view_of):
    found = [key for key, _ in summary(mechanistic(ask(CD16, "A"), view_of(screen, drugs, mechanistic_floor=0.05)))]
    assert f"s/weak/{CD16}" in found
    assert f"s/anti/{CD16}" not in found


# --- semantic -----------------------------------------------------------------------------------------------------


def test_semantic_finds_similar_descriptions_above_the_floor_only(screen, drugs, ask, view_of):
    found = dict(summary(semantic(ask(CD16, "A"), view_of(screen, drugs))))
    assert f"s/same/{CD16}" in found
    assert not {f"s/far/{CD16}", f"s/anti/{CD16}", f"s/A/{CD14}"} & set(found)
    assert all(0.5 <= value.expected <= 1 for value in found.values())


def test_semantic_leaves_out_cells_that_are_held_under_the_perturbation_asked_for(screen, drugs, ask, view_of):
    found = dict(summary(semantic(ask(CD16, "A"), view_of(screen, drugs, semantic_floor=0.0))))
    assert f"s/same/{CD14}" not in found  # s holds CD14 under A itself
    assert f"t/same/{CD14}" in found


def test_semantic_says_text_only_where_nothing_else_is_shared(screen, drugs, ask, view_of):
    found = {one.key: one for one in semantic(ask(CD16, "A"), view_of(screen, drugs, semantic_floor=0.0))}
    assert found[f"tiny/s/far/{CD16}"].evidence.distance == "text_only"
    assert found[f"tiny/s/half/{CD16}"].evidence.distance == "shared_target"
    assert "cosine" in found[f"tiny/s/far/{CD16}"].evidence.words


# --- ontology -----------------------------------------------------------------------------------------------------


def test_ontology_goes_two_hops_with_relevance_by_distance(row, knowledge, ask, view_of):
    rows = [row("s", one, "IFN-beta", "d", 9) for one in (CD4, CD8, T, B, DC)]
    found = summary(ontology(ask(CD4), view_of(rows, knowledge)))
    assert found == [(f"s/IFN-beta/{T}", 1 / 2), (f"s/IFN-beta/{CD8}", 1 / 3)]  # B is three steps away


def test_ontology_when_the_perturbation_is_not_held_then_takes_the_closest_one(screen, drugs, ask, view_of):
    rows = [one for one in screen if one[keys.PERTURBATION] != "A"]
    found = list(ontology(ask(CD16, "A"), view_of(rows, drugs)))
    assert summary(found) == [(f"s/same/{CD14}", 1 / 3), (f"t/same/{CD14}", 1 / 3)]
    assert {one.evidence.distance for one in found} == {"shared_target"}


# --- donor_context and tissue_atlas -------------------------------------------------------------------------------


@pytest.fixture
def people(row):
    """Donor t (blood, ill, female, old) lacks CD16; r1 agrees in all, r2 in tissue, r3 unknown but tissue."""

    def person(donor, cl_id, n_cells, *, tissue=BLOOD, disease=("", ""), sex="", age=""):
        one = row("s", cl_id, "", donor, n_cells, tissue=tissue, disease=disease)
        return {**one, keys.DONOR_SEX: sex, keys.DONOR_AGE: age}

    def both(donor, **facts):
        return [person(donor, CD16, 20, **facts), person(donor, CD14, 20, **facts)]

    rows = [person("t", CD14, 25, disease=ILL, sex="female", age="old")]
    rows += both("r1", disease=ILL, sex="female", age="old")
    rows += both("r2", disease=NORMAL, sex="male", age="young")
    rows += both("r3")
    return [*rows, *both("r4", tissue=LUNG, disease=NORMAL, sex="female", age="old")]


def test_donor_context_takes_the_most_similar_donors_first(people, knowledge, ask, view_of):
    query = ask(CD16, None, task="cell_type_imputation", donor_id="t")
    found = list(donor_context(query, view_of(people, knowledge)))
    sets = [(set(one.rows[keys.DONOR]), one.evidence.relevance) for one in found]
    assert sets == [
        ({"s:r1"}, 1.0),
        ({"s:r3"}, (1 + 3 * 0.5) / 4),
        ({"s:r4"}, 2 / 4),
        ({"s:r2"}, 1 / 4),
    ]
    assert len({one.key for one in found}) == 4
    assert ": same tissue; different disease, age and sex" in found[-1].evidence.words


def test_donor_context_joins_sets_too_small_to_stand_alone(row, knowledge, ask, view_of):
    rows = [{**row("s", CD16, "", f"r{n}", 3), keys.DONOR_SEX: sex} for n, sex in enumerate(("female", "male"))]
    rows += [{**row("s", CD14, "", "t", 30), keys.DONOR_SEX: "female"}]
    query = ask(CD16, None, task="cell_type_imputation", donor_id="t")
    (one,) = donor_context(query, view_of(rows, knowledge))
    assert one.n_cells == 6
    assert one.evidence.relevance == (1 + 0.5 + 0.5 + 0) / 4  # of the less similar of the two


def test_donor_context_selects_exactly_the_cells_it_counts(people, knowledge, ask, make_atlas, config):
    atlas = make_atlas(people)
    query = ask(CD16, None, task="cell_type_imputation", donor_id="t")
    found = search_candidates(
        query, atlas=atlas, knowledge=knowledge, settings=RetrievalSettings(n_top=50), config=config
    )
    assert len(found) == 4
    for one in found:
        cells = atlas.select(one.prompt)
        assert len(cells) == one.prompt.n_cells > 0
        assert set(cells[keys.DONOR]) == set(one.prompt.donor_ids)
        assert "s:t" not in one.prompt.donor_ids


def test_tissue_atlas_takes_healthy_donors_of_that_tissue(people, knowledge, ask, view_of):
    query = ask(CD16, None, task="cell_type_imputation", donor_id="t")
    healthy, unrecorded = tissue_atlas(query, view_of(people, knowledge))
    assert (set(healthy.rows[keys.DONOR]), healthy.evidence.relevance) == ({"s:r2"}, pytest.approx(0.8))
    assert (set(unrecorded.rows[keys.DONOR]), unrecorded.evidence.relevance) == ({"s:r3"}, pytest.approx(0.72))
    assert "healthy blood" in healthy.evidence.words
    asked = ask(CD16, None, task="cell_type_imputation", tissue_id=LUNG[0], tissue_name="lung")
    (one,) = tissue_atlas(asked, view_of([*people, people[0] | {keys.TISSUE_ID: LUNG[0]}], knowledge))
    assert set(one.rows[keys.DONOR]) == {"s:r4"}


# --- together -----------------------------------------------------------------------------------------------------


def test_the_order_of_strategies_is_that_of_the_task():
    assert strategy_order("perturbation_novel_samples") == ("direct", "mechanistic", "semantic", "ontology")
    assert strategy_order("donor_expression_prediction") == ("donor_context", "tissue_atlas", "ontology", "semantic")
    assert set(strategy_order("cross_dataset_generation")) == set(STRATEGIES)


def test_cross_dataset_uses_both_sides(people, knowledge, ask, row, make_atlas, config, view_of):
    treated = [{**one, keys.PERTURBATION: "IFN-beta", keys.IS_CONTROL: False} for one in people]
    atlas = make_atlas([*people, *treated, row("target", CD16, "", "x", 30, disease=ILL)])
    query = ask(CD16, task="cross_dataset_generation", target_dataset="target")
    found = search_candidates(
        query, atlas=atlas, knowledge=knowledge, settings=RetrievalSettings(n_top=50), config=config
    )
    assert {"direct", "donor_context"} == {one.strategy for one in found}
    healthy, _ = tissue_atlas(query, view_of(list(atlas.conditions().to_dict("records")), knowledge))
    assert set(healthy.rows[keys.DONOR]) == {"s:r2"}  # found before, as the donors of the same tissue
    assert {one.prompt.perturbation for one in found} == {"IFN-beta"}


def test_a_set_that_two_strategies_find_is_one_candidate_of_the_first(screen, drugs, ask, make_atlas, config):
    found = search_candidates(
        ask(CD16, "A"), atlas=make_atlas(screen), knowledge=drugs, settings=RetrievalSettings(n_top=50), config=config
    )
    by_key = {one.key: one for one in found}
    half = by_key[f"tiny/s/half/{CD16}"]
    assert len(by_key) == len(found)
    assert half.strategy == "mechanistic"
    assert half.relevance >= 0.35  # the more confident of the two
    assert by_key[f"tiny/s/A/{CD14}"].strategy == "direct"


def test_search_stops_at_the_limit_in_the_order_of_strategies(screen, drugs, ask, make_atlas, config):
    few = RetrievalSettings(max_candidates=2)
    found = search_candidates(ask(CD16, "A"), atlas=make_atlas(screen), knowledge=drugs, settings=few, config=config)
    assert {one.key.removeprefix("tiny/") for one in found} == {f"s/A/{CD14}", f"s/same/{CD16}"}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("task", ["perturbation_novel_cell_types", "cross_dataset_generation"])
def test_no_strategy_ever_sees_a_hidden_pair(name, task, row, knowledge, ask, view_of):
    labels = ((CD4, None), (T, None), ("", "T cell (unresolved)"), ("", "unknown"), (CD8, None), (CD14, None))
    names = ("IFN-beta", "interferon beta", "IFNB1", "IFN-beta + TNF-alpha", "IFN-beta 10 ng/ml", "IFN-omega")
    rows = [row("s", one, name, "d", 9, label=label) for one, label in labels for name in ("", *names)]
    rows.append(row("target", CD4, "", "x", 9))
    hide = (HiddenPair(cell_type_id=CD4, perturbation="IFN-beta"),)
    view = view_of(rows, knowledge, hide=hide, semantic_floor=0.0, mechanistic_floor=0.0)
    query = ask(CD4, task=task, target_dataset="target" if task == "cross_dataset_generation" else None)
    for one in STRATEGIES[name](query, view):
        seen = one.rows[~one.rows[keys.IS_CONTROL]]
        leaky = seen[seen[keys.PERTURBATION] != "IFN-omega"]
        assert set(leaky[keys.CELL_TYPE_ID]) <= {CD8, CD14}
        control = one.match(one.rows).control
        assert control is None or control.is_control


def test_direct_gives_nothing_without_a_perturbation(people, knowledge, ask, view_of):
    assert list(direct(ask(CD16, None, task="cell_type_imputation", donor_id="t"), view_of(people, knowledge))) == []


# --- changes of genes -----------------------------------------------------------------------------------------------


@pytest.fixture
def knock_outs(row, make_atlas):
    """A screen whose labels are bare symbols or guides, in a column of genetic perturbations."""
    labels = ("IFNGR1", "sgIRF1_2", "CAV1_g1", "CD86", "JAK2+ctrl")
    rows = [row("screen", CD14, label, "d1", 30) | {keys.PERTURBATION_TYPE: "genetic"} for label in labels]
    return make_atlas([row("screen", CD14, "", "d1", 40), *rows])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("JAK2 knock-out", {"JAK2+ctrl": "same_pair", "IFNGR1": "shared_target", "sgIRF1_2": "shared_target"}),
        ("IFNGR2 knock-out", {"IFNGR1": "shared_target", "JAK2+ctrl": "shared_target", "sgIRF1_2": "shared_target"}),
        ("STAT1 knock-down", {"IFNGR1": "shared_target", "JAK2+ctrl": "shared_target", "sgIRF1_2": "shared_target"}),
    ],
)
def test_knock_outs_are_answered_by_those_of_their_pathway_and_by_no_others(asked, found, knock_outs, ask, config):
    candidates = search_candidates(
        ask(CD14, asked), atlas=knock_outs, knowledge=load_knowledge(), settings=RetrievalSettings(), config=config
    )
    assert {one.prompt.perturbation: one.evidence_distance for one in candidates} == found


@pytest.mark.parametrize("asked", ["PDCD1LG2 knock-out", "JAK2 over-expression", "TP53 knock-out"])
def test_a_change_of_a_gene_without_informative_evidence_says_so(asked, knock_outs, ask, config):
    query = ask(CD14, asked)
    options = {"knowledge": load_knowledge(), "settings": RetrievalSettings(), "config": config}
    with pytest.raises(NoCandidateError, match="no other perturbation there shares a target, a pathway or downstream"):
        search_candidates(query, atlas=knock_outs, **options)
