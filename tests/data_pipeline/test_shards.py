from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from webdataset.compat import WebDataset

from data_pipeline import reader as reader_module
from data_pipeline.manifest import DataError, Manifest
from data_pipeline.reader import LatentReader
from data_pipeline.verify import verify
from data_pipeline.writer import write_shards

Samples = list[tuple[np.ndarray, int]]
Pack = Callable[..., Manifest]
COUNT, CLASSES = 23, 7  # of the fixture `samples`


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_in_any_order(samples: Samples, shards: Path) -> None:
    reader = LatentReader(shards)
    assert len(reader) == COUNT
    assert reader.labels.dtype == np.int64
    assert reader.labels.tolist() == [label for _, label in samples]
    order = np.array([22, 0, 9, 10, 9, 19, 20])
    arrays, labels = reader.read(order)
    assert arrays.dtype == np.float16
    np.testing.assert_array_equal(arrays, np.stack([samples[i][0] for i in order]))
    assert labels.tolist() == [samples[i][1] for i in order]
    assert reader.read(np.empty(0, np.int64))[0].shape == (0, 4, 8, 8)


def test_manifest_says_what_is_there(shards: Path) -> None:
    manifest = Manifest.load(shards)
    assert [shard.samples for shard in manifest.shards] == [10, 10, 3]
    assert (manifest.shape, manifest.dtype, manifest.num_classes) == ((4, 8, 8), "float16", CLASSES)
    assert verify(shards) == manifest
    assert names(shards) == sorted(
        ["manifest.json", *(name for s in manifest.shards for name in (s.name, s.index_name))]
    )


@pytest.mark.parametrize("dtype", ["float32", ">f2", "<f4"])
def test_other_dtypes_and_memory_layouts_are_stored_in_one_form(
    tmp_path: Path, samples: Samples, dtype: str, pack: Pack
) -> None:
    odd = [(np.asfortranarray(array.astype(dtype)), label) for array, label in samples]
    manifest = pack(odd, tmp_path / "odd")
    arrays, _ = LatentReader(tmp_path / "odd").read(np.arange(COUNT))
    assert arrays.dtype == np.dtype(manifest.dtype) == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(arrays, np.stack([array for array, _ in samples]))
    verify(tmp_path / "odd")


def test_webdataset_reads_the_same(samples: Samples, shards: Path) -> None:
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    read = list(cast(Iterable[dict[str, Any]], WebDataset(urls, shardshuffle=False).decode()))
    assert [sample["__key__"] for sample in read] == [f"{i:08d}" for i in range(COUNT)]
    for sample, (array, label) in zip(read, samples, strict=True):
        assert sample["cls"] == label
        assert sample["npy"].dtype == np.float16
        np.testing.assert_array_equal(sample["npy"], array)


def test_bytes_depend_on_the_samples_alone(
    samples: Samples, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack
) -> None:
    monkeypatch.setattr("time.time", lambda: 2e9)
    pack(samples, tmp_path / "again")
    for path in shards.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    with tarfile.open(shards / "shard-000000.tar") as tar:
        assert all(member.pax_headers == {} and member.mtime == 0 for member in tar)


def test_content_hash_ignores_shard_size_and_sees_every_change(samples: Samples, tmp_path: Path, pack: Pack) -> None:
    def content(name: str, chosen: Samples, per_shard: int = 10) -> str:
        return pack(chosen, tmp_path / name, per_shard).content_sha256

    original = content("a", samples)
    assert content("b", samples, 7) == original
    array, label = samples[5]
    changed = array.copy()
    changed[3, 7, 7] += 1
    others = [
        content("c", [*samples[:5], (changed, label), *samples[6:]]),
        content("d", [*samples[:5], (array, (label + 1) % CLASSES), *samples[6:]]),
        content("e", [samples[1], samples[0], *samples[2:]]),
        content("f", samples[:-1]),
        content("g", [(a.reshape(8, 4, 8), label) for a, label in samples]),
    ]
    assert len({original, *others}) == 6


@pytest.mark.parametrize("count", [1, 9, 10, 11, 20])
def test_last_shard_is_never_empty(samples: Samples, tmp_path: Path, count: int, pack: Pack) -> None:
    manifest = pack(samples[:count], tmp_path / "shards")
    assert len(manifest.shards) == -(-count // 10)
    assert verify(tmp_path / "shards").samples == count


BAD_SAMPLES: dict[str, tuple[Callable[[np.ndarray], tuple[np.ndarray, int]], str]] = {
    "label too large": (lambda a: (a, CLASSES), f"has label {CLASSES}, expected 0 to {CLASSES - 1}"),
    "label negative": (lambda a: (a, -1), "has label -1"),
    "other shape": (lambda a: (a[:, :4], 0), r"is float16 \[4, 4, 8\], the first is float16 \[4, 8, 8\]"),
    "other dtype": (lambda a: (a.astype(np.float32), 0), "is float32"),
    "infinity": (lambda a: (np.where(np.arange(8) == 7, np.float16("inf"), a), 0), "NaN or infinity"),
    "NaN": (lambda a: (a * np.float16("nan"), 0), "NaN or infinity"),
}


@pytest.mark.parametrize("kind", BAD_SAMPLES)
def test_bad_sample_is_named_and_nothing_is_left(samples: Samples, tmp_path: Path, kind: str, pack: Pack) -> None:
    spoil, message = BAD_SAMPLES[kind]
    samples[17] = spoil(samples[17][0])
    with pytest.raises(DataError, match=f"sample 00000017 .*{message}"):
        pack(samples, tmp_path / "shards")
    assert names(tmp_path) == []


def test_class_names_change_the_manifest_alone(samples: Samples, shards: Path, tmp_path: Path) -> None:
    names = tuple("abcdefg")
    again = tmp_path / "named"
    known: dict[str, Any] = {"dataset": "test", "encoder": "none", "num_classes": CLASSES, "samples_per_shard": 10}
    assert write_shards(samples, again, class_names=names, **known) == replace(Manifest.load(shards), class_names=names)
    assert Manifest.load(again).class_names == names
    for path in shards.iterdir():
        assert path.name == "manifest.json" or path.read_bytes() == (again / path.name).read_bytes(), path.name
    assert "class_names" not in (shards / "manifest.json").read_text()
    bad: dict[str, Any]
    for bad in ({"dataset": "a\x1b[2J"}, {"class_names": [*"abcdef", "\n"]}):
        with pytest.raises(DataError, match="holds control characters"):
            write_shards(samples, tmp_path / "bad", **(known | bad))


@pytest.mark.parametrize("dtype", ["float64", "int16"])
def test_dtypes_that_are_not_stored_are_refused(tmp_path: Path, dtype: str, pack: Pack) -> None:
    with pytest.raises(DataError, match=f"{dtype}.*float16 or float32"):
        pack([(np.zeros((1, 2, 2), dtype), 0)], tmp_path / "shards")


def test_no_samples_and_occupied_folders_are_refused(samples: Samples, tmp_path: Path, pack: Pack) -> None:
    with pytest.raises(DataError, match="no samples"):
        pack([], tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_bytes(b"1")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        pack(samples, tmp_path / "full")
    assert names(tmp_path) == ["full"]
    assert names(tmp_path / "full") == ["precious"]


def test_error_of_the_source_leaves_nothing(samples: Samples, tmp_path: Path) -> None:
    def source():
        yield from samples[:15]
        raise RuntimeError("decoder failed")

    with pytest.raises(RuntimeError, match="decoder failed"):
        write_shards(source(), tmp_path / "x", dataset="d", encoder="e", num_classes=9, samples_per_shard=10)
    assert names(tmp_path) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
from typing import Any, cast
import numpy as np
from data_pipeline.writer import write_shards
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
samples = ((np.zeros((4, 8, 8), np.float16), 0) for _ in range(1000))
try:
    write_shards(samples, Path(sys.argv[1]), dataset="d", encoder="e", num_classes=1)
except OSError as error:
    print(error.errno, error.filename)
"""


def test_full_disk_names_the_shard_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files fails a write in the middle, like a full disk or an exhausted quota."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "shards")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    number, name = done.stdout.split()
    assert int(number) == errno.EFBIG
    assert name.endswith("shard-000000.tar")
    assert done.stderr == ""
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "bad", [np.array([-1]), np.array([COUNT]), np.array([0.0]), np.array([[0]])], ids=["-1", "N", "float", "2-D"]
)
def test_sample_numbers_outside_the_data_are_refused(shards: Path, bad: np.ndarray) -> None:
    with pytest.raises(IndexError, match="sample numbers"):
        LatentReader(shards).read(bad)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same(shards: Path, method: str) -> None:
    reader = LatentReader(shards)
    expected, _ = reader.read(np.arange(COUNT))  # descriptors are open when the process is made
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(reader.read, (np.arange(COUNT),))[0], expected)
    np.testing.assert_array_equal(reader.read(np.arange(COUNT))[0], expected)


def test_pickled_reader_opens_its_own_descriptors(shards: Path) -> None:
    reader = LatentReader(shards)
    reader.read(np.arange(COUNT))
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 (made here)
    reader.close()
    assert copy.read(np.array([3]))[1].tolist() == [reader.labels[3]]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_lazy_limited_and_returned(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack
) -> None:
    pack(samples, tmp_path / "many", per_shard=1)
    monkeypatch.setattr(reader_module, "MAX_OPEN", 4)
    before = open_descriptors()
    reader = LatentReader(tmp_path / "many")
    assert open_descriptors() == before
    arrays, _ = reader.read(np.arange(COUNT))
    np.testing.assert_array_equal(arrays, np.stack([array for array, _ in samples]))
    assert open_descriptors() == before + 4
    del reader
    assert open_descriptors() == before


def test_short_reads_are_continued(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems may return fewer bytes than asked for."""
    expected, _ = LatentReader(shards).read(np.arange(COUNT))
    preadv = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(descriptor, [buffers[0][:100]], offset)

    monkeypatch.setattr(os, "preadv", short)
    np.testing.assert_array_equal(LatentReader(shards).read(np.arange(COUNT))[0], expected)


def test_manifest_is_saved_as_it_is_loaded(shards: Path, tmp_path: Path) -> None:
    manifest = replace(Manifest.load(shards), dataset="größe")
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
