"""A reader of a folder of shards, wherever the shards themselves lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.cache import ShardCache
from data_pipeline.manifest import DataError, Manifest
from data_pipeline.order import Order, SampleOrder, WindowOrder, run_bounds
from data_pipeline.reader import LatentReader
from data_pipeline.remote import Remote, address_of


def open_shards(folder: Path, cache: Path | None, limit_bytes: int, *, lenient: bool = False) -> LatentReader:
    """A reader of a folder; of the mirror of a remote one with the cache between them. DataError."""
    address = address_of(folder)
    if address is None:
        return LatentReader(folder, lenient=lenient)
    assert cache is not None, "whoever made the mirror made it in a cache"
    return LatentReader(folder, store=ShardCache(cache, limit_bytes, Remote(address)), lenient=lenient)


def order_of(manifest: Manifest, blocks: int, block: int, seed: int) -> Order:
    """A full shuffle, or with `blocks` that many runs of `block` samples (0: whole shards) mixed at a time."""
    if not blocks:
        return SampleOrder(manifest.samples, seed)
    shards = np.array([shard.samples for shard in manifest.shards])
    return WindowOrder(run_bounds(shards, block), blocks, seed)


def require_room(folder: Path, blocks: int, block: int, limit_bytes: int) -> None:
    """DataError unless the cache holds what the order of `order_of` reads from at a time, and one shard more."""
    if (address := address_of(folder)) is None:
        return
    sizes = sorted((shard.bytes for shard in Manifest.load(folder).shards), reverse=True)
    at_once = blocks if blocks and not block else len(sizes)
    needed = sum(sizes[:at_once]) + (sizes[0] if at_once < len(sizes) else 0)
    if needed > limit_bytes:
        raise DataError(
            f"data.cache_gb: {limit_bytes / 1e9:g}, but {needed / 1e9:.3g} GB of {address} are read from at a time: "
            "raise it, or mix fewer shards with data.window_blocks and data.window_block 0"
        )
