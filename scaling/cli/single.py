"""The commands on this machine: doctor."""

from __future__ import annotations

from scaling.cli.output import AsJson, show


def doctor(as_json: AsJson = False) -> None:
    """Print versions, machine and what is optional and missing."""
    from scaling.study.machine import diagnose

    facts = diagnose()
    parts = facts["optional"]
    lines = [f"{key}: {value}" for key, value in facts.items() if key not in ("optional", "networks")]
    lines += [f"{name}: {part['found'] or part['install']} ({part['for']})" for name, part in parts.items()]
    lines += [f"{name}: {one['found'] or one['get']} ({one['for']})" for name, one in facts["networks"].items()]
    show(lines, facts, as_json)
