"""Counts the timelines that are shipped, and writes their file: `python -m scaling.plan.memory.ship`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product

from data_pipeline.files import write_text_atomic
from models.network import NetworkConfig
from scaling.config.families import CONFIGS, load_family
from scaling.config.sections import ConsistencyRecipe, Precision, TeacherRecipe
from scaling.plan.memory.activations import any_width, timeline_key
from scaling.plan.memory.shipped import FILE, versions

# Of a teacher and of a student: whether tangents are alive, and the finest resolution that drops features.
METHODS: tuple[tuple[bool, int | None], ...] = (
    (False, TeacherRecipe.model_fields["dropout_max_resolution"].default),
    (True, ConsistencyRecipe.model_fields["dropout_max_resolution"].default),
)
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
