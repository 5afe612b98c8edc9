"""The order in which samples are seen: a pure function of the seed and the position."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

PART = 2**20  # samples that are sorted at a time


class Order(ABC):
    """An endless stream of sample numbers, epochs end to end, in each of which every sample comes exactly once.

    Position p holds a sample of epoch p // samples. The stream knows nothing of ranks, workers or restarts: rank r of w
    takes its slice of each batch, and a resumed run asks for the position where it stopped. So nothing has to be saved,
    and two workers or two machines see what one would. One thread uses an order at a time.
    """

    def __init__(self, samples: int, seed: int) -> None:
        """`samples` in the data set; `seed` from 0 to 2^64 - 1. ValueError otherwise."""
        if samples < 1:
            raise ValueError(f"samples is {samples}, expected at least 1")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}, expected 0 to 2^64 - 1")
        self.samples = samples
        self.seed = seed

    def indices(self, first: int, count: int) -> np.ndarray:
        """Sample numbers int64 [count] at positions first .. first + count - 1. ValueError if either is negative."""
        if first < 0 or count < 0:
            raise ValueError(f"first is {first} and count is {count}, expected both to be at least 0")
        result = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, start = divmod(first + done, self.samples)
            part = self._part(epoch, start)[: count - done]
            result[done : done + len(part)] = part
            done += len(part)
        return result

    @abstractmethod
    def window(self, position: int) -> tuple[tuple[int, int], np.ndarray]:
        """Which window of samples the position lies in, and the runs of consecutive samples [n, 2] that it mixes.

        Windows are numbered by (epoch, window). A run is its first sample and how many they are.
        """

    @abstractmethod
    def following(self, window: tuple[int, int]) -> tuple[int, int]:
        """The window that comes after."""

    @abstractmethod
    def runs(self, window: tuple[int, int]) -> np.ndarray:
        """The runs of consecutive samples [n, 2] of a window."""

    @abstractmethod
    def _part(self, epoch: int, start: int) -> np.ndarray:
        """Sample numbers from that place of an epoch on, one at least, none of another epoch."""


class SampleOrder(Order):
    """A full shuffle: one permutation of all samples an epoch.

    It is the order of raw 64-bit outputs of Philox under the key (seed, epoch). numpy keeps that raw stream the same
    for ever, which it does not promise of `Generator.permutation`.

    Memory: one epoch's permutation, 4 bytes a sample, made in about a tenth of a second for ImageNet's 1.28 million.
    """

    def __init__(self, samples: int, seed: int) -> None:
        """As `Order`."""
        super().__init__(samples, seed)
        self._epoch = -1
        self._permutation = np.empty(0, np.int32)

    def window(self, position: int) -> tuple[tuple[int, int], np.ndarray]:
        """An epoch is one window."""
        window = (position // self.samples, 0)
        return window, self.runs(window)

    def following(self, window: tuple[int, int]) -> tuple[int, int]:
        """That of the next epoch."""
        return window[0] + 1, 0

    def runs(self, window: tuple[int, int]) -> np.ndarray:
        """All samples."""
        return np.array([[0, self.samples]])

    def _part(self, epoch: int, start: int) -> np.ndarray:
        if epoch != self._epoch:
            self._permutation = permutation(self.samples, self.seed, epoch)
            self._epoch = epoch
        return self._permutation[start:]


class WindowOrder(Order):
    """Runs of consecutive samples in random order, mixed `blocks` of them at a time: for slow or distant storage.

    The samples are cut into runs; each epoch permutes the runs, takes `blocks` of them after one another as a window,
    and permutes the samples of a window. So what is read at a time lies in few places, and is read in one piece.
    """

    def __init__(self, bounds: np.ndarray, blocks: int, seed: int) -> None:
        """bounds int64 [n + 1]: where the runs begin, the first 0, and the number of samples."""
        super().__init__(int(bounds[-1]), seed)
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}, expected at least 1")
        self.blocks = blocks
        self._bounds = bounds
        self._epoch = -1
        self._runs = self._ends = np.empty(0, np.int64)
        self._window = (-1, -1)
        self._samples_of_window = np.empty(0, np.int64)

    def window(self, position: int) -> tuple[tuple[int, int], np.ndarray]:
        """`blocks` runs, at the end of an epoch fewer."""
        epoch, start = divmod(position, self.samples)
        self._turn(epoch)
        window = (epoch, int(np.searchsorted(self._ends, start, side="right")))
        return window, self.runs(window)

    def following(self, window: tuple[int, int]) -> tuple[int, int]:
        """The next of its epoch, or the first of the next epoch."""
        epoch, number = window
        last = number + 1 == -(-(len(self._bounds) - 1) // self.blocks)
        return (epoch + 1, 0) if last else (epoch, number + 1)

    def runs(self, window: tuple[int, int]) -> np.ndarray:
        """The runs of a window as they lie in its epoch's order."""
        epoch, number = window
        order = self._runs if epoch == self._epoch else permutation(len(self._bounds) - 1, self.seed, epoch)
        chosen = order[number * self.blocks : (number + 1) * self.blocks]
        return np.stack([self._bounds[chosen], self._bounds[chosen + 1] - self._bounds[chosen]], axis=1)

    def _part(self, epoch: int, start: int) -> np.ndarray:
        window, runs = self.window(epoch * self.samples + start)
        if window != self._window:
            numbers = np.concatenate([np.arange(first, first + count) for first, count in runs.tolist()])
            self._samples_of_window = numbers[permutation(len(numbers), self.seed, epoch, 1 + window[1])]
            self._window = window
        begin = self._ends[window[1] - 1] if window[1] else 0
        return self._samples_of_window[start - begin :]

    def _turn(self, epoch: int) -> None:
        """Have the runs of that epoch, and where each of its windows ends."""
        if epoch != self._epoch:
            self._runs = permutation(len(self._bounds) - 1, self.seed, epoch)
            ends = np.cumsum(np.diff(self._bounds)[self._runs])
            self._ends = np.append(ends[self.blocks - 1 : -1 : self.blocks], ends[-1])
            self._epoch = epoch


def run_bounds(shards: np.ndarray, block: int) -> np.ndarray:
    """Where runs of `block` samples begin, and the end, int64 [n + 1]; 0: a run is a shard.

    shards: the number of samples of each. Runs of samples do not heed where shards end.
    """
    if not block:
        return np.concatenate([[0], np.cumsum(shards)])
    total = int(shards.sum())
    return np.append(np.arange(0, total, block), total)


def permutation(count: int, seed: int, epoch: int, stream: int = 0) -> np.ndarray:
    """The order of `count` raw outputs of Philox keyed by (seed, epoch), int32 [count] (int64 from 2^31 on).

    `stream`s of one key are independent. They are sorted in parts by their first bits, and drawn again for each part,
    so that beyond the result there is no memory that grows with `count`.
    """
    result = np.empty(count, np.int32 if count < 2**31 else np.int64)
    parts = -(-count // PART)
    done = 0
    for part in range(parts):
        generator = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, stream, 0, 0])
        drawn, numbers = [], []
        for start in range(0, count, PART):
            bits = generator.random_raw(min(PART, count - start))
            chosen = np.flatnonzero((bits >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32) == part)
            drawn.append(bits[chosen])
            numbers.append(chosen + start)
        sorted_numbers = np.concatenate(numbers)[np.argsort(np.concatenate(drawn), kind="stable")]
        result[done : done + len(sorted_numbers)] = sorted_numbers
        done += len(sorted_numbers)
    return result
