#!/usr/bin/env bash
# torch 2.13.0: under torch.func.jvp, torch.no_grad stops no tangent: it passes through the block as if it were not
# there, while the gradient of the same function stops. A guess would be that both derivatives are of one function,
# since torch.func.grad honours a no_grad inside. A stop-gradient for a teacher or a target that is written as no_grad
# is thus none for the tangent of a consistency model; detach() stops both.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, Python 3.11, f(x) = x + stopped(2 x):
#   no_grad: func.grad 1.0, func.jvp 3.0; detach: func.grad 1.0, func.jvp 1.0
# Fails where the two agree about no_grad.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.func import grad, jvp


def through_no_grad(x):
    with torch.no_grad():
        target = 2 * x
    return x + target


def through_detach(x):
    return x + (2 * x).detach()


x, one = torch.tensor(0.5), torch.tensor(1.0)
found = {}
for name, f in (("no_grad", through_no_grad), ("detach", through_detach)):
    found[name] = grad(f)(x).item(), jvp(f, (x,), (one,))[1].item()
print("; ".join(f"{name}: func.grad {back}, func.jvp {forward}" for name, (back, forward) in found.items()))
assert found["detach"] == (1, 1)
assert found["no_grad"] == (1, 3), "no_grad stops tangents now"
PYTHON
