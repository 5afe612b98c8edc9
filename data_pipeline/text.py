"""Text and files from elsewhere as messages show them: what they are, cut, nothing that a terminal obeys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data_pipeline.foreign import HEAD, kind_of

# Control characters, halves of surrogate pairs (bytes that are no text), line separators, changes of direction.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_safe(text: str) -> bool:
    """Whether a terminal prints the text on one line, and whether it can be encoded as UTF-8."""
    return UNSAFE.search(text) is None


def printable(text: str) -> str:
    """The text with what a terminal would obey escaped; lines stay lines."""
    return UNSAFE.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


def shown(value: Any, limit: int = 80) -> str:
    """The value as Python writes it, at most `limit` characters long; a long text is cut before it is quoted."""
    quoted = repr(value[: limit + 1] if isinstance(value, str | bytes) else value)
    return quoted if len(quoted) <= limit else quoted[: limit - 3] + "..."


def what_is(path: Path) -> str | None:
    """What a file is by its first bytes, with a remedy where there is one; None where they tell nothing. OSError."""
    with path.open("rb") as stream:
        return kind_of(stream.read(HEAD))
