"""Which runs of a study to pay for next: candidates at their planned cost, the law as far as it is known, the
choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from models.shape import count_macs
from scaling.analysis.design import Candidate, Design, Possible, Problem, choose
from scaling.analysis.powerlaw import PowerLaw
from scaling.analysis.summary import analyse
from scaling.analysis.table import TEACHER, Row, TableError, load_scores
from scaling.config.recipes import Method
from scaling.plan.costs import cost
from scaling.plan.rate import Rate
from scaling.run.spec import PlannedRun, RunData
from scaling.study.expand import expand
from scaling.study.open import Study

SHORTER = (1.0, 0.5)
USUAL_SCATTER = 0.05
# Beliefs where the study has no scores yet: exponents that were published, and floors of half and twice the rest.
USUAL = tuple(Possible(alpha, e) for alpha in (0.17, 0.5) for e in (0.0, 0.0, 0.5, 2.0))
FLOORS = 6


@dataclass(frozen=True)
class Advice:
    """What to buy: the candidates and how many runs of each, beside what the scatter and the samples leave at the
    target.

    `curves` are the (method, steps) whose laws were used, [] where beliefs were. `samples`: how many images a run
    should be judged by, and the share of the variance of one run that the present number leaves.
    """

    target: str
    budget: float
    candidates: tuple[Candidate, ...]
    design: Design
    scatter: float
    curves: tuple[str, ...]
    sample_share: float | None
    samples: int | None
    next_seed: int

    def bought(self) -> Iterator[tuple[Candidate, int]]:
        """Candidates of which there are runs, with their number."""
        return ((one, runs) for one, runs in zip(self.candidates, self.design.runs, strict=True) if runs)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `predicted` are standard deviations of the log score at the target."""
        design = self.design
        return {
            "target": self.target,
            "budget_hours": self.budget,
            "hours": design.hours,
            "runs": [
                {"size": one.size, "macs": one.macs, "length": one.length, "seeds": runs, "hours": runs * one.hours}
                for one, runs in self.bought()
            ],
            "predicted": {
                "power_law": {"before": design.power_before, "after": design.power_after},
                "with_floor": {"before": design.floor_before, "after": design.floor_after},
                "scatter_of_one_run": self.scatter,
            },
            "variance_at_target": self.split(),
            "samples": {"share_of_scatter": self.sample_share, "advised": self.samples},
            "laws_from": list(self.curves) or "usual exponents and floors: the study has no scores yet",
        }

    def split(self) -> dict[str, float]:
        """Shares of the variance of a new run at the target, after these runs: law (with a floor), seeds, samples."""
        law, one = self.design.floor_after**2, self.scatter**2
        of_samples = one * (self.sample_share or 0)
        total = law + one
        return {"law": law / total, "seeds": (one - of_samples) / total, "samples": of_samples / total}


def advise(study: Study, target: str, budget: float, rate: Rate, cap: float, *, shorter: bool = False) -> Advice:
    """Choose runs of the study's family up to the budget of device-hours. UserError names what cannot be.

    `shorter`: runs of half the length are candidates too; what the length does to the score is then one more unknown.
    """
    known = {size.casefold(): size for size in study.family.sizes}
    if target.casefold() not in known:
        raise UserError(f"--target {target}: family {study.family.name!r} has the sizes {', '.join(known.values())}")
    if not budget > 0:
        raise UserError(f"--budget {budget}: give device-hours above 0")
    if not 0 < cap <= 1:
        raise UserError(f"--max-share {cap}: give a share above 0 and at most 1")
    goal = known[target.casefold()]
    macs = {size: float(count_macs(network)) for size, network in study.family.sizes.items()}
    runs = _all_runs(study, [size for size in macs if size != goal and macs[size] < macs[goal]])
    candidates = tuple(_candidates(runs, macs, rate, SHORTER if shorter else (1.0,)))
    if not candidates:
        raise UserError(f"--target {target}: no size of family {study.family.name!r} is smaller")
    rows = _scores(study)
    laws, center, scatter, curves = _beliefs(rows, float(np.exp(np.mean(np.log([*macs.values()])))))
    have = {(row.size, row.seed) for row in rows}
    existing = tuple((macs[size], 1.0) for size, _ in sorted(have) if size in macs)
    problem = Problem(candidates, existing, macs[goal], laws, center, scatter)
    try:
        design = choose(problem, budget, cap)
    except ValueError as error:
        raise UserError(f"--budget {budget}: {error}") from error
    share, samples = _samples(rows, scatter, runs, study)
    following = max((seed for _, seed in have), default=-1) + 1
    return Advice(goal, budget, candidates, design, scatter, curves, share, samples, following)


def _all_runs(study: Study, sizes: Sequence[str]) -> list[PlannedRun]:
    """The runs of one seed of these sizes, whatever sizes the study names."""
    config = study.config.model_copy(update={"sizes": tuple(sizes), "seeds": (0,)})
    return expand(config, study.family, RunData(content_sha256="", held_out_sha256="", encoder=config.data.encoder))


def _candidates(
    runs: Sequence[PlannedRun], macs: dict[str, float], rate: Rate, lengths: Sequence[float]
) -> Iterator[Candidate]:
    sizes = dict.fromkeys(run.spec.size for run in runs)
    for size in sizes:
        costs = [cost(run.spec) for run in runs if run.spec.size == size]
        for length in lengths:
            flops = sum(each.train_flops * length + each.evaluation_flops for each in costs)
            yield Candidate(size, macs[size], length, rate.hours(flops))


def _scores(study: Study) -> list[Row]:
    try:
        return load_scores(study.folder)
    except TableError:
        return []


def _beliefs(rows: Sequence[Row], usual_center: float) -> tuple[tuple[Possible, ...], float, float, tuple[str, ...]]:
    """Possible laws, the cost that floors are relative to, the scatter of one run, and the curves they are from."""
    laws = [law for law in (analyse(rows).laws if rows else ()) if law.judges and law.floor is not None]
    if not laws:
        return USUAL, usual_center, USUAL_SCATTER, ()
    center = laws[0].center_macs
    possible = [each for law in laws for each in _possible(law, center)]
    scatter = math.sqrt(sum(law.scatter**2 for law in laws) / len(laws))
    names = tuple(f"{law.method}, {law.steps} steps" for law in laws)
    return tuple(possible), center, max(scatter, 1e-3), names


def _possible(law: PowerLaw, center: float) -> list[Possible]:
    """As many power laws, over the interval of the exponent, as laws with a floor from the profile."""
    assert law.floor is not None
    profile = law.floor.profile
    inside = np.flatnonzero(profile.e > 0)
    chosen = inside[np.linspace(0, len(inside) - 1, FLOORS).astype(int)] if len(inside) else inside
    moved = (center / law.center_macs) ** profile.alpha
    floors = [Possible(float(profile.alpha[i]), float(profile.e[i] * moved[i])) for i in chosen]
    ends = np.linspace(max(law.alpha.low, 0.01), max(law.alpha.high, 0.02), FLOORS)
    return [*(Possible(float(alpha)) for alpha in ends), *floors]


def _samples(
    rows: Sequence[Row], scatter: float, runs: Sequence[PlannedRun], study: Study
) -> tuple[float | None, int | None]:
    """The share of a run's variance that samples give, and the number of images that buys most.

    With variance tau^2 + v/n and cost a + b n for each run, the best n is sqrt(v a / (tau^2 b)).
    """
    variances = [float(np.var(row.replicates)) / row.fd**2 for row in rows if row.replicates is not None]
    if not variances:
        return None, None
    now, n = float(np.mean(variances)), study.config.evaluation.samples
    between = max(scatter**2 - now, 0.05 * scatter**2)
    costs = [cost(run.spec) for run in runs]
    train, judged = sum(each.train_flops for each in costs), sum(each.evaluation_flops for each in costs) / n
    best = math.sqrt(now * n * train / (between * judged)) if judged else n
    return min(now / scatter**2, 1.0), int(float(f"{min(max(best, 1000), 50_000):.2g}"))


def study_files(advice: Advice, study: Study) -> list[dict[str, Any]]:
    """The chosen runs as study files: one for each number of seeds and length, since a study has all seeds of a
    size.
    """
    groups: dict[tuple[int, float], list[str]] = {}
    for one, runs in advice.bought():
        groups.setdefault((runs, one.length), []).append(one.size)
    config = study.config
    written = config.model_dump(mode="json", exclude_unset=True)
    files = []
    for (runs, length), sizes in groups.items():
        seeds = list(range(advice.next_seed, advice.next_seed + runs))
        name = f"{config.name}-{runs}-seeds" if length == 1 else f"{config.name}-{runs}-seeds-{length:g}"
        by_size = {size: _shortened(study, size, length) for size in sizes}
        kept = {size: changes for size, changes in by_size.items() if changes}
        files.append({**written, "name": name, "sizes": sizes, "seeds": seeds, "by_size": kept})
    return files


def _shortened(study: Study, size: str, length: float) -> dict[str, Any]:
    """What `by_size` says of a size, with the steps of its recipes cut to the length."""
    changes: dict[str, Any] = {key: dict(value) for key, value in study.config.by_size.get(size, {}).items()}
    if length == 1:
        return changes
    methods: list[Method] = [method for method in study.config.methods if getattr(study.config, method) is not None]
    if TEACHER not in methods:
        methods.append("teacher")
    for method in methods:
        steps = study.config.recipe(method, size).steps
        changes[method] = {**changes.get(method, {}), "steps": max(round(steps * length), 1)}
    return changes
