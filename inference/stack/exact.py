"""One step with the random stream of the reference: the same draws in the same order, on the processor.

In: the state of a generation. Out: expected counts and counts of every query cell, equal to those of the reference.
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
_ROWS = 96  # cells of a window whose gamma draws begin while the means of the next are computed


@torch.inference_mode()
def propose_exactly(state: State, *, layout: Layout, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Run the model once on every query cell, and draw as the reference does.

    One gamma draw covers all rows of a batch of windows, then one Poisson draw follows. The generator makes both row by
    row, so the gamma draw of some rows can run while the next ones are computed.

    Parameters
    ----------
    state
        The cells; receives the logits.
    layout
        How the step divides its windows.
    batch_size
        Windows per batch, which the random stream depends on.
    seed
        Seed of this step.

    Returns
    -------
    Expected counts and counts, each (query cells, genes).
    """
    model, order = state.model, state.begin_step(layout, seed=seed)
    generator = torch.Generator().manual_seed(seed % _SEED_BITS)
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # the data loader of the reference draws one number
    expected, sample = torch.empty_like(state.counts), torch.empty_like(state.counts)
    with ThreadPoolExecutor(1) as drawing:
        for start in range(0, state.n_windows, batch_size):
            batch = range(start, min(start + batch_size, state.n_windows))
            torch.randperm(state.counts.shape[1], generator=generator)
            rates, finals = [], []
            for number in batch:
                window = torch.tensor([number])
                rows = state.window_rows(window, layout=layout, order=order)
                flat = model.run_layers(rows, n_keep=layout.n_keep)
                finals.append(flat)
                dispersion = model.predict_dispersion(flat[:, : layout.n_ctx])[0]
                state.check(dispersion)
                library = state.library_of(window, layout=layout, order=order)
                means, size = [], _ROWS if model.sums_alike else len(library)
                for part, own in zip(flat[0].split(size), library.split(size), strict=True):
                    means.append(model.predict_mean(part, own))
                    rates.append(
                        (number, drawing.submit(reference_rates, means[-1].cpu(), dispersion.cpu(), generator))
                    )
                mean, cells = torch.cat(means), cells_of(number, layout, len(sample))
                expected[cells] = mean[layout.n_base : layout.n_base + len(cells)].to(expected.device)
            # The rounding of a product with one column depends on the number of rows, so take those of the reference.
            logits = model.predict_logits(torch.cat(finals), n_ctx=layout.n_ctx, first_row=layout.n_ctx)
            own = logits[:, layout.n_base - layout.n_ctx :].flatten()
            first = batch.start * layout.n_test
            state.logits[first : first + len(own)] = own[: len(state.logits) - first]
            drawn = [(number, rate.result()) for number, rate in rates]  # all of them before the first Poisson draw
            for number in batch:
                rate = torch.cat([part for of_window, part in drawn if of_window == number])
                cells = cells_of(number, layout, len(sample))
                n_read = layout.n_base + len(cells)  # of the last window; later numbers of the stream are not used
                counts = torch.poisson(rate[:n_read] if number == state.n_windows - 1 else rate, generator=generator)
                sample[cells] = counts[layout.n_base : n_read].to(sample.device)
    state.check(expected)
    return expected, sample


def cells_of(window: int, layout: Layout, n_query: int) -> Tensor:
    """Query cells whose prediction is taken from a window, without the cells that fill the last window."""
    return torch.arange(window * layout.n_test, min((window + 1) * layout.n_test, n_query))
