"""What the figures are made of: colours, markers, ticks, labels, grids."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image
from scipy.optimize import isotonic_regression

from scaling.analysis.summary import analyse
from scaling.analysis.table import Row
from scaling.report.figures import distance_figure, ratio_figure, sampling_figure
from scaling.report.grids import beside, grid_figure, matching, tile
from scaling.report.recipes import recipes_figure
from scaling.report.record import Images
from scaling.report.style import (
    DPI,
    EndLabel,
    colour,
    draw,
    end_labels,
    log_values,
    macs_axis,
    marker,
    quantity,
    rising,
    round_ticks,
    shades,
)

CURVES = (("teacher", 9), ("scd", 1), ("scd", 2), ("sct", 1), ("sct", 2))


def painted(size: float = 4.0) -> Axes:
    figure = Figure(figsize=(size, size))
    return figure.add_subplot()


def test_each_curve_looks_like_no_other() -> None:
    looks = {(colour(method, []), marker(method, steps)) for method, steps in CURVES}
    assert len(looks) == len(CURVES)
    assert {colour("scd", names) for names in ([], ["scd", "new"], ["a", "scd"])} == {"#0072B2"}
    names = ["teacher", "new", "scd+vsd"]
    assert len({colour(name, names) for name in (*names, "scd", "sct")}) == 5


@pytest.mark.filterwarnings("error")
def test_a_dozen_recipes_find_room() -> None:
    names = ["teacher", *(f"a_long_recipe_{number}" for number in range(12))]
    for sizes in ({"xs": 1e6}, {"xs": 1e6, "s": 3e6}):
        rows = [
            Row(name, steps, steps, size, seed, macs, (9 + number + seed) * 1e6 / macs)
            for number, name in enumerate(names)
            for steps in ((8,) if name == "teacher" else (1, 2))
            for size, macs in sizes.items()
            for seed in (0, 1)
        ]
        analysis = analyse(rows)
        figures = [recipes_figure(analysis, "FD", 9)] if len(sizes) == 1 else []
        figures += [distance_figure(analysis, "FD", 9, 0.1), ratio_figure(analysis), sampling_figure(analysis, "FD", 9)]
        for figure in figures:
            assert Image.open(io.BytesIO(figure.png())).height == round(figure.height * DPI)


def test_tones_of_sizes_grow_darker() -> None:
    tones = [sum(to_rgb(tone)) for tone in shades("#0072B2", 5)]
    assert all(one > other for one, other in itertools.pairwise(tones))
    assert shades("#0072b2", 1) == ["#0072b2"]


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=12))
def test_labels_are_spread_by_isotonic_regression(values: list[float]) -> None:
    np.testing.assert_allclose(rising(values), isotonic_regression(values).x, atol=1e-12)


@given(st.floats(-3, 6), st.floats(0.18, 6))
def test_ticks_are_round_inside_and_few(low: float, span: float) -> None:
    bottom, top = 10**low, 10 ** (low + span)
    ticks = round_ticks(bottom, top)
    assert 1 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    assert all(bottom <= tick <= top for tick in ticks)
    assert all(float(f"{tick:.1e}") == pytest.approx(tick) for tick in ticks)


def test_cost_axis_ticks_stand_at_the_sizes() -> None:
    axes = painted()
    macs_axis(axes, {"l": 4.6e6, "xs": 3.1e5})
    assert axes.get_xticks().tolist() == [3.1e5, 4.6e6]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["xs\n310\u00a0k", "l\n4.6\u00a0M"]
    low, high = axes.get_xlim()
    assert low < 3.1e5 < 4.6e6 < high


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1, 100), min_size=1, max_size=7))
def test_labels_keep_their_distance_and_their_order(ends: list[float]) -> None:
    axes = painted()
    log_values(axes, 1, 100)
    end_labels(axes, [EndLabel(1.0, end, f"{i}", "#000000") for i, end in enumerate(ends)], 0.1)
    heights = [text.xy[1] for text in axes.texts if isinstance(text, Annotation)]
    assert len(heights) == len(ends)
    order = [ends[int(text.get_text())] for text in axes.texts]
    assert order == sorted(order)
    assert 0 < min(heights) <= max(heights) < 1 + 1e-9
    assert all(above - below > 0.1 - 1e-9 for below, above in itertools.pairwise(heights))


def test_quantities_have_three_digits() -> None:
    shown = {value: quantity(value).replace("\u00a0", " ") for value in (456, 31000, 999_950, 1_234_567, 1.022e11)}
    assert list(shown.values()) == ["456", "31 k", "1 M", "1.23 M", "102 G"]


def test_drawing_gives_the_size_asked_for_and_ignores_tex() -> None:
    def paint(figure: Figure) -> None:
        figure.add_subplot().set_title(r"$\nonsense{$")

    with Image.open(io.BytesIO(draw(paint, 3, 2))) as image:
        assert image.size == (3 * DPI, 2 * DPI)


def test_tiles_hold_the_images_in_order() -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((3, 2, 2), np.uint8) * 40
    picture = tile(images, 2)
    assert picture.shape == (5, 5, 3)
    for (y, x), value in {(0, 0): 0, (0, 3): 40, (3, 0): 80, (3, 3): 255}.items():
        assert (picture[y : y + 2, x : x + 2] == value).all()
    assert (picture[2] == 255).all()
    colours = np.stack([images, images + 1, images + 2], axis=-1)
    np.testing.assert_array_equal(tile(colours, 2)[0, 3], [40, 41, 42])
    assert (beside(picture, picture)[:, -5:] == picture).all()


def test_real_images_match_the_labels_and_are_used_once() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1], np.int64)
    real = Images((np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((6, 2, 2), np.uint8)), labels)
    wanted = np.array([1, 0, 1], np.int64)
    first, second = matching(real, wanted, 0), matching(real, wanted, 1)
    assert first is not None
    assert second is not None
    assert first[:, 0, 0].tolist() == [1, 0, 3]
    assert second[:, 0, 0].tolist() == [3, 2, 5]
    assert matching(real, wanted, 2) is None
    assert matching(real, np.array([7]), 0) is None


def test_grids_show_every_strip() -> None:
    dark, light = np.zeros((8, 32, 3), np.uint8), np.full((8, 32, 3), 200, np.uint8)
    with Image.open(io.BytesIO(grid_figure([("one", dark), ("two", light)], 2.0))) as image:
        pixels = np.asarray(image.convert("L"))
    column = pixels[:, pixels.shape[1] // 2]
    height = DPI * 2 * 8 // 32
    assert abs(int((column == 0).sum()) - height) <= 2
    assert abs(int((column == 200).sum()) - height) <= 2
