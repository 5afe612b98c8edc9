"""Reference statistics that others wrote, by their layouts. Nothing is unpickled.

LAYOUTS says which file is which, and whose network and resize it was made with, as far as that is known:

real statistics   .npz of a study of ours or of `trigscale data reference`: everything, floors and single features too
edm2              .pkl {num_images, fid: {mu, sigma}, fd_dinov2: {mu, sigma}}: read as data, as the importer does
mu, sigma         .npz of EDM, clean-fid, pytorch-fid, and of ADM beside its images: which network and which resize made
                  it, the file does not say
images            anything that `open_images` opens: statistics are made of it
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.arrays import load_arrays
from data_pipeline.manifest import DataError
from models.edm2_pickle import ARRAYS, MAPPINGS, Call, EDM2Error, Stream, run
from scaling.config.metrics import SpaceName
from scaling.evaluation.frechet import Reference
from scaling.evaluation.real import Real
from scaling.evaluation.spaces.space import About

PICKLED = frozenset((*MAPPINGS, *ARRAYS, "numpy.ndarray", "numpy.dtype"))
EDM2_SPACES: dict[str, SpaceName] = {"fid": "inception", "fd_dinov2": "dinov2"}
UNKNOWN = "not said by the file"


@dataclass(frozen=True)
class Layout:
    """One layout: its name, whether a file has it, and how it is read: statistics by space; any space: under None."""

    name: str
    is_it: Callable[[Path], bool]
    read: Callable[[Path], Mapping[SpaceName | None, Real]]


def read_reference(path: Path, space: SpaceName, size: int) -> Real | None:
    """The statistics of a file for a space of `size` features; None where it holds images, of which they can be made.

    Raises:
        DataError: it holds statistics of other features, or is damaged; names the file.
    """
    for layout in LAYOUTS:
        if path.is_file() and layout.is_it(path):
            found = layout.read(path)
            real = found.get(space, found.get(None))
            if real is None:
                raise DataError(f"{path}: holds statistics of {', '.join(map(str, found))}, none of {space} features")
            if real.reference.mean.size != size:
                raise DataError(
                    f"{path}: holds statistics of {real.reference.mean.size} features, but {space} has {size}: they "
                    "were made with another network"
                )
            return real
    return None


def _members(path: Path) -> set[str]:
    if not zipfile.is_zipfile(path):
        return set()
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def _read_ours(path: Path) -> Mapping[SpaceName | None, Real]:
    real = Real.load(path)
    return {real.about.space: real}


def _read_mu_sigma(path: Path) -> Mapping[SpaceName | None, Real]:
    mean, covariance = load_arrays(path, "mu", "sigma")
    return {None: _real(path, mean, covariance, 0, "inception")}


def _read_edm2(path: Path) -> Mapping[SpaceName | None, Real]:
    try:
        with path.open("rb") as stream:
            tree = run(Stream(stream, path.stat().st_size), PICKLED)
    except EDM2Error as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: holds no statistics of EDM2 (num_images, fid, fd_dinov2): name such a file")
    number = tree.get("num_images")
    found: dict[SpaceName | None, Real] = {}
    for key, space in EDM2_SPACES.items():
        part = tree.get(key)
        if isinstance(part, dict) and {"mu", "sigma"} <= set(part):
            try:
                mean, covariance = (array_of(part[name]) for name in ("mu", "sigma"))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}: {key}: {error}: the file is damaged or foreign") from error
            found[space] = _real(path, mean, covariance, number if type(number) is int else 0, space)
    if not found:
        raise DataError(f"{path}: holds no statistics of EDM2 (fid or fd_dinov2 with mu and sigma): name such a file")
    return found


def _real(path: Path, mean: np.ndarray, covariance: np.ndarray, count: int, space: SpaceName) -> Real:
    try:
        reference = Reference(mean.astype(np.float64), covariance.astype(np.float64))
        reference.root  # noqa: B018 - an indefinite covariance is refused here, where the file is known
    except ValueError as error:
        raise DataError(f"{path}: {error}: no statistics of features") from error
    return Real(About(space, mean.size, UNKNOWN, ""), reference, count, 0, {})


def array_of(value: Any) -> np.ndarray:
    """The array that a record of a pickle stands for: numbers alone. ValueError or TypeError."""
    if not isinstance(value, Call):
        raise TypeError(f"a {type(value).__name__} where an array belongs")
    if value.name.endswith("_frombuffer"):
        data, dtype, shape, order = value.args
    else:
        if not (value.name.endswith("_reconstruct") and isinstance(value.state, tuple) and len(value.state) == 5):
            raise ValueError(f"{value.name} is no array")
        _, shape, dtype, fortran, data = value.state
        order = "F" if fortran else "C"
    kind = _dtype_of(dtype)
    if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and order in ("C", "F")):
        raise ValueError(f"an array of shape {shape!r:.40}")
    if not isinstance(data, bytes | bytearray) or len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError("an array whose bytes do not fill its shape")
    return np.frombuffer(bytes(data), kind).reshape(shape, order=order)


def _dtype_of(value: Any) -> np.dtype:
    """float32 or float64, as `numpy.dtype` is pickled."""
    if not (isinstance(value, Call) and value.name == "numpy.dtype" and value.args):
        raise ValueError("an array without a type")
    swapped = isinstance(value.state, tuple) and len(value.state) > 1 and value.state[1] == ">"
    if value.args[0] not in ("f4", "f8") or swapped:
        raise ValueError(f"an array of type {value.args[0]!r:.20}, expected f4 or f8")
    return np.dtype(f"<{value.args[0]}")


def is_ours(path: Path) -> bool:
    """Whether a file holds statistics of ours, which say what they are of."""
    return path.is_file() and {"mean", "covariance"} <= _members(path)


LAYOUTS = (
    Layout("real statistics", is_ours, _read_ours),
    Layout("mu, sigma", lambda path: {"mu", "sigma"} <= _members(path), _read_mu_sigma),
    Layout("edm2", lambda path: path.suffix == ".pkl", _read_edm2),
)
