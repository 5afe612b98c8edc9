"""Reading plain arrays out of an .npz file."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from data_pipeline.manifest import DataError
from data_pipeline.text import is_safe, what_is

ZIP = b"PK"
SHOWN = 12  # names of arrays in a message


def load_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """The named arrays of an .npz file, nothing ever unpickled, nothing allocated that the file does not hold.

    Raises:
        DataError: the file is missing or damaged, is something else, or lacks an array; names both.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(ZIP))
        if start and start != ZIP and (what := what_is(path)):
            raise DataError(f"{path} is {what}, expected an .npz file that holds {_listed(names)}")
        with zipfile.ZipFile(path) as archive:
            for name in names:
                _check_size(path, archive, name)
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{path} must hold {_listed(names)}, and {_has(path, names)}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} cannot be read: there is no such file") from error
    except Exception as error:  # a damaged zip raises nearly anything: NotImplementedError, zlib.error, TokenError, ...
        raise DataError(f"{path} cannot be read as .npz of plain arrays ({error})") from error


def _check_size(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    """DataError where the header of an array claims another size than the archive holds of it."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as stream:
        shape, _, dtype = read_header(stream)
        held = member.file_size - stream.tell()
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != held:
        raise DataError(
            f"{path}: the header of `{name}` claims {dtype} {list(shape)}, but {held:,} bytes follow it: the file is "
            "damaged, make it again"
        )


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype of a .npy file, whose data follow. ValueError where it is none."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _has(path: Path, names: tuple[str, ...]) -> str:
    """What an .npz file holds instead, and how the names become those that are read."""
    with zipfile.ZipFile(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
    lacking = [name for name in names if name not in held]
    said = ", ".join(f"`{name:.40}`" for name in held[:SHOWN] if is_safe(name)) or "nothing"
    renamed = ", ".join(f"{name}=f[{name!r}]" if name in held else f"{name}=f[...]" for name in names)
    more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    return f"has {said}{more}, no `{lacking[0]}`: f = np.load(FILE); np.savez(NEW, {renamed})"


def _listed(names: tuple[str, ...]) -> str:
    quoted = " and ".join(f"`{name}`" for name in names)
    return f"the arrays {quoted}" if len(names) > 1 else f"an array {quoted}"
