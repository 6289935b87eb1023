"""Recorded work is replayed for shapes that come often; where it cannot be recorded, a note says so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")

from inference.stack.batches import Batches, Limits
from inference.stack.config import GenerationSettings
from inference.stack.generate import iterate_steps
from inference.stack.graphs import Replayed
from inference.stack.model import StackModel
from inference.stack.ops_torch import TorchOps


class Tape:
    """A recorder on the processor: replaying computes the work again into the memory of the first result."""

    def __init__(self, *, error=None):
        self.n_recorded = self.n_replayed = 0
        self._error = error

    def record(self, work):
        if self._error is not None:
            raise self._error
        self.n_recorded += 1
        result = work()

        def replay():
            self.n_replayed += 1
            result.copy_(work())

        return replay, result


def generate(model, settings):
    rng = np.random.default_rng(0)
    prompt = sparse.csr_matrix(rng.poisson(3.0, (20, 40)).astype(np.float32))
    query = rng.poisson(3.0, (60, 40)).astype(np.float32)
    limits = Limits(Batches(3, unit="windows"), Batches(128, unit="cells"))
    steps = iterate_steps(model, prompt=prompt, query=query, settings=settings, seed=1, limits=limits)
    return list(steps)[-1].expected


def test_replayed_layers_give_the_same_generation(small_config, make_tensors):
    settings = GenerationSettings(output_mode="expected", diffusion_steps=2, context_ratio_min=0.4)
    model = StackModel(small_config, make_tensors(small_config), ops=TorchOps())
    want, tape = generate(model, settings), Tape()
    model.replayed = Replayed(model._layers, tape)
    assert np.array_equal(generate(model, settings), want)
    assert (tape.n_recorded, tape.n_replayed) == (1, 6)  # 2 steps of 4 batches; the first two are computed as they are
    assert np.array_equal(generate(model, settings), want)
    assert (tape.n_recorded, tape.n_replayed) == (1, 14)
    assert model.replayed.note is None


def test_rare_shapes_are_not_recorded():
    tape = Tape()
    replayed = Replayed(lambda rows, *, n_keep: rows + n_keep + 1, tape)
    for length in (3, 4, 5, 3, 4, 5):
        for n_keep in (1, 2):
            found = replayed(torch.zeros(length), n_keep=n_keep)
            assert torch.equal(found, torch.full((length,), n_keep + 1.0))
    assert tape.n_recorded == 0


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted when stream is capturing")])
def test_what_cannot_be_recorded_is_computed_with_a_note(error):
    replayed = Replayed(lambda rows, *, n_keep: rows * n_keep, Tape(error=error))
    for _ in range(5):
        assert torch.equal(replayed(torch.ones(2), n_keep=3), torch.full((2,), 3.0))
    assert "no CUDA graph could be recorded (operation not permitted" in replayed.note


def test_a_processor_records_nothing(small_model):
    assert small_model.replayed is None
