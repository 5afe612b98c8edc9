#!/usr/bin/env bash
# diffusers 0.42.1: VaeImageProcessor.preprocess maps a batch of 0..1 to -1..1 unless its smallest value is below zero:
# then it is taken for normalised. A guess would be that do_normalize decides. An image in -1..1 without dark pixels is
# stretched where it is alone and left where a darker one shares its batch, so latents of one image depend on its
# neighbours. Bytes of a numpy array are taken for 0..1: 200 becomes 399. Whoever has arrays in -1..1 makes a processor
# without normalising.
#
# Seen on 2026-12-01 with diffusers 0.42.1, torch 2.13.0+cpu, Python 3.11, an image of 0.5:
#   alone 0.0; beside a darker one 0.5; with do_normalize=False 0.5; 200 as a byte 399.0
# Fails where the first two agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 diffusers==0.42.1 pillow==12.0.0 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor

warnings.simplefilter("ignore")  # it does warn where it leaves a batch as it is
images = torch.stack([torch.full((3, 8, 8), 0.5), torch.full((3, 8, 8), -0.5)])
default = VaeImageProcessor()
alone, beside = (default.preprocess(batch)[0].max().item() for batch in (images[:1], images))
kept = VaeImageProcessor(do_normalize=False).preprocess(images[:1]).max().item()
byte = default.preprocess(np.full((1, 8, 8, 3), 200, np.uint8)).max().item()
print(f"alone {alone}; beside a darker one {beside}; with do_normalize=False {kept}; 200 as a byte {byte}")
assert kept == 0.5
assert (alone, beside) == (0, 0.5), "an image no longer depends on its batch"
PYTHON
