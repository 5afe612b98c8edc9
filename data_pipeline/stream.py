"""The samples at given positions of the stream, whatever becomes of single shards."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import numpy as np

from data_pipeline.manifest import DataError
from data_pipeline.order import Order
from data_pipeline.reader import LatentReader, Rows

TRIES = 100  # samples that are tried in place of one that cannot be read

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Taken:
    """Samples as they are stored, labels int64 [B], and how many stand in for others that cannot be read."""

    rows: Rows
    labels: np.ndarray
    stand_ins: int


class SampleStream:
    """What an order finds in a reader, by position, for any number of threads.

    With `bad_share`, a sample that cannot be read is replaced by another that follows from its position alone: the
    others stay where they are, and all ranks, workers and restarts see the same. Shards that samples were missing from
    are set aside with a warning each; DataError once more than that share of all samples is in such shards.
    """

    def __init__(self, reader: LatentReader, order: Order, bad_share: float | None = None) -> None:
        """bad_share: None: the first sample that cannot be read is an error. DataError where too much is missing."""
        self.reader, self.order, self.bad_share = reader, order, bad_share
        self._lock = threading.Lock()
        self._told: set[int] = set()
        self._window = (-1, -1)
        self._set_aside()

    def read(self, first: int, count: int, rows: Rows | None = None) -> Taken:
        """The samples at positions first .. first + count - 1, into `rows` where there are any. DataError."""
        with self._lock:
            numbers = self.order.indices(first, count)
            self._look_ahead(first)
        rows = rows or self.reader.rows(count)
        failed = self.reader.read_into(rows, numbers)
        if failed and self.bad_share is None:
            raise next(iter(failed.values()))
        for row, error in failed.items():
            self._set_aside()
            numbers[row] = self._stand_in(first + row, rows, row, error)
        return Taken(rows, self.reader.labels[numbers], len(failed))

    def _stand_in(self, position: int, rows: Rows, row: int, error: DataError) -> int:
        """Read another sample into the row, the first of those drawn for the position that can be read; its number."""
        one = Rows(rows.array[row : row + 1])
        generator = np.random.Philox(key=np.array([self.order.seed, 2**63], np.uint64), counter=[0, 0, position, 0])
        for word in generator.random_raw(TRIES):
            number = np.array([int(word) % len(self.reader)])
            if not self.reader.read_into(one, number):
                return int(number[0])
        raise DataError(f"none of {TRIES} samples could be read in place of one that cannot: {error}")

    def _set_aside(self) -> None:
        """Warn of shards that are newly known to be damaged; DataError once they are too many."""
        damaged = dict(self.reader.damaged)
        for shard in sorted(damaged.keys() - self._told):
            self._told.add(shard)
            if self.bad_share is not None:
                log.warning("set aside (data.on_bad_shard: skip): %s", damaged[shard])
        lost = sum(self.reader.manifest.shards[shard].samples for shard in damaged)
        if self.bad_share is not None and lost > self.bad_share * len(self.reader):
            listed = "".join(f"\n  {damaged[shard]}" for shard in sorted(damaged))
            raise DataError(
                f"{self.reader.folder}: {len(damaged)} damaged shards hold {lost / len(self.reader):.2%} of the samples"
                f", more than data.bad_share {self.bad_share:.2%}: mend them, or raise data.bad_share{listed}"
            )

    def _look_ahead(self, position: int) -> None:
        """Let the reader prepare the windows that this position and the next ones are in."""
        window, runs = self.order.window(position)
        if window != self._window:
            self._window = window
            self.reader.prepare(runs, self.order.runs(self.order.following(window)))
