from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf, softmax

torch = pytest.importorskip("torch")

from inference.stack.config import StackConfig
from inference.stack.model import StackModel


def _gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


class _ByHand:
    """The forward pass again, in numpy and float64, one head and one cell at a time."""

    def __init__(self, config, tensors):
        self.config = config
        self.t = {name: tensor.double().numpy() for name, tensor in tensors.items()}

    def linear(self, name, x):
        return x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.t[f"{name}.weight"] + self.t[f"{name}.bias"]

    def attend(self, name, x, n_heads, n_keep=0):
        size = x.shape[1] // n_heads
        query, key, value = np.split(x @ self.t[f"{name}.qkv.weight"].T, 3, axis=1)
        heads = []
        for head in range(n_heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / np.sqrt(size)
            scores[:n_keep, n_keep:] = -np.inf
            heads.append(softmax(scores, axis=1) @ value[:, part])
        return self.linear(f"{name}.proj", np.concatenate(heads, axis=1))

    def forward(self, x, n_ctx, n_keep):
        c = self.config
        tokens = _gelu(self.linear("gene_reduction.0", np.log1p(x))).reshape(len(x), c.n_hidden, c.token_dim)
        tokens[n_ctx:] += self.t["query_pos_embedding"]
        for layer in (f"layers.{i}" for i in range(c.n_layers)):
            position = self.t["gene_pos_embedding"]
            mixed = [self.attend(f"{layer}.cell_attn", cell + position, c.n_token_heads) for cell in tokens]
            tokens = self.norm(f"{layer}.cell_norm", tokens + np.stack(mixed))
            flat = tokens.reshape(len(x), -1)
            flat = self.norm(f"{layer}.gene_norm", flat + self.attend(f"{layer}.gene_attn", flat, c.n_heads, n_keep))
            tokens = flat.reshape(tokens.shape)
            hidden = self.linear(f"{layer}.mlp.3", _gelu(self.linear(f"{layer}.mlp.0", tokens)))
            tokens = self.norm(f"{layer}.mlp_norm", tokens + hidden)
        flat = tokens.reshape(len(x), -1)
        head = self.linear("output_mlp.3", _gelu(self.linear("output_mlp.0", flat))).reshape(len(x), c.n_genes, 2)
        theta = np.sort(np.log1p(np.exp(head[:n_ctx, :, 1])), axis=0)[(n_ctx - 1) // 2]
        pair = np.concatenate([np.broadcast_to(flat[:n_ctx].mean(0), flat.shape), flat], axis=1)
        logits = self.linear("cls.2", _gelu(self.linear("cls.0", pair)))[:, 0]
        return (
            softmax(head[..., 0], axis=1) * x.sum(1, keepdims=True),
            theta,
            np.where(np.arange(len(x)) < n_ctx, 0, logits),
        )


@pytest.mark.parametrize(
    ("token_dim", "n_heads", "n_ctx", "n_keep"), [(4, 4, 9, 4), (6, 4, 8, 0), (8, 2, 12, 12), (1, 3, 1, 1)]
)
def test_forward_equals_the_sum_written_out(make_tensors, token_dim, n_heads, n_ctx, n_keep):
    config = StackConfig(
        n_genes=30, n_hidden=12, token_dim=token_dim, n_cells=13, n_layers=2, n_heads=n_heads, mlp_ratio=3
    )
    tensors = make_tensors(config, seed=token_dim)
    counts = np.random.default_rng(0).poisson(2.0, (2, 13, 30)).astype(np.float64)
    counts[1, 3] = 0  # an empty cell
    model = StackModel(config, tensors)
    whole = model.forward(torch.from_numpy(counts).float(), n_ctx=n_ctx, n_keep=n_keep, first_row=0)
    part = model.forward(torch.from_numpy(counts).float(), n_ctx=n_ctx, n_keep=n_keep, first_row=n_ctx)
    for index, window in enumerate(counts):
        mean, theta, logits = _ByHand(config, tensors).forward(window, n_ctx, n_keep)
        np.testing.assert_allclose(whole.mean[index], mean, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(whole.dispersion[index], theta, rtol=2e-5)
        np.testing.assert_allclose(whole.logits[index], logits, atol=2e-5)
        np.testing.assert_allclose(part.mean[index], mean[n_ctx:], rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(part.logits[index], logits[n_ctx:], atol=2e-5)


def test_kept_rows_do_not_see_later_ones(small_model):
    counts = torch.ones(1, 16, 40)
    changed = counts.clone()
    changed[:, 5:] = 9.0
    first, second = (small_model.embed(item, n_ctx=8, n_keep=5) for item in (counts, changed))
    torch.testing.assert_close(first[:, :5], second[:, :5])
    assert not torch.allclose(first[:, 5:8], second[:, 5:8])


def test_forward_equals_the_reference(fixtures, tiny_model):
    with np.load(fixtures / "forward.npz") as want:
        counts = torch.from_numpy(want["features"])[None]
        tokens = tiny_model.embed(counts, n_ctx=20, n_keep=8)
        out = tiny_model.forward(counts, n_ctx=20, n_keep=8, first_row=0)
        np.testing.assert_allclose(tokens[0], want["layer1"], atol=1e-5)
        np.testing.assert_allclose(out.mean[0], want["nb_mean"], rtol=1e-4)
        np.testing.assert_allclose(out.dispersion[0], want["dispersion_median_ctx"], rtol=1e-4)
        np.testing.assert_allclose(out.logits[0, 20:], want["logits_tail"], atol=1e-4)


def test_embedding_of_unprompted_windows_equals_the_reference(fixtures, tiny_model, aligned):
    """Without context and query every row is context and all see each other."""
    query = aligned["query"]
    rest = query[32:]
    second = np.concatenate([rest, rest[np.random.RandomState(42).choice(18, 14, replace=True)]])
    tokens = tiny_model.embed(torch.from_numpy(np.stack([query[:32], second])), n_ctx=32, n_keep=0)
    found = tokens.flatten(2).flatten(0, 1)[:50]
    with np.load(fixtures / "embedding_query.npz") as want:
        np.testing.assert_allclose(found, want["Z"], atol=1e-5)


def test_what_a_cell_brings_into_windows_is_the_same_beside_any_other_cells(small_model):
    """To the bit, in mode exact as well."""
    tokens = torch.randn(40, small_model.config.cell_dim)
    for model in (small_model, small_model.exactly()):
        if not model.sums_alike:
            continue
        for is_query in (False, True):
            whole = model.enter(tokens, is_query=is_query)
            assert whole.shape == (40, model.row_size) == (40, 4 * model.config.cell_dim)
            assert torch.equal(model.enter(tokens[3:5], is_query=is_query), whole[3:5])
