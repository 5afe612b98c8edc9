"""Samples by position: the same for any number of ranks, workers and restarts, also where shards are damaged."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.loader import Loader
from data_pipeline.manifest import DataError
from data_pipeline.order import SampleOrder
from data_pipeline.reader import LatentReader
from data_pipeline.stream import SampleStream

Samples = list[tuple[np.ndarray, int]]
COUNT, TAR = 23, "shard-000001.tar"


def taken(shards: Path, share: float | None, count: int = 3 * COUNT, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Arrays and labels of the first positions, in batches."""
    reader = LatentReader(shards, lenient=share is not None)
    stream = SampleStream(reader, SampleOrder(COUNT, 5), share)
    parts = [stream.read(first, min(size, count - first)) for first in range(0, count, size)]
    return np.concatenate([p.rows.array for p in parts]), np.concatenate([p.labels for p in parts])


def cut(shards: Path) -> None:
    path = shards / TAR
    path.write_bytes(path.read_bytes()[:4000])


def flip(shards: Path) -> None:
    data = bytearray((shards / TAR).read_bytes())
    data[int(np.load(shards / TAR.replace("tar", "index.npy"))["offset"][3]) + 50] ^= 1
    (shards / TAR).write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], set[int]]] = {
    "missing": (lambda f: (f / TAR).unlink(), set(range(10, 20))),
    "truncated": (cut, set(range(10, 20))),
    "one sample altered": (flip, {13}),
    "index altered": (lambda f: (f / TAR.replace("tar", "index.npy")).write_bytes(b"x"), set(range(10, 20))),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_bad_shard_is_an_error_or_set_aside(
    shards: Path, samples: Samples, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Set aside, it changes no other sample, and what stands in does not depend on how the positions are cut."""
    whole, labels = taken(shards, None)
    damage, lost = DAMAGES[kind]
    damage(shards)
    with pytest.raises(DataError, match=rf"{TAR.removesuffix('.tar')}.*(pack again|copy)"):
        taken(shards, None)
    with caplog.at_level(logging.WARNING):
        arrays, found = taken(shards, 0.5)
    assert [TAR.removesuffix(".tar") in record.message for record in caplog.records] == [True]
    order = SampleOrder(COUNT, 5).indices(0, 3 * COUNT)
    kept = np.array([number not in lost for number in order])
    np.testing.assert_array_equal(arrays[kept], whole[kept])
    np.testing.assert_array_equal(found[kept], labels[kept])
    good = {samples[n][0].tobytes(): samples[n][1] for n in range(COUNT) if n not in lost}
    assert all(good[array.tobytes()] == label for array, label in zip(arrays[~kept], found[~kept], strict=True))
    for size in (1, 7, 69):
        again, labels_again = taken(shards, 0.5, size=size)
        np.testing.assert_array_equal(again, arrays)
        np.testing.assert_array_equal(labels_again, found)


def test_stand_ins_are_counted_and_limited(shards: Path) -> None:
    flip(shards)
    stream = SampleStream(LatentReader(shards, lenient=True), SampleOrder(COUNT, 5), 0.5)
    assert stream.read(0, COUNT).stand_ins == 1
    assert list(stream.reader.damaged) == [1]
    with pytest.raises(
        DataError, match=r"1 damaged shards hold 43.48% .* more than data.bad_share 40.00%.*\n.*00000013"
    ):
        SampleStream(LatentReader(shards, lenient=True), SampleOrder(COUNT, 5), 0.4).read(0, COUNT)
    (shards / TAR).unlink()
    with pytest.raises(DataError, match=r"data.bad_share 40.00%"):
        SampleStream(LatentReader(shards, lenient=True), SampleOrder(COUNT, 5), 0.4)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_change_nothing(shards: Path, workers: int) -> None:
    expected, _ = taken(shards, None)
    stream = SampleStream(LatentReader(shards), SampleOrder(COUNT, 5))
    loader: Loader[Any] = Loader(
        lambda first: stream.read(first, 3).rows.array, lambda first: first + 3 if first < 60 else None, workers, 2
    )
    got = [loader.get(first) for first in range(0, 63, 3)]
    np.testing.assert_array_equal(np.concatenate(got), expected[:63])
    np.testing.assert_array_equal(loader.get(6), expected[6:9])  # back, as after a restart
    np.testing.assert_array_equal(loader.get(9), expected[9:12])
    loader.close()


def test_loader_works_ahead_off_the_calling_thread_and_no_further() -> None:
    made: list[tuple[int, str]] = []
    second = threading.Event()

    def make(position: int) -> int:
        made.append((position, threading.current_thread().name))
        if position == 3:
            second.set()
        return position

    loader = Loader(make, lambda position: position + 1 if position < 3 else None, 1, 2)
    assert loader.get(1) == 1
    assert second.wait(30)
    loader.close()
    assert [position for position, _ in made] == [1, 2, 3]
    assert all(name.startswith("loader") for _, name in made)


def test_errors_come_to_whoever_asks_for_the_batch() -> None:
    def make(position: int) -> int:
        if position == 2:
            raise DataError("shard 7")
        return position

    loader = Loader(make, lambda position: position + 1, 1, 3)
    assert loader.get(1) == 1
    with pytest.raises(DataError, match="shard 7"):
        loader.get(2)
    assert loader.get(3) == 3
    loader.close()
