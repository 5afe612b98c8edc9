"""The metrics by name: in which features, and by which distance. Names, labels and settings alone, no numerics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scaling.config.validation import choices

SpaceName = Literal["fashion", "own", "inception", "dinov2", "truth"]
Kind = Literal["truth", "fd", "kd", "precision", "recall", "density", "coverage", "is"]
NONE = "none"
SPACES: dict[SpaceName, str] = {
    "fashion": "the 64 features of a small classifier of Fashion-MNIST that was trained on the training images",
    "own": "the 64 features of a small network that was trained on the study's own kind of training images",
    "inception": "the 2048 pool features of InceptionV3",
    "dinov2": "the 1024 features of DINOv2 ViT-L/14",
}
OF_SPACE: dict[SpaceName, str] = {"fashion": "fashion", "own": "own", "inception": "inception", "dinov2": "DINOv2"}
NEIGHBOURS: tuple[Kind, ...] = ("precision", "recall", "density", "coverage")
# What the field calls these in Inception's features.
SHORT: dict[Kind, tuple[str, str]] = {"fd": ("fid", "FID"), "kd": ("kid", "KID"), "is": ("is", "IS")}
SHORT |= {kind: (kind, kind) for kind in NEIGHBOURS}


@dataclass(frozen=True)
class Metric:
    """A metric: features (`space`), distance (`kind`), its name in files and in print (`label`)."""

    name: str
    kind: Kind
    space: SpaceName
    label: str

    @property
    def is_distance(self) -> bool:
        """Whether it is above 0, less is better, and laws and ratios can be made of it."""
        return self.kind in ("fd", "truth")

    @property
    def needs_real_features(self) -> bool:
        """Whether it compares single samples with single real images, and not with their mean and covariance."""
        return self.kind == "kd" or self.kind in NEIGHBOURS


def _metric(kind: Kind, space: SpaceName) -> Metric:
    if space == "inception":
        name, label = SHORT[kind]
        return Metric(name, kind, space, label)
    upper = {"fd": "FD", "kd": "KD"}.get(kind)
    label = f"{upper}-{OF_SPACE[space]}" if upper else f"{kind}, {OF_SPACE[space]} features"
    return Metric(f"{kind}-{space}", kind, space, label)


METRICS: dict[str, Metric] = {
    made.name: made
    for space in SPACES
    for made in (
        *(_metric(kind, space) for kind in ("fd", "kd", *NEIGHBOURS)),
        *([_metric("is", space)] if space == "inception" else []),
    )
}

TRUTH = "truth"  # no features: samples against the true ones, of data whose flow is known
METRICS[TRUTH] = Metric(TRUTH, "truth", "truth", "error to the truth")


def get_metric(name: str) -> Metric:
    """The metric of that name; ValueError with the nearest and all that are known."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; {choices(name, [*METRICS])}")
    return METRICS[name]


def floor_words(name: str) -> str:
    """What the floor of a metric is, before its number."""
    return "the truth is solved to" if name == TRUTH else "real against real images score"


def metric_label(name: str) -> str:
    """The name of a metric in print: "fd-fashion" is FD-fashion, never FID."""
    return METRICS[name].label if name in METRICS else name
