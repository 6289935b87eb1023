"""The simulated atlas: deterministic, as deep and noisy as Kang's cells, and as wrong about biology as it says."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from itertools import permutations
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from haystack_kernel.atlas.demo import DEMO_SEED, SEEDS_REPORTING, SEEDS_TUNING, ensure_demo, facts
from haystack_kernel.atlas.demo.programmes import draw_roles, expected_genes
from haystack_kernel.atlas.demo.sampling import Group, Sample, dispersion, sample_counts
from haystack_kernel.atlas.demo.simulate import CYTOKINE, DRUG, TISSUES
from haystack_kernel.atlas.demo.world import World, make_world
from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.knowledge import Knowledge, load_knowledge
from tools.truth import mean_log1p_cp10k, true_log_shift

pytestmark = pytest.mark.slow

BLOOD = tuple(cl_id for cl_id, _ in facts.CYTOKINE_LABELS.values())
LUNG_FIBROBLAST = "CL:0002553"


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return load_knowledge()


@pytest.fixture(scope="module")
def world(knowledge: Knowledge) -> World:
    return make_world(DEMO_SEED, knowledge=knowledge)


@pytest.fixture(scope="module")
def demo(demo_atlas_root: Path) -> dict[str, ad.AnnData]:
    return _cells_of(demo_atlas_root)


def _cells_of(root: Path) -> dict[str, ad.AnnData]:
    return {name: ad.read_h5ad(next((root / "demo-source").glob(f"{name}-*"))) for name in (CYTOKINE, DRUG, TISSUES)}


def _shift(world: World, cell_type: str, perturbation: str) -> np.ndarray:
    return np.array(list(true_log_shift(world, cell_type, perturbation).values()))


def _log_cp10k(adata: ad.AnnData) -> np.ndarray:
    dense = adata.X.toarray()
    return np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True))


def _log2fc(world: World, cell_type: str, perturbation: str) -> np.ndarray:
    after, before = 1e4 * world.share(cell_type, perturbation), 1e4 * world.share(cell_type)
    return np.log2((after + 0.1) / (before + 0.1))


# --- the world ----------------------------------------------------------------------------------------------------


def test_seeds_when_tuning_and_reporting_then_disjoint_and_the_demo_is_for_tuning():
    assert set(SEEDS_TUNING) == set(range(100))
    assert set(SEEDS_REPORTING) == set(range(1000, 1100))
    assert DEMO_SEED in SEEDS_TUNING


@pytest.mark.slow
def test_world_when_same_seed_then_equal_and_other_seed_differs(world: World, knowledge: Knowledge):
    again, other = make_world(DEMO_SEED, knowledge=knowledge), make_world(DEMO_SEED + 1, knowledge=knowledge)
    np.testing.assert_array_equal(again.abundance, world.abundance)
    for name, programme in world.programmes.items():
        np.testing.assert_array_equal(again.programmes[name].effects, programme.effects)
    assert not np.array_equal(other.abundance, world.abundance)


def test_world_when_made_then_at_least_forty_treatments_of_both_kinds(world: World):
    kinds = [programme.kind for programme in world.programmes.values()]
    assert len(kinds) >= 40
    assert kinds.count("cytokine") >= 24
    assert kinds.count("drug") >= 16


def test_roles_when_drawn_then_a_tenth_inert_and_about_fifteen_percent_wrong_or_reversed():
    for seed in (*SEEDS_TUNING[:3], *SEEDS_REPORTING[:3]):
        roles = list(draw_roles(seed).values())
        assert roles.count("inert") / len(roles) == pytest.approx(0.10, abs=0.03)
        assert (roles.count("wrong") + roles.count("reversed")) / len(roles) == pytest.approx(0.15, abs=0.04)
        assert min(roles.count("wrong"), roles.count("reversed")) >= 2


def test_roles_when_shipped_seed_then_first_whose_known_treatments_are_true(knowledge: Knowledge):
    must = ("TGF-beta1", "IFN-beta", "IFN-alpha1", "IFN-gamma", "TNF-alpha")

    def suits(seed: int) -> bool:
        if {draw_roles(seed)[name] for name in must} != {"true"}:
            return False
        programme = make_world(seed, knowledge=knowledge).programme("TGF-beta1")
        return LUNG_FIBROBLAST not in programme.non_responders

    assert next(seed for seed in SEEDS_TUNING if suits(seed)) == DEMO_SEED


def test_demo_question_when_shipped_seed_then_lung_fibroblasts_answer_tgf_beta(world: World, knowledge: Knowledge):
    programme = world.programme("TGF-beta1")
    assert programme.role == "true"
    shift = true_log_shift(world, "fibroblast of lung", "TGF-beta1")
    expected = expected_genes(knowledge.perturbations[programme.name], knowledge=knowledge)
    signed = [sign * shift[gene] for gene, sign in expected.items() if gene in programme.known]
    assert np.mean(signed) > 0.3


def test_shift_when_inert_then_exactly_zero_in_every_cell_type(world: World):
    inert = [programme for programme in world.programmes.values() if programme.role == "inert"]
    assert inert
    for programme in inert:
        assert set(programme.non_responders) == {fact.id for fact in facts.CELL_TYPES}
        assert all(not _shift(world, fact.id, programme.name).any() for fact in facts.CELL_TYPES)


def test_shift_when_cell_type_does_not_respond_then_zero_and_some_pairs_are_such(world: World):
    active = [programme for programme in world.programmes.values() if programme.role != "inert"]
    silent = [(cell_type, programme.name) for programme in active for cell_type in programme.non_responders]
    assert len(silent) / (len(active) * len(facts.CELL_TYPES)) == pytest.approx(0.12, abs=0.04)
    assert not _shift(world, *silent[0]).any()


def test_known_genes_when_true_then_they_follow_the_tables_and_reversed_oppose_them(world: World, knowledge: Knowledge):
    agreement = {}
    for programme in world.programmes.values():
        if programme.role not in {"true", "reversed"}:
            continue
        expected = expected_genes(knowledge.perturbations[programme.name], knowledge=knowledge)
        cell_type = next(fact.id for fact in facts.CELL_TYPES if fact.id not in programme.non_responders)
        lfc = dict(zip(world.genes, _log2fc(world, cell_type, programme.name), strict=True))
        agreement[programme.name, programme.role] = np.mean(
            [np.sign(lfc[g]) == expected.get(g) for g in programme.known]
        )
    assert min(share for (_, role), share in agreement.items() if role == "true") > 0.7
    assert max(share for (_, role), share in agreement.items() if role == "reversed") < 0.3


def test_known_genes_when_wrong_then_from_a_treatment_that_shares_no_pathway(world: World, knowledge: Knowledge):
    wrong = [programme for programme in world.programmes.values() if programme.role == "wrong"]
    assert wrong
    for programme in wrong:
        expected = expected_genes(knowledge.perturbations[programme.name], knowledge=knowledge)
        assert len(set(programme.known) & set(expected)) < 0.5 * len(programme.known)


def test_programmes_when_made_then_half_private_and_no_table_expects_the_private_half(
    world: World, knowledge: Knowledge
):
    for programme in world.programmes.values():
        expected = expected_genes(knowledge.perturbations[programme.name], knowledge=knowledge)
        assert len(programme.private) == len(programme.known)
        assert not set(programme.private) & set(expected)


def test_twins_when_compared_then_nearly_the_same_and_unlike_another_cytokine(world: World):
    cell_type = next(cl_id for cl_id in BLOOD if cl_id not in world.programme("TNF-alpha").non_responders)
    beta = _shift(world, cell_type, "IFN-beta")
    assert np.corrcoef(beta, _shift(world, cell_type, "IFN-alpha1"))[0, 1] > 0.95
    assert np.corrcoef(beta, _shift(world, cell_type, "TNF-alpha"))[0, 1] < 0.5


def test_frac_de_when_typical_then_about_three_percent(world: World):
    fractions = []
    for programme in world.programmes.values():
        for cell_type in set(BLOOD) - set(programme.non_responders):
            most = 1e4 * np.maximum(world.share(cell_type), world.share(cell_type, programme.name))
            fractions.append(np.mean((np.abs(_log2fc(world, cell_type, programme.name)) >= 0.5) & (most > 0.2)))
    assert np.median(fractions) == pytest.approx(0.033, abs=0.012)
    assert np.percentile(fractions, 95) > 1.2 * np.median(fractions)  # strong ones move more genes


@pytest.mark.slow
def test_truth_when_held_out_type_then_other_types_shift_reaches_the_intended_range(knowledge: Knowledge):
    other, found = make_world(SEEDS_TUNING[1], knowledge=knowledge), []
    for programme in [p for p in other.programmes.values() if p.kind == "cytokine" and p.role != "inert"][:6]:
        shifts = [_shift(other, t, programme.name) for t in BLOOD if t not in programme.non_responders]
        found += [np.corrcoef(a, b)[0, 1] for a, b in permutations(shifts, 2)]
    assert 0.6 <= np.median(found) <= 0.85  # without the noise of sampled cells


def test_share_when_treated_then_sums_to_one(world: World):
    np.testing.assert_allclose(world.abundance.sum(axis=1), 1)
    assert world.share("hepatocyte", "IFN-gamma").sum() == pytest.approx(1)


def test_world_when_unknown_names_then_error_lists_the_known(world: World):
    with pytest.raises(NotFoundError, match="hepatocyte"):
        world.row("neuron")
    with pytest.raises(NotFoundError, match="TGF-beta1"):
        world.programme("aspirin")


# --- truth against a large simulation -----------------------------------------------------------------------------


def test_mean_log_when_computed_then_equals_a_large_draw():
    share = np.array([1e-5, 1e-4, 1e-3, 1e-2, 0.98889])
    rng = np.random.default_rng(0)
    library = 1030 * np.exp(rng.normal(0, facts.KANG_SD_LOG_COUNTS["lymphoid"], 200_000))
    mu = library[:, None] * share
    shape = 1 / dispersion(mu)
    drawn = np.log1p(1e4 * rng.poisson(rng.gamma(shape, mu / shape)) / library[:, None]).mean(axis=0)
    np.testing.assert_allclose(mean_log1p_cp10k(share, depth="lymphoid"), drawn, rtol=0.02, atol=0.003)


@pytest.mark.slow
def test_truth_when_many_cells_are_simulated_then_their_shift_agrees(world: World):
    groups = (Group("CL:0000860", 1500),)
    treated = sample_counts(world, Sample("check", "donor", "IFN-gamma", groups))
    control = sample_counts(world, Sample("check", "donor", None, groups))
    observed = _log_cp10k(ad.AnnData(treated)).mean(axis=0) - _log_cp10k(ad.AnnData(control)).mean(axis=0)
    truth = _shift(world, "CL:0000860", "IFN-gamma")
    assert np.corrcoef(observed, truth)[0, 1] > 0.93  # donor strength, stress and ambient RNA are not in the truth


# --- the cells ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_counts_when_drawn_twice_then_equal_bytes_and_other_seed_differs(world: World, knowledge: Knowledge):
    sample = Sample("check", "donor", "IFN-beta", (Group("CL:0000860", 20), Group("CL:0000236", 20)))
    first, again = sample_counts(world, sample), sample_counts(world, sample)
    other = sample_counts(make_world(DEMO_SEED + 1, knowledge=knowledge), sample)
    assert first.data.tobytes() == again.data.tobytes()
    assert first.indices.tobytes() == again.indices.tobytes()
    assert first.nnz != other.nnz or (first != other).nnz > 0


@pytest.mark.slow
def test_counts_when_simulated_then_whole_numbers_and_every_cell_has_some(demo: dict[str, ad.AnnData]):
    for adata in demo.values():
        assert adata.X.dtype == np.float32
        assert (adata.X.data == np.rint(adata.X.data)).all()
        assert adata.X.data.min() >= 1
        assert adata.X.sum(axis=1).min() > 100


@pytest.mark.parametrize(("label", "depth"), [("CD14 Mono", "myeloid"), ("CD4 Naive", "lymphoid")])
def test_depth_and_dispersion_when_simulated_then_near_kang(demo: dict[str, ad.AnnData], label: str, depth: str):
    adata = demo[CYTOKINE]
    counts = adata[(adata.obs["cell_type"] == label) & (adata.obs["cytokine"] == "PBS")].X.toarray().astype(float)
    totals = counts.sum(axis=1)
    assert np.median(totals) == pytest.approx(facts.KANG_MEDIAN_COUNTS[depth], rel=0.1)
    assert np.log(totals).std() == pytest.approx(facts.KANG_SD_LOG_COUNTS[depth], abs=0.08)
    assert (counts > 0).mean() == pytest.approx(facts.KANG_DENSITY[depth], abs=0.03)
    # moments as they were estimated on Kang: median over genes of a band of means
    factor = totals / np.median(totals)
    mu = counts.sum(axis=0) / factor.sum()
    phi = ((counts - np.outer(factor, mu)) ** 2 - counts).sum(axis=0) / np.maximum((factor**2).sum() * mu**2, 1e-12)
    kang = {(0.2, 0.5): (0.28, 0.55), (0.5, 1.0): (0.26, 0.39), (1, 2): (0.18, 0.31), (2, 5): (0.10, 0.23)}
    for (low, high), (least, most) in kang.items():
        assert 0.8 * least <= np.median(phi[(mu >= low) & (mu < high)]) <= 1.25 * most


@pytest.mark.slow
def test_sampled_shift_when_other_type_then_reaches_the_intended_pearson(world: World, demo: dict[str, ad.AnnData]):
    adata, found = demo[CYTOKINE], []
    for programme in [p for p in world.programmes.values() if p.kind == "cytokine" and p.role != "inert"][:5]:
        answering = [(n, t) for n, (t, _) in facts.CYTOKINE_LABELS.items() if t not in programme.non_responders]
        for name, cell_type in answering[:3]:
            cells = adata[adata.obs["cell_type"] == name]
            treated = _log_cp10k(cells[cells.obs["cytokine"] == programme.label]).mean(axis=0)
            delta = treated - _log_cp10k(cells[cells.obs["cytokine"] == "PBS"]).mean(axis=0)
            others = [other for _, other in answering if other != cell_type]
            found += [np.corrcoef(delta, _shift(world, other, programme.name))[0, 1] for other in others]
    assert 0.6 <= np.median(found) <= 0.8


def test_obs_when_simulated_then_the_three_schemas(demo: dict[str, ad.AnnData]):
    assert {"cell_type", "cytokine", "treatment", "donor", "sample"} <= set(demo[CYTOKINE].obs)
    assert {"cell_type", "sm_name", "SMILES", "donor_id", "plate_name", "control"} <= set(demo[DRUG].obs)
    assert {"cell_ontology_class", "cell_ontology_id", "tissue", "donor"} <= set(demo[TISSUES].obs)
    assert demo[CYTOKINE].obs["donor"].nunique() == 12
    assert demo[CYTOKINE].obs.loc[demo[CYTOKINE].obs["cytokine"] == "PBS", "donor"].nunique() == 12
    assert demo[DRUG].obs["donor_id"].nunique() == 3
    assert {LUNG_FIBROBLAST, "CL:0000182", "CL:0000623", "CL:0000583", "CL:0002063", "CL:0000115"} <= set(
        demo[TISSUES].obs["cell_ontology_id"]
    )
    assert all(adata.uns["simulated"] and "Simulated" in adata.uns["note"] for adata in demo.values())


def test_drug_data_when_confounded_plate_then_treated_and_dmso_share_no_donor(demo: dict[str, ad.AnnData]):
    obs = demo[DRUG].obs
    donors = {
        (plate, is_control): set(cells["donor_id"])
        for (plate, is_control), cells in obs.groupby(["plate_name", "control"], observed=True)
    }
    assert not donors[facts.CONFOUNDED_PLATE, False] & donors[facts.CONFOUNDED_PLATE, True]
    assert donors[facts.MATCHED_PLATE, False] == donors[facts.MATCHED_PLATE, True]
    confounded = set(obs.loc[~obs["control"] & (obs["plate_name"] == facts.CONFOUNDED_PLATE), "sm_name"])
    assert 4 <= len(confounded) < obs.loc[~obs["control"], "sm_name"].nunique() / 2
    # neither does any other plate hold their controls
    assert not donors[facts.CONFOUNDED_PLATE, False] & set(obs.loc[obs["control"], "donor_id"])


# --- the atlas ----------------------------------------------------------------------------------------------------


def test_ensure_demo_when_new_then_atlas_of_three_simulated_datasets(demo_atlas_root: Path):
    root = demo_atlas_root
    record = json.loads((root / "demo" / "atlas.json").read_text())
    assert set(record["datasets"]) == {CYTOKINE, DRUG, TISSUES}
    assert all("simulated" in entry["mapping"]["name"] for entry in record["datasets"].values())
    assert all(not entry["unmapped"] for entry in record["datasets"].values())
    assert sum(path.stat().st_size for path in root.rglob("*.*")) < 60e6


def test_ensure_demo_when_there_then_nothing_is_written(demo_atlas_root: Path):
    root = demo_atlas_root
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    ensure_demo(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_ensure_demo_when_remote_root_then_refused():
    with pytest.raises(InvalidInputError, match="local"):
        ensure_demo("gs://bucket/atlases")


@pytest.mark.slow
def test_ensure_demo_when_damaged_and_two_processes_start_then_both_end_and_it_has_the_same_cells(
    tmp_path: Path, demo_atlas_root: Path, demo: dict[str, ad.AnnData]
):
    root = Path(shutil.copytree(demo_atlas_root, tmp_path / "atlases"))
    record = root / "demo" / "atlas.json"
    record.write_text(record.read_text().replace(str(demo_atlas_root), str(root)))
    before = record.stat().st_mtime_ns
    ensure_demo(root)
    assert record.stat().st_mtime_ns == before  # the copy is whole
    damaged = next((root / "demo-source").glob("demo_drug*.h5ad"))
    size = damaged.stat().st_size
    damaged.write_bytes(b"cut short")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=ensure_demo, args=(str(root),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=600)
    assert [process.exitcode for process in processes] == [0, 0]
    assert damaged.stat().st_size == size
    assert not list((root / "demo-source").glob("*.part"))
    again = _cells_of(root)
    for dataset, adata in demo.items():
        assert adata.X.data.tobytes() == again[dataset].X.data.tobytes()
        assert adata.X.indices.tobytes() == again[dataset].X.indices.tobytes()
        assert adata.obs.equals(again[dataset].obs)


# --- layers -------------------------------------------------------------------------------------------------------


def test_layers_when_anything_that_scores_or_retrieves_then_it_cannot_import_the_demo():
    package = Path(facts.__file__).parents[2]
    folders = [package / name for name in ("grounding", "retrieval", "knowledge", "question", "pl", "report")]
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    assert not [path for path in sources if "atlas.demo" in path.read_text(encoding="utf-8")]
