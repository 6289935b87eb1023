from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from inference.errors import InputError, ModelError
from inference.stack.batches import Batches
from inference.stack.config import GenerationSettings
from inference.stack.exact import parts_of, propose_exactly
from inference.stack.generate import choose_kept, iterate_steps, mask_schedule
from inference.stack.layout import choose_layout, context_schedule
from inference.stack.model import StackModel
from inference.stack.state import State, window_cells

EXPECTED = GenerationSettings(output_mode="expected")
SAMPLED = GenerationSettings(output_mode="sampled")
EXACT = GenerationSettings(output_mode="exact", batch_size=2)


def _cells(n, seed):
    return np.random.default_rng(seed).poisson(3.0, (n, 40)).astype(np.float32)


def _last(model, settings, *, n_prompt=20, n_query=23, seed=0):
    prompt, query = sparse.csr_matrix(_cells(n_prompt, 1)), _cells(n_query, 2)
    return list(iterate_steps(model, prompt=prompt, query=query, settings=settings, seed=seed))[-1]


def _steps(model, aligned, role, settings):
    prompt = sparse.csr_matrix(aligned[f"prompt{role}"])
    return iterate_steps(model, prompt=prompt, query=aligned["query"], settings=settings, seed=0)


@pytest.mark.parametrize(("name", "n_steps", "role"), [("mdm_n5", 5, "A"), ("mdm_n5", 5, "B"), ("mdm_n1", 1, "A")])
def test_expected_output_equals_the_reference(fixtures, tiny_model, aligned, name, n_steps, role):
    with np.load(fixtures / f"{name}_seed0_MEAN_{role}.npz") as want:
        for step in _steps(tiny_model, aligned, role, replace(EXPECTED, diffusion_steps=n_steps)):
            assert np.array_equal(step.is_kept, want[f"step{step.number}_keep"])
        np.testing.assert_allclose(step.counts, want["X"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(step.logits, want["logits"], atol=1e-4)
        assert np.array_equal(step.counts, step.expected)


@pytest.mark.parametrize(
    ("name", "mode", "n_steps"),
    [
        ("mdm_n5_seed0_sampled_A", "mdm", 5),
        ("mdm_n5_seed0_sampled_B", "mdm", 5),
        ("mdm_n1_seed0_sampled_A", "mdm", 1),
        ("vanilla_n3_seed0_sampled_A", "vanilla", 3),
    ],
)
def test_exact_output_equals_the_reference_bit_for_bit(fixtures, tiny_model, aligned, name, mode, n_steps):
    with np.load(fixtures / f"{name}.npz") as want:
        for step in _steps(tiny_model, aligned, name[-1], replace(EXACT, mode=mode, diffusion_steps=n_steps)):
            assert np.array_equal(step.is_kept, want[f"step{step.number}_keep"])
        assert np.array_equal(step.counts, want["X"])


def test_one_step_equals_the_references_single_predictions(fixtures, tiny_model, aligned):
    layout = choose_layout(32, prompt_ratio=0.25, context_ratio=0.4)
    prompt, query = sparse.csr_matrix(aligned["promptA"]), aligned["query"]
    state = State.begin(tiny_model.exactly(), prompt=prompt, query=query, batches=Batches(50, unit="cells"))
    _, sample = propose_exactly(state, layout=layout, batch_size=2, seed=7)
    logits = state.read_logits()
    with np.load(fixtures / "incontext_predict_seed7.npz") as want:
        assert np.array_equal(sample, want["X"])
    with np.load(fixtures / "incontext_generate_seed7_mr0.8.npz") as want:
        is_kept = choose_kept(logits, np.ones(50, dtype=bool), share=0.8)
        assert np.array_equal(np.where(is_kept[:, None], query, sample), want["X"])
        assert np.array_equal(is_kept | (logits > 0), want["is_masked_after"])
        np.testing.assert_allclose(logits, want["logits"], atol=1e-4)
    order = state.begin_step(layout, seed=7)
    cells = window_cells(torch.arange(5), layout=layout, n_prompt=len(order), n_query=50, device=torch.device("cpu"))
    prompt_counts, query_counts = torch.from_numpy(aligned["promptA"]), torch.from_numpy(query)
    counts = torch.cat([prompt_counts[order[cells[0]]], query_counts[cells[1]]], dim=1)
    tokens = tiny_model.embed(counts, n_ctx=32, n_keep=0).flatten(2)[:, layout.n_base :]
    with np.load(fixtures / "incontext_latent_seed7.npz") as want:
        np.testing.assert_allclose(tokens.flatten(0, 1)[:50], want["Z"], atol=1e-5)


def test_windows_take_prompt_and_query_cells_in_turn():
    layout = choose_layout(16, prompt_ratio=0.25, context_ratio=0.4)
    windows = torch.arange(3)
    prompt, query = window_cells(windows, layout=layout, n_prompt=7, n_query=9, device=torch.device("cpu"))
    assert (layout.n_base, layout.n_test) == (11, 5)
    assert prompt.flatten().tolist() == [place % 7 for place in range(33)]
    assert query.flatten().tolist() == [cell % 9 for cell in range(15)]


def test_only_prompt_cells_that_windows_use_are_embedded_each_of_them_once(small_model):
    class Counting(StackModel):
        n_cells = 0

        def embed_cells(self, counts):
            self.n_cells += len(counts)
            return super().embed_cells(counts)

    layout = choose_layout(16, prompt_ratio=0.25, context_ratio=0.4)
    model = Counting(small_model.config, small_model._tensors)
    prompt = sparse.csr_matrix(_cells(90, 1))
    state = State.begin(model, prompt=prompt, query=_cells(8, 2), batches=Batches(5, unit="cells"))
    orders = [state.begin_step(layout, seed=seed) for seed in (1, 1, 2)]
    used = np.unique(np.concatenate([order[: 2 * layout.n_base] for order in orders]))
    assert model.n_cells == 8 + len(used) < 90
    whole = small_model.embed_cells(torch.from_numpy(prompt.toarray()))
    np.testing.assert_allclose(state.prompt_tokens[used], whole[used], atol=1e-6)


@pytest.mark.parametrize(
    ("n_read", "n_rows"), [(1, 16), (31, 40), (32, 40), (95, 256), (192, 256), (256, 256), (511, 512)]
)
def test_means_of_mode_exact_are_computed_for_parts_that_torch_sums_as_it_sums_all_rows(n_read, n_rows):
    parts = parts_of(n_read, n_rows, are_alike=True)
    rows = [row for part in parts for row in range(n_rows)[part]]
    assert rows == list(range(n_read if n_read >= 32 else n_rows))
    assert all(part.stop - part.start >= 32 for part in parts) or len(parts) == 1
    assert parts_of(n_read, n_rows, are_alike=False) == [slice(0, n_rows)]


def test_exact_output_depends_on_the_batch_size_like_the_reference(tiny_model, aligned):
    first, second = (
        list(_steps(tiny_model, aligned, "A", replace(EXACT, batch_size=size, diffusion_steps=1)))[-1]
        for size in (2, 5)
    )
    assert not np.array_equal(first.counts, second.counts)
    np.testing.assert_array_equal(first.expected, second.expected)


@pytest.mark.parametrize("mode", ["mdm", "vanilla"])
@pytest.mark.parametrize("settings", [SAMPLED, EXPECTED])
def test_batch_size_changes_nothing(small_model, settings, mode):
    settings = replace(settings, diffusion_steps=3, mode=mode)
    one = _last(small_model, replace(settings, batch_size=1))
    for size in (2, 3, 32):
        other = _last(small_model, replace(settings, batch_size=size))
        assert np.array_equal(one.counts, other.counts)
        assert np.array_equal(one.logits, other.logits)


def test_threads_change_nothing(small_model):
    before = torch.get_num_threads()
    try:
        found = []
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(_last(small_model, replace(SAMPLED, diffusion_steps=2)).counts)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SAMPLED, EXPECTED, EXACT])
def test_every_number_of_query_and_prompt_cells_works(small_model, settings):
    for n_cells in (1, 2, 3, 4, 5, 6, 10, 11, 15, 16, 17, 31, 100, 201):  # around 5 query cells of 16 in a window
        n_steps, n_prompt = 1 + n_cells % 8, 202 - n_cells if n_cells % 2 else 1
        changed = replace(settings, diffusion_steps=n_steps)
        step = _last(small_model, changed, n_prompt=n_prompt, n_query=n_cells, seed=n_cells)
        assert step.counts.shape == (n_cells, 40)
        assert np.isfinite(step.counts).all()
        assert (step.expected.sum(1) > 0).all()  # every cell was rewritten at least once
        if settings is not EXPECTED:
            assert np.array_equal(step.counts, np.rint(step.counts))


@pytest.mark.parametrize("seed", [0, -1, 2**32, 2**70])
def test_any_seed_works_and_the_same_one_gives_the_same(small_model, seed):
    one, two, other = (_last(small_model, SAMPLED, seed=item).counts for item in (seed, seed, seed + 17))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_inputs_are_left_alone(small_model):
    query = _cells(5, 3)
    before = query.copy()
    list(iterate_steps(small_model, prompt=sparse.csr_matrix(_cells(4, 1)), query=query, settings=SAMPLED, seed=0))
    assert np.array_equal(query, before)


def test_generation_ends_when_no_cell_is_masked(small_config, make_tensors):
    """A strongly negative logit never masks a cell again; equal ones are all accepted in the first step."""
    tensors = make_tensors(small_config)
    tensors["cls.2.weight"] = torch.zeros_like(tensors["cls.2.weight"])
    for bias, n_steps in ((-5.0, 1), (5.0, 5)):
        tensors["cls.2.bias"] = torch.full((1,), bias)
        model = StackModel(small_config, tensors)
        prompt = sparse.csr_matrix(_cells(9, 1))
        steps = list(iterate_steps(model, prompt=prompt, query=_cells(7, 2), settings=SAMPLED, seed=0))
        assert len(steps) == n_steps
        assert not steps[-1].is_kept.any()


def test_fraction_never_leaves_the_unit_interval():
    """(M / N) N / M is 1.0000000000000002 for some pairs, and below 0 where more went than planned."""
    beyond = [(m, n) for n in range(1, 60) for m in range(1, n + 1) if m / n * n / m > 1]
    assert beyond
    for n_masked, n_cells in beyond:
        is_masked = np.arange(n_cells) < n_masked
        logits = np.linspace(-1, 1, n_cells).astype(np.float32)
        assert np.array_equal(choose_kept(logits, is_masked, share=0.0), ~is_masked)
    assert choose_kept(np.float32([1, 2]), np.array([True, False]), share=0.9).tolist() == [False, True]


def test_schedules_follow_the_reference():
    assert mask_schedule(1) == [0.0]
    assert mask_schedule(4) == [0.75, 0.5, 0.25, 0.0]
    assert context_schedule(replace(SAMPLED, diffusion_steps=1)) == [0.4]
    assert context_schedule(replace(SAMPLED, mode="vanilla", diffusion_steps=2)) == [0.4, 0.4]
    np.testing.assert_allclose(context_schedule(SAMPLED), [0.2, 0.25, 0.3, 0.35, 0.4], atol=1e-7)


def test_windows_are_divided_as_the_reference_was_seen_to_divide_them():
    """200 settings recorded by ``record_layouts.py``; in 130 of them float64 gives another division."""
    recorded = json.loads(Path(__file__).with_name("reference_layouts.json").read_text())
    n_other = 0
    for window, prompt_ratio, context_ratio, least, steps, mode, want in recorded:
        settings = GenerationSettings(
            diffusion_steps=steps, context_ratio=context_ratio, context_ratio_min=least, mode=mode
        )
        shares = context_schedule(settings)
        found, wide = (
            [choose_layout(window, prompt_ratio=prompt_ratio, context_ratio=kind(share)) for share in shares]
            for kind in (lambda share: share, float)
        )
        assert [[one.n_base, one.n_ctx, one.n_keep] for one in found] == want
        n_other += found != wide
    assert (len(recorded), n_other) == (200, 130)


@pytest.mark.parametrize("n_cells", [2, 3, 32, 256, 512])
def test_layout_always_leaves_room_for_both(n_cells):
    for prompt_ratio in (0.0, 1e-18, 0.25, 0.5):
        for context_ratio in (1e-18, 0.2, 0.4, 0.4999):
            found = choose_layout(n_cells, prompt_ratio=prompt_ratio, context_ratio=context_ratio)
            assert found.n_base + found.n_test == n_cells
            assert 1 <= found.n_ctx <= found.n_base
            assert found.n_test >= 1
            assert 0 <= found.n_keep <= found.n_base
    if n_cells == 32:
        assert (found := choose_layout(32, prompt_ratio=0.25, context_ratio=0.2)).n_base == found.n_ctx + 1


@pytest.mark.parametrize(("n_prompt", "n_query", "role"), [(0, 3, "prompt"), (3, 0, "query")])
def test_role_without_cells_is_refused(small_model, n_prompt, n_query, role):
    with pytest.raises(InputError, match=f"no {role} cell"):
        _last(small_model, SAMPLED, n_prompt=n_prompt, n_query=n_query)


def test_damaged_weights_are_reported(small_config, make_tensors):
    tensors = make_tensors(small_config)
    tensors["cls.0.bias"] = torch.full_like(tensors["cls.0.bias"], float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        _last(StackModel(small_config, tensors), SAMPLED)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_gives_the_processors_expected_output(fixtures, tiny_model, aligned):
    on_cpu, on_gpu = (
        list(_steps(model, aligned, "A", EXPECTED))[-1] for model in (tiny_model, tiny_model.to(torch.device("cuda")))
    )
    np.testing.assert_allclose(on_gpu.counts, on_cpu.counts, rtol=1e-3, atol=1e-4)
