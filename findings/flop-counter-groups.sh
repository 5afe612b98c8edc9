#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts the weight gradient of a grouped convolution as if it had no groups. A backward
# pass is then not twice the forward pass but (1 + groups) times. A guess would be the ratio 2 that it counts for other
# convolutions. The price of training a depthwise network comes out tens of times too high, and a "compute" axis with
# it. Count such networks by their forward pass times three.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, Python 3.11, Conv2d(8, 8, 3), backward over forward:
#   groups 1: 2.0; groups 2: 3.0; groups 4: 5.0; groups 8: 9.0
# Fails where the ratio is 2 for all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.utils.flop_counter import FlopCounterMode


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


ratio = {}
for groups in (1, 2, 4, 8):
    conv = torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    forward = counted(lambda conv=conv, x=x: conv(x))
    assert forward == 2 * 64 * 8 * 8 * 9 // groups
    ratio[groups] = (counted(lambda conv=conv, x=x: conv(x).sum().backward()) - forward) / forward
print("; ".join(f"groups {groups}: {each}" for groups, each in ratio.items()))
assert ratio[1] == 2
assert all(ratio[groups] == 1 + groups for groups in ratio), ratio
PYTHON
