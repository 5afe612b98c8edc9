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
    assert (space.about.size, space.about.resize) == (16, "bicubic-224, positions +0.1")
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    x = torch.nn.functional.interpolate(x, (28, 28), mode="bicubic", antialias=True)
    mean, deviation = torch.tensor([MEAN, DEVIATION]).reshape(2, 1, 3, 1, 1)
    with torch.inference_mode():
        wanted = transformers.Dinov2Model.from_pretrained(folder)(pixel_values=(x - mean) / deviation)
    np.testing.assert_allclose(made, wanted.last_hidden_state[:, 0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(space.outputs(IMAGES[:1]).features, made[:1], rtol=1e-4, atol=1e-5)


def test_positions_lie_where_the_authors_put_them(tmp_path: Path) -> None:
    """518 pixels to 224: patch i of 16 looks at (i + 1/2) 37 / 16.1 - 1/2 of 37, and not at (i + 1/2) 37 / 16 - 1/2."""
    config = transformers.Dinov2Config(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, image_size=518)
    network = transformers.Dinov2Model(config)
    row = torch.arange(37.0)
    with torch.no_grad():
        table = torch.stack([*torch.meshgrid(row, row, indexing="ij"), torch.ones(37, 37), torch.zeros(37, 37)], -1)
        network.embeddings.position_embeddings[:, 1:] = table.reshape(1, 37 * 37, 4)
    network.half().save_pretrained(tmp_path)
    space = Dinov2Space(tmp_path, "cpu")
    made = space.network.embeddings.position_embeddings
    assert made.shape == (1, 257, 4)
    assert made.dtype == torch.float32  # though the file holds halves
    at = (torch.arange(16.0) + 0.5) * 37 / 16.1 - 0.5
    inner = made[0, 1:].reshape(16, 16, 4)[1:-1, 1:-1].detach()  # torch's cubic filter is within .05 of a line
    torch.testing.assert_close(inner[..., 0], at[1:-1, None].expand(14, 14), rtol=0, atol=0.06)
    torch.testing.assert_close(inner[..., 1], at[None, 1:-1].expand(14, 14), rtol=0, atol=0.06)
    assert space.outputs(IMAGES).features.shape == (3, 4)


def test_folders_that_hold_none(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpaceError, match="holds no DINOv2 of Hugging Face"):
        Dinov2Space(tmp_path, "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SpaceError, match=r"DINOv2's weights are not there: give their folder .*--dinov2 DIR"):
        Dinov2Space(None, "cpu")
