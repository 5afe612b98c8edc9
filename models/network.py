"""The shape of a network: widths, levels, and how it is told the time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

SIGMA_DATA = 0.5  # the standard deviation that all data are scaled to
SIGMA_MAX = 80.0
T_MAX = math.atan(SIGMA_MAX / SIGMA_DATA)  # 1.5645: where sampling starts
WEIGHT_CHANNELS = 128  # of the weighting head's embedding

TimeInput = Literal["t", "log_sigma"]
EmbeddingKind = Literal["positional", "fourier"]
ModulationNorm = Literal["none", "double"]

# The two networks of the study: EDM2's own (config G), and its TrigFlow version (sCM, section 4.1).
FLAVOURS: dict[str, dict[str, Any]] = {
    "edm2": {"time_input": "log_sigma", "time_embedding": "fourier", "modulation_norm": "none"},
    "trigflow": {"time_input": "t", "time_embedding": "positional", "modulation_norm": "double"},
}
MOST = 10**6  # of each whole number of a shape: far above any network, and products of some stay below 2^63
MOST_CHANNELS = 10**8  # a plan counts at widths that are multiples of 10,009 heads
MOST_FEATURES = 10**12  # numbers an image at one level
CHOICES: dict[str, tuple[str, ...]] = {
    "time_input": ("t", "log_sigma"),
    "time_embedding": ("positional", "fourier"),
    "modulation_norm": ("none", "double"),
}


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of one network. Widths are in channels, resolutions in latent pixels.

    time_input: c_noise, what the embedding sees: t, or EDM's ln(sigma) / 4 with sigma = sigma_data tan t.
    time_embedding: "positional" (slopes of at most 1), or "fourier" with frequencies 2 pi fourier_scale N(0, 1).
    modulation_norm: the factor of the features is 1 + emb ("none"), or that divided by its RMS ("double").
    guidance: whether the network takes a guidance strength s beside t. second_time: whether it takes a time to lead to.
    head_channels: attention has width // head_channels heads of equal width, as in EDM2.
    attention_in0: attention in the decoder's first block although attention_resolutions leave its resolution out.
    EDM2's own code always has it there.

    Raises ValueError naming the number that does not fit.
    """

    resolution: int
    latent_channels: int
    num_classes: int
    model_channels: int
    channel_mult: tuple[int, ...]
    blocks_per_level: int
    attention_resolutions: tuple[int, ...]
    head_channels: int = 64
    time_input: TimeInput = "t"
    time_embedding: EmbeddingKind = "positional"
    fourier_scale: float = 1.0
    modulation_norm: ModulationNorm = "double"
    guidance: bool = False
    attention_in0: bool = False
    second_time: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key} {getattr(self, key)!r} is unknown: choose one of {', '.join(choices)}")
        self._check_resolution()
        self._check_widths()

    def _check_numbers(self) -> None:
        for key in (
            "resolution",
            "latent_channels",
            "num_classes",
            "model_channels",
            "blocks_per_level",
            "head_channels",
        ):
            most = MOST_CHANNELS if key == "model_channels" else MOST
            _check_whole(key, getattr(self, key), 0 if key == "num_classes" else 1, most)
        for key in ("channel_mult", "attention_resolutions"):
            if not isinstance(getattr(self, key), tuple):
                raise ValueError(f"{key} {getattr(self, key)!r} is no list of whole numbers")
            for value in getattr(self, key):
                _check_whole(key, value, 1, MOST)
        if not self.channel_mult:
            raise ValueError("channel_mult is empty: give one factor a level")
        if type(self.fourier_scale) not in (int, float) or not 0 < self.fourier_scale < float("inf"):
            raise ValueError(f"fourier_scale {self.fourier_scale!r} is no number above 0")
        for key in ("guidance", "attention_in0", "second_time"):
            if type(getattr(self, key)) is not bool:
                raise ValueError(f"{key} {getattr(self, key)!r} is neither true nor false")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(self.model_channels * mult for mult in self.channel_mult)

    @property
    def coarsest(self) -> int:
        """The resolution of the last level."""
        return self.resolution >> len(self.channel_mult) - 1

    def heads(self, width: int) -> int:
        """The number of heads of attention over features of that width."""
        return width // self.head_channels

    def describe(self) -> dict[str, Any]:
        """Keys and values from which `models.family.network_config` makes the shape again; runs are known by its hash.

        A key that came after the first runs is left out where it changes nothing, so that theirs stay what they were.
        """
        values = asdict(self)
        for key in ("attention_in0", "second_time"):
            if not values[key]:
                del values[key]
        return values

    def _check_resolution(self) -> None:
        halvings = len(self.channel_mult) - 1
        if self.resolution % 2**halvings:
            raise ValueError(
                f"resolution {self.resolution} does not divide by {2**halvings}: "
                f"channel_mult {list(self.channel_mult)} halves it {halvings} times"
            )
        levels = [self.resolution >> level for level in range(halvings + 1)]
        for resolution in self.attention_resolutions:
            if resolution not in levels:
                raise ValueError(f"attention_resolutions {resolution} is no level: the levels are {levels}")
        if self.attention_in0 and self.coarsest in self.attention_resolutions:
            raise ValueError(
                f"attention_in0: attention_resolutions {list(self.attention_resolutions)} hold {self.coarsest}, the "
                "resolution of that block, already: leave attention_in0 out"
            )

    def _check_widths(self) -> None:
        if self.model_channels % 2 and (self.time_embedding == "positional" or self.guidance or self.second_time):
            raise ValueError(
                f"model_channels {self.model_channels} is odd: a positional embedding needs an even number"
            )
        if self.resolution**2 * max(self.widths) > MOST_FEATURES:
            raise ValueError(
                f"resolution {self.resolution} with model_channels {self.model_channels} makes features of more than "
                f"{MOST_FEATURES:,} numbers an image: lower one of them"
            )
        for level, width in enumerate(self.widths):
            resolution = self.resolution >> level
            attends = resolution in self.attention_resolutions or (self.attention_in0 and resolution == self.coarsest)
            if attends and (not self.heads(width) or width % self.heads(width)):
                raise ValueError(
                    f"width {width} at resolution {resolution} does not divide into equal heads of "
                    f"head_channels {self.head_channels} or more: change model_channels or head_channels"
                )


def _check_whole(key: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} {value!r} is no whole number from {least} to {most:,}")
