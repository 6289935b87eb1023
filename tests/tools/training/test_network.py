"""The trainable network computes what the runtime computes, and training starts at a useful prediction."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[stack]'")

from inference.stack.config import StackConfig
from inference.stack.model import StackModel
from tools.training.network import Network

CONFIG = StackConfig(n_genes=40, n_hidden=6, token_dim=8, n_cells=16, n_layers=2, n_heads=4, mlp_ratio=4)


def test_network_and_runtime_agree_on_the_same_weights():
    network = Network(CONFIG, seed=1)
    counts = torch.poisson(torch.full((2, 16, 40), 2.0), generator=torch.Generator().manual_seed(0))
    n_ctx, n_keep = 9, 4
    runtime = StackModel(CONFIG, network.tensors()).forward(counts, n_ctx=n_ctx, n_keep=n_keep, first_row=n_ctx)
    with torch.no_grad():
        flat = network.mix(network.reduce(counts), n_ctx=n_ctx, n_keep=n_keep)
        share = torch.softmax(network.head(network.hidden(flat[:, n_ctx:]), part=0), dim=-1)
        logits = network.logits(flat, n_ctx=n_ctx)
    np.testing.assert_allclose(share * counts[:, n_ctx:].sum(-1, keepdim=True), runtime.mean, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(logits, runtime.logits, rtol=2e-5, atol=1e-6)


def test_network_when_built_twice_with_one_seed_is_the_same():
    first, second = (Network(CONFIG, seed=3).tensors() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["cls.0.weight"], Network(CONFIG, seed=4).tensors()["cls.0.weight"])
