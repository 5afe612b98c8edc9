"""Text and files from elsewhere as messages show them: what they are, cut, nothing that a terminal obeys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Control characters, halves of surrogate pairs (bytes that are no text), line separators, changes of direction.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PICKLE = "a pickle"
HEAD = 64  # bytes that tell what a file is
SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: `git lfs pull` brings the file"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x93NUMPY", "a .npy file, one array without a name"),
    (b"PK\x03\x04", "a zip archive (.npz, .xlsx and others)"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    (b"%PDF", "a PDF"),
    *((bytes((0x80, protocol)), PICKLE) for protocol in range(2, 6)),
    (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
)


def is_safe(text: str) -> bool:
    """Whether a terminal prints the text on one line, and whether it can be encoded as UTF-8."""
    return UNSAFE.search(text) is None


def shown(value: Any, limit: int = 80) -> str:
    """The value as Python writes it, at most `limit` characters long; a long text is cut before it is quoted."""
    quoted = repr(value[: limit + 1] if isinstance(value, str | bytes) else value)
    return quoted if len(quoted) <= limit else quoted[: limit - 3] + "..."


def what_is(path: Path) -> str | None:
    """What a file is by its first bytes, with a remedy where there is one; None where they tell nothing. OSError."""
    with path.open("rb") as stream:
        return what_bytes_are(stream.read(HEAD))


def what_bytes_are(head: bytes) -> str | None:
    """As `what_is`, of the first bytes of a file."""
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or head.lstrip()[:6].lower() == b"<html ":
        return "a web page: was a download answered by a page that asks to log in?"
    return next((what for signature, what in SIGNATURES if head.startswith(signature)), None)
