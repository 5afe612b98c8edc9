"""Numbers with units, short enough for a table."""

from __future__ import annotations

MIB, GIB, TIB = 2**20, 2**30, 2**40


def macs(number: float) -> str:
    """Multiply-adds in M, G or T."""
    for limit, scale, prefix in ((1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if number < limit:
            return f"{number / scale:,.2f} {prefix}"
    return f"{number / 1e12:,.2f} T"


def flops(number: float) -> str:
    """FLOPs with three digits."""
    return f"{number:.2e}"


def size(number: float) -> str:
    """Bytes in MiB, GiB or TiB."""
    for limit, scale, prefix in ((GIB, MIB, "MiB"), (TIB, GIB, "GiB")):
        if number < limit:
            return f"{number / scale:,.1f} {prefix}"
    return f"{number / TIB:,.1f} TiB"


def time(hours: float) -> str:
    """Seconds below an hour, else hours."""
    return f"{hours * 3600:,.1f} s" if hours < 1 else f"{hours:,.1f} h"


def in_unit(number: float, unit: int) -> str:
    """Bytes as a bare number of `unit` bytes, three digits or more."""
    count = number / unit
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:,.{digits}f}" if count else "0"
