"""Training shards on the disk of the node that reads them, for file systems that many readers slow down."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from data_pipeline.files import atomic_folder
from data_pipeline.manifest import Manifest
from scaling.run.locks import locked

LOCAL_COPY = "TRIGSCALE_LOCAL_COPY"  # a folder of the node's own
PATIENCE_SECONDS = 3600.0

log = logging.getLogger(__name__)


def nearest_shards(shards: Path) -> Path:
    """The copy of these shards in the folder that LOCAL_COPY names, made where it is missing; without it, `shards`.

    One process of a node copies while the others wait. Samples are checked as they are read, in a copy too. OSError
    names the file where there is no room.
    """
    told = os.environ.get(LOCAL_COPY)
    if not told:
        return shards
    folder = Path(told)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    copy = folder / Manifest.load(shards).content_sha256[:16]
    with locked(folder / f"{copy.name}.lock", PATIENCE_SECONDS):
        if not copy.exists():
            log.info("copying %s to %s", shards, copy)
            with atomic_folder(copy) as partial:
                shutil.copytree(shards, partial, dirs_exist_ok=True)
    return copy
