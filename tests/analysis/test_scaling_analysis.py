"""The analysis against closed forms, the published numbers, and made-up studies whose truth is known."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from scaling.analysis.ratios import RatioCurve
from scaling.analysis.summary import Analysis, analyse
from scaling.analysis.table import Row, TableError
from scaling.analysis.table_file import load_table, resolve_table
from scaling.analysis.uncertainty import Interval
from scaling.cli.fit_tables import render

MACS = (1e6, 2.2e6, 5e6, 1.2e7)
RATIO, ALPHA = 1.35, 0.4
Noise = Callable[[np.random.Generator, float], tuple[float, np.ndarray | None]]


def make_rows(
    measure: Callable[[float], tuple[float, np.ndarray | None]], seeds: int = 1, slope: float = 0.0
) -> list[Row]:
    """A teacher 8 (MACs / first)^-ALPHA and a student at RATIO (MACs / first)^slope times it, each measured."""
    rows = []
    for seed in range(seeds):
        for i, macs in enumerate(MACS):
            relative = macs / MACS[0]
            for method, steps, factor in (("teacher", 9, 1.0), ("scd", 1, RATIO * relative**slope)):
                fd, replicates = measure(8 * relative**-ALPHA * factor)
                rows.append(Row(method, steps, steps, f"size{i}", seed, macs, fd, replicates))
    return rows


def exact(value: float) -> tuple[float, None]:
    return value, None


def curve(analysis: Analysis, method: str = "scd", steps: int = 1) -> RatioCurve:
    found = analysis.ratio_curve(method, steps)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def published() -> Analysis:
    return analyse(load_table(resolve_table("published/scm-imagenet512.csv")))


def test_published_mean_ratios_to_the_printed_digit(published: Analysis) -> None:
    assert f"{curve(published, 'scd', 1).mean.value:.3f}" == "1.346"
    assert f"{curve(published, 'scd', 2).mean.value:.3f}" == "1.094"
    ratios = [f"{point.ratio.value:.3f}" for point in curve(published, "scd", 2).points]
    assert ratios == ["1.092", "1.130", "1.091", "1.072", "1.087"]


def test_published_constancy_holds_for_scd_and_not_for_sct(published: Analysis) -> None:
    for steps in (1, 2):
        for method, verdict in (("scd", "constant not rejected"), ("sct", "constant rejected")):
            test = curve(published, method, steps).constancy
            assert test is not None
            assert (test.verdict, test.dof) == (verdict, 4)
    trend = curve(published, "sct", 1).trend
    assert trend is not None
    assert trend.high < 0


@pytest.mark.parametrize(
    ("method", "steps", "alpha", "error"),
    [
        ("teacher", 32, "0.163", "-3.0"),
        ("scd", 1, "0.176", "-0.7"),
        ("scd", 2, "0.176", "-3.7"),
        ("sct", 1, "0.502", "-20.1"),
        ("sct", 2, "0.575", "-22.9"),
    ],
)
def test_published_power_laws_and_largest_size_held_out(
    published: Analysis, method: str, steps: int, alpha: str, error: str
) -> None:
    law = next(law for law in published.laws if (law.method, law.steps) == (method, steps))
    assert f"{law.alpha.value:.3f}" == alpha
    assert law.held_out is not None
    assert law.held_out.size == "XXL"
    assert f"{100 * law.held_out.error:.1f}" == error
    assert bool(law.warnings) == (method == "sct")


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 1.5), st.floats(1.01, 9.0), st.floats(1e-3, 1e3))
def test_exact_power_laws_and_constant_ratios_are_returned(alpha: float, ratio: float, level: float) -> None:
    rows = [
        Row(method, steps, steps, f"s{i}", 0, macs, level * factor * (macs / 1e6) ** -alpha)
        for i, macs in enumerate(MACS)
        for method, steps, factor in (("teacher", 9, 1.0), ("scd", 1, ratio))
    ]
    analysis = analyse(rows, resamples=100)
    teacher, student = analysis.laws
    assert teacher.alpha.value == pytest.approx(alpha)
    assert student.A.value == pytest.approx(ratio * level * 1e6**alpha)
    assert teacher.center_macs == pytest.approx(np.prod(MACS) ** 0.25)
    assert student.misfit.chi2 == pytest.approx(0, abs=1e-9)
    assert student.held_out is not None
    assert student.held_out.error == pytest.approx(0, abs=1e-9)
    line, low, high = student.band(np.array(MACS))
    np.testing.assert_allclose(line, [ratio * level * (macs / 1e6) ** -alpha for macs in MACS])
    assert (low < line).all()
    assert (line < high).all()
    constancy, trend = curve(analysis).constancy, curve(analysis).trend
    assert constancy is not None
    assert trend is not None
    assert curve(analysis).mean.value == pytest.approx(ratio)
    assert constancy.p == pytest.approx(1)
    assert trend.value == pytest.approx(0, abs=1e-9)


def noisy_rows(seed: int, seeds: int = 2) -> list[Row]:
    random = np.random.default_rng(seed)
    return make_rows(lambda value: (value * np.exp(0.03 * random.standard_normal()), None), seeds=seeds)


def test_scaling_every_distance_changes_no_ratio() -> None:
    for seeds in (1, 3):
        rows = noisy_rows(4, seeds)
        tenfold = [Row(r.method, r.steps, r.nfe, r.size, r.seed, r.macs, 10 * r.fd) for r in rows]
        before, after = analyse(rows), analyse(tenfold)
        for one, other in zip(curve(before).points, curve(after).points, strict=True):
            assert other.ratio.value == pytest.approx(one.ratio.value)
            assert other.ratio.low == pytest.approx(one.ratio.low)
            assert other.ratio.high == pytest.approx(one.ratio.high)
        assert after.laws[0].alpha.value == pytest.approx(before.laws[0].alpha.value)


def test_order_of_rows_and_other_curves_change_nothing() -> None:
    rows = noisy_rows(5)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert analyse(shuffled).to_json() == analyse(rows).to_json()
    more = [*rows, *(Row("sct", 1, 1, r.size, r.seed, r.macs, 2 * r.fd) for r in rows if r.method == "teacher")]
    more = [r if r.method != "sct" else Row("sct", 1, 1, r.size, r.seed, r.macs, r.fd * (1.1 + r.seed)) for r in more]
    assert curve(analyse(more)) == curve(analyse(rows))
    assert analyse(rows, seed=1).to_json() != analyse(rows, seed=0).to_json()


def _normal(random: np.random.Generator, value: float) -> tuple[float, None]:
    return value * float(np.exp(0.03 * random.standard_normal())), None


def _replicated(random: np.random.Generator, value: float) -> tuple[float, np.ndarray]:
    """A distance with 3 % noise whose resamples have the same noise and lie 20 % too high."""
    measured = value * (1 + 0.03 * float(random.standard_normal()))
    return measured, measured + 0.2 * value + 0.03 * value * random.standard_normal(200)


@pytest.mark.parametrize(("measure", "seeds"), [(_normal, 1), (_normal, 2), (_normal, 3), (_replicated, 1)])
def test_intervals_cover_the_truth_and_the_test_keeps_its_level(measure: Noise, seeds: int) -> None:
    random, studies = np.random.default_rng(1), 200
    inside = {"points": 0.0, "mean": 0.0, "trend": 0.0, "alpha": 0.0, "fd": 0.0, "constant": 0.0}

    def covers(interval: Interval | None, truth: float) -> bool:
        assert interval is not None
        return interval.low <= truth <= interval.high

    for study in range(studies):
        rows = make_rows(lambda value: measure(random, value), seeds)
        analysis = analyse(rows, relative_noise=0.03, resamples=400, seed=study)
        found = curve(analysis)
        assert found.constancy is not None
        inside["points"] += float(np.mean([covers(point.ratio, RATIO) for point in found.points]))
        inside["mean"] += covers(found.mean, RATIO)
        inside["trend"] += covers(found.trend, 0)
        inside["alpha"] += covers(analysis.laws[0].alpha, ALPHA)
        truth = [8 * (one.macs / MACS[0]) ** -ALPHA for one in analysis.distances[:4]]
        inside["fd"] += float(np.mean([covers(one.fd, t) for one, t in zip(analysis.distances, truth, strict=False)]))
        inside["constant"] += not found.constancy.rejected
    for name, count in inside.items():
        assert 0.90 <= count / studies <= 0.99, (name, count / studies)


def _frechet(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Distances [B] to the standard normal of features [N, d] weighted by weights [B, N]."""
    dim = features.shape[1]
    share = weights / weights.sum(axis=1, keepdims=True)
    mean = share @ features
    squares = (share @ (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)).reshape(-1, dim, dim)
    covariance = squares - mean[:, :, None] * mean[:, None, :]
    root = np.sqrt(np.linalg.eigvalsh(covariance).clip(0)).sum(axis=-1)
    return (mean**2).sum(axis=1) + np.trace(covariance, axis1=1, axis2=2) + dim - 2 * root


def test_real_bootstraps_of_a_frechet_distance_cover_in_spite_of_their_bias() -> None:
    random, count, dim = np.random.default_rng(0), 200, 4
    spreads = {("teacher", 9): 1.2, ("scd", 1): 1.3}
    one = np.ones((1, count))

    def features(spread: float) -> np.ndarray:
        return spread * random.standard_normal((count, dim))

    truth = {key: np.mean([_frechet(one, features(spread))[0] for _ in range(2000)]) for key, spread in spreads.items()}
    inside, biased, studies = 0, 0, 120
    for study in range(studies):
        rows = []
        for key, spread in spreads.items():
            sample = features(spread)
            weights = random.multinomial(count, np.full(count, 1 / count), size=200).astype(float)
            fd, replicates = float(_frechet(one, sample)[0]), _frechet(weights, sample)
            biased += replicates.mean() > fd
            rows.append(Row(*key, 1, "s", 0, 1e6, fd, replicates))
        ratio = curve(analyse(rows, resamples=400, seed=study)).points[0].ratio
        inside += ratio.low <= truth["scd", 1] / truth["teacher", 9] <= ratio.high
    assert biased > 1.9 * studies
    assert 0.90 <= inside / studies <= 1.0


def test_a_ratio_that_changes_with_size_is_rejected() -> None:
    random = np.random.default_rng(2)
    for study in range(20):
        rows = make_rows(lambda value: _normal(random, value), seeds=3, slope=-0.2)
        found = curve(analyse(rows, resamples=400, seed=study))
        assert found.constancy is not None
        assert found.trend is not None
        assert found.constancy.rejected
        assert found.constancy.verdict == "constant rejected"
        assert found.trend.high < 0


def test_seeds_give_the_analysis_of_variance_and_students_t() -> None:
    rows = noisy_rows(7, seeds=3)
    fd = {(r.method, r.size, r.seed): r.fd for r in rows}
    sizes = [f"size{i}" for i in range(4)]
    logs = np.log([[fd["scd", size, seed] / fd["teacher", size, seed] for seed in range(3)] for size in sizes])
    found = curve(analyse(rows, resamples=200_000))
    assert found.constancy is not None
    reference = stats.f_oneway(*logs)
    assert found.constancy.chi2 / 3 == pytest.approx(reference.statistic)
    assert found.constancy.p == pytest.approx(reference.pvalue)
    half = stats.t.ppf(0.975, 8) * np.sqrt(logs.var(axis=1, ddof=1).mean() / 3)
    for point, row in zip(found.points, logs, strict=True):
        assert (point.seeds, point.source) == (3, "seeds")
        assert point.ratio.value == pytest.approx(np.exp(row.mean()))
        assert np.log(point.ratio.high) == pytest.approx(row.mean() + half, rel=0.02)
        assert np.log(point.ratio.low) == pytest.approx(row.mean() - half, rel=0.02)
    assert any("few seeds (3 a size)" in note and "8 degrees" in note for note in found.notes)


def test_stated_noise_gives_the_closed_form() -> None:
    found = curve(analyse(make_rows(exact), relative_noise=0.05, resamples=200_000))
    half = stats.norm.ppf(0.975) * 0.05 * np.sqrt(2)
    for point in found.points:
        assert point.source == "noise"
        assert np.log(point.ratio.high / RATIO) == pytest.approx(half, rel=0.02)
    wide, narrow = (curve(analyse(noisy_rows(8, 1), relative_noise=noise)).constancy for noise in (0.04, 0.02))
    assert wide is not None
    assert narrow is not None
    assert narrow.chi2 / wide.chi2 == pytest.approx(4, rel=0.15)


def test_a_size_with_one_seed_takes_the_scatter_of_the_others() -> None:
    rows = [row for row in noisy_rows(9, seeds=2) if row.seed == 0 or row.size != "size3"]
    points = curve(analyse(rows)).points
    assert [point.seeds for point in points] == [2, 2, 2, 1]
    widths = [np.log(point.ratio.high / point.ratio.low) for point in points]
    assert widths[3] / np.mean(widths[:3]) == pytest.approx(np.sqrt(2), rel=0.15)


def test_student_without_its_own_teacher_is_named_and_left_out() -> None:
    rows = [row for row in make_rows(exact) if (row.method, row.size) != ("teacher", "size1")]
    analysis = analyse(rows)
    assert [point.size for point in curve(analysis).points] == ["size0", "size2", "size3"]
    assert analysis.notes == ("no ratio for sCD, 1 step, size size1, seed 0: its teacher is missing",)
    assert len([one for one in analysis.distances if one.method == "scd"]) == 4


def test_one_teacher_serves_the_students_of_all_seeds_and_that_is_said() -> None:
    """Teacher 10 at seed 0; students 12 and 12 * 1.21 at seeds 0 and 1: the geometric mean is 1.2 * 1.1."""
    rows = [Row("teacher", 9, 17, "s", 0, 1e6, 10.0)]
    rows += [Row("scd", 1, 1, "s", seed, 1e6, 12.0 * 1.21**seed) for seed in (0, 1)]
    found = curve(analyse(rows))
    assert found.points[0].ratio.value == pytest.approx(1.2 * 1.1)
    assert found.points[0].seeds == 2
    assert not found.judges
    (note,) = (note for note in found.notes if "no teacher of that seed" in note)
    assert note.startswith("sCD, 1 step, size s, seed 1: ")
    assert "mean of what there is (seed 0)" in note


def test_few_sizes_are_told_and_one_size_has_neither_test_nor_law() -> None:
    three = analyse([row for row in make_rows(exact) if row.size != "size3"])
    assert all("3 sizes: too few" in law.warnings[0] for law in three.laws)
    two = analyse([row for row in make_rows(exact) if row.size in {"size0", "size1"}])
    assert [(law.held_out, law.misfit.p) for law in two.laws] == [(None, None)] * 2
    one = analyse([row for row in make_rows(exact) if row.size == "size0"])
    assert one.laws == ()
    assert (curve(one).constancy, curve(one).trend) == (None, None)
    assert curve(one).mean.value == pytest.approx(RATIO)


def test_copied_results_and_bad_arguments_are_refused() -> None:
    with pytest.raises(TableError, match="all seeds gave one value"):
        analyse(make_rows(exact, seeds=2))
    with pytest.raises(TableError, match="all samples gave one value"):
        analyse(make_rows(lambda value: (value, np.full(200, value))))
    with pytest.raises(TableError, match="two teachers for size 'size0'"):
        analyse([*make_rows(exact), *make_rows(exact)])
    with pytest.raises(TableError, match="no rows"):
        analyse([])
    with pytest.raises(ValueError, match=r"relative_noise is 0\.0"):
        analyse(make_rows(exact), relative_noise=0.0)
    with pytest.raises(ValueError, match="resamples is 10"):
        analyse(make_rows(exact), resamples=10)


def test_json_is_plain_and_the_terminal_shows_the_findings(published: Analysis) -> None:
    plain = published.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["ratios"][0]["mean"]["value"] == pytest.approx(1.346, abs=5e-4)
    assert "draws" not in plain["laws"][0]
    console = Console(width=200, file=io.StringIO(), record=True)
    for table in render(published):
        console.print(table)
    text = console.export_text()
    for expected in (
        "1.346 [",
        "1.094 [",
        "constant rejected",
        "constant not rejected",
        "XXL: -20.1%",
        "relative noise",
    ):
        assert expected in text


def test_names_with_brackets_reach_the_terminal() -> None:
    rows = [Row(r.method, r.steps, r.nfe, f"[/b]{r.size}", r.seed, r.macs, r.fd) for r in make_rows(exact)][1:]
    for markup in (True, False):  # the command line prints without
        console = Console(width=200, file=io.StringIO(), record=True)
        console.print(render(analyse(rows))[0], markup=markup)
        text = console.export_text()
        assert " [/b]size2" in text
        assert "no ratio for sCD, 1 step, size [/b]size0" in text
