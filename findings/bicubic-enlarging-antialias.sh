#!/usr/bin/env bash
# torch 2.13.0: F.interpolate(mode="bicubic", antialias=True) enlarges with another cubic kernel than antialias=False (a
# = -0.5 as in pillow, against a = -0.75). A guess would be that antialiasing changes nothing where an image grows,
# since its filter is as wide as without: so it is for bilinear. Upsamplers, position embeddings and the 299 pixels of
# an Inception network differ at every edge. "Bicubic" is two filters: say which.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, Python 3.11, a step from 0 to 255, 8 pixels to 16:
#   largest difference: bilinear 0.00 levels, bicubic 8.96; overshoot without antialias 26.9, with it 17.9
# Fails where bicubic agrees to a hundredth of a level.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F

step = torch.tensor([0.0] * 4 + [255.0] * 4).expand(1, 1, 8, 8)


def enlarged(mode):
    return [F.interpolate(step, (16, 16), mode=mode, antialias=flag) for flag in (False, True)]


apart = {mode: torch.sub(*enlarged(mode)).abs().max().item() for mode in ("bilinear", "bicubic")}
over = [image.max().item() - 255 for image in enlarged("bicubic")]
print(f"largest difference: bilinear {apart['bilinear']:.2f} levels, bicubic {apart['bicubic']:.2f}; "
      f"overshoot without antialias {over[0]:.1f}, with it {over[1]:.1f}")
assert apart["bilinear"] < 0.01
assert apart["bicubic"] > 0.01, "one kernel for both now"
PYTHON
