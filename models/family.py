"""A family: one network at several named sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from data_pipeline.errors import UserError
from models.network import FLAVOURS, NetworkConfig
from models.shape import count_macs, count_parameters

__all__ = ["Family", "FamilyError", "build_family", "count_macs", "count_parameters", "network_config"]

SIZE = re.compile(r"\w[\w.-]{0,39}")  # it becomes a part of the names of folders


class FamilyError(UserError):
    """A family that cannot be built, or a size that it does not have."""


@dataclass(frozen=True)
class Family:
    """Named sizes of one network, smallest first."""

    name: str
    sizes: Mapping[str, NetworkConfig]
    # For each size, from how many devices on which strategy of training is the default.
    strategies: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def size(self, name: str) -> NetworkConfig:
        """The network of that size; FamilyError lists the known sizes."""
        if name not in self.sizes:
            raise FamilyError(f"family {self.name!r} has no size {name!r}: its sizes are {', '.join(self.sizes)}")
        return self.sizes[name]

    def strategy(self, size: str, devices: int) -> str:
        """The default strategy of training a size on so many devices; ddp where the file names none."""
        found = self.strategies.get(size, {})
        return next((found[least] for least in sorted(found, reverse=True) if least <= devices), "ddp")


def build_family(content: Mapping[str, Any], where: str) -> Family:
    """A family from the mapping of its file: `name`, `common` (keys of every size) and `sizes` (keys of each).

    `flavour` (edm2 or trigflow) stands for the keys of `models.network.FLAVOURS`, which common and sizes may change.
    `strategy`: {size: {devices: strategy}}, the default strategies of training. Raises FamilyError naming the file, the
    size and the key.
    """
    for key in ("name", "common", "sizes"):
        if key not in content:
            raise FamilyError(f"{where}: {key} is missing: a family file holds name, common and sizes")
    flavour = content.get("flavour", "trigflow")
    if not isinstance(flavour, str) or flavour not in FLAVOURS:
        raise FamilyError(f"{where}: flavour {flavour!r} is unknown: known are {', '.join(FLAVOURS)}")
    for key in ("common", "sizes"):
        if not isinstance(content[key], Mapping):
            raise FamilyError(f"{where}: {key} is {content[key]!r}: give a mapping of keys to values")
    for size, keys in content["sizes"].items():
        if not SIZE.fullmatch(str(size)):
            raise FamilyError(f"{where}: size {str(size)!r}: name it by letters, digits and . _ - alone, 40 at most")
        if not isinstance(keys, Mapping):
            raise FamilyError(f"{where}: sizes.{size} is {keys!r}: give a mapping of keys to values")
    if surplus := set(content) - {"name", "flavour", "common", "sizes", "strategy"}:
        raise FamilyError(f"{where}: unknown key {sorted(surplus)[0]!r}; known: name, flavour, common, sizes, strategy")
    if not isinstance(content["name"], str) or not content["sizes"]:
        raise FamilyError(f"{where}: give the family a name, a text, and at least one size")
    sizes = {
        str(size): network_config({**FLAVOURS[flavour], **content["common"], **keys}, f"{where}: sizes.{size}")
        for size, keys in content["sizes"].items()
    }
    return Family(content["name"], sizes, _strategies(content.get("strategy", {}), sizes, where))


def _strategies(content: Any, sizes: Iterable[str], where: str) -> dict[str, dict[int, str]]:
    if not isinstance(content, Mapping):
        raise FamilyError(f"{where}: strategy is {content!r}: give a mapping of sizes to {{devices: strategy}}")
    for size, steps in content.items():
        if str(size) not in sizes:
            raise FamilyError(f"{where}: strategy.{size}: there is no such size; the sizes are {', '.join(sizes)}")
        if not isinstance(steps, Mapping) or not all(type(n) is int and n > 0 for n in steps):
            raise FamilyError(
                f"{where}: strategy.{size} is {steps!r}: give {{devices: strategy}}, such as {{1: ddp, 2: fsdp2}}, "
                "which is fsdp2 from 2 devices on"
            )
    return {str(size): {n: str(name) for n, name in steps.items()} for size, steps in content.items()}


def network_config(content: Mapping[str, Any], where: str) -> NetworkConfig:
    """A network's shape from plain values; FamilyError names what is unknown, missing or does not fit."""
    known = {field.name for field in fields(NetworkConfig)}
    for key in content:
        if key not in known:
            raise FamilyError(f"{where}.{key}: unknown key; known: {', '.join(sorted(known))}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    try:
        return NetworkConfig(**values)
    except (TypeError, ValueError) as error:
        raise FamilyError(f"{where}: {error}") from error
