"""Inception and how images reach it: the resize modes against PIL and torch, files that are not its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from scaling.evaluation.spaces import inception as module
from scaling.evaluation.spaces.inception import InceptionSpace, find_inception
from scaling.evaluation.spaces.inception_network import FEATURES, InceptionV3, random_network
from scaling.evaluation.spaces.resize import resize, weights
from scaling.evaluation.spaces.space import SpaceError

IMAGES = np.random.default_rng(0).integers(256, size=(2, 40, 52, 3), dtype=np.uint8)


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(("height", "width"), [(90, 75), (17, 23), (40, 52)])
def test_clean_is_pils_bicubic_on_floats(height: int, width: int) -> None:
    """As clean-fid resizes, up and down."""
    made = resize(tensor(IMAGES), height, width, "clean")
    for i, image in enumerate(IMAGES):
        for channel in range(3):
            plane = Image.fromarray(image[..., channel].astype(np.float32), mode="F")
            wanted = np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 255)
            np.testing.assert_allclose(made[i, channel].numpy(), wanted, atol=2e-4)


def test_legacy_torch_is_torchs_bilinear() -> None:
    wanted = F.interpolate(tensor(IMAGES), (90, 17), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(tensor(IMAGES), 90, 17, "legacy-torch"), wanted, atol=2e-3, rtol=0)


def test_legacy_tf_is_that_of_tensorflow_1() -> None:
    """Output i lies at i H / h: the first pixel stays, the last is met early, nothing is shifted by half a pixel."""
    matrix = weights(4, 8, "legacy-tf")
    np.testing.assert_allclose(matrix @ np.array([0.0, 1, 2, 3]), [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])


@pytest.mark.parametrize("mode", ["clean", "legacy-tf", "legacy-torch"])
def test_constant_images_stay_constant(mode: str) -> None:
    made = resize(torch.full((1, 1, 30, 20), 77.0), 50, 9, mode)  # type: ignore[arg-type] # pyright: ignore
    torch.testing.assert_close(made, torch.full((1, 1, 50, 9), 77.0))


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    return random_network(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, network: InceptionV3) -> Path:
    """A file in the layout of pytorch-fid's weights, random."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


def test_features_of_a_file_of_weights(file: Path, network: InceptionV3) -> None:
    """Folded normalisations and channels-last change nothing but rounding; grey is three equal channels."""
    space = InceptionSpace(file, "clean", "cpu")
    out = space.outputs(IMAGES[:1])
    assert out.features.shape == (1, FEATURES)
    assert out.probabilities is not None
    assert out.probabilities.sum() == pytest.approx(1, rel=1e-5)
    x = resize(tensor(IMAGES[:1]), 299, 299, "clean") / 127.5 - 1
    torch.testing.assert_close(torch.from_numpy(out.features), network(x), rtol=1e-3, atol=1e-4)
    grey = space.outputs(IMAGES[:1, ..., :1]).features
    np.testing.assert_allclose(grey, space.outputs(IMAGES[:1, ..., [0, 0, 0]]).features, rtol=1e-5, atol=1e-6)
    assert space.about.resize == "clean"
    assert len(space.about.sha256) == 64


class Scripted(torch.nn.Module):
    """What the TorchScript module has that is asked for features: `layers`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.AvgPool2d(299), torch.nn.Conv2d(3, FEATURES, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_features_of_the_torchscript_module(tmp_path: Path) -> None:
    """Its layers see (x - 128) / 128; it brings no probabilities."""
    module_ = Scripted()
    torch.jit.script(module_).save(str(tmp_path / "inception-2015-12-05.pt"))  # pyright: ignore
    out = InceptionSpace(tmp_path / "inception-2015-12-05.pt", "legacy-tf", "cpu").outputs(IMAGES)
    assert out.probabilities is None
    x = (resize(tensor(IMAGES), 299, 299, "legacy-tf") - 128) / 128
    wanted = module_.layers(x).reshape(2, FEATURES).detach()
    np.testing.assert_allclose(out.features, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_files_that_are_not_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.CACHE, str(tmp_path))
    with pytest.raises(SpaceError, match=r"are not there: give their file .*--inception FILE.*curl -Lo"):
        find_inception(None)
    with pytest.raises(SpaceError, match=r"none\.pt: no such file"):
        find_inception(tmp_path / "none.pt")
    (tmp_path / "text.pth").write_text("weights")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    named = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    named.write_bytes((tmp_path / "other.pth").read_bytes())
    for name, said in (
        ("text.pth", "cannot be read as weights"),
        ("other.pth", "are not the weights of FID's InceptionV3"),
        ("list.pth", "are not the weights"),
        (named.name, r"its SHA-256 is .*, not 6726825d.*damaged"),
    ):
        with pytest.raises(SpaceError, match=f"{name}: {said}"):
            InceptionSpace(tmp_path / name, "clean", "cpu")
    assert find_inception(None) == named
