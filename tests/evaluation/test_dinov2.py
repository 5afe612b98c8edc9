"""DINOv2's features from a folder in Hugging Face's form, with a tiny random network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scaling.evaluation.spaces.dinov2 import DEVIATION, MEAN, Dinov2Space
from scaling.evaluation.spaces.space import SpaceError

transformers = pytest.importorskip("transformers")
IMAGES = np.random.default_rng(0).integers(256, size=(3, 20, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dinov2")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    torch.manual_seed(0)
    transformers.Dinov2Model(config).save_pretrained(path)
    return path


def test_features_are_the_class_token_of_resized_normalised_images(folder: Path) -> None:
    space = Dinov2Space(folder, "cpu")
    made = space.outputs(IMAGES).features
    assert made.shape == (3, 16)
    assert (space.about.size, space.about.resize) == (16, "bicubic-224")
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    x = torch.nn.functional.interpolate(x, (28, 28), mode="bicubic", antialias=True)
    mean, deviation = torch.tensor([MEAN, DEVIATION]).reshape(2, 1, 3, 1, 1)
    with torch.inference_mode():
        wanted = transformers.Dinov2Model.from_pretrained(folder)(pixel_values=(x - mean) / deviation)
    np.testing.assert_allclose(made, wanted.last_hidden_state[:, 0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(space.outputs(IMAGES[:1]).features, made[:1], rtol=1e-4, atol=1e-5)


def test_folders_that_hold_none(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpaceError, match="holds no DINOv2 of Hugging Face"):
        Dinov2Space(tmp_path, "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SpaceError, match=r"DINOv2's weights are not there: give their folder .*--dinov2 DIR"):
        Dinov2Space(None, "cpu")
