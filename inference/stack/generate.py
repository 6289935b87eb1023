"""In-context generation: query cells are rewritten step by step until they resemble the prompt's condition.

In: a model, prompt and query counts over its genes. Out: predicted counts, expected counts and a logit per cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from inference.errors import InputError
from inference.stack.exact import propose_exactly
from inference.stack.layout import choose_layout
from inference.stack.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy import sparse

    from inference.stack.config import GenerationSettings
    from inference.stack.layout import Layout
    from inference.stack.model import StackModel

    Floats = NDArray[np.float32]


class Step:
    """The state after one step; its arrays belong to the generation and change with the next step."""

    def __init__(self, number: int, state: State, *, logits: Floats, is_kept: NDArray[np.bool_]) -> None:
        self.number = number
        self.logits = logits  # per cell, of this step
        self.is_kept = is_kept  # cells this step left alone
        self._state = state

    @property
    def counts(self) -> Floats:
        """Query cells x genes."""
        return self._state.counts.cpu().numpy()

    @property
    def expected(self) -> Floats:
        """The mean that each cell's counts were last drawn from, cells x genes."""
        return self._state.expected.cpu().numpy()

    @property
    def dispersion(self) -> Floats | None:
        """Inverse dispersion that each cell's counts were last drawn with, cells x genes; None where none was kept."""
        state = self._state
        if not state.drawn_with or bool((state.drawn_at < 0).any()):
            return None
        return torch.cat(state.drawn_with)[state.drawn_at].cpu().numpy()


def context_schedule(settings: GenerationSettings) -> list[float]:
    """Context ratio of each step, float32 as in the reference."""
    if settings.mode == "vanilla" or settings.diffusion_steps == 1:
        return [settings.context_ratio] * settings.diffusion_steps
    first, last = settings.context_ratio_min, settings.context_ratio
    return [float(value) for value in torch.linspace(first, last, settings.diffusion_steps)]


def mask_schedule(n_steps: int) -> list[float]:
    """Share of the cells that stay masked after each step, float32 as in the reference."""
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
        Raw counts, cells x model genes, at least one cell each. Fewer cells than a window needs are used repeatedly.
    settings
        Steps, ratios, mode and output mode.
    seed
        Random seed of the prompt cells of each window and of the draws.

    Yields
    ------
    The state after each step. There are fewer steps than asked for where no masked cell is left.

    Raises
    ------
    InputError
        A role without cells.
    ModelError
        The model returned values that are not finite.

    References
    ----------
    Dong et al. 2026, doi 10.64898/2026.01.09.698608.
    """
    for role, n_cells in (("prompt", prompt.shape[0]), ("query", len(query))):
        if not n_cells:
            msg = f"there is no {role} cell; give at least one"
            raise InputError(msg)
    is_exact = settings.output_mode == "exact"
    state = State.begin(model.exactly() if is_exact else model, prompt=prompt, query=query)
    is_masked = np.ones(len(query), dtype=bool)
    shares = zip(mask_schedule(settings.diffusion_steps), context_schedule(settings), strict=True)
    for number, (share, context) in enumerate(shares, start=1):
        if not is_masked.any():
            return
        layout = choose_layout(model.config.n_cells, prompt_ratio=settings.prompt_ratio, context_ratio=context)
        if is_exact:
            sample = propose_exactly(state, layout=layout, batch_size=settings.batch_size, seed=seed + number)
        else:
            _propose(state, layout=layout, settings=settings, seed=seed, step=number)
        logits = state.read_logits()
        is_kept = np.zeros_like(is_masked)
        if settings.mode == "mdm":
            is_kept = choose_kept(logits, is_masked, share=share)
        new = np.flatnonzero(~is_kept)
        is_last = number == settings.diffusion_steps
        if is_exact:
            state.take(torch.from_numpy(new), sample, is_last=is_last)
        else:
            draw = (seed, number) if settings.output_mode == "sampled" else None
            state.rewrite(torch.from_numpy(new), n_test=layout.n_test, draw=draw, is_last=is_last)
        if settings.mode == "mdm":
            is_masked[new] = False
            is_masked |= logits > 0  # a cell rewritten earlier can be drawn again
        yield Step(number, state, logits=logits, is_kept=is_kept)


def choose_kept(logits: Floats, is_masked: NDArray[np.bool_], *, share: float) -> NDArray[np.bool_]:
    """Choose the cells that keep their counts: those not masked, and the masked ones with the highest logits.

    ``share`` is the share of all cells that stays masked. At least one cell must be masked.
    """
    n_masked, n_cells = int(is_masked.sum()), is_masked.size
    fraction = min(max((n_masked / n_cells - share) * n_cells / n_masked, 0.0), 1.0)
    masked = logits[is_masked].astype(np.float64)
    is_kept = ~is_masked
    is_kept[is_masked] = masked > np.quantile(masked, fraction)
    return is_kept


def _propose(state: State, *, layout: Layout, settings: GenerationSettings, seed: int, step: int) -> None:
    """Run the model once on every query cell; the state receives final tokens, logits and dispersions."""
    model, needs_dispersion = state.model, settings.output_mode == "sampled"
    if settings.fixed_prompt:
        order = state.order_prompt(seed)
        kept = state.keep_prompt(order[torch.arange(layout.n_keep, device=order.device) % len(order)])
    else:
        order, kept = state.order_prompt(seed + step), None
    state.begin_step(layout)
    # A processor computes windows one by one, so that rounding does not depend on the batch size.
    size = 1 if model.device.type == "cpu" else settings.batch_size
    for start in range(0, state.n_windows, size):
        windows = torch.arange(start, min(start + size, state.n_windows))
        base = torch.zeros_like(windows) if settings.fixed_prompt else windows
        rows = state.window_rows(windows, layout=layout, order=order, base=base)
        flat = model.run_layers(
            rows if kept is None else rows[:, layout.n_keep :].clone(),
            n_ctx=layout.n_ctx,
            n_keep=layout.n_keep,
            kept=kept,
        )
        state.learn(windows, flat, layout=layout, kept=kept, needs_dispersion=needs_dispersion)
