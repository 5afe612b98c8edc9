"""Images in a zip: one folder a class, or EDM2's layout with dataset.json. Found once, read by place."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from data_pipeline.labels import class_order
from data_pipeline.manifest import DataError
from data_pipeline.sources.source import (
    DEFLATED,
    STORED,
    Found,
    Source,
    build,
    is_hidden_member,
    is_image,
    require_classes,
)
from data_pipeline.text import shown, what_is

LABELS = "dataset.json"  # {"labels": [[name, label], ...]}, as EDM2's dataset_tool.py writes it
METHODS = {zipfile.ZIP_STORED: STORED, zipfile.ZIP_DEFLATED: DEFLATED}
LOCAL_HEADER = 30  # bytes before a member's own name
ENCRYPTED = 0x1


def zip_source(path: Path) -> Source:
    """The images of a zip: labelled by its dataset.json, else by the folder of each.

    Raises DataError for a damaged zip, an encrypted member, one whose name leaves the folder, images without a label,
    and a zip of latents; names file and member.
    """
    with open_zip(path) as archive:
        members = sorted(members_of(path, archive), key=lambda member: member.filename)
        images = [member for member in members if is_image(member.filename, f"{path}: member {member.filename}")]
        if not images and any(member.filename.endswith(".npy") for member in members):
            raise DataError(f"{path} holds latents, not images: `trigscale data import-edm2` takes them")
        labels, classes = _labels(path, archive, images)
    return places_of(path, images, labels, classes)


def places_of(
    path: Path, images: Sequence[zipfile.ZipInfo], labels: Mapping[str, int], classes: Sequence[str] | None
) -> Source:
    """The members of a zip that are images as a source. DataError for a damaged header."""
    found = Found()
    with path.open("rb") as stream:
        for member in images:
            place = {"offset": start_of(stream, member), "size": member.compress_size, "crc": member.CRC}
            found.add(member.filename, labels[member.filename], method=METHODS[member.compress_type], **place)
    return build(path.stem, [path], found, classes)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip; DataError names the file where it is none."""
    try:
        if path.is_file() and not zipfile.is_zipfile(path) and (what := what_is(path)) and "zip" not in what:
            raise DataError(f"{path} is {what}, expected a zip")
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a zip ({error})") from error


def members_of(path: Path, archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """The files of a zip that are to be read, not hidden ones and folders; DataError for those that cannot be."""
    seen: set[str] = set()
    for member in archive.infolist():
        where = f"{path}: member {shown(member.filename)}"
        if member.is_dir() or is_hidden_member(member.filename):
            continue
        if PurePosixPath(member.filename).is_absolute() or ".." in PurePosixPath(member.filename).parts:
            raise DataError(f"{where} leaves the folder: such archives are not read; make it anew")
        if member.flag_bits & ENCRYPTED:
            raise DataError(f"{where} is encrypted: unpack it with its password, and give the folder")
        if member.compress_type not in METHODS:
            raise DataError(f"{where} is compressed by method {member.compress_type}: pack it stored or deflated")
        if member.filename in seen:
            raise DataError(f"{where} is there twice: make the archive anew, each file once")
        seen.add(member.filename)
        yield member


def start_of(stream: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin, from its own header: the lengths there may differ from the directory's."""
    stream.seek(member.header_offset)
    header = stream.read(LOCAL_HEADER)
    if len(header) < LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise DataError(f"{stream.name}: the header of {member.filename} is damaged: copy the file again")
    return member.header_offset + LOCAL_HEADER + sum(int.from_bytes(header[n : n + 2], "little") for n in (26, 28))


def has_labels(archive: zipfile.ZipFile) -> bool:
    """Whether a zip has a dataset.json."""
    return LABELS in archive.namelist()


def read_labels(path: Path, archive: zipfile.ZipFile) -> dict[str, int] | None:
    """{name: label} of dataset.json, None where the zip has none or it says null. DataError for anything else."""
    if not has_labels(archive):
        return None
    where = f"{path}: {LABELS}"
    try:
        content: Any = json.loads(archive.read(LABELS))
        labels = content["labels"]
        if labels is None:
            return None
        found: dict[str, int] = {}
        for name, label in labels:
            if _is_label(where, name, label) and found.setdefault(name, label) != label:
                raise DataError(f"{where}: {shown(name)} has the labels {found[name]} and {label}: keep one")
        return found
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f'{where} is not {{"labels": [[name, number], ...]}} ({error!r:.100})') from error


def _is_label(where: str, name: Any, label: Any) -> bool:
    if isinstance(name, str) and type(label) is int and label >= 0:
        return True
    raise DataError(f"{where}: the label of {shown(name)} is {shown(label)}, expected a number from 0")


def _labels(
    path: Path, archive: zipfile.ZipFile, images: list[zipfile.ZipInfo]
) -> tuple[Mapping[str, int], list[str] | None]:
    """The label of each image, and the names of the classes if folders are the classes."""
    given = read_labels(path, archive)
    if given is not None:
        for image in images:
            if image.filename not in given:
                raise DataError(f"{path}: {LABELS} has no label for {image.filename}")
        return given, None
    if has_labels(archive):  # it says null: EDM2's images without classes, a folder a thousand of them
        return {image.filename: 0 for image in images}, None
    top = _common_top([image.filename for image in images])
    parts = {image.filename: PurePosixPath(image.filename).parts[top:] for image in images}
    for name, inside in parts.items():
        if len(inside) < 2:
            raise DataError(f"{path}: {name} has no label: put images into a folder a class, or add a {LABELS}")
    classes = class_order(sorted({inside[0] for inside in parts.values()}))
    require_classes(classes, str(path))
    numbers = {name: number for number, name in enumerate(classes)}
    return {name: numbers[inside[0]] for name, inside in parts.items()}, classes


def _common_top(names: list[str]) -> int:
    """How many folders all images share that have folders below: the folder that was zipped, not a lone class."""
    parts = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while parts and all(len(each) > depth + 1 for each in parts) and len({each[depth] for each in parts}) == 1:
        depth += 1
    return depth
