"""What the compiler makes of the attention kernels, without a GPU: registers, shared memory, spills, instructions.

Compiles every kind of launch of kernels/triton_path.py for sm_80 and sm_90 and reads the machine code with the tools
that come with Triton. Prints a table and writes benchmarks/results/attention-build.json. Five minutes on two cores.

    PYTHONPATH=. python benchmarks/attention_build.py

Columns: row: unit stride along the width; bq, bk, w, st: queries and keys a block, warps, pipeline stages; reg:
registers a thread; spill: instructions that spill or reload, loop: those in the main loop; hgmma, hmma: matrix
instructions; wide: 16-byte loads; fit: programs that a multiprocessor holds at once.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget

from kernels import triton_path
from kernels.triton_blocks import Blocks

RESULT = Path(__file__).parent / "results" / "attention-build.json"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
REGISTERS, SHARED, WARPS, PROGRAMS = 65536, {80: 163 * 1024, 90: 227 * 1024}, 64, 32  # of a multiprocessor


class Driver:
    """Stands for a GPU of a given architecture: Triton compiles for it and launches nothing."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        """Triton caches kernels by this number."""
        return self.architecture

    def get_current_target(self) -> GPUTarget:
        """CUDA with warps of 32."""
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0


class Case(NamedTuple):
    """One call of a function of `triton_path`: which tangents it has and what its tensors look like."""

    function: str  # forward, jvp, backward, jvp_backward
    tangents: str  # of q, k, v: those that are given
    dtype: torch.dtype
    width: int
    length: int
    by_row: bool = True  # else the length is contiguous, as in the U-Net
    causal: bool = False


def cases() -> list[Case]:
    """Every function, the widths and lengths of interest, layouts, types."""
    half, full = torch.float16, torch.float32
    kinds = [("forward", ""), ("jvp", "qkv"), ("backward", ""), ("jvp_backward", "qkv")]
    out = [Case(f, t, half, width, 4096) for width in (64, 128) for f, t in kinds]
    out += [Case(f, t, half, 64, 256, by_row=False) for f, t in kinds]
    out += [Case("jvp", t, half, 64, 4096) for t in ("q", "v", "kv")]
    out += [Case("jvp", "qkv", half, 64, 4096, causal=True), Case("jvp_backward", "qkv", half, 64, 4096, causal=True)]
    out += [Case(f, t, half, width, 4096) for width in (40, 72, 80, 96, 256) for f, t in (kinds[1], kinds[3])]
    out += [Case(f, t, torch.bfloat16, 64, 4096) for f, t in (kinds[1], kinds[3])]
    return out + [Case(f, t, full, 64, 4096) for f, t in (kinds[1], kinds[3])]


def compiled(case: Case, architecture: int) -> list[tuple[str, Blocks, Any]]:
    """(name, blocks, compiled kernel) of each launch of the case, with the arguments that the launchers make."""
    launches: list[tuple[str, Blocks, Any]] = []

    def compile_only(
        kernel: Any, programs: int, cut: Blocks, arguments: list[Any], flags: dict[str, bool], _: Any
    ) -> None:
        blocks = {"ROWS": cut.queries, "KEYS": cut.keys, "num_warps": cut.warps, "num_stages": cut.stages}
        built = kernel.warmup(*arguments, **flags, **blocks, grid=(programs,))
        parts = [name for flag, name in (("OF_KEYS", "dk"), ("OF_VALUES", "dv")) if flags.get(flag)]
        launches.append(("+".join([kernel.__name__.removesuffix("_kernel"), *parts]), cut, built))

    device = {"_check_device": lambda _: None, "_hopper": lambda _: architecture == 90}
    with patch.multiple(triton_path, _launch=compile_only, **device):
        _call(case)
    return launches


def _call(case: Case) -> None:
    def tensor() -> torch.Tensor:
        length, width = (case.length, case.width) if case.by_row else (case.width, case.length)
        x = torch.empty(1, 1, length, width, dtype=case.dtype)
        return x if case.by_row else x.mT

    q, k, v, out, grad = (tensor() for _ in range(5))
    tq, tk, tv = (tensor() if x in case.tangents else None for x in "qkv")
    rows, scale, causal = torch.empty(1, 1, case.length), 0.1, case.causal
    if case.function == "forward":
        triton_path.forward(q, k, v, scale, causal)
    elif case.function == "jvp":
        triton_path.jvp(q, k, v, tq, tk, tv, scale, causal)
    elif case.function == "backward":
        triton_path.backward(grad, q, k, v, out, rows, scale, causal)
    else:
        triton_path.jvp_backward(grad, grad, q, k, v, tq, tk, tv, out, out, rows, rows, scale, causal)


def machine_code(cubin: bytes) -> dict[str, int]:
    """Registers and stack bytes a thread, and counts of instructions; `loop_spills`: in the pipelined loop alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _run("cuobjdump", "--dump-resource-usage", path)
        code = _run("nvdisasm", "-c", path)
    numbers = {name: int(re.findall(name + r":(\d+)", usage)[0]) for name in ("REG", "STACK")}
    return {
        "registers": numbers["REG"],
        "stack_bytes": numbers["STACK"],
        "spills": _count(r"(LDL|STL)", code),
        "loop_spills": _count(r"(LDL|STL)", _main_loop(code)),
        "hgmma": _count("HGMMA", code),
        "hmma": _count("HMMA", code),
        "wide_loads": _count(r"(LDGSTS|LDG)\.[\w.]*128", code),
        "narrow_loads": _count(r"(LDGSTS|LDG)\b(?!\.[\w.]*128)", code),
    }


def _run(tool: str, *arguments: str | Path) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def _count(pattern: str, code: str) -> int:
    return len(re.findall(r"\b" + pattern, code))


def _main_loop(code: str) -> str:
    """Text of the innermost loop with matrix instructions that has most asynchronous loads; empty without a loop."""
    labels = {match[1]: match.start() for match in re.finditer(r"^\s*(\.L_x_\d+):", code, re.MULTILINE)}
    ends = [
        (labels[m[1]], m.end()) for m in re.finditer(r"BRA[^\n]*`\((\.L_x_\d+)\)", code) if labels[m[1]] < m.start()
    ]
    loops = [code[a:b] for a, b in ends if not any(a < c and d < b for c, d in ends)]
    return max(loops, key=lambda loop: (_count("H?G?MMA", loop) > 0, _count("LDGSTS", loop), len(loop)), default="")


def resident(code: dict[str, int], shared: int, warps: int, architecture: int) -> int:
    """Programs that fit a multiprocessor at once by registers, shared memory and warps."""
    registers = -(-code["registers"] // 8) * 8 * 32 * warps
    return min(REGISTERS // registers, SHARED[architecture] // (shared + 1024), WARPS // warps, PROGRAMS)


def report(architecture: int, chosen: list[Case]) -> Iterator[dict[str, Any]]:
    """One row a kernel."""
    driver: Any = Driver(architecture)
    triton.runtime.driver.set_active(driver)
    for case in chosen:
        for name, cut, kernel in compiled(case, architecture):
            code = machine_code(kernel.asm["cubin"])
            shared = kernel.metadata.shared
            fits = resident(code, shared, cut.warps, architecture)
            shape = {**case._asdict(), "dtype": str(case.dtype).removeprefix("torch.")}
            yield {
                "sm": architecture,
                "kernel": name,
                **shape,
                **cut._asdict(),
                **code,
                "shared_bytes": shared,
                "resident": fits,
            }


COLUMNS = {  # key of a row: heading
    "sm": "sm", "function": "function", "kernel": "kernel", "tangents": "tan", "dtype": "dtype", "width": "D",
    "length": "N", "by_row": "row", "causal": "caus", "queries": "bq", "keys": "bk", "warps": "w", "stages": "st",
    "registers": "reg", "shared_bytes": "shared", "spills": "spill", "loop_spills": "loop", "hgmma": "hgmma",
    "hmma": "hmma", "wide_loads": "wide", "narrow_loads": "narrow", "resident": "fit",
}  # fmt: skip
WIDTHS = [12 if name in ("function", "kernel", "dtype") else max(4, len(x)) for name, x in COLUMNS.items()]


def main() -> None:
    """Compile, print, write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []
    _print(COLUMNS.values())
    for architecture in (90, 80):
        for row in report(architecture, cases()):
            rows.append(row)
            _print("yes" if row[name] is True else row[name] or "-" for name in COLUMNS)
    record = {"date": str(datetime.date.today()), "triton": triton.__version__, "rows": rows}
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


def _print(fields: Iterable[object]) -> None:
    print(*(str(x).rjust(width) for x, width in zip(fields, WIDTHS, strict=True)), flush=True)


if __name__ == "__main__":
    main()
