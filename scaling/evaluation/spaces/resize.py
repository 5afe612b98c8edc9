"""How images reach the size that a network sees: each mode a linear map of rows and one of columns, as matrices.

clean         bicubic (a = -0.5) with a support that grows where it shrinks, in float: PIL's, as clean-fid takes it
legacy-tf     bilinear between the pixels nearest to i H / h, without support and half-pixel centres: TensorFlow 1's
legacy-torch  bilinear at half-pixel centres, without support: torch's interpolate

Two products with matrices are what each comes to, on any device, and a matrix is made once a size.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Mode = Literal["clean", "legacy-tf", "legacy-torch"]


def resize(images: Tensor, height: int, width: int, mode: Mode) -> Tensor:
    """Images float32 [B, C, H, W] of 0 to 255 at another size; `clean` is limited to that range, as clean-fid does."""
    rows = _matrix(images.shape[2], height, mode, images.device)
    columns = _matrix(images.shape[3], width, mode, images.device)
    made = rows @ (images @ columns.T)  # PIL: along the rows first, then along the columns
    return made.clamp(0, 255) if mode == "clean" else made


@cache
def _matrix(held: int, wanted: int, mode: Mode, device: torch.device) -> Tensor:
    return torch.from_numpy(weights(held, wanted, mode)).to(device, torch.float32)


def weights(held: int, wanted: int, mode: Mode) -> np.ndarray:
    """The matrix float64 [wanted, held] of a mode along one axis; each row sums to 1."""
    places = np.arange(wanted, dtype=np.float64)
    scale = held / wanted
    if mode == "clean":
        return _antialiased(held, places, scale)
    at = places * scale if mode == "legacy-tf" else np.maximum((places + 0.5) * scale - 0.5, 0)
    lower = np.minimum(np.floor(at).astype(int), held - 1)
    upper = np.minimum(lower + 1, held - 1)
    share = at - lower
    matrix = np.zeros((wanted, held))
    np.add.at(matrix, (places.astype(int), lower), 1 - share)
    np.add.at(matrix, (places.astype(int), upper), share)
    return matrix


def _antialiased(held: int, places: np.ndarray, scale: float) -> np.ndarray:
    """PIL's: for each output the inputs whose centres lie within the support, by their weights, normalised."""
    stretch = max(scale, 1.0)
    support = 2 * stretch
    centres = (places + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(int), 0)
    last = np.minimum((centres + support + 0.5).astype(int), held)
    matrix = np.zeros((len(places), held))
    for row, (low, high, centre) in enumerate(zip(first, last, centres, strict=True)):
        values = _cubic((np.arange(low, high) - centre + 0.5) / stretch)
        matrix[row, low:high] = values / values.sum()
    return matrix


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' bicubic kernel (1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
