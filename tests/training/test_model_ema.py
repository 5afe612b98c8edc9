"""`trigscale model ema` on the snapshots of a run, and what it refuses."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch

from data_pipeline.fashion import load_fashion
from data_pipeline.reader import LatentReader
from models.encoders import get_encoder
from models.trigflow import TrigFlowNet
from scaling.cli.main import app, run_cli
from scaling.config.recipes import TeacherRecipe
from scaling.config.sections import Ema, Launch
from scaling.data.sources import pack_images
from scaling.run.spec import RunFile, RunSpec, dump_run
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.checkpoint import Checkpointer
from scaling.training.ema import Averages
from scaling.training.loop import train
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World
from scaling.weights.ema import reconstruct
from scaling.weights.folder import load_model
from tests.training import small

STORED = (0.05, 0.10)
SPEC = small.SPEC.model_copy(
    update={
        "recipe": TeacherRecipe(steps=48, batch=8, lr=0.01),
        "ema": Ema(sigma_rel=STORED, half_life_images=(100,)),
        "max_nonfinite_steps": 20,
    }
)
ALONE = World(0, 1, torch.device("cpu"))


def write_config(home: Path, spec: RunSpec) -> None:
    """config.yaml of a run."""
    nowhere = Path("nowhere")
    places = {"shards": nowhere, "references": {}, "networks": {}, "teacher_home": None}
    run = RunFile(study="tiny", identity=spec.identity(), spec=spec, launch=Launch(), **places)
    (home / "config.yaml").write_text(dump_run(run))


def wander(home: Path) -> dict[str, torch.Tensor]:
    """48 random steps, two of them skipped, a snapshot every 4 from 0 on, two checkpoints; the average of .07."""
    net = TrigFlowNet(SPEC.network_config())
    generator = torch.Generator().manual_seed(0)
    net.reset_parameters(generator)
    weights = {name: Piece(p.data.flatten(), 0, tuple(p.shape)) for name, p in net.named_parameters()}
    buffers = {f"model/{name}": Piece(b.flatten(), 0, tuple(b.shape)) for name, b in net.named_buffers()}
    model = buffers | {f"model/{name}": piece for name, piece in weights.items()}
    averages = Averages(weights, SPEC.ema, SPEC.recipe.batch)
    tracked = Averages(weights, Ema(sigma_rel=(0.07,)), SPEC.recipe.batch)
    snapshots, checkpoints = (
        Checkpointer(home / name, ALONE, keep=2, keep_steps=steps)
        for name, steps in (("snapshots", 1), ("checkpoints", 0))
    )
    kept = {f"{name}/{key}": piece for name in averages.names for key, piece in averages.pieces(name).items()}
    updates = 0
    for step in range(SPEC.recipe.steps + 1):
        if step not in (0, 4, 19):
            updates += 1
            for piece in weights.values():
                piece.local.add_(torch.randn(len(piece.local), generator=generator), alpha=0.05)
            averages.update(weights, updates)
            tracked.update(weights, updates)
        metadata = {"identity": SPEC.identity(), "step": step, "updates": updates}
        if step % 4 == 0 and step < SPEC.recipe.steps:
            snapshots.save(step, buffers | kept, metadata)
        if step in (24, 48):
            checkpoints.save(step, model | kept, metadata)
    snapshots.close()
    checkpoints.close()
    return {name: piece.local.reshape(piece.shape) for name, piece in tracked.pieces("ema-0.07").items()}


@dataclass(frozen=True)
class Trained:
    """A run's folder, and the average of width .07 that it did not keep."""

    home: Path
    average: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Not to be changed."""
    home = tmp_path_factory.mktemp("run")
    write_config(home, SPEC)
    return Trained(home, wander(home))


def run(*arguments: str | Path | float) -> int:
    """`trigscale model ema ...`; its exit code."""
    return run_cli(lambda: app(["model", "ema", *map(str, arguments)]))


def difference(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative L2 distance over all parameters."""
    flat = [torch.cat([part[name].flatten() for name in expected]) for part in (state, expected)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def test_the_command_writes_the_average(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    to = tmp_path / "model"
    assert run(trained.home, "--sigma-rel", 0.07, "--to", to, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    saved = load_model(to)
    assert (facts["folder"], facts["sha256"]) == (str(to), saved.sha256)
    assert (facts["updates"], facts["snapshots"], facts["first_snapshot"], facts["last_snapshot"]) == (46, 12, 3, 46)
    assert facts["profile_error"] < 0.01
    factors = {(term["updates"], term["sigma_rel"]): term["coefficient"] for term in facts["coefficients"]}
    assert factors.keys() == set(product([3, 7, 11, 15, 18, 22, 26, 30, 34, 38, 42, 46], STORED))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (saved.description.parameterization, saved.release.encoder.name) == ("trigflow", "fashion-s2d-v1")
    state = saved.state()
    assert difference(state, trained.average) < 1e-3
    stored = checkpoint.load(checkpoint.path_of(trained.home / "checkpoints", 48))
    assert difference(stored.part("ema-0.05/"), trained.average) > 3e-3
    assert all(torch.equal(state[n], b) for n, b in stored.part("model/").items() if n.endswith(("freqs", "phases")))


def test_a_stored_average_comes_out_as_it_was(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an earlier time too."""
    assert run(trained.home, "--sigma-rel", 0.1, "--updates", 30, "--to", tmp_path / "model") == 0
    assert "profile_error" in capsys.readouterr().out
    stored = checkpoint.load(checkpoint.path_of(trained.home / "snapshots", 32)).part("ema-0.1/")
    state = load_model(tmp_path / "model").state()
    assert all(torch.equal(state[name], average) for name, average in stored.items())


def test_a_distant_profile_is_made_on_request_only(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two snapshots, too narrow."""
    made = reconstruct(trained.home, SPEC, 0.02, updates=29, max_error=2)
    assert made.error > 0.2
    assert max(term.updates for term in made.terms) == 26
    ask = [trained.home, "--sigma-rel", 0.02, "--updates", 29, "--to", tmp_path / "model"]
    err = refused(capsys, *ask)
    assert f"sigma_rel 0.02 after 29 updates: the nearest profile is {made.error:.1%} away, above 0.05" in err
    assert "choose the last snapshot before, --updates 26, or keep more snapshots" in err
    assert "launch.ema_snapshot_steps" in err
    assert not (tmp_path / "model").exists()
    accepted = err.split()[-1]
    assert run(*ask, "--max-error", accepted) == 0


MISTAKES = {
    "too wide": (["--sigma-rel", "0.28"], "sigma_rel 0.28 is out of range: a power-function profile has 0 < sigma_rel"),
    "nothing": (["--sigma-rel", "0"], "sigma_rel 0.0 is out of range"),
    "too late": (["--sigma-rel", "0.1", "--updates", "47"], "updates: 47 is out of range: the snapshots in "),
    "too early": (["--sigma-rel", "0.1", "--updates", "2"], "are of 3 to 46 updates"),
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What the command says on stderr while it refuses."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error:") == 1
    return err


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    assert message in refused(capsys, trained.home, *arguments, "--to", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_runs_without_usable_snapshots_are_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No run, none trained, another run's, damaged; and a folder that holds something is left alone."""
    home, to = tmp_path / "run", tmp_path / "model"
    arguments = [home, "--sigma-rel", "0.07", "--to", to]
    assert "config.yaml: no such file" in refused(capsys, *arguments)
    home.mkdir()
    write_config(home, SPEC)
    assert "holds no snapshots of the averages: train the run, with launch.ema_snapshot_steps" in refused(
        capsys, *arguments
    )
    shutil.copytree(trained.home / "snapshots", home / "snapshots")
    write_config(home, SPEC.model_copy(update={"seed": 1}))
    assert f"belongs to run {SPEC.identity()}, not to" in refused(capsys, *arguments)
    write_config(home, SPEC)
    (file,) = (home / "snapshots" / "step-00000012").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    message = refused(capsys, *arguments)
    assert "step-00000012" in message
    assert "restore it or delete it" in message
    assert not to.exists()
    assert "exists and is not an empty folder" in refused(capsys, *arguments[:-1], home)


def test_a_run_and_the_same_run_that_kept_another_width(tmp_path: Path) -> None:
    """Trained from images, with snapshots by the loop: what the command makes is what the other run tracked."""
    images, labels = load_fashion("test")
    pack_images(images[:64, ..., None], labels[:64], get_encoder("fashion-s2d-v1"), tmp_path / "shards", "test", 10)
    reader = LatentReader(tmp_path / "shards")
    recipe = TeacherRecipe(steps=24, batch=8, lr=0.02, lr_rampup_images=0)
    launch = Launch(device="cpu", ema_snapshot_steps=2, checkpoint_seconds=1000)
    for name, width in (("kept", STORED), ("other", (0.07,))):
        spec = SPEC.model_copy(update={"recipe": recipe, "ema": Ema(sigma_rel=width)})
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, spec)
        train(spec, tmp_path / name, reader, None, launch, ALONE, lambda: False)
    assert run(tmp_path / "kept", "--sigma-rel", 0.07, "--to", tmp_path / "model") == 0
    last = checkpoint.load(checkpoint.path_of(tmp_path / "other" / "checkpoints", 24))
    tracked, weights = last.part("ema-0.07/"), last.part("model/")
    made = load_model(tmp_path / "model").state()
    assert difference(made, tracked) < 1e-4
    assert difference(weights, tracked) > 5e-3
