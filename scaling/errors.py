"""Errors of a run besides files and configurations, and what a user is told about an error of the system."""

from __future__ import annotations

import errno

from data_pipeline.errors import UserError
from data_pipeline.text import printable

FULL = "make room there, then launch again"
CLOSED = "make it writable or choose another folder, then launch again"
LINK = "it is a link, which is not followed: remove it, then launch again"
OCCUPIED = "choose another folder, or move away what is in its place"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), CLOSED),
    errno.ELOOP: LINK,
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENXIO, errno.ENOTEMPTY), OCCUPIED),
}


def explain(error: Exception) -> str:
    """The error's own message; for one of the system its file, reason and remedy."""
    if not isinstance(error, OSError) or error.strerror is None:
        return printable(str(error))
    where = f"{error.filename}: " if error.filename else ""
    return printable(f"{where}{error.strerror}: {REMEDIES.get(error.errno or 0, 'see to it, then launch again')}")


class TrainingError(Exception):
    """Training cannot go on; the message names the step and the tensor."""


class ParallelError(UserError):
    """A strategy that cannot be had here; the message says what to change."""


class Interrupted(Exception):
    """Training or sampling stopped on request, with its state saved."""
