"""The checksum of one sample, tested each time that it is read.

XXH3 costs about a third of a read from memory, zlib's CRC-32 four times as much as XXH3 or more
(`benchmarks/data.py`).
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

MASK = 2**32 - 1


def checksum(data: bytes | memoryview) -> int:
    """The low 32 bits of the 64-bit XXH3 of the bytes."""
    return xxh3_64_intdigest(data) & MASK
