"""One metric of one set of features against the real side: its value, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data_pipeline.manifest import DataError
from scaling.config.metrics import Metric
from scaling.evaluation.expansion import LEAST_SAMPLES, NORMAL_95, expand, simulate
from scaling.evaluation.extract import Extracted
from scaling.evaluation.inception_score import inception_score
from scaling.evaluation.kernel import kernel_distance
from scaling.evaluation.neighbours import compare
from scaling.run.schemas import Interval95

if TYPE_CHECKING:
    from scaling.evaluation.real import Real


@dataclass(frozen=True)
class Settings:
    """What a value depends on beside the images: k neighbours, sets that are simulated, their seed, the device."""

    k: int = 3
    resamples: int = 200
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Judged:
    """A value, its standard error and the method of that; for a distance what infinite N would give."""

    value: float
    error: float | None = None
    method: Literal["influence", "simulation"] | None = None
    bias: float | None = None

    def facts(self) -> dict[str, Any]:
        """As the keys of a `StepScore`."""
        found: dict[str, Any] = {"value": self.value, "error": self.error, "method": self.method}
        if self.error is not None:
            half = NORMAL_95 * self.error
            found["interval"] = (self.value - half, self.value + half)
            if self.bias is not None:
                centre = self.value - self.bias
                found["infinite"] = Interval95(value=centre, low=centre - half, high=centre + half)
        return found


def judge(metric: Metric, made: Extracted, real: Real, settings: Settings, *, error: bool = True) -> Judged:
    """The metric of some features against the real ones, with its error if wanted. DataError where it cannot be had."""
    try:
        if metric.kind == "fd":
            return _distance(made.features, real, settings, error=error)
        if metric.kind == "is":
            return _score(metric, made)
        if real.features is None:
            raise ValueError("the reference holds statistics alone, no single images to compare with: give images")
        if metric.kind == "kd":
            value, sigma = kernel_distance(made.features, real.features)
            return Judged(value, sigma, "influence")
        found = compare(made.features, real.features, settings.k, settings.device)
        return Judged(getattr(found, metric.kind))
    except ValueError as problem:
        raise DataError(f"{metric.name}: {problem}") from problem


def _distance(features: np.ndarray, real: Real, settings: Settings, *, error: bool) -> Judged:
    if not error:
        return Judged(real.reference.distance(features))
    if len(features) >= LEAST_SAMPLES * features.shape[1]:
        found = expand(features, real.reference)
        return Judged(found.value, found.error, "influence", found.bias)
    found = simulate(features, real.reference, settings.resamples, settings.seed)
    return Judged(found.value, found.error, "simulation", found.bias)


def _score(metric: Metric, made: Extracted) -> Judged:
    if made.probabilities is None:
        raise ValueError("these features come without probabilities: give Inception's weights as the pt_inception file")
    value, error = inception_score(made.probabilities)
    return Judged(value, error)


def of_sets(judged: Sequence[Judged], which: Literal["mean", "minimum"]) -> dict[str, Any]:
    """Several sets of samples as one `StepScore`: their mean, whose error is smaller, or the least value.

    The least of several has no interval: it is not an estimate of anything that has a true value.
    """
    if len(judged) == 1:
        return judged[0].facts()
    values = tuple(one.value for one in judged)
    if which == "minimum":
        return {"value": min(values), "repeats": values}
    errors = [one.error for one in judged if one.error is not None]
    biases = [one.bias for one in judged if one.bias is not None]
    whole = len(errors) == len(judged)
    error = float(np.sqrt(np.sum(np.square(errors))) / len(judged)) if whole else None
    bias = float(np.mean(biases)) if len(biases) == len(judged) else None
    return {**Judged(float(np.mean(values)), error, judged[0].method, bias).facts(), "repeats": values}
