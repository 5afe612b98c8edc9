"""What the CPU's allocator gives out while something runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

ATTENTION = tuple(f"trigscale::attention{part}" for part in ("", "_backward", "_jvp", "_jvp_backward"))
# Kernels that have workspace on a CPU alone: convolutions in half precision, where the CPU has no instructions for it,
# unfold their input; attention keeps tiles of logits, which on a GPU stay on the chip.
WORKSPACE = ("aten::_slow_conv2d_forward", "aten::_slow_conv2d_backward", *ATTENTION)


def allocated_peak(action: Callable[[], object]) -> int:
    """The most bytes that are allocated at once while `action` runs, above those before it.

    What the kernels in WORKSPACE allocate and free again inside does not count.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    recorded: Any = profiler.profiler
    total = peak = inside_until = 0
    for event in sorted(recorded.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() in WORKSPACE:
            inside_until = max(inside_until, event.end_ns())
        elif event.name() == "[memory]":
            total += event.nbytes()
            peak = peak if event.start_ns() < inside_until else max(peak, total)
    return peak
