"""Images in a tree with one folder a class."""

from __future__ import annotations

import re
from pathlib import Path

from data_pipeline.labels import class_order
from data_pipeline.manifest import DataError
from data_pipeline.sources.source import SUFFIXES, Found, Source, build, is_hidden, is_image, require_classes
from data_pipeline.text import is_safe, shown

REMEDY = "put the images of each class into a subfolder of its name; images without classes, into one subfolder"
SCHEME = re.compile(r"ILSVRC2012_val_\d{8}")
VALIDATION = ". ImageNet's validation images are read with their labels from ILSVRC2012_img_val.tar"


def folder_source(path: Path) -> Source:
    """The images of a folder with one subfolder a class, sorted by path; hidden files are passed over.

    Classes are labelled in the order of their names, as numbers where all are whole numbers. Raises DataError for a
    folder without subfolders, images beside them, a class without images, and a file in a class folder that is no
    image; names it.
    """
    names = _visible(path)
    classes = class_order([name for name in names if (path / name).is_dir()])
    lone = [name for name in names if name not in set(classes) and is_image(name, str(path / name))]
    if not classes:
        raise DataError(f"{path} has no subfolders: {REMEDY}{VALIDATION if lone and SCHEME.match(lone[0]) else ''}")
    if lone:
        raise DataError(f"{path / lone[0]} lies beside the folders of the classes and has none: {REMEDY}")
    require_classes(classes, str(path))
    found = Found()
    for label, name in enumerate(classes):
        before = len(found.names)
        _walk(path, name, label, found)
        if len(found.names) == before:
            raise DataError(f"{path / name} holds no images: add some or remove the folder")
    return build(path.resolve().name, [path], found, classes)


def _walk(root: Path, inside: str, label: int, found: Found) -> None:
    for name in _visible(root / inside):
        relative = f"{inside}/{name}"
        if (root / relative).is_dir():
            here = (root / inside).resolve()
            if (root / relative).resolve() in (here, *here.parents):
                raise DataError(f"{root / relative} is a link to a folder that it lies in: remove it")
            _walk(root, relative, label, found)
        elif is_image(name, str(root / relative)):
            found.add(relative, label)
        else:
            raise DataError(
                f"{root / relative} is not an image file: a class folder holds {', '.join(SUFFIXES)} files alone"
            )


def _visible(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if not is_hidden(entry.name))
    for name in names:
        if not is_safe(name):
            raise DataError(f"{folder} holds {shown(name)}, a name with control characters: rename it")
    return names
