#!/usr/bin/env bash
# diffusers 0.42.1: UNet2DModel takes a time that is a Python float as the integer below it: 0.1 and 0.9 are one time.
# The same value as a tensor is taken as it is. A guess would be that the two mean the same, since the documented type
# is "tensor, float or int". Whoever samples a network of continuous time (radians of TrigFlow, log sigma, 0..1) in a
# loop over a list of numbers gets the network at time 0 or 1 all along, and plausible noise: pass tensors.
#
# Seen on 2026-12-01 with diffusers 0.42.1, torch 2.13.0+cpu, Python 3.11:
#   outputs at times 0.1 and 0.9: as floats equal, as tensors 0.24 apart; 0.9 as a float equals 0
# Fails where floats give two outputs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 diffusers==0.42.1 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import UNet2DModel

torch.manual_seed(0)
net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
                  layers_per_block=1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2).eval()
x = torch.randn(1, 1, 8, 8)


@torch.no_grad()
def at(time):
    return net(x, time).sample


floats, tensors = (torch.dist(at(kind(0.1)), at(kind(0.9))).item() for kind in (float, torch.tensor))
zero = torch.equal(at(0.9), at(0))
print(f"outputs at times 0.1 and 0.9: as floats {'equal' if floats == 0 else floats}, as tensors {tensors:.2g} apart; "
      f"0.9 as a float {'equals' if zero else 'is not'} 0")
assert tensors > 0
assert floats == 0, "floats are two times now"
assert zero
PYTHON
