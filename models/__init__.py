"""Networks and what they are made of; `load_release` opens what others released."""

from models.release import load_release, read_release

__all__ = ["load_release", "read_release"]
