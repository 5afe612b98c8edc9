"""How torch.distributed.checkpoint (DCP) sees pieces, and how it writes and reads them.

DCP plans: which rank writes which run, which ranks read which part of which run; it also tells all ranks what failed on
one. Its own planners know no runs of flattened tensors, and its own storage unpickles what it reads (FileSystemReader)
or holds a file twice in memory and has no hashes (HuggingFaceStorageWriter). So planners and storage are ours, against
its public interfaces; the data are safetensors. It takes a second to import, which planning a study does without.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from scaling.training.checkpoints.files import (
    CODES,
    DTYPES,
    CheckpointError,
    Manifest,
    Span,
    Stored,
    new_partial,
    publish,
    shown_as,
    write_tensors,
)
from scaling.training.sharding.pieces import Piece


def write_folder(writer: FolderWriter, pieces: Mapping[str, Piece], group: dist.ProcessGroup | None) -> None:
    """Write a checkpoint, of which `pieces` is this rank's share, together with the ranks of the group; None: alone.

    Raises, on every rank, what failed on one.
    """
    quieten()
    try:
        with plain_errors():
            alone = group is None
            dcp_save({}, storage_writer=writer, planner=WritePieces(pieces), process_group=group, no_dist=alone)
    finally:
        writer.clean_up()


@torch.no_grad()
def read_folder(path: Path, tensors: Mapping[str, Stored], pieces: Mapping[str, Piece]) -> None:
    """Fill what each piece holds from the checkpoint in a folder, whose manifest knows all of them."""
    quieten()
    with plain_errors():
        reader = FolderReader(path, {name: tensors[name] for name in pieces})
        dcp_load({}, storage_reader=reader, planner=ReadPieces(pieces), no_dist=True)


def quieten() -> None:
    """Keep DCP from warning of one process without a group, and from logging tracebacks of errors that it raises."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
    logging.getLogger("c10d-NullHandler-dcp_logger").disabled = True


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise what failed on the first rank where something did, instead of DCP's collection of tracebacks."""
    try:
        yield
    except CheckpointException as error:
        _, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
        raise cause from None


def _chunk(offset: int, length: int) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size((offset,)), torch.Size((length,)))


class WritePieces(SavePlanner):
    """Each rank writes all of its pieces, which no other rank has."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        """pieces: on the CPU; where a rank has none of a tensor it has none here."""
        self.pieces = pieces

    def set_up_planner(
        self, state_dict: Any, storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        """Nothing to do: the pieces are known."""

    def create_local_plan(self) -> SavePlan:
        return SavePlan([self._item(name, piece) for name, piece in self.pieces.items()])

    def _item(self, name: str, piece: Piece) -> WriteItem:
        chunk, properties = _chunk(piece.offset, len(piece.local)), TensorProperties(piece.local.dtype)
        data = TensorWriteData(chunk, properties, torch.Size((piece.numel,)))
        return WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self.pieces[write_item.index.fqn].local


class ReadPieces(LoadPlanner):
    """Each rank reads all elements of its pieces, from whatever runs they were written in."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        self.pieces = pieces

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        assert metadata is not None, "the reader has the manifest"
        self.stored = metadata.state_dict_metadata

    def create_local_plan(self) -> LoadPlan:
        items: list[ReadItem] = []
        for name, piece in self.pieces.items():
            stored = self.stored[name]
            assert isinstance(stored, TensorStorageMetadata), "the reader knows no other kind"
            items += create_read_items_for_chunk_list(name, stored, [_chunk(piece.offset, len(piece.local))])
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        return self.pieces[read_item.dest_index.fqn].local.narrow(0, read_item.dest_offsets[0], read_item.lengths[0])

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing to do: what was resolved is a view."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise AssertionError("a checkpoint holds tensors alone")


class FolderWriter(StorageWriter):
    """Writes one checkpoint: a file on each rank, all in a hidden folder which rank 0 at last gives its name."""

    def __init__(
        self,
        final: Path,
        file: str,
        shapes: Mapping[str, tuple[int, ...]],
        metadata: Mapping[str, Any],
        after: Callable[[], None],
    ) -> None:
        """final: the folder to appear; file: the name of this rank's; shapes: of all tensors.

        after: what rank 0 does once the checkpoint is there.
        """
        self.final, self.file, self.shapes, self.metadata, self.after = final, file, shapes, dict(metadata), after
        self.partial: Path | None = None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        raise AssertionError("a writer is for one checkpoint")

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the folder is made once every rank is there."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self.partial = new_partial(self.final)
        return [replace(plan, storage_data=self.partial.name) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        done: Future[list[WriteResult]] = Future()
        done.set_result(self._write(plan, planner) if plan.items else [])
        return done

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        tensors = {item.index.fqn: cast(Tensor, planner.resolve_data(item)) for item in plan.items}
        with shown_as(self.final / self.file):
            found = write_tensors(self.final.with_name(plan.storage_data) / self.file, tensors)
        return [WriteResult(item.index, found.size, (self.file, found)) for item in plan.items]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        assert self.partial is not None, "the coordinator has made the folder"
        files = dict(result[0].storage_data for result in results if result)
        held = {result.index: result.storage_data[0] for rank in results for result in rank}
        tensors = {}
        for name, stored in metadata.state_dict_metadata.items():
            assert isinstance(stored, TensorStorageMetadata), "the planner makes no other kind"
            runs = [Span(c.offsets[0], c.sizes[0], held[MetadataIndex(name, c.offsets)]) for c in stored.chunks]
            tensors[name] = Stored.of(name, self.shapes[name], CODES[stored.properties.dtype], runs)
        publish(self.partial, self.final, Manifest(self.metadata, tensors, files))
        self.after()

    def clean_up(self) -> None:
        """Delete what a failed write left; every rank has ended its own part."""
        if self.partial is not None:
            shutil.rmtree(self.partial, ignore_errors=True)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


class FolderReader(StorageReader):
    """Reads runs of the tensors in a checkpoint whose files were verified."""

    def __init__(self, path: Path, tensors: Mapping[str, Stored]) -> None:
        self.path, self.tensors = path, tensors

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        raise AssertionError("a reader is for one checkpoint")

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        found, self.files = {}, {}
        for name, stored in self.tensors.items():
            chunks = [_chunk(run.offset, run.length) for run in stored.runs]
            size = torch.Size((sum(run.length for run in stored.runs),))
            found[name] = TensorStorageMetadata(TensorProperties(DTYPES[stored.dtype]), size, chunks)
            self.files |= {(name, run.offset): run.file for run in stored.runs}
        return Metadata(found)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the metadata came from here."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            assert item.storage_index.offset is not None, "the planner says where a run starts"
            by_file.setdefault(self.files[item.storage_index.fqn, item.storage_index.offset[0]], []).append(item)
        for file, items in by_file.items():
            self._read(self.path / file, items, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, path: Path, items: list[ReadItem], planner: LoadPlanner) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for item in items:
                    first, length = item.storage_offsets[0], item.lengths[0]
                    run = file.get_slice(item.storage_index.fqn)[first : first + length]
                    planner.commit_tensor(item, planner.resolve_tensor(item).copy_(run))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: was verified and cannot be read now ({error})") from error

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False
