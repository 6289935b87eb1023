"""One-sided p values of a permutation test, in both directions.

In: nothing. Out: ``Tails``, and the sizes of the blocks in which draws are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

NAN = float("nan")
_BLOCK = 500  # draws made at a time, which bounds the memory


class Tails(NamedTuple):
    """One-sided p values of one statistic: ``up`` for larger, ``down`` for smaller than chance; NaN: not computed."""

    up: float = NAN
    down: float = NAN

    def expected(self, direction: int) -> float:
        """The p value of the expected direction, +1 or -1."""
        return self.up if direction > 0 else self.down


def block_sizes(n_draws: int) -> Iterator[int]:
    """Sizes of the blocks that make ``n_draws`` draws."""
    yield from (min(_BLOCK, n_draws - start) for start in range(0, n_draws, _BLOCK))
