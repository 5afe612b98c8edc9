"""The small networks whose features are rulers: FD-fashion's, and any user's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_pipeline.fashion import load_fashion
from data_pipeline.manifest import DataError
from scaling.evaluation.frechet import Reference
from scaling.evaluation.spaces import small as small_module
from scaling.evaluation.spaces.small import (
    FASHION,
    Ruler,
    SmallNetwork,
    SmallSpace,
    as_tensor,
    fashion_space,
    own_space,
    read_ruler,
    ruler_bytes,
)
from scaling.evaluation.spaces.space import SpaceError
from scaling.evaluation.spaces.train_small import accuracy, train, turned

SAMPLES = 2000


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray]:
    """The test images [N, 16, 16, 1] and labels."""
    images, labels = load_fashion("test")
    return images[..., None], labels


@pytest.fixture(scope="module")
def space() -> SmallSpace:
    return fashion_space("cpu")


def features(space: SmallSpace, images: np.ndarray, batch: int = 500) -> np.ndarray:
    return np.concatenate([space.outputs(images[i : i + batch]).features for i in range(0, len(images), batch)])


def test_shipped_weights_are_small_frozen_and_good(space: SmallSpace, real: tuple[np.ndarray, np.ndarray]) -> None:
    assert FASHION.stat().st_size < 500_000
    assert not space.network.training
    assert not any(parameter.requires_grad for parameter in space.network.parameters())
    assert accuracy(space.network, *real) > 0.84


def test_features_lead_to_the_logits(space: SmallSpace, real: tuple[np.ndarray, np.ndarray]) -> None:
    images = as_tensor(real[0][:7])
    made = space.network.features(images)
    assert made.shape == (7, 64)
    torch.testing.assert_close(space.network(images), F.linear(made, *space.network.output_layer.parameters()))


def test_features_agree_with_float64_in_any_batch(space: SmallSpace, real: tuple[np.ndarray, np.ndarray]) -> None:
    images = real[0][:50]
    exact = fashion_space("cpu").network.double().features(as_tensor(images).double())
    for batch in (50, 7):
        np.testing.assert_allclose(features(space, images, batch), exact.numpy(), atol=2e-5)


def test_ruler_orders_known_alterations(space: SmallSpace, real: tuple[np.ndarray, np.ndarray]) -> None:
    """Real images are near, and each of these is clearly farther (benchmarks/ruler.py has the whole table)."""
    images, labels = real
    random = np.random.Generator(np.random.Philox(0))
    reference = Reference.from_features(features(space, load_fashion("train")[0][:20_000, ..., None]))
    chosen = images[:SAMPLES]

    def distance(altered: np.ndarray) -> float:
        return reference.distance(features(space, altered))

    def noisy(deviation: float) -> np.ndarray:
        noise = 255 * deviation * random.standard_normal(chosen.shape)
        return np.rint(chosen + noise).clip(0, 255).astype(np.uint8)

    floor = distance(chosen)
    noise = [distance(noisy(deviation)) for deviation in (0.05, 0.1, 0.2)]
    assert floor * 1.5 < noise[0] < noise[1] < noise[2]
    assert distance(images[labels != 6][:SAMPLES]) > 1.5 * floor
    assert distance(np.repeat(chosen[::10], 10, axis=0)) > 3 * floor
    assert distance(np.zeros_like(chosen)) > 1000 * floor


@pytest.mark.parametrize("damage", ["missing", "flipped", "other"])
def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    path = tmp_path / "fashion_classifier.safetensors"
    if damage == "flipped":
        shutil.copy(FASHION, path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "other":
        path.write_bytes(b"not safetensors")
    monkeypatch.setattr(small_module, "FASHION", path)
    with pytest.raises(DataError, match=r"fashion_classifier\.safetensors.* from the repository"):
        fashion_space("cpu")


def test_training_learns_and_repeats_from_its_seed_alone(real: tuple[np.ndarray, np.ndarray]) -> None:
    few, targets = real[0][:512], real[1][:512]
    before = torch.random.get_rng_state()
    first = train(few, targets, 10, epochs=2, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before), "global random state was used"
    torch.manual_seed(123)
    again, other = train(few, targets, 10, epochs=2, seed=1), train(few, targets, 10, epochs=2, seed=2)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-5, atol=1e-6)
        assert not torch.equal(other.state_dict()[name], value), name
    few, targets = few[:256], targets[:256]
    learnt = train(few, targets, 10, epochs=16, seed=1)
    assert accuracy(learnt, few, targets) > accuracy(first, few, targets) + 0.2


def test_quarter_turns_are_learnt_without_classes() -> None:
    """Images that are bright on one side: how they were turned can be told."""
    images = np.zeros((256, 16, 16, 1), np.uint8)
    images[:, :, :4] = np.random.default_rng(0).integers(100, 256, (256, 16, 4, 1))
    network = train(images, np.zeros(256), 4, epochs=10, seed=0, rotations=True)
    turns = torch.arange(256) % 4
    shown = turned(as_tensor(images), turns)
    assert (network(shown).argmax(1) == turns).float().mean() > 0.95


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(32, 32, 3), (28, 28, 1), (16, 24, 3), (200, 200, 3), (5, 5, 1)]
)
def test_images_of_any_size_have_64_features(height: int, width: int, channels: int) -> None:
    network = SmallNetwork(height, width, channels, 4)
    network.initialise(torch.Generator().manual_seed(0))
    made = network.features(torch.rand(3, channels, height, width))
    assert made.shape == (3, 64)
    assert made.std() > 0


def test_a_ruler_comes_back_with_what_it_says(tmp_path: Path) -> None:
    network = SmallNetwork(8, 8, 3, 4)
    network.initialise(torch.Generator().manual_seed(0))
    ruler = Ruler(height=8, width=8, channels=3, classes=4, dataset="mine", floor=0.5, samples=200)
    path = tmp_path / "r.safetensors"
    path.write_bytes(ruler_bytes(network, ruler))
    space = own_space(path, "cpu")
    assert space.ruler == read_ruler(path) == ruler
    images = np.random.default_rng(0).integers(256, size=(5, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        space.outputs(images).features, network.eval().features(as_tensor(images)).detach().numpy()
    )
    with pytest.raises(SpaceError, match=r"fd-own judges images of 8x8x3, these are 16x16x3"):
        space.require((16, 16, 3))


def test_what_is_no_ruler_is_named(tmp_path: Path) -> None:
    shutil.copy(FASHION, tmp_path / "weights.safetensors")
    (tmp_path / "text").write_text("ruler")
    for name, said in (
        ("weights.safetensors", "is no ruler of"),
        ("text", "cannot be read"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(SpaceError, match=f"{name}: {said}"):
            read_ruler(tmp_path / name)
