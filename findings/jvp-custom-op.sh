#!/usr/bin/env bash
# torch 2.13.0: torch.func.jvp takes an operator of torch.library.custom_op for a constant: its tangent is zero, without
# an error or a warning, also where register_autograd has given its gradient. A guess would be the error that other
# operators without a forward derivative raise. A consistency loss over a network with one kernel of one's own then
# trains on a wrong tangent. The way out is an autograd.Function with a jvp around the operator, as trigscale's
# attention has.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, Python 3.11, x * x at 3:
#   gradient 6.0; tangent of the operator 0.0; of the Function around it 6.0; an operator of torch's own raises
# Fails where the operator has the right tangent, or raises.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.func import jvp


@torch.library.custom_op("findings::square", mutates_args=())
def square(x: torch.Tensor) -> torch.Tensor:
    return x * x


def save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)
    ctx.save_for_forward(*inputs)


def times_slope(ctx, along):
    return 2 * ctx.saved_tensors[0] * along


class Square(torch.autograd.Function):
    forward = staticmethod(lambda x: square(x))
    setup_context = staticmethod(save)
    backward = jvp = staticmethod(times_slope)


square.register_autograd(times_slope, setup_context=save)
x, one = torch.tensor([3.0]), torch.ones(1)
leaf = x.clone().requires_grad_()
(gradient,) = torch.autograd.grad(square(leaf), leaf)
tangent, wrapped = (jvp(f, (x,), (one,))[1].item() for f in (square, Square.apply))
try:
    grid = torch.zeros(1, 2, 2, 2)
    jvp(lambda y: F.grid_sample(y, grid, align_corners=False), (torch.ones(1, 1, 2, 2),), (torch.ones(1, 1, 2, 2),))
    says = "is silent"
except NotImplementedError:
    says = "raises"
print(f"gradient {gradient.item()}; tangent of the operator {tangent}; of the Function around it {wrapped}; "
      f"an operator of torch's own {says}")
assert gradient.item() == wrapped == 6
assert tangent == 0, "the operator has a tangent now"
PYTHON
