"""The same latents in the formats of several loaders, and an epoch of each in shuffled batches of 256."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_pipeline.loader import Loader
from data_pipeline.opening import order_of
from data_pipeline.reader import LatentReader
from data_pipeline.stream import SampleStream
from data_pipeline.writer import write_shards

SHAPE, CLASSES, BATCH, SHARD = (4, 64, 64), 1000, 256, 1000
UNIQUE = 512  # latents that are drawn; the others repeat them
Epoch = Callable[[int], Iterator[tuple[Tensor, Tensor]]]  # batches of an epoch with that seed


class Contestant(NamedTuple):
    """A loader: how it is named, and its epoch."""

    name: str
    epoch: Epoch


class Latents(NamedTuple):
    """Random latents float16 and their labels, made when asked for."""

    unique: np.ndarray
    labels: np.ndarray

    def __iter__(self) -> Iterator[Any]:
        return ((self.unique[n % UNIQUE], int(label)) for n, label in enumerate(self.labels))


def make_latents(samples: int) -> Latents:
    """`samples` of them, always the same."""
    generator = np.random.default_rng(0)
    unique = generator.standard_normal((UNIQUE, *SHAPE), np.float32).astype(np.float16)
    return Latents(unique, generator.integers(0, CLASSES, samples))


def contestants(latents: Latents, folder: Path, peers: bool) -> list[Contestant]:
    """All loaders over the same latents, written into the folder where they are missing."""
    ours = folder / "ours"
    if not ours.exists():
        write_shards(iter(latents), ours, dataset="b", encoder="none", num_classes=CLASSES, samples_per_shard=SHARD)
    reader = LatentReader(ours)
    found = [
        Contestant("numpy memmap gather", partial(memmap_epoch, write_memmap(latents, folder), latents.labels)),
        Contestant("ours, full shuffle", partial(our_epoch, reader, 0, 0)),
        Contestant("ours, full shuffle, read by 1 thread", partial(our_epoch, reader, 0, 1)),
        Contestant("ours, full shuffle, read by 2 threads", partial(our_epoch, reader, 0, 2)),
        Contestant("ours, windows of 64 runs of 64", partial(our_epoch, reader, 64, 0)),
        Contestant("ours in torch's DataLoader, 1 process", partial(process_epoch, reader, 1, None)),
        Contestant("ours in torch's DataLoader, 2 processes", partial(process_epoch, reader, 2, None)),
        Contestant("webdataset", partial(webdataset_epoch, ours)),
    ]
    if peers:
        found += [
            Contestant("ours in torchdata's StatefulDataLoader", partial(process_epoch, reader, 0, "torchdata")),
            Contestant("ours in torchdata's, 2 processes", partial(process_epoch, reader, 2, "torchdata")),
            Contestant("mosaicml-streaming", partial(mosaic_epoch, write_mosaic(latents, folder / "mosaic"))),
            Contestant("litdata", partial(litdata_epoch, write_litdata(latents, folder / "litdata"))),
        ]
    return found


def write_memmap(latents: Latents, folder: Path) -> Path:
    """A plain .npy file."""
    path = folder / "memmap.npy"
    if not path.exists():
        array = np.lib.format.open_memmap(path, "w+", np.float16, (len(latents.labels), *SHAPE))
        for n, (latent, _) in enumerate(latents):
            array[n] = latent
        array.flush()
    return path


def memmap_epoch(path: Path, labels: np.ndarray, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A fancy index into a map for each batch."""
    array = np.load(path, mmap_mode="r")
    order = np.random.default_rng(seed).permutation(len(array))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        yield torch.from_numpy(array[chosen]), torch.from_numpy(labels[chosen])


def our_epoch(reader: LatentReader, blocks: int, workers: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as training reads them: checksums tested, memory used again."""
    stream = SampleStream(reader, order_of(reader.manifest, blocks, 64, seed))
    starts = range(0, len(reader), BATCH)
    memory = {start: start // BATCH % (workers + 3) for start in starts}  # one, and those ahead of it
    rows = [reader.rows(BATCH) for _ in set(memory.values())]

    def make(start: int) -> Any:
        return stream.read(start, min(BATCH, len(reader) - start), rows[memory[start]])

    loader: Loader[Any] = Loader(make, lambda start: start + BATCH if start + BATCH in memory else None, workers, 2)
    for start in starts:
        taken = loader.get(start)
        yield torch.from_numpy(taken.rows.array[: len(taken.labels)]), torch.from_numpy(taken.labels)
    loader.close()


class Batched(Dataset[tuple[Tensor, Tensor]]):
    """Our reader as a map from batches of sample numbers to batches."""

    def __init__(self, reader: LatentReader, seed: int) -> None:
        self.reader, self.order = reader, order_of(reader.manifest, 0, 0, seed)

    def __len__(self) -> int:
        return -(-len(self.reader) // BATCH)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        first = number * BATCH
        numbers = self.order.indices(first, min(BATCH, len(self.reader) - first))
        latents, labels = self.reader.read(numbers)
        return torch.from_numpy(latents), torch.from_numpy(labels)


def process_epoch(
    reader: LatentReader, workers: int, package: str | None, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches through worker processes and shared memory."""
    loader: Any = importlib.import_module("torchdata.stateful_dataloader").StatefulDataLoader if package else DataLoader
    yield from loader(Batched(reader, seed), batch_size=None, num_workers=workers)


def webdataset_epoch(folder: Path, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Its pipeline as its documentation writes it, over our shards."""
    from webdataset.compat import WebDataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    pipeline: Any = WebDataset(urls, shardshuffle=True, seed=seed)
    pipeline = pipeline.shuffle(1000, seed=seed).decode().to_tuple("npy", "cls").batched(BATCH)
    for latents, labels in pipeline:
        yield torch.as_tensor(latents), torch.as_tensor(labels)


def write_mosaic(latents: Latents, folder: Path) -> Path:
    """Shards of mosaicml-streaming, raw arrays in them."""
    streaming: Any = importlib.import_module("streaming")
    if not (folder / "index.json").exists():
        columns = {"x": f"ndarray:float16:{','.join(map(str, SHAPE))}", "y": "int"}
        with streaming.MDSWriter(out=str(folder), columns=columns) as writer:
            for latent, label in latents:
                writer.write({"x": latent, "y": label})
    return folder


def mosaic_epoch(folder: Path, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Its data set in torch's DataLoader, in this process."""
    streaming: Any = importlib.import_module("streaming")
    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=seed, batch_size=BATCH)
    for batch in DataLoader(data, batch_size=BATCH):
        yield batch["x"], batch["y"]


def litdata_sample(pair: tuple[np.ndarray, int]) -> dict[str, Any]:
    """One sample as litdata stores it."""
    return {"x": torch.from_numpy(np.array(pair[0])), "y": pair[1]}


def write_litdata(latents: Latents, folder: Path) -> Path:
    """Chunks of litdata."""
    litdata: Any = importlib.import_module("litdata")
    if not (folder / "index.json").exists():
        samples = [(n % UNIQUE, int(label)) for n, label in enumerate(latents.labels)]
        make = partial(litdata_numbered, latents.unique)
        litdata.optimize(make, samples, output_dir=str(folder), num_workers=1, chunk_bytes="64MB", start_method="fork")
    return folder


def litdata_numbered(unique: np.ndarray, pair: tuple[int, int]) -> dict[str, Any]:
    """One sample by the number of its latent."""
    return litdata_sample((unique[pair[0]], pair[1]))


def litdata_epoch(folder: Path, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Its data set in its own loader, in this process."""
    litdata: Any = importlib.import_module("litdata")
    data = litdata.StreamingDataset(str(folder), shuffle=True, seed=seed)
    for batch in litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=0):
        yield batch["x"], batch["y"]
