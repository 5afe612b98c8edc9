"""Shards copied to a node's own disk: once, whole, and read instead of the original."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.reader import LatentReader
from scaling.work.local_copy import LOCAL_COPY, nearest_shards


def test_shards_are_copied_once_and_read_from_there(
    tmp_path: Path, shards: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path(shards["source"])
    assert nearest_shards(original) == original
    monkeypatch.setenv(LOCAL_COPY, str(tmp_path / "scratch"))
    copy = nearest_shards(original)
    assert copy.parent == tmp_path / "scratch"
    assert LatentReader(copy).manifest == LatentReader(original).manifest
    inode = (copy / "manifest.json").stat().st_ino
    assert nearest_shards(original) == copy
    assert (copy / "manifest.json").stat().st_ino == inode
    assert nearest_shards(Path(shards["held_out"])) != copy
