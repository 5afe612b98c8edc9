"""EDM2's zips of latents (dataset_tool.py encode): mean and standard deviation, float32 [8, h, w], into shards."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.files import clear_partials
from data_pipeline.manifest import DataError, Manifest
from data_pipeline.parts import Plan, Tallies, abandon, add_tallies, begin, finish, missing, write_part
from data_pipeline.sources.zips import members_of, open_zip, read_labels
from models.encoders import EDM2_SD_VAE
from scaling.data.encode import DTYPE, describe_tallies, tally_errors
from scaling.data.progress import Progress

CHANNELS = 2 * len(EDM2_SD_VAE.mean)


def import_edm2(path: Path, to: Path, samples_per_shard: int) -> Manifest:
    """Shards of the moments in a zip, as float16, in the order of its names; killed and called again it continues.

    Raises DataError for latents that were sampled (4 channels), images, missing labels and damage; names the member.
    """
    with open_zip(path) as archive:
        members = sorted(name.filename for name in members_of(path, archive) if name.filename.endswith(".npy"))
        if not members:
            raise DataError(f"{path} holds no .npy latents: `trigscale data encode` takes a zip of images")
        labels = read_labels(path, archive)
        if labels is None:
            raise DataError(f"{path}: has no labels: its dataset.json is missing or says null; encode with labels")
        if unknown := [name for name in members if name not in labels]:
            raise DataError(f"{path}: dataset.json has no label for {unknown[0]} and {len(unknown) - 1} more")
        shape = _moments(path, archive, members[0]).shape
        plan = _plan(path, members, labels, (shape[0], shape[1], shape[2]), samples_per_shard)
        begin(to, plan)
        try:
            clear_partials(to)
            left = missing(to, plan)
            with Progress(sum(len(plan.span(shard)) for shard in left), "latents") as progress:
                for shard in left:
                    tallies: Tallies = {}
                    names = [members[number] for number in plan.span(shard)]
                    write_part(to, plan, shard, _samples(path, archive, names, labels, tallies, progress), tallies)
        except BaseException:
            abandon(to)
            raise
    return finish(to, plan, describe_tallies)


def _plan(
    path: Path, members: list[str], labels: dict[str, int], shape: tuple[int, int, int], samples_per_shard: int
) -> Plan:
    return Plan(
        dataset=path.stem,
        encoder=EDM2_SD_VAE.name,
        shape=shape,
        dtype=DTYPE,
        moments=True,
        num_classes=max(labels[name] for name in members) + 1,
        class_names=None,
        samples=len(members),
        samples_per_shard=samples_per_shard,
        made={"by": "trigscale data import-edm2", "source_bytes": path.stat().st_size},
    )


def _samples(
    path: Path,
    archive: zipfile.ZipFile,
    names: list[str],
    labels: dict[str, int],
    tallies: Tallies,
    progress: Progress,
) -> Iterator[tuple[np.ndarray, int]]:
    for name in names:
        exact = _moments(path, archive, name)
        stored = exact.astype(np.float16)
        add_tallies(tallies, tally_errors(exact, stored))
        yield stored, labels[name]
        progress.add(1)


def _moments(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Mean and standard deviation [8, h, w] of one member."""
    where = f"{path}: {name}"
    try:
        with archive.open(name) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # a damaged zip raises nearly anything: NotImplementedError, zlib.error, BadZipFile, ...
        raise DataError(f"{where} cannot be read as a .npy file ({error}): copy the zip again") from error
    if array.ndim == 3 and array.shape[0] == CHANNELS // 2:
        raise DataError(
            f"{where} has {array.shape[0]} channels: latents that were sampled once, where mean and standard deviation "
            f"({CHANNELS} channels) belong: take the zip whose members are img-mean-std-*.npy"
        )
    if array.ndim != 3 or array.shape[0] != CHANNELS or array.dtype.kind != "f":
        raise DataError(f"{where} is {array.dtype} {list(array.shape)}, expected floats [{CHANNELS}, h, w]")
    if (array[CHANNELS // 2 :] < 0).any():
        raise DataError(f"{where}: its last {CHANNELS // 2} channels hold negative numbers: they are no deviations")
    return array
