"""The families of sizes that a study names: our own in configs/family, or a user's file."""

from __future__ import annotations

from pathlib import Path

from models.family import Family, build_family
from scaling.config.validation import ConfigError, choices, read_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load_family(name: str) -> Family:
    """A family by the name of its file in configs/family, or by the path of a YAML file."""
    if name.endswith((".yaml", ".yml")):
        return build_family(read_yaml(Path(name)), name)
    path = CONFIGS / "family" / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ConfigError(f"family: unknown family {name!r}; {choices(name, known)}")
    return build_family(read_yaml(path), str(path))
