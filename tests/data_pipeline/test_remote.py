"""Shards at an address: a source that breaks connections, a cache that is bounded and survives kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import cache as cache_module
from data_pipeline import remote as remote_module
from data_pipeline.cache import ShardCache
from data_pipeline.manifest import DataError, Manifest
from data_pipeline.opening import open_shards, require_room
from data_pipeline.reader import LatentReader
from data_pipeline.remote import ATTEMPTS, Remote, address_of, is_remote, mirror
from tests.data_pipeline.flaky import Fault, Server

Samples = list[tuple[np.ndarray, int]]
COUNT = 23
PLENTY = 10**9


@pytest.fixture
def serve(shards: Path) -> Iterator[Callable[..., Server]]:
    """A server of the fixture `shards`."""
    servers: list[Server] = []

    def serving(fault: Fault = lambda name, before: None) -> Server:
        servers.append(Server(shards, fault))
        return servers[-1]

    yield serving
    for server in servers:
        server.close()


def opened(
    address: str, cache: Path, limit: int = PLENTY, sleep: Callable[[float], object] = lambda s: None
) -> LatentReader:
    remote = Remote(address, sleep)
    return LatentReader(mirror(remote, cache), store=ShardCache(cache, limit, remote))


def assert_all(reader: LatentReader, samples: Samples) -> None:
    arrays, labels = reader.read(np.arange(COUNT))
    np.testing.assert_array_equal(arrays, np.stack([array for array, _ in samples]))
    assert labels.tolist() == [label for _, label in samples]


def tars(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "shards").glob("*.tar"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for copies; the fixture `shards` has another."""
    return tmp_path / "cache"


def test_what_is_an_address() -> None:
    assert all(map(is_remote, ("https://host/set", "s3://bucket/set", "pipe:cat /set/{}")))
    assert not any(map(is_remote, ("shards/train", "/data/a:b", "fashion")))


def test_a_source_that_breaks_connections_is_asked_again(
    serve: Callable[..., Server], samples: Samples, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file breaks off, is refused, then comes; waits double and scatter; what came is not asked for again."""
    monkeypatch.setattr(remote_module, "CHUNK", 6000)
    server = serve(lambda name, before: {0: "drop", 1: "busy", 4: "drop"}.get(before))
    waits: list[float] = []
    assert_all(opened(server.address, cache, sleep=waits.append), samples)
    starts = [start for name, start in server.asked if name == "shard-000000.tar"]
    assert starts[:5] == [0, 0, 0, 6000, 12000]
    assert sorted(set(starts)) == list(range(0, max(starts) + 1, 6000))
    assert len(waits) >= 2 * 7
    assert 0.125 <= waits[0] <= 0.25 <= waits[1] <= 0.5


def test_a_server_without_ranges_will_do(serve: Callable[..., Server], samples: Samples, cache: Path) -> None:
    assert_all(opened(serve(lambda name, before: "whole").address, cache), samples)


def test_a_source_that_stays_away_is_an_error_that_says_so(serve: Callable[..., Server], cache: Path) -> None:
    server = serve(lambda name, before: "drop" if name == "shard-000001.tar" else None)
    waits: list[float] = []
    reader = opened(server.address, cache, sleep=waits.append)
    reader.read(np.arange(10))
    with pytest.raises(DataError, match=rf"{server.address}: shard-000001.tar: failed {ATTEMPTS} times.*launch again"):
        reader.read(np.array([12]))
    assert len(waits) == ATTEMPTS - 1
    with pytest.raises(DataError, match="failed"):  # at once: it is known to be lost
        reader.read(np.array([13]))
    assert len(waits) == ATTEMPTS - 1


def test_files_that_are_not_there_and_wrong_addresses(serve: Callable[..., Server], shards: Path, cache: Path) -> None:
    server = serve()
    (shards / "shard-000002.index.npy").unlink()
    with pytest.raises(DataError, match=r"shard-000002.index.npy: FileNotFoundError.*is the address right"):
        opened(server.address, cache)
    with pytest.raises(DataError, match=r"nowhere://x: cannot be opened .*is it an address that fsspec knows"):
        opened("nowhere://x", cache)
    with pytest.raises(DataError, match=r"pipe:cat: write \{\} where the name of a file goes"):
        Remote("pipe:cat")
    (shards / "manifest.json").write_text(
        json.dumps(json.loads((shards / "manifest.json").read_text()) | {"shards": []})
    )
    with pytest.raises(DataError, match="key shards"):
        opened(server.address, cache)


def test_a_name_that_leaves_the_folder_is_refused(serve: Callable[..., Server], shards: Path, cache: Path) -> None:
    raw = json.loads((shards / "manifest.json").read_text())
    raw["shards"][0]["name"] = "../../outside.tar"
    (shards / "manifest.json").write_text(json.dumps(raw))
    server = serve()
    with pytest.raises(DataError, match=r"shards\[0\].name"):
        opened(server.address, cache)
    assert {name for name, _ in server.asked} == {"manifest.json"}


def test_an_altered_shard_is_refused_and_not_kept(serve: Callable[..., Server], shards: Path, cache: Path) -> None:
    data = bytearray((shards / "shard-000001.tar").read_bytes())
    data[700] ^= 1
    (shards / "shard-000001.tar").write_bytes(data)
    reader = opened(serve().address, cache)
    with pytest.raises(DataError, match=r"shard-000001.tar: its SHA-256 is not the manifest's.*upload"):
        reader.read(np.array([10]))
    assert list((cache / "shards").glob("*.tar")) == []


def test_the_cache_is_bounded_and_what_was_used_last_stays(
    serve: Callable[..., Server], shards: Path, samples: Samples, cache: Path
) -> None:
    sizes = [shard.bytes for shard in Manifest.load(shards).shards]
    limit = sizes[0] + sizes[2] + 1
    reader = opened(serve().address, cache, limit)
    names = [f"{shard.sha256}.tar" for shard in reader.manifest.shards]
    for number, held in ((0, {0}), (20, {0, 2}), (10, {1, 2}), (3, {0, 2})):
        reader.close()
        array, _ = reader.read(np.array([number]))
        np.testing.assert_array_equal(array[0], samples[number][0])
        if number == 10:
            for n, name in enumerate(names):  # the clock may be too coarse to tell them apart
                if (cache / "shards" / name).exists():
                    os.utime(cache / "shards" / name, (n, n))
        assert tars(cache) == sorted(names[n] for n in held)
    assert_all(reader, samples)
    assert sum(path.stat().st_size for path in (cache / "shards").iterdir()) <= limit


def test_a_cache_that_is_too_small_is_an_error(serve: Callable[..., Server], shards: Path, cache: Path) -> None:
    server = serve()
    folder = mirror(Remote(server.address), cache)
    assert address_of(folder) == server.address
    total = sum(shard.bytes for shard in Manifest.load(shards).shards)
    require_room(folder, 0, 0, total)
    with pytest.raises(DataError, match=r"data.cache_gb: .* are read from at a time: raise it, or mix fewer"):
        require_room(folder, 0, 0, total - 1)
    require_room(folder, 1, 0, 2 * Manifest.load(shards).shards[0].bytes)
    require_room(shards, 0, 0, 1)  # no cache between
    with pytest.raises(DataError, match=r"are needed at once, but data.cache_gb allows 1,000: raise it"):
        open_shards(folder, cache, 1000).read(np.array([0]))


def test_what_is_wanted_is_fetched_before_it_is_asked_for(serve: Callable[..., Server], cache: Path) -> None:
    server = serve()
    reader = opened(server.address, cache)
    reader.prepare(np.array([[10, 10]]), np.array([[0, 10]]))
    store = reader._store
    assert isinstance(store, ShardCache)
    assert store._ahead is not None
    store._ahead.shutdown(wait=True)
    assert sorted(name for name, _ in server.asked if name.endswith("tar")) == ["shard-000000.tar", "shard-000001.tar"]
    reader.read(np.arange(20))
    assert len([name for name, _ in server.asked if name.endswith("tar")]) == 2


def read_first(address: str, cache: Path, chunk: int) -> None:
    remote_module.CHUNK = chunk
    opened(address, cache).read(np.array([0]))


def test_what_a_killed_process_had_fetched_is_not_fetched_again(
    serve: Callable[..., Server], samples: Samples, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the third part of a shard is on its way: the two that had come stay, and the shards before."""
    monkeypatch.setattr(remote_module, "CHUNK", 4000)
    server = serve(lambda name, before: "hold" if (name, before) == ("shard-000000.tar", 2) else None)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=read_first, args=(server.address, cache, 4000))
    process.start()
    assert server.held.wait(120)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    server.release.set()
    (part,) = (cache / "shards").glob(".*.part")
    assert part.stat().st_size == 8000
    before = len(server.asked)
    reader = opened(server.address, cache)
    assert_all(reader, samples)
    later = server.asked[before:]
    assert min(start for name, start in later if name == "shard-000000.tar") == 8000
    assert not any("index" in name for name, _ in later)
    before = len(server.asked)
    assert_all(opened(server.address, cache), samples)
    assert [name for name, _ in server.asked[before:]] == ["manifest.json"]


def test_two_that_want_one_shard_fetch_it_once(serve: Callable[..., Server], cache: Path) -> None:
    server = serve()
    readers = [opened(server.address, cache) for _ in range(4)]
    with cache_module.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda reader: reader.read(np.array([0])), readers))
    assert [name for name, _ in server.asked].count("shard-000000.tar") == 1


def test_a_command_brings_files_too(shards: Path, samples: Samples, tmp_path: Path, cache: Path) -> None:
    """Half a file and an exit code that tells of it, also from the middle of a pipeline, are no file."""
    marker = shlex.quote(str(tmp_path / "failed"))
    source = shlex.quote(str(shards))
    breaks_off = f"touch {marker}; head -c 9 {source}/{{}}; exit 3"
    command = f"pipe:if [ -e {marker} ]; then cat {source}/{{}}; else {breaks_off}; fi | cat"
    assert_all(opened(command, cache), samples)
    with pytest.raises(DataError, match=r"`false shard-000000.tar \| cat` ended with 1"):
        Remote("pipe:false {} | cat", lambda s: None).whole("shard-000000.tar")


def test_a_cached_shard_that_was_damaged_names_the_file_to_delete(serve: Callable[..., Server], cache: Path) -> None:
    reader = opened(serve().address, cache)
    reader.read(np.array([0]))
    reader.close()
    (path,) = (cache / "shards").glob("*.tar")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        DataError, match=rf"shard-000000.tar: sample 00000000 is cut off.*: delete {path}: it is fetched"
    ):
        reader.read(np.array([0]))
