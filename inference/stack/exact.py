"""One step with the random stream of the reference: the same draws in the same order, on the processor.

In: the state of a generation. Out: expected counts and counts of every query cell, equal to those of the reference.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from inference.stack.model import LEAST_ROWS
from inference.stack.sampling import reference_gammas, reference_rates

if TYPE_CHECKING:
    from concurrent.futures import Future

    from torch import Tensor

    from inference.stack.layout import Layout
    from inference.stack.state import State

_SEED_BITS = 2**32
_ROWS = 96  # at least as many cells of a window have their means computed together, while others are drawn


@torch.inference_mode()
def propose_exactly(state: State, *, layout: Layout, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Run the model once on every query cell, and draw as the reference does.

    One gamma draw covers all rows of a batch of windows, then one Poisson draw follows. The generator makes both row by
    row, and gamma draws need dispersions alone: a thread makes those of one window while the layers of the next are
    computed, and Poisson draws of some rows while the means of the next are. Rows behind the last cell that is read, of
    the last window, need no mean: no later number of the stream is used.

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
            finals, dispersions, gammas = [], [], []
            for number in batch:
                rows = state.window_rows(torch.tensor([number]), layout=layout, order=order)
                finals.append(model.run_layers(rows, n_keep=layout.n_keep))
                dispersion = model.predict_dispersion(finals[-1][:, : layout.n_ctx])[0]
                state.check(dispersion)
                dispersions.append(dispersion.cpu())
                gammas.append(drawing.submit(reference_gammas, dispersions[-1], rows.shape[1], generator))
            # The rounding of a product with one column depends on the number of rows, so take those of the reference.
            logits = model.predict_logits(torch.cat(finals), n_ctx=layout.n_ctx, first_row=layout.n_ctx)
            own = logits[:, layout.n_base - layout.n_ctx :].flatten()
            first = batch.start * layout.n_test
            state.logits[first : first + len(own)] = own[: len(state.logits) - first]
            drawn = []
            for number, final, dispersion, gamma in zip(batch, finals, dispersions, gammas, strict=True):
                cells = cells_of(number, layout, len(sample))
                n_read = layout.n_base + len(cells) if number == state.n_windows - 1 else final.shape[1]
                library = state.library_of(torch.tensor([number]), layout=layout, order=order)
                parts = parts_of(n_read, final.shape[1], are_alike=model.sums_alike)
                means = []
                for part in parts:
                    mean = model.predict_mean(final[0, part], library[part])
                    means.append(mean)
                    drawn.append(
                        (number, drawing.submit(_draw, gamma, part, mean.cpu(), dispersion, generator=generator))
                    )
                expected[cells] = torch.cat(means)[layout.n_base : layout.n_base + len(cells)].to(expected.device)
            for number in batch:
                counts = torch.cat([part.result() for of_window, part in drawn if of_window == number])
                cells = cells_of(number, layout, len(sample))
                sample[cells] = counts[layout.n_base : layout.n_base + len(cells)].to(sample.device)
    state.check(expected)
    return expected, sample


def cells_of(window: int, layout: Layout, n_query: int) -> Tensor:
    """Query cells whose prediction is taken from a window, without the cells that fill the last window."""
    return torch.arange(window * layout.n_test, min((window + 1) * layout.n_test, n_query))


def parts_of(n_read: int, n_rows: int, *, are_alike: bool) -> list[slice]:
    """Rows of a window whose means are computed together: all of them where sums depend on the number of rows."""
    if not are_alike or n_read < LEAST_ROWS:
        return [slice(0, n_rows)]
    n_parts = max(1, n_read // _ROWS)
    return [slice(n_read * i // n_parts, n_read * (i + 1) // n_parts) for i in range(n_parts)]


def _draw(
    gammas: Future[Tensor], part: slice, mean: Tensor, dispersion: Tensor, *, generator: torch.Generator
) -> Tensor:
    """Poisson counts of some rows of a window, once all gamma draws of the batch are made."""
    return torch.poisson(reference_rates(gammas.result()[part], mean, dispersion), generator=generator)
