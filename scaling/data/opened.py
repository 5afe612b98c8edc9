"""Readers of shards as a study says that they are to be read."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.opening import open_shards
from data_pipeline.reader import LatentReader
from scaling.config.sections import Loading


def open_loading(shards: Path, loading: Loading, *, lenient: bool = False) -> LatentReader:
    """A reader of a folder of shards or of a remote one's mirror. DataError, unless `lenient`, for damage."""
    return open_shards(shards, loading.cache, loading.cache_bytes, lenient=lenient)
