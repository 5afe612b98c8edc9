"""Weights at rest: what is written is what is read, and a folder that is foreign, damaged or altered is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from data_pipeline.files import sha256_file
from models.edm2 import edm_denoise
from models.encoders import EDM2_SD_VAE, RGB
from models.network import FLAVOURS, NetworkConfig
from models.release import CONFIG, SUMS, WEIGHTS, ModelError, canonical, read_release, sums_text
from models.shape import BUFFERS
from models.trigflow import TrigFlowNet
from scaling.config.families import load_family
from scaling.config.validation import ConfigError
from scaling.weights.edm2 import LICENCE, import_edm2, preset_of
from scaling.weights.folder import SavedModel, Source, describe_network, load_model, save_model
from tests.models.edm2_files import TINY, random_state, write_network

SOURCE = Source(file="x.pkl", sha256="0" * 64, ema_sigma_rel=0.1, images=5, licence="mine")


@pytest.fixture
def saved(tmp_path: Path) -> SavedModel:
    description = describe_network(TINY, EDM2_SD_VAE, source=SOURCE, licence="mine")
    return save_model(tmp_path / "model", description, random_state(TINY))


def change(path: Path, *, listed: bool = True, **keys: Any) -> None:
    """Rewrite config.json with other values; None takes a key away. listed: with its new hash in SHA256SUMS."""
    content = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    if listed:
        (path.parent / SUMS).write_text(sums_text({CONFIG: sha256_file(path)}))


def test_what_is_written_is_read(saved: SavedModel) -> None:
    again = load_model(saved.folder)
    assert again == saved
    assert again.config == TINY
    description = again.description
    assert (description.parameterization, description.source, description.licence) == ("trigflow", SOURCE, "mine")
    assert again.release.encoder == EDM2_SD_VAE
    assert description.parameters == sum(p.numel() for p in TrigFlowNet(TINY).parameters())
    state = again.state()
    assert all(torch.equal(state[name], value) for name, value in random_state(TINY).items())
    assert sorted(path.name for path in saved.folder.iterdir()) == [SUMS, CONFIG, WEIGHTS]
    assert subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=saved.folder, check=False).returncode == 0
    assert (saved.folder / WEIGHTS).stat().st_mode == (saved.folder / CONFIG).stat().st_mode


def test_the_network_is_ready_for_inference(saved: SavedModel) -> None:
    net = saved.network()
    expected = TrigFlowNet(TINY)
    expected.load_state_dict(random_state(TINY))
    x, sigma, labels = torch.ones(1, 4, 8, 8), torch.ones(1), torch.zeros(1, dtype=torch.int64)
    assert torch.equal(edm_denoise(net, x, sigma, labels), edm_denoise(expected, x, sigma, labels))
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_an_occupied_folder_is_left_as_it_is(saved: SavedModel, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.folder.iterdir()}
    with pytest.raises(FileExistsError, match="choose another folder"):
        save_model(saved.folder, describe_network(TINY, RGB), random_state(TINY, 1))
    assert {path.name: path.read_bytes() for path in saved.folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_state_that_is_not_whole_leaves_nothing(tmp_path: Path) -> None:
    state = random_state(TINY)
    del state["unet.out_gain"]
    with pytest.raises(KeyError):
        save_model(tmp_path / "model", describe_network(TINY, RGB), state)
    assert list(tmp_path.iterdir()) == []


DAMAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), ModelError, "config.json: no such file"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ModelError, "model.safetensors: no such file"),
    "config cut": (lambda f: (f / CONFIG).write_text("{"), ModelError, "config.json: cannot be read as JSON"),
    "a key twice": (
        lambda f: (f / CONFIG).write_text((f / CONFIG).read_text().rstrip()[:-1] + ', "licence": "MIT"}'),
        ModelError,
        "config.json: cannot be read as JSON .key 'licence' stands twice",
    ),
    "escapes": (lambda f: change(f / CONFIG, licence="\x1b[2J"), ModelError, r"'.x1b.2J' holds line breaks or control"),
    "a grid of millions": (
        lambda f: change(f / CONFIG, grid={"steps": [1], "images": 10**6, "columns": 1, "noise_seed": 0}),
        ConfigError,
        "grid.images: must be less than or equal to 1000",
    ),
    "config a list": (lambda f: (f / CONFIG).write_text("[]"), ModelError, "config.json: holds list"),
    "not UTF-8": (lambda f: (f / CONFIG).write_bytes(b"\xff"), ModelError, "config.json: cannot be read"),
    "foreign": (lambda f: change(f / CONFIG, format="diffusers"), ModelError, "has format 'diffusers'"),
    "newer": (lambda f: change(f / CONFIG, format="trigscale-model-3"), ModelError, "install a newer one"),
    "not listed": (lambda f: change(f / CONFIG, listed=False, licence="all"), ModelError, "the hash in SHA256SUMS"),
    "no list": (lambda f: (f / SUMS).unlink(), ModelError, "SHA256SUMS: no such file"),
    "no list of hashes": (lambda f: (f / SUMS).write_text("x"), ModelError, "SHA256SUMS: is no list of hashes"),
    "no hash": (lambda f: change(f / CONFIG, files={WEIGHTS: "1"}), ModelError, "not 64 hexadecimal digits"),
    "outside": (lambda f: change(f / CONFIG, files={"../x": "0" * 64}), ModelError, "not 64 hexadecimal digits"),
    "unknown key": (lambda f: change(f / CONFIG, colour=1), ConfigError, "colour: unknown key"),
    "bad value": (lambda f: change(f / CONFIG, parameters=0), ConfigError, "parameters: must be greater than 0"),
    "bad network": (lambda f: change(f / CONFIG, network={"width": 3}), ModelError, "network.width: unknown key"),
    "other sigma": (lambda f: change(f / CONFIG, sigma_data=1.0), ModelError, "sigma_data is 1.0"),
    "other sign": (lambda f: change(f / CONFIG, parameterization="edm"), ModelError, "one was altered"),
    "other encoder": (lambda f: change(f / CONFIG, encoder=RGB.describe()), ModelError, "one was altered"),
    "other type": (lambda f: change(f / CONFIG, dtype="bf16"), ModelError, "is F32 where BF16 belongs"),
    "weights cut": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]),
        ModelError,
        "model.safetensors: is not a whole safetensors file",
    ),
    "foreign weights": (
        lambda f: safetensors.torch.save_file({"x": torch.zeros(1)}, f / WEIGHTS),
        ModelError,
        "model.safetensors: belongs to another config.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_name(saved: SavedModel, damage: str) -> None:
    make, kind, message = DAMAGES[damage]
    make(saved.folder)
    with pytest.raises(kind, match=message) as caught:
        load_model(saved.folder)
    assert str(saved.folder) in str(caught.value)


def test_weights_of_another_shape_are_refused(saved: SavedModel) -> None:
    state = safetensors.torch.load_file(saved.folder / WEIGHTS)
    state["unet.out_gain"] = torch.ones(2)
    with safetensors.safe_open(saved.folder / WEIGHTS, "pt") as file:
        carried = file.metadata()
    safetensors.torch.save_file(state, saved.folder / WEIGHTS, carried)
    with pytest.raises(ModelError, match=r"unet.out_gain has shape \(2,\) where \(1,\) belongs"):
        load_model(saved.folder)


def test_a_flipped_bit_of_the_weights_is_seen_when_they_are_read(saved: SavedModel) -> None:
    path = saved.folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model.safetensors: its content does not match the hash"):
        load_model(saved.folder).state()


def test_weights_that_are_not_finite_are_neither_written_nor_read(saved: SavedModel, tmp_path: Path) -> None:
    """float16 ends at 65504; hashes of a folder that others made say nothing of what its numbers are."""
    state = saved.state()
    name = next(name for name in state if not name.endswith(BUFFERS))
    state[name].view(-1)[0] = 1e5
    for dtype, told in (("fp16", "holds values too large for fp16"), ("bf16", "")):
        description = saved.description.model_copy(update={"dtype": dtype})
        if told:
            with pytest.raises(ModelError, match=f"{name}: {told}: nothing was written"):
                save_model(tmp_path / dtype, description, state)
        else:
            save_model(tmp_path / dtype, description, state)
    assert [path.name for path in tmp_path.iterdir() if path.name in ("fp16", "bf16")] == ["bf16"]
    state[name].view(-1)[0] = torch.nan
    with pytest.raises(ModelError, match=f"{name}: holds NaN or infinity"):
        save_model(tmp_path / "nan", saved.description, state)
    content = bytearray((saved.folder / WEIGHTS).read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()  # the last tensor's last number
    (saved.folder / WEIGHTS).write_bytes(content)
    change(saved.folder / CONFIG, files={WEIGHTS: sha256_file(saved.folder / WEIGHTS)})
    with pytest.raises(ModelError, match=r"model.safetensors: .* holds NaN or infinity: restore"):
        read_release(saved.folder).state()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("network-snapshot-0002147-0.100.pkl", (0.1, 2_147_000)),
        ("edm2-img512-s-2147483-0.130.pkl", (0.13, 2_147_483_000)),
        ("mine.pkl", (None, None)),
    ],
)
def test_an_import_says_where_it_comes_from(tmp_path: Path, name: str, told: tuple[Any, Any]) -> None:
    path = write_network(tmp_path / name, random_state(TINY))
    source = import_edm2(path, tmp_path / "to", "edm").description.source
    assert source is not None
    assert (source.file, source.licence, (source.ema_sigma_rel, source.images)) == (name, LICENCE, told)


def test_the_same_import_again_changes_nothing_and_another_is_refused(tmp_path: Path) -> None:
    path = write_network(tmp_path / "x.pkl", random_state(TINY))
    first = import_edm2(path, tmp_path / "to", "edm")
    written = (first.folder / CONFIG).stat().st_mtime_ns
    assert import_edm2(path, tmp_path / "to", "edm") == first
    assert (first.folder / CONFIG).stat().st_mtime_ns == written
    with pytest.raises(ModelError, match="holds another model already"):
        import_edm2(path, tmp_path / "to", "trigflow")
    other = write_network(tmp_path / "y.pkl", random_state(TINY, 1))
    with pytest.raises(ModelError, match="holds another model already"):
        import_edm2(other, tmp_path / "to", "edm")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="choose another folder"):
        import_edm2(path, tmp_path / "full", "edm")


def test_a_teacher_has_the_same_weights_but_for_the_sign_of_its_output(tmp_path: Path) -> None:
    path = write_network(tmp_path / "x.pkl", random_state(TINY))
    edm, trigflow = (import_edm2(path, tmp_path / kind, kind).state() for kind in ("edm", "trigflow"))
    assert torch.equal(trigflow.pop("unet.out_gain"), -edm.pop("unet.out_gain"))
    assert edm.keys() == trigflow.keys()
    assert all(torch.equal(trigflow[name], value) for name, value in edm.items())


def test_pixels_are_rgb_and_latents_have_edm2s(tmp_path: Path) -> None:
    pixels = NetworkConfig(8, 3, 5, 8, (1, 2), 1, (4,), head_channels=8, **FLAVOURS["edm2"])
    found = [
        import_edm2(
            write_network(tmp_path / f"{n}.pkl", random_state(config), config), tmp_path / str(n), "edm"
        ).release.encoder
        for n, config in enumerate((pixels, TINY))
    ]
    assert found == [RGB, EDM2_SD_VAE]


def test_presets_are_known_by_their_shape() -> None:
    families = [load_family("img512"), load_family("img64")]
    for family in families:
        for size, config in family.sizes.items():
            assert preset_of(replace(config, **FLAVOURS["edm2"]), families) == f"{family.name}/{size}"
    assert preset_of(TINY, families) is None


def as_version_1(saved: SavedModel, **run: Any) -> Path:
    """The folder as the first version of the format wrote it."""
    encoder = saved.release.encoder.name
    content = {"parameterization": "trigflow", "network": TINY.describe(), "encoder": encoder}
    content |= {"parameters": saved.description.parameters, "source": SOURCE.model_dump(mode="json"), **run}
    content = json.loads(json.dumps(content))
    path = saved.folder / WEIGHTS
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"trigscale": canonical(content)})
    (saved.folder / SUMS).unlink()
    whole = {"format": "trigscale-model-1", **content, "sha256": sha256_file(path)}
    (saved.folder / CONFIG).write_text(json.dumps(whole))
    return saved.folder


def test_folders_of_the_first_version_are_read(saved: SavedModel) -> None:
    """With the same hash, which runs that started from them are known by; and as strictly."""
    state = saved.state()
    folder = as_version_1(saved)
    found = load_model(folder)
    assert found.sha256 == sha256_file(folder / WEIGHTS)
    assert (found.config, found.release.encoder, found.description.source) == (TINY, EDM2_SD_VAE, SOURCE)
    assert found.description.licence == "mine"
    assert all(torch.equal(value, state[name]) for name, value in found.state().items())
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, "encoder": "rgb-v1"}))
    with pytest.raises(ModelError, match="one was altered"):
        load_model(folder)
