"""Checkpoints: written beside training, complete or absent, the same for any number of ranks and any strategy.

Every tensor is stored flattened, in the runs of elements that ranks held of it; how the folder looks:
`scaling.training.checkpoints.files`; what torch.distributed.checkpoint does: `scaling.training.checkpoints.storage`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.files import set_aside
from scaling.training.checkpoints.files import (
    CODES,
    DTYPES,
    CheckpointError,
    Stored,
    path_of,
    prune,
    read_manifest,
    steps_in,
    verify_file,
)
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World

__all__ = ["Checkpoint", "CheckpointError", "Checkpointer", "load", "newest", "path_of", "require", "steps_in"]

PATIENCE = timedelta(minutes=30)  # of a rank that has written its file, with the others; a dead one is noticed at once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: metadata of plain values, among them `step` and `identity`, and where its tensors lie."""

    path: Path
    metadata: dict[str, Any]
    stored: Mapping[str, Stored] = field(repr=False)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.metadata["step"])

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, without it, on the CPU; CheckpointError where there are none."""
        names = self.names(prefix)
        found = {name: self.stored[name] for name in names.values()}
        pieces = {
            name: Piece(torch.empty(math.prod(stored.shape), dtype=DTYPES[stored.dtype]), 0, stored.shape)
            for name, stored in found.items()
        }
        self.read_into(pieces)
        return {short: pieces[name].local.view(pieces[name].shape) for short, name in names.items()}

    def names(self, prefix: str) -> dict[str, str]:
        """The names that start with `prefix`, by what follows it; CheckpointError where there are none."""
        found = {name.removeprefix(prefix): name for name in self.stored if name.startswith(prefix)}
        if not found:
            known = sorted({name.rsplit("/", 1)[0] for name in self.stored})
            raise CheckpointError(f"{self.path}: holds no {prefix.rstrip('/')}; it holds {', '.join(known)}")
        return found

    def read_into(self, pieces: Mapping[str, Piece]) -> None:
        """Fill what each piece holds, replicated or not, on its device. Every rank reads for itself.

        Raises CheckpointError, before anything is filled, where a tensor is missing or has another shape or type.
        """
        for name, piece in pieces.items():
            self._require_tensor(name, piece)
        from scaling.training.checkpoints.storage import read_folder

        read_folder(self.path, self.stored, pieces)

    def _require_tensor(self, name: str, piece: Piece) -> None:
        stored, dtype = self.stored.get(name), CODES[piece.local.dtype]
        if stored is None:
            raise CheckpointError(f"{self.path}: holds no tensor {name}: it is of another network")
        if (stored.shape, stored.dtype) != (piece.shape, dtype):
            raise CheckpointError(
                f"{self.path}: {name} is {list(stored.shape)} {stored.dtype}, not {list(piece.shape)} {dtype}: "
                "it is of another network"
            )


def load(path: Path, rank: int = 0, size: int = 1) -> Checkpoint:
    """The checkpoint in a folder, every byte of it verified; it must stay there until its tensors are read.

    rank, size: of several that load it together, each of which verifies its share of the files. Raises CheckpointError
    where it is missing, truncated, altered or foreign.
    """
    return _verified(path, rank, size)


def _verified(path: Path, rank: int, size: int) -> Checkpoint:
    """The checkpoint, of whose files this is the rank's share that was verified."""
    manifest = read_manifest(path)
    for name in sorted(manifest.files)[rank::size]:
        verify_file(path / name, manifest.files[name])
    return Checkpoint(path, manifest.metadata, manifest.tensors)


def newest(folder: Path, identity: str, world: World) -> Checkpoint | None:
    """The newest whole checkpoint, the same on all ranks, which verify its files together.

    A damaged one is set aside under the name *.damaged with a warning, and the one before it is taken. Raises
    CheckpointError if it belongs to a run of another configuration.
    """
    while steps := world.told(steps_in(folder) if world.leads else None):
        path = path_of(folder, steps[-1])
        found: Checkpoint | None = None
        problems: list[str | None] = [None] * world.size
        try:
            found = _verified(path, world.rank, world.size)
        except CheckpointError as error:
            problems[world.rank] = str(error)
        if world.size > 1:
            dist.all_gather_object(problems, problems[world.rank])
        problem = next((problem for problem in problems if problem), None)
        if problem is None and found is not None:
            require(found, identity)
            return found
        if world.leads:
            set_aside(path)
            log.warning("%s; set aside, taking the one before it", problem)
    return None


def require(found: Checkpoint, identity: str) -> None:
    """CheckpointError unless the checkpoint belongs to the run of that identity."""
    owner = found.metadata.get("identity")
    if owner != identity:
        raise CheckpointError(
            f"{found.path}: belongs to run {owner}, not to {identity}: another configuration; move the folder away"
        )


class Checkpointer:
    """Writes the checkpoints of a run in training; every rank makes one and calls its methods in step."""

    def __init__(self, folder: Path, world: World, *, keep: int, keep_steps: int = 0) -> None:
        """keep: newest checkpoints that stay; keep_steps: those of its multiples stay for good; 0: none."""
        self.folder, self.world, self.keep, self.keep_steps = folder, world, keep, keep_steps
        # The thread's collectives must not mix with those of training: a group of its own.
        self._group: dist.ProcessGroup | None = None
        if world.size > 1:
            group = dist.new_group(backend="gloo", timeout=PATIENCE)
            assert isinstance(group, dist.ProcessGroup), "a group of all ranks has this one"
            self._group = group
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._copy = HostCopy()

    @property
    def writing(self) -> Future[None] | None:
        """The write that was begun last, if it was not waited for yet."""
        return self._writing

    def save(
        self,
        step: int,
        pieces: Mapping[str, Piece],
        metadata: Mapping[str, Any],
        after: Future[None] | None = None,
    ) -> None:
        """Copy this rank's share of the pieces (the same names on all ranks) and return; a thread writes it.

        Waits for the write before. Raises, on every rank, what failed on one, such as OSError with the file's name.
        after: what must be on the disk before this is; where that fails, this is not written.
        """
        self.wait()
        copied = self._copy.take(pieces)
        plain = json.loads(json.dumps(dict(metadata)))
        shapes = {name: piece.shape for name, piece in pieces.items()}
        self._writing = self._thread.submit(self._write, path_of(self.folder, step), copied, shapes, plain, after)

    def _write(
        self,
        final: Path,
        copied: Mapping[str, Piece],
        shapes: Mapping[str, tuple[int, ...]],
        metadata: Mapping[str, Any],
        before: Future[None] | None,
    ) -> None:
        from scaling.training.checkpoints.storage import FolderWriter, write_folder

        if before is not None:
            before.result()
        after = partial(prune, self.folder, self.keep, self.keep_steps)
        writer = FolderWriter(final, f"rank-{self.world.rank:05d}.safetensors", shapes, metadata, after)
        write_folder(writer, copied, self._group)

    def wait(self) -> None:
        """Return once what was begun is on the disk; raises what that raised, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, then free the buffers and the process group."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._copy = HostCopy()
            if self._group is not None:
                dist.destroy_process_group(self._group)


class HostCopy:
    """A copy of what this rank writes, in memory of the host that is used again for every checkpoint."""

    def __init__(self) -> None:
        self._pieces: Mapping[str, Piece] | None = None
        self._sources: list[Tensor] = []
        self._copies: dict[str, Piece] = {}

    @torch.no_grad()
    def take(self, pieces: Mapping[str, Piece]) -> Mapping[str, Piece]:
        """Copies of this rank's share of the pieces, where it has one; they are good until the next.

        A mapping that is given again must hold the same pieces: it is looked through once.
        """
        if pieces is not self._pieces:
            self._lay_out(pieces)
        copies = [piece.local for piece in self._copies.values()]
        torch._foreach_copy_(copies, self._sources, non_blocking=True)  # pyright: ignore[reportPrivateImportUsage]
        for device in {source.device for source in self._sources if source.is_cuda}:
            torch.cuda.synchronize(device)
        return self._copies

    def _lay_out(self, pieces: Mapping[str, Piece]) -> None:
        """One block of memory for all; larger elements first, so that all are aligned in it and in the file."""
        own = {name: piece.own() for name, piece in pieces.items()}
        own = {name: piece for name, piece in own.items() if len(piece.local) or not piece.numel}
        own = dict(sorted(own.items(), key=lambda item: -item[1].local.itemsize))
        sizes = [piece.local.nbytes for piece in own.values()]
        pinned = any(piece.local.is_cuda for piece in own.values())
        blocks = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pinned).split(sizes)
        self._copies = {n: p.like(block.view(p.local.dtype)) for (n, p), block in zip(own.items(), blocks, strict=True)}
        self._sources = [piece.local for piece in own.values()]
        self._pieces = pieces
