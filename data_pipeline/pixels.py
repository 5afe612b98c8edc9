"""The one gate of images: whatever is packed, encoded or judged are uint8 [N, H, W, C] arrays that pass it."""

from __future__ import annotations

import numpy as np

from data_pipeline.manifest import DataError

CHANNELS = (1, 3)  # grey, RGB
FORM = "uint8 [N, H, W, C] of 0 to 255 with C = 1 (grey) or 3 (RGB)"


def require_images(images: np.ndarray, where: str) -> np.ndarray:
    """Images uint8 [N, H, W, C], grey [N, H, W] having gained its channel.

    Raises:
        DataError: another dtype, range, shape or number of channels, or no images; names `where` and the remedy.
    """
    said = f"{where}: images is {images.dtype} {list(images.shape)}"
    if images.dtype != np.uint8:
        raise DataError(f"{said}, expected {FORM}: {_remedy(images)}")
    if images.ndim == 3 and images.shape[2] in CHANNELS:
        raise DataError(f"{said}, expected {FORM}: is it a single image? then images[None]; else images[..., None]")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise DataError(f"{said}, expected {FORM}: a single image is [1, H, W, C]")
    if images.size == 0:
        raise DataError(f"{said}: there are no pixels")
    if images.shape[3] not in CHANNELS:
        raise DataError(f"{said}, expected {FORM}: {_channel_remedy(images.shape)}")
    return images


def require_full_range(images: np.ndarray, where: str) -> None:
    """DataError for uint8 images of 0 and 1 alone: floats in 0..1 that were cast without being scaled."""
    if images.max() == 1:
        raise DataError(f"{where}: images holds 0 and 1 alone, expected 0 to 255: multiply by 255 before the cast")


def _remedy(images: np.ndarray) -> str:
    """How an array of another dtype becomes uint8."""
    if images.dtype.kind not in "biuf" or images.size == 0:
        return "give whole numbers of 8 bits"
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        bad = np.flatnonzero(~np.isfinite(images.reshape(len(images) if images.ndim else 1, -1)).all(axis=1))
        return f"{bad.size} of them hold NaN or infinity, the first is number {bad[0]}: mend what made them"
    low, high = float(images.min()), float(images.max())
    values = f"they hold {low:g} to {high:g}"
    if images.dtype.kind == "b" or (low >= 0 and high <= 1):
        return f"{values}: (255 * images).round().astype(np.uint8)"
    if low >= -1 and high <= 1:
        return f"{values}: ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8)"
    if low >= 0 and high <= 255:
        return f"{values}: images.round().astype(np.uint8)"
    if images.dtype == np.uint16:
        return f"{values}: (images / 257).round().astype(np.uint8) where 65535 is white"
    return f"{values}: scale them to 0..255, round, and cast to np.uint8"


def _channel_remedy(shape: tuple[int, ...]) -> str:
    if shape[1] in CHANNELS:
        return "channels come last: images.transpose(0, 2, 3, 1)"
    if shape[3] == 4:
        return "drop the transparency, or blend it with a background: images[..., :3]"
    return "choose 1 or 3 channels"
