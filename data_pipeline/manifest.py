"""What a folder of shards holds: `manifest.json`, and the names and layout that writer, reader and verifier share.

manifest.json                what is here, with the size and hash of every file
shard-000000.tar             a webdataset shard: members 00000000.cls, 00000000.npy, 00000001.cls, ...
shard-000000.index.npy       per sample: where its raw array bytes start, its label, the checksum of those bytes
unfinished.json              instead of the manifest while the set is being made (`data_pipeline.parts`)
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.files import write_json_atomic
from data_pipeline.text import is_safe, shown, what_is

MANIFEST_NAME = "manifest.json"
UNFINISHED_NAME = "unfinished.json"
FORMAT = 2
DTYPES = ("float16", "float32")  # stored little-endian
INDEX_DTYPE = np.dtype([("offset", "<i8"), ("label", "<i4"), ("checksum", "<u4")])
HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


class DataError(UserError):
    """Data on disk is missing, damaged or not what it must be. The message names the file and the remedy."""


@dataclass(frozen=True)
class ShardInfo:
    """One shard: file name, size in bytes, number of samples, hashes of the tar and of its index file."""

    name: str
    bytes: int
    samples: int
    sha256: str
    index_sha256: str

    @property
    def index_name(self) -> str:
        """File name of the index: shard-000000.index.npy."""
        return self.name.removesuffix(".tar") + ".index.npy"


@dataclass(frozen=True)
class Manifest:
    """A folder of shards. `content_sha256` depends on the samples and their order alone, not on the shards' size.

    `class_names` [num_classes] are in the order of the labels; None where the classes have numbers only. `moments`: the
    first half of the channels is the mean of a latent and the second its standard deviation; a sample is drawn from
    them at each use. `made`: how the samples were made, for people; None where nothing is to be said.
    """

    format: int
    dataset: str
    encoder: str
    shape: tuple[int, int, int]
    dtype: str
    num_classes: int
    samples: int
    shards: tuple[ShardInfo, ...]
    content_sha256: str
    class_names: tuple[str, ...] | None = None
    moments: bool = False
    made: Mapping[str, Any] | None = None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is drawn from one sample: [c, h, w], of moments [2c, h, w] too."""
        channels, height, width = self.shape
        return (channels // 2 if self.moments else channels, height, width)

    @property
    def sample_bytes(self) -> int:
        """Size of one raw array in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into the folder, complete or not at all. OSError names the file."""
        content = asdict(self)
        write_json_atomic(folder / MANIFEST_NAME, {key: content[key] for key in content if content[key] not in ABSENT})

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read and check `manifest.json`.

        Raises:
            DataError: missing, not JSON, or any field malformed; names file, key and value.
        """
        path = folder / MANIFEST_NAME
        try:
            raw = json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            if (folder / UNFINISHED_NAME).exists():
                done = len(list(folder.glob("shard-*.json")))
                raise DataError(
                    f"{folder} is unfinished, {done:,} shards are written: the command that began it continues it"
                ) from error
            raise DataError(
                f"{path} does not exist: {folder} is not a complete folder of shards; make one with "
                "`trigscale data pack`, or copy the missing file"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            what = what_is(path) if path.is_file() else None
            reason = f"it is {what}" if what else error
            raise DataError(f"{path} cannot be read as JSON ({reason}): pack again or copy the file again") from error
        return _parse(path, raw)


def shard_name(number: int) -> str:
    """shard-000000.tar for number 0."""
    return f"shard-{number:06d}.tar"


def sample_key(number: int) -> str:
    """The webdataset key of the sample with this number in the whole data set: 00000012."""
    return f"{number:08d}"


class ContentHash:
    """SHA-256 over shape, dtype, and every sample's raw bytes and label, in order."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self._hash = sha256(f"{dtype} {'x'.join(map(str, shape))}\n".encode())

    def update(self, data: bytes, label: int) -> None:
        """Add one sample: its raw little-endian bytes in C order, then the label as 8 bytes."""
        self._hash.update(data)
        self._hash.update(label.to_bytes(8, "little"))

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._hash.hexdigest()


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and is_safe(value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and HEX_SHA256.fullmatch(value) is not None


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_count, value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_made(value: Any) -> bool:
    """A flat object that a terminal shows."""
    return isinstance(value, dict) and all(is_safe(key) and _is_plain(inner) for key, inner in value.items())


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and is_safe(value))


Rule = tuple[Callable[[Any], bool], str]
COUNT: Rule = (_is_count, "a positive integer")
TEXT: Rule = (_is_text, "a non-empty string without control characters")
HASH: Rule = (_is_hash, "64 hexadecimal digits")

MANIFEST_RULES: dict[str, Rule] = {
    "format": (lambda value: value == FORMAT and type(value) is int, f"{FORMAT}, the only format this version reads"),
    "dataset": TEXT,
    "encoder": TEXT,
    "shape": (_is_shape, "three positive integers: channels, height, width"),
    "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "num_classes": COUNT,
    "samples": COUNT,
    "shards": (lambda value: isinstance(value, list) and value != [], "a list of at least one shard"),
    "content_sha256": HASH,
    "class_names": (_are_names, "a list of names, all different, without control characters"),
    "moments": (lambda value: value is True, "true, or no such key"),
    "made": (_is_made, "an object of numbers and texts without control characters"),
}
OPTIONAL = ("class_names", "moments", "made")
ABSENT = (None, False)  # what an optional key is where it is left out
SHARD_RULES: dict[str, Rule] = {
    "name": TEXT,
    "bytes": COUNT,
    "samples": COUNT,
    "sha256": HASH,
    "index_sha256": HASH,
}


def _parse(path: Path, raw: Any) -> Manifest:
    _check(path, "", raw, MANIFEST_RULES)
    for number, shard in enumerate(raw["shards"]):
        prefix = f"shards[{number}]"
        # The name is fixed by the position, so a manifest cannot point outside its folder or at one shard twice.
        name = shard_name(number)
        _check(path, prefix, shard, SHARD_RULES | {"name": (partial(operator.eq, name), name)})
    shards = tuple(ShardInfo(**shard) for shard in raw["shards"])
    total = sum(shard.samples for shard in shards)
    if total != raw["samples"]:
        raise _malformed(path, "samples", raw["samples"], f"{total}, the sum over the shards")
    names = tuple(raw["class_names"]) if "class_names" in raw else None
    if names is not None and len(names) != raw["num_classes"]:
        raise _malformed(path, "class_names", raw["class_names"], f"one for each of {raw['num_classes']} classes")
    if raw.get("moments") and raw["shape"][0] % 2:
        raise _malformed(path, "shape", raw["shape"], "an even number of channels, since `moments` is true")
    return Manifest(**raw | {"shape": tuple(raw["shape"]), "shards": shards, "class_names": names})


def _check(path: Path, prefix: str, raw: Any, rules: dict[str, Rule]) -> None:
    if not isinstance(raw, dict):
        raise _malformed(path, prefix or "(whole file)", raw, "a JSON object")
    dot = prefix and prefix + "."
    for key in raw.keys() - rules.keys():
        raise _malformed(
            path, dot + (key if is_safe(key) else shown(key)), raw[key], f"no such key; known are {', '.join(rules)}"
        )
    for key, (valid, expected) in rules.items():
        if key not in raw and key in OPTIONAL:
            continue
        if key not in raw:
            raise DataError(f"{path}: key {dot + key} is missing: pack again or copy the file again")
        if not valid(raw[key]):
            raise _malformed(path, dot + key, raw[key], expected)


def _malformed(path: Path, key: str, value: Any, expected: str) -> DataError:
    return DataError(f"{path}: key {key} is {shown(value)}, expected {expected}: pack again or copy the file again")


assert set(MANIFEST_RULES) == {field.name for field in fields(Manifest)}, "every field has its rule"
assert set(SHARD_RULES) == {field.name for field in fields(ShardInfo)}, "every field has its rule"
