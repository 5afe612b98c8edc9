"""Closed forms of a run's work, and the published figures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.plan_published import EXACT_MACS, GMACS, MI_IMAGES, PARAMETERS, SCM_GMACS, rows, shares
from models.encoders import get_encoder
from models.family import count_macs, count_parameters
from scaling.config.recipes import Method
from scaling.plan.costs import CORE_FLOPS, cost, seconds_estimate, step_forwards
from scaling.plan.meta.shapes import ShapesOnly

Fixture = Any  # conftest.py says what it is


def test_shapes_are_those_of_the_meta_device() -> None:
    x, y = torch.empty(3, 1, 4, device="meta"), torch.empty(5, 1, device="meta", dtype=torch.float64)

    def results() -> list[torch.Tensor]:
        means = [x.mean(), x.mean(1), x.mean((0, -1)), x.mean((0, -1), keepdim=True)]
        return [x + y, y * x, x.exp(), torch.where(x > 0, x, y), torch.lerp(x, x, 0.5), x @ x.mT, *means]

    expected = [result.shape for result in results()]
    with ShapesOnly():
        assert [result.shape for result in results()] == expected
        assert x.clone().mul_(2).shape == x.shape
        assert (torch.ones(2) + 1).tolist() == [2, 2]  # off the meta device nothing changes


def test_forwards_of_a_step() -> None:
    """By hand: a tangent counts one forward pass, a backward pass two."""
    assert step_forwards("teacher", guided=False, checkpointing=False) == 1 + 2
    assert step_forwards("sct", guided=False, checkpointing=False) == 1 + 1 + 2
    assert step_forwards("scd", guided=False, checkpointing=False) == 1 + (1 + 1 + 2)
    assert step_forwards("scd", guided=True, checkpointing=False) == 2 + (1 + 1 + 2)
    # VSD: a sample and its backward pass, the guided teacher, the fake score, the fake score's own update.
    assert step_forwards("vsd", guided=True, checkpointing=False) == (1 + 2) + 2 + 1 + 3
    assert step_forwards("scd_vsd", guided=True, checkpointing=False) == 6 + (1 + 2) + 2 + 1 + 3
    backward: dict[Method, int] = {"teacher": 1, "sct": 1, "scd": 1, "vsd": 2, "scd_vsd": 3}
    for method, backward_passes in backward.items():
        more = [step_forwards(method, guided=False, checkpointing=flag) for flag in (False, True)]
        assert more[1] - more[0] == backward_passes


def test_work_of_a_run(make_study: Fixture) -> None:
    """By hand, for every method."""
    _, runs = make_study()
    forwards = {"teacher": 3, "scd": 6, "sct": 4, "vsd": 9, "scd_vsd": 15}
    for run in runs:
        spec, work = run.spec, cost(run.spec)
        macs = count_macs(spec.network_config())
        steps = 30 if spec.method == "teacher" else 20
        nfe = {3: 2 * (2 * 3 - 1)} if spec.method == "teacher" else {1: 1} if spec.method == "vsd" else {1: 1, 2: 2}
        assert (work.parameters, work.forward_macs) == (count_parameters(spec.network_config()), macs)
        assert (work.steps, work.images) == (steps, steps * 24)
        assert work.train_flops == 2 * macs * forwards[spec.method] * steps * 24
        assert work.nfe == nfe
        assert work.sample_macs == {n: evaluations * macs for n, evaluations in nfe.items()}
        assert work.sampling_flops == 2 * macs * sum(nfe.values()) * 100 * 3
        assert work.decoding_flops == 0
        assert work.flops == work.train_flops + work.evaluation_flops
        assert seconds_estimate(spec) == work.flops / CORE_FLOPS
        more = cost(spec, checkpointing=True)
        assert (more.step_forwards > work.step_forwards, more.sampling_flops) == (True, work.sampling_flops)


def test_a_vae_decodes_every_judged_image(make_study: Fixture) -> None:
    data = {"source": "shards", "held_out": "held-out", "encoder": "sd-vae-ft-mse-v1"}
    _, runs = make_study(data=data)
    decoder = get_encoder("sd-vae-ft-mse-v1").decoder_macs
    assert decoder == pytest.approx(1260.9e9)
    for run in runs:
        work, samplers = cost(run.spec), 1 if run.spec.method in ("teacher", "vsd") else 2
        assert work.decoding_flops == 2 * decoder * 100 * 3 * samplers
        assert all(macs == work.nfe[steps] * work.forward_macs + decoder for steps, macs in work.sample_macs.items())


def test_published_figures() -> None:
    """EDM2's and the paper's: parameters to the last one, MACs to the last printed digit, compute within 2 %."""
    found = list(rows())
    assert len(found) == len(PARAMETERS) + len(GMACS) + len(SCM_GMACS) + 2 * len(MI_IMAGES) == 29
    for row in found:
        if row.table == "parameters":
            assert row.ours == row.published
        elif row.table == EXACT_MACS:
            assert round(row.ours, 1) == row.published
        else:
            assert abs(row.deviation) < 0.02, row


def test_shares_of_the_teachers_compute() -> None:
    """By hand, for S: 200k steps of 6 forwards and 100k of 4 and 20k of 15, to 1048k of 3."""
    found = {share.size: share for share in shares()}
    assert list(found) == ["s", "m", "l", "xl", "xxl"]
    assert found["s"].scd_iteration == pytest.approx(2, rel=1e-5)  # the paper: about twice
    assert found["s"].scd_training == pytest.approx(200 * 6 / (1048 * 3), rel=1e-5)
    assert found["s"].sct_training == pytest.approx(100 * 4 / (1048 * 3), rel=1e-5)
    assert found["s"].vsd_training == pytest.approx(20 * 15 / (1048 * 3), rel=1e-5)
    assert found["xxl"].scd_training == pytest.approx(200 * 6 / (376 * 3), rel=1e-5)
