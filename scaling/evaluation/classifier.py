"""The small frozen classifier whose 64 features are the ruler of the embedded study ("FD-fashion").

It was trained on the 60,000 training images of Fashion-MNIST at 16x16 by `scaling.evaluation.train_classifier`; the
test images were never shown to it. Its weights ship with the package. `benchmarks/ruler.py` measures what it can see.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from data_pipeline.manifest import DataError

WEIGHTS = Path(__file__).parent / "assets" / "fashion_classifier.safetensors"
WEIGHTS_SHA256 = "b941df71f653633425af5c6a2a59eb44a283da01403d89f8737d2c21d87e038b"
FEATURES = 64
CLASSES = 10
CHANNELS = (32, 64, 96)


class FashionClassifier(nn.Module):
    """Three 3x3 convolutions, each followed by ReLU and a 2x2 maximum, then a 64-unit feature layer and ten logits.

    The parameters are left uninitialised: load them, or call `initialise`.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = zip((1, *CHANNELS[:-1]), CHANNELS, strict=True)
        self.convolutions = nn.ModuleList(nn.utils.skip_init(nn.Conv2d, i, o, 3, padding=1) for i, o in sizes)
        self.feature_layer = nn.utils.skip_init(nn.Linear, CHANNELS[-1] * 2 * 2, FEATURES)
        self.output_layer = nn.utils.skip_init(nn.Linear, FEATURES, CLASSES)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights and biases from `generator`: uniform within 1 / sqrt(fan_in), which is PyTorch's default."""
        for layer in (*self.convolutions, self.feature_layer, self.output_layer):
            assert isinstance(layer, nn.Conv2d | nn.Linear), "the network has no other layers"
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features [N, 64] of images float32 [N, 1, 16, 16] in [0, 1]."""
        x = images
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return F.relu(self.feature_layer(x.flatten(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, 10] of images float32 [N, 1, 16, 16] in [0, 1]."""
        return self.output_layer(self.features(images))


def load_classifier(device: torch.device | str) -> FashionClassifier:
    """The trained classifier on `device`, in evaluation mode, its parameters frozen.

    Raises:
        DataError: the weights are missing or are not the ones this version was released with; names the file.
    """
    remedy = f"restore {WEIGHTS} from the repository"
    if not WEIGHTS.is_file():
        raise DataError(f"the classifier's weights are missing: {remedy}")
    data = WEIGHTS.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise DataError(f"{WEIGHTS} has SHA-256 {digest}, expected {WEIGHTS_SHA256}: {remedy}")
    classifier = FashionClassifier()
    classifier.load_state_dict(safetensors.torch.load(data))
    return classifier.to(device).eval().requires_grad_(False)


@torch.no_grad()
def extract_features(
    classifier: FashionClassifier, images: np.ndarray, *, batch: int, device: torch.device | str
) -> np.ndarray:
    """Features float32 [N, 64] of images uint8 [N, 16, 16], `batch` images at a time."""
    parts = []
    for start in range(0, len(images), batch):
        part = torch.from_numpy(images[start : start + batch]).to(device)
        parts.append(classifier.features(part[:, None].float() / 255).cpu().numpy())
    return np.concatenate(parts)
