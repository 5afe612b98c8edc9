"""Where samples go, so that a command that was killed makes what is missing and holds a few of them in memory.

A folder gets a PNG file an image. Any other target is assembled at the end from parts that are saved beside it, in
NAME.parts, every SECONDS or BYTES; a kill loses no more than that.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.files import appearing, clear_partials, make_parents, write_bytes_atomic, write_json_atomic
from scaling.run.samples import write_npz
from scaling.sampling.pictures import labelled_grid, png

SECONDS, BYTES = 20.0, 2**28
ABOUT = "samples.json"


class SampleError(UserError):
    """Samples that cannot go where they are wanted; the message names the file and the remedy."""


@dataclass(frozen=True)
class Request:
    """Which samples are wanted: seeds and labels int64 [N], and what makes them, in words and in all settings."""

    seeds: np.ndarray
    labels: np.ndarray
    made_by: str
    settings: dict[str, Any]

    def about(self) -> dict[str, Any]:
        """What must be the same for a command to go on where another was killed."""
        return {"made_by": self.made_by, **self.settings}


class Folder:
    """A PNG file for each seed, dataset.json with the labels in EDM2's form, samples.json with what made them."""

    def __init__(self, path: Path, request: Request) -> None:
        """SampleError where the folder holds what is no samples of the same maker."""
        self.path, self.request = path, request
        path.mkdir(parents=True, exist_ok=True)
        clear_partials(path)
        _same_maker(path / ABOUT, request, path)

    def missing(self) -> np.ndarray:
        """Positions of the seeds that have no image yet."""
        there = {entry.name for entry in self.path.iterdir()}
        return np.array([i for i, seed in enumerate(self.request.seeds) if _name(seed) not in there], np.int64)

    def add(self, places: np.ndarray, images: np.ndarray) -> None:
        """Write images uint8 [B, H, W, C] of the seeds at these positions."""
        for seed, image in zip(self.request.seeds[places], images, strict=True):
            write_bytes_atomic(self.path / _name(seed), png(image))

    def save(self) -> None:
        """Nothing is held."""

    def finish(self) -> None:
        """Write the labels, of earlier commands' seeds too."""
        path = self.path / "dataset.json"
        known = dict(json.loads(path.read_text())["labels"] or []) if path.exists() else {}
        known |= {_name(seed): int(label) for seed, label in zip(self.request.seeds, self.request.labels, strict=True)}
        write_json_atomic(path, {"labels": [[name, known[name]] for name in sorted(known)]})


@dataclass
class File:
    """A single file, assembled from parts when all are there. One process of several may add without finishing."""

    path: Path
    request: Request
    assemble: Callable[[Path, Request, Iterator[np.ndarray], tuple[int, ...]], None]
    _held: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        make_parents(self.path)
        self.parts = self.path.with_name(f"{self.path.name}.parts")
        if (self.parts / ABOUT).exists() and json.loads((self.parts / ABOUT).read_text()) != _plain(self.request):
            shutil.rmtree(self.parts)

    def missing(self) -> np.ndarray:
        """Positions of the seeds that no part holds."""
        there = np.zeros(len(self.request.seeds), bool)
        for first, count in self._parts():
            there[first : first + count] = True
        return np.flatnonzero(~there)

    def add(self, places: np.ndarray, images: np.ndarray) -> None:
        """Hold images uint8 [B, H, W, C] of the seeds at these rising positions; save them from time to time."""
        ends = [0, *(np.flatnonzero(np.diff(places) != 1) + 1), len(places)]
        for first, last in pairwise(ends):
            if self._held and self._held[-1][0][-1] + 1 != places[first]:
                self.save()
            self._held.append((places[first:last], images[first:last]))
        if time.monotonic() - self._since > SECONDS or sum(part.nbytes for _, part in self._held) > BYTES:
            self.save()

    def save(self) -> None:
        """Write what is held as one part."""
        if self._held:
            self.parts.mkdir(exist_ok=True)
            if not (self.parts / ABOUT).exists():
                write_json_atomic(self.parts / ABOUT, _plain(self.request))
            images = np.concatenate([part for _, part in self._held])
            write_bytes_atomic(self.parts / f"{self._held[0][0][0]:09d}-{len(images)}.u8", _with_shape(images))
        self._held, self._since = [], time.monotonic()

    def finish(self) -> None:
        """Write the file from the parts, and from what is held where that is all; then remove the parts."""
        if self._held and not self.parts.exists():
            images = np.concatenate([part for _, part in self._held])
            self.assemble(self.path, self.request, iter([images]), images.shape)
            return
        self.save()
        found = sorted(self._parts())
        if len(self.missing()) or sum(count for _, count in found) != len(self.request.seeds):
            raise SampleError(f"{self.parts}: does not hold each sample once: remove it, then give the command again")
        shape = _read(self._part(*found[0])).shape[1:]
        total = (len(self.request.seeds), *shape)
        self.assemble(self.path, self.request, (_read(self._part(*one)) for one in found), total)
        shutil.rmtree(self.parts)

    def _parts(self) -> list[tuple[int, int]]:
        """First position and number of images of each part."""
        names = [path.stem.split("-") for path in self.parts.glob("*.u8")] if self.parts.is_dir() else []
        return [(int(first), int(count)) for first, count in names]

    def _part(self, first: int, count: int) -> Path:
        return self.parts / f"{first:09d}-{count}.u8"


def to_npz(path: Path, request: Request, batches: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    """images, labels, seeds, made_by."""
    with appearing(path) as stream:
        write_npz(stream, batches, shape, request.labels, request.made_by, request.seeds)


def to_run_npz(path: Path, request: Request, batches: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    """What a run leaves: images, labels, made_by."""
    with appearing(path) as stream:
        write_npz(stream, batches, shape, request.labels, request.made_by)


def to_zip(path: Path, request: Request, batches: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    """PNG files and dataset.json, stored, in EDM2's layout of a data set."""
    names = [f"{seed // 1000:05d}/img{seed:08d}.png" for seed in request.seeds.tolist()]
    with appearing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        remaining = iter(names)
        for batch in batches:
            for image in batch:
                archive.writestr(zipfile.ZipInfo(next(remaining)), png(image))
        labels = [[name, int(label)] for name, label in zip(names, request.labels, strict=True)]
        archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps({"labels": labels}))
        archive.writestr(zipfile.ZipInfo(ABOUT), json.dumps(request.about()))


def to_picture(path: Path, request: Request, batches: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    """One picture, ten a row, each image over its label."""
    write_bytes_atomic(path, labelled_grid(np.concatenate(list(batches)), request.labels))


FILES = {".npz": to_npz, ".zip": to_zip, ".png": to_picture}


def require_ending(path: Path) -> None:
    """SampleError for a path whose ending says nothing that samples could be written as."""
    if path.suffix and path.suffix not in FILES:
        raise SampleError(
            f"--to {path}: name it FILE.png for one picture, FILE.npz or FILE.zip for images and labels, or DIR for "
            "PNG files"
        )


def open_target(path: Path, request: Request) -> Folder | File:
    """The place that a path names by its ending; SampleError for another ending, or where it is not free."""
    require_ending(path)
    return File(path, request, FILES[path.suffix]) if path.suffix else Folder(path, request)


def _same_maker(path: Path, request: Request, folder: Path) -> None:
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError:
            there = None
        if there != _plain(request):
            raise SampleError(f"{folder}: holds samples of another maker or setting: choose another folder")
    elif any(folder.iterdir()):
        raise SampleError(f"{folder}: is not empty and holds no samples ({ABOUT}): choose another folder")
    else:
        write_json_atomic(path, _plain(request))


def _plain(request: Request) -> dict[str, Any]:
    return json.loads(json.dumps(request.about()))


def _name(seed: int) -> str:
    return f"{int(seed):06d}.png"


def _with_shape(images: np.ndarray) -> bytes:
    return np.array(images.shape, "<i8").tobytes() + images.tobytes()


def _read(path: Path) -> np.ndarray:
    data = path.read_bytes()
    return np.frombuffer(data, np.uint8, offset=32).reshape(np.frombuffer(data, "<i8", 4))
