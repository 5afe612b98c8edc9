"""Reading plain arrays out of an .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.manifest import DataError


def load_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """The named arrays of an .npz file, nothing ever unpickled.

    Raises:
        DataError: the file is missing or damaged, or lacks an array; names both.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except KeyError as error:
        raise DataError(f"{path} must hold {_listed(names)}: {error.args[0]}") from error
    except Exception as error:  # a damaged zip raises nearly anything: NotImplementedError, zlib.error, TokenError, ...
        raise DataError(f"{path} cannot be read as .npz of plain arrays ({error})") from error


def _listed(names: tuple[str, ...]) -> str:
    quoted = " and ".join(f"`{name}`" for name in names)
    return f"the arrays {quoted}" if len(names) > 1 else f"an array {quoted}"
