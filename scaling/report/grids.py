"""Grids of samples: the same noise and labels in every row, real images of the same labels beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from scaling.report.record import Images
from scaling.report.style import INK, draw

Pixels = npt.NDArray[np.uint8]
TITLE, SPACE = 0.22, 0.1
GAP = 1


def grid_figure(strips: Sequence[tuple[str, Pixels]], width: float) -> bytes:
    """Strips of images [H, W, 3], of one width, under one another, each under its title; `width` in inches."""
    heights = [width * strip.shape[0] / strip.shape[1] for _, strip in strips]
    total = sum(heights) + len(strips) * (TITLE + SPACE)

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("none")
        top = total
        for (title, strip), height in zip(strips, heights, strict=True):
            figure.text(0.0, (top - TITLE / 2) / total, title, va="center", color=INK, fontsize=9)
            top -= TITLE + height
            axes = figure.add_axes((0.0, top / total, 1.0, height / total))
            axes.imshow(strip, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            top -= SPACE

    return draw(paint, width, total)


def tile(images: Pixels, columns: int) -> Pixels:
    """Images [N, H, W] or [N, H, W, 3] in rows of `columns`, as one picture [H', W', 3]; what is not there is white."""
    colour = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=-1)
    count, height, width, _ = colour.shape
    rows = -(-count // columns)
    picture = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, image in enumerate(colour):
        y, x = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        picture[y : y + height, x : x + width] = image
    return picture


def beside(left: Pixels, right: Pixels) -> Pixels:
    """Two pictures of one height with a white gap between them."""
    gap = np.full((left.shape[0], 8 * GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def matching(real: Images, labels: npt.NDArray[np.int64], skip: int) -> Pixels | None:
    """A real image for each label, those of a label in turn after the first `skip`; None when one runs out."""
    chosen, used = [], {}
    for label in labels.tolist():
        candidates = np.flatnonzero(real.labels == label)
        turn = used[label] = used.get(label, skip - 1) + 1
        if turn >= len(candidates):
            return None
        chosen.append(int(candidates[turn]))
    return real.images[chosen]
