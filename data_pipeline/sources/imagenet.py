"""ImageNet's own archives: ILSVRC2012_img_train.tar (a tar of one tar a class), and ILSVRC2012_img_val.tar."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import numpy as np

from data_pipeline.manifest import DataError
from data_pipeline.sources.source import STORED, Found, Source, build, is_image
from data_pipeline.sources.tars import open_tar

CLASS_TAR = re.compile(r"(n\d{8})\.tar")
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "ILSVRC2012_devkit_t12/data/meta.mat"


def is_imagenet(path: Path) -> bool:
    """Whether a tar is one of ImageNet's two, by its first member."""
    with tarfile.open(path, "r:") as tar:
        first = tar.next()
    return first is not None and bool(CLASS_TAR.fullmatch(first.name) or VALIDATION.fullmatch(first.name))


def imagenet_source(path: Path) -> Source:
    """The images of either archive as they lie in it. Classes are the WordNet numbers, sorted, which gives the usual
    labels; those of validation images come from the development kit, which must lie beside the archive.

    Raises DataError for a damaged archive, and where the development kit is missing or another.
    """
    with open_tar(path) as tar:
        members = [member for member in tar if member.isreg()]
    if all(CLASS_TAR.fullmatch(member.name) for member in members):
        return _training(path, members)
    return _validation(path, [member for member in members if VALIDATION.fullmatch(member.name)])


def _training(path: Path, archives: list[tarfile.TarInfo]) -> Source:
    """The tars of the classes are stored whole, so that an image has one place in the file."""
    archives.sort(key=lambda member: member.name)
    found = Found()
    with path.open("rb") as stream:
        for label, archive in enumerate(archives):
            stream.seek(archive.offset_data)
            try:
                with tarfile.open(fileobj=stream, mode="r:") as tar:
                    images = [
                        member
                        for member in tar
                        if member.isreg() and is_image(member.name, f"{path}: {archive.name}: {member.name}")
                    ]
            except tarfile.ReadError as error:
                raise DataError(f"{path}: {archive.name} inside it is damaged ({error}): copy it again") from error
            for image in images:
                found.add(image.name, label, method=STORED, offset=image.offset_data, size=image.size)
    return build(path.stem, [path], found, [archive.name.removesuffix(".tar") for archive in archives])


def _validation(path: Path, images: list[tarfile.TarInfo]) -> Source:
    labels, classes = _devkit(path.parent / DEVKIT, len(images))
    found = Found()
    for image, label in zip(sorted(images, key=lambda member: member.name), labels, strict=True):
        found.add(image.name, label, method=STORED, offset=image.offset_data, size=image.size)
    return build(path.stem, [path], found, classes)


def _devkit(path: Path, images: int) -> tuple[list[int], list[str]]:
    """The label of each validation image, and the classes' WordNet numbers in the order of labels."""
    from scipy.io import loadmat

    remedy = f"validation images have their labels in ImageNet's development kit: put {DEVKIT} beside them"
    if not path.is_file():
        raise DataError(f"{path} does not exist: {remedy}")
    try:
        with tarfile.open(path, "r:gz") as tar:
            truth, synsets = (io.BytesIO(_member(tar, name)) for name in (TRUTH, SYNSETS))
        table = loadmat(synsets, squeeze_me=True)["synsets"]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if int(row["num_children"]) == 0}
        numbers = [int(line) for line in truth.read().split()]
    except (tarfile.TarError, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path} is not the development kit of ILSVRC2012 ({error!r:.100}): {remedy}") from error
    if len(numbers) != images or not set(numbers) <= set(names):
        raise DataError(f"{path}: has labels for {len(numbers)} validation images, there are {images}: {remedy}")
    classes = sorted(names.values())
    order = {name: label for label, name in enumerate(classes)}
    return [order[names[number]] for number in np.array(numbers).tolist()], classes


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    assert stream is not None, "a plain file"
    return stream.read()
