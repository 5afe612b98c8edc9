"""The cases that every path of attention is judged on, by group; each is drawn anew for a type and a device.

Numbers are drawn in float64 on the CPU from a seed made of the case's name and rounded to the type, so that every
path, type and device judges the same draw.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

SLICED = ("heads last", "length last", "packed", "padded", "poisoned", "misaligned", "strided")
LAYOUTS = (*SLICED, "expanded heads", "expanded rows")
TANGENTS = ("tq", "tk", "tv")


@dataclass(frozen=True)
class Case:
    """One request. `exact`: every product is exact in float32, so that even huge logits have one right answer."""

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    tq: Tensor | None
    tk: Tensor | None
    tv: Tensor | None
    scale: float
    causal: bool = False
    exact: bool = False

    @property
    def six(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """q, k, v, tq, tk, tv."""
        return self.q, self.k, self.v, self.tq, self.tk, self.tv

    def cotangents(self) -> tuple[Tensor, Tensor]:
        """Gradients of a loss to out and to tangent, [B, H, Nq, Dv] in the type of v."""
        shape = (*self.q.shape[:3], self.v.shape[-1])
        generator = torch.Generator().manual_seed(zlib.crc32(b"cotangents of " + self.name.encode()))
        both = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        grad, grad_tangent = (x.to(self.v.dtype).to(self.v.device) for x in both)
        return grad, grad_tangent


@dataclass(frozen=True)
class Spec:
    """How to draw a case: shape, scale (1/sqrt(D) unless given), layout of each tensor, sizes of the numbers."""

    group: str
    name: str
    nq: int = 33
    nk: int = 33
    d: int = 16
    dv: int = 16
    batch: int = 1
    heads: int = 2
    groups: int = 2
    scale: float | None = None
    causal: bool = False
    absent: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    amplitude: float = 1.0
    common: float = 0.0  # one vector of this size added to the tangents of all keys
    make: Callable[[Spec, torch.dtype, torch.device], Case] | None = None

    def draw(self, dtype: torch.dtype, device: torch.device) -> Case:
        """The case in a type, on a device."""
        if self.make is not None:
            return self.make(self, dtype, device)
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        q, k, v = (self.batch, self.heads), (self.batch, self.groups), (self.batch, self.groups)
        shapes = [(*q, self.nq, self.d), (*k, self.nk, self.d), (*v, self.nk, self.dv)] * 2
        drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        drawn[:2] = [x * self.amplitude for x in drawn[:2]]
        drawn[4] += self.common * torch.randn(self.d, generator=generator, dtype=torch.float64)
        layouts = self.layouts or ("contiguous",)
        laid = [lay(x.to(dtype).to(device), layouts[i % len(layouts)]) for i, x in enumerate(drawn)]
        tq, tk, tv = (None if n in self.absent else x for n, x in zip(TANGENTS, laid[3:], strict=True))
        scale = self.d**-0.5 if self.scale is None else self.scale
        return Case(self.name, laid[0], laid[1], laid[2], tq, tk, tv, scale, self.causal)


def lay(x: Tensor, layout: str) -> Tensor:
    """A tensor [B, H, N, D] equal to x (its first row or head, where those are expanded), laid out otherwise in memory.

    What lies between and around its numbers is NaN.
    """
    b, h, n, d = x.shape
    if layout == "contiguous":
        return x.contiguous()
    if layout == "expanded heads":
        return x[:, :1].contiguous().expand_as(x)
    if layout == "expanded rows":
        return x[:, :, :1].contiguous().expand_as(x)
    homes: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
        "heads last": ((b, n, h, d), lambda home: home.transpose(1, 2)),
        "length last": ((b, h, d, n), lambda home: home.mT),
        "packed": ((b, n, 3, h, d), lambda home: home[:, :, 1].transpose(1, 2)),
        "padded": ((b, h, n + 3, d + 16 - d % 16 + 16), lambda home: home[:, :, :n, :d]),
        "poisoned": ((b + 1, h, n + 7, d + 5), lambda home: home[1:, :, 3 : 3 + n, 2 : 2 + d]),
        "misaligned": ((prod(x.shape) + 1,), lambda home: home[1:].view(x.shape)),
        "strided": ((b, h, n, 2 * d), lambda home: home[..., 1::2]),
    }
    shape, view = homes[layout]
    cut = view(torch.full(shape, torch.nan, dtype=x.dtype, device=x.device))
    return cut.copy_(x)


def _one_hot(spec: Spec, dtype: torch.dtype, device: torch.device) -> Case:
    """Logits of up to 5e37 (6e10 in half): each row sees one key, or some that are equal in all products.

    q and k are rows of signs times `base`; all sums are small multiples of one power of two, exact in float32. The
    tangents are signs over `base`, so that dS is of ordinary size.
    """
    base = 61440.0 if dtype == torch.float16 else 2.0**60 * 1.5
    unit = 2.0 ** -(16 if dtype == torch.float16 else 61)
    generator = torch.Generator().manual_seed(zlib.crc32(spec.name.encode()))

    def signs(n: int) -> Tensor:
        drawn = torch.randint(0, 2, (1, spec.heads, n, spec.d), generator=generator, dtype=torch.int64)
        return drawn.double() * 2 - 1

    q, k = (base * signs(n) for n in (spec.nq, spec.nk))
    k[:, :, -1] = k[:, :, 0]  # two keys of one logit, far apart
    tq, tk = (unit * signs(n) for n in (spec.nq, spec.nk))
    v, tv = (size * signs(spec.nk) for size in (1.5, 0.5))
    q, k, v, tq, tk, tv = (x.to(dtype).to(device) for x in (q, k, v, tq, tk, tv))
    scale = 1.0 if spec.scale is None else spec.scale
    return Case(spec.name, q, k, v, tq, tk, tv, scale, spec.causal, exact=True)


def _specs() -> Iterable[Spec]:
    for n in (1, 2, 3, 13, 31, 32, 33, 61, 63, 64, 65):
        yield Spec("length", f"length {n}", n, n)
    for d in (16, 24, 40, 64, 72, 80, 88, 96, 128, 136, 192, 256):
        yield Spec("width", f"width {d}", 17, 37, d, d, heads=1, groups=1)
    for d, dv in ((16, 40), (72, 16), (64, 128), (256, 64), (40, 24), (88, 40)):
        yield Spec("width", f"width {d} to {dv}", 17, 37, d, dv, heads=1, groups=1)
    for nq, nk in ((1, 77), (77, 1), (5, 64), (64, 5), (31, 65), (65, 31)):
        yield Spec("cross", f"{nq} queries of {nk} keys", nq, nk)
        yield Spec("causal", f"causal {nq} of {nk}", nq, nk, causal=True)
    for n in (1, 2, 31, 32, 33, 65):
        yield Spec("causal", f"causal {n}", n, n, causal=True)
    for h, g in ((2, 1), (4, 2), (3, 1), (6, 3)):
        yield Spec("grouped", f"{h} heads of {g}", 19, 37, heads=h, groups=g)
    yield Spec("grouped", "4 heads of 2, causal", 17, 37, heads=4, groups=2, causal=True)
    for layout in LAYOUTS:
        yield Spec("layout", f"all {layout}", 19, 37, batch=2, layouts=(layout,))
    for layout in ("length last", "padded"):
        yield Spec("layout", f"all {layout}, lengths of whole vectors", 24, 40, 24, 40, layouts=(layout,))
    yield Spec("layout", "poisoned padding", 19, 37, 24, 40, layouts=("poisoned",))
    yield Spec("layout", "mixed", 19, 37, 40, 24, layouts=SLICED)
    yield Spec("layout", "mixed, width 72 to 40", 19, 37, 72, 40, layouts=SLICED[2:], causal=True)
    yield Spec("layout", "mixed, otherwise", 19, 37, 24, 24, batch=2, layouts=LAYOUTS[::-1], causal=True)
    yield Spec("layout", "mixed, grouped", 19, 37, heads=2, groups=1, layouts=LAYOUTS[2:])
    for scale in (0.0, -0.25, -1.0, 1.0, 3.0):
        yield Spec("scale", f"scale {scale}", 33, 37, scale=scale)
    yield Spec("scale", "scale -1, causal", 37, 37, scale=-1.0, causal=True)
    yield Spec("scale", "sharp rows", 33, 65, amplitude=6.0)
    yield Spec("edge", "edge of overflow", 17, 37, make=_one_hot)
    yield Spec("edge", "edge of overflow, causal", 37, 37, causal=True, make=_one_hot)
    yield Spec("edge", "edge of overflow, negative scale", 17, 37, scale=-1.0, make=_one_hot)
    for amplitude, common in ((1.0, 16.0), (3.0, 16.0), (12.0, 16.0)):
        name = f"common key tangent {common:g}, amplitude {amplitude:g}"
        yield Spec("centring", name, 33, 130, 64, 64, heads=1, groups=1, amplitude=amplitude, common=common)
    for absent in (("tq",), ("tk",), ("tv",), ("tq", "tk"), ("tq", "tv"), ("tk", "tv"), TANGENTS):
        yield Spec("absent", f"without {' '.join(absent)}", 19, 37, 24, 40, absent=absent)


SPECS = {spec.name: spec for spec in _specs()}
GROUPS = tuple(dict.fromkeys(spec.group for spec in SPECS.values()))


def larger(spec: Spec) -> Spec:
    """The same case with lengths of several blocks of a real launch, n as 5 n - 1, and numbers of its own."""
    return replace(spec, name=f"{spec.name}, larger", nq=5 * spec.nq - 1, nk=5 * spec.nk - 1)
