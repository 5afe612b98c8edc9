#!/usr/bin/env bash
# torch 2.13.0: torch.compile of a function that calls torch.func.jvp drops the jvp method of an autograd.Function and
# differentiates what its forward does. Where that is an operator of torch.library.custom_op, a kernel say, the compiled
# tangent is zero, and the eager one right. A guess would be equal values, or a graph break. Shown with backend="eager":
# it is the tracing and no compiler. torch.compiler.disable around the Function's apply brings the tangent back.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, Python 3.11, x * x at 3, tangent 1:
#   eager 6.0; compiled 0.0; compiled with apply disabled 6.0
# Fails where the compiled tangent is right, or raises.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.func import jvp


@torch.library.custom_op("findings::square", mutates_args=())
def square(x: torch.Tensor) -> torch.Tensor:
    return x * x


@square.register_fake
def _(x):
    return torch.empty_like(x)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return square(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * ctx.saved_tensors[0] * tangent


def derivative(f):
    return lambda x, tangent: jvp(f, (x,), (tangent,))[1]


at = torch.tensor([3.0]), torch.ones(1)
eager = derivative(Square.apply)(*at).item()
compiled = torch.compile(derivative(Square.apply), backend="eager")(*at).item()
apart = torch.compiler.disable(lambda x: Square.apply(x))
kept = torch.compile(derivative(apart), backend="eager")(*at).item()
print(f"eager {eager}; compiled {compiled}; compiled with apply disabled {kept}")
assert eager == 6
assert compiled == 0, "the compiled tangent is another now"
PYTHON
