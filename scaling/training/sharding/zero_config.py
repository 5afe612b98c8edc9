"""The settings with which DeepSpeed trains (`scaling.training.sharding.zero`), and what of them decides memory."""

from __future__ import annotations

import math
from typing import Any


def bucket_elements(largest: int) -> int:
    """Elements of the bucket in which ZeRO reduces gradients: those of the largest block or root, made even."""
    return math.ceil(largest / 2) * 2


def zero_config(largest: int, stage: int) -> dict[str, Any]:
    """The settings of ZeRO of that stage for a network whose largest block, or root, has `largest` elements."""
    block = bucket_elements(largest)
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": block,
        "allgather_bucket_size": block,
        "overlap_comm": False,  # would double the bucket
    }
    if stage < 3:
        zero |= {"compute_grad_norm": False}  # the loop has it already
    else:
        zero |= {
            "stage3_max_live_parameters": 2 * block,
            "stage3_max_reuse_distance": 0,
            "stage3_prefetch_bucket_size": block,
            "stage3_param_persistence_threshold": 0,
            "memory_efficient_linear": False,  # it would replace torch's linear layer process-wide
        }
    return {"zero_optimization": zero, "gradient_clipping": 0.0}  # it would clip at 1
