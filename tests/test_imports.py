"""Which package may import which, and what little must be installed: torch for networks, six packages more for a run.

In each subprocess only what is on its list can be found, as on a machine where nothing else is installed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_pipeline.fashion import load_fashion
from models.encoders import get_encoder
from scaling.config.families import load_family
from scaling.config.study import StudyConfig
from scaling.config.validation import validate
from scaling.data.reference import write_references
from scaling.data.sources import pack_images, prepare
from scaling.run.home import StudyFolder
from scaling.study.expand import expand
from scaling.study.launch import write_homes
from scaling.study.open import Study

ROOT = Path(__file__).parents[1]
# What each package may import of ours; scaling may import all, and none may import scaling.
BELOW: dict[str, set[str]] = {
    "kernels": set(),
    "data_pipeline": set(),
    "slurm": set(),
    "models": {"kernels", "data_pipeline"},
}
PACKAGES = (*BELOW, "scaling")
# The rooms of scaling, top to bottom: each may import those below it, and any of them what lies beside them.
ROOMS = (
    *("cli", "study", "demo", "release", "report", "work", "plan", "data", "evaluation", "weights"),
    *("training", "sampling", "methods", "analysis", "run", "config"),
)
BESIDE = ("errors", "tables")  # these import no room
# What may be imported, with what it imports itself. jinja2 comes with torch, but it is the report that uses it.
TORCH = ("torch", "torchgen", "functorch", "triton", "sympy", "mpmath", "typing_extensions")
RUN = (*TORCH, "numpy", "safetensors", "yaml", "webdataset", "braceexpand", "xxhash")
RUN += ("pydantic", "pydantic_core", "annotated_types", "typing_inspection")

HOOK = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        standard = name in sys.stdlib_module_names or name.startswith("_sysconfigdata")
        if path is None and not standard and name not in ALLOWED:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Installed]
"""
NETWORK = """
import sys
from importlib import import_module
from pkgutil import walk_packages

import kernels, models
for package in (kernels, models):
    for module in walk_packages(package.__path__, package.__name__ + "."):
        import_module(module.name)

import torch
from models.dual import Dual
from models.family import count_macs
from models.trigflow import TrigFlowNet
from models.unet import NetworkConfig

net = TrigFlowNet(NetworkConfig(8, 4, 10, 8, (1, 2), 1, (4,), head_channels=8))
net.reset_parameters(torch.Generator().manual_seed(0))
x, t = torch.ones(2, 4, 8, 8), torch.ones(2)
f, weight = net(Dual(x, x), Dual(t, t), torch.zeros(2, dtype=torch.int64), with_weight=True)
(f.value.sum() + weight.sum()).backward()
q = torch.ones(1, 1, 70, 4, requires_grad=True)  # more keys than plain formulas are taken for
kernels.attention(q, q, q).sum().backward()
assert "torch._dynamo" not in sys.modules, "a second, in every process that trains or samples"
assert f.tangent.isfinite().all() and count_macs(net.config) > 0
"""
STAGES = """
from pathlib import Path

import scaling.data.sources
from scaling.work.stopping import StopRequest
from scaling.work.stages import run

for home in sys.argv[1:]:
    run(Path(home), StopRequest())
"""


def imported(path: Path) -> set[str]:
    """The top-level names of all imports in a file, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", BELOW)
def test_imports_point_downward(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    above = set(PACKAGES) - BELOW[package] - {package}
    assert {str(path): found for path in files if (found := imported(path) & above)} == {}


def rooms_of(path: Path) -> set[str]:
    """The names below `scaling` of all imports in a file, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "scaling":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("scaling.")}
    return names


def test_every_room_is_in_the_order() -> None:
    found = {path.name for path in (ROOT / "scaling").iterdir() if list(path.glob("*.py"))}
    assert found == set(ROOMS)
    assert {path.stem for path in (ROOT / "scaling").glob("[a-z]*.py")} == set(BESIDE)


@pytest.mark.parametrize("room", [*ROOMS, *BESIDE])
def test_rooms_import_downward(room: str) -> None:
    files = sorted((ROOT / "scaling" / room).rglob("*.py")) or [ROOT / "scaling" / f"{room}.py"]
    allowed = {room, *BESIDE, *ROOMS[ROOMS.index(room) + 1 :]} if room in ROOMS else {room}
    assert {str(path): above for path in files if (above := rooms_of(path) - allowed)} == {}


def python(allowed: tuple[str, ...], script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Run a script straight from the checkout where, beyond the standard library, only `allowed` can be imported."""
    script = f"ALLOWED = {(*PACKAGES, *allowed)}\n{HOOK}{script}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_networks_need_torch_alone() -> None:
    result = python(TORCH, NETWORK)
    assert result.returncode == 0, result.stderr


LOADED = """
from models import load_release, read_release
import torch

net, encoder = load_release(sys.argv[1]), read_release(sys.argv[1]).encoder
f = net(torch.ones(2, 4, 8, 8), torch.ones(2), torch.zeros(2, dtype=torch.int64))
assert encoder.decode(encoder.denormalize(f)).shape == (2, 16, 16, 1)
assert not {"scaling", "pydantic", "yaml"} & sys.modules.keys()
"""


def test_a_release_needs_safetensors_and_numpy_beside_torch(tmp_path: Path) -> None:
    from models.encoders import FASHION_S2D
    from scaling.training.start import First
    from scaling.weights.folder import describe_network, save_model

    net = First(load_family("nano").size("xs"), 0).whole()
    save_model(tmp_path / "w", describe_network(net.config, FASHION_S2D), net.state_dict())
    result = python((*TORCH, "numpy", "safetensors"), LOADED, tmp_path / "w")
    assert result.returncode == 0, result.stderr


def prepare_homes(folder: Path) -> list[Path]:
    """The homes of a teacher and its student of three steps each, on 100 real images."""
    images, labels = load_fashion("test")
    for name, part in (("train", slice(0, 100)), ("held-out", slice(100, 400))):
        pack_images(images[part, ..., None], labels[part], get_encoder("fashion-s2d-v1"), folder / name, name, 10)
    recipe = {"steps": 3, "batch": 4, "lr": 0.01, "lr_decay_steps": 1, "lr_rampup_images": 1}
    content = {
        "name": "tiny",
        "family": "nano",
        "sizes": ["xs"],
        "methods": ["teacher", "scd"],
        "data": {"source": str(folder / "train"), "held_out": str(folder / "held-out")},
        "teacher": recipe,
        "scd": recipe,
        "sampling": {"teacher_steps": 2},
        "evaluation": {"samples": 100, "resamples": 20},
        "launch": {"folder": str(folder / "runs"), "device": "cpu"},
    }
    study = Study(validate(StudyConfig, content, "tiny"), load_family("nano"))
    study.folder.mkdir(parents=True)
    prepared = prepare(study.config.data, folder / "runs")
    runs = expand(study.config, study.family, prepared.data)
    home, cpu = StudyFolder(study.folder), torch.device("cpu")
    write_homes(study, runs, prepared, write_references(prepared, study.config.evaluation, home, cpu))
    return [study.folder / run.name for run in runs]


def test_a_run_needs_few_packages(tmp_path: Path) -> None:
    """All stages get by without scipy, rich, typer, matplotlib, pillow and jinja2; so do the modules that pack data."""
    homes = prepare_homes(tmp_path)
    result = python(RUN, STAGES, *homes)
    assert result.returncode == 0, result.stderr
    assert all((home / "scores.json").exists() for home in homes)
