"""A study whose shards lie elsewhere, or are damaged, or are mixed in windows: what its runs are then told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.manifest import DataError
from data_pipeline.reader import LatentReader
from scaling.data.opened import open_loading
from scaling.run.spec import load_run
from tests.data_pipeline.flaky import Server
from tests.study.conftest import Homes, WriteStudy, prepare_homes


@pytest.fixture
def served(shards: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The data section of the same shards behind two servers that drop the first connection for each file."""
    monkeypatch.setattr("data_pipeline.remote.FIRST_WAIT", 0.0)
    servers = {key: Server(Path(to), lambda name, before: None if before else "drop") for key, to in shards.items()}
    yield {key: server.address for key, server in servers.items()}
    for server in servers.values():
        server.close()


def prepared(folder: Path, write_study: WriteStudy, **changes: Any) -> Homes:
    folder.mkdir()
    return prepare_homes(write_study(folder, methods=["teacher"], **changes))


def test_remote_shards_make_the_same_run_of_the_same_samples(
    tmp_path: Path, shards: dict[str, str], served: dict[str, str], write_study: WriteStudy
) -> None:
    here = prepared(tmp_path / "here", write_study)
    there = prepared(tmp_path / "there", write_study, data=served)
    assert there.of("teacher").name == here.of("teacher").name
    run = load_run(there.of("teacher"))
    assert run.loading.cache == (tmp_path / "there" / "runs" / "cache").resolve()
    numbers = np.arange(300)
    got = open_loading(run.shards, run.loading).read(numbers)
    wanted = LatentReader(Path(shards["source"])).read(numbers)
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_array_equal(got[1], wanted[1])


def test_a_cache_without_room_is_refused_before_anything_runs(
    tmp_path: Path, served: dict[str, str], write_study: WriteStudy
) -> None:
    with pytest.raises(DataError, match=r"data.cache_gb: 0.0001, but .* are read from at a time"):
        prepared(tmp_path / "small", write_study, data={**served, "cache_gb": 0.0001})


def test_windows_are_part_of_a_run_and_loading_is_not(tmp_path: Path, write_study: WriteStudy) -> None:
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "loading": {"workers": 4, "read_ahead": 7, "on_bad_shard": "skip", "bad_share": 0.5, "cache_gb": 3},
        "windows": {"window_blocks": 4},
        "shorter": {"window_blocks": 4, "window_block": 32},
        "whole shards": {"window_blocks": 4, "window_block": 0},
    }
    names = {key: prepared(tmp_path / key, write_study, data=data).of("teacher").name for key, data in changes.items()}
    assert names["plain"] == names["loading"]
    assert len(set(names.values())) == 4


def test_damaged_training_shards_can_be_skipped_from_the_start(
    tmp_path: Path, shards: dict[str, str], write_study: WriteStudy, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "damaged"
    copy.mkdir()
    for path in Path(shards["source"]).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    data = bytearray((copy / "shard-000000.tar").read_bytes())
    data[int(np.load(copy / "shard-000000.index.npy")["offset"][7]) + 3] ^= 1
    (copy / "shard-000000.tar").write_bytes(data)
    with pytest.raises(DataError, match="sample 00000007: is altered"):
        prepared(tmp_path / "stop", write_study, data={"source": str(copy)})
    with caplog.at_level(logging.WARNING):
        homes = prepared(tmp_path / "skip", write_study, data={"source": str(copy), "on_bad_shard": "skip"})
    assert "sample 00000007: is altered" in caplog.text
    assert "all but 1 that cannot be read" in caplog.text
    assert load_run(homes.of("teacher")).references["fashion"].stem.endswith("-without-1")
