"""What the forward and backward kernels share: how inputs lie in memory, tiles read and written, the product."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


class Matrices(NamedTuple):
    """An input [B, H, length, width] as the kernels take it; capitals are compile-time constants.

    One of the last two strides is 1: that of the width, or that of the length as in the U-Net. Under BY_ROW (the first
    case) the step is a constant too, as it does not change with the length. VECTOR > 1 promises that all rows (columns,
    where the length is contiguous) start at multiples of 16 bytes, VECTOR elements: the compiler makes wide loads.

    A tile is a tuple of one or two parts with COLS and REST columns, powers of two: a width of 72 is cut into 64 and 16
    columns, which saves three eighths of the work of 128.

    Triton compiles anew when an integer in a tuple becomes 1 or a multiple of 16, which strides do as lengths change.
    Strides that are no constants are therefore given as 2 stride + 3, see `stride_code`: odd and never 1.
    """

    pointer: Any
    stride_b: Any
    stride_h: Any
    step: Any  # the stride that is not 1, in elements; 256 of them fit 31 bits
    BY_ROW: Any
    WIDTH: Any
    COLS: Any
    REST: Any  # columns of the second part of a tile, 0 for none
    VECTOR: Any


def stride_code(stride: int) -> int:
    """A stride as `Matrices` carries it."""
    return 2 * stride + 3


@triton.jit
def stride_of(code):
    """The stride from its code, 64-bit."""
    return (code.to(tl.int64) - 3) // 2


@triton.jit
def load_tile(x, batch, head, start, length, ROWS: tl.constexpr, CHECK: tl.constexpr):
    """Tile [ROWS, COLS + REST] from row `start` of one head of `x`, 0 outside of it.

    CHECK = False promises start + ROWS <= length.
    """
    part = load_part(x, batch, head, start, length, ROWS, 0, x.COLS, CHECK)
    return (part, load_part(x, batch, head, start, length, ROWS, x.COLS, x.REST, CHECK)) if x.REST > 0 else (part,)


@triton.jit
def load_part(
    x, batch, head, start, length, ROWS: tl.constexpr, FIRST: tl.constexpr, COLS: tl.constexpr, CHECK: tl.constexpr
):
    """Columns FIRST .. FIRST + COLS of a tile. The offset of the tile is 64-bit, offsets inside it are 32-bit."""
    rows, cols = tl.arange(0, ROWS), tl.arange(0, COLS) + FIRST
    pointer = x.pointer + batch * stride_of(x.stride_b) + head * stride_of(x.stride_h)
    if x.BY_ROW:
        pointer += tl.cast(x.step, tl.int64) * start
        offsets = rows[:, None] * x.step + cols[None, :]
        stop = length
    else:
        pointer += start
        offsets = rows[:, None] + cols[None, :] * (stride_of(x.step).to(tl.int32) // x.VECTOR * x.VECTOR)
        stop = length // x.VECTOR * x.VECTOR  # this is the length: the mask consists of whole vectors
    if x.VECTOR > 1:
        pointer = tl.multiple_of(pointer, 16)
    if CHECK:
        inside = ((start + rows)[:, None] < stop) & (cols[None, :] < x.WIDTH)
        tile = tl.load(pointer + offsets, mask=inside, other=0.0)
    elif x.WIDTH < FIRST + COLS:
        tile = tl.load(pointer + offsets, mask=cols[None, :] < x.WIDTH, other=0.0)
    else:
        tile = tl.load(pointer + offsets)
    return tile


@triton.jit
def store_tile(pointer, index, start, length, tile, x):
    """Write what lies inside of a tile to matrix number `index` of a contiguous [..., length, width of x]."""
    store_part(pointer, index, start, length, tile[0], 0, x.WIDTH)
    if x.REST > 0:
        store_part(pointer, index, start, length, tile[1], x.COLS, x.WIDTH)


@triton.jit
def store_part(pointer, index, start, length, tile, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    """Write the columns of a tile from FIRST on."""
    rows, cols = tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1]) + FIRST
    pointer += (index.to(tl.int64) * length + start) * WIDTH
    inside = ((start + rows)[:, None] < length) & (cols[None, :] < WIDTH)
    tl.store(pointer + (rows[:, None] * WIDTH + cols[None, :]), tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def load_rows(pointer, index, start, length, ROWS: tl.constexpr):
    """One number a row from row `start` of vector number `index` of [..., length]: [ROWS], 0 beyond the length."""
    rows = start + tl.arange(0, ROWS)
    return tl.load(pointer + index.to(tl.int64) * length + rows, mask=rows < length, other=0.0)


@triton.jit
def store_rows(pointer, index, start, length, values):
    """Write one number a row."""
    rows = start + tl.arange(0, values.shape[0])
    tl.store(pointer + index.to(tl.int64) * length + rows, values, mask=rows < length)


@triton.jit
def matmul(a, b, acc):
    """a b + acc in float32: tensor cores for half types, full float32 products (no TF32) for float32."""
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=tl.float32)


@triton.jit
def scores(a, b, acc):
    """a b^T + acc for tiles a and b: [rows of a, rows of b]."""
    acc = matmul(a[0], tl.trans(b[0]), acc)
    if len(b) > 1:
        acc = matmul(a[1], tl.trans(b[1]), acc)
    return acc


@triton.jit
def weighted(p, b, acc):
    """p b + acc for weights p [rows, rows of b], a tile b and an accumulator."""
    part = matmul(p, b[0], acc[0])
    rest = acc[1]
    if len(b) > 1:
        rest = matmul(p, b[1], rest)
    return part, rest


@triton.jit
def accumulator(x, ROWS: tl.constexpr):
    """Zeros in the shape of a tile of x; a second part that is not there is one idle column."""
    return tl.zeros([ROWS, x.COLS], tl.float32), tl.zeros([ROWS, x.REST if x.REST > 0 else 1], tl.float32)


@triton.jit
def scaled(acc, factor):
    """The accumulator times a factor, one number or one a row [rows, 1]."""
    return acc[0] * factor, acc[1] * factor


@triton.jit
def row_products(a, b):
    """rowsum(a b) of two tiles in float32."""
    total = tl.sum(a[0].to(tl.float32) * b[0].to(tl.float32), 1)
    if len(b) > 1:
        total += tl.sum(a[1].to(tl.float32) * b[1].to(tl.float32), 1)
    return total
