"""The Triton path's own logic: which layouts it takes as they are, what it refuses, when it compiles, what comes out.

Correctness over shapes, types and layouts is tested in test_correctness.py; here are the launchers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from kernels import triton_blocks, triton_path  # noqa: E402: needs triton

ROOT = Path(__file__).parents[2]
HALF = torch.float16


def described(x: Tensor) -> tuple[bool, int, bool]:
    """(by row, elements of an aligned vector, copied) of the input that a kernel gets for x."""
    (matrix,) = triton_path._matrices(True, x)
    assert matrix is not None
    return matrix.BY_ROW.value, matrix.VECTOR.value, matrix.pointer is not x


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.empty(2, 3, 65, 40, dtype=HALF), (True, 8, False)),
        (torch.empty(2, 3, 65, 36, dtype=HALF), (True, 1, False)),  # rows of 72 bytes
        (torch.empty(2, 3, 65, 36), (True, 4, False)),
        (torch.empty(2, 3, 64, 65, dtype=HALF)[..., 1:], (True, 1, False)),
        (torch.empty(2, 3, 40, 64, dtype=HALF).mT, (False, 8, False)),
        (torch.empty(2, 3, 40, 65, dtype=HALF).mT, (False, 1, False)),  # a mask over 65 keys is no row of vectors
        (torch.empty(2, 3, 40, 72, dtype=HALF)[..., :65].mT, (False, 1, False)),
        (torch.empty(2, 3, 64, 80, dtype=HALF)[..., ::2], (True, 8, True)),  # no stride is 1
        (torch.empty(1, 1, 1, 1, dtype=HALF).expand(2, 3, 64, 40), (True, 8, True)),
        (torch.empty(2, 1, 64, 40, dtype=HALF).expand(2, 3, 64, 40), (True, 8, False)),
        (torch.empty(200, dtype=HALF).as_strided((1, 1, 1, 40), (7, 7, 7, 1)), (True, 8, False)),  # strides of size 1
        (torch.empty_strided((1, 1, 64, 40), (0, 0, 2**23, 1), dtype=HALF, device="meta"), (True, 8, True)),
    ],
)  # fmt: skip
def test_layouts_are_taken_as_they_are_where_one_stride_is_1(tensor: Tensor, expected: tuple[bool, int, bool]) -> None:
    assert described(tensor) == expected


def test_widths_are_cut_into_powers_of_two() -> None:
    found = {width: triton_blocks.parts(width, True) for width in range(1, 257)}
    assert {x: found[x] for x in (1, 24, 40, 72, 88, 100, 192)} == {
        1: (16, 0), 24: (32, 0), 40: (32, 16), 72: (64, 16), 88: (64, 32), 100: (128, 0), 192: (128, 64)
    }  # fmt: skip
    for width, (first, rest) in found.items():
        assert width <= first + rest <= triton_blocks.parts(width, False)[0]
        assert all(x & (x - 1) == 0 and x != 8 for x in (first, rest))


def test_one_unaligned_input_makes_all_loads_narrow() -> None:
    aligned, shifted = torch.empty(1, 1, 16, 16, dtype=HALF), torch.empty(257, dtype=HALF)[1:].view(1, 1, 16, 16)
    assert [x and x.VECTOR.value for x in triton_path._matrices(True, aligned, shifted)] == [1, 1]


@pytest.mark.parametrize(("d", "dv", "dtype"), [(257, 16, HALF), (16, 300, HALF), (16, 16, torch.float64)])
def test_what_it_cannot_do_names_the_other_path(d: int, dv: int, dtype: torch.dtype) -> None:
    q, v = torch.zeros(1, 1, 4, d, dtype=dtype), torch.zeros(1, 1, 4, dv, dtype=dtype)
    for refused in (triton_path.forward, lambda *args: triton_path.jvp(*args[:3], *args[:3], *args[3:])):
        with pytest.raises(ValueError, match=r"257|300|float64.*path='chunked'"):
            refused(q, q, v, 1.0, False)


def test_bfloat16_is_refused_where_the_interpreter_would_compute_nonsense() -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is off on a GPU machine")
    x = torch.zeros(1, 1, 4, 16, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="interpreter"):
        triton_path.forward(x, x, x, 1.0, False)


def test_empty_inputs_launch_nothing() -> None:
    q, k = torch.zeros(2, 4, 0, 16), torch.ones(2, 2, 5, 16)
    out, tangent, lse, mean = triton_path.jvp(q, k, k, q, k, k, 1.0, False)
    assert out.shape == tangent.shape == (2, 4, 0, 16)
    assert lse.shape == mean.shape == (2, 4, 0)
    gradients = triton_path.jvp_backward(out, out, q, k, k, q, k, k, out, tangent, lse, mean, 1.0, False)
    for x, gradient in zip((q, k, k, q, k, k), gradients, strict=True):
        assert gradient is not None
        assert gradient.shape == x.shape
        assert bool((gradient == 0).all())


def test_offsets_beyond_2_31_elements() -> None:
    """Heads that lie 2^29 elements apart in lazily allocated memory: the stride fits 32 bits, the offset does not."""
    if torch.cuda.is_available():
        pytest.skip("tests/gpu has this one")
    storage = torch.empty(2**31 + 4096, dtype=HALF)
    far = storage.as_strided((1, 5, 20, 16), (0, 2**29, 16, 1))
    near = torch.randn(1, 5, 20, 16, generator=torch.Generator().manual_seed(0)).half()
    far.copy_(near)
    out, _ = triton_path.forward(far, far, far, 0.25, False)
    assert torch.equal(out, triton_path.forward(near, near, near, 0.25, False)[0])


def without_interpreter(code: str, cache: Path) -> str:
    """What `code` prints in a Python where Triton compiles."""
    environment = {x: y for x, y in os.environ.items() if x != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


COMPILE = """
import torch
from benchmarks.attention_build import Case, compiled, report
from kernels import triton_path
from kernels.triton_forward import forward_kernel

half = torch.float16
for case in (Case("jvp", "qkv", half, 64, 4096), Case("jvp", "qkv", half, 64, 256, by_row=False)):
    (row,) = report(90, [case])
    assert row["hgmma"] > 0 and row["hmma"] == 0 and row["spills"] == 0, row
    assert row["wide_loads"] > 0 and row["narrow_loads"] == 0, row
variants = forward_kernel.device_caches[90][0]
for case in [Case("forward", "", half, 40, n) for n in (257, 1000, 16384)]:
    compiled(case, 90)
print(len(variants))
for case in [Case("forward", "", half, 64, n, by_row=False) for n in (8, 16, 200, 256)]:
    compiled(case, 90)
print(len(variants))

x = torch.zeros(1, 1, 4, 16)
try:
    triton_path.forward(x, x, x, 1.0, False)
except ValueError as error:
    print(error)
"""


@pytest.mark.nightly
def test_compiles_once_for_all_lengths_to_wide_loads_and_warp_group_products(tmp_path: Path) -> None:
    by_row, by_column, refusal = without_interpreter(COMPILE, tmp_path).splitlines()
    assert (by_row, by_column) == ("3", "4")  # after the first two: one more for each layout
    assert "needs a GPU" in refusal
    assert "path='chunked'" in refusal
