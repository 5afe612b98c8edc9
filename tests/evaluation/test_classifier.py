from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_pipeline.fashion import load_fashion
from data_pipeline.manifest import DataError
from scaling.evaluation import classifier as classifier_module
from scaling.evaluation.classifier import WEIGHTS, FashionClassifier, extract_features, load_classifier
from scaling.evaluation.frechet import Reference
from scaling.evaluation.train_classifier import accuracy, as_tensor, train

SAMPLES = 2000


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray]:
    """The test images and labels."""
    return load_fashion("test")


@pytest.fixture(scope="module")
def classifier() -> FashionClassifier:
    return load_classifier("cpu")


def test_shipped_weights_are_small_frozen_and_good(
    classifier: FashionClassifier, real: tuple[np.ndarray, np.ndarray]
) -> None:
    assert WEIGHTS.stat().st_size < 500_000
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    images, labels = real
    assert accuracy(classifier, as_tensor(images), torch.from_numpy(labels).long()) > 0.84


def test_features_lead_to_the_logits(classifier: FashionClassifier, real: tuple[np.ndarray, np.ndarray]) -> None:
    images = as_tensor(real[0][:7])
    features = classifier.features(images)
    assert features.shape == (7, 64)
    torch.testing.assert_close(classifier(images), F.linear(features, *classifier.output_layer.parameters()))


def test_features_do_not_depend_on_the_batch(
    classifier: FashionClassifier, real: tuple[np.ndarray, np.ndarray]
) -> None:
    images = real[0][:50]
    whole = extract_features(classifier, images, batch=50, device="cpu")
    assert whole.shape == (50, 64)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(extract_features(classifier, images, batch=7, device="cpu"), whole, atol=2e-5)
    np.testing.assert_allclose(whole, classifier.features(as_tensor(images)).numpy(), atol=2e-5)


def test_features_agree_with_float64(classifier: FashionClassifier, real: tuple[np.ndarray, np.ndarray]) -> None:
    images = real[0][:50]
    exact = load_classifier("cpu").double().features(as_tensor(images).double())
    features = extract_features(classifier, images, batch=50, device="cpu")
    np.testing.assert_allclose(features, exact.numpy(), atol=2e-5)


def test_ruler_orders_known_alterations(classifier: FashionClassifier, real: tuple[np.ndarray, np.ndarray]) -> None:
    """Real images are near, and each of these is clearly farther (benchmarks/ruler.py has the whole table)."""
    images, labels = real
    random = np.random.Generator(np.random.Philox(0))

    def features(chosen: np.ndarray) -> np.ndarray:
        return extract_features(classifier, chosen, batch=500, device="cpu")

    reference = Reference.from_features(features(load_fashion("train")[0][:20_000]))
    chosen = images[:SAMPLES]

    def noisy(deviation: float) -> np.ndarray:
        noise = 255 * deviation * random.standard_normal(chosen.shape)
        return np.rint(chosen + noise).clip(0, 255).astype(np.uint8)

    floor = reference.distance(features(chosen))
    noise = [reference.distance(features(noisy(deviation))) for deviation in (0.05, 0.1, 0.2)]
    assert floor * 1.5 < noise[0] < noise[1] < noise[2]
    no_shirts = images[labels != 6][:SAMPLES]
    assert reference.distance(features(no_shirts)) > 1.5 * floor
    assert reference.distance(features(np.repeat(chosen[::10], 10, axis=0))) > 3 * floor
    assert reference.distance(features(np.zeros_like(chosen))) > 1000 * floor


@pytest.mark.parametrize("damage", ["missing", "flipped", "other"])
def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    path = tmp_path / "fashion_classifier.safetensors"
    if damage == "flipped":
        shutil.copy(WEIGHTS, path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "other":
        path.write_bytes(b"not safetensors")
    monkeypatch.setattr(classifier_module, "WEIGHTS", path)
    with pytest.raises(DataError, match=r"fashion_classifier\.safetensors.* from the repository"):
        load_classifier("cpu")


def test_training_learns_and_repeats_from_its_seed_alone() -> None:
    images, labels = load_fashion("train")
    few, targets = as_tensor(images[:512]), torch.from_numpy(labels[:512]).long()
    before = torch.random.get_rng_state()
    first = train(few, targets, epochs=2, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before), "global random state was used"
    torch.manual_seed(123)
    again, other = train(few, targets, epochs=2, seed=1), train(few, targets, epochs=2, seed=2)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-5, atol=1e-6)
        assert not torch.equal(other.state_dict()[name], value), name
    few = few[:256]
    learnt = train(few, targets[:256], epochs=16, seed=1)
    assert accuracy(learnt, few, targets[:256]) > accuracy(first, few, targets[:256]) + 0.2
