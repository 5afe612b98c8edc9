"""Small networks whose 64 features are a ruler for images of their own kind: FD-fashion's, and any user's (fd-own).

Each was trained by `scaling.evaluation.spaces.train_small` on training images alone, to tell their classes apart or,
where there are none, by how many quarter turns an image was rotated (Gidaris et al. 2018). A file of safetensors holds
the weights and, in its metadata, what the network takes, what it was trained on and what it was seen to see.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import nn

from data_pipeline.manifest import DataError
from scaling.config.metrics import SpaceName
from scaling.evaluation.spaces.space import About, Outputs, SpaceError
from scaling.run.schemas import Schema

FASHION = Path(__file__).parents[1] / "assets" / "fashion_classifier.safetensors"
FASHION_SHA256 = "b941df71f653633425af5c6a2a59eb44a283da01403d89f8737d2c21d87e038b"
FEATURES = 64
CHANNELS = (32, 64, 96)  # of the first levels; further ones are as wide as the last
FINEST = 64  # pixels a side that the network sees; larger images are averaged down to it
METADATA = "trigscale-ruler"


class Sight(Schema):
    """One thing that was done to held-out images: its distance, and that over the floor."""

    altered: str
    distance: float
    floors: float


class Ruler(Schema):
    """What a small network is: the images it takes, the classes it tells apart, what it was trained on, what it sees.

    height, width, channels: of images. rotations: whether the classes are quarter turns. dataset, content_sha256: of
    the shards. accuracy: share of held-out images that it classifies rightly. floor: distance of `samples` held-out
    images to the training images; sight: of altered ones.
    """

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    channels: int = Field(gt=0)
    classes: int = Field(gt=1)
    rotations: bool = False
    dataset: str
    content_sha256: str | None = None
    accuracy: float | None = None
    samples: int | None = None
    floor: float | None = None
    sight: tuple[Sight, ...] = ()

    @property
    def takes(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        return self.height, self.width, self.channels


FASHION_RULER = Ruler(height=16, width=16, channels=1, classes=10, dataset="fashion-train")


class SmallNetwork(nn.Module):
    """3x3 convolutions, each followed by ReLU and a 2x2 maximum, until fewer than 4 pixels are left to a side; then a
    64-unit feature layer and a logit a class.

    The parameters are left uninitialised: load them, or call `initialise`.
    """

    def __init__(self, height: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.reduce = max(1, -(-max(height, width) // FINEST))
        height, width = -(-height // self.reduce), -(-width // self.reduce)
        widths = [channels]
        while min(height, width) >= 4:
            widths.append(CHANNELS[min(len(widths), len(CHANNELS)) - 1])
            height, width = height // 2, width // 2
        sizes = pairwise(widths)
        self.convolutions = nn.ModuleList(nn.utils.skip_init(nn.Conv2d, i, o, 3, padding=1) for i, o in sizes)
        self.feature_layer = nn.utils.skip_init(nn.Linear, widths[-1] * height * width, FEATURES)
        self.output_layer = nn.utils.skip_init(nn.Linear, FEATURES, classes)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights and biases from `generator`: uniform within 1 / sqrt(fan_in), which is PyTorch's default."""
        for layer in (*self.convolutions, self.feature_layer, self.output_layer):
            assert isinstance(layer, nn.Conv2d | nn.Linear), "the network has no other layers"
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features [N, 64] of images float32 [N, C, H, W] in [0, 1]."""
        x = images if self.reduce == 1 else F.avg_pool2d(images, self.reduce, ceil_mode=True)
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return F.relu(self.feature_layer(x.flatten(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes] of images float32 [N, C, H, W] in [0, 1]."""
        return self.output_layer(self.features(images))


def as_tensor(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in [0, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


class SmallSpace:
    """The features of one small network."""

    def __init__(self, space: SpaceName, network: SmallNetwork, ruler: Ruler, sha256: str, device: torch.device | str):
        self.network, self.ruler = network.to(device).eval().requires_grad_(False), ruler
        self.device = device
        self.about = About(space, FEATURES, f"small network trained on {ruler.dataset}", sha256)

    def require(self, shape: tuple[int, ...]) -> None:
        """SpaceError unless it takes images of this height, width and number of channels."""
        if tuple(shape) != self.ruler.takes:
            takes, given = ("x".join(map(str, each)) for each in (self.ruler.takes, shape))
            raise SpaceError(
                f"evaluation.metric: fd-{self.about.space} judges images of {takes}, these are {given}: set it to a "
                f"metric that takes them (`trigscale study keys` lists what there is), or use images of {takes}"
            )

    @torch.no_grad()
    def outputs(self, images: np.ndarray) -> Outputs:
        """The features of images uint8 [B, H, W, C]."""
        return Outputs(self.network.features(as_tensor(images, self.device)).cpu().numpy())


def fashion_space(device: torch.device | str) -> SmallSpace:
    """The space of FD-fashion.

    Raises:
        DataError: the weights are missing or are not the ones this version was released with; names the file.
    """
    remedy = f"restore {FASHION} from the repository"
    if not FASHION.is_file():
        raise DataError(f"the classifier's weights are missing: {remedy}")
    data = FASHION.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != FASHION_SHA256:
        raise DataError(f"{FASHION} has SHA-256 {digest}, expected {FASHION_SHA256}: {remedy}")
    return _of("fashion", FASHION_RULER, safetensors.torch.load(data), digest, device)


def own_space(path: Path, device: torch.device | str) -> SmallSpace:
    """The space of a file that `trigscale ruler train` wrote. SpaceError names the file."""
    ruler = read_ruler(path)
    data = path.read_bytes()
    return _of("own", ruler, safetensors.torch.load(data), hashlib.sha256(data).hexdigest(), device)


def read_ruler(path: Path) -> Ruler:
    """What the network in a file is, without its weights. SpaceError names the file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA)
    except (SafetensorError, OSError) as error:
        raise SpaceError(f"{path}: cannot be read as a ruler ({error}): `trigscale ruler train` makes one") from error
    try:
        return Ruler.model_validate_json(text or "")
    except ValidationError as error:
        raise SpaceError(
            f"{path}: is no ruler of `trigscale ruler train` ({error.errors()[0]['msg']}): name the file that it wrote"
        ) from None


def ruler_bytes(network: SmallNetwork, ruler: Ruler) -> bytes:
    """A file of the network."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return safetensors.torch.save(state, {METADATA: json.dumps(ruler.model_dump(mode="json"), sort_keys=True)})


def _of(space: SpaceName, ruler: Ruler, state: dict[str, Any], sha256: str, device: torch.device | str) -> SmallSpace:
    network = SmallNetwork(*ruler.takes, ruler.classes)
    network.load_state_dict(state)
    return SmallSpace(space, network, ruler, sha256, device)
