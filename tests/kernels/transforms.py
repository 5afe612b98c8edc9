"""Attention under every pair of transforms, compiled, exported and traced: which give the eager number, which refuse.

`python -m tests.kernels.transforms [WAY ...]` prints the table that stands in kernels/NOTES.md; half an hour, most of
it inductor's. A cell is right if all numbers are those of the plain formula in float64 under torch's own transforms,
refused if an error is raised, and WRONG, the exit code 1, otherwise; each is judged in a process of its own, since a
transform that failed can leave torch's levels open.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves, tree_map

from kernels.attention import attention, attention_jvp

Function = Callable[..., Any]
LENGTHS = (20, 70)  # keys, below and above the change of paths


def draw(keys: int) -> tuple[Tensor, ...]:
    """q, k, v in float64, with grouped heads."""
    generator = torch.Generator().manual_seed(keys)
    shapes = (1, 2, 3, 4), (1, 1, keys, 4), (1, 1, keys, 2)
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


def within(path: Any = None) -> Function:
    """Attention in the middle of others, so that what enters it carries derivatives."""
    return lambda q, k, v: attention(q.sin(), k * 2, v.exp(), causal=True, path=path).square()


def with_tangent(path: Any = None) -> Function:
    """The same of attention_jvp, one tangent absent."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, tangent = attention_jvp(q.sin(), k * 2, v.exp(), q.cos(), None, v * 3, path=path)
        return (out * tangent).sin()

    return function


def _loss(function: Function) -> Function:
    return lambda *x: sum(y.sin().sum() for y in tree_leaves(function(*x)))


def _jvp(function: Function) -> Function:
    return lambda *x: jvp(function, x, tuple(y.cos() for y in x))


def _dual(function: Function) -> Function:
    def run(*x: Tensor) -> Any:
        with forward_ad.dual_level():
            out = function(*(forward_ad.make_dual(y, y.cos()) for y in x))
            return tree_map(lambda y: tuple(forward_ad.unpack_dual(y)), out)

    return run


def _vmap(function: Function) -> Function:
    return lambda q, *x: vmap(lambda size: function(q * size, *x))(torch.tensor([1.0, -2.0], dtype=torch.float64))


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "-": lambda f: f,
    "grad": lambda f: grad(_loss(f), argnums=(0, 1, 2)),
    "jvp": _jvp,
    "vmap": _vmap,
    "jacfwd": jacfwd,
    "jacrev": jacrev,
    "dual": _dual,
}
PAIRS = [(outer, inner) for outer in TRANSFORMS for inner in ("-", "grad", "jvp", "vmap")]


class _Module(torch.nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        return self.function(q, k, v)


def _compiled(backend: str, dynamic: bool) -> Callable[[Function, Function, tuple[Tensor, ...]], Function]:
    return lambda outer, f, _: torch.compile(outer(f), backend=backend, dynamic=dynamic or None, fullgraph=True)


def _around(backend: str) -> Callable[[Function, Function, tuple[Tensor, ...]], Function]:
    return lambda outer, f, _: outer(torch.compile(f, backend=backend, fullgraph=True))


# How a pair is run: the outer transform, the function under the inner one, inputs -> the function under both.
WAYS: dict[str, Callable[[Callable[[Function], Function], Function, tuple[Tensor, ...]], Function]] = {
    "eager": lambda outer, f, _: outer(f),
    "make_fx": lambda outer, f, x: outer(make_fx(f)(*x)),
    "export": lambda outer, f, x: outer(torch.export.export(_Module(f), x).module()),
    "aot_eager": _compiled("aot_eager", False),
    "aot_eager dynamic": _compiled("aot_eager", True),
    "inductor": _compiled("inductor", False),
    "inductor dynamic": _compiled("inductor", True),
    "around aot_eager": _around("aot_eager"),
    "around inductor": _around("inductor"),
}


def judge(way: str, outer: str, inner: str, keys: int, function: Callable[..., Function] = within) -> str:
    """right, "refused: " and the error, or WRONG and how far off."""
    x, transform, way_of = draw(keys), TRANSFORMS[outer], WAYS[way]
    try:
        run = way_of(transform, TRANSFORMS[inner](function()), x)
        if "dynamic" in way:
            run(*draw(keys + 1))
        got = tree_leaves(run(*x))
        for y in got:  # what torch left at a level that is closed fails where it is used
            if y is not None:
                y.sum().item()
    except Exception as error:  # whatever is refused, by whomever, is shown
        return f"refused: {type(error).__name__}: {error}"
    want = tree_leaves(transform(TRANSFORMS[inner](function("reference")))(*x))
    if any(a is None for a in got):
        return "WRONG: a tangent is lost"
    off = max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
    return "right" if off < 1e-10 else f"WRONG: {off:.1e}"


def _judge_all(cells: list[tuple[str, str, str, int, Callable[..., Function]]]) -> list[str]:
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(judge, cells, chunksize=1)


def main(ways: list[str]) -> int:
    """Print the table and, below it, what was refused in which words."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # threads do not survive a fork
    for name in ("torch._dynamo", "torch._inductor.compile_fx", "torch.export"):  # once, not in each fork
        import_module(name)
    print(f"torch {torch.__version__}, float64, causal, grouped heads, {' and '.join(map(str, LENGTHS))} keys\n")
    print("| outer of inner | " + " | ".join(ways) + " |")
    print("|" + "---|" * (len(ways) + 1), flush=True)
    refusals: dict[str, str] = {}
    failed = False
    for outer, inner in PAIRS:
        row = []
        for way in ways:
            functions = (within,) if "inductor" in way else (within, with_tangent)
            found = set(_judge_all([(way, outer, inner, n, f) for n in LENGTHS for f in functions]))
            for text in found:
                words = " ".join(text.split())
                if words.startswith("refused"):
                    refusals.setdefault(words[:60], words)
            failed |= any(text.startswith("WRONG") for text in found)
            row.append(", ".join(sorted({text.split(":")[0] for text in found})))
        print(f"| {outer} of {inner} | " + " | ".join(row) + " |", flush=True)
    print("\n" + "\n".join(f"- {text[:400]}" for text in refusals.values()))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(WAYS)))
