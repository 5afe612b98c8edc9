"""Weights on the Hugging Face Hub: fetched once into the user's cache, and pinned to a commit.

`hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION` with a branch, a tag or a commit. What lies in the cache is taken as it is,
so that a branch is looked up once and a study goes on from what it began with, without the net too; the cache, its
folder, the address and the token are huggingface_hub's own. Nothing that is fetched is run or unpickled.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from models.release import CONFIG, SUMS, ModelError, read_sums

PREFIX = "hf:"
ADDRESS = re.compile(r"hf:(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,200}))?")
FETCHED = (CONFIG, SUMS, "model*.safetensors", "model*.safetensors.index.json")  # no card, no code
COMMIT = re.compile("[0-9a-f]{40}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where weights lie on this machine; commit: of the Hub's repository that they are of, None of a user's folder."""

    folder: Path
    commit: str | None = None


def located(weights: Path) -> Place:
    """Where the weights that a key names lie: the folder itself, or the Hub's, fetched where the cache has it not.

    Raises ModelError, which says what is missing: huggingface_hub, the net, the repository, the right to read it.
    """
    address = str(weights)
    if not address.startswith(PREFIX):
        return Place(weights)
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ModelError(f"{address}: is no name on the Hub: write hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ModelError(
            f"{address}: needs {error.name}: pip install 'trigscale[hub]', or download it and name the folder"
        ) from error
    asked: dict[str, Any] = {"revision": match["revision"], "allow_patterns": list(FETCHED)}
    try:
        folder = Path(snapshot_download(match["name"], local_files_only=True, **asked))
    except LocalEntryNotFoundError:
        folder = None
    if folder is None or not _whole(folder):
        log.info("fetching %s from the Hub", address)
        try:
            folder = Path(snapshot_download(match["name"], **asked))
        except transport_errors() as error:
            raise ModelError(f"{address}: {_remedy(error)}: {' '.join(str(error).split())[:300]}") from error
    assert COMMIT.fullmatch(folder.name), "the cache names the folder of a snapshot by its commit"
    return Place(folder, folder.name)


def transport_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the Hub, or the way to it, says no."""
    from huggingface_hub.errors import HfHubHTTPError

    transport: Any = HfHubHTTPError.__bases__[0]  # HTTPError of its HTTP library, which is httpx or httpx2
    return transport, OSError, ValueError


def _whole(folder: Path) -> bool:
    """Whether all that is fetched of a release is there: a download may have been cut short."""
    if not all((folder / name).is_file() for name in (CONFIG, SUMS)):
        return False
    wanted = (name for name in read_sums(folder) if any(fnmatch(name, pattern) for pattern in FETCHED))
    return all((folder / name).is_file() for name in wanted)


def _remedy(error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as NoRevision

    if isinstance(error, GatedRepoError):
        return "its owner lets in whom he knows: ask there, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: check the name, or `hf auth login`"
    if isinstance(error, NoRevision):
        return "the repository has no such revision: name a branch, a tag or a whole commit"
    if isinstance(error, LocalEntryNotFoundError):
        return "is not in the cache, and the Hub cannot be reached: fetch it once with the net, or name a folder"
    return "the Hub did not give it; the same command again goes on"
