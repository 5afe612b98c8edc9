#!/usr/bin/env bash
# diffusers 0.42.1: EDMEulerScheduler.set_timesteps(sigmas=...) reads the tensor not as noise levels but as the ramp
# 0..1 that its formula turns into levels. A guess would be what the name says, and what sigmas= is in the other
# schedulers. A list of levels 10, 5, 1, .1 becomes a schedule of huge negative ones, without an error; the levels of a
# distilled model can be given only through the inverse of the formula. Compare scheduler.sigmas with what was asked
# for.
#
# Seen on 2026-12-01 with diffusers 0.42.1, torch 2.13.0+cpu, Python 3.11:
#   asked for [10.0, 5.0, 1.0, 0.1]: [-5.37e+07, -1.38e+05, 0.002, 45.3]; asked for [0.0, 0.5, 1.0]: [80, 2.52, 0.002]
# Fails where the levels are those asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 diffusers==0.42.1 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import EDMEulerScheduler


def levels(asked):
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(sigmas=torch.tensor(asked))
    return scheduler.sigmas[:-1]  # the last is the 0 that is added


asked, ramp = [10.0, 5.0, 1.0, 0.1], [0.0, 0.5, 1.0]
made, between = levels(asked), levels(ramp)
shown = ("; ".join(f"asked for {a}: [{', '.join(f'{x:.3g}' for x in b.tolist())}]" for a, b in ((asked, made), (ramp, between))))
print(shown)
assert abs(between[0].item() - 80) < 1e-3
assert abs(between[-1].item() - 0.002) < 1e-6
assert not torch.allclose(made, torch.tensor(asked)), "the levels are taken now"
PYTHON
