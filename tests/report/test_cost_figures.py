"""What scores are held against: training with all that it started from, sampling with and without decoding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from scaling.analysis.table import Row, load_scores
from scaling.analysis.table_file import load_table, resolve_table
from scaling.report.cost_figures import COSTS, cost_figure, cost_points, write_figures

PUBLISHED = "published/scm-imagenet512.csv"


def test_a_run_costs_what_it_started_from_too() -> None:
    known: dict[str, Any] = {"macs": 10.0, "parameters": 7.0, "decoder": 100.0}
    rows = [Row("teacher", 4, 7, "s", seed, fd=4.0 * 2**seed, training=1e6, **known) for seed in (0, 1)]
    rows += [Row("scd", 2, 2, "s", seed, fd=8.0 * 2**seed, training=2e6, **known) for seed in (0, 1)]
    rows += [Row("scd_vsd", 1, 1, "s", 0, fd=6.0, training=3e6, **known), Row("mine", 1, 1, "s", 0, fd=9.0, **known)]
    found = {one.method: one for one in cost_points(rows)}
    assert found["scd"].score == pytest.approx(8 * 2**0.5)
    assert {method: one.ratio for method, one in found.items()} == pytest.approx(
        {"teacher": 1, "scd": 2, "scd_vsd": 1.5, "mine": 2.25}
    )
    chain = {method: one.costs["chain"] for method, one in found.items() if method != "mine"}
    assert chain == {"teacher": 1e6, "scd": 3e6, "scd_vsd": 6e6}
    assert math.isnan(found["mine"].costs["chain"])
    assert found["scd"].costs | {"chain": 0} == {"macs": 10, "training": 2e6, "chain": 0, "evaluated": 14, "image": 120}


def test_the_training_of_the_published_networks_is_that_of_their_recipe() -> None:
    """Iterations x 2048 images x forward passes, of which a backward pass counts two and a tangent one."""
    passes = {"teacher": 3, "sct": 4, "scd": 6, "scd_vsd": 15}
    for row in load_table(resolve_table(PUBLISHED)):
        assert row.images is not None
        assert row.training == pytest.approx(row.images * row.macs * passes[row.method], rel=1e-3)


def test_published_networks_of_others_stand_beside_curves(tmp_path: Path) -> None:
    """Only on the axis that they are known on: parameters times evaluations."""
    rows = [row for name in (PUBLISHED, "published/others-imagenet512.csv") for row in load_table(resolve_table(name))]
    made = write_figures(rows, "FID", tmp_path / "new", "costs")
    assert [path.name for path in made] == ["costs.png", "costs.svg", "costs.pdf"]
    svg = made[1].read_text()
    assert svg.count("DiT-XL/2") == 1
    painted = cost_figure(cost_points(rows), "FID")
    assert painted is not None
    figure = Figure()
    painted.paint(figure)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["" for _ in COSTS] + [*COSTS.values()]


def test_a_table_without_costs_but_one_network_has_no_figure() -> None:
    assert cost_figure(cost_points([Row("a", 1, 1, "s", 0, 10.0, 2.0)]), "FID") is None


def test_a_study_says_its_training(write_study: Any, tmp_path: Path) -> None:
    rows = load_scores(write_study(tmp_path / "made", methods=["teacher", "scd"], sizes=["xs"]))
    costs = {(one.method, one.steps): one.costs for one in cost_points(rows)}
    assert costs["scd", 2]["chain"] == 96_000 * 310_000 * (3 + 5)
    assert costs["scd", 2]["image"] == 2 * 310_000
