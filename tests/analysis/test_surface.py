"""Laws in N and D: derivatives against finite differences, exact laws returned, Chinchilla's numbers where they lie."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from scaling.analysis.gather import drop, gather
from scaling.analysis.isoflop import fit_isoflops
from scaling.analysis.newton import DELTA, Rows, derivatives, losses, minimise
from scaling.analysis.surface import SurfaceData, best_fit, bootstrap, fit_surface, natural, surface_data
from scaling.analysis.table import Row, TableError

TRUTH = (1.7, 400.0, 2000.0, 0.34, 0.37)
FILE = (
    "chinchilla_epoch.csv"  # of github.com/epoch-research/analyzing-chinchilla; it says no licence, and is not shipped
)
PLACES = [
    Path(os.environ.get("CHINCHILLA_CSV", FILE)),
    *(up / "shared/reference" / FILE for up in Path(__file__).parents),
]


def made_up(count: int = 60, noise: float = 0.0, seed: int = 0) -> SurfaceData:
    """Runs at eight budgets with sizes about the best, whose law is TRUTH."""
    random = np.random.default_rng(seed)
    n = np.exp(random.uniform(np.log(5e7), np.log(1e10), count))
    d = np.exp(random.uniform(np.log(1e9), np.log(3e11), count))
    e, a, b, alpha, beta = TRUTH
    score = (e + a * n**-alpha + b * d**-beta) * np.exp(noise * random.standard_normal(count))
    return SurfaceData(n, d, score, tuple(f"line {i}" for i in range(count)))


def test_exact_laws_are_returned_from_any_start() -> None:
    data = made_up()
    theta, loss = best_fit(data)
    assert loss < 1e-12
    np.testing.assert_allclose(natural(data, theta[None])[0], TRUTH, rtol=1e-4)


def test_gradient_and_hessian_are_those_of_the_loss() -> None:
    data, random = made_up(30, 0.002), np.random.default_rng(1)
    rows: Rows = data.rows()
    theta = best_fit(data)[0][None] + 1e-4 * random.standard_normal((3, 5))
    counts = random.integers(0, 3, (3, 30)).astype(float)
    delta = 0.05  # wide, so that no row crosses the corner between the two sides of a difference
    _, gradient, hessian = derivatives(rows, theta, counts, delta)
    step = 1e-6
    for j in range(5):
        shift = step * np.eye(5)[j]
        sides = [derivatives(rows, theta + sign * shift, counts, delta) for sign in (1, -1)]
        np.testing.assert_allclose((sides[0][0] - sides[1][0]) / (2 * step), gradient[:, j], rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose((sides[0][1] - sides[1][1]) / (2 * step), hessian[:, :, j], rtol=1e-4, atol=1e-6)


def test_refits_agree_with_an_optimizer_that_is_given_time() -> None:
    data = made_up(50, 0.02)
    theta, _ = best_fit(data)
    rows, random = data.rows(), np.random.default_rng(0)
    counts = random.multinomial(50, np.full(50, 1 / 50), size=6).astype(float)
    _, found = minimise(rows, np.repeat(theta[None], 6, axis=0), counts)

    def loss(x: np.ndarray, w: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient, _ = derivatives(rows, x[None], w[None])
        return 1e4 * float(value[0]), 1e4 * gradient[0]

    for w, ours in zip(counts, found, strict=True):
        reference = minimize(loss, theta, (w,), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
        assert ours <= reference.fun / 1e4 + 1e-6


def test_budgets_are_spent_where_the_score_is_least() -> None:
    law = fit_surface(made_up(), resamples=200)
    n, d, score = law.optimum(1e21)
    assert 3 * n.value * d.value == pytest.approx(1e21)
    assert law.split.value == pytest.approx(0.37 / 0.71, rel=1e-3)
    for factor in (0.8, 1.25):
        assert law.score(n.value * factor, d.value / factor).value > score.value
    assert score.value == pytest.approx(law.score(n.value, d.value).value)


def test_isoflops_find_the_minimum_and_say_their_bias() -> None:
    e, a, b, alpha, beta = TRUTH
    budgets = np.repeat([1e19, 1e20, 1e21], 7)
    best = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (budgets / 3) ** (beta / (alpha + beta))
    n = best * np.tile(np.exp(np.linspace(-0.6, 0.6, 7)), 3)
    d = budgets / 3 / n
    found = fit_isoflops(SurfaceData(n, d, e + a * n**-alpha + b * d**-beta, ("",) * 21))
    assert [one.rows for one in found.parabolas] == [7, 7, 7]
    for one, truth in zip(found.parabolas, best[::7], strict=True):
        assert one.n == pytest.approx(truth, rel=0.05)
    assert found.split is not None
    assert found.split.value == pytest.approx(beta / (alpha + beta), abs=0.01)
    assert "biased" in found.warning


def test_tables_that_cannot_tell_are_refused_or_warned_of() -> None:
    def rows(count: int, same: bool = False) -> list[Row]:
        return [
            Row(
                "all",
                1,
                1,
                f"{i}",
                0,
                np.nan,
                2 + 1 / (i + 1),
                parameters=1e7 * 2**i,
                images=1e9 if same else 1e8 * 3**i,
                place=f"line {i + 2}",
            )
            for i in range(count)
        ]

    with pytest.raises(TableError, match="7 rows for 5 parameters: 8 at least"):
        surface_data(rows(7))
    with pytest.raises(TableError, match="three different numbers of parameters and of images"):
        surface_data(rows(9, same=True))
    with pytest.raises(TableError, match="line 11 and line 2: "):
        surface_data([*rows(9), replace(rows(9)[0], place="line 11")])
    with pytest.raises(TableError, match="missing in line 2"):
        surface_data([Row("all", 1, 1, "s", 0, 1e6, 2.0, place="line 2")])
    assert any("correlated by 1.000" in text for text in fit_surface(surface_data(rows(10)), resamples=200).warnings)


@pytest.fixture(scope="module")
def chinchilla() -> SurfaceData:
    path = next((path for path in PLACES if path.is_file()), None)
    if path is None:
        pytest.skip(f"the table of Epoch AI is not here: name {FILE} by CHINCHILLA_CSV")
    return surface_data(drop(gather([str(path)], ["parameters=Model Size"]), 5))


def test_chinchilla_as_epoch_ai_digitised_it(chinchilla: SurfaceData) -> None:
    """240 rows: Besiroglu et al. 2024, to the digits that the reference fit gives."""
    law = fit_surface(chinchilla, resamples=2000)
    assert law.rows == 240
    assert law.loss == pytest.approx(0.00101827, abs=2e-8)
    for one, truth, digits in zip(
        (law.E, law.A, law.B, law.alpha, law.beta),
        (1.81722, 477.83, 2143.4, 0.34731, 0.36717),
        (1e-4,) * 5,
        strict=True,
    ):
        assert one.value == pytest.approx(truth, rel=digits)
    for error, reference, within in zip(
        law.errors, (0.0257, 124, 1293, 0.0154, 0.0206), (0.1, 0.1, 0.25, 0.1, 0.1), strict=True
    ):
        assert error == pytest.approx(reference, rel=within)
    assert law.split.value == pytest.approx(0.514, abs=5e-4)
    assert all(0.005 < one.mean_absolute < 0.02 and 0.02 < one.largest < 0.045 for one in law.held_back)


def test_resamples_of_chinchilla_end_at_their_optimum(chinchilla: SurfaceData) -> None:
    theta, _ = best_fit(chinchilla)
    draws = bootstrap(chinchilla, theta, 300)
    assert np.isfinite(draws).all()
    assert losses(chinchilla.rows(), theta[None], np.ones((1, 240)), DELTA)[0] == pytest.approx(0.00101827, abs=2e-8)
