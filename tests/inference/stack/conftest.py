"""A small model of random weights, and the published reference outputs where they are at hand."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small tensors: threads would only wait for each other."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fixtures(shared):
    """Folder of the reference's outputs; skips where it is absent."""
    return shared / "fixtures" / "stack"


@pytest.fixture(scope="session")
def make_tensors():
    """Random weights of a configuration."""
    torch = pytest.importorskip("torch")
    from inference.stack.config import tensor_shapes

    def make(config, seed=0):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, shape in tensor_shapes(config).items():
            values = torch.randn(shape, generator=generator) / max(shape[-1], 1) ** 0.5
            tensors[name] = 1.0 + 0.1 * values if "norm.weight" in name else values
        return tensors

    return make


@pytest.fixture(scope="session")
def small_config():
    from inference.stack.config import StackConfig

    return StackConfig(n_genes=40, n_hidden=6, token_dim=4, n_cells=16, n_layers=2, n_heads=4, mlp_ratio=2)


@pytest.fixture(scope="session")
def small_model(small_config, make_tensors):
    from inference.stack.model import StackModel

    return StackModel(small_config, make_tensors(small_config))


@pytest.fixture(scope="session")
def tiny_model(fixtures):
    """The fixtures' own model."""
    pytest.importorskip("torch")
    from inference.stack.checkpoint import load_checkpoint

    return load_checkpoint(fixtures / "tiny.ckpt", name="tiny.ckpt").model


@pytest.fixture(scope="session")
def aligned(fixtures):
    with np.load(fixtures / "aligned_inputs.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}
