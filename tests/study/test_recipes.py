"""The study files of ImageNet against the paper's recipe, typed from its tables (sCM, appendix) and not from the files.

Tuples go S, M, L, XL, XXL (ImageNet-64 ends at XL); a single value holds for every size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.encoders import get_encoder
from scaling.config.study import StudyConfig
from scaling.run.spec import PlannedRun, RunData
from scaling.study.expand import expand
from scaling.study.open import open_study

ROOT = Path(__file__).parents[2]
Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib
SIZES = ("s", "m", "l", "xl", "xxl")
STUDENT = {
    "batch": 2048,
    "lr_rampup_images": 10e6,
    "dropout_max_resolution": 16,
    "start": "teacher",
    "warmup_steps": 10_000,
    "tangent": "normalize",
    "tangent_constant": 0.1,
}
LR_64, LR_512 = (1e-2, 9e-3, 8e-3, 7e-3), (1e-2, 9e-3, 8e-3, 7e-3, 6.5e-3)
STUDENT_64 = {**STUDENT, "steps": 400_000, "lr": (1e-4, 9e-5, 8e-5, 7e-5), "lr_decay_steps": 35_000}
STUDENT_64 |= {"p_mean": -1.0, "p_std": 1.6, "teacher_ema": (0.075, 0.06, 0.04, 0.04), "guidance": None}
STUDENT_512 = {**STUDENT, "lr": (1e-4, 9e-5, 8e-5, 7e-5, 6.5e-5), "lr_decay_steps": 70_000}
STUDENT_512 |= {"p_mean": -0.8, "p_std": 1.6, "teacher_ema": (0.025, 0.03, 0.015, 0.02, 0.015)}
SCD_512 = {**STUDENT_512, "steps": 200_000, "dropout": (0, 0.1, 0.1, 0.1, 0.1), "guidance": (1, 2)}
VSD_512 = {k: v for k, v in SCD_512.items() if k != "start"}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "imagenet64": {
        "teacher": {
            "steps": (1_048_000, 1_486_000, 761_000, 540_000),
            "batch": 2048,
            "lr": LR_64,
            "lr_decay_steps": 35_000,
            "lr_rampup_images": 10e6,
            "p_mean": -0.8,
            "p_std": 1.6,
            "dropout": (0, 0.1, 0.1, 0.1),
            "dropout_max_resolution": None,
            "label_dropout": 0,
        },
        "sct": {**STUDENT_64, "dropout": 0.45},
        "scd": {**STUDENT_64, "dropout": 0},
    },
    "imagenet512": {
        "teacher": {
            "steps": (1_048_000, 1_048_000, 696_000, 598_000, 376_000),
            "batch": 2048,
            "lr": LR_512,
            "lr_decay_steps": 70_000,
            "lr_rampup_images": 10e6,
            "p_mean": -0.4,
            "p_std": 1.0,
            "dropout": (0, 0.1, 0.1, 0.1, 0.1),
            "dropout_max_resolution": None,
            "label_dropout": 0.1,
        },
        "sct": {**STUDENT_512, "steps": 100_000, "dropout": (0.25, 0.35, 0.35, 0.35, 0.35), "guidance": None},
        "scd": SCD_512,
        "scd_vsd": {**VSD_512, "steps": 20_000, "vsd_p_mean": 0.4, "vsd_p_std": 2.0, "vsd_weight": 1.0},
    },
}
SAMPLING: dict[str, dict[str, Any]] = {
    "imagenet64": {"teacher_guidance": 1.0, "teacher_ema": (0.075, 0.06, 0.04, 0.04)},
    "imagenet512": {
        "teacher_guidance": (1.4, 1.2, 1.2, 1.2, 1.2),
        "teacher_ema": (0.025, 0.03, 0.015, 0.02, 0.015),
    },
}
# Guidance that students are sampled with, in one step and in two.
ONE_STEP, TWO_STEPS = (1.5, 1.3, 1.3, 1.3, 1.3), (1.4, 1.2, 1.2, 1.2, 1.2)
OPEN = {"tangent_norm"}  # the paper does not settle it


def study(name: str) -> tuple[StudyConfig, list[PlannedRun]]:
    opened = open_study(ROOT / "configs" / "study" / f"{name}.yaml")
    data = RunData(content_sha256="", held_out_sha256="", encoder=opened.config.data.encoder)
    return opened.config, expand(opened.config, opened.family, data)


def at(value: Any, size: str, key: str) -> Any:
    """The value of one size."""
    return value[SIZES.index(size)] if isinstance(value, tuple) and key != "guidance" else value


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_papers(name: str) -> None:
    config, runs = study(name)
    assert config.sizes == SIZES[: len(config.sizes)]
    assert [(run.spec.size, run.spec.method) for run in runs] == [(s, m) for s in config.sizes for m in RECIPES[name]]
    for run in runs:
        recipe, size = run.spec.recipe.model_dump(), run.spec.size
        want = {key: at(value, size, key) for key, value in RECIPES[name][run.spec.method].items()}
        assert {key: value for key, value in recipe.items() if key not in OPEN} == want, run.name
        for key, value in SAMPLING[name].items():
            assert getattr(run.spec.sampling, key) == at(value, size, key), (run.name, key)
        assert run.spec.sampling.student_ema == 0.05
        assert set(run.spec.ema.sigma_rel) == {run.spec.sampling.teacher_ema, 0.05}
        assert run.spec.network["guidance"] == (run.spec.method in ("scd", "scd_vsd") and name == "imagenet512")


def test_students_are_sampled_with_the_papers_guidance() -> None:
    config, _ = study("imagenet512")
    strengths = [config.sampling_of(size).student_guidance for size in SIZES]
    assert strengths == [{1: one, 2: two} for one, two in zip(ONE_STEP, TWO_STEPS, strict=True)]
    assert study("imagenet64")[0].sampling.student_guidance == {}


@pytest.mark.parametrize(
    ("name", "encoder", "count"), [("imagenet512", "sd-vae-ft-mse-v1", 20), ("imagenet64", "rgb-v1", 12)]
)
def test_what_the_studies_share(name: str, encoder: str, count: int) -> None:
    config, runs = study(name)
    assert (config.data.encoder, config.precision, len(runs)) == (encoder, "fp16", count)
    assert len({run.name for run in runs}) == count
    assert (config.sampling.teacher_steps, config.sampling.student_steps) == (32, (1, 2))
    assert config.sampling.intermediate_t == 1.1
    assert (config.evaluation.metric, config.evaluation.samples, config.evaluation.repeats) == ("fid", 50_000, 3)
    network = runs[0].spec.network_config()
    assert network.latent_channels == len(get_encoder(encoder).mean)
    parents = {run.name: run.parent.method if run.parent else None for run in runs}
    found = {(run.spec.method, parents[run.name]) for run in runs}
    want = {("teacher", None), ("scd", "teacher"), ("sct", "teacher"), ("scd_vsd", "scd")}
    assert found == {pair for pair in want if pair[0] in config.methods}
    assert config.launch.accelerator == "h100-80gb"


REASONS = {
    "imagenet512": ["data.vae", "evaluation.metric"],
    "imagenet64": ["evaluation.metric"],
}


@pytest.mark.parametrize("name", REASONS)
def test_they_are_refused_with_every_reason(tmp_path: Path, cli: Fixture, name: str) -> None:
    path = ROOT / "configs" / "study" / f"{name}.yaml"
    result = cli("study", "run", path, f"launch.folder={tmp_path / 'runs'}")
    assert (result.code, result.out) == (2, "")
    lines = result.err.strip().splitlines()
    assert lines[0] == f"error: study {name!r} can be planned, but this version cannot run it:"
    keys = [line.strip().partition(":")[0] for line in lines[1:]]
    assert keys == REASONS[name]
    assert list(tmp_path.iterdir()) == []
