"""Files that are not what they say: nothing in them runs, and the error says what was refused or where it ends."""

from __future__ import annotations

import builtins
import copyreg
import functools
import gzip
import io
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._utils import _rebuild_tensor_v2

from models.edm2 import EDM2Network, read_edm2
from models.edm2_pickle import EDM2Error
from tests.models.edm2_files import (
    TINY,
    EasyDict,
    Persistent,
    arguments_of,
    build,
    edm2_modules,
    random_state,
    snapshot,
    write,
    write_network,
)

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Wants:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole snapshot."""
    return write_network(tmp_path_factory.mktemp("edm2") / "network-snapshot-0000100-0.100.pkl", random_state(TINY))


def refused(path: Path) -> str:
    """The message with which a file is refused; it names the file."""
    with pytest.raises(EDM2Error) as caught:
        read_edm2(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_names_that_move_the_cursor_are_written_out(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04c\x1b[2Jos\nsystem\n.")
    assert r"it wants to use \x1b[2Jos.system, which" in refused(path)


HOSTILE: dict[str, tuple[Callable[[str], Wants], str]] = {
    "system": (lambda mark: Wants(os.system, f"touch {mark}"), "posix.system"),
    "popen": (lambda mark: Wants(subprocess.Popen, ["touch", mark]), "subprocess.Popen"),
    "eval": (lambda mark: Wants(eval, f"open({mark!r}, 'w')"), "builtins.eval"),
    "exec": (lambda mark: Wants(exec, f"open({mark!r}, 'w')"), "builtins.exec"),
    "open": (lambda mark: Wants(open, mark, "w"), "io.open"),
    "getattr": (lambda mark: Wants(getattr, "", "format"), "builtins.getattr"),
    "import": (lambda mark: Wants(builtins.__import__, "this"), "builtins.__import__"),
    "partial": (lambda mark: Wants(functools.partial(os.system, f"touch {mark}")), "functools.partial"),
    "torch.load": (lambda mark: Wants(torch.load, mark), "torch.serialization.load"),
    "reconstructor": (lambda mark: Wants(copyreg._reconstructor, dict, dict, {}), "copyreg._reconstructor"),  # type: ignore[attr-defined]
    "np.load": (lambda mark: Wants(np.load, mark), "numpy.load"),
    "rmtree": (lambda mark: Wants(shutil.rmtree, mark), "shutil.rmtree"),
}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_program_is_refused_by_name_and_not_run(tmp_path: Path, case: str, protocol: int) -> None:
    mark = tmp_path / "it-ran"
    make, name = HOSTILE[case]
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"ema": make(str(mark))}, protocol))
    assert f"refused: it wants to use {name}, " in refused(path)
    assert not mark.exists()


def test_the_hostile_pickles_are_live(tmp_path: Path) -> None:
    """What the importer refuses would do its work elsewhere: the cases above are no empty threats."""
    mark = tmp_path / "it-ran"
    pickle.loads(pickle.dumps({"ema": HOSTILE["system"][0](str(mark))}))  # noqa: S301
    assert mark.exists()


def test_a_program_anywhere_in_a_whole_snapshot_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    network = build(random_state(TINY), **arguments_of(TINY))
    network.unet.out_gain.hidden = Wants(os.system, f"touch {mark}")  # type: ignore[union-attr]
    content = snapshot(network)
    content["dataset_kwargs"]["path"] = Wants(os.system, f"touch {mark}")
    assert "posix.system" in refused(write(tmp_path / "bad.pkl", content))
    assert not mark.exists()


def hostile_storage(payload: bytes) -> Wants:
    return Wants(torch.storage._load_from_bytes, payload)


def with_storage(folder: Path, storage: Any, offset: int = 0, shape: Any = (1, 128), strides: Any = (128, 1)) -> Path:
    """A whole snapshot, but for one weight."""
    network = build(random_state(TINY), **arguments_of(TINY))
    inner = Wants(_rebuild_tensor_v2, storage, offset, shape, strides, False, OrderedDict())
    network.logvar_linear._parameters["weight"] = inner  # type: ignore[union-attr]
    return write(folder / "bad.pkl", snapshot(network))


def test_a_pickle_inside_a_storage_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    inner = pickle.dumps(Wants(os.system, f"touch {mark}"), 2)
    message = refused(with_storage(tmp_path, hostile_storage(inner)))
    assert "logvar_linear.weight: refused: it wants to use posix.system" in message
    assert not mark.exists()


def stored(value: torch.Tensor) -> bytes:
    """A storage as tensors pickle it."""
    buffer = io.BytesIO()
    storage = torch.storage.TypedStorage(wrap_storage=value.untyped_storage(), dtype=value.dtype, _internal=True)
    torch.save(storage, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "ends early"),
        (b"PK\x03\x04 zip", "damaged or no pickle"),
        (stored(torch.zeros(128))[:-1], "holds 511 bytes where 512 belong"),
        (stored(torch.zeros(128)) + b"\0", "holds 513 bytes where 512 belong"),
        (stored(torch.zeros(64)), r"\[1, 128\] reaches beyond its 64 stored values"),
        (stored(torch.zeros(128, dtype=torch.int64)), "torch.LongStorage"),
        (stored(torch.zeros(128, dtype=torch.float64)), "torch.DoubleStorage"),
        (stored(torch.full((128,), float("nan"))), "holds NaN"),
        (stored(torch.zeros(128)).replace(b"\x88", b"\x89", 1), "another order of bytes"),  # little_endian: False
        (pickle.dumps(1, 2) * 5, "not in the format"),
    ],
)
def test_storages_that_are_none(tmp_path: Path, payload: bytes, message: str) -> None:
    with pytest.raises(EDM2Error, match=message):
        read_edm2(with_storage(tmp_path, hostile_storage(payload)))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((1, 128), (0, 0), 128), ((1, 128), (1, 2), 0), ((1, 128), (1, 1), -1), ((2**33, 2**33), (0, 0), 0), (5, 5, 0)],
)
def test_tensors_that_reach_beyond_their_storage(tmp_path: Path, shape: Any, strides: Any, offset: int) -> None:
    values = hostile_storage(stored(torch.zeros(128)))
    assert "logvar_linear.weight" in refused(with_storage(tmp_path, values, offset, shape, strides))


def test_one_value_cannot_fill_the_memory(tmp_path: Path) -> None:
    path = with_storage(tmp_path, hostile_storage(stored(torch.ones(1))), strides=(0, 0))
    assert "reaches beyond its 1 stored values" in refused(path)


def raw(*parts: bytes) -> bytes:
    return b"".join((b"\x80\x04", *parts, b"."))


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


EASY = text("dnnlib.util") + text("EasyDict") + b"\x93"
HOLDER = text("torch_utils.persistence") + text("_reconstruct_persistent_obj") + b"\x93"
TRICKS = {
    "dotted name": raw(text("torch._utils"), text("os.system"), b"\x93"),
    "dotted module": raw(text("collections"), text("OrderedDict.fromkeys"), b"\x93"),
    "old instance": b"(iposix\nsystem\n.",
    "old global": b"cposix\nsystem\n.",
    "extension": raw(b"\x82\x01"),
    "persistent id": raw(text("x"), b"Q"),
    "out of band": raw(b"\x97"),
    "keywords": raw(EASY, b")}\x92"),
    "mapping with arguments": raw(EASY, text("x"), b"\x85R"),
    "call of a call": raw(HOLDER, b"}\x85R)R"),
    "state of a global": raw(EASY, b"}b"),
    "state of a list": raw(b"]}b"),
    "class of a value": raw(text("x"), b")\x81"),
    "unhashable key": raw(b"}]Ns"),
    "key that is deep": raw(b"})" + b"\x85" * 200_000 + b"Ns"),  # hashing it would exhaust the stack of C
    "call as a key": raw(b"}", HOLDER, b"}\x85RNs"),
    "odd items": raw(b"}(Nu"),
    "empty stack": raw(b"\x93"),
    "no mark": raw(b"t"),
    "unknown memo": raw(b"h\x07"),
    "huge memo": raw(b"Nr\xff\xff\xff\x7f"),
    "huge text": raw(b"\x8d" + (2**40).to_bytes(8, "little")),
    "huge bytes": raw(b"\x8e" + (2**62).to_bytes(8, "little")),
    "huge frame": raw(b"\x95" + (2**62).to_bytes(8, "little")),
    "huge number": raw(b"\x8b" + (2**31 - 1).to_bytes(4, "little")),
    "negative number": raw(b"\x8b\xff\xff\xff\xff"),
    "not UTF-8": raw(b"\x8c\x01\xff"),
    "nested": raw(b"]" * 100_000 + b"a" * 99_999),
    "holder without meta": raw(b"}", text("ema"), HOLDER, b")Rs"),
    "holder of a number": raw(b"}", text("ema"), HOLDER, b"K\x01\x85Rs"),
    "holder of a list": raw(b"}", text("ema"), HOLDER, b"]\x85Rs"),
    "holder twice": raw(b"}", text("ema"), HOLDER, b"}}\x86Rs"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_with_opcodes_are_refused(tmp_path: Path, trick: str) -> None:
    path = tmp_path / "trick.pkl"
    path.write_bytes(TRICKS[trick])
    assert "Traceback" not in refused(path)


NAMED = {
    "dotted name": "refused: it wants to use torch._utils.os.system, ",
    "old instance": "refused: it wants to use posix.system, ",
    "old global": "refused: it wants to use posix.system, ",
    "persistent id": "holds opcode BINPERSID",
    "unhashable key": "a list as a key",
    "call as a key": "a Call as a key",
    "key that is deep": "a tuple as a key",
    "mapping with arguments": "dnnlib.util.EasyDict with arguments",
    "huge memo": "is not a network snapshot",
    "huge bytes": "ends early",
}


@pytest.mark.parametrize("trick", NAMED)
def test_tricks_are_named(tmp_path: Path, trick: str) -> None:
    path = tmp_path / "trick.pkl"
    path.write_bytes(TRICKS[trick])
    assert NAMED[trick] in refused(path)


def test_modules_that_contain_themselves_end(tmp_path: Path) -> None:
    network = build(random_state(TINY), **arguments_of(TINY))
    twin = Persistent("Block")
    network.add_module("one", twin)
    network.add_module("two", twin)
    assert "stands in two places" in refused(write(tmp_path / "bad.pkl", snapshot(network)))


@QUICK
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_says_so(good: Path, tmp_path: Path, share: float) -> None:
    whole = good.read_bytes()
    path = tmp_path / "cut.pkl"
    path.write_bytes(whole[: int(share * len(whole))])
    message = refused(path)
    assert "ends early" in message or "is empty" in message
    assert "download it again" in message


@QUICK
@given(data=st.data())
def test_a_flipped_byte_gives_an_error_or_other_numbers(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    changed = bytearray(good.read_bytes())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flipped.pkl"
    path.write_bytes(changed)
    outcome = message_or_network(path)
    if isinstance(outcome, str):
        assert outcome.startswith(f"{path}: ")
    else:
        assert all(value.isfinite().all() for value in outcome.state.values())


def message_or_network(path: Path) -> str | EDM2Network:
    try:
        return read_edm2(path)
    except EDM2Error as error:
        return str(error)


def other_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that a user may give by mistake, and what the message calls them."""
    (folder / "empty.pkl").touch()
    (folder / "page.pkl").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "text.pkl").write_text("h\xe9llo")
    np.savez(folder / "arrays.npz", x=np.zeros(3))
    np.save(folder / "array.npy", np.zeros(3))
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("dataset.json", "{}")
    torch.save({"ema": torch.zeros(3)}, folder / "training-state.pt")
    torch.save({"ema": torch.zeros(3)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "denied.pkl").write_text("\ufeff\n<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>")
    (folder / "pointer.pkl").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    (folder / "packed.pkl").write_bytes(gzip.compress(pickle.dumps({"ema": 1})))
    with tarfile.open(folder / "packed.tar", "w") as archive:
        archive.add(folder / "text.pkl")
    safetensors.torch.save_file({"x": torch.zeros(3)}, folder / "x.safetensors")
    (folder / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    (folder / "stats.pkl").write_bytes(pickle.dumps({"num_images": 5}))
    (folder / "plain.pkl").write_bytes(pickle.dumps({"ema": {"x": 1}}))
    says = {
        "empty.pkl": "is empty (download it again)",
        "page.pkl": "is a web page: was a download answered",
        "denied.pkl": "is a web page: was a download answered",
        "pointer.pkl": "is a Git LFS pointer, not the file itself: `git lfs pull`",
        "text.pkl": "is a text that begins with 'h\xe9llo'",
        "packed.pkl": "is a gzip file: unpack it first",
        "packed.tar": "is a tar archive: unpack it first",
        "arrays.npz": "is an .npz of NumPy arrays",
        "array.npy": "is a .npy file, one array without a name",
        "data.zip": "is a zip archive",
        "training-state.pt": "is a PyTorch file (a zip archive, such as a training state)",
        "old.pt": "is a PyTorch file of the old format",
        "x.safetensors": "is a safetensors file",
        "list.pkl": "holds no `ema`",
        "stats.pkl": "holds no `ema`",
        "plain.pkl": "its `ema` is not a network of EDM2",
    }
    return {name: (folder / name, message) for name, message in says.items()}


def test_other_files_are_called_by_their_name(tmp_path: Path) -> None:
    for path, message in other_files(tmp_path).values():
        assert message in refused(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_edm2(tmp_path / "none.pkl")


def test_nothing_in_a_snapshot_can_be_unpickled_by_accident(good: Path) -> None:
    """The stand-in for EDM2's loader raises when called: reading a snapshot did not call it."""
    assert read_edm2(good).config == TINY
    with edm2_modules(), pytest.raises(AssertionError, match="was unpickled"):
        pickle.loads(good.read_bytes())  # noqa: S301
    assert EasyDict.__module__ == "dnnlib.util"
