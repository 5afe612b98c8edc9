"""Counts the timelines that are shipped, and writes their file: `python -m scaling.plan.memory.ship`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product

from data_pipeline.files import write_text_atomic
from models.network import NetworkConfig
from scaling.config.families import CONFIGS, load_family
from scaling.config.recipes import ConsistencyRecipe, TeacherRecipe
from scaling.config.sections import Precision
from scaling.plan.memory.activations import Scored, any_width, timeline_key
from scaling.plan.memory.shipped import FILE, versions

COARSE: int | None = ConsistencyRecipe.model_fields["dropout_max_resolution"].default
# Of a teacher, a student, and the networks of VSD: whether tangents are alive, the finest resolution that drops
# features, and which teacher judges the samples of a generator.
METHODS: tuple[tuple[bool, int | None, Scored], ...] = (
    (False, TeacherRecipe.model_fields["dropout_max_resolution"].default, None),
    (True, COARSE, None),
    (False, COARSE, None),
    (False, COARSE, "plain"),
    (False, COARSE, "guided"),
)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

Step = tuple[NetworkConfig, bool, bool, Precision, int | None, Scored]


def steps(family: str) -> Iterator[Step]:
    """The training steps of a family as the plan counts them, those of its sizes that differ in the width alone once.

    Network, dual, checkpointing, precision, dropout_to, scored.
    """
    networks = dict.fromkeys(map(any_width, load_family(family).sizes.values()))
    for network, method, checkpointing, precision in product(networks, METHODS, (False, True), PRECISIONS):
        dual, dropout_to, scored = method
        yield network, dual, checkpointing, precision, dropout_to, scored


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
