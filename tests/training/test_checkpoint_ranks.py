"""Checkpoints of several ranks: any number of them reads what any number wrote; what fails on one is told on all."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scaling.training.checkpoints import storage as checkpoint_storage
from scaling.training.checkpoints.checkpoint import Checkpointer, load, newest
from scaling.training.checkpoints.files import CheckpointError, path_of, steps_in
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import joined
from slurm.ranks import free_port, rank_variables
from tests.ranks import context, run_ranks
from tests.training.checkpoint_states import (
    ALONE,
    assert_filled,
    assert_holds,
    metadata_of,
    pieces_of,
    state_of,
    write,
)

CPU = torch.device("cpu")


def write_in_world(folder: Path, step: int, seed: int) -> None:
    with joined(CPU) as world:
        write(folder, step, world, seed)


def read_in_world(folder: Path, step: int, seed: int) -> None:
    with joined(CPU) as world:
        found = newest(folder, "a run", world)
        assert found is not None
        assert_holds(found, step)
        assert_filled(found, world, step, seed)


def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path: Path) -> None:
    """2 ranks, 1, 4, and 1 again, with other cuts each time; empty ones among them."""
    assert any(not len(piece.local) for rank in range(4) for piece in pieces_of(state_of(3), rank, 4, 3).values())
    run_ranks(2, write_in_world, tmp_path, 1, 1)
    assert_holds(path_of(tmp_path, 1), 1)
    assert_filled(load(path_of(tmp_path, 1)), ALONE, 1, 2)
    run_ranks(4, read_in_world, tmp_path, 1, 3)
    write(tmp_path, 2)
    run_ranks(2, read_in_world, tmp_path, 2, 4)
    run_ranks(4, write_in_world, tmp_path, 3, 5)
    assert len(list(path_of(tmp_path, 3).glob("rank-*"))) == 4
    run_ranks(2, read_in_world, tmp_path, 3, 6)
    assert_holds(path_of(tmp_path, 3), 3)


def replicated_shards(folder: Path) -> None:
    """Two shards, each on two ranks (HSDP); each rank writes half of its shard."""
    with joined(CPU) as world:
        whole = torch.arange(35.0)
        shard, replica = divmod(world.rank, 2)
        first, last = (0, 19) if shard == 0 else (19, 35)
        piece = Piece(whole[first:last].clone(), first, (5, 7), replica, 2)
        checkpointer = Checkpointer(folder, world, keep=1)
        checkpointer.save(1, {"x": piece}, metadata_of(1))
        checkpointer.close()
        again = piece.like(torch.zeros(last - first))
        load(path_of(folder, 1)).read_into({"x": again})
        assert torch.equal(again.local, piece.local)


def test_each_replica_writes_its_share_and_reads_all(tmp_path: Path) -> None:
    run_ranks(4, replicated_shards, tmp_path)
    found = load(path_of(tmp_path, 1))
    assert [run.length for run in found.stored["x"].runs] == [9, 10, 8, 8]
    assert torch.equal(found.part("")["x"], torch.arange(35.0).view(5, 7))


def train_beside(folder: Path) -> int:
    """All-reduce and change the tensors while no file can be finished; the number of all-reduces."""
    go, flush, reduced = threading.Event(), os.fsync, 0

    def flush_then(descriptor: int) -> None:
        assert go.wait(20), "nothing else ran beside the write"
        flush(descriptor)

    os.fsync = flush_then
    with joined(CPU) as world:
        checkpointer = Checkpointer(folder, world, keep=2)
        pieces = pieces_of(state_of(1), world.rank, world.size)
        checkpointer.save(1, pieces, metadata_of(1))
        for piece in pieces.values():
            piece.local.zero_()
        for n in range(100):
            reduced += int(world.total(torch.full((1000,), n + world.rank))[0]) == 2 * n + 1
        assert steps_in(folder) == []
        go.set()
        checkpointer.wait()
        assert steps_in(folder) == [1]
        checkpointer.close()
    return reduced


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    assert run_ranks(2, train_beside, tmp_path) == [100, 100]
    assert_holds(path_of(tmp_path, 1), 1)


def damaged_in_world(folder: Path, name: str) -> int:
    with joined(CPU) as world:
        if world.leads:
            (path_of(folder, 2) / name).write_bytes(b"damaged")
        world.barrier()
        found = newest(folder, "a run", world)
        assert found is not None
        with pytest.raises(CheckpointError, match="belongs to run a run, not to another"):
            newest(folder, "another", world)
        return found.step


@pytest.mark.parametrize(
    "name",
    [pytest.param("rank-00000.safetensors", marks=pytest.mark.nightly), "rank-00001.safetensors", "checkpoint.json"],
)
def test_all_ranks_agree_on_the_one_before_a_damaged_one(tmp_path: Path, name: str) -> None:
    run_ranks(2, write_in_world, tmp_path, 1, 1)
    run_ranks(2, write_in_world, tmp_path, 2, 1)
    assert run_ranks(2, damaged_in_world, tmp_path, name) == [1, 1]
    assert (tmp_path / "step-00000002.damaged").is_dir()


def nothing_in_world(folder: Path) -> bool:
    with joined(CPU) as world:
        return newest(folder, "a run", world) is None


def test_all_ranks_find_nothing(tmp_path: Path) -> None:
    assert run_ranks(2, nothing_in_world, tmp_path) == [True, True]


def fail_on(folder: Path, rank: int, at: str) -> tuple[int | None, str]:
    """A file that may not grow on one rank, as under a quota; what every rank is told; then the limit is gone."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with joined(CPU) as world:
        checkpointer = Checkpointer(folder, world, keep=2)
        pieces = pieces_of(state_of(2), world.rank, world.size)
        if world.rank == rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        checkpointer.save(2, pieces, metadata_of(2))
        with pytest.raises(OSError, match="File too large") as caught:
            (checkpointer.wait if at == "wait" else lambda: checkpointer.save(3, pieces, metadata_of(3)))()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        world.barrier()
        assert steps_in(folder) == [1]
        assert not list(folder.glob(".*"))
        checkpointer.save(4, pieces_of(state_of(4), world.rank, world.size), metadata_of(4))
        checkpointer.close()
        return caught.value.errno, caught.value.filename


@pytest.mark.parametrize(("rank", "at"), [(0, "wait"), (1, "wait"), (1, "save")])
def test_what_fails_on_one_rank_is_told_on_all(tmp_path: Path, rank: int, at: str) -> None:
    write(tmp_path, 1)
    file = str(path_of(tmp_path, 2) / f"rank-{rank:05d}.safetensors")
    assert run_ranks(2, fail_on, tmp_path, rank, at) == [(errno.EFBIG, file)] * 2
    assert_holds(path_of(tmp_path, 4), 4)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no mount command")
    command = ["mount", "-t", "tmpfs", "-o", "size=2000k", "tmpfs", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"no file system of its own for this test: {result.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill_up(folder: Path) -> list[str]:
    """Save until the disk is full: what was told, on this rank."""
    told = []
    with joined(CPU) as world:
        checkpointer = Checkpointer(folder / "checkpoints", world, keep=9)
        for step in range(1, 4):
            pieces = {"x": Piece(torch.full((100_000,), float(step)), 100_000 * world.rank, (2, 100_000))}
            try:
                checkpointer.save(step, pieces, metadata_of(step))
                checkpointer.wait()
            except OSError as error:
                told.append(f"{step} {error.errno} {error.filename}")
        checkpointer.close()
    return told


def test_a_full_disk(disk: Path) -> None:
    """Two checkpoints of 800 kB have room, a third has not; room is made, and it goes on."""
    told = run_ranks(2, fill_up, disk)
    folder = disk / "checkpoints"
    assert told[0] == told[1]
    (line,) = told[0]
    step, number, name = line.split()
    assert (int(step), int(number)) == (3, errno.ENOSPC)
    assert name in {str(path_of(folder, 3) / f"rank-0000{rank}.safetensors") for rank in range(2)}
    assert sorted(path.name for path in folder.iterdir()) == ["newest", "step-00000001", "step-00000002"]
    found = newest(folder, "a run", ALONE)
    assert found is not None
    assert torch.equal(found.part("")["x"], torch.full((2, 100_000), 2.0))
    shutil.rmtree(path_of(folder, 1))
    run_ranks(2, write_in_world, folder, 3, 1)
    assert_holds(path_of(folder, 3), 3)


def lose_a_rank(folder: Path, variables: dict[str, str]) -> None:
    """Rank 1 dies in the middle of its file; rank 0 writes down what its wait raised."""
    os.environ.update(variables)
    with joined(CPU) as world:
        checkpointer = Checkpointer(folder / "checkpoints", world, keep=1)
        if world.rank == 1:
            checkpoint_storage.os.fsync = lambda _: os._exit(9)
        checkpointer.save(1, pieces_of(state_of(1), world.rank, world.size), metadata_of(1))
        try:
            checkpointer.wait()
        except RuntimeError as error:
            (folder / "told").write_text(str(error))


def test_a_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    port = free_port()
    ranks = [context().Process(target=lose_a_rank, args=(tmp_path, rank_variables(rank, 2, port))) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 9]
    assert "onnection" in (tmp_path / "told").read_text()
    assert steps_in(tmp_path / "checkpoints") == []


def missing_run(folder: Path) -> str:
    """An engine that forgot elements: an error, not a checkpoint with holes."""
    with joined(CPU) as world:
        checkpointer = Checkpointer(folder, world, keep=1)
        checkpointer.save(1, {"x": Piece(torch.zeros(4), 5 * world.rank, (9,))}, metadata_of(1))
        with pytest.raises(ValueError, match="is missing") as caught:
            checkpointer.wait()
        checkpointer.close()
        return str(caught.value)


def test_no_checkpoint_has_holes(tmp_path: Path) -> None:
    assert run_ranks(2, missing_run, tmp_path) == ["x: element 4 of 9 is missing or stored twice"] * 2
    assert list(tmp_path.iterdir()) == []


def write_until_killed(folder: Path, noted: Path, variables: dict[str, str]) -> None:
    """Go on from the newest checkpoint, one after the other, and note each that is on the disk."""
    os.environ.update(variables)
    with joined(CPU) as world:
        found = newest(folder, "a run", world)
        step = 0 if found is None else found.step
        checkpointer = Checkpointer(folder, world, keep=2)
        while True:
            step += 1
            checkpointer.save(step, pieces_of(state_of(step), world.rank, world.size, step), metadata_of(step))
            checkpointer.wait()
            if world.leads:
                noted.write_text(str(step))


def strike(folder: Path, noted: Path, size: int, victims: int, rng: random.Random) -> None:
    """Start `size` ranks and kill some at a random moment after they have written one more; the others must end."""
    noted.unlink(missing_ok=True)
    port = free_port()
    variables = [rank_variables(rank, size, port) if size > 1 else {} for rank in range(size)]
    ranks = [context().Process(target=write_until_killed, args=(folder, noted, v)) for v in variables]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + 60
    while not noted.exists():
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.03))
    for rank in rng.sample(ranks, victims):
        rank.kill()
    for rank in ranks:
        rank.join(60)
    assert all(rank.exitcode for rank in ranks), "a rank goes on without the others"


@pytest.mark.parametrize(
    ("size", "victims", "times"), [(1, 1, 20), (2, 2, 6), pytest.param(2, 1, 4, marks=pytest.mark.nightly)]
)
def test_kills_in_the_middle_of_writing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, victims: int, times: int
) -> None:
    """Nothing that was written is lost or damaged, whatever the moment; what is half-written goes."""
    folder, noted, rng, partial = tmp_path / "checkpoints", tmp_path / "noted", random.Random(size), 0
    for _ in range(times):
        strike(folder, noted, size, victims, rng)
        partial += any(folder.glob(".step-*.partial"))
        found = newest(folder, "a run", ALONE)
        assert found is not None
        assert found.step >= int(noted.read_text() or 0)
        assert_holds(found, found.step)
    assert partial or victims < size, "no kill came in the middle of writing"
    assert caplog.text == ""
    write(folder, steps_in(folder)[-1] + 1)
    assert not list(folder.glob(".*"))
