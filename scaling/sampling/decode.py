"""From a run's latents to images: what stands between samplers and whoever looks at what they made."""

from __future__ import annotations

from pathlib import Path

import torch

from models.vae import Decoder, open_decoder
from scaling.run.spec import RunData


def run_decoder(data: RunData, vae: Path | None, device: torch.device) -> Decoder:
    """What turns the latents of a run into images; EncoderError where `vae` is not the folder of its VAE."""
    return open_decoder(data.pinned_encoder(), vae, device)
