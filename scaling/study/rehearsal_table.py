"""What a rehearsal found, for a terminal and as plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.markup import escape

from scaling.plan import units
from scaling.study.rehearse import Rehearsal
from scaling.tables import table

WORDS = {True: "[green]works[/]", False: "[red]missing[/]", None: "[dim]not tried[/]"}


def rehearsal_table(name: str, found: Rehearsal) -> list[Any]:
    """The checks; speed and memory beside the plan's; the forecast."""
    checks = table(f"rehearsal of {name}", ("what", "", "found"))
    for check in found.checks:
        checks.add_row(escape(check.what), WORDS[check.works], escape(check.found))
    shown: list[Any] = [checks]
    if found.measured:
        headings = (">images/s", ">planned", ">memory a device", ">planned", ">device-hours")
        speeds = table("measured", ("run", *headings))
        for each in found.measured:
            planned = each["planned_memory_bytes"]
            speeds.add_row(
                each["run"],
                f"{each['images_per_second']:.4g}",
                f"{each['planned_images_per_second']:.4g}",
                units.size(each["memory_bytes"]),
                units.size(planned) if planned is not None else "",
                f"{each['device_hours']:.4g}",
            )
        shown.append(speeds)
    corrected = "not known" if found.corrected_hours is None else f"{found.corrected_hours:.4g}"
    return [*shown, f"device-hours: planned {found.planned_hours:.4g}, at the speed measured {corrected}"]


def rehearsal_json(found: Rehearsal) -> dict[str, Any]:
    """The same as plain values."""
    return {"works": found.works, **asdict(found)}
