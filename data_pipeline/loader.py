"""Batches made ahead of their use, by threads, in the order in which they are asked for.

Threads, not processes: what takes time in reading (the system's copy, the checksum) lets other threads run meanwhile,
and a batch need not be sent from one process to another (`benchmarks/data.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Loader(Generic[T]):
    """`make(position)` for one position after another, `ahead` of them begun before they are asked for.

    What is made depends on the position alone, so neither the number of workers nor where it begins changes anything.
    """

    def __init__(
        self, make: Callable[[int], T], following: Callable[[int], int | None], workers: int, ahead: int
    ) -> None:
        """following: the position after this one, None after the last. workers: threads; 0: the caller's own."""
        self._make, self._following, self._ahead = make, following, ahead
        self._pool = ThreadPoolExecutor(workers, "loader") if workers else None
        self._begun: deque[tuple[int, Future[T]]] = deque()

    def get(self, position: int) -> T:
        """What is made of that position; an error in making it is raised here."""
        if self._pool is None:
            return self._make(position)
        if not self._begun or self._begun[0][0] != position:
            self._cancel()
            self._begin(position)
        made = self._begun.popleft()[1]
        last: int | None = self._begun[-1][0] if self._begun else position
        while len(self._begun) < self._ahead and (last := self._following(last)) is not None:
            self._begin(last)
        return made.result()

    def close(self) -> None:
        """Begin nothing more; what is being made is left to end by itself."""
        self._cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, position: int) -> None:
        assert self._pool is not None
        self._begun.append((position, self._pool.submit(self._make, position)))

    def _cancel(self) -> None:
        while self._begun:
            self._begun.popleft()[1].cancel()
