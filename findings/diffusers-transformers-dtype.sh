#!/usr/bin/env bash
# diffusers 0.42.1 and transformers 5.24.0: a network whose file holds float16 becomes float32 when diffusers opens it
# and float16 when transformers does, by the same call of from_pretrained. A guess would be one rule for two libraries
# that load each other's parts into one pipeline. A VAE and the network that judges its images are then of two
# precisions: an error where they meet, or features in half precision and a distance that is off in its third digit. Say
# the dtype always.
#
# Seen on 2026-12-01 with diffusers 0.42.1, transformers 5.24.0, torch 2.13.0+cpu, Python 3.11:
#   stored torch.float16: diffusers torch.float32, transformers torch.float16
# Fails where both give the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 diffusers==0.42.1 transformers==5.24.0 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile

import torch
from diffusers import AutoencoderKL
from transformers import Dinov2Config, Dinov2Model

vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2)
dinov2 = Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28))
types = []
for network in (vae, dinov2):
    with tempfile.TemporaryDirectory() as folder:
        network.half().save_pretrained(folder)
        types.append(type(network).from_pretrained(folder).dtype)
print(f"stored torch.float16: diffusers {types[0]}, transformers {types[1]}")
assert types[0] != types[1], "both have one rule now"
PYTHON
