from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from inference.additive import Others
from inference.baselines import BASELINES, Cells, predict, shrink
from inference.draw import log_normalise
from inference.effects import measure_effect, summarise_arm
from inference.errors import EngineError, InputError


def _cells(adata):
    labels = [adata.obs[name].to_numpy(dtype=str) for name in ("cell_type", "donor_id")]
    return Cells(adata.X, tuple(adata.var_names), *labels)


def _mean_log(dense):
    dense = dense.astype(np.float64)
    return np.log1p(1e4 * dense / dense.sum(1, keepdims=True)).mean(0)


@pytest.fixture
def cells(make_adata):
    return {
        "prompt": _cells(make_adata(1, is_treated=True, cell_types=("a", "b"))),
        "control": _cells(make_adata(2, cell_types=("a", "b"))),
        "query": _cells(make_adata(3)),
    }


def test_none_returns_the_query(cells):
    result = predict("none", **cells, seed=0)
    assert np.array_equal(result.counts.toarray(), cells["query"].counts.toarray())
    np.testing.assert_allclose(result.expected_log, _mean_log(cells["query"].counts.toarray()))


def test_shift_aims_at_query_plus_prompt_minus_control(cells):
    result = predict("shift", **cells, seed=0)
    prompt, control, query = (_mean_log(cells[name].counts.toarray()) for name in ("prompt", "control", "query"))
    np.testing.assert_allclose(result.expected_log, np.maximum(query + prompt - control, 0))
    before = cells["query"].counts.toarray()
    realised = np.log1p(1e4 * result.counts.toarray() / before.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(realised, result.expected_log, atol=0.1)  # half a step of 30 cells
    assert (result.counts.toarray().sum(0)[:5] > 2 * before.sum(0)[:5]).all()
    assert (result.counts.toarray().sum(0)[5:10] < 0.5 * before.sum(0)[5:10]).all()


def test_weighted_is_the_formula_by_hand(cells):
    result = predict("weighted", **cells, seed=0)
    delta, control_mean = {}, {}
    for name in ("a", "b"):
        arms = [cells[role].counts.toarray()[cells[role].cell_type == name] for role in ("prompt", "control")]
        control_mean[name] = _mean_log(arms[1])
        delta[name] = _mean_log(arms[0]) - control_mean[name]
    base = _mean_log(cells["query"].counts.toarray())
    similarity = [max(np.corrcoef(control_mean[name], base)[0, 1], 0) for name in ("a", "b")]
    raw = np.exp(10 * np.array(similarity)) * 30 / (30 + 30)
    weights = raw / raw.sum()
    np.testing.assert_allclose([result.weights["a"], result.weights["b"]], weights)
    assert weights[0] > 0.8  # the query is of type a
    response = weights[0] * delta["a"] + weights[1] * delta["b"]
    variance = sum(share**2 * se_of(cells, name) ** 2 for share, name in zip(weights, ("a", "b"), strict=True))
    expected = base + response**3 / (response**2 + variance)
    np.testing.assert_allclose(result.expected_log, np.maximum(expected, 0))


def se_of(cells, name):
    """Standard error of the effect of one type, from the function of its own."""
    arms = [cells[role].counts[cells[role].cell_type == name] for role in ("prompt", "control")]
    return measure_effect(*[summarise_arm(log_normalise(one)) for one in arms]).se


def test_effects_of_few_cells_are_shrunk_more_and_clear_ones_stay():
    effect, variance = np.array([2.0, 0.1, -0.1, 0.0]), np.array([0.01, 0.01, 0.0, 1.0])
    np.testing.assert_allclose(shrink(effect, variance), [8 / 4.01, 0.05, -0.1, 0.0])
    assert shrink(np.array([0.5]), np.array([np.inf])).tolist() == [0.0]


@pytest.mark.parametrize("helps", [True, False])
def test_effects_are_shrunk_unless_that_predicts_the_types_of_the_prompt_less_well(helps):
    # where every gene has a true effect of the size of its error, shrinking takes away signal with the noise
    rng = np.random.default_rng(3)
    genes, types, n = tuple(f"G{i}" for i in range(300)), np.repeat(["a", "b", "c", "d"], 20), 80
    level = rng.lognormal(0.5, 1.0, 300)
    effect = np.where(
        np.arange(300) < (15 if helps else 300), rng.choice([0.4, 2.5] if helps else [0.8, 1.25], 300), 1.0
    )
    prompt, control = (
        Cells(sparse.csr_matrix(rng.poisson(level * factor, (n, 300)).astype(np.float32)), genes, types, types)
        for factor in (effect, 1.0)
    )
    result = predict("weighted", prompt=prompt, control=control, query=control, seed=0)
    assert any("were not shrunk" in note for note in result.notes) == (not helps)


def test_mean_leaves_out_types_below_five_cells_and_says_so(cells):
    keep = np.r_[0:30, 30:34]
    prompt = cells["prompt"]
    fewer = Cells(prompt.counts[keep], prompt.genes, prompt.cell_type[keep], prompt.donor[keep])
    result = predict("mean", **{**cells, "prompt": fewer}, seed=0)
    assert result.weights == {"a": 1.0}
    assert any("fewer than 5" in note and note.endswith(" b") for note in result.notes)


def test_weighted_without_a_type_in_both_arms_falls_back_to_shift(cells):
    control = cells["control"]
    renamed = Cells(control.counts, control.genes, np.full(60, "c"), control.donor)
    result = predict("weighted", **{**cells, "control": renamed}, seed=0)
    shift = predict("shift", **{**cells, "control": renamed}, seed=0)
    np.testing.assert_allclose(result.expected_log, shift.expected_log)
    assert any("compared across types" in note for note in result.notes)


def test_shift_compares_each_type_with_its_own_controls_however_many_there_are(cells):
    prompt, control = cells["prompt"], cells["control"]
    first = sorted(set(control.cell_type.tolist()))[0]
    rows = np.concatenate([np.flatnonzero(control.cell_type != first), np.flatnonzero(control.cell_type == first)[:3]])
    fewer = Cells(control.counts[rows], control.genes, control.cell_type[rows], control.donor[rows])
    wanted = _mean_log(cells["query"].counts.toarray())
    for name in set(prompt.cell_type.tolist()):
        arms = [_mean_log(one.counts.toarray()[one.cell_type == name]) for one in (prompt, fewer)]
        wanted = wanted + (prompt.cell_type == name).mean() * (arms[0] - arms[1])
    result = predict("shift", **{**cells, "control": fewer}, seed=0)
    np.testing.assert_allclose(result.expected_log, np.maximum(wanted, 0))


def test_without_control_the_query_is_the_reference(cells):
    result = predict("shift", prompt=cells["prompt"], control=None, query=cells["query"], seed=0)
    np.testing.assert_allclose(result.expected_log, _mean_log(cells["prompt"].counts.toarray()))
    assert any("query cells served" in note for note in result.notes)


@pytest.mark.parametrize("engine", BASELINES)
def test_control_cells_as_prompt_change_nothing(cells, engine):
    result = predict(engine, prompt=cells["control"], control=cells["control"], query=cells["query"], seed=0)
    assert np.array_equal(result.counts.toarray(), cells["query"].counts.toarray())


def test_genes_the_prompt_lacks_are_unchangeable_and_case_does_not_matter(cells):
    narrow = {}
    for role in ("prompt", "control"):
        old = cells[role]
        names = tuple(name.lower() for name in old.genes[:30])
        narrow[role] = Cells(old.counts[:, :30], names, old.cell_type, old.donor)
    result = predict("shift", **narrow, query=cells["query"], seed=0)
    assert result.changeable.tolist() == [True] * 30 + [False] * 10
    assert np.array_equal(result.counts[:, 30:].toarray(), cells["query"].counts[:, 30:].toarray())
    assert (result.counts[:, :30] != cells["query"].counts[:, :30]).nnz > 0


@pytest.mark.parametrize("engine", ["mean", "shift", "weighted"])
def test_prediction_does_not_depend_on_gene_order(cells, engine):
    order = np.random.default_rng(0).permutation(40)
    permuted = {
        role: Cells(old.counts[:, order], tuple(old.genes[i] for i in order), old.cell_type, old.donor)
        for role, old in cells.items()
    }
    first, second = predict(engine, **cells, seed=4), predict(engine, **permuted, seed=4)
    assert np.array_equal(first.counts[:, order].toarray(), second.counts.toarray())


def test_no_gene_in_common_is_refused(cells):
    other = Cells(
        cells["query"].counts, tuple(f"OTHER{i}" for i in range(40)), cells["query"].cell_type, cells["query"].donor
    )
    with pytest.raises(InputError, match="none of the query's 40 genes"):
        predict("shift", **{**cells, "query": other}, seed=0)


def test_no_prompt_cell_is_refused(cells):
    empty = Cells(sparse.csr_matrix((0, 40)), cells["query"].genes, np.empty(0, str), np.empty(0, str))
    with pytest.raises(InputError, match="no prompt cell"):
        predict("shift", **{**cells, "prompt": empty}, seed=0)


def test_unknown_engine_is_refused(cells):
    with pytest.raises(EngineError, match="none, mean, shift, weighted"):
        predict("stack", **cells, seed=0)


def test_cells_that_do_not_fit_together_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        Cells(sparse.csr_matrix((2, 3)), ("A",), np.array(["a", "b"]), np.array(["d", "d"]))


def _many_treatments(rng, *, type_effect):
    """Seven treatments in two types; each has an effect of its own, and each type one that all treatments share."""
    base = rng.gamma(1.0, 3.0, 150) + 0.3
    of_type = {name: np.exp(type_effect * rng.normal(0, 1, 150)) for name in ("a", "b")}
    of_treatment = [np.exp(rng.normal(0, 0.35, 150)) for _ in range(7)]

    def draw(cell_type, treatment, n=40):
        rates = base * (of_type[cell_type] * of_treatment[treatment] if treatment is not None else 1)
        return rng.poisson(rates * rng.uniform(0.7, 1.4, (n, 1)))

    def cells(groups):
        counts = sparse.csr_matrix(np.vstack([draw(*group) for group in groups]))
        labels = np.repeat([name for name, _ in groups], 40)
        return Cells(counts, tuple(f"G{number}" for number in range(150)), labels, np.full(len(labels), "d"))

    groups = [(name, number) for name in ("a", "b") for number in (None, *range(1, 7))]
    names = np.repeat(["" if number is None else f"t{number}" for _, number in groups], 40)
    return {
        "prompt": cells([("b", 0)]),
        "control": cells([("b", None)]),
        "query": cells([("a", None)]),
        "others": Others(cells(groups), names, names == ""),
    }, np.log(of_type["a"] * of_treatment[0])


def test_additive_knows_what_all_treatments_do_to_the_type_and_is_weighted_where_they_share_nothing():
    """Means over three worlds each; the truth is the world's own fold changes, which no cell of a prompt shows."""
    near = {"additive": [], "weighted": []}
    for seed in range(3):
        parts, truth = _many_treatments(np.random.default_rng(seed), type_effect=0.5)
        others = parts.pop("others")
        base = predict("none", **parts, seed=0).expected_log
        for name, found in near.items():
            made = predict(name, **parts, seed=0, **({"others": others} if name == "additive" else {}))
            found.append(np.corrcoef(made.expected_log - base, truth)[0, 1])
        assert any(
            note.startswith("additive: on 6 other treatments of a")
            for note in predict("additive", **parts, seed=0, others=others).notes
        )
    assert np.mean(near["additive"]) > np.mean(near["weighted"]) + 0.2
    parts, _ = _many_treatments(np.random.default_rng(9), type_effect=0.0)
    others = parts.pop("others")
    plain = predict("weighted", **parts, seed=0).expected_log
    made = predict("additive", **parts, seed=0, others=others)
    assert np.array_equal(made.expected_log, plain)
    assert any(
        "additive is weighted here: on 6 other treatments of a it correlates better by -" in note for note in made.notes
    )
    without = predict("additive", **parts, seed=0)
    assert np.array_equal(without.expected_log, plain)
    assert "additive is weighted here: no cells of other treatments were given" in without.notes
    few = Others(others.cells, np.where(others.is_control, "", "one"), others.is_control)
    made = predict("additive", **parts, seed=0, others=few)
    assert np.array_equal(made.expected_log, plain)
    assert any("need 5 other treatments in common" in note for note in made.notes)
