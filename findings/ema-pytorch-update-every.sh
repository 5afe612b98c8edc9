#!/usr/bin/env bash
# ema-pytorch 0.8.3: KarrasEMA and PostHocEMA (the power-function averages of EDM2) count calls of update, but move only
# at every hundredth by default, by the share that is right where they move at each. The average that is stored, and all
# that is synthesized from it, is then far wider than the sigma_rel it is named by, and has most of its weight on the
# start of training. A guess would be an approximation of the same average. update_every=1 gives the closed form of the
# paper.
#
# Seen on 2026-12-01 with ema-pytorch 0.8.3, torch 2.13.0+cpu, Python 3.11, 4000 steps, a weight that equals its step:
#   mean over the profile of sigma_rel 0.1: 3552; update_every=1: 3553; by default: 288
# Fails where the default is within a tenth of the closed form.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 ema-pytorch==0.8.3 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from ema_pytorch.post_hoc_ema import KarrasEMA, sigma_rel_to_gamma

STEPS, SIGMA_REL = 4000, 0.1


def average(**options):
    net = torch.nn.Linear(1, 1, bias=False)
    ema = KarrasEMA(net, sigma_rel=SIGMA_REL, **options)
    for step in range(1, STEPS + 1):
        net.weight.data.fill_(step)
        ema.update()
    return ema.ema_model.weight.item()


gamma = sigma_rel_to_gamma(SIGMA_REL)  # the profile is t^gamma
closed = STEPS * (gamma + 1) / (gamma + 2)
every, default = average(update_every=1), average()
print(f"mean over the profile of sigma_rel {SIGMA_REL}: {closed:.0f}; update_every=1: {every:.0f}; by default: {default:.0f}")
assert abs(every / closed - 1) < 0.01
assert abs(default / closed - 1) > 0.1, "the default has the profile of its name now"
PYTHON
