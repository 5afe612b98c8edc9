"""Encoders: what they undo, what they refuse, and the constants of the paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.encoders import ENCODERS, EncoderError, get_encoder
from models.trigflow import SIGMA_DATA
from models.vae import open_decoder
from scaling.data.sources import pack_images

CPU = torch.device("cpu")


def test_pixels_come_back() -> None:
    """Every value of a pixel, through `encode` and what networks see, to the very same value."""
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    for name, images in (("fashion-s2d-v1", ramp), ("grey-v1", ramp), ("rgb-v1", ramp.repeat(1, 1, 1, 3))):
        encoder = get_encoder(name)
        x = encoder.normalize(encoder.encode(images))
        assert torch.equal(open_decoder(encoder, None, CPU).samples(x), images)


def test_rgb_reaches_the_network_as_it_is() -> None:
    """[-1, 1], unscaled."""
    encoder = get_encoder("rgb-v1")
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert encoder.normalize(encoder.encode(images)).flatten().tolist() == pytest.approx([-1, 1, -0.6])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("fashion-s2d-v1", (2, 32, 32, 3), "takes images uint8 of 16x16x1, these are uint8 of 32x32x3.*these: rgb-v1"),
        (
            "rgb-v1",
            (2, 16, 16, 1),
            "takes images uint8 of any size, 3 channels, these are uint8 of 16x16x1.*these: fashion-s2d-v1, grey-v1",
        ),
        ("fashion-s2d-v1", (2, 28, 28, 1), "encoders that take these: grey-v1"),
        ("grey-v1", (2, 28, 28, 2), "no encoder takes these: bring them to a size"),
        ("fashion-s2d-v1", (16, 16, 1), "no encoder takes these"),
    ],
)
def test_images_of_another_encoder_are_refused_with_those_that_fit(
    tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(EncoderError, match=message):
        pack_images(np.zeros(shape, np.uint8), np.zeros(2, np.int64), get_encoder(name), tmp_path / "to", "x", 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EncoderError, match="these are float32"):
        get_encoder(name).encode(torch.zeros(2, 16, 16, 1))


# Mean and standard deviation of each channel as they are published.
VAES = {
    "sd-vae-ft-mse-v1": ([1.56, -0.695, 0.483, 0.729], [5.27, 5.91, 4.21, 4.31]),
    "edm2-sd-vae-v1": ([5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]),
}


@pytest.mark.parametrize("name", VAES)
def test_latents_of_a_vae(tmp_path: Path, name: str) -> None:
    """(z - mean) sigma_data / std, and back; images are refused by name, and nothing is written."""
    encoder, (mean, std) = get_encoder(name), VAES[name]
    z = torch.tensor([mean, [m + s for m, s in zip(mean, std, strict=True)]]).reshape(2, 4, 1, 1)
    x = encoder.normalize(z)
    torch.testing.assert_close(x.flatten(1), torch.tensor([[0.0] * 4, [SIGMA_DATA] * 4]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(encoder.denormalize(x), z)
    assert encoder.decoder_macs == 1260.9e9
    with pytest.raises(EncoderError, match=f"{name}.*is a VAE, and none is named: set data.vae"):
        open_decoder(encoder, None, CPU)
    with pytest.raises(EncoderError, match=name):
        pack_images(np.zeros((2, 512, 512, 3), np.uint8), np.zeros(2, np.int64), encoder, tmp_path / "to", "x", 1)
    assert list(tmp_path.iterdir()) == []


def test_decoders_that_cost_nothing() -> None:
    """Only a VAE counts in a plan."""
    assert {name for name, encoder in ENCODERS.items() if encoder.decoder_macs} == set(VAES)
    assert {name for name, encoder in ENCODERS.items() if encoder.vae is not None} == set(VAES)
