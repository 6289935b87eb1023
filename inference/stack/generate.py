"""In-context generation: the query cells are rewritten step by step until they look like the prompt's condition.

In: a model, prompt and query counts over its genes. Out: predicted counts, expected counts and a logit per cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference.errors import InputError, ModelError
from inference.stack.sampling import draw_counts, reference_rates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy import sparse

    from inference.stack.config import GenerationSettings
    from inference.stack.model import StackModel

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

_SEED_BITS = 2**32  # numpy's seeds lie below


@dataclass(frozen=True)
class Layout:
    """How one step divides a window: prompt rows first, then query rows."""

    n_base: int  # prompt cells
    n_ctx: int  # rows that count as context: n_base, or one less
    n_keep: int  # rows that see only each other
    n_test: int  # query cells


@dataclass(frozen=True)
class Step:
    """State after one step; the arrays are the run's own and change with the next one."""

    number: int
    counts: Floats  # query cells x genes
    expected: Floats  # the mean that each cell's counts were last drawn from
    logits: Floats  # per cell, of this step
    is_kept: NDArray[np.bool_]  # cells this step left alone


@dataclass
class Proposal:
    """What the model proposes for every query cell in one step."""

    mean: Floats  # cells x genes
    dispersion: Floats  # windows x genes
    window: Ints  # window of each cell
    logits: Floats
    sample: Floats | None = None  # the reference stream's draw, in the exact mode


def choose_layout(n_cells: int, *, prompt_ratio: float, context_ratio: float) -> Layout:
    """Divide a window of ``n_cells`` rows; the two ratios together lie strictly between 0 and 1."""
    share = prompt_ratio + context_ratio
    n_base = n_cells - min(max(1, int(n_cells * (1 - share))), n_cells - 1)
    n_ctx = min(max(1, int(share * n_cells)), n_base)
    return Layout(n_base, n_ctx, min(int(prompt_ratio * n_cells), n_base), n_cells - n_base)


def context_schedule(settings: GenerationSettings) -> list[float]:
    """Context ratio of each step, float32 as in the reference."""
    if settings.mode == "vanilla" or settings.diffusion_steps == 1:
        return [settings.context_ratio] * settings.diffusion_steps
    first, last = settings.context_ratio_min, settings.context_ratio
    return [float(value) for value in torch.linspace(first, last, settings.diffusion_steps)]


def mask_schedule(n_steps: int) -> list[float]:
    """Share of the cells that stays masked after each step, float32 as in the reference."""
    share = 1 - torch.arange(1, n_steps + 1, dtype=torch.float32) / n_steps
    share[-1] = 0.0
    return [float(value) for value in share]


def iterate_steps(
    model: StackModel, *, prompt: sparse.csr_matrix, query: Floats, settings: GenerationSettings, seed: int
) -> Iterator[Step]:
    """Run the generation one step at a time.

    Parameters
    ----------
    model
        The model.
    prompt, query
        Raw counts, cells x model genes: at least one cell each; fewer than a window needs are used in turn.
    settings
        Steps, ratios, mode and output mode.
    seed
        Fixes the prompt cells of each window and the draws.

    Yields
    ------
    The state after each step; fewer than asked for if no masked cell is left.

    Raises
    ------
    InputError
        A role without cells.
    ModelError
        The model gave values that are not finite.

    References
    ----------
    Dong et al. 2026, doi 10.64898/2026.01.09.698608.
    """
    for role, n_cells in (("prompt", prompt.shape[0]), ("query", len(query))):
        if not n_cells:
            msg = f"there is no {role} cell; give at least one"
            raise InputError(msg)
    counts, expected = query.astype(np.float32, copy=True), np.zeros(query.shape, dtype=np.float32)
    is_masked = np.ones(len(counts), dtype=bool)
    shares = zip(mask_schedule(settings.diffusion_steps), context_schedule(settings), strict=True)
    for number, (share, context) in enumerate(shares, start=1):
        if not is_masked.any():
            return
        layout = choose_layout(model.config.n_cells, prompt_ratio=settings.prompt_ratio, context_ratio=context)
        proposal = propose(model, prompt, counts, layout=layout, settings=settings, seed=seed + number)
        is_kept = np.zeros_like(is_masked)
        if settings.mode == "mdm":
            is_kept = choose_kept(proposal.logits, is_masked, share=share)
        new = np.flatnonzero(~is_kept)
        expected[new] = proposal.mean[new]
        counts[new] = _values(proposal, new, settings=settings, seed=seed, step=number)
        if settings.mode == "mdm":
            is_masked[new] = False
            is_masked |= proposal.logits > 0  # an earlier generation can be drawn again
        yield Step(number, counts, expected, proposal.logits, is_kept)


def choose_kept(logits: Floats, is_masked: NDArray[np.bool_], *, share: float) -> NDArray[np.bool_]:
    """Choose the cells that keep their counts: those not masked, and of the masked those with the highest logits.

    ``share`` is the part of all cells that is to stay masked; at least one cell is masked.
    """
    n_masked, n_cells = int(is_masked.sum()), is_masked.size
    fraction = min(max((n_masked / n_cells - share) * n_cells / n_masked, 0.0), 1.0)
    masked = logits[is_masked].astype(np.float64)
    is_kept = ~is_masked
    is_kept[is_masked] = masked > np.quantile(masked, fraction)
    return is_kept


def _values(proposal: Proposal, cells: Ints, *, settings: GenerationSettings, seed: int, step: int) -> Floats:
    """What replaces ``cells``."""
    if proposal.sample is not None:
        return proposal.sample[cells]
    if settings.output_mode == "expected":
        return proposal.mean[cells]
    dispersion = proposal.dispersion[proposal.window[cells]]
    return draw_counts(proposal.mean[cells], dispersion, seed=seed, step=step, cells=cells.tolist())


def propose(
    model: StackModel,
    prompt: sparse.csr_matrix,
    counts: Floats,
    *,
    layout: Layout,
    settings: GenerationSettings,
    seed: int,
) -> Proposal:
    """Show every query cell to the model once.

    Parameters
    ----------
    model
        The model.
    prompt, counts
        Prompt cells and the query cells as they are now, cells x model genes.
    layout
        How the step divides its windows.
    settings
        Batch size and output mode are read.
    seed
        The step's own: fixes the order of the prompt cells and, in the exact mode, the draws.

    Raises
    ------
    ModelError
        The model gave values that are not finite.
    """
    n_query, n_test = len(counts), layout.n_test
    is_exact = settings.output_mode == "exact"
    order = np.random.RandomState(seed % _SEED_BITS).permutation(prompt.shape[0])
    generator = torch.Generator().manual_seed(seed % _SEED_BITS)
    if is_exact:
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # the reference's data loader takes one
    n_windows = -(-n_query // n_test)
    found = Proposal(
        mean=np.empty(counts.shape, np.float32),
        dispersion=np.empty((n_windows, counts.shape[1]), np.float32),
        window=np.arange(n_query) // n_test,
        logits=np.empty(n_query, np.float32),
    )
    sample = found.sample = np.empty(counts.shape, np.float32) if is_exact else None
    for start in range(0, n_windows, settings.batch_size):
        batch = range(start, min(start + settings.batch_size, n_windows))
        if is_exact:
            torch.randperm(counts.shape[1], generator=generator)
        rates = []
        size = 1 if model.device.type == "cpu" else len(batch)  # one by one: the batch size cannot change a rounding
        for first in batch[::size]:
            chunk = range(first, min(first + size, batch.stop))
            rows = np.stack(
                [window_rows(number, order=order, layout=layout, prompt=prompt, counts=counts) for number in chunk]
            )
            rates += _predict(model, rows, chunk, layout=layout, found=found, generator=generator if is_exact else None)
        if sample is None:
            continue
        for number, rate in zip(batch, rates, strict=True):
            drawn = torch.poisson(rate, generator=generator)[layout.n_base :]
            cells = _cells_of(number, layout, n_query)
            sample[cells] = drawn[: cells.size].numpy()
    return found


def window_rows(number: int, *, order: Ints, layout: Layout, prompt: sparse.csr_matrix, counts: Floats) -> Floats:
    """Counts of one window: prompt cells in the step's order, then query cells; both are used in turn."""
    base = order[(number * layout.n_base + np.arange(layout.n_base)) % order.size]
    test = (number * layout.n_test + np.arange(layout.n_test)) % len(counts)
    return np.concatenate([prompt[base].toarray(), counts[test]])


def _cells_of(window: int, layout: Layout, n_query: int) -> Ints:
    """Query cells whose prediction is taken from a window; what tops up the last one is left out."""
    return np.arange(window * layout.n_test, min((window + 1) * layout.n_test, n_query))


def _predict(
    model: StackModel,
    rows: Floats,
    windows: range,
    *,
    layout: Layout,
    found: Proposal,
    generator: torch.Generator | None,
) -> list[torch.Tensor]:
    """Fill in what the model says of ``windows``; returns the Poisson rates of all rows in the exact mode."""
    first_row = layout.n_base if generator is None else 0  # the reference's stream runs over the prompt rows too
    on_device = torch.from_numpy(rows).to(model.device)
    out = model.forward(on_device, n_ctx=layout.n_ctx, n_keep=layout.n_keep, first_row=first_row)
    mean, dispersion, logits = (part.cpu() for part in (out.mean, out.dispersion, out.logits))
    if not (torch.isfinite(logits).all() and torch.isfinite(mean).all() and torch.isfinite(dispersion).all()):
        msg = "the model gave values that are not finite: its weights are damaged or the counts far too large"
        raise ModelError(msg)
    rates = []
    for index, number in enumerate(windows):
        cells = _cells_of(number, layout, len(found.logits))
        test = slice(layout.n_base - first_row, layout.n_base - first_row + cells.size)
        found.mean[cells] = mean[index, test].numpy()
        found.logits[cells] = logits[index, test].numpy()
        found.dispersion[number] = dispersion[index].numpy()
        if generator is not None:
            rates.append(reference_rates(mean[index], dispersion[index], generator))
    return rates
