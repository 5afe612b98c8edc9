"""Which layout a path is of."""

from __future__ import annotations

import tarfile
from pathlib import Path

from data_pipeline.manifest import MANIFEST_NAME, DataError
from data_pipeline.sources.folders import folder_source
from data_pipeline.sources.imagenet import imagenet_source, is_imagenet
from data_pipeline.sources.source import Source
from data_pipeline.sources.tars import tar_source
from data_pipeline.sources.zips import zip_source
from data_pipeline.text import what_is

LAYOUTS = "a folder with one folder a class, a zip, a webdataset tar or a folder of them, or an archive of ImageNet"


def find_source(path: Path) -> Source:
    """The images at a path: `LAYOUTS`. DataError names the file that is something else."""
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: give {LAYOUTS}")
    if path.suffix == ".zip":
        return zip_source(path)
    if path.suffix == ".tar":
        return _tar(path)
    what = what_is(path) or "none of what images are read from"
    raise DataError(f"{path} is {what}: give {LAYOUTS}")


def _folder(path: Path) -> Source:
    tars = sorted(path.glob("*.tar"))
    if (path / MANIFEST_NAME).exists():
        raise DataError(f"{path} holds shards that were made already: give the images that they come from")
    if not tars:
        return folder_source(path)
    if archives := [tar for tar in tars if tar.name.startswith("ILSVRC2012_img_")]:
        if len(archives) > 1:
            raise DataError(f"{path} holds {' and '.join(tar.name for tar in archives)}: name one of them")
        return imagenet_source(archives[0])
    return tar_source(path.resolve().name, tars)


def _tar(path: Path) -> Source:
    try:
        own = is_imagenet(path)
    except tarfile.ReadError as error:
        raise DataError(f"{path} cannot be read as an uncompressed tar ({error}): unpack or copy it again") from error
    return imagenet_source(path) if own else tar_source(path.stem, [path])
