"""Attention over the cells of a window, whose first rows attend only to each other.

In: queries, keys and values of all rows. Out: the mixed rows, as the projection after it takes them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

if TYPE_CHECKING:
    from torch import Tensor


def attend_by_mask(query: Tensor, key: Tensor, value: Tensor, *, n_keep: int) -> Tensor:
    """One call for all rows, with a mask.

    Parameters
    ----------
    query, key, value
        (windows, heads, rows, head_dim).
    n_keep
        Rows that attend only to each other; the others attend to all.

    Returns
    -------
    (windows, rows, heads * head_dim), contiguous.
    """
    mask = _mask(query.shape[2], n_keep, query.device) if n_keep else None
    return _flat(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


def attend_in_two(query: Tensor, key: Tensor, value: Tensor, *, n_keep: int) -> Tensor:
    """Two calls without a mask, each written to its place; see :func:`attend_by_mask`."""
    if not n_keep:
        return _flat(F.scaled_dot_product_attention(query, key, value))
    n_windows, n_heads, n_rows, size = query.shape
    mixed = query.new_empty(n_windows, n_rows, n_heads, size)
    first = slice(None, n_keep)
    alone = F.scaled_dot_product_attention(query[:, :, first], key[:, :, first], value[:, :, first])
    mixed[:, :n_keep] = alone.transpose(1, 2)
    mixed[:, n_keep:] = F.scaled_dot_product_attention(query[:, :, n_keep:], key, value).transpose(1, 2)
    return mixed.flatten(2)


def _flat(mixed: Tensor) -> Tensor:
    return mixed.transpose(1, 2).flatten(2)


@lru_cache(maxsize=32)  # layers and windows share it; a graph that was recorded with it needs it to stay
def _mask(n_rows: int, n_keep: int, device: torch.device) -> Tensor:
    """Whether a row (first axis) sees another one."""
    mask = torch.ones(n_rows, n_rows, dtype=torch.bool, device=device)
    mask[:n_keep, n_keep:] = False
    return mask
