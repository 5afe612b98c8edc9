"""What a user reads and copies: tables that fit any terminal, messages that say what to do, JSON of all that prints."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from data_pipeline.arrays import load_arrays
from data_pipeline.reader import LatentReader
from models.encoders import RGB
from scaling.cli.main import app
from scaling.config.families import CONFIGS, load_family
from scaling.config.study import StudyConfig, find_study
from scaling.config.validation import describe
from scaling.run.spec import dump_run, load_run
from scaling.study import machine
from scaling.training.loop import train
from scaling.training.sharding.world import World
from scaling.training.start import First
from scaling.weights.folder import describe_network, save_model

ROOT = Path(__file__).parents[2]
NANO = load_family("nano").size("xs")
Fixture = Any  # conftest.py says what it is


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_that_is_copied_is_cut_or_broken(cli: Fixture, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """On a terminal of any width: every key of a study stands in one piece, and every number of a plan."""
    study = ROOT / "configs" / "study" / "fashion-ci.yaml"
    piped = cli("study", "plan", study).out
    cells = {cell for line in piped.splitlines() for cell in line.split("  ") if any(map(str.isdigit, cell))}
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = [line.strip() for line in cli("study", "keys").out.splitlines()]
    assert {key for key, *_ in describe(StudyConfig)} <= {line.split("  ")[0] for line in lines}
    plan = cli("study", "plan", study).out
    assert [cell for cell in cells if cell.strip() not in plan] == []


def test_colours_are_not_printed_as_words(cli: Fixture, homes: Fixture) -> None:
    path = homes.study.parents[1] / "study.yaml"
    out = cli("study", "status", path).out
    assert "waiting" in out
    assert "[" not in out


def test_version_and_schema(cli: Fixture) -> None:
    assert cli("--version").out == f"trigscale {version('trigscale')}\n"
    assert "--install-completion" in cli("--help").out
    schema = json.loads(cli("study", "schema").out)
    keys = {key for key, *_ in describe(StudyConfig)}

    def has(part: dict[str, Any], key: str) -> bool:
        head, _, rest = key.partition(".")
        options = [part["properties"].get(head, {})]
        options += options[0].get("anyOf", [])
        inner = [schema["$defs"][one["$ref"].rpartition("/")[2]] for one in options if "$ref" in one]
        return head in part["properties"] and (not rest or any(has(one, rest) for one in inner))

    assert [key for key in keys if not has(schema, key)] == []
    assert not has(schema, "teacher.lrr")
    assert schema["additionalProperties"] is False


def test_doctor_says_what_each_optional_part_is_for(cli: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.OPTIONAL, "absent-package", ("nothing", "deepspeed"))
    monkeypatch.setattr(machine, "commit", lambda: None)
    facts = json.loads(cli("doctor", "--json").out)
    assert facts["trigscale"] == version("trigscale")
    assert facts["optional"]["tensorboard"]["found"] == version("tensorboard")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, part in facts["optional"].items():
        assert part["install"].removeprefix("pip install 'trigscale[").removesuffix("]'") in extras, name
    assert "absent-package: pip install 'trigscale[deepspeed]' (nothing)" in cli("doctor").out


def test_shipped_studies_go_by_name(cli: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder, as after `pip install`; a file there of that name comes first."""
    monkeypatch.chdir(tmp_path)
    for path in (CONFIGS / "study").glob("*.yaml"):
        assert find_study(Path(path.stem)) == path
    assert CONFIGS.parent == Path(machine.__file__).parents[2]  # beside the packages: in the wheel too
    result = cli("study", "plan", "configs/study/fashion.yaml")
    assert result.code == 2
    assert "no such file; of the shipped studies, which go by name, did you mean 'fashion'?" in result.err
    Path("fashion").write_text("name: mine")
    assert find_study(Path("fashion")) == Path("fashion")


def test_every_command_speaks_json() -> None:
    groups = getattr(typer.main.get_command(app), "commands", {})
    commands = {
        f"{n} {m}": c for n, group in groups.items() for m, c in getattr(group, "commands", {"": group}).items()
    }
    silent = {name.strip() for name, found in commands.items() if not any(p.name == "as_json" for p in found.params)}
    assert silent == {"study schema"}  # which is JSON


def test_data_commands_speak_json(cli: Fixture, shards: dict[str, str], tmp_path: Path) -> None:
    manifest = json.loads((Path(shards["source"]) / "manifest.json").read_text())
    for command in ("info", "verify"):
        found = json.loads(cli("data", command, shards["source"], "--json").out)
        assert found["folder"] == shards["source"]
        assert found.items() >= manifest.items()


def test_whatever_holds_weights_is_sampled(cli: Fixture, tmp_path: Path, homes: Fixture) -> None:
    """A run's folder, its checkpoints, `newest`, one checkpoint: the same images, as evaluate reads them."""
    home = homes.of("teacher")
    run = load_run(home)
    spec = run.spec.model_copy(update={"recipe": run.spec.recipe.model_copy(update={"steps": 2})})
    launch = run.launch.model_copy(update={"ema_snapshot_steps": 1})
    train(spec, home, LatentReader(run.shards), None, launch, World(0, 1, torch.device("cpu")), lambda: False)
    (home / "config.yaml").write_text(dump_run(run.model_copy(update={"spec": spec, "identity": spec.identity()})))
    pictures = []
    for number, path in enumerate(("", "checkpoints", "checkpoints/newest", "checkpoints/step-00000002")):
        to = tmp_path / "made" / str(number) / "g.npz"
        result = cli("sample", home / path, "--to", to, "--seeds", "0-2", "--steps", 2, "--json")
        assert result.code == 0, result
        said = {"file": str(to), "run": spec.name(), "samples": 3, "made": 3, "steps": 2, "nfe": 3, "guidance": 1.0}
        assert json.loads(result.out).items() >= said.items()
        pictures.append(load_arrays(to, "images")[0])
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])
    averaged = tmp_path / "averaged"
    assert cli("model", "ema", home, "--sigma-rel", 0.1, "--to", averaged).code == 0
    assert cli("sample", averaged, "--to", tmp_path / "g.npz", "--seeds", "0-2", "--steps", 2).code == 0
    assert np.array_equal(load_arrays(tmp_path / "g.npz", "images")[0], pictures[0])
    assert cli("sample", averaged, "--to", tmp_path / "g.png", "--seeds", "0-2", "--steps", 2).code == 0
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_sampled_is_refused_with_a_remedy(cli: Fixture, tmp_path: Path) -> None:
    state = First(NANO, 0).whole().state_dict()
    saved = save_model(tmp_path / "imported", describe_network(NANO, RGB, parameterization="edm"), state)
    for path, to, said in (
        (saved.folder, "g.jpg", "g.jpg: name it FILE.png for one picture, FILE.npz or FILE.zip"),
        (saved.folder, "g.png", "import it again with --as trigflow-teacher"),
        (tmp_path, "g.png", "holds no weights: name the folder of a run that has trained"),
        (tmp_path / "absent", "g.png", "holds no weights"),
    ):
        result = cli("sample", path, "--to", tmp_path / to)
        assert (result.code, result.out) == (2, "")
        assert said in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imported"]
