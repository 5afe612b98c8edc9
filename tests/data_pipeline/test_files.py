from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline import files
from data_pipeline.files import atomic_folder, sha256_file, write_bytes_atomic, write_json_atomic, write_text_atomic


def fail_with(number: int) -> Callable[..., None]:
    """A stand-in for a system call that fails without naming a file, as write and fsync do."""

    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def name_of(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


def fill_and_fail(final: Path, error: type[BaseException]) -> None:
    with atomic_folder(final) as partial:
        (partial / "file").write_bytes(b"1")
        raise error


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a", b"old")
    write_bytes_atomic(tmp_path / "a", b"new")
    write_text_atomic(tmp_path / "b", "größe\n")
    write_json_atomic(tmp_path / "c.json", {"z": 1, "a": [1.5, "ü"]})
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "b").read_text("utf-8") == "größe\n"
    assert (tmp_path / "c.json").read_text("utf-8") == '{\n  "z": 1,\n  "a": [\n    1.5,\n    "ü"\n  ]\n}\n'
    assert names(tmp_path) == ["a", "b", "c.json"]
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"new").hexdigest()


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(path, {"loss": float("nan")})
    assert json.loads(path.read_text()) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_failed_write_names_the_file_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "scores.json"
    write_bytes_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", fail_with(number))
    with pytest.raises(OSError, match=r"scores\.json'$") as caught:
        write_bytes_atomic(path, b"new")
    assert caught.value.errno == number
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["scores.json"]


def test_missing_parent_names_the_destination(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent/a'$"):
        write_bytes_atomic(tmp_path / "absent" / "a", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"file/a'$"):
        write_bytes_atomic(tmp_path / "file" / "a", b"")


def test_the_folders_above_a_folder_are_made(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "absent" / "too" / "folder") as folder:
        (folder / "a").touch()
    assert (tmp_path / "absent" / "too" / "folder" / "a").exists()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=r"file'$"), atomic_folder(tmp_path / "file" / "folder"):
        pass


def test_data_reaches_the_device_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append("fsync " + name_of(descriptor))
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_bytes_atomic(tmp_path / "a", b"1")
    assert [event.split()[0] for event in events] == ["fsync", "rename", "fsync"]
    assert events[0].startswith("fsync .a.")
    assert events[2] == f"fsync {tmp_path.name}"


def test_folder_appears_whole_with_all_files_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[str] = set()
    fsync = os.fsync

    def record(descriptor: int) -> None:
        flushed.add(name_of(descriptor))
        fsync(descriptor)

    final = tmp_path / "final"
    final.mkdir()  # empty: allowed
    with atomic_folder(final) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "file").write_bytes(b"1")
        assert not any(final.iterdir())
        monkeypatch.setattr(files.os, "fsync", record)
    assert (final / "sub" / "file").read_bytes() == b"1"
    assert {"file", "sub", tmp_path.name} <= flushed
    assert names(tmp_path) == ["final"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_folder_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fill_and_fail(tmp_path / "final", error)
    assert names(tmp_path) == []


def test_occupied_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "precious").write_bytes(b"1")
    with pytest.raises(FileExistsError, match="choose another folder"), atomic_folder(tmp_path / "final"):
        pass
    assert names(tmp_path) == ["final"]
    assert (tmp_path / "final" / "precious").read_bytes() == b"1"
