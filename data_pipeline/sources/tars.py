"""Images in webdataset tars: jpg, png or webp beside a cls, or a json with a label. Found once, read by place."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.manifest import DataError
from data_pipeline.sources.source import STORED, SUFFIXES, Found, Source, build, is_hidden_member
from data_pipeline.text import shown

LABEL_KEYS = ("label", "cls", "class")  # of a .json
Sample = dict[str, tarfile.TarInfo]  # by extension


def tar_source(dataset: str, paths: Sequence[Path]) -> Source:
    """The samples of webdataset tars in the order of the files, then of their members.

    Raises DataError for a compressed, cut or damaged tar, and for a sample without an image or a label; says what it
    has instead.
    """
    found = Found()
    for container, path in enumerate(paths):
        with open_tar(path) as tar:
            for key, sample in samples_of(tar):
                image = _image(path, key, sample)
                label = _label(path, key, sample, tar)
                place = {"container": container, "method": STORED, "offset": image.offset_data, "size": image.size}
                found.add(image.name, label, **place)
    return build(dataset, paths, found, None)


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """An uncompressed tar, whose members may be asked for; DataError where it is none, or was cut."""
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
            tar.getmembers()
            with path.open("rb") as stream:
                stream.seek(tar.offset)
                if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise DataError(f"{path} ends without an end-of-archive record: it was cut; copy it again")
    except tarfile.ReadError as error:
        raise DataError(f"{path} cannot be read as an uncompressed tar ({error}): unpack or copy it again") from error


def samples_of(tar: tarfile.TarFile) -> Iterator[tuple[str, Sample]]:
    """Runs of members with one key, as webdataset groups them: the key ends at the first dot of the file's name."""
    current, sample = "", Sample()
    for member in tar:
        if not member.isreg() or is_hidden_member(member.name):
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if key != current and sample:
            yield current, sample
            sample = Sample()
        current = key
        sample[extension.lower()] = member
    if sample:
        yield current, sample


def _image(path: Path, key: str, sample: Sample) -> tarfile.TarInfo:
    images = [member for extension, member in sample.items() if f".{extension}" in SUFFIXES]
    if len(images) == 1:
        return images[0]
    has = f"has {', '.join(f'.{extension}' for extension in sample)}"
    if not images and "npy" in sample:
        raise DataError(f"{path}: sample {key} {has}: these are arrays, not images: are they encoded already?")
    raise DataError(f"{path}: sample {key} {has}, expected one image ({', '.join(SUFFIXES)})")


def _label(path: Path, key: str, sample: Sample, tar: tarfile.TarFile) -> int:
    where = f"{path}: sample {key}"
    if "cls" in sample:
        text = _bytes(tar, sample["cls"])[:40].strip()
        if not text.isdigit() or len(text) > 10:
            raise DataError(f"{where}: its .cls is {shown(text.decode('utf-8', 'replace'))}, expected digits")
        return int(text)
    if "json" not in sample:
        raise DataError(f"{where} has no label: it has {', '.join(f'.{each}' for each in sample)}, and .cls is missing")
    try:
        content: Any = json.loads(_bytes(tar, sample["json"]))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its .json cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{where}: its .json is no object of keys, expected one with `label`")
    label = next((content[name] for name in LABEL_KEYS if name in content), None)
    if label is not None and type(label) is not int:
        raise DataError(f"{where}: its .json has the label {shown(label)}, expected a whole number: number the classes")
    if label is None:
        raise DataError(
            f"{where} has no label: its .json has {', '.join(content)[:200]}, and a whole number under `label` (or a "
            ".cls) is missing: add the class of each image"
        )
    return label


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None, "a plain file"
    return stream.read()
