"""Training on a tiny world: what is held out stays out, the start is the linear prediction, learning improves it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[stack]'")

from inference.stack.checkpoint import load_checkpoint
from inference.stack.config import GenerationSettings
from tools.train_demo import Plan, compute_losses, main, make_config, train
from tools.training.profiles import fit_basis, fit_reader
from tools.training.windows import Layout, Windows, draw_layout

pytestmark = pytest.mark.slow

PLAN = Plan(
    n_hidden=4,
    token_dim=8,
    n_layers=2,
    n_heads=2,
    n_cells=16,
    n_coordinates=8,
    n_steps=15,
    n_windows=8,
    n_episodes=400,
    n_fit=20,
    ridge=1.0,
)


def predicted_change(tensors, world, *, treatment, shown, asked):
    """Mean log change of the query cells of a type that the model makes of a prompt of other types."""
    from inference.stack.model import StackModel

    model = StackModel(make_config(world, PLAN), tensors)
    query = world.cells(-1, asked).toarray()[:6]

    def profile(state):
        prompt = np.concatenate([world.cells(state, number).toarray()[:5] for number in shown])
        window = torch.tensor(np.concatenate([prompt, query])[None], dtype=torch.float32)
        out = model.forward(window, n_ctx=10, n_keep=4, first_row=10)
        return np.log(out.mean[0].numpy()).mean(axis=0)

    return profile(treatment) - profile(-1)


def test_basis_gives_the_log_shares_back(world):
    basis = fit_basis(world, n_coordinates=8, rng=np.random.default_rng(0))
    share = world.share[2]
    back = basis.coordinates(share) @ basis.per_gene + basis.mean
    np.testing.assert_allclose(back, np.log(share), atol=1e-6)


def test_reader_estimates_coordinates_of_cells(world):
    basis = fit_basis(world, n_coordinates=4, rng=np.random.default_rng(0))
    cells = world.cells(1, 0)
    estimate = fit_reader(world, basis, ridge=1.0).read(cells).mean(axis=0) + basis.centre
    np.testing.assert_allclose(estimate, basis.coordinates(world.share[2, :1])[0], atol=0.25 * basis.spread.max())


def test_windows_never_hold_a_held_pair(world):
    marked = replace(world, treated={**world.treated, (3, 2): world.treated[3, 2] * 1000})
    basis = fit_basis(marked, n_coordinates=4, rng=np.random.default_rng(0))
    windows = Windows(
        marked,
        basis,
        tokenise=lambda counts: torch.tensor(np.asarray(counts.sum(axis=1)).reshape(-1, 1), dtype=torch.float32),
    )
    rng = np.random.default_rng(1)
    settings = GenerationSettings()
    for _ in range(50):
        batch = windows.draw(8, layout=draw_layout(16, settings=settings, rng=rng), rng=rng)
        assert batch.tokens.max() < 5000  # a marked cell has some 600,000 counts


def test_target_of_a_treated_window_is_the_treated_profile(world):
    basis = fit_basis(world, n_coordinates=8, rng=np.random.default_rng(0))
    cells = np.arange(3)
    np.testing.assert_allclose(world.true_share(cells, 1), np.repeat(world.share[2, :1], 3, axis=0), rtol=1e-9)
    assert basis.coordinates(world.true_share(cells, 1)).shape == (3, 8)


def test_layout_never_leaves_a_window_without_query_rows():
    rng = np.random.default_rng(0)
    for _ in range(50):
        layout = draw_layout(64, settings=GenerationSettings(), rng=rng)
        assert 0 < layout.n_keep < layout.n_ctx < 64
        assert 0 <= layout.frac_rewritten < 1


def test_training_predicts_the_held_pair(world):
    change = predicted_change(train(world, PLAN, tell_every=10), world, treatment=3, shown=[0, 1], asked=2)
    own = slice(35, 40)  # genes of treatment 3
    assert change[own].mean() > 0.5  # of log 3 = 1.1
    assert np.abs(np.delete(change, np.arange(35, 40))).mean() < 0.25


def test_training_is_deterministic(world):
    plan = replace(PLAN, n_steps=3)
    first, second = (train(world, plan, tell_every=10) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_losses_are_zero_for_a_perfect_readout(world):
    class Perfect:
        def mix(self, tokens, *, n_ctx, n_keep):
            return tokens

        def hidden(self, rows):
            return rows

        def logits(self, flat, *, n_ctx):
            return torch.full(flat[:, n_ctx:, 0].shape, -50.0)

    from tools.training.windows import Batch

    target = torch.ones(2, 6, 3)
    layout = Layout(16, 10, 4, 0.0)
    tokens = torch.cat([torch.zeros(2, 10, 3), target], dim=1)
    is_open, is_wrong = torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 6)
    batch = Batch(tokens, target, is_open, is_wrong, torch.tensor([True, True]))
    losses = compute_losses(Perfect(), lambda hidden: hidden, batch, layout=layout)
    assert {name: round(float(value), 6) for name, value in losses.items()} == {"cells": 0, "means": 0, "logits": 0}


def test_main_writes_a_checkpoint_the_runtime_reads(world, tmp_path):
    parts = {f"control_{name}": getattr(world.control, name) for name in ("data", "indices", "indptr")}
    order = sorted(world.treated)
    treated = sparse.vstack([world.treated[key] for key in order], format="csr")
    parts |= {f"treated_{name}": getattr(treated, name) for name in ("data", "indices", "indptr")}
    n_each = [world.treated[key].shape[0] for key in order]
    np.savez(
        tmp_path / "world.npz",
        genes=np.array(world.genes),
        share=world.share,
        control_type=world.control_type,
        control_expected=world.control_share,
        treated_treatment=np.repeat([key[0] for key in order], n_each),
        treated_type=np.repeat([key[1] for key in order], n_each),
        held_pairs=world.held_pairs,
        families=world.families,
        is_drug=world.is_drug,
        **parts,
    )
    assert main([str(tmp_path / "world.npz"), str(tmp_path / "out"), "--steps", "2"], sizes=PLAN) == 0
    made = load_checkpoint(tmp_path / "out" / "demo.safetensors", name="demo")
    assert made.model.config.n_genes == 60
    assert made.licence == "Apache-2.0"
