"""What the CPU's allocator gives out while something runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

UNFOLDING = ("aten::_slow_conv2d_forward", "aten::_slow_conv2d_backward")


def allocated_peak(action: Callable[[], object]) -> int:
    """The most bytes that are allocated at once while `action` runs, above those before it.

    What a convolution unfolds its input into and frees again does not count: PyTorch does that in half precision where
    the CPU has no instructions for it, and on no GPU.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    recorded: Any = profiler.profiler
    total = peak = unfolded_until = 0
    for event in sorted(recorded.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() in UNFOLDING:
            unfolded_until = event.end_ns()
        elif event.name() == "[memory]":
            total += event.nbytes()
            peak = peak if event.start_ns() < unfolded_until else max(peak, total)
    return peak
