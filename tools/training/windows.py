"""Training windows: prompt cells of a treatment, query cells of one type, and the targets of the query cells.

In: a world, its basis, and the tokens of all its cells. Out: batches of tokens with target coordinates, which never
contain a held-out pair. Some query rows are already rewritten, as the later steps of a generation find them. The model
must return these unchanged, because otherwise a second step would add the response again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tools.training.world import UNTREATED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from scipy import sparse

    from inference.stack.config import GenerationSettings
    from tools.training.profiles import Basis
    from tools.training.world import World

    Ints = NDArray[np.int64]
    Tokens = torch.Tensor

_FRAC_UNTREATED = 0.2  # windows with an untreated prompt
_FRAC_ANY_TYPES = 0.15  # prompts from any cell types, not only those measured together
_FRAC_OTHERS = 0.8  # prompts without the cell type asked about
_FRAC_MIXED = 0.2  # windows whose query cells are of many types
_FRAC_FIRST_STEP = 0.3  # windows in which no query cell is rewritten yet
_FRAC_SMOOTH = 0.4  # windows whose rewritten cells are means, as in output mode "expected"
_MEAN_DEPTH = 1500.0  # counts per cell of such means
_EVENNESS = 2.0  # of the cell types in a prompt: parameter of a Dirichlet distribution


@dataclass(frozen=True)
class Layout:
    """Rows of a window; ``frac_rewritten`` of its query rows are as a later step of the generation finds them."""

    n_cells: int
    n_ctx: int
    n_keep: int
    frac_rewritten: float


@dataclass(frozen=True)
class Batch:
    """Windows of one layout."""

    tokens: torch.Tensor  # (windows, cells, cell_dim)
    target: torch.Tensor  # (windows, query rows, coordinates)
    is_open: torch.Tensor  # (windows, query rows): not rewritten yet; the others are to stay what they are
    is_wrong: torch.Tensor  # (windows, query rows): 1 where the row is not in the state that the prompt shows
    is_uniform: torch.Tensor  # (windows,): query cells of one type


class Windows:
    """Draws batches.

    Parameters
    ----------
    world, basis
        Cells, and the coordinates their targets are given in.
    tokenise
        Counts of cells -> their tokens; called once for all cells.
    """

    def __init__(self, world: World, basis: Basis, *, tokenise: Callable[[sparse.csr_matrix], Tokens]) -> None:
        self._world = world
        states = (UNTREATED, *range(len(world.is_drug)))
        self._control = tokenise(world.control)
        self._of_type = [np.flatnonzero(world.control_type == number) for number in range(world.n_types)]
        self._treated = {key: tokenise(cells) for key, cells in world.treated.items()}
        self._means = {number: tokenise(world.share[1 + number] * _MEAN_DEPTH) for number in states}
        self._typical = {
            number: torch.tensor(basis.coordinates(world.share[1 + number]), dtype=torch.float32) for number in states
        }
        every = np.arange(len(world.control_type))
        self._target = {
            number: torch.tensor(basis.coordinates(world.true_share(every, number)), dtype=torch.float32)
            for number in states
        }

    def draw(self, n_windows: int, *, layout: Layout, rng: np.random.Generator) -> Batch:
        """Draw a batch."""
        parts = [self._window(layout, rng) for _ in range(n_windows)]
        return Batch(*(torch.stack(list(part)) for part in zip(*parts, strict=True)))

    def _window(self, layout: Layout, rng: np.random.Generator) -> tuple[Tokens, Tokens, Tokens, Tokens, Tokens]:
        world, n_query = self._world, layout.n_cells - layout.n_ctx
        treatment = UNTREATED if rng.random() < _FRAC_UNTREATED else int(rng.choice(world.trainable()))
        shown = world.shown(treatment)
        asked = int(rng.choice(shown))
        prompt_types = self._prompt_types(treatment, asked, rng)
        weights = rng.dirichlet(np.full(prompt_types.size, _EVENNESS))
        numbers = rng.choice(prompt_types, layout.n_ctx, p=weights)
        context = torch.stack([self._cell(treatment, int(number), rng) for number in numbers])
        is_mixed = rng.random() < _FRAC_MIXED
        types = rng.choice(shown, n_query) if is_mixed else np.full(n_query, asked)
        cells = np.array([rng.choice(self._of_type[number]) for number in types])
        query = self._control[cells].clone()
        is_open = np.ones(n_query, dtype=bool)
        is_open[rng.permutation(n_query)[: round(layout.frac_rewritten * n_query)]] = False
        is_smooth = rng.random() < _FRAC_SMOOTH
        target = self._target[treatment][cells]
        for row in np.flatnonzero(~is_open):
            number = int(types[row])
            target[row] = self._typical[treatment][number]
            query[row] = self._means[treatment][number] if is_smooth else self._cell(treatment, number, rng)
        share = world.share
        answers = np.zeros(n_query, dtype=bool)  # whether each query cell's type responds to the treatment at all
        if treatment != UNTREATED:
            answers = np.array([not np.array_equal(share[1 + treatment, one], share[0, one]) for one in types])
        return (
            torch.cat([context, query]),
            target,
            torch.tensor(is_open),
            torch.tensor((is_open & answers).astype(np.float32)),
            torch.tensor(not is_mixed),
        )

    def _prompt_types(self, treatment: int, asked: int, rng: np.random.Generator) -> Ints:
        shown = self._world.shown(treatment)
        family = int(self._world.is_drug[treatment]) if treatment != UNTREATED else int(rng.integers(2))
        together = shown[self._world.families[family][shown]]
        pool = shown if rng.random() < _FRAC_ANY_TYPES or not together.size else together
        chosen = rng.permutation(pool)[: rng.integers(1, pool.size + 1)]
        others = chosen[chosen != asked]
        return others if others.size and rng.random() < _FRAC_OTHERS else chosen

    def _cell(self, treatment: int, cell_type: int, rng: np.random.Generator) -> Tokens:
        if treatment == UNTREATED:
            return self._control[rng.choice(self._of_type[cell_type])]
        cells = self._treated[treatment, cell_type]
        return cells[int(rng.integers(len(cells)))]


def draw_layout(n_cells: int, *, settings: GenerationSettings, rng: np.random.Generator) -> Layout:
    """Layout of a step of the generation: more often of its first, where nothing is rewritten."""
    ratios = np.linspace(settings.context_ratio_min, settings.context_ratio, settings.diffusion_steps)
    step = int(rng.integers(settings.diffusion_steps))
    frac = 0.0 if rng.random() < _FRAC_FIRST_STEP else step / settings.diffusion_steps
    share = settings.prompt_ratio + float(ratios[step])
    return Layout(n_cells, int(share * n_cells), int(settings.prompt_ratio * n_cells), frac)
