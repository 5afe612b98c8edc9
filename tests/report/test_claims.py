"""Claims of the paper are found by the recipes that a study has, and judged by the interval of a ratio."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from scaling.report.claims import NOT_SEEN, SEEN, UNTOLD, claims
from scaling.report.record import Record, RunRecord
from scaling.run.schemas import MetricScores, RunScores, StepScore

BASE = {"tangent": "normalize", "warmup_steps": 10}
# Level of the scores, method, and what the recipe changes.
RUNS: dict[str, tuple[float, str, dict[str, Any]]] = {
    "scd": (10, "scd", {}),
    "unbounded": (14, "scd", {"tangent": "raw"}),
    "clipped": (10.2, "scd", {"tangent": "clip"}),
    "plain": (8, "scd", {"adaptive_weighting": False}),
    "cold": (10.1, "scd", {"warmup_steps": 0}),
    "n256": (12, "scd", {"discrete_steps": 256}),
    "two": (9, "scd", {"segments": 2}),
    "four": (7, "scd", {"segments": 4}),
    "sct": (20, "sct", {}),
    "ect": (30, "sct", {"discrete_double_every": 5}),
    "both": (50, "sct", {"tangent": "raw", "adaptive_weighting": False}),
}


def run(name: str, level: float, method: str, recipe: dict[str, Any], seed: int, scatter: float) -> RunRecord:
    steps = (recipe["segments"],) if "segments" in recipe else (1,)
    noise = 1 + scatter * np.random.default_rng([*name.encode(), seed]).standard_normal()
    scores = tuple(StepScore(steps=n, nfe=n, value=level * noise) for n in steps)
    metric = MetricScores(metric="fd-fashion", n=100, floor=0.1, scores=scores)
    label = f"{name}-xs-{seed}"
    found = RunScores(study="s", run=label, method=name, size="xs", seed=seed, parameters=1, macs=10, metrics=(metric,))
    config = yaml.safe_dump({"spec": {"method": method, "recipe": {**BASE, **recipe}}})
    return RunRecord(label, name, "xs", seed, found, {}, None, config, {})


def record(seeds: int, scatter: float = 0.003) -> Record:
    runs = [run(name, *RUNS[name], seed, scatter) for name in RUNS for seed in range(seeds)]
    return Record("s", None, tuple(runs), ("xs",), None, ())


def test_each_claim_that_a_study_can_answer_has_its_verdict() -> None:
    found = {one.claim: one.verdict for one in claims(record(3))}
    assert found == {
        "normalised tangents are better than raw ones": SEEN,
        "clipped tangents are better than raw ones": SEEN,
        "clipped tangents serve as well as normalised ones (within 10%)": SEEN,
        "adaptive weighting is better than none": NOT_SEEN,
        "tangent warmup is better than none": found["tangent warmup is better than none"],
        "continuous time is better than 256 discrete steps": SEEN,
        "continuous time is better than discrete steps that come nearer (ECT)": SEEN,
        "2 segments are better than 1": SEEN,
        "4 segments are better than 2": SEEN,
    }
    assert {one.claim: one.measured for one in claims(record(3, 1e-6))}["4 segments are better than 2"].startswith(
        "four, 4 steps / two, 2 steps: 0.778"
    )


def test_a_bound_that_is_never_reached_makes_no_difference() -> None:
    study = record(3)
    same = {one.seed: one for one in study.runs if one.method == "unbounded"}
    runs = []
    for one in study.runs:
        if one.method == "clipped":
            scores, of_raw = one.scores, same[one.seed].scores
            assert scores is not None
            assert of_raw is not None
            one = replace(one, scores=scores.model_copy(update={"metrics": of_raw.metrics}))
        runs.append(one)
    found = {one.claim: one for one in claims(replace(study, runs=tuple(runs)))}
    clipped = found["clipped tangents are better than raw ones"]
    assert clipped.verdict == NOT_SEEN
    assert "equal scores at xs, where what they differ in was never used" in clipped.measured
    assert found["clipped tangents serve as well as normalised ones (within 10%)"].verdict == NOT_SEEN  # 14 / 10


def test_noise_and_single_trainings_decide_nothing() -> None:
    assert {one.verdict for one in claims(record(1))} == {UNTOLD}
    noisy = {one.claim: one.verdict for one in claims(record(3, 0.3))}
    assert noisy["clipped tangents serve as well as normalised ones (within 10%)"] == UNTOLD


@pytest.mark.parametrize("config", [None, "no yaml: [", "- a list", "spec: 3", "spec: {method: scd}"])
def test_a_run_without_a_readable_recipe_makes_no_claim(config: str | None) -> None:
    runs = [replace(one, config=config) for one in record(2).runs]
    assert claims(Record("s", None, tuple(runs), ("xs",), None, ())) == []


def test_fidelity_and_diversity_of_vsd_are_held_against_scd() -> None:
    """In one step, by the first metric of each kind; three seeds that agree tell, one seed cannot."""
    levels = {"scd": (0.60, 0.50), "vsd": (0.70, 0.30), "scd_vsd": (0.50, 0.5001)}
    want = {
        "VSD is more precise than sCD": SEEN,
        "VSD has lower recall than sCD": SEEN,
        "sCD+VSD is more precise than sCD": NOT_SEEN,
        "sCD+VSD has lower recall than sCD": UNTOLD,
    }
    for seeds, expected in ((3, want), (1, dict.fromkeys(want, UNTOLD))):
        runs = [
            judged_so(run(name, 10, name, {}, seed, 0.01), {"precision-fashion": precision, "recall-fashion": recall})
            for name, (precision, recall) in levels.items()
            for seed in range(seeds)
        ]
        found = {one.claim: one.verdict for one in claims(Record("s", None, tuple(runs), ("xs",), None, ()))}
        assert {claim: verdict for claim, verdict in found.items() if "VSD" in claim} == expected


def judged_so(one: RunRecord, values: dict[str, float]) -> RunRecord:
    """The run judged by further metrics too, with a scatter of its own."""
    assert one.scores is not None
    (head,) = one.scores.metrics
    shift = head.scores[0].value / 10
    further = [
        MetricScores(metric=name, n=100, floor=0.6, scores=(StepScore(steps=1, nfe=1, value=value * shift),))
        for name, value in values.items()
    ]
    return replace(one, scores=one.scores.model_copy(update={"metrics": (head, *further)}))
