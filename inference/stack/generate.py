"""In-context generation: query cells are rewritten step by step until they resemble the prompt's condition.

In: a model, prompt and query counts over its genes. Out: predicted counts, expected counts and a logit per cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference.errors import InputError, ModelError
from inference.stack.batches import Limits
from inference.stack.exact import propose_exactly
from inference.stack.layout import choose_layout, context_schedule
from inference.stack.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
        self._made = torch.cuda.current_stream().record_event() if state.counts.is_cuda else None

    @property
    def counts(self) -> Floats:
        """Query cells x genes."""
        return self._copy(lambda state: state.counts)

    @property
    def expected(self) -> Floats:
        """The mean that each cell's counts were last drawn from, cells x genes."""
        return self._copy(lambda state: state.expected)

    @property
    def dispersion(self) -> Floats | None:
        """Inverse dispersion that each cell's counts were last drawn with, cells x genes; None where none was kept."""
        state = self._state
        if not state.drawn_with or bool((state.drawn_at < 0).any()):
            return None
        return self._copy(lambda state: torch.cat(state.drawn_with)[state.drawn_at])

    def _copy(self, choose: Callable[[State], torch.Tensor]) -> Floats:
        """Copy a tensor to the host; from a GPU beside the work of later predictions, not behind it."""
        if self._made is None:
            return choose(self._state).numpy()
        stream = torch.cuda.Stream(self._state.counts.device)
        stream.wait_event(self._made)
        with torch.cuda.stream(stream):
            return choose(self._state).cpu().numpy()


def mask_schedule(n_steps: int) -> list[float]:
    """Share of the cells that stay masked after each step, float32 as in the reference."""
    share = 1 - torch.arange(1, n_steps + 1, dtype=torch.float32) / n_steps
    share[-1] = 0.0
    return [float(value) for value in share]


def count_windows(n_cells: int, n_query: int, *, settings: GenerationSettings) -> int:
    """Windows of ``n_cells`` cells that ``n_query`` query cells need in the step that needs the most."""
    layouts = [
        choose_layout(n_cells, prompt_ratio=settings.prompt_ratio, context_ratio=context)
        for context in context_schedule(settings)
    ]
    return -(-n_query // min(layout.n_test for layout in layouts))


class Generation:
    """One prediction on its way: its cells, and which of them are still masked.

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
    limits
        How much is computed at once.

    Raises
    ------
    InputError
        A role without cells.
    EngineError
        The memory does not hold the cells.
    """

    def __init__(
        self,
        model: StackModel,
        *,
        prompt: sparse.csr_matrix,
        query: Floats,
        settings: GenerationSettings,
        seed: int,
        limits: Limits,
    ) -> None:
        for role, n_cells in (("prompt", prompt.shape[0]), ("query", len(query))):
            if not n_cells:
                msg = f"there is no {role} cell; give at least one"
                raise InputError(msg)
        own = model.exactly() if settings.output_mode == "exact" else model
        self.seed = seed
        self.state = State.begin(own, prompt=prompt, query=query, batches=limits.cells)
        self.step: Step | None = None  # the last one
        self.error: ModelError | None = None  # why it ended early
        self._settings = settings
        self._is_masked = np.ones(len(query), dtype=bool)

    def release(self) -> None:
        """Let go of the cells, once everything of the last step is read."""
        self.step = None
        del self.state

    @property
    def is_going(self) -> bool:
        """Whether masked cells are left."""
        return self.error is None and bool(self._is_masked.any())

    def propose_exactly(self, layout: Layout, *, number: int) -> None:
        """Run the model once on every query cell with the random stream of the reference."""
        self._sample = propose_exactly(
            self.state, layout=layout, batch_size=self._settings.batch_size, seed=self.seed + number
        )

    def read_logits(self) -> Floats | None:
        """Logits of the step; None, and the reason in ``error``, where a value is not finite."""
        try:
            return self.state.read_logits()
        except ModelError as error:
            self.error = error
            return None

    def accept(self, logits: Floats, *, layout: Layout, number: int, share: float) -> None:
        """Rewrite the cells that the logits choose; ``share`` of all cells stays masked."""
        settings, is_masked = self._settings, self._is_masked
        is_kept = np.zeros_like(is_masked)
        if settings.mode == "mdm":
            is_kept = choose_kept(logits, is_masked, share=share)
        new = np.flatnonzero(~is_kept)
        is_last = number == settings.diffusion_steps
        try:
            if settings.output_mode == "exact":
                self.state.take(torch.from_numpy(new), self._sample, is_last=is_last)
            else:
                draw = (self.seed, number) if settings.output_mode == "sampled" else None
                self.state.rewrite(torch.from_numpy(new), n_test=layout.n_test, draw=draw, is_last=is_last)
        except ModelError as error:
            self.error = error
            return
        if settings.mode == "mdm":
            is_masked[new] = False
            is_masked |= logits > 0  # a cell rewritten earlier can be drawn again
        self.step = Step(number, self.state, logits=logits, is_kept=is_kept)


def iterate_steps(
    model: StackModel,
    *,
    prompt: sparse.csr_matrix,
    query: Floats,
    settings: GenerationSettings,
    seed: int,
    limits: Limits | None = None,
) -> Iterator[Step]:
    """Run one generation a step at a time; see :class:`Generation`.

    Yields
    ------
    The state after each step. There are fewer steps than asked for where no masked cell is left.

    Raises
    ------
    ModelError
        The model returned values that are not finite.
    EngineError
        The memory of the device does not hold one window.

    References
    ----------
    Dong et al. 2026, doi 10.64898/2026.01.09.698608.
    """
    limits = limits or Limits.of(model.device, settings)
    one = Generation(model, prompt=prompt, query=query, settings=settings, seed=seed, limits=limits)
    for _ in advance([one], settings=settings, limits=limits):
        if one.error is not None:
            raise one.error
        if one.step is not None:
            yield one.step


def advance(generations: Sequence[Generation], *, settings: GenerationSettings, limits: Limits) -> Iterator[int]:
    """Run several generations of one model together, whose windows share its batches.

    Parameters
    ----------
    generations
        With equal settings; each has its own cells, seed and masks. One that fails keeps its error, and the others go
        on.
    settings, limits
        As the generations have them.

    Yields
    ------
    The number of each step, after it.
    """
    is_exact = settings.output_mode == "exact"
    shares = zip(mask_schedule(settings.diffusion_steps), context_schedule(settings), strict=True)
    for number, (share, context) in enumerate(shares, start=1):
        going = [one for one in generations if one.is_going]
        if not going:
            return
        n_cells = going[0].state.model.config.n_cells
        layout = choose_layout(n_cells, prompt_ratio=settings.prompt_ratio, context_ratio=context)
        if is_exact:
            for one in going:
                one.propose_exactly(layout, number=number)
        else:
            _propose(going, layout=layout, settings=settings, step=number, limits=limits)
        # All logits are read before any cell is rewritten, so that a GPU has the work of all of them at once.
        for one, logits in [(one, one.read_logits()) for one in going]:
            if logits is not None:
                one.accept(logits, layout=layout, number=number, share=share)
        yield number


def choose_kept(logits: Floats, is_masked: NDArray[np.bool_], *, share: float) -> NDArray[np.bool_]:
    """Choose the cells that keep their counts: those not masked, and the masked ones with the highest logits.

    ``share`` is the share of all cells that stays masked. At least one cell must be masked.
    """
    n_masked, n_cells = int(is_masked.sum()), is_masked.size
    fraction = min(max((n_masked / n_cells - share) * n_cells / n_masked, 0.0), 1.0)
    masked = logits[is_masked]
    is_kept = ~is_masked
    # As in the reference, the quantile is interpolated between float32 values and is itself float64.
    is_kept[is_masked] = masked > np.quantile(masked, np.float64(fraction))
    return is_kept


@dataclass(frozen=True)
class _Turn:
    """A generation in one step."""

    state: State
    order: torch.Tensor  # of its prompt cells


def _propose(
    going: Sequence[Generation], *, layout: Layout, settings: GenerationSettings, step: int, limits: Limits
) -> None:
    """Run the model once on every query cell; the states receive final tokens, logits and dispersions."""
    turns = [_Turn(one.state, one.state.begin_step(layout, seed=one.seed + step)) for one in going]
    ends = np.cumsum([turn.state.n_windows for turn in turns])

    def work(part: range) -> None:
        shares = []
        for turn, end in zip(turns, ends.tolist(), strict=True):
            first = end - turn.state.n_windows
            low, high = max(part.start, first), min(part.stop, end)
            if low < high:
                shares.append((turn, torch.arange(low - first, high - first)))
        _run_windows(shares, layout=layout, settings=settings)

    limits.windows.run(int(ends[-1]), work)


def _run_windows(shares: Sequence[tuple[_Turn, torch.Tensor]], *, layout: Layout, settings: GenerationSettings) -> None:
    """Run the model on the windows of one batch, of one or several generations."""
    parts = [turn.state.window_rows(windows, layout=layout, order=turn.order) for turn, windows in shares]
    rows = parts[0] if len(parts) == 1 else torch.cat(parts)
    flat = shares[0][0].state.model.run_layers(rows, n_keep=layout.n_keep)
    for (turn, windows), own in zip(shares, flat.split([len(part) for part in parts]), strict=True):
        turn.state.learn(windows, own, layout=layout, needs_dispersion=settings.output_mode == "sampled")
