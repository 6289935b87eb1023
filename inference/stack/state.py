"""The state of a generation: tensors of its cells on the model's device, from which windows are assembled.

In: a model, prompt and query counts. Out: the query cells' counts, rewritten step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from inference.stack.batches import Batches
    from inference.stack.layout import Layout
    from inference.stack.model import StackModel

    Floats = NDArray[np.float32]

_SEED_BITS = 2**32  # numpy accepts seeds below this


@dataclass
class State:
    """One generation. What a cell brings into its windows is computed once, and again only after its counts change."""

    model: StackModel
    batches: Batches  # cells whose profiles are computed at once
    prompt: sparse.csr_matrix  # counts
    prompt_tokens: Tensor  # (prompt cells, cell_dim), first tokens of the cells that a window has used
    prompt_rows: Tensor  # (prompt cells, row_size), what these bring into a window as context
    is_embedded: NDArray[np.bool_]  # of the prompt cells
    prompt_library: Tensor  # (prompt cells,)
    rows: Tensor  # (query cells, row_size), what they bring into a window
    library: Tensor  # (query cells,)
    counts: Tensor  # (query cells, genes)
    expected: Tensor  # (query cells, genes)
    logits: Tensor  # (query cells,)
    final: Tensor  # (query cells, cell_dim): tokens after the last layer
    dispersion: Tensor  # (windows, genes)
    is_finite: Tensor  # whether all values since the last check were finite
    drawn_at: Tensor  # (query cells,): row of the dispersions drawn with, over all steps; -1 before the first draw
    marked: Tensor | None = None  # (windows, prompt cells, row_size) of the step: those that are marked as query cells
    drawn_with: list[Tensor] = field(default_factory=list)  # of each step that drew, its dispersions
    n_windows: int = 0

    @classmethod
    @torch.inference_mode()
    def begin(cls, model: StackModel, *, prompt: sparse.csr_matrix, query: Floats, batches: Batches) -> State:
        """Start with the unchanged query cells."""
        counts = torch.from_numpy(query.astype(np.float32, copy=True)).to(model.device)
        rows = counts.new_empty(len(counts), model.row_size)

        def embed_query(part: range) -> None:
            tokens = model.embed_cells(counts[part.start : part.stop])
            rows[part.start : part.stop] = model.enter(tokens, is_query=True)

        batches.run(len(counts), embed_query)
        n_cells = len(counts)
        return cls(
            model=model,
            batches=batches,
            prompt=prompt,
            prompt_tokens=counts.new_empty(prompt.shape[0], model.config.cell_dim),
            prompt_rows=counts.new_empty(prompt.shape[0], model.row_size),
            is_embedded=np.zeros(prompt.shape[0], dtype=bool),
            prompt_library=torch.from_numpy(np.asarray(prompt.sum(axis=1), dtype=np.float32)[:, 0]).to(model.device),
            rows=rows,
            library=counts.sum(-1),
            counts=counts,
            expected=torch.zeros_like(counts),
            logits=counts.new_empty(n_cells),
            final=counts.new_empty(n_cells, model.config.cell_dim),
            dispersion=counts.new_empty(0),
            is_finite=torch.ones((), dtype=torch.bool, device=model.device),
            drawn_at=torch.full((n_cells,), -1, dtype=torch.int64, device=model.device),
        )

    @torch.inference_mode()
    def begin_step(self, layout: Layout, *, seed: int) -> Tensor:
        """Allocate memory for the outputs of a step; returns the prompt cells in the random order of ``seed``."""
        self.n_windows = -(-len(self.counts) // layout.n_test)
        self.dispersion = self.counts.new_empty(self.n_windows, self.counts.shape[1])
        order = np.random.RandomState(seed % _SEED_BITS).permutation(len(self.prompt_tokens))
        used = order[: self.n_windows * layout.n_base]
        new = np.sort(used[~self.is_embedded[used]])

        def embed(part: range) -> None:  # only these few rows of the prompt are dense at once
            cells = new[part.start : part.stop]
            dense = torch.from_numpy(self.prompt[cells].toarray().astype(np.float32, copy=False))
            places = torch.from_numpy(cells).to(self.model.device)
            tokens = self.model.embed_cells(dense.to(self.model.device))
            self.prompt_tokens[places] = tokens
            self.prompt_rows[places] = self.model.enter(tokens, is_query=False)

        self.batches.run(len(new), embed)
        self.is_embedded[new] = True
        found = torch.from_numpy(order).to(self.model.device)
        if layout.n_ctx < layout.n_base:
            prompt, _ = self._cells_of(torch.arange(self.n_windows), layout=layout, order=found)
            cells = prompt[:, layout.n_ctx :]
            marked = self.model.enter(self.prompt_tokens[cells.flatten()], is_query=True)
            self.marked = marked.view(*cells.shape, -1)
        return found

    def window_rows(self, windows: Tensor, *, layout: Layout, order: Tensor) -> Tensor:
        """Rows of windows (windows, cells, row_size): prompt cells in ``order``, then query cells, both cyclically."""
        prompt, query = self._cells_of(windows, layout=layout, order=order)
        parts = [self.prompt_rows[prompt[:, : layout.n_ctx]], self.rows[query]]
        if layout.n_ctx < layout.n_base and self.marked is not None:
            parts.insert(1, self.marked[windows.to(order.device)])
        return torch.cat(parts, dim=1)

    def library_of(self, window: Tensor, *, layout: Layout, order: Tensor) -> Tensor:
        """Library size of each row of one window."""
        prompt, query = self._cells_of(window, layout=layout, order=order)
        return torch.cat([self.prompt_library[prompt[0]], self.library[query[0]]])

    def _cells_of(self, windows: Tensor, *, layout: Layout, order: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of prompt cells (windows, n_base) and of query cells (windows, n_test)."""
        prompt, query = window_cells(
            windows, layout=layout, n_prompt=len(order), n_query=len(self.counts), device=order.device
        )
        return order[prompt], query

    @torch.inference_mode()
    def learn(self, windows: Tensor, flat: Tensor, *, layout: Layout, needs_dispersion: bool) -> None:
        """Store the outputs for ``windows`` with final tokens ``flat``, but not of cells that only fill a window."""
        first, n_cells = int(windows[0]) * layout.n_test, len(windows) * layout.n_test
        cells = slice(first, min(first + n_cells, len(self.counts)))
        n_own = cells.stop - cells.start
        logits = self.model.predict_logits(flat, n_ctx=layout.n_ctx, first_row=layout.n_base)
        self.logits[cells] = logits.flatten()[:n_own].float()
        self.final[cells] = flat[:, layout.n_base :].flatten(0, 1)[:n_own]
        if needs_dispersion:
            own = slice(int(windows[0]), int(windows[-1]) + 1)
            self.dispersion[own] = self.model.predict_dispersion(flat[:, : layout.n_ctx])

    def read_logits(self) -> Floats:
        """Copy the logits of the step to the host, which is the only wait for a GPU in a step.

        Raises
        ------
        ModelError
            The logits, or other values stored since the last call, are not finite.
        """
        is_finite = self.is_finite & torch.isfinite(self.logits).all()
        if not is_finite:
            msg = "the model gave values that are not finite: its weights are damaged or the counts far too large"
            raise ModelError(msg)
        return self.logits.cpu().numpy().copy()

    @torch.inference_mode()
    def rewrite(self, cells: Tensor, *, n_test: int, draw: tuple[int, int] | None, is_last: bool) -> None:
        """Replace the counts of ``cells`` by their expected counts, or by draws from them at (seed, step)."""
        cells = cells.to(self.model.device)
        if draw is not None:
            self.check(self.dispersion)
            self.drawn_at[cells] = sum(map(len, self.drawn_with)) + cells // n_test
            self.drawn_with.append(self.dispersion)

        def work(places: range) -> None:
            part = cells[places.start : places.stop]
            if draw is None:
                mean = counts = self.model.predict_mean(self.final[part], self.library[part])
            else:
                logits = self.model.predict_mean_logits(self.final[part])
                mean, counts = self.model.ops.expect_and_draw(
                    logits,
                    self.library[part],
                    self.dispersion,
                    seed=draw[0],
                    step=draw[1],
                    cells=part,
                    window=part // n_test,
                )
            self.check(mean)
            self._put(part, mean, counts, is_last=is_last)

        self.batches.run(len(cells), work)
        if is_last:
            self.read_logits()

    @torch.inference_mode()
    def take(self, cells: Tensor, proposal: tuple[Tensor, Tensor], *, is_last: bool) -> None:
        """Replace the counts of ``cells`` by a proposal for all cells: expected counts and counts."""

        def work(places: range) -> None:
            part = cells[places.start : places.stop]
            self._put(part, proposal[0][part], proposal[1][part], is_last=is_last)

        self.batches.run(len(cells), work)

    def _put(self, cells: Tensor, expected: Tensor, counts: Tensor, *, is_last: bool) -> None:
        """Store all of it or, where memory runs out on the way, none."""
        rows = None if is_last else self.model.enter(self.model.embed_cells(counts), is_query=True)
        self.expected[cells] = expected
        self.counts[cells] = counts
        if rows is not None:
            self.library[cells] = counts.sum(-1)
            self.rows[cells] = rows

    def check(self, values: Tensor) -> None:
        """Remember whether ``values`` are finite; :meth:`read_logits` reports it."""
        self.is_finite = self.is_finite & torch.isfinite(values).all()


def window_cells(
    windows: Tensor, *, layout: Layout, n_prompt: int, n_query: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Positions in the prompt's order (windows, n_base) and numbers of query cells (windows, n_test) of windows."""
    prompt = (windows[:, None] * layout.n_base + torch.arange(layout.n_base)) % n_prompt
    query = (windows[:, None] * layout.n_test + torch.arange(layout.n_test)) % n_query
    return prompt.to(device, non_blocking=True), query.to(device, non_blocking=True)
