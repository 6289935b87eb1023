"""What is chosen and what follows: every number is computed again from the files of the run."""

import math

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from haystack_kernel.errors import InvalidInputError, NotFoundError
from haystack_kernel.explorer import ExplorerState, open_explorer
from haystack_kernel.explorer.load import load_data
from haystack_kernel.explorer.sides import agreement
from haystack_kernel.explorer.twin import static_html
from haystack_kernel.run import Run
from haystack_kernel.schema import HiddenCells
from haystack_kernel.store import layout, read_h5ad

pytestmark = pytest.mark.slow  # they work a run

GENE = "STAT1"


def logged(adata, gene):
    counts = adata.X.toarray().astype(float)
    at = adata.var_names.get_loc(gene)
    return np.log1p(1e4 * counts[:, at] / counts.sum(axis=1))


@pytest.fixture(scope="module")
def read(finished):
    ports, record = finished
    folder = layout.round_folder(record.best_round)
    return lambda name: read_h5ad(ports.store, record.run_id, f"{folder}/{name}")


def test_the_first_gene_is_the_called_one_with_the_largest_change(state, data):
    called = data.de[data.de["is_de"]]
    assert state.gene == called.loc[called["delta"].abs().idxmax(), "gene"]


def test_groups_say_what_the_files_hold(state, read):
    state.choose_gene(GENE.lower())
    found = state.groups().groupby("role").agg(n=("n_cells", "sum"), types=("cell_type_name", "nunique"))
    assert found.loc["predicted", "n"] == 24
    assert found.loc["prompt", "types"] >= 1
    rows = state.groups().set_index("role")
    for role, adata in (("predicted", read("predictions.h5ad")), ("query", read("query.h5ad"))):
        values = logged(adata, GENE)
        row = rows.loc[role]
        assert row["mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert row["median"] == pytest.approx(np.median(values), rel=1e-5)
        assert row["detected"] == pytest.approx((values > 0).mean())
    prompts, prompt = state.groups().query("role == 'prompt'"), read("prompt.h5ad")
    weighted = (prompts["mean"] * prompts["n_cells"]).sum() / prompts["n_cells"].sum()
    assert weighted == pytest.approx(logged(prompt, GENE).mean(), rel=1e-5)
    dots = state.dots()
    same = dots[(dots["gene"] == GENE) & (dots["role"] == "predicted")].iloc[0]
    assert same["mean"] == pytest.approx(rows.loc["predicted", "mean"])
    assert dots["gene"].iloc[0] == GENE


def test_a_selection_filters_the_groups_and_tells_the_genes_that_differ(state, data, read):
    state.choose_gene(GENE)
    table = data.arms.table
    chosen = ((table["role"] == "predicted") & (np.arange(len(table)) % 2 == 0)).to_numpy()
    state.select(chosen)
    rows = state.groups().set_index("role")
    assert rows.loc["predicted", "n_counted"] == chosen.sum()
    assert rows.loc["predicted control", "n_counted"] == chosen.sum()  # the same cells, predicted otherwise
    assert rows.loc["query", "n_counted"] == 0
    assert math.isnan(rows.loc["query", "mean"])
    predicted = read("predictions.h5ad")
    names = table.loc[chosen, "cell_id"].tolist()
    assert rows.loc["predicted", "mean"] == pytest.approx(logged(predicted[names], GENE).mean(), rel=1e-5)
    others = np.concatenate(
        [
            logged(predicted[~predicted.obs_names.isin(names)], GENE),
            *(logged(read(f"{role}.h5ad"), GENE) for role in ("query", "prompt", "control")),
        ]
    )
    found = state.genes().set_index("gene")["in_selection"]
    assert found[GENE] == pytest.approx(logged(predicted[names], GENE).mean() - others.mean(), rel=1e-4)
    assert state.selected_cells()["cell_id"].tolist() == names
    assert state.selected_cells()[GENE].mean() == pytest.approx(rows.loc["predicted", "mean"])
    state.select(None)
    assert state.shift() is None
    assert state.genes()["in_selection"].isna().all()
    assert len(state.selected_cells()) == table["x"].notna().sum()


def test_cells_that_are_not_on_the_map_cannot_be_selected_alone(state, data):
    state.select((data.arms.table["role"] == "predicted control").to_numpy())
    assert state.mask is None
    with pytest.raises(InvalidInputError, match="one value per cell"):
        state.select([True, False])


def test_a_group_is_selected_by_role_and_type(state, data):
    kinds = data.arms.table.query("role == 'prompt'")["cell_type_name"].value_counts()
    state.select_group("prompt", kinds.index[0])
    assert state.mask.sum() == kinds.iloc[0]
    state.select_group("query")
    assert state.mask.sum() == 24
    with pytest.raises(InvalidInputError, match=r"the map holds no 'query' cells of type 'neuron'; it holds .*query: "):
        state.select_group("query", "neuron")


def test_a_pathway_marks_its_genes_and_fills_the_dots(state, data):
    state.choose_pathway("type i INTERFERON response")
    known = data.knowledge.pathways["type I interferon response"].genes
    held = set(data.de["gene"])
    assert state.marked() == {gene: sign for gene, sign in known.items() if gene in held}
    assert state.genes().set_index("gene")["pathway"].abs().sum() == len(state.marked())
    assert set(state.dot_genes()[1:]) <= set(known)
    state.choose_pathway(None)
    assert state.marked() == {}


@pytest.mark.parametrize(
    ("choose", "given", "said"),
    [
        ("choose_gene", "STAT", "no gene 'STAT'; nearest: .*STAT1"),
        ("choose_pathway", "interferon", "no pathway 'interferon'; nearest: .*interferon"),
        ("choose_side", "baseline best", "no side 'baseline best'.*possible: .*baseline mean"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest(state, choose, given, said):
    with pytest.raises(InvalidInputError, match=said):
        getattr(state, choose)(given)


def test_baselines_agree_as_the_record_says(state, data):
    recorded = {item.engine: item.pearson for item in data.record.best.agreement}
    assert len(recorded) == 3
    for engine, pearson in recorded.items():
        state.choose_side(f"baseline {engine}")
        found = state.agreement()
        assert found.pearson == pytest.approx(pearson, rel=1e-4, nan_ok=True)
        assert found.n_genes == data.de["is_tested"].sum()
        assert "over" in found.words
        assert state.groups()["role"].iloc[-1] == f"baseline '{engine}'"
    state.choose_side("prompt")
    assert state.agreement().pearson > 0.5  # the tiny response is the same in all cell types
    assert state.genes()["other"].notna().all()
    state.choose_side("")
    assert state.agreement() is None


def test_agreement_counts_what_it_says():
    genes = list("abcdef")
    de = pd.DataFrame(
        {
            "gene": genes,
            "delta": [3.0, -2.0, 1.0, 0.5, 0.1, 9.0],
            "is_tested": [True] * 5 + [False],
            "is_de": [True, True, True, False, False, True],
        }
    )
    effect = pd.Series({"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.0, "f": -9.0, "z": 1.0})
    found = agreement(de, effect)
    assert (found.n_genes, found.n_called, found.n_same_sign, found.n_top, found.n_top_shared) == (4, 3, 2, 4, 4)
    assert found.pearson == pytest.approx(np.corrcoef([3, -2, 1, 0.5], [2, 1, 1, 0])[0, 1])
    assert "too few" in agreement(de, effect[["a", "b"]]).words
    assert "no correlation" in agreement(de, effect * 0).words


def test_a_run_is_set_beside_what_was_hidden_from_it_and_what_it_did_not_use(finished):
    ports, record = finished
    rows = ports.open_atlas(("tiny",)).conditions()
    one = rows[rows["perturbation_name"] == "IFN-beta"].iloc[0]
    hidden = HiddenCells(
        atlas="tiny",
        dataset=one["dataset"],
        perturbation="IFN-beta",
        cell_type=one["cell_type_name"],
        n_cells=36,
        pair="monocyte : IFN-beta",
    )
    best = record.best.model_copy(update={"candidates": record.candidates[:1]})
    record = record.model_copy(update={"hidden": (hidden,), "rounds": (best,)})
    state = ExplorerState(load_data(record, ports))
    truth, measured = (next(key for key in state.data.sides if key.startswith(name)) for name in ("truth", "measured"))
    for key in (truth, measured):
        state.choose_side(key)
        assert state.agreement().pearson > 0.5
        everything = state.groups().set_index("role")["n_counted"]
        state.select_group("query")
        inside = state.groups().set_index("role")["n_counted"]
        # measured cells are on no map: they count whatever is selected
        assert inside["measured, treated"] == everything["measured, treated"] > 0
        assert inside["prompt"].sum() == 0 < everything["prompt"].sum()
        state.select(None)
    gone = hidden.model_copy(update={"cell_type": "no such cells"})
    state = ExplorerState(load_data(record.model_copy(update={"hidden": (gone,)}), ports))
    with pytest.raises(NotFoundError, match="no control cells of IFN-beta in no such cells"):
        state.choose_side(next(key for key in state.data.sides if key.startswith("truth")))


def test_two_runs_are_set_beside_each_other(finished):
    ports, record = finished
    run = Run(record, ports=ports)
    explorer = run.explore(run.run_id, gene=GENE, pathway="type I interferon response")
    assert explorer.side == "run"
    assert explorer.state.agreement().pearson == pytest.approx(1)
    assert explorer.groups()["role"].iloc[-1] == "predicted, other run"
    assert (explorer.gene, explorer.pathway) == (GENE, "type I interferon response")
    assert explorer.evidence().gene == GENE
    assert explorer.genes().shape[0] == len(explorer.state.data.de)


def test_a_run_without_a_round_says_how_to_go_on(finished):
    ports, record = finished
    with pytest.raises(InvalidInputError, match=f"no scored round yet.*haystack resume {record.run_id}"):
        open_explorer(record.model_copy(update={"best_round": None}), ports)


def test_a_run_that_has_no_map_yet_or_lost_its_round_files_shows_the_rest(scored, ports):
    assert "No map of the cells" not in static_html(ExplorerState(load_data(scored, ports)))
    # a round that an earlier version scored has none before the run is published
    ports.store.remove(scored.run_id, [layout.round_file(scored.best_round, layout.EMBEDDING)])
    data = load_data(scored, ports)
    assert any("when the run is published" in text for text in data.notes)
    state = ExplorerState(data)
    assert state.groups()["mean"].notna().all()
    state.select(np.ones(len(data.arms), dtype=bool))
    assert state.mask is None
    assert "No map of the cells" in static_html(state)
    lost = layout.cells_file(layout.round_folder(scored.best_round), "prompt")
    ports.store.remove(scored.run_id, [lost])
    data = load_data(scored, ports)
    assert any("counts of the prompt cells are no longer" in text for text in data.notes)
    assert "prompt" not in ExplorerState(data).groups()["role"].tolist()
    assert "prompt" not in data.sides


def test_evidence_names_expectation_pathways_and_links(state, data):
    state.choose_gene(GENE)
    found = state.evidence()
    assert any("Expected to rise" in text and "agrees" in text for text in found.facts)
    assert "type I interferon response" in [one["pathway"] for one in found.pathways]
    edges = [edge for edge in data.knowledge.network if GENE in (edge.regulator, edge.target)]
    assert len(found.regulators) + len(found.targets) == len(edges)
    assert {one["gene"] for one in found.regulators} == {edge.regulator for edge in edges if edge.target == GENE}
    assert any("not asked" in text for text in found.notes)


def test_truth_of_ones_own_is_set_beside_by_type_and_treatment(finished, tiny_h5ad):
    """Cells of several types and treatments: those that the question asks for are compared, and no others."""
    ports, record = finished
    cells = ad.read_h5ad(tiny_h5ad)
    is_b = (cells.obs["cell_type"] == "B cell").to_numpy()
    truth = cells.copy()
    truth.obs["cell_type"] = truth.obs["cell_type"].astype(str).where(truth.obs["cell_type"] != "CD4 T cell", "B cell")
    found = Run(record, ports=ports).explore(truth=truth)
    assert found.side == "truth"
    side = found.state.side
    assert side.label == "measured truth: your cells"
    wanted = (cells.obs["cell_type"].isin(["CD4 T cell", "B cell"])).to_numpy()
    treated = cells[wanted & (cells.obs["perturbation"] == "IFN-beta").to_numpy()]
    control = cells[wanted & (cells.obs["perturbation"] == "control").to_numpy()]
    change = logged(treated, GENE).mean() - logged(control, GENE).mean()
    assert side.effect[GENE] == pytest.approx(change, rel=1e-5)
    assert f"{treated.n_obs} treated and {control.n_obs} control cells" in side.note
    assert "36 treated cells of other types were left out" in side.note
    assert found.state.agreement().pearson > 0.5
    assert {"measured, treated", "measured, control"} <= set(found.groups()["role"])
    with pytest.raises(
        InvalidInputError, match=r"hold no treated B cells; treated cells are CD14-positive mono.*\(36\)"
    ):
        open_explorer(record, ports, truth=cells)
    with pytest.raises(InvalidInputError, match="call none of them untreated"):
        open_explorer(record, ports, truth=treated.copy())
    with pytest.raises(
        InvalidInputError, match=r"cannot be the truth cells: your AnnData holds no cell .* effect of IFN"
    ):
        open_explorer(record, ports, truth=cells[is_b].copy())
    with pytest.raises(NotFoundError, match=r"no truth cells at nowhere\.h5ad"):
        open_explorer(record, ports, truth="nowhere.h5ad")
