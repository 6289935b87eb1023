"""One step in the reference's random stream: what it draws, in its order, on the processor.

In: the state of a generation. Out: expected counts and counts for every query cell, equal to the reference's.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from inference.stack.sampling import reference_rates

if TYPE_CHECKING:
    from torch import Tensor

    from inference.stack.layout import Layout
    from inference.stack.state import State

_SEED_BITS = 2**32


@torch.inference_mode()
def propose_exactly(state: State, *, layout: Layout, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Show every query cell to the model once and draw as the reference would.

    One gamma draw runs over all rows of a batch of windows, then one Poisson draw; the generator makes both row by
    row, so a window's gamma draw runs beside the computation of the next window.

    Parameters
    ----------
    state
        The cells; learns the logits.
    layout
        How the step divides its windows.
    batch_size
        Windows per batch, which the stream depends on.
    seed
        The step's own.

    Returns
    -------
    Expected counts and counts, each (query cells, genes).
    """
    model, order = state.model, state.order_prompt(seed)
    generator = torch.Generator().manual_seed(seed % _SEED_BITS)
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # the reference's data loader takes one
    state.begin_step(layout)
    expected, sample = torch.empty_like(state.counts), torch.empty_like(state.counts)
    with ThreadPoolExecutor(1) as drawing:
        for start in range(0, state.n_windows, batch_size):
            batch = range(start, min(start + batch_size, state.n_windows))
            torch.randperm(state.counts.shape[1], generator=generator)
            rates, finals = [], []
            for number in batch:
                window = torch.tensor([number])
                rows = state.window_rows(window, layout=layout, order=order, base=window)
                flat = model.run_layers(rows, n_ctx=layout.n_ctx, n_keep=layout.n_keep)
                finals.append(flat)
                dispersion = model.predict_dispersion(flat[:, : layout.n_ctx])[0]
                state.check(dispersion)
                mean = model.predict_mean(flat[0], state.library_of(window, layout=layout, order=order))
                cells = cells_of(number, layout, len(sample))
                expected[cells] = mean[layout.n_base : layout.n_base + len(cells)].to(expected.device)
                rates.append(drawing.submit(reference_rates, mean.cpu(), dispersion.cpu(), generator))
            # A product with one column rounds by the number of rows: the reference's are these.
            logits = model.predict_logits(torch.cat(finals), n_ctx=layout.n_ctx, first_row=layout.n_ctx)
            own = logits[:, layout.n_base - layout.n_ctx :].flatten()
            first = batch.start * layout.n_test
            state.logits[first : first + len(own)] = own[: len(state.logits) - first]
            drawn_rates = [rate.result() for rate in rates]  # all of them before the stream's first Poisson draw
            for number, rate in zip(batch, drawn_rates, strict=True):
                cells = cells_of(number, layout, len(sample))
                n_read = layout.n_base + len(cells)  # of the last window; nothing reads the stream beyond
                drawn = torch.poisson(rate[:n_read] if number == state.n_windows - 1 else rate, generator=generator)
                sample[cells] = drawn[layout.n_base : n_read].to(sample.device)
    state.check(expected)
    return expected, sample


def cells_of(window: int, layout: Layout, n_query: int) -> Tensor:
    """Query cells whose prediction is taken from a window; what tops up the last one is left out."""
    return torch.arange(window * layout.n_test, min((window + 1) * layout.n_test, n_query))
