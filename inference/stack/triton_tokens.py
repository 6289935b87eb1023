"""Triton kernels on a cell's own tokens: attention inside the cell, and the token-wise network.

In: tokens (cells, H, D) and one layer's weights, of any float type. Out: new tokens, shape and type of the old. Each
kernel reads its tokens once and writes them once; sums are float32.

A head may be two numbers wide, too narrow for matrix units. So no head is cut out: queries are set to zero outside the
head, and the product over all D dimensions is the head's own; of values times weights only the head's columns are kept.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from inference.stack.config import NORM_EPS

MAX_ROW = 16_384  # numbers of a row whose sum is normalised
MAX_TOKEN_DIM = 32  # beyond, a program's part no longer fits its registers

_NORM_EPS = tl.constexpr(NORM_EPS)
_LOG2_E = tl.constexpr(1.4426950408889634)
_WHOLE_CELL = 128  # up to here one program holds all tokens of a cell
_PART = 64  # else so many at a time
_HIDDEN = 64  # hidden units of the token-wise network at a time
_TOKENS = 64  # tokens per program of the token-wise network
_SMALLEST_DOT = 16
_KINDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def mix_tokens(
    tokens: torch.Tensor,
    *,
    place: torch.Tensor,
    qkv: torch.Tensor,
    proj: torch.Tensor,
    proj_bias: torch.Tensor,
    norm: torch.Tensor,
    norm_bias: torch.Tensor,
    n_heads: int,
    operand: torch.dtype,
) -> torch.Tensor:
    """LN(x + MHA(x + place)) inside each cell.

    Parameters
    ----------
    tokens
        (cells, H, D), D up to ``MAX_TOKEN_DIM``.
    place
        (H, D), added to the attention's input only.
    qkv
        (3 D, D), laid out (3, heads, head_dim).
    proj, proj_bias
        (D, D) and (D,).
    norm, norm_bias
        (D,) each.
    n_heads
        Divides D.
    operand
        Type that the factors of matrix products are rounded to.
    """
    n_cells, n_tokens, size = tokens.shape
    tokens, result = tokens.contiguous(), torch.empty_like(tokens, memory_format=torch.contiguous_format)
    is_whole = n_tokens <= _WHOLE_CELL
    block = max(_SMALLEST_DOT, triton.next_power_of_2(n_tokens)) if is_whole else _PART
    weights = [part.contiguous() for part in (place, qkv, proj, proj_bias, norm, norm_bias)]
    with torch.cuda.device_of(tokens):
        _mix[(n_cells, triton.cdiv(n_tokens, block))](
            tokens,
            result,
            *weights,
            (size // n_heads) ** -0.5,
            N_TOKENS=n_tokens,
            SIZE=size,
            N_HEADS=n_heads,
            BLOCK=block,
            BLOCK_SIZE=_padded(size),
            IS_WHOLE=is_whole,
            KIND=_KINDS[operand],
            num_warps=8 if block >= _WHOLE_CELL else 4,
        )
    return result


def transform_tokens(
    tokens: torch.Tensor,
    *,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    norm: torch.Tensor,
    norm_bias: torch.Tensor,
    operand: torch.dtype,
) -> torch.Tensor:
    """LN(x + W2 GELU(W1 x + b1) + b2) for each token.

    Parameters
    ----------
    tokens
        (cells, H, D), D up to ``MAX_TOKEN_DIM``.
    w1, b1, w2, b2
        (hidden, D), (hidden,), (D, hidden), (D,).
    norm, norm_bias
        (D,) each.
    operand
        Type that the factors of matrix products are rounded to.
    """
    size, n_hidden = tokens.shape[-1], w1.shape[0]
    tokens, result = tokens.contiguous(), torch.empty_like(tokens, memory_format=torch.contiguous_format)
    n_tokens = tokens.numel() // size
    weights = [part.contiguous() for part in (w1, b1, w2, b2, norm, norm_bias)]
    with torch.cuda.device_of(tokens):
        _transform[(triton.cdiv(n_tokens, _TOKENS),)](
            tokens,
            result,
            *weights,
            n_tokens,
            SIZE=size,
            N_HIDDEN=n_hidden,
            BLOCK=_TOKENS,
            BLOCK_SIZE=_padded(size),
            BLOCK_HIDDEN=min(_HIDDEN, _padded(n_hidden)),
            KIND=_KINDS[operand],
            num_warps=4,
        )
    return result


def add_and_normalise(
    rows: torch.Tensor, changed: torch.Tensor, *, norm: torch.Tensor, norm_bias: torch.Tensor
) -> torch.Tensor:
    """LN(rows + changed) of rows (..., size) of any length, read once and written once.

    Parameters
    ----------
    rows, changed
        Of one shape and type.
    norm, norm_bias
        (size,) each.
    """
    size = rows.shape[-1]
    rows, changed = rows.contiguous(), changed.contiguous()
    result = torch.empty_like(rows)
    block = int(triton.next_power_of_2(size))
    with torch.cuda.device_of(rows):
        _add_and_normalise[(rows.numel() // size,)](
            rows,
            changed,
            result,
            norm.contiguous(),
            norm_bias.contiguous(),
            SIZE=size,
            BLOCK=block,
            num_warps=min(8, max(1, block // 256)),
        )
    return result


def _padded(size: int) -> int:
    return max(_SMALLEST_DOT, int(triton.next_power_of_2(size)))


@triton.jit
def _mix(
    tokens: tl.tensor,
    result: tl.tensor,
    place: tl.tensor,
    qkv: tl.tensor,
    proj: tl.tensor,
    proj_bias: tl.tensor,
    norm: tl.tensor,
    norm_bias: tl.tensor,
    scale: tl.tensor,
    N_TOKENS: tl.constexpr,
    SIZE: tl.constexpr,
    N_HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    KIND: tl.constexpr,
) -> None:
    """One program: up to BLOCK tokens of one cell, against all its tokens."""
    first = tl.program_id(0).to(tl.int64) * (N_TOKENS * SIZE)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, BLOCK_SIZE)
    own = _load(tokens + first, rows, N_TOKENS, SIZE, BLOCK_SIZE)
    placed = (own + _load(place, rows, N_TOKENS, SIZE, BLOCK_SIZE)).to(KIND)
    query = tl.dot(placed, _load_turned(qkv, 0, KIND, SIZE, BLOCK_SIZE), input_precision="ieee")
    query *= scale * _LOG2_E  # powers of 2 are what the hardware has
    key_weight = _load_turned(qkv, SIZE, KIND, SIZE, BLOCK_SIZE)
    value_weight = _load_turned(qkv, 2 * SIZE, KIND, SIZE, BLOCK_SIZE)
    key = tl.dot(placed, key_weight, input_precision="ieee").to(KIND)
    value = tl.dot(placed, value_weight, input_precision="ieee").to(KIND)
    mixed = tl.zeros((BLOCK, BLOCK_SIZE), tl.float32)
    for head in range(N_HEADS):
        in_head = (dims // (SIZE // N_HEADS) == head)[None, :]
        own_query = tl.where(in_head, query, 0.0).to(KIND)
        highest = tl.full((BLOCK,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        drawn = tl.zeros((BLOCK, BLOCK_SIZE), tl.float32)
        for start in range(0, N_TOKENS, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            if not IS_WHOLE:
                seen = _load(tokens + first, columns, N_TOKENS, SIZE, BLOCK_SIZE)
                seen = (seen + _load(place, columns, N_TOKENS, SIZE, BLOCK_SIZE)).to(KIND)
                key = tl.dot(seen, key_weight, input_precision="ieee").to(KIND)
                value = tl.dot(seen, value_weight, input_precision="ieee").to(KIND)
            score = tl.dot(own_query, tl.trans(key), input_precision="ieee")
            score = tl.where((columns < N_TOKENS)[None, :], score, float("-inf"))
            higher = tl.maximum(highest, tl.max(score, 1))
            weight = tl.exp2(score - higher[:, None])
            shrink = tl.exp2(highest - higher)
            total = total * shrink + tl.sum(weight, 1)
            drawn = tl.dot(weight.to(KIND), value, drawn * shrink[:, None], input_precision="ieee")
            highest = higher
        mixed = tl.where(in_head, drawn / total[:, None], mixed)
    out = tl.dot(mixed.to(KIND), _load_turned(proj, 0, KIND, SIZE, BLOCK_SIZE), input_precision="ieee")
    out += _load_vector(proj_bias, dims, SIZE)[None, :]
    out = _normalise(own + out, norm, norm_bias, SIZE, BLOCK_SIZE)
    place_of = first + rows[:, None] * SIZE + dims[None, :]
    tl.store(
        result + place_of, out.to(result.dtype.element_ty), mask=(rows < N_TOKENS)[:, None] & (dims < SIZE)[None, :]
    )


@triton.jit
def _transform(
    tokens: tl.tensor,
    result: tl.tensor,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    b2: tl.tensor,
    norm: tl.tensor,
    norm_bias: tl.tensor,
    n_tokens: tl.tensor,
    SIZE: tl.constexpr,
    N_HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    KIND: tl.constexpr,
) -> None:
    """One program: BLOCK tokens, whatever cell they are of."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, BLOCK_SIZE)
    own = _load(tokens, rows, n_tokens, SIZE, BLOCK_SIZE)
    out = tl.zeros((BLOCK, BLOCK_SIZE), tl.float32)
    for start in range(0, N_HIDDEN, BLOCK_HIDDEN):
        hidden = start + tl.arange(0, BLOCK_HIDDEN)
        is_unit = hidden < N_HIDDEN
        is_weight = (dims < SIZE)[:, None] & is_unit[None, :]
        into = tl.load(w1 + hidden[None, :] * SIZE + dims[:, None], mask=is_weight, other=0.0).to(KIND)
        back = tl.load(w2 + dims[None, :] * N_HIDDEN + hidden[:, None], mask=tl.trans(is_weight), other=0.0).to(KIND)
        unit = tl.dot(own.to(KIND), into, input_precision="ieee") + _load_vector(b1, hidden, N_HIDDEN)[None, :]
        unit = 0.5 * unit * (1.0 + tl.erf(unit * 0.7071067811865476))
        out = tl.dot(unit.to(KIND), back, out, input_precision="ieee")
    out += _load_vector(b2, dims, SIZE)[None, :]
    out = _normalise(own + out, norm, norm_bias, SIZE, BLOCK_SIZE)
    place_of = rows[:, None] * SIZE + dims[None, :]
    tl.store(
        result + place_of, out.to(result.dtype.element_ty), mask=(rows < n_tokens)[:, None] & (dims < SIZE)[None, :]
    )


@triton.jit
def _add_and_normalise(
    rows: tl.tensor,
    changed: tl.tensor,
    result: tl.tensor,
    norm: tl.tensor,
    norm_bias: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: one row."""
    dims = tl.arange(0, BLOCK)
    is_there = dims < SIZE
    place = tl.program_id(0).to(tl.int64) * SIZE + dims
    x = tl.load(rows + place, mask=is_there, other=0.0).to(tl.float32)
    x += tl.load(changed + place, mask=is_there, other=0.0).to(tl.float32)
    centred = tl.where(is_there, x - tl.sum(x, 0) / SIZE, 0.0)
    scaled = centred * tl.rsqrt(tl.sum(centred * centred, 0) / SIZE + _NORM_EPS)
    out = scaled * _load_vector(norm, dims, SIZE) + _load_vector(norm_bias, dims, SIZE)
    tl.store(result + place, out.to(result.dtype.element_ty), mask=is_there)


@triton.jit
def _load(start: tl.tensor, rows: tl.tensor, n_rows: tl.tensor, SIZE: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    """Rows of a matrix of SIZE columns as float32; 0 beyond its borders."""
    dims = tl.arange(0, BLOCK)
    is_there = (rows < n_rows)[:, None] & (dims < SIZE)[None, :]
    return tl.load(start + rows[:, None] * SIZE + dims[None, :], mask=is_there, other=0.0).to(tl.float32)


@triton.jit
def _load_turned(
    start: tl.tensor, first_row: tl.constexpr, KIND: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr
) -> tl.tensor:
    """A square weight (out, in), from its row ``first_row`` on, as (in, out)."""
    dims = tl.arange(0, BLOCK)
    is_there = (dims < SIZE)[:, None] & (dims < SIZE)[None, :]
    return tl.load(start + (first_row + dims[None, :]) * SIZE + dims[:, None], mask=is_there, other=0.0).to(KIND)


@triton.jit
def _load_vector(start: tl.tensor, places: tl.tensor, n: tl.constexpr) -> tl.tensor:
    return tl.load(start + places, mask=places < n, other=0.0).to(tl.float32)


@triton.jit
def _normalise(
    x: tl.tensor, norm: tl.tensor, norm_bias: tl.tensor, SIZE: tl.constexpr, BLOCK: tl.constexpr
) -> tl.tensor:
    """Layer norm of rows whose columns from SIZE on are padding."""
    dims = tl.arange(0, BLOCK)
    is_there = (dims < SIZE)[None, :]
    centred = tl.where(is_there, x - tl.sum(tl.where(is_there, x, 0.0), 1)[:, None] / SIZE, 0.0)
    scaled = centred * tl.rsqrt(tl.sum(centred * centred, 1) / SIZE + _NORM_EPS)[:, None]
    return scaled * _load_vector(norm, dims, SIZE)[None, :] + _load_vector(norm_bias, dims, SIZE)[None, :]
