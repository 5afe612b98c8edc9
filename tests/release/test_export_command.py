"""`trigscale export` and `trigscale demo` as commands: what they read, write and refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from scaling.cli.main import app, run_cli
from scaling.config.recipes import TeacherRecipe, VsdRecipe
from scaling.weights.folder import describe_network, save_model
from tests.release.students import student

ROOT = Path(__file__).parents[2]


def at_rest(folder: Path, **changes: Any) -> Path:
    """A folder of weights, licence MIT."""
    net, spec = student(levels=1)
    spec = spec.model_copy(update=changes)
    description = describe_network(net.config, spec.data.latent_encoder(), run=spec, licence="MIT")
    return save_model(folder, description, net.state_dict()).folder


def command(*words: str | Path) -> int:
    """`trigscale WORDS`; its exit code."""
    return run_cli(lambda: app([str(word) for word in words]))


def test_a_folder_of_diffusers_by_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = at_rest(tmp_path / "student")
    assert command("export", weights, "--to", tmp_path / "made", "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["folder"] == str(tmp_path / "made")
    assert "Licence of the weights: MIT." in (tmp_path / "made/README.md").read_text()


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        ("file.bin", (), "ends in none of .pt2, .onnx"),
        ("folder", ("--steps", "2"), "--steps: a folder of diffusers takes both"),
        ("file.pt2", ("--vae", "vae"), "--vae: a graph ends with latents"),
        ("there.pt2", (), "there.pt2 exists"),
        ("there", (), "exists and is not an empty folder"),
    ],
)
def test_what_is_refused_before_any_work(
    to: str, options: tuple[str, ...], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.pt2").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    assert command("export", tmp_path / "no-weights", "--to", tmp_path / to, *options) == 2
    assert said in capfd.readouterr().err


def test_teachers_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = at_rest(tmp_path / "teacher", recipe=TeacherRecipe(steps=1, lr=0.01), method="teacher")
    for to in ("made", "made.onnx"):
        assert command("export", weights, "--to", tmp_path / to) == 2
        assert "is a teacher" in capfd.readouterr().err
        assert not (tmp_path / to).exists()


@pytest.mark.parametrize("recipe", [{"segments": 3}, {"flow_map": True}], ids=str)
def test_students_that_lead_elsewhere_stay(
    recipe: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is exported samples by two steps of a consistency model, which these are not."""
    net, spec = student(levels=1, **recipe)
    description = describe_network(net.config, spec.data.latent_encoder(), run=spec)
    weights = save_model(tmp_path / "student", description, net.state_dict()).folder
    for to in ("made", "made.pt2"):
        assert command("export", weights, "--to", tmp_path / to) == 2
        assert "is not sampled as a consistency model" in capfd.readouterr().err
        assert not (tmp_path / to).exists()


def test_a_generator_of_one_step_is_exported_with_that_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = VsdRecipe(steps=1, lr=0.01)
    weights = at_rest(tmp_path / "generator", method="vsd", recipe=recipe)
    for to, options, said in (
        ("made.pt2", ("--steps", "2"), "is a generator of one step: choose 1"),
        ("made", (), "is a generator of one step, and a pipeline of diffusers takes two as well"),
    ):
        assert command("export", weights, "--to", tmp_path / to, *options) == 2
        assert said in capfd.readouterr().err
        assert not (tmp_path / to).exists()


@pytest.mark.nightly
def test_a_demo_serves_until_it_is_stopped(tmp_path: Path) -> None:
    weights = at_rest(tmp_path / "student")
    words = [sys.executable, "-m", "scaling", "demo", str(weights)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"sCT tiny" in page.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
