#!/usr/bin/env bash
# torch 2.13.0: on a CPU, FlopCounterMode counts scaled_dot_product_attention only where the layout of its inputs keeps
# it from the fused kernel: contiguous inputs count 0, the same numbers with the last two dimensions exchanged in memory
# count in full. A guess would be a formula of shapes. Counts that were checked on one network are wrong for another,
# and planning costs on a machine without a device leaves attention out: half of a transformer on long sequences.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, Python 3.11, 2 x 4 heads, 64 tokens of 16, 2,097,152 FLOPs:
#   contiguous 0; strided 2097152; under sdpa_kernel(MATH) 2097152
# Fails where the first two are counted alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted(x):
    with FlopCounterMode(display=False) as counter:
        out = F.scaled_dot_product_attention(x, x, x)
    return counter.get_total_flops(), out


x = torch.randn(2, 4, 64, 16)
strided = x.transpose(2, 3).contiguous().transpose(2, 3)
assert torch.equal(x, strided)
(first, a), (second, b) = counted(x), counted(strided)
with sdpa_kernel(SDPBackend.MATH):
    third, _ = counted(x)
print(f"contiguous {first}; strided {second}; under sdpa_kernel(MATH) {third}")
torch.testing.assert_close(a, b)
assert second == third == 2 * 2 * 2 * 4 * 64 * 64 * 16
assert first == 0, "the fused kernel is counted now"
PYTHON
