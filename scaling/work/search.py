"""The search that papers do by hand: which average of the weights, strength of guidance, time of the second step.

One variable after the other, each by golden section on its own scale, on common seeds: two settings are compared by
the difference of their distances, whose error from the influences of the same seeds is smaller than that of either. A
bracket is narrowed until its points cannot be told apart. Each evaluation is written down at once; the same command
goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.files import write_bytes_atomic, write_json_atomic
from models.trigflow import TrigFlowNet
from scaling.config.methods import PARTS
from scaling.config.recipes import StudentRecipe
from scaling.config.validation import ConfigError
from scaling.evaluation.expansion import LEAST_SAMPLES, NORMAL_95, expand, paired_error
from scaling.evaluation.extract import extract
from scaling.evaluation.real import Real
from scaling.evaluation.spaces.space import Space
from scaling.run.spec import RunSpec
from scaling.weights.ema import reconstruct
from scaling.work.drawn import Drawn
from scaling.work.sampling import Choices, drawn_by, hold

GOLDEN = (math.sqrt(5) - 1) / 2
NARROW = 0.02  # of a variable's range: no narrower bracket is looked at
Setting = dict[str, float]


@dataclass(frozen=True)
class Variable:
    """A variable by its option, and the range it is searched in, on a log scale where `log`."""

    name: str
    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """The value at a share of the range, to four digits, so that a point has one name."""
        if self.log:
            return float(f"{self.low * (self.high / self.low) ** share:.4g}")
        return float(f"{self.low + share * (self.high - self.low):.4g}")


@dataclass(frozen=True)
class Point:
    """One evaluation: its setting, its distance at this N with its error, and the influence of each seed."""

    setting: Setting
    value: float
    error: float
    influence: np.ndarray


@dataclass(frozen=True)
class Found:
    """The best point, all points, those that cannot be told from the best, and whether the budget ended the search."""

    best: Point
    points: tuple[Point, ...]
    tied: tuple[Point, ...]
    spent: bool

    def facts(self) -> dict[str, Any]:
        """As plain values: curve, argmin with the interval of each variable that the ties leave."""
        names = list(self.best.setting)
        ranges = {name: [f(each.setting[name] for each in self.tied) for f in (min, max)] for name in names}
        told = [{**each.setting, "value": each.value, "error": each.error} for each in self.points]
        return {"best": self.best.setting, "value": self.best.value, "error": self.best.error,
                "cannot_be_told_from_the_best": ranges, "evaluations": told, "budget_spent": self.spent}  # fmt: skip


def variables_of(names: str, spec: RunSpec, home: Path) -> list[Variable]:
    """The variables of "sigma-rel,guidance,intermediate-t". ConfigError names one that the run does not have."""
    found = []
    for name in dict.fromkeys(part.strip() for part in names.split(",")):
        recipe = spec.recipe
        student = isinstance(recipe, StudentRecipe)
        if name == "sigma-rel":
            if not (home / "snapshots").is_dir():
                raise ConfigError(f"--search sigma-rel: {home} has no snapshots: train with launch.ema_snapshot_steps")
            widths = spec.ema.sigma_rel
            found.append(Variable(name, min(widths) / 1.5, min(max(widths) * 1.5, 0.25), log=True))
        elif name == "guidance":
            if student and recipe.guidance is None:
                raise ConfigError("--search guidance: this student was distilled without guidance: leave it out")
            low, high = recipe.guidance if student and recipe.guidance else (1.0, 4.0)
            found.append(Variable(name, low, high))
        elif name == "intermediate-t":
            if not student or PARTS[spec.method].one_step:
                raise ConfigError("--search intermediate-t: is for consistency models in 2 steps: leave it out")
            found.append(Variable(name, 0.3, 1.5))
        else:
            raise ConfigError(f"--search {name}: unknown; known: sigma-rel, guidance, intermediate-t")
    return found


class Search:
    """The evaluations of one search, each made once, in a folder."""

    def __init__(self, folder: Path, asked: dict[str, Any], evaluate: Callable[[Setting], Point], budget: int) -> None:
        """ConfigError where the folder holds another search."""
        self._folder, self._evaluate, self._budget = folder, evaluate, budget
        self.points: dict[str, Point] = {}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "search.json"
        if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(asked)):
            raise ConfigError(f"{folder}: holds another search: choose another folder")
        write_json_atomic(path, asked)

    def at(self, setting: Setting) -> Point | None:
        """The evaluation of a setting, from the folder or made now; None when the budget is spent."""
        key = ",".join(f"{name}={value:g}" for name, value in sorted(setting.items())) or "as-the-run"
        if key not in self.points:
            if len(self.points) >= self._budget:
                return None
            path = self._folder / f"{key}.npz"
            if path.exists():
                with np.load(path) as file:
                    self.points[key] = Point(setting, float(file["value"]), float(file["error"]), file["influence"])
            else:
                self.points[key] = point = self._evaluate(setting)
                write_bytes_atomic(path, _npz(point))
        return self.points[key]

    def run(self, variables: Sequence[Variable], start: Setting) -> Found:
        """Search each variable in turn, the others at the best found so far."""
        best = self.at(start)
        assert best is not None, "a budget is one evaluation at least"
        spent = False
        for variable in variables:
            best, spent = self._along(variable, best)
            if spent:
                break
        points = tuple(sorted(self.points.values(), key=lambda point: point.value))
        return Found(best, points, tuple(each for each in points if not told_apart(best, each)), spent)

    def _along(self, variable: Variable, best: Point) -> tuple[Point, bool]:
        """Golden section along one variable; the best point, and whether the budget was spent."""
        low, high = 0.0, 1.0
        inner = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)]
        while True:
            pair = [self.at({**best.setting, variable.name: variable.at(share)}) for share in inner]
            first, second = pair
            best = min((best, *(each for each in pair if each)), key=lambda point: point.value)
            if first is None or second is None:
                return best, True
            if high - low < NARROW or (high - low < 0.5 and not told_apart(first, second)):
                return best, False
            if first.value < second.value:
                high, inner = inner[1], [inner[1] - GOLDEN * (inner[1] - low), inner[0]]
            else:
                low, inner = inner[0], [inner[1], inner[0] + GOLDEN * (high - inner[0])]


def told_apart(a: Point, b: Point) -> bool:
    """Whether two settings differ by more than the samples' noise, on common seeds (95 %)."""
    return abs(a.value - b.value) > NORMAL_95 * paired_error(a.influence, b.influence)


def _npz(point: Point) -> bytes:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, value=point.value, error=point.error, influence=point.influence)
    return buffer.getvalue()


def evaluator(
    home: Path, space: Space, real: Real, seeds: np.ndarray, choices: Choices, device: torch.device
) -> Callable[[Setting], Point]:
    """The distance of a run's samples with these seeds at a setting. ConfigError where N is too small to compare."""
    if len(seeds) < LEAST_SAMPLES * space.about.size:
        raise ConfigError(
            f"--seeds: {len(seeds)} samples: a search by these features needs {LEAST_SAMPLES * space.about.size}"
        )
    held = hold(home, device)

    def evaluate(setting: Setting) -> Point:
        network = held.network
        if "sigma-rel" in setting:
            made = reconstruct(home, held.spec, setting["sigma-rel"], max_error=1.0)
            network = TrigFlowNet(held.spec.network_config())
            network.load_state_dict(made.state)
            network.to(device).eval().requires_grad_(False)
        chosen = Choices(
            steps=choices.steps,
            guidance=setting.get("guidance", choices.guidance),
            intermediate_t=setting.get("intermediate-t"),
        )
        images = Drawn(held.spec, network, drawn_by(held.spec, chosen), seeds, device, vae=choices.vae)
        found = expand(extract(space, images).features, real.reference)
        assert found.influence is not None, "of an expansion"
        return Point(setting, found.value, found.error, found.influence)

    return evaluate
