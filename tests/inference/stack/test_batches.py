"""Memory that does not suffice: the batch is halved, the results stay, and a note says so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")

from inference.baselines import Cells
from inference.errors import EngineError, ModelError
from inference.stack.batches import Batches, Limits, is_out_of_memory
from inference.stack.checkpoint import Checkpoint
from inference.stack.config import GenerationSettings
from inference.stack.embed import embed_cells
from inference.stack.engine import Asked, StackEngine
from inference.stack.generate import iterate_steps
from inference.stack.model import StackModel
from inference.stack.ops_torch import TorchOps

GENES = {f"GENE{i}": i for i in range(40)}


class SmallMemory(TorchOps):
    """Ops of a device that holds the attention between ``n_cells`` cells, and draws for ``n_rows``."""

    name = "small memory"

    def __init__(self, n_cells, *, n_rows=10**6, error=torch.OutOfMemoryError):
        self.n_cells, self.n_rows, self.error = n_cells, n_rows, error
        self.tried = []

    def _hold(self, n, most):
        self.tried.append(n)
        if n > most:
            raise self.error("CUDA out of memory. Tried to allocate 20.00 GiB")

    def attend(self, query, key, value, *, n_keep):
        self._hold(len(query) * query.shape[2], self.n_cells)
        return super().attend(query, key, value, n_keep=n_keep)

    def draw_counts(self, mean, dispersion, **place):
        self._hold(len(mean), self.n_rows)
        return super().draw_counts(mean, dispersion, **place)


def counts(n, seed):
    return sparse.csr_matrix(np.random.default_rng(seed).poisson(3.0, (n, 40)).astype(np.float32))


def cells(n, seed):
    return Cells(counts(n, seed), tuple(GENES), np.full(n, "a"), np.full(n, "d"))


def limits(n_windows, n_cells=128):
    return Limits(Batches(n_windows, unit="windows"), Batches(n_cells, unit="cells"))


def engine_of(model, settings, own):
    found = Checkpoint(model=model, citation="", licence="", genes_sha256=None, notes=())
    return StackEngine(found, GENES, settings, {}, own, None, "")


def last(model, settings, own):
    steps = iterate_steps(
        model, prompt=counts(20, 1), query=counts(60, 2).toarray(), settings=settings, seed=4, limits=own
    )
    return list(steps)[-1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("output_mode", ["sampled", "expected"])
def test_half_as_much_is_computed_where_memory_runs_out_and_the_results_stay(
    small_config, make_tensors, error, output_mode
):
    is_drawn = output_mode == "sampled"
    settings = GenerationSettings(diffusion_steps=1 if is_drawn else 3, output_mode=output_mode)
    ops = SmallMemory(16 * 3, n_rows=9, error=error)
    model, own = StackModel(small_config, make_tensors(small_config), ops=ops), limits(8)
    found = last(model, settings, own)
    want = last(StackModel(small_config, make_tensors(small_config), ops=TorchOps()), settings, limits(1))
    np.testing.assert_allclose(found.expected, want.expected, rtol=1e-4)
    np.testing.assert_array_equal(found.is_kept, want.is_kept)
    assert max(ops.tried) == 16 * 8
    assert ops.tried.count(16 * 8) == 1  # what was learnt in the first step holds in the later ones
    assert own.windows.size == 2
    assert own.cells.size == (7 if is_drawn else 128)
    assert "did not hold 8 windows at once: computed 2 at a time" in own.notes[0]
    assert len(own.notes) == (2 if is_drawn else 1)


def test_engine_notes_it_in_the_results_and_goes_on(small_config, make_tensors):
    model = StackModel(small_config, make_tensors(small_config), ops=SmallMemory(16))
    engine = engine_of(model, GenerationSettings(diffusion_steps=2), limits(4))
    found = engine(prompt=cells(9, 1), control=None, query=cells(40, 2), seed=0)
    assert [note for note in found.notes if "did not hold 4 windows" in note]
    assert found.counts.shape == (40, 40)


def test_embedding_is_halved_likewise(small_config, make_tensors):
    ops, batches = SmallMemory(16 * 2), Batches(9, unit="windows")
    model = StackModel(small_config, make_tensors(small_config), ops=ops)
    found = embed_cells(model, counts(150, 3), batches=batches)
    want = embed_cells(model, counts(150, 3), batches=Batches(1, unit="windows"))
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert batches.size == 2


def test_memory_that_holds_no_window_is_an_error_that_says_what_to_do(small_config, make_tensors):
    model = StackModel(small_config, make_tensors(small_config), ops=SmallMemory(3))
    with pytest.raises(EngineError, match=r"does not hold one of the windows.*out of memory.*device cpu"):
        last(model, GenerationSettings(), limits(8))


def test_other_errors_are_not_taken_for_full_memory():
    def fail(_part):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="do not fit"):
        Batches(4, unit="windows").run(8, fail)


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_is_known_by_its_class_or_words(error, is_full):
    assert is_out_of_memory(error) == is_full


def test_torch_of_a_processor_says_these_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**59, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("settings", [GenerationSettings(), GenerationSettings(output_mode="expected")])
@pytest.mark.parametrize("n_windows", [1, 7])
def test_predictions_together_equal_predictions_alone(small_model, settings, n_windows):
    engine = engine_of(small_model, settings, limits(n_windows))
    asked = [Asked(cells(9 + i, i), cells(6 * i + 1, 10 + i), i) for i in range(4)]
    together = [make() for make in engine.predict_together(asked)]
    for one, found in zip(asked, together, strict=True):
        alone = engine(prompt=one.prompt, control=None, query=one.query, seed=one.seed)
        np.testing.assert_allclose(found.expected, alone.expected, rtol=1e-4)
        np.testing.assert_allclose(found.logits, alone.logits, atol=1e-4)
        if n_windows == 1:
            assert np.array_equal(found.counts.toarray(), alone.counts.toarray())


def test_one_that_fails_leaves_the_others(small_model):
    engine = engine_of(small_model, GenerationSettings(diffusion_steps=2), limits(8))
    odd = Cells(counts(5, 1), tuple(f"ENSG{i}" for i in range(40)), np.full(5, "a"), np.full(5, "d"))
    damaged = cells(4, 2)
    damaged.counts.data[0] = np.inf
    asked = [Asked(cells(9, 1), cells(5, 2), 0), Asked(odd, cells(5, 2), 0), Asked(cells(9, 1), damaged, 0)]
    first, second, third = engine.predict_together(asked)
    alone = engine(prompt=cells(9, 1), control=None, query=cells(5, 2), seed=0)
    np.testing.assert_allclose(first().expected, alone.expected, rtol=1e-4)
    with pytest.raises(ModelError, match="not finite"):
        third()
    with pytest.raises(ValueError, match="0 % coverage"):
        second()


def test_predictions_that_do_not_fit_together_are_made_one_after_the_other(small_config, make_tensors):
    class Few(StackModel):
        """A device that holds few cells at a time; a prediction lets go of its own once it is made."""

        n_held = 0

        def embed_cells(self, values):
            Few.n_held += 1
            if Few.n_held == 4:  # the query of the second one
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().embed_cells(values)

    model = Few(small_config, make_tensors(small_config), ops=TorchOps())
    engine = engine_of(model, GenerationSettings(diffusion_steps=1), limits(8, n_cells=10**6))
    asked = [Asked(cells(9, 1), cells(1, 2), 0), Asked(cells(9, 3), cells(1, 4), 1)]
    found = [make().expected for make in engine.predict_together(asked)]
    want = [engine(prompt=one.prompt, control=None, query=one.query, seed=one.seed).expected for one in asked]
    np.testing.assert_array_equal(found, want)


def test_windows_are_counted_for_the_step_that_needs_the_most(small_model):
    engine = engine_of(small_model, GenerationSettings(), limits(8))
    assert [engine.count_windows(n) for n in (1, 5, 6, 11)] == [1, 1, 2, 3]  # 5 query cells in the last step's windows
