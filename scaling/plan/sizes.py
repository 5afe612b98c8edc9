"""The sizes of a family: what each costs, beside what was published of it."""

from __future__ import annotations

from typing import Any

from models.family import Family
from scaling.analysis.published_fids import published_fids, published_macs
from scaling.plan.costs import count


def describe_sizes(family: Family) -> list[dict[str, Any]]:
    """One record a size: family, size, model_channels, parameters, macs, and what was published of it."""
    fids, printed = published_fids(family.name), published_macs(family.name)
    counts = {size: count(config) for size, config in family.sizes.items()}
    return [
        {
            "family": family.name,
            "size": size,
            "model_channels": config.model_channels,
            "parameters": counts[size].parameters,
            "macs": counts[size].forward_macs,
            "published_macs": printed.get(size),
            "published_fid": fids.get(size, {}),
        }
        for size, config in family.sizes.items()
    ]
