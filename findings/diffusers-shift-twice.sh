#!/usr/bin/env bash
# diffusers 0.42.1: FlowMatchEulerDiscreteScheduler(shift=3) shifts its last noise level twice: set_timesteps(n) spaces
# times down to a sigma_min that was shifted on construction, and shifts them again. A guess would be the levels of the
# formula shift u / (1 + (shift - 1) u) at even u, or a subset of those that it shows before set_timesteps. The last
# step starts at three times the noise, and a sampler that is compared with one's own differs at every level.
# sigmas=[...] are shifted once.
#
# Seen on 2026-12-01 with diffusers 0.42.1, torch 2.13.0+cpu, Python 3.11, shift 3:
#   lowest level: on construction 0.0030, after set_timesteps(1000) 0.0089, from the same 1000 times as sigmas 0.0030
# Fails where set_timesteps keeps the lowest level.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 diffusers==0.42.1 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
built = scheduler.sigmas[-1].item()
scheduler.set_timesteps(1000)
spaced = scheduler.sigmas[-2].item()  # the last is the 0 that is added
given = FlowMatchEulerDiscreteScheduler(shift=3.0)
given.set_timesteps(sigmas=torch.linspace(1, 0.001, 1000).tolist())
once = given.sigmas[-2].item()


def shift(u):
    return 3 * u / (1 + 2 * u)


print(f"lowest level: on construction {built:.4f}, after set_timesteps(1000) {spaced:.4f}, "
      f"from the same 1000 times as sigmas {once:.4f}")
assert abs(built - shift(0.001)) < 1e-6
assert abs(once - shift(0.001)) < 1e-6
assert abs(spaced - shift(shift(0.001))) < 1e-5, "set_timesteps shifts once now"
PYTHON
