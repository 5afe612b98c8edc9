"""The analysis against closed forms, the published numbers, and made-up studies whose truth is known."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from scaling.analysis.floor import fit_floor
from scaling.analysis.summary import Analysis, analyse
from scaling.analysis.table import Row, TableError
from scaling.analysis.table_file import load_table, resolve_table
from scaling.analysis.uncertainty import Interval
from scaling.analysis.words import answer
from scaling.cli.fit_tables import render
from tests.analysis.made_up import MACS, RATIO, curve, estimates, exact, make_rows, noisy_rows


@pytest.fixture(scope="module")
def published() -> Analysis:
    return analyse(load_table(resolve_table("published/scm-imagenet512.csv")))


def test_published_mean_ratios_and_their_spread_to_the_printed_digit(published: Analysis) -> None:
    for steps, mean, spread in ((1, "1.346", "0.023"), (2, "1.094", "0.021")):
        found = curve(published, "scd", steps)
        assert (f"{found.mean.value:.3f}", f"{found.spread:.3f}") == (mean, spread)
    ratios = [f"{point.ratio.value:.3f}" for point in curve(published, "scd", 2).points]
    assert ratios == ["1.092", "1.130", "1.091", "1.072", "1.087"]


def test_published_constancy_holds_for_scd_and_not_for_sct(published: Analysis) -> None:
    """One seed: a verdict from the interval of the trend, and no p."""
    for steps in (1, 2):
        for method, verdict in (("scd", "constant not rejected"), ("sct", "constant rejected")):
            test = curve(published, method, steps).constancy
            assert test is not None
            assert (test.verdict, test.by, test.p) == (verdict, "trend", None)
        trend = curve(published, "sct", steps).trend
        assert trend is not None
        assert trend.high < 0
    said = " ".join(answer(published))
    assert "1.346 [" in said
    assert "sCT" in said
    assert "no, it falls with size" in said


@pytest.mark.parametrize(
    ("method", "steps", "alpha", "error", "floor"),
    [
        ("teacher", 32, "0.163", "-3.0", (0.87, 1.575)),
        ("scd", 1, "0.176", "-0.7", (0.31, 1.13)),
        ("scd", 2, "0.176", "-3.7", (0.51, 1.389)),
        ("sct", 1, "0.502", "-20.1", (1.98, 4.08)),
        ("sct", 2, "0.575", "-22.9", (1.83, 3.41)),
    ],
)
def test_published_power_laws_floors_and_largest_size_held_out(
    published: Analysis, method: str, steps: int, alpha: str, error: str, floor: tuple[float, float]
) -> None:
    law = published.law(method, steps)
    assert law is not None
    assert f"{law.alpha.value:.3f}" == alpha
    assert law.held_out[0].size == "XXL"
    assert f"{100 * law.held_out[0].error:.1f}" == error
    assert law.floor is not None
    assert law.floor.alpha.value == pytest.approx(floor[0], abs=0.006)
    assert law.floor.E.value == pytest.approx(floor[1], abs=0.006)
    assert law.floor.needed == (law.floor.E.low > 0)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 1.5), st.floats(1.01, 9.0), st.floats(1e-3, 1e3))
def test_exact_power_laws_and_constant_ratios_are_returned(alpha: float, ratio: float, level: float) -> None:
    rows = [
        Row(method, steps, steps, f"s{i}", 0, macs, level * factor * (macs / 1e6) ** -alpha)
        for i, macs in enumerate(MACS)
        for method, steps, factor in (("teacher", 9, 1.0), ("scd", 1, ratio))
    ]
    analysis = analyse(rows)
    teacher, student = analysis.laws
    assert teacher.alpha.value == pytest.approx(alpha)
    assert student.A.value == pytest.approx(ratio * level * 1e6**alpha)
    assert teacher.center_macs == pytest.approx(np.prod(MACS) ** 0.25)
    assert student.scatter == pytest.approx(0, abs=1e-9)
    assert student.held_out[0].error == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(student.band(np.array(MACS))[0], [ratio * level * (m / 1e6) ** -alpha for m in MACS])
    assert curve(analysis).mean.value == pytest.approx(ratio)
    assert analysis.joint is not None
    assert analysis.joint.alpha.value == pytest.approx(alpha)


def test_scaling_every_score_changes_no_ratio() -> None:
    for seeds in (1, 3):
        rows = noisy_rows(4, seeds)
        tenfold = [Row(r.method, r.steps, r.nfe, r.size, r.seed, r.macs, 10 * r.fd) for r in rows]
        before, after = analyse(rows), analyse(tenfold)
        for one, other in zip(curve(before).points, curve(after).points, strict=True):
            assert other.ratio.ends == pytest.approx(one.ratio.ends)
        assert after.laws[0].alpha.ends == pytest.approx(before.laws[0].alpha.ends)


def test_order_of_rows_and_other_curves_change_nothing() -> None:
    rows = noisy_rows(5)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert analyse(shuffled).to_json() == analyse(rows).to_json()
    more = [*rows, *(Row("sct", 1, 1, r.size, r.seed, r.macs, 2 * r.fd) for r in rows if r.method == "teacher")]
    more = [r if r.method != "sct" else Row("sct", 1, 1, r.size, r.seed, r.macs, r.fd * (1.1 + r.seed)) for r in more]
    assert curve(analyse(more)) == curve(analyse(rows))


def test_a_ratio_that_changes_with_size_is_rejected() -> None:
    random = np.random.default_rng(2)
    for seeds, by in ((3, "seeds"), (1, "trend")):
        rows = make_rows(lambda value: (value * float(np.exp(0.02 * random.standard_normal())), None), seeds, -0.2)
        found = curve(analyse(rows))
        assert found.constancy is not None
        assert (found.constancy.rejected, found.constancy.by) == (True, by)
        assert found.trend is not None
        assert found.trend.high < 0


def test_seeds_give_the_analysis_of_variance_and_students_t() -> None:
    rows = noisy_rows(7, seeds=3)
    fd = {(r.method, r.size, r.seed): r.fd for r in rows}
    sizes = [f"size{i}" for i in range(4)]
    logs = np.log([[fd["scd", size, seed] / fd["teacher", size, seed] for seed in range(3)] for size in sizes])
    found = curve(analyse(rows))
    assert found.constancy is not None
    reference = stats.f_oneway(*logs)
    assert pytest.approx(reference.statistic) == found.constancy.F
    assert found.constancy.p == pytest.approx(reference.pvalue)
    pooled, own = logs.var(axis=1, ddof=1).mean(), logs.var(axis=1, ddof=1)
    for point, row, variance in zip(found.points, logs, own, strict=True):
        half = stats.t.ppf(0.975, 8) * np.sqrt(max(pooled, variance) / 3)
        assert (point.seeds, point.source) == (3, "seeds")
        assert point.ratio.value == pytest.approx(np.exp(row.mean()))
        assert np.log(point.ratio.high) == pytest.approx(row.mean() + half)
        assert np.log(point.ratio.low) == pytest.approx(row.mean() - half)
    assert any("few seeds (3 a size)" in note and "8 degrees" in note for note in found.notes)


def test_one_seed_takes_the_scatter_of_the_sizes_about_the_law() -> None:
    """The closed form of a regression: s sqrt(1 + 1/n + ...) with Student's t of n - 2."""
    rows = [row for row in noisy_rows(8, 1, 0.05) if row.method == "teacher"]
    x, y = np.log([row.macs for row in rows]), np.log([row.fd for row in rows])
    reference: Any = stats.linregress(x, y)
    residual = y - reference.intercept - reference.slope * x
    analysis = analyse(rows, targets={"big": 5e7})
    law = analysis.laws[0]
    assert law.scatter == pytest.approx(np.sqrt(residual @ residual / 2))
    assert (law.dof, law.source) == (2, "residuals")
    assert law.alpha.value == pytest.approx(-reference.slope)
    assert law.alpha.high - law.alpha.low >= 2 * stats.t.ppf(0.975, 2) * reference.stderr * (1 - 1e-9)
    prediction = analysis.predictions[0].prediction
    assert prediction.beyond == pytest.approx(5e7 / MACS[-1])
    assert prediction.power.low < reference.intercept + reference.slope < math.exp(20)
    assert np.log(prediction.power.value) == pytest.approx(reference.intercept + reference.slope * np.log(5e7))


def test_a_stated_noise_is_the_users_choice_and_gives_the_closed_form() -> None:
    found = curve(analyse(make_rows(exact), relative_noise=0.05))
    half = stats.norm.ppf(0.975) * 0.05 * np.sqrt(2)
    for point in found.points:
        assert point.source == "stated"
        assert np.log(point.ratio.high / RATIO) == pytest.approx(half)
    assert not found.judges


def test_one_repeated_seed_does_not_decide_every_interval() -> None:
    """A pair that happens to agree to 1e-6, and one that differs by a tenth: the exponent's interval stays sane."""
    single = [row for row in noisy_rows(11, seeds=1, noise=0.03) if row.method == "teacher"]
    wide = analyse(single).laws[0].alpha
    for factor in (1 + 1e-6, 1.1):
        again = [Row(r.method, r.steps, r.nfe, r.size, 1, r.macs, r.fd * factor) for r in single if r.size == "size2"]
        found = analyse([*single, *again]).laws[0].alpha
        assert 0.2 < (found.high - found.low) / (wide.high - wide.low) < 5


def test_replicates_and_no_more_sizes_than_parameters_decide_nothing() -> None:
    random = np.random.default_rng(0)
    rows = make_rows(lambda value: (value, value * (1 + 0.03 * random.standard_normal(200))))
    two = analyse([row for row in rows if row.size in {"size0", "size1"}])
    assert {one.source for one in two.distances} == {"samples"}
    assert not curve(two).judges
    bare = analyse([row for row in make_rows(exact) if row.size in {"size0", "size1"}])
    assert {one.source for one in bare.distances} == {"unknown"}
    assert not bare.laws[0].alpha.known
    assert bare.to_json()["laws"][0]["alpha"] == {"value": pytest.approx(0.4), "low": None, "high": None}
    assert "the scatter is not known" in bare.laws[0].warnings[0]
    one = analyse([row for row in make_rows(exact) if row.size == "size0"])
    assert one.laws == ()
    assert (curve(one).constancy, curve(one).trend) == (None, None)


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


def test_students_are_compared_with_the_teacher_they_share_cancelled() -> None:
    rows = noisy_rows(3, 1, 0.3)
    rows += [Row("sct", 1, 1, r.size, 0, r.macs, 2 * r.fd) for r in rows if r.method == "scd"]
    (found,) = analyse(rows).contrasts
    assert found.method == "scd / sct"
    assert found.mean.ends == pytest.approx((0.5, 0.5, 0.5))


def test_size_and_steps_at_one_sampling_budget() -> None:
    """y = MACs^-.4 NFE^-.1: one step of twice the network is 2^-.4 2^.1 of two steps of it."""
    rows = [
        Row("scd", steps, steps, f"s{i}", 0, macs, 9 * (macs / 1e6) ** -0.4 * steps**-0.1)
        for i, macs in enumerate(MACS)
        for steps in (1, 2)
    ]
    (law,) = analyse(rows).sampling
    assert law.alpha.value == pytest.approx(0.4)
    assert law.beta.value == pytest.approx(0.1)
    for choice in law.choices:
        assert choice.fewer_macs == pytest.approx(2 * choice.more_macs)
        assert choice.ratio.value == pytest.approx(2**-0.3)
        assert choice.fewer_is == "better"


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


def test_json_is_plain_and_the_terminal_shows_the_findings(published: Analysis) -> None:
    plain = published.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["ratios"][0]["mean"]["value"] == pytest.approx(1.346, abs=5e-4)
    assert not {"fit", "profile"} & {*plain["laws"][0], *plain["laws"][0]["floor"]}
    console = Console(width=240, file=io.StringIO(), record=True)
    for table in render(published):
        console.print(table)
    text = console.export_text()
    for expected in ("1.346 [", "1.094 [", "no, it falls with size", "not contradicted", "XXL: -20.1%", "sCD / sCT"):
        assert expected in text


def test_names_with_brackets_reach_the_terminal() -> None:
    rows = [Row(r.method, r.steps, r.nfe, f"[/b]{r.size}", r.seed, r.macs, r.fd) for r in make_rows(exact)][1:]
    for markup in (True, False):  # the command line prints without
        console = Console(width=200, file=io.StringIO(), record=True)
        console.print(next(each for each in render(analyse(rows)) if not isinstance(each, str)), markup=markup)
        text = console.export_text()
        assert " [/b]size2" in text
        assert "no ratio for sCD, 1 step, size [/b]size0" in text


def test_intervals_know_when_they_are_none() -> None:
    assert Interval(1.0, 0.5, 2.0).known
    assert not Interval(1.0, -math.inf, math.inf).exp().known


def test_very_many_sizes_are_pooled_by_neighbours_for_the_floor() -> None:
    """The truth, 1 + 3 x^-.3, is inside, and the scatter of one run comes out."""
    random, count = np.random.default_rng(0), 4000
    macs = np.sort(np.exp(random.uniform(0, 7, count)))
    logs = np.log(1 + 3 * macs**-0.3) + 0.05 * random.standard_normal(count)
    found = fit_floor(estimates(macs, logs))
    assert found.E.low < 1 < found.E.high < 1.2
    assert found.alpha.low < 0.3 < found.alpha.high
    assert found.scatter == pytest.approx(0.05, rel=0.1)


def test_seeds_are_pooled_where_the_floor_leaves_few_degrees_of_freedom() -> None:
    """Four sizes leave one: ten seeds each say more, unless they scatter far less than the sizes do."""
    macs, random = np.geomspace(1e9, 6e9, 4), np.random.default_rng(0)
    logs = np.log(1.3 + (macs / 1e9) ** -0.5) + 0.006 * random.standard_normal(4)
    alone = estimates(macs, logs)
    seeds = replace(alone, seeds=np.full(4, 10), squares=np.full(4, 9 * 0.02**2))
    small = replace(alone, seeds=np.full(4, 10), squares=np.full(4, 9 * 1e-10))
    widths = [fit_floor(one).at(1e10) for one in (alone, seeds, small)]
    ratios = [one.high / one.low for one in widths]
    assert ratios[1] < 1 + (ratios[0] - 1) / 2
    assert ratios[2] == pytest.approx(ratios[0], rel=1e-4)
