"""Every damage to a folder of shards is found by the full check, and by the reader as soon as it can be."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.manifest import DataError, Manifest
from data_pipeline.reader import LatentReader
from data_pipeline.verify import verify

Samples = list[tuple[np.ndarray, int]]
Pack = Callable[..., Manifest]
COUNT = 23  # of the fixture `samples`
TAR = "shard-000001.tar"
INDEX = "shard-000001.index.npy"
REMEDY = "pack again or copy the shard again; `trigscale data verify "


def offset_of(folder: Path, number: int) -> int:
    """Where the raw bytes of a sample of shard 1 start."""
    return int(np.load(folder / INDEX, allow_pickle=False)["offset"][number - 10])


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    (folder / "manifest.json").write_text(json.dumps(raw))


def accept(folder: Path, name: str) -> None:
    """Make the manifest agree with a damaged file, so that only a look inside can find the damage."""
    data = (folder / name).read_bytes()

    def change(raw: dict[str, Any]) -> None:
        key = "sha256" if name.endswith(".tar") else "index_sha256"
        raw["shards"][1][key] = hashlib.sha256(data).hexdigest()
        if name.endswith(".tar"):
            raw["shards"][1]["bytes"] = len(data)

    rewrite_manifest(folder, change)


def all_damages(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        verify(folder)
    return str(caught.value)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut_between_members(folder: Path) -> None:
    cut(folder / TAR, offset_of(folder, 13) + 512)


OPENING_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut between members": (cut_between_members, TAR),
    "cut inside a member": (lambda f: cut(f / TAR, offset_of(f, 13) + 5), TAR),
    "end-of-archive record cut": (lambda f: cut(f / TAR, (f / TAR).stat().st_size - 10240), TAR),
    "shard missing": (lambda f: (f / TAR).unlink(), TAR),
    "shard is a folder": (lambda f: replace_by_folder(f / TAR), TAR),
    "shard longer": (lambda f: (f / TAR).write_bytes((f / TAR).read_bytes() + b"\0"), TAR),
    "index missing": (lambda f: (f / INDEX).unlink(), INDEX),
    "index of another shard": (lambda f: shutil.copy(f / INDEX.replace("1", "0"), f / INDEX), INDEX),
    "index flipped": (lambda f: flip(f / INDEX, 150), INDEX),
    "index cut": (lambda f: cut(f / INDEX, 200), INDEX),
}


@pytest.mark.parametrize("kind", OPENING_DAMAGES)
def test_damage_seen_on_opening(shards: Path, kind: str) -> None:
    damage, name = OPENING_DAMAGES[kind]
    damage(shards)
    with pytest.raises(DataError, match=f"{re.escape(name)}: .*{REMEDY}"):
        LatentReader(shards)
    assert name in all_damages(shards)


def test_flipped_payload_bit_is_found_where_it_is(shards: Path) -> None:
    flip(shards / TAR, offset_of(shards, 13) + 100)
    reader = LatentReader(shards)
    good = np.array([i for i in range(COUNT) if i != 13])
    reader.read(good)
    with pytest.raises(DataError, match=f"{TAR}: sample 00000013 is altered.*{REMEDY}{re.escape(str(shards))}`"):
        reader.read(np.arange(COUNT))
    assert re.findall(r"sample (\d+)", all_damages(shards)) == ["00000013"]


def test_shard_cut_or_removed_after_opening(shards: Path) -> None:
    reader = LatentReader(shards)
    cut(shards / TAR, offset_of(shards, 13) + 100)
    reader.read(np.arange(13))
    with pytest.raises(DataError, match=rf"{TAR}: sample 00000013 is cut off: 100 of 512 bytes.*{REMEDY}"):
        reader.read(np.array([13]))
    reader.close()
    (shards / TAR).unlink()
    with pytest.raises(DataError, match=rf"{TAR}: sample 00000013 cannot be read \(No such file.*{REMEDY}"):
        reader.read(np.array([13]))


def test_cut_between_members_is_found_without_the_hash(shards: Path) -> None:
    cut_between_members(shards)
    accept(shards, TAR)
    message = all_damages(shards)
    assert "sample 00000014 and what follows it: the tar ends without an end-of-archive record" in message
    assert "SHA-256" not in message


def test_lost_end_of_archive_record_is_found_without_the_hash(shards: Path) -> None:
    data = (shards / TAR).read_bytes()
    (shards / TAR).write_bytes(data.rstrip(b"\0").ljust(offset_of(shards, 19) + 512, b"\0"))
    accept(shards, TAR)
    assert "after the last sample: the tar ends without an end-of-archive record" in all_damages(shards)


def test_members_that_the_manifest_does_not_know_are_found(
    samples: Samples, shards: Path, tmp_path: Path, pack: Pack
) -> None:
    pack(samples[:20], tmp_path / "other", per_shard=20)
    shutil.copy(tmp_path / "other" / "shard-000000.tar", shards / "shard-000000.tar")
    data = (shards / "shard-000000.tar").read_bytes()

    def change(raw: dict[str, Any]) -> None:
        raw["shards"][0] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    rewrite_manifest(shards, change)
    assert "holds 00000010.cls after its last sample" in all_damages(shards)


@pytest.mark.parametrize("change", [{"type": tarfile.SYMTYPE}, {"size": 1 << 50}], ids=["link", "huge"])
def test_members_that_are_no_samples_are_found_without_the_hash(shards: Path, change: dict[str, Any]) -> None:
    """A link, which a reader would follow or skip, and a size that must not be allocated."""
    with tarfile.open(shards / TAR) as tar:
        info = tar.getmember("00000013.npy")
    place = info.offset
    for key, value in change.items():
        setattr(info, key, value)
    data = bytearray((shards / TAR).read_bytes())
    data[place : place + 512] = info.tobuf(tarfile.GNU_FORMAT)
    (shards / TAR).write_bytes(data)
    accept(shards, TAR)
    assert "sample 00000013 and what follows it: 00000013.npy is cut off or not a file" in all_damages(shards)


def test_shards_in_the_wrong_place_are_found_without_the_hash(shards: Path) -> None:
    shutil.copy(shards / "shard-000000.tar", shards / TAR)
    accept(shards, TAR)
    assert "00000000.cls where 00000010.cls must be" in all_damages(shards)


def test_stale_index_is_found_without_the_hash(shards: Path) -> None:
    index = np.load(shards / INDEX, allow_pickle=False)
    index["label"][4] = (index["label"][4] + 1) % 7
    index["offset"][5] += 2
    index["checksum"][6] ^= 1
    np.save(shards / INDEX, index)
    accept(shards, INDEX)
    message = all_damages(shards)
    assert re.findall(r"sample (\d+): (label|is altered)", message) == [
        ("00000014", "label"),
        ("00000015", "label"),
        ("00000016", "is altered"),
    ]


BAD_INDICES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "too short": (lambda index: index[:-1], r"holds .* \[9\]"),
    "other dtype": (lambda index: index["offset"], "holds int64"),
    "offset behind the end": (lambda index: shifted(index, "offset", 1 << 40), "offsets outside the shard"),
    "offset negative": (lambda index: shifted(index, "offset", -(1 << 40)), "offsets outside the shard"),
    "label too large": (lambda index: shifted(index, "label", 7), "labels outside 0 to 6"),
}


def shifted(index: np.ndarray, field: str, by: int) -> np.ndarray:
    index[field] += by
    return index


@pytest.mark.parametrize("kind", BAD_INDICES)
def test_index_that_cannot_be_right_is_refused(shards: Path, kind: str) -> None:
    change, message = BAD_INDICES[kind]
    np.save(shards / INDEX, change(np.load(shards / INDEX, allow_pickle=False)))
    accept(shards, INDEX)
    with pytest.raises(DataError, match=message):
        LatentReader(shards)
    assert re.search(message, all_damages(shards))


def test_hostile_pickle_in_place_of_an_index_is_not_opened(shards: Path, tmp_path: Path) -> None:
    np.save(shards / INDEX, np.array([Bomb(tmp_path / "exploded")] * 10), allow_pickle=True)
    accept(shards, INDEX)
    for open_it in (LatentReader, verify):
        with pytest.raises(DataError, match=r"is not a \.npy file"):
            open_it(shards)
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_all_damages_are_listed_at_once(shards: Path) -> None:
    flip(shards / "shard-000000.tar", 2000)
    (shards / TAR).unlink()
    cut(shards / "shard-000002.index.npy", 140)
    shutil.copy(shards / "shard-000000.tar", shards / "shard-000007.tar")
    message = all_damages(shards)
    for name in ("shard-000000.tar", TAR, "shard-000002.index.npy", "shard-000007.tar: is not in the manifest"):
        assert f"\n  {name}" in message


def test_long_lists_are_shortened(samples: Samples, shards: Path) -> None:
    for number in range(10, 20):
        flip(shards / TAR, offset_of(shards, number))
    message = all_damages(shards)
    assert message.count("is altered") == 5
    assert f"{TAR}: and 5 more" in message


def test_wrong_content_hash_is_found(shards: Path) -> None:
    rewrite_manifest(shards, lambda raw: raw.update(content_sha256="0" * 64))
    assert "content SHA-256" in all_damages(shards)


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
def test_any_flipped_byte_of_any_file_is_found(shards: Path, data: st.DataObject) -> None:
    """Even where the manifest agrees with the flipped shard, all that matters is found, and nothing else is raised."""
    path = data.draw(st.sampled_from(sorted(shards.iterdir())))
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[position] ^= data.draw(st.integers(1, 255))
    before = Manifest.load(shards)
    path.write_bytes(flipped)
    try:
        try:
            verify(shards)
        except DataError:
            return
        assert path.name == "manifest.json", path.name
        changed = Manifest.load(shards)  # only its two free texts can change without a contradiction
        assert (changed.dataset, changed.encoder) != (before.dataset, before.encoder)
    finally:
        path.write_bytes(whole)


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
def test_flipped_headers_never_crash_the_check(shards: Path, data: st.DataObject) -> None:
    """The tar and .npy headers of a shard whose hash was made to agree: whole, or a DataError, but no other error."""
    manifest = (shards / "manifest.json").read_bytes()
    whole = (shards / TAR).read_bytes()
    start = offset_of(shards, data.draw(st.integers(10, 19)))
    position = start - data.draw(st.integers(1, 128 + 512 + 1024))
    flipped = bytearray(whole)
    flipped[position] ^= data.draw(st.integers(1, 255))
    (shards / TAR).write_bytes(flipped)
    accept(shards, TAR)
    try:
        with contextlib.suppress(DataError):
            verify(shards)
    finally:
        (shards / TAR).write_bytes(whole)
        (shards / "manifest.json").write_bytes(manifest)
