"""`trigscale release` of a finished run: what a stranger loads, samples and distils from is what the run has."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from models import load_release
from models.encoders import EDM2_SD_VAE
from models.release import ALONE, CONFIG, GRID, SUMS, WEIGHTS
from models.trigflow import TrigFlowNet
from scaling.release.card import card
from scaling.release.words import code
from scaling.run.spec import load_run
from scaling.training.checkpoints import checkpoint
from scaling.training.start import First, averaged_weights
from scaling.weights.edm2 import import_edm2
from scaling.weights.ema import reconstruct
from scaling.weights.folder import describe_network, load_model, save_model
from scaling.weights.trained import load_network
from tests.models.edm2_files import TINY, random_state, write_network

Fixture = Any  # conftest.py says what it is


def inputs(net: TrigFlowNet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    config = net.config
    x = torch.randn(3, config.latent_channels, *[config.resolution] * 2, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.1, 1.1, 1.56]), torch.tensor([0, 3, 9])


def test_a_release_computes_what_its_run_computes(finished: Fixture, released: dict[str, Path]) -> None:
    """Every bit of the average that the study scores, in float32."""
    for method, folder in released.items():
        net = load_release(folder)
        found = checkpoint.load(finished.saved(method)[-1])
        spec = load_run(finished.of(method)).spec
        own = load_network(found, spec, torch.device("cpu"))
        assert torch.equal(net(*inputs(net)), own(*inputs(net)))
        assert not torch.equal(net(*inputs(net)), torch.zeros(3, 4, 8, 8))
        assert load_model(folder).description.run == spec


def test_the_folder_is_listed_and_made_again_byte_for_byte(
    finished: Fixture, released: dict[str, Path], tmp_path: Path, cli: Fixture
) -> None:
    result = cli("release", finished.of("scd"), "--to", tmp_path / "again", "--licence", "CC-BY-4.0", "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["sha256"] == load_model(released["scd"]).sha256
    files = {path.name: path.read_bytes() for path in released["scd"].iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files
    assert {CONFIG, WEIGHTS, SUMS, ALONE} <= files.keys()
    listed = {line.split("  ")[1] for line in files[SUMS].decode().splitlines()}
    assert listed == files.keys() - {SUMS}
    assert subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=released["scd"], check=False).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_other_weights_of_a_run(finished: Fixture, tmp_path: Path, cli: Fixture) -> None:
    """Raw, of half precision, of a width that was not kept."""
    home = finished.of("teacher")
    found = checkpoint.load(finished.saved("teacher")[-1])
    assert cli("release", home, "--to", tmp_path / "raw", "--raw").code == 0
    state = load_model(tmp_path / "raw").state()
    assert all(torch.equal(state[name], value) for name, value in found.part("model/").items())
    assert cli("release", finished.saved("teacher")[-1], "--to", tmp_path / "half", "--dtype", "bf16").code == 0
    half, whole = load_model(tmp_path / "half").state(), averaged_weights(found, 0.1)
    for name, value in whole.items():
        assert torch.equal(half[name], value if name.endswith(("freqs", "phases")) else value.bfloat16().float())
    arguments = ["--sigma-rel", "0.12", "--max-error"]
    result = cli("release", home, "--to", tmp_path / "wide", *arguments, "0.00001")
    assert (result.code, "the nearest profile is" in result.err) == (2, True)
    assert cli("release", home, "--to", tmp_path / "wide", *arguments, "2").code == 0
    made = reconstruct(home, load_run(home).spec, 0.12, 30, 2)
    assert all(torch.equal(value, made.state[name]) for name, value in load_model(tmp_path / "wide").state().items())
    assert "made after training from snapshots" in (tmp_path / "wide" / "README.md").read_text()
    assert "no score is theirs" in (tmp_path / "wide" / "README.md").read_text()
    result = cli("release", home, "--to", tmp_path / "other", "--sigma-rel", "0.2", "--raw")
    assert (result.code, "leave one out" in result.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "raw", "wide"]


def test_large_weights_are_split_and_loaded_together(
    finished: Fixture, released: dict[str, Path], tmp_path: Path
) -> None:
    from scaling.release.make import Options, release

    whole = load_model(released["teacher"])
    saved = release(finished.of("teacher"), tmp_path / "split", Options(licence="CC-BY-4.0", split=100_000))
    names = sorted(path.name for path in saved.folder.glob("*.safetensors"))
    assert names == [f"model-0000{n}-of-0000{len(names)}.safetensors" for n in range(1, len(names) + 1)]
    assert len(names) > 1
    assert max((saved.folder / name).stat().st_size for name in names) < 130_000
    index = json.loads((saved.folder / "model.safetensors.index.json").read_text())
    assert sorted({*index["weight_map"].values()}) == names
    state = saved.state()
    assert index["weight_map"].keys() == state.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in state.values())
    assert all(torch.equal(value, state[name]) for name, value in whole.state().items())
    assert saved.sha256 != whole.sha256


def test_a_release_is_sampled_alone(finished: Fixture, released: dict[str, Path], tmp_path: Path, cli: Fixture) -> None:
    """The samples that the run was judged by."""
    for method, steps in (("teacher", 3), ("scd", 2)):
        to = tmp_path / f"{method}.npz"
        result = cli("sample", released[method], "--to", to, "--seeds", "0-99", "--steps", steps)
        assert (result.code, result.err) == (0, "")
        with np.load(to) as made, np.load(finished.of(method) / "samples" / f"steps-{steps}.npz") as own:
            assert np.array_equal(made["images"], own["images"])


def test_the_card_says_what_a_stranger_needs(finished: Fixture, released: dict[str, Path]) -> None:
    scores = json.loads((finished.of("scd") / "scores.json").read_text())
    card = (released["scd"] / "README.md").read_text()
    for said in (
        "# sCD, size xs, of study tiny",
        "license: cc-by-4.0",
        f"EDM2's U-Net with {load_model(released['scd']).description.parameters:,} parameters",
        "exponential moving average of sigma_rel 0.1 after 18 steps",
        "![Samples that nobody selected](grid.png)",
        "The first 20 seeds, classes in turn, 1 step above 2 steps",
        "FD-fashion: N = 100 samples",
        "These distances are not FID",
        "Data: train, 300 training samples",
        "18 steps of 16 images",
        "device-hours of training (1 device: ",
        "Its teacher before it: ",
        "**xs** (this one)",
        f"SHA-256 {load_model(released['scd']).sha256}",
        *(f"{score['value']:.4g} [" for score in scores["metrics"][0]["scores"]),
    ):
        assert said in card, said
    assert "Not verified" not in card
    kept = json.loads((released["scd"] / "scores.json").read_text())
    assert kept["scores"] == scores
    assert [run["method"] for run in kept["curve"]["runs"]] == ["teacher", "scd", "scd"]
    assert "it draws" not in (released["teacher"] / "README.md").read_text().lower()


@pytest.mark.parametrize("method", ["teacher", "scd"])
def test_the_code_of_the_card_runs(released: dict[str, Path], method: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (released[method] / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace('"DIR"', repr(str(released[method]))), names)  # noqa: S102 - what a reader would paste
    assert (names["images"].shape, names["images"].dtype) == ((10, 16, 16, 1), torch.uint8)
    assert names["images"].float().std() > 1


def test_a_release_verifies_until_something_is_altered(released: dict[str, Path], tmp_path: Path, cli: Fixture) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(released["scd"], folder)
    result = cli("release", "verify", folder)
    assert (result.code, result.err) == (0, "")
    assert "every pixel the same" in result.out
    for name in ("README.md", "scores.json", "grid.png", CONFIG, WEIGHTS):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept[:-2] + bytes([kept[-2] ^ 1]) + kept[-1:])
        result = cli("release", "verify", folder)
        assert (result.code, result.out, str(folder / name) in result.err) == (2, "", True), name
        (folder / name).write_bytes(kept)
    (folder / "more.txt").touch()
    assert "is not listed in SHA256SUMS" in cli("release", "verify", folder).err
    (folder / "more.txt").unlink()
    (folder / "more").symlink_to(tmp_path)
    assert f"{folder / 'more'}: is not listed in SHA256SUMS" in cli("release", "verify", folder).err
    (folder / "more").unlink()
    (folder / "README.md").unlink()
    assert "README.md: no such file" in cli("release", "verify", folder).err
    result = cli("release", "verify", folder / CONFIG)
    assert (result.code, "SHA256SUMS: no such file" in result.err) == (2, True)
    for licence in ("", "a\nb"):
        result = cli("release", folder, "--licence", licence, "--to", tmp_path / "new")
        assert (result.code, "name one in a line, such as CC-BY-4.0" in result.err) == (2, True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / SUMS).touch()
    result = cli("release", "verify", tmp_path / "none")
    assert (result.code, "SHA256SUMS: lists no release" in result.err) == (2, True)


@pytest.mark.parametrize("words", [("release",), ("study", "release")])
def test_nothing_is_written_into_a_release(words: tuple[str, ...], tmp_path: Path, cli: Fixture) -> None:
    """Its list of files would no longer hold, and it would verify no more."""
    for name in (SUMS, "README.md"):
        (tmp_path / name).touch()
    result = cli(*words, tmp_path, "--to", tmp_path / "a" / "b")
    assert (result.code, f"lies inside {tmp_path}, a release that lists its files" in result.err) == (2, True)
    assert not (tmp_path / "a").exists()


def test_a_picture_of_other_weights_is_seen_though_every_hash_is_true(
    released: dict[str, Path], tmp_path: Path, cli: Fixture
) -> None:
    from scaling.weights.folder import write_sums

    folder = tmp_path / "copy"
    shutil.copytree(released["scd"], folder)
    picture = np.asarray(Image.open(folder / GRID))
    Image.fromarray(np.ascontiguousarray(picture[:, ::-1])).save(folder / GRID)
    (folder / SUMS).unlink()
    write_sums(folder)
    result = cli("release", "verify", folder)
    assert result.code == 2
    assert f"{folder / GRID}: " in result.err
    assert "of its pixels differ by more than 1 of 255" in result.err


def test_what_cannot_be_verified_is_said(finished: Fixture, tmp_path: Path, cli: Fixture) -> None:
    """A checkpoint without its run, and a run whose data are gone or others, are released on request alone."""
    alone = tmp_path / "alone" / "checkpoints" / "step-00000018"
    shutil.copytree(finished.saved("scd")[-1], alone)
    moved = finished.copy(tmp_path / "moved")
    config = moved.of("scd") / "config.yaml"
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**content, "shards": str(tmp_path / "gone")}))
    for number, (path, reason) in enumerate(
        [(alone, "configuration: "), (moved.of("scd"), f"data: {tmp_path / 'gone' / 'manifest.json'}")]
    ):
        to = tmp_path / f"to-{number}"
        result = cli("release", path, "--to", to)
        assert (result.code, to.exists()) == (2, False)
        assert "not all of its making can be verified" in result.err
        assert reason in result.err
        result = cli("release", path, "--to", to, "--unverified")
        assert (result.code, result.err) == (0, "")
        card = (to / "README.md").read_text()
        assert "**Not verified.**" in card
        assert str(tmp_path) not in card + (to / CONFIG).read_text()
        found = cli("release", "verify", to)
        assert (found.code, "not verified when it was released: " in found.out) == (0, True)


def test_a_release_of_weights_at_rest(released: dict[str, Path], tmp_path: Path, cli: Fixture) -> None:
    """A release in another type says the same of its making; EDM2's networks stay under their licence."""
    assert cli("release", released["scd"], "--to", tmp_path / "half", "--dtype", "bf16").code == 0
    first, again = (load_model(path).description for path in (released["scd"], tmp_path / "half"))
    assert again == first.model_copy(update={"dtype": "bf16"})
    assert cli("release", "verify", tmp_path / "half").code == 0
    result = cli("release", tmp_path / "half", "--to", tmp_path / "whole")
    assert (result.code, "holds bf16, of which nothing finer can be made" in result.err) == (2, True)
    assert "before the weights were rounded to bf16" in (tmp_path / "half" / "README.md").read_text()
    path = write_network(tmp_path / "network-snapshot-0002147-0.100.pkl", random_state(TINY))
    import_edm2(path, tmp_path / "imported", "trigflow")
    result = cli("release", tmp_path / "imported", "--to", tmp_path / "edm2", "--licence", "MIT")
    assert (result.code, "stays under the licence of its source" in result.err) == (2, True)
    assert cli("release", tmp_path / "imported", "--to", tmp_path / "edm2").code == 0
    card = (tmp_path / "edm2" / "README.md").read_text()
    assert "Imported from network-snapshot-0002147-0.100.pkl" in card
    assert "license: other" in card
    assert "CC BY-NC-SA 4.0" in card
    assert not (tmp_path / "edm2" / GRID).exists()  # no VAE is at hand
    assert "no picture" in cli("release", "verify", tmp_path / "edm2").out


@pytest.mark.parametrize("name", ["config.json", "scores.json", "README.md", SUMS, "grid.png"])
def test_a_disk_that_is_full_at_any_file_leaves_nothing(
    finished: Fixture, tmp_path: Path, cli: Fixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from data_pipeline import files

    fsync = os.fsync

    def full(descriptor: int) -> None:
        if name in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    result = cli("release", finished.of("scd"), "--to", tmp_path / "to")
    assert (result.code, result.out) == (2, "")
    assert f"{tmp_path / 'to' / name}: No space left on device" in result.err
    assert list(tmp_path.iterdir()) == []


def test_weights_that_find_no_room_leave_nothing(finished: Fixture, tmp_path: Path, cli: Fixture) -> None:
    """Where files may not be so long, as on a full disk; it is safetensors that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        result = cli("release", finished.of("scd"), "--to", tmp_path / "to")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (result.code, result.out) == (2, "")
    assert f"{tmp_path / 'to' / WEIGHTS}: the weights cannot be written: " in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_release_is_judged_alone(finished: Fixture, released: dict[str, Path], cli: Fixture) -> None:
    """With the value of its run."""
    (reference,) = finished.study.glob("reference-*.npz")
    arguments = ["--reference", reference, "--seeds", "0-99", "--steps", "2", "--json"]
    result = cli("evaluate", released["scd"], *arguments)
    assert (result.code, result.err) == (0, "")
    (found,) = json.loads(result.out)["metrics"]
    scores = json.loads((finished.of("scd") / "scores.json").read_text())["metrics"][0]["scores"]
    own = next(score for score in scores if score["steps"] == 2)
    assert found["value"] == own["value"]
    assert found["interval"][0] < own["value"] < found["interval"][1]


def test_the_code_for_students_with_guidance_and_for_latents_runs(finished: Fixture, tmp_path: Path) -> None:
    """The input is passed on, at the strength that one step is sampled with; latents are as far as it goes."""
    own = load_run(finished.of("scd")).spec
    recipe = own.recipe.model_copy(update={"guidance": (1.0, 2.0)})
    sampling = own.sampling.model_copy(update={"student_guidance": {1: 1.5, 2: 1.2}})
    config = replace(own.network_config(), guidance=True)
    changes = {"recipe": recipe, "sampling": sampling, "network": config.describe()}
    description = describe_network(config, EDM2_SD_VAE, run=own.model_copy(update=changes))
    saved = save_model(tmp_path / "w", description, First(config, 0).whole().state_dict())
    told = code(saved.description)
    assert "guidance = torch.full((10,), 1.5)" in told
    names: dict[str, Any] = {}
    exec(told.replace('"DIR"', repr(str(saved.folder))), names)  # noqa: S102 - what a reader would paste
    assert names["latents"].shape == (10, 4, 8, 8)
    assert "images" not in names
    text = card(saved.description, None, None, saved.sha256, "Nothing was judged.")
    assert "saw those from 1 to 2" in text
    assert "a VAE decodes z" in text
