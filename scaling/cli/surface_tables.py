"""Laws in parameters and images together, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from scaling.analysis.isoflop import IsoFlops, fit_isoflops
from scaling.analysis.summary import plain, show
from scaling.analysis.surface import SurfaceLaw, fit_surface, surface_data
from scaling.analysis.table import Row, TableError
from scaling.tables import add, right, table

NAMES = ("E", "A", "B", "alpha", "beta")


def fit_law(law: str, rows: Sequence[Row], targets: Sequence[str]) -> tuple[list[Table | str], dict[str, Any]]:
    """Tables and plain content of `surface` or `isoflop`. TableError for another name and for what cannot be fitted."""
    if law == "surface":
        surface = fit_surface(surface_data(rows))
        optima = {text: surface.optimum(_compute(text)) for text in targets}
        content = {"surface": plain(surface), "optima": {text: plain(list(one)) for text, one in optima.items()}}
        return _surface_tables(surface, optima), content
    if law == "isoflop":
        isoflops = fit_isoflops(surface_data(rows))
        return _isoflop_tables(isoflops), {"isoflop": plain(isoflops)}
    raise TableError(f"--law {law}: give surface or isoflop; without it power laws and ratios are fitted")


def _compute(text: str) -> float:
    name, _, value = text.partition("=")
    try:
        compute = float(value) if name == "training" else -1.0
    except ValueError:
        compute = -1.0
    if not 0 < compute < float("inf"):
        raise TableError(f"--predict {text}: with --law surface give training=MACS, a budget of multiply-adds")
    return compute


def _surface_tables(law: SurfaceLaw, optima: dict[str, Any]) -> list[Table | str]:
    title = f"score = E + A / parameters^alpha + B / images^beta, {law.rows} rows, sum of Huber {law.loss:.6g}"
    caption = f"95 % intervals and standard errors of {law.resamples:,} bootstrap refits. " + " ".join(
        f"{text[0].upper()}{text[1:]}." for text in law.warnings
    )
    fitted = table(title, ("", *right("estimate", "standard error")), caption.strip())
    for name, error in zip(NAMES, law.errors, strict=True):
        add(fitted, name, show(getattr(law, name)), f"{error:.4g}")
    add(fitted, "N* grows as compute to the power", show(law.split), "")
    held = table(
        "Fitted on less compute, and the rest predicted", right("below MACs", "rows", "mean error", "largest run")
    )
    for one in law.held_back:
        add(held, f"{one.below:.3g}", str(one.rows), f"{one.mean_absolute:.2%}", f"{one.largest:+.2%}")
    best = table("Budgets spent best", ("budget", *right("parameters", "images", "score")))
    for text, (n, d, score) in optima.items():
        add(best, text, *map(show, (n, d, score)))
    return [made for made in (fitted, held, best) if made.row_count]


def _isoflop_tables(found: IsoFlops) -> list[Table | str]:
    split = f"N* grows as compute to the power {show(found.split)}. " if found.split else ""
    caption = f"{split}{found.warning[0].upper()}{found.warning[1:]}. {'; '.join(found.left_out)}".strip()
    made = table("Parabolas at equal training compute", right("MACs", "rows", "N*", "D*", "score"), caption)
    for one in found.parabolas:
        add(made, f"{one.compute:.3g}", str(one.rows), f"{one.n:.3g}", f"{one.d:.3g}", f"{one.score:.4g}")
    return [made]
