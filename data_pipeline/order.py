"""The order in which samples are seen: a pure function of the seed and the position."""

from __future__ import annotations

import numpy as np


class SampleOrder:
    """An endless stream of sample numbers: one permutation an epoch, epochs end to end.

    Position p holds a sample of epoch p // samples, and each sample comes exactly once an epoch. The stream knows
    nothing of ranks, workers or restarts: rank r of w takes its slice of each batch, and a resumed run asks for the
    position where it stopped. So nothing has to be saved, and two workers or two machines see what one would.

    The permutation of an epoch is the order of raw 64-bit outputs of Philox under the key (seed, epoch). numpy keeps
    that raw stream the same for ever, which it does not promise of `Generator.permutation`.

    Memory: one epoch's permutation, 8 bytes a sample, is kept (10 MB for the 1.28 million of ImageNet), and while it is
    made another 8 bytes a sample, about once an epoch and in about a tenth of a second.
    """

    def __init__(self, samples: int, seed: int) -> None:
        """`samples` in the data set; `seed` from 0 to 2^64 - 1. ValueError otherwise."""
        if samples < 1:
            raise ValueError(f"samples is {samples}, expected at least 1")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}, expected 0 to 2^64 - 1")
        self.samples = samples
        self.seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def indices(self, first: int, count: int) -> np.ndarray:
        """Sample numbers int64 [count] at positions first .. first + count - 1. ValueError if either is negative."""
        if first < 0 or count < 0:
            raise ValueError(f"first is {first} and count is {count}, expected both to be at least 0")
        result = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, start = divmod(first + done, self.samples)
            part = self._of_epoch(epoch)[start : start + count - done]
            result[done : done + len(part)] = part
            done += len(part)
        return result

    def _of_epoch(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            bits = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(self.samples)
            self._permutation = np.argsort(bits, kind="stable")
            self._epoch = epoch
        return self._permutation
