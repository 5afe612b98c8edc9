"""How the Triton kernels are cut: block sizes, warps and pipeline depth by type, head dim, tangent, length and GPU.

Chosen by what the compiler reports (benchmarks/attention_build.py; the reasoning is in NOTES.md): no spills in the main
loop where that is possible, warp-group products (wgmma, 64 rows for each 4 warps) on Hopper, and below 99 KiB of shared
memory on other GPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Blocks(NamedTuple):
    """Queries and keys a block, warps a program, depth of the software pipeline."""

    queries: int
    keys: int
    warps: int
    stages: int


Table = dict[tuple[bool, int, bool], Blocks]  # by (Hopper, head dim up to, with tangent)

FORWARD: Table = {
    (True, 64, False): Blocks(128, 128, 8, 3),
    (True, 64, True): Blocks(128, 64, 8, 3),
    (True, 128, False): Blocks(128, 128, 8, 2),
    (True, 128, True): Blocks(128, 64, 8, 2),
    (True, 256, False): Blocks(64, 64, 8, 1),
    (True, 256, True): Blocks(32, 32, 8, 2),
    (False, 64, False): Blocks(128, 64, 4, 2),
    (False, 64, True): Blocks(64, 32, 4, 2),
    (False, 128, False): Blocks(128, 64, 8, 2),
    (False, 128, True): Blocks(128, 32, 8, 2),
    (False, 256, False): Blocks(64, 32, 8, 1),
    (False, 256, True): Blocks(16, 32, 8, 1),
}
QUERY: Table = {
    (True, 64, False): Blocks(128, 128, 8, 2),
    (True, 64, True): Blocks(128, 64, 8, 2),
    (True, 128, False): Blocks(128, 64, 8, 2),
    (True, 128, True): Blocks(128, 32, 8, 2),
    (True, 256, False): Blocks(32, 32, 4, 2),
    (True, 256, True): Blocks(32, 32, 8, 1),
    (False, 64, False): Blocks(64, 64, 4, 1),
    (False, 64, True): Blocks(64, 32, 4, 1),
    (False, 128, False): Blocks(64, 64, 8, 1),
    (False, 128, True): Blocks(32, 64, 8, 1),
    (False, 256, False): Blocks(32, 32, 4, 1),
    (False, 256, True): Blocks(16, 32, 8, 1),
}
KEY: Table = {
    (True, 64, False): Blocks(64, 128, 8, 2),
    (True, 64, True): Blocks(32, 128, 8, 2),
    (True, 128, False): Blocks(64, 128, 8, 2),
    (True, 128, True): Blocks(32, 128, 8, 2),
    (True, 256, False): Blocks(32, 32, 4, 2),
    (True, 256, True): Blocks(32, 32, 8, 1),
    (False, 64, False): Blocks(64, 64, 4, 1),
    (False, 64, True): Blocks(64, 32, 4, 1),
    (False, 128, False): Blocks(64, 64, 8, 1),
    (False, 128, True): Blocks(64, 32, 8, 1),
    (False, 256, False): Blocks(32, 32, 4, 1),
    (False, 256, True): Blocks(32, 16, 8, 1),
}


def forward_blocks(width: int, dtype: torch.dtype, tangent: bool, short: bool, hopper: bool) -> Blocks:
    """Blocks of the forward kernel; `width` is the larger head dim, `short`: the U-Net's lengths, 64 and 256."""
    if short and width <= 64 and dtype != torch.float32:
        return Blocks(64, 64, 4, 2)
    return _find(FORWARD, width, dtype, tangent, hopper)


def query_blocks(width: int, dtype: torch.dtype, tangent: bool, short: bool, hopper: bool) -> Blocks:
    """Blocks of the backward kernel that owns queries."""
    if short and width <= 64 and dtype != torch.float32:
        return Blocks(64, 32, 4, 2) if tangent else Blocks(64, 64, 4, 2)
    return _find(QUERY, width, dtype, tangent, hopper)


def key_blocks(width: int, dtype: torch.dtype, tangent: bool, short: bool, hopper: bool) -> Blocks:
    """Blocks of the backward kernel that owns keys."""
    if short and width <= 64 and dtype != torch.float32:
        return Blocks(16, 64, 4, 2) if tangent else Blocks(64, 64, 4, 2)
    return _find(KEY, width, dtype, tangent, hopper)


def keys_and_values_together(width: int, dtype: torch.dtype, tangent: bool) -> bool:
    """Whether one launch of the kernel that owns keys holds all its sums: dk, dv and, with a tangent, dtk and dtv."""
    return width <= 128 if not tangent else width <= 64 and dtype != torch.float32


def parts(width: int, split: bool) -> tuple[int, int]:
    """Columns of the two parts of a tile, powers of two from 16 on that hold `width`; 0 for no second part.

    One part only without `split`: other GPUs than Hopper take it badly in the backward kernels.
    """
    first = max(16, 1 << (width.bit_length() - 1))
    rest = max(16, 1 << (width - first - 1).bit_length())
    if width <= first:
        return first, 0
    return (first, rest) if split and rest < first else (2 * first, 0)


def _find(table: Table, width: int, dtype: torch.dtype, tangent: bool, hopper: bool) -> Blocks:
    if dtype == torch.float32:  # no matrix unit: small blocks, or the registers run over
        return Blocks(32, 32, 8, 1) if width <= 64 else Blocks(16, 16, 8, 1)
    return table[hopper, next(limit for limit in (64, 128, 256) if width <= limit), tangent]
