from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.labels import require_same_classes
from data_pipeline.manifest import DataError, Manifest

BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("format", 1, "2, the only format"),
    ("format", True, "2, the only format"),
    ("dataset", "", "non-empty string"),
    ("encoder", None, "non-empty string"),
    ("shape", [4, 8], "three positive integers"),
    ("shape", [4, 8, 0], "three positive integers"),
    ("shape", "448", "three positive integers"),
    ("dtype", "object", "one of float16, float32"),
    ("dtype", ["float16"], "one of float16, float32"),
    ("num_classes", 0, "positive integer"),
    ("num_classes", 2.0, "positive integer"),
    ("samples", "23", "positive integer"),
    ("samples", 22, "23, the sum over the shards"),
    ("shards", [], "at least one shard"),
    ("shards", {}, "at least one shard"),
    ("content_sha256", "A" * 64, "64 hexadecimal digits"),
    ("content_sha256", "a" * 64 + "\n", "64 hexadecimal digits"),
    ("colour", "red", "no such key"),
    ("dataset", "a\x1b[2J", "without control characters"),
    ("class_names", ["a"], "one for each of 7 classes"),
    ("class_names", list("abcdefa"), "all different"),
    ("class_names", [*"abcdef", "\n"], "without control characters"),
    ("shards[1]", 5, "a JSON object"),
    ("shards[1].name", "../shard-000001.tar", "shard-000001.tar"),
    ("shards[1].name", "shard-000000.tar", "shard-000001.tar"),
    ("shards[1].bytes", -1, "positive integer"),
    ("shards[1].samples", True, "positive integer"),
    ("shards[1].sha256", "", "64 hexadecimal digits"),
    ("shards[1].index_sha256", 7, "64 hexadecimal digits"),
    ("shards[1].extra", 7, "no such key"),
]


def put(raw: dict[str, Any], key: str, value: Any) -> None:
    if not key.startswith("shards["):
        raw[key] = value
    elif key == "shards[1]":
        raw["shards"][1] = value
    else:
        raw["shards"][1][key.partition(".")[2]] = value


@pytest.mark.parametrize(("key", "value", "expected"), BAD_FIELDS)
def test_malformed_field_is_named(shards: Path, key: str, value: Any, expected: str) -> None:
    path = shards / "manifest.json"
    raw = json.loads(path.read_text())
    put(raw, key, value)
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError) as caught:
        Manifest.load(shards)
    message = str(caught.value)
    assert f"{path}: key {key} is {value!r}, expected " in message
    assert expected in message


def test_missing_keys_are_named(shards: Path) -> None:
    path = shards / "manifest.json"
    whole = json.loads(path.read_text())
    for key in whole:
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(DataError, match=f"key {key} is missing"):
            Manifest.load(shards)
    del whole["shards"][2]["sha256"]
    path.write_text(json.dumps(whole))
    with pytest.raises(DataError, match=r"key shards\[2\]\.sha256 is missing"):
        Manifest.load(shards)


Named = Callable[..., Manifest]


@pytest.fixture
def named(shards: Path) -> Named:
    """The manifest of the shards with other class names, or none, written and read back."""

    def naming(names: list[str] | None, **changes: Any) -> Manifest:
        path = shards / "manifest.json"
        raw = json.loads(path.read_text())
        raw.pop("class_names", None)
        path.write_text(json.dumps(raw | changes | ({"class_names": names} if names else {})))
        return Manifest.load(shards)

    return naming


def test_class_names_are_optional_and_come_back(named: Named, shards: Path) -> None:
    assert named(None).class_names is None
    manifest = named([*"abcdefg"])
    assert manifest.class_names == tuple("abcdefg")
    manifest.save(shards)
    assert Manifest.load(shards) == manifest


def test_held_out_classes_are_compared_by_name(named: Named) -> None:
    ours = named([*"abcdefg"])
    for same in (ours, named(None)):
        require_same_classes(ours, same, "held")
        require_same_classes(same, ours, "held")
    others = {
        "lacks 'd' and has besides 'x'": named([*"abcefgx"]),
        "has besides 'h'": named([*"abcdefgh"], num_classes=8),
        "lacks 'g'": named([*"abcdef"], num_classes=6),
        "has them in another order": named([*"abcdegf"], num_classes=7),
        "held: holds 6 classes, the training set 7": named(None, num_classes=6),
    }
    for message, other in others.items():
        with pytest.raises(DataError, match=message):
            require_same_classes(ours, other, "held")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\xff", "[" * 100_000, "NaN", "version https://git-lfs"])
def test_files_that_are_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"manifest\.json"):
        Manifest.load(tmp_path)


def test_missing_manifest(tmp_path: Path) -> None:
    (tmp_path / "images.npz").touch()
    for folder in (tmp_path, tmp_path / "none", tmp_path / "images.npz"):
        with pytest.raises(DataError, match="not a complete folder of shards"):
            Manifest.load(folder)
