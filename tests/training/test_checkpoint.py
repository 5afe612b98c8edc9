"""A checkpoint gives back what was saved, or says what is wrong with it; one process."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from scaling.training.checkpoints.checkpoint import Checkpointer, load, newest, require
from scaling.training.checkpoints.files import MANIFEST, CheckpointError, path_of, steps_in
from tests.training.checkpoint_states import ALONE, assert_filled, assert_holds, metadata_of, pieces_of, state_of, write

DATA = "rank-00000.safetensors"


def test_shapes_types_and_metadata_come_back(tmp_path: Path) -> None:
    path = write(tmp_path / "run" / "checkpoints", 3)
    assert_holds(path, 3)
    assert_filled(load(path), ALONE, 3, seed=1)
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST, DATA]
    assert sorted(file.name for file in path.parent.iterdir()) == ["newest", path.name]
    assert (path.parent / "newest").read_text() == "step-00000003\n"


def test_a_part_is_what_starts_with_its_prefix(tmp_path: Path) -> None:
    found = load(write(tmp_path, 1))
    assert found.part("ema-0.1/").keys() == {"conv.weight", "gain"}
    with pytest.raises(CheckpointError, match=r"holds no ema-0\.2; it holds adam-exp_avg, ema-0\.1, model"):
        found.part("ema-0.2/")


def test_the_data_are_ordinary_safetensors(tmp_path: Path) -> None:
    found = safetensors.torch.load_file(write(tmp_path, 1) / DATA)
    assert all(torch.equal(found[name], tensor.flatten()) for name, tensor in state_of(1).items())
    with safe_open(tmp_path / "step-00000001" / DATA, framework="pt") as file:
        assert set(file.keys()) == set(state_of(1))


def test_the_copy_is_of_the_moment_and_its_memory_is_used_again(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, ALONE, keep=9)
    pieces, metadata = pieces_of(state_of(0), 0, 1), metadata_of(0)
    addresses: set[int] = set()
    for step in range(4):
        for name, tensor in state_of(step).items():
            pieces[name].local.copy_(tensor.flatten())
        metadata |= metadata_of(step)
        checkpointer.save(step, pieces, metadata)
        for piece in pieces.values():
            piece.local.fill_(7)
        metadata["spec"] = None
        addresses |= {piece.local.data_ptr() for piece in checkpointer._copy._copies.values()}
    checkpointer.close()
    for step in range(4):
        assert_holds(path_of(tmp_path, step), step)
    assert len(addresses) <= len(pieces)


def test_other_pieces_after_the_first(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, ALONE, keep=9)
    pieces = pieces_of(state_of(5), 0, 1)
    checkpointer.save(1, {"model/gain": pieces["model/gain"]}, metadata_of(1))
    checkpointer.save(5, pieces, metadata_of(5))
    checkpointer.close()
    assert load(path_of(tmp_path, 1)).part("").keys() == {"model/gain"}
    assert_holds(path_of(tmp_path, 5), 5)


def test_one_that_comes_after_another_write_waits_for_it(tmp_path: Path) -> None:
    """A checkpoint from which training goes on must not be there before the snapshot of an earlier step is."""
    checkpointer, snapshot = Checkpointer(tmp_path, ALONE, keep=9), Future[None]()
    checkpointer.save(1, pieces_of(state_of(1), 0, 1), metadata_of(1), after=snapshot)
    assert checkpointer.writing is not None
    with pytest.raises(TimeoutError):
        checkpointer.writing.result(0.3)
    assert steps_in(tmp_path) == []
    snapshot.set_result(None)
    checkpointer.wait()
    assert steps_in(tmp_path) == [1]
    failed = Future[None]()
    failed.set_exception(OSError(28, "No space left on device"))
    checkpointer.save(2, pieces_of(state_of(2), 0, 1), metadata_of(2), after=failed)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.close()
    assert steps_in(tmp_path) == [1]


def test_metadata_must_be_plain(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, ALONE, keep=1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpointer.save(1, pieces_of(state_of(1), 0, 1), {"step": 1, "path": tmp_path})
    checkpointer.close()


def test_tensors_of_another_network(tmp_path: Path) -> None:
    found, pieces = load(write(tmp_path, 1)), pieces_of(state_of(2), 0, 1)
    before = pieces["model/conv.weight"].local.clone()
    with pytest.raises(CheckpointError, match="holds no tensor model/more: it is of another network"):
        found.read_into({**pieces, "model/more": pieces["model/one"]})
    with pytest.raises(CheckpointError, match=r"model/gain is \[\] F32, not \[1\] F32: it is of another network"):
        found.read_into({**pieces, "model/gain": pieces["model/one"]})
    with pytest.raises(CheckpointError, match=r"model/count is \[3, 5\] I64, not \[3, 5\] BOOL"):
        found.read_into({**pieces, "model/count": pieces["model/flag"]})
    assert torch.equal(pieces["model/conv.weight"].local, before)


def edit(change: Callable[[Any], Any], seal: bool = False) -> Callable[[Path], None]:
    """Change the content of the manifest; with `seal` its hash too, as only one does who means it."""

    def editing(path: Path) -> None:
        manifest = json.loads((path / MANIFEST).read_text())
        change(manifest["content"])
        if seal:
            text = json.dumps(manifest["content"], sort_keys=True)
            manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (path / MANIFEST).write_text(json.dumps(manifest))

    return editing


def truncate(path: Path, name: str = DATA) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])


def flip(path: Path) -> None:
    data = bytearray((path / DATA).read_bytes())
    data[-9] ^= 1
    (path / DATA).write_bytes(data)


def become_a_file(path: Path) -> None:
    shutil.rmtree(path)
    safetensors.torch.save_file({"x": torch.zeros(2)}, path, {"format": "trigscale-checkpoint-1"})


def rename_file(content: dict[str, Any]) -> None:
    content["files"]["../x"] = content["files"].pop(DATA)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, f"{DATA}: has 2[0-9]+ of 4[0-9]+ bytes: restore it or delete it"),
    "flipped": (flip, f"{DATA}: its content does not match its hash, it was damaged"),
    "no data": (lambda path: (path / DATA).unlink(), f"{DATA}: cannot be read .No such file"),
    "no manifest": (lambda path: (path / MANIFEST).unlink(), f"step-00000002: has no {MANIFEST}"),
    "cut manifest": (lambda path: truncate(path, MANIFEST), f"{MANIFEST}: is not whole JSON"),
    "binary manifest": (lambda path: (path / MANIFEST).write_bytes(bytes(range(256))), "is not whole JSON"),
    "pickle": (lambda path: (path / MANIFEST).write_bytes(pickle.dumps({})), "is not whole JSON"),
    "no object": (lambda path: (path / MANIFEST).write_text("[]"), "is not of format 'trigscale-checkpoint-2'"),
    "other format": (
        lambda path: (path / MANIFEST).write_text('{"format": "trigscale-checkpoint-3"}'),
        "is not of format 'trigscale-checkpoint-2'",
    ),
    "edited": (edit(lambda content: content["metadata"].update(step=9)), "does not match its hash, it was altered"),
    "lost run": (edit(lambda content: content["tensors"]["model/one"]["runs"].clear(), True), "has 0 of 1 elements"),
    "moved run": (
        edit(lambda content: content["tensors"]["model/one"]["runs"][0].__setitem__(0, 1), True),
        "element 0 of 1 is missing or stored twice",
    ),
    "unlisted file": (edit(lambda content: content["files"].clear(), True), f"files that are not listed: {DATA}"),
    "another file": (edit(rename_file, True), "file '../x' is not named as trigscale names files"),
    "no tensors": (edit(lambda content: content.pop("tensors"), True), "is no sound manifest .KeyError.'tensors'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_set_aside(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """The one before it is taken; done twice, since a damaged one of that step may be there already."""
    break_it, told = DAMAGES[damage]
    write(tmp_path, 1)
    for _ in range(2):
        path = write(tmp_path, 2)
        break_it(path)
        with pytest.raises(CheckpointError, match=told):
            load(path)
        with caplog.at_level(logging.WARNING):
            found = newest(tmp_path, "a run", ALONE)
        assert found is not None
        assert_holds(found, 1)
        assert f"{path}" in caplog.text
        assert "set aside, taking the one before it" in caplog.text
        assert steps_in(tmp_path) == [1]
        assert path.with_name(path.name + ".damaged").is_dir()


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none: no such checkpoint"):
        load(tmp_path / "none")
    become_a_file(write(tmp_path, 1))
    with pytest.raises(CheckpointError, match="step-00000001: is a file, a checkpoint is a folder"):
        load(path_of(tmp_path, 1))
    assert newest(tmp_path, "a run", ALONE) is None
    assert newest(tmp_path / "none", "a run", ALONE) is None


def test_a_checkpoint_of_another_run_stays_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    with pytest.raises(CheckpointError, match="belongs to run a run, not to another: another configuration; move"):
        newest(tmp_path, "another", ALONE)
    require(load(path), "a run")


def test_the_pointer_is_a_hint(tmp_path: Path) -> None:
    """A kill may come between the rename and the pointer."""
    for step in (1, 2):
        write(tmp_path, step)
    for text in ("step-00000001\n", "step-00000009\n", ""):
        (tmp_path / "newest").write_text(text)
        found = newest(tmp_path, "a run", ALONE)
        assert found is not None
        assert found.step == 2


@pytest.mark.parametrize(
    ("keep", "every", "left"), [(1, 0, [6]), (2, 0, [5, 6]), (1, 3, [0, 3, 6]), (1, 1, [*range(7)])]
)
def test_what_is_kept(tmp_path: Path, keep: int, every: int, left: list[int]) -> None:
    for step in range(7):
        write(tmp_path, step, keep=keep, keep_steps=every)
    assert steps_in(tmp_path) == left
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "rank-00007.safetensors").write_text("left")
    write(tmp_path, 1)
    assert_holds(path, 1)
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST, DATA]


def test_what_dead_writers_left_goes_and_gets_into_nothing(tmp_path: Path) -> None:
    for name in (".step-00000001.partial", ".step-00000002.0123.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank-00001.safetensors").write_text("left")
    assert newest(tmp_path, "a run", ALONE) is None
    path = write(tmp_path, 2)
    assert_holds(path, 2)
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST, DATA]
    assert not list(tmp_path.glob(".*"))
