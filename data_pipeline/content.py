"""The content hash of a folder of shards, from their bytes: one pass, every sample against its checksum."""

from __future__ import annotations

import os
from pathlib import Path

from data_pipeline.checksum import checksum
from data_pipeline.manifest import ContentHash, DataError, Manifest, ShardInfo, sample_key
from data_pipeline.reader import read_index


def hash_content(folder: Path, manifest: Manifest) -> str:
    """`content_sha256` of the shards that the manifest names, in their order.

    Raises:
        DataError: an index is damaged, or a sample's bytes are not those that were written; names file and sample.
    """
    content = ContentHash(manifest.shape, manifest.dtype)
    first = 0
    for shard in manifest.shards:
        try:
            _add(content, folder, manifest, shard, first)
        except DataError as error:
            raise DataError(f"{folder / shard.name}: {error}: remove it, and make it again") from error
        first += shard.samples
    return content.hexdigest()


def _add(content: ContentHash, folder: Path, manifest: Manifest, shard: ShardInfo, first: int) -> None:
    index = read_index(folder / shard.index_name, manifest, shard)
    size = manifest.sample_bytes
    with (folder / shard.name).open("rb", buffering=0) as stream:
        for number, (offset, label, expected) in enumerate(index.tolist(), start=first):
            raw = os.pread(stream.fileno(), size, offset)
            if len(raw) != size or checksum(raw) != expected:
                raise DataError(f"sample {sample_key(number)} is altered or cut off")
            content.update(raw, label)
