"""How a run may be spread over devices: its strategy, and what must divide what."""

from __future__ import annotations

from models.family import Family
from scaling.config.sections import STRATEGIES, Strategy
from scaling.config.validation import ConfigError


def strategy_of(name: str, family: Family, size: str, devices: int) -> Strategy:
    """The strategy of that name; auto is what the family names for the size. ConfigError lists the known ones."""
    resolved = family.strategy(size, devices) if name == "auto" else name
    for strategy in STRATEGIES:
        if resolved == strategy:
            return strategy
    where = f"strategy of size {size!r} in family {family.name!r}" if name == "auto" else "strategy"
    raise ConfigError(f"{where}: unknown {resolved!r}: known are auto, {', '.join(STRATEGIES)}")


def check_devices(run: str, batch: int, devices: int, microbatch: int) -> None:
    """ConfigError unless the devices divide the batch of a run, and the microbatch (0: any) what each of them gets."""
    if devices < 1 or batch % devices:
        raise ConfigError(f"devices: {devices} does not divide the batch of {batch} of {run}; {_those(batch)}")
    each = batch // devices
    if microbatch < 0 or (microbatch and each % microbatch):
        raise ConfigError(
            f"microbatch: {microbatch} does not divide the {each} images of {run} on each of {devices} devices; "
            f"{_those(each)}"
        )


def _those(number: int) -> str:
    return f"these do: {', '.join(map(str, divisors(number)))}"


def divisors(number: int) -> list[int]:
    """All divisors, rising."""
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})
