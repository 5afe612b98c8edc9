"""Counts the timelines that are shipped, and writes their file: `python -m scaling.plan.memory.ship`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product

from data_pipeline.files import write_text_atomic
from models.network import NetworkConfig
from scaling.config.families import CONFIGS, load_family
from scaling.config.sections import Precision
from scaling.plan.memory.activations import any_width, timeline_key
from scaling.plan.memory.device import STUDENT_DROPOUT
from scaling.plan.memory.shipped import FILE, versions

METHODS: tuple[tuple[bool, int | None], ...] = ((False, None), (True, STUDENT_DROPOUT))  # a teacher, a student
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

Step = tuple[NetworkConfig, bool, bool, Precision, int | None]


def steps(family: str) -> Iterator[Step]:
    """The training steps of a family as the plan counts them, those of its sizes that differ in the width alone once.

    Network, dual, checkpointing, precision, dropout_to.
    """
    networks = dict.fromkeys(map(any_width, load_family(family).sizes.values()))
    for network, (dual, dropout_to), checkpointing, precision in product(networks, METHODS, (False, True), PRECISIONS):
        yield network, dual, checkpointing, precision, dropout_to


def families() -> list[str]:
    """The names of the families in configs/family."""
    return sorted(path.stem for path in (CONFIGS / "family").glob("*.yaml"))


def main() -> None:
    """Count all and write the file, a timeline a line."""
    from scaling.plan.memory.timeline import count_timeline  # torch

    found = {timeline_key(*step): count_timeline(*step) for family in families() for step in steps(family)}
    lines = ",\n".join(f'"{key}": {json.dumps(timeline, separators=(",", ":"))}' for key, timeline in found.items())
    write_text_atomic(FILE, f'{{"counted_with": {json.dumps(versions())},\n"timelines": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
