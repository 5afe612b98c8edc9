"""The encoders that a study, or an option of the command line, names."""

from __future__ import annotations

from models.encoders import ENCODERS, Encoder
from scaling.config.validation import ConfigError, nearest


def known_encoder(name: str, key: str) -> Encoder:
    """The encoder of that name; ConfigError names the `key` that it was given by and the nearest known."""
    if name not in ENCODERS:
        raise ConfigError(f"{key}: unknown encoder {name!r}; {nearest(name, sorted(ENCODERS))}")
    return ENCODERS[name]
