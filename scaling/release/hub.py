"""`trigscale release push`: a release to the Hugging Face Hub, in one commit or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from models.release import CARD, CONFIG, SUMS
from scaling.release.verify import rehash
from scaling.weights.folder import load_model
from scaling.weights.hub import transport_errors

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
OWN = (".gitattributes",)  # what the Hub itself puts into a repository


class HubError(UserError):
    """A release that may not or could not be pushed; the message names the file and what the Hub said."""


@dataclass(frozen=True)
class Push:
    """What would go up: files by name with their bytes, all of them hashed and found as they were released."""

    folder: Path
    repository: str
    licence: str
    files: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """The same for machines."""
        total = sum(self.files.values())
        return {"repository": self.repository, "licence": self.licence, "bytes": total, "files": self.files}


def plan_push(folder: Path, repository: str) -> Push:
    """What pushing a release would do; nothing is sent.

    Raises HubError where it names no licence or the name is no repository's, ModelError where a file was altered.
    """
    if not REPOSITORY.fullmatch(repository):
        raise HubError(f"{repository}: is no name of a repository: write OWNER/NAME")
    listed = rehash(folder)
    if CARD not in listed:
        raise HubError(f"{folder / CARD}: is not there: push what `trigscale release` made")
    licence = load_model(folder).description.licence
    if not licence or not licence.strip():
        raise HubError(
            f"{folder / CONFIG}: licence is empty, and nobody may use what has none: release it again with --licence"
        )
    names = sorted([*listed, SUMS])
    return Push(folder, repository, licence, {name: (folder / name).stat().st_size for name in names})


def push(plan: Push, *, private: bool = False) -> str:
    """Send the files to the Hub, whose address and token are huggingface_hub's own; the address of the commit.

    The repository is made where there is none. Files appear there together, once all have been taken. Raises HubError.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise HubError(f"pushing needs {error.name}: pip install 'trigscale[hub]'") from error
    api, name = HfApi(library_name="trigscale"), plan.repository
    with _said(f"{name}: cannot be made"):
        api.create_repo(name, private=private, exist_ok=True)
    with _said(f"{name}: cannot be read"):
        there = set(api.list_repo_files(name))
    if foreign := sorted(there - plan.files.keys() - {*OWN}):
        raise HubError(f"{name}: holds {foreign[0]} already, which is not of this release: push to a new repository")
    additions = [CommitOperationAdd(file, plan.folder / file) for file in plan.files]
    for addition in additions:
        with _said(f"{plan.folder / addition.path_in_repo}: the Hub did not take it"):
            api.preupload_lfs_files(name, [addition], free_memory=False)
    files = ", ".join(str(plan.folder / file) for file in plan.files)
    with _said(f"{files}: the Hub did not take the commit of these files"):
        return str(api.create_commit(name, additions, commit_message="Release by trigscale").commit_url)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """What the Hub, or the way to it, says against it becomes an error that names the file."""
    try:
        yield
    except transport_errors() as error:
        reason = " ".join(str(error).split())[:300]
        raise HubError(f"{what}: {reason}. Nothing was published by this command") from error
