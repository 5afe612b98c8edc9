"""Averages of any width after training, from snapshots of those that were kept (EDM2, section 3.2 and Algorithm 3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaling.config.validation import ConfigError
from scaling.run.home import RunHome
from scaling.run.spec import RunSpec
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.checkpoints.files import CheckpointError
from scaling.training.ema import power_exponent, profile_name

LARGE_ERROR = 0.05  # relative L2 distance of profiles from which on a reconstruction is not made unless asked for
NEGLIGIBLE = 1e-9  # coefficients that change nothing in float32

Values = np.ndarray | float


@dataclass(frozen=True)
class Term:
    """One stored average of a sum: when it was taken, its width, and its factor."""

    updates: int
    sigma_rel: float
    coefficient: float


@dataclass(frozen=True)
class Reconstruction:
    """A network with an average that was not kept.

    updates: the time of the average; error: relative L2 distance between its profile and the wanted one.
    """

    state: dict[str, Tensor]
    sigma_rel: float
    updates: int
    error: float
    terms: tuple[Term, ...]

    def facts(self) -> dict[str, float]:
        """What there is to tell of it, without the single terms."""
        taken = {term.updates for term in self.terms}
        factors = [term.coefficient for term in self.terms]
        return {
            "sigma_rel": self.sigma_rel,
            "updates": self.updates,
            "profile_error": self.error,
            "snapshots": len(taken),
            "first_snapshot": min(taken),
            "last_snapshot": max(taken),
            "least_coefficient": min(factors),
            "largest_coefficient": max(factors),
        }


def inner_product(t_a: Values, gamma_a: Values, t_b: Values, gamma_b: Values) -> np.ndarray:
    """<p_a, p_b> of power-function profiles p_i(s) = (gamma_i + 1) / t_i (s / t_i)^gamma_i on [0, t_i], else 0.

    The product ends at the earlier time. With t_a <= t_b the integral over [0, t_a] is

        (gamma_a + 1) (gamma_b + 1) / (t_a t_b) t_a (t_a / t_b)^gamma_b / (gamma_a + gamma_b + 1)

    so the later profile's exponent falls on a ratio of at most 1: it may underflow to 0, nothing overflows. The step
    n of training is the interval (n - 1, n], over which p_n integrates to exactly the weight that the average gives it.
    Arguments are float64 and broadcast.
    """
    earlier, later = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    exponent = np.where(t_a <= t_b, gamma_b, gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * (earlier / later) ** exponent / later


def fit_profile(times: np.ndarray, gammas: np.ndarray, time: float, gamma: float) -> tuple[np.ndarray, float]:
    """Factors of the stored profiles whose sum is nearest to the wanted one, and its relative L2 distance.

    The factors sum to 1: what did not change in training is reproduced exactly. EDM2's code divides the factors of a
    free fit by their sum; here the sum is a constraint of the fit, whose profile is never farther. times, gammas: of
    the stored profiles, [profiles]. Least squares in float64, all profiles scaled to norm 1, by the normal equations
    with the constraint's multiplier.
    """
    norms = np.sqrt(inner_product(times, gammas, times, gammas))
    norm = np.sqrt(inner_product(time, gamma, time, gamma))
    gram = inner_product(times[:, None], gammas[:, None], times, gammas) / norms[:, None] / norms
    towards = inner_product(times, gammas, time, gamma) / norms / norm
    sums = norm / norms  # of a factor on profiles of norm 1, what it adds to the sum of factors
    system = np.block([[gram, sums[:, None]], [sums, np.zeros(1)]])
    scaled = np.linalg.lstsq(system, np.append(towards, 1), rcond=None)[0][:-1]
    distance = 1 - 2 * towards @ scaled + scaled @ gram @ scaled
    return scaled * sums, float(np.sqrt(max(distance, 0.0)))


def reconstruct(
    home: Path, spec: RunSpec, sigma_rel: float, updates: int | None = None, max_error: float = LARGE_ERROR
) -> Reconstruction:
    """The network of a run with the average of width sigma_rel after `updates` steps; None: at its newest snapshot.

    ConfigError for a width or a time that cannot be had, and where the nearest profile is more than `max_error` from
    the wanted one; CheckpointError where the run has no snapshots, or one that is damaged or another run's.
    """
    try:
        gamma = power_exponent(sigma_rel)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    found = _snapshots(home, spec.identity())
    time = max(found) if updates is None else updates
    if not min(found) <= time <= max(found):
        raise ConfigError(
            f"updates: {time} is out of range: the snapshots in {home} are of {min(found)} to {max(found)} updates"
        )
    stored = [(n, width) for n in found if n <= time for width in spec.ema.sigma_rel]
    times = np.array([n for n, _ in stored], np.float64)
    gammas = np.array([power_exponent(width) for _, width in stored])
    factors, error = fit_profile(times, gammas, time, gamma)
    if error > max_error:
        raise ConfigError(_distant(spec, sigma_rel, time, int(times.max()), error, max_error))
    terms = tuple(Term(n, width, float(x)) for (n, width), x in zip(stored, factors, strict=True))
    buffers = found[int(times.max())].part("model/")
    return Reconstruction({**buffers, **_sum(found, terms)}, sigma_rel, time, error, terms)


def _snapshots(home: Path, identity: str) -> dict[int, Checkpoint]:
    """The snapshots of the averages and the checkpoints of a run by the updates before them, in order."""
    paths: dict[int, Path] = {}
    for folder in (RunHome(home).checkpoints, RunHome(home).snapshots):  # of one step the latter, which is smaller
        paths |= {step: checkpoint.path_of(folder, step) for step in checkpoint.steps_in(folder)}
    found: dict[int, Checkpoint] = {}
    for _, path in sorted(paths.items()):
        loaded = checkpoint.load(path)
        checkpoint.require(loaded, identity)
        found[int(loaded.metadata["updates"])] = loaded
    found.pop(0, None)  # before the first update there is no average
    if not found:
        raise CheckpointError(
            f"{home}: holds no snapshots of the averages: train the run, with launch.ema_snapshot_steps above 0"
        )
    return found


def _distant(spec: RunSpec, sigma_rel: float, time: int, last: int, error: float, max_error: float) -> str:
    """How far the profile is from the wanted one, and what would bring it nearer."""
    late = f"choose the last snapshot before, --updates {last}, or " if last < time else ""
    return (
        f"sigma_rel {sigma_rel} after {time} updates: the nearest profile is {error:.1%} away, above {max_error:.4g} "
        f"(--max-error): {late}keep more snapshots in training (launch.ema_snapshot_steps), choose a width nearer to "
        f"those that were kept, {', '.join(map(str, spec.ema.sigma_rel))}, or accept it with --max-error "
        f"{np.ceil(100 * error) / 100:g}"
    )


def _sum(found: dict[int, Checkpoint], terms: tuple[Term, ...]) -> dict[str, Tensor]:
    """The stored averages times their factors, added in float64: one network and one average in memory at a time."""
    total: dict[str, Tensor] = {}
    for term in terms:
        if abs(term.coefficient) < NEGLIGIBLE:
            continue
        for name, average in found[term.updates].part(f"{profile_name(term.sigma_rel)}/").items():
            if name not in total:
                total[name] = torch.zeros_like(average, dtype=torch.float64)
            total[name].add_(average.double(), alpha=term.coefficient)
    return {name: tensor.float() for name, tensor in total.items()}
