"""Faults to plant in the kernels, and how: one replacement in a copy of the source, imported under another name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import cast

import pytest

import kernels
from tests.kernels.cases import Spec
from tests.kernels.judge import Path as Functions
from tests.kernels.routes import module_name, shrink

SOURCE = Path(kernels.__file__).parent
_numbers = count()


def _cases() -> Iterable[Spec]:
    """With no more heads and blocks than a fault needs to show: each costs the interpreter a tenth of a second."""
    one = Spec("fault", "plain", 17, 40, heads=1, groups=1)
    yield one
    yield replace(one, name="causal", nq=31, causal=True)
    yield replace(one, name="sharp rows", nk=65, amplitude=6.0)
    yield replace(one, name="common key tangent", nk=130, d=64, dv=64, amplitude=3.0, common=16.0)
    yield replace(one, name="two heads", nk=20, heads=2, groups=2)
    yield replace(one, name="4 heads of 2", nk=20, heads=4, groups=2)
    yield replace(one, name="4 heads of 2, causal", nk=37, heads=4, groups=2, causal=True)
    yield replace(one, name="2 heads of 1", nk=20, heads=2)
    yield replace(one, name="negative scale", nq=37, nk=37, scale=-1.0, causal=True)
    yield replace(one, name="poisoned padding", nk=37, d=24, layouts=("poisoned",))
    yield replace(one, name="length last", nk=37, layouts=("length last",))
    yield replace(one, name="two parts", nk=20, d=72, dv=72)


CASES = {spec.name: spec for spec in _cases()}


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` in a file; the case named is meant to see it, in the gradients or before."""

    file: str
    name: str
    old: str
    new: str
    case: str = "plain"
    backward: bool = False

    @property
    def path(self) -> str:
        """The path that the file is part of."""
        return self.file.split("_")[0]


def plant(fault: Fault | None, path: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Functions:
    """A copy of the path's module, blocks small, with the fault in it, or with none."""
    package = folder / f"planted_{next(_numbers)}"
    package.mkdir()
    for source in SOURCE.glob(f"{path}*.py"):
        text = source.read_text()
        if fault is not None and source.stem == fault.file:
            found = text.count(fault.old)
            if found != 1:
                raise ValueError(
                    f"{fault.name}: {fault.old!r} stands {found} times in {source.name}: follow the source"
                )
            text = text.replace(fault.old, fault.new)
        (package / source.name).write_text(re.sub(rf"\bkernels\.(?={path})", f"{package.name}.", text))
    monkeypatch.syspath_prepend(folder)
    functions = cast(Functions, import_module(module_name(path, package.name)))
    shrink(path, package.name, monkeypatch)
    return functions


FAULTS = (
    Fault("triton_forward", "mu is dropped", "h = p * (d * scale - c_new[:, None])", "h = p * (d * scale)"),
    Fault(
        "triton_forward",
        "the mean's move is dropped",
        "move = (a * (c - c_new))[:, None]",
        "move = (0 * a)[:, None]",
    ),
    Fault("triton_forward", "the mean forgets the past", "(a * l * c + scale * tl.sum", "(scale * tl.sum"),
    Fault("triton_forward", "the mean is not divided", "c = c_new", "c = c_new * l_new"),
    Fault(
        "triton_forward",
        "out is not rescaled",
        "o = weighted(p.to(half), v_tile, scaled(o, a[:, None]))",
        "o = weighted(p.to(half), v_tile, o)",
    ),
    Fault("triton_forward", "the sum is not rescaled", "l_new = a * l + tl.sum(p, 1)", "l_new = l + tl.sum(p, 1)"),
    Fault("triton_forward", "the tangent is not rescaled", "t = (t[0] * a[:, None] + o", "t = (t[0] + o"),
    Fault("triton_forward", "the tail is off by one", "seen = key < keys", "seen = key <= keys"),
    Fault("triton_forward", "the causal mask is off by one", "key <= first +", "key <= 1 + first +", "causal"),
    Fault(
        "triton_forward",
        "half logits",
        "s = scores(q_tile, k_tile, zero)",
        "s = scores(q_tile, k_tile, zero).to(half).to(tl.float32)",
        "sharp rows",
    ),
    Fault(
        "triton_forward",
        "half weights' sum",
        "l_new = a * l + tl.sum(p, 1)",
        "l_new = (a * l + tl.sum(p, 1)).to(half).to(tl.float32)",
    ),
    Fault(
        "triton_forward",
        "uncentred dS in half",
        "h = p * (d * scale - c_new[:, None])",
        "h = (p * (d * scale)).to(half).to(tl.float32) - p * c_new[:, None]",
        "common key tangent",
    ),
    Fault(
        "triton_forward", "one head's keys for all", "key_head = head // group", "key_head = head - head", "two heads"
    ),
    Fault(
        "triton_forward",
        "the wrong head of a group",
        "key_head = head // group",
        "key_head = head % (heads // group)",
        "4 heads of 2",
    ),
    Fault(
        "triton_forward",
        "dS in base 2",
        "h = p * (d * scale - c_new[:, None])",
        "h = p * (d * (scale * LOG2_E) - c_new[:, None])",
    ),
    Fault("triton_forward", "no tangent of keys", "d = scores(q_tile, tk_tile, d)", "d = d"),
    Fault("triton_forward", "no tangent of values", "t = weighted(p.to(half), tv_tile, t)", "t = t"),
    Fault("triton_forward", "lse in base 2", "m * scale + tl.log(l)", "m * scale + tl.log2(l)"),
    Fault(
        "triton_forward",
        "a negative scale's logits peak low",
        "NEGATIVE else tl.maximum(m, tl.max(s, 1))",
        "False else tl.maximum(m, tl.max(s, 1))",
        "negative scale",
    ),
    Fault(
        "triton_tiles",
        "the width's padding is read",
        "((start + rows)[:, None] < stop) & (cols[None, :] < x.WIDTH)",
        "(start + rows)[:, None] < stop",
        "poisoned padding",
    ),
    Fault(
        "triton_tiles",
        "keys past the end are read",
        "((start + rows)[:, None] < stop) & (cols[None, :] < x.WIDTH)",
        "cols[None, :] < x.WIDTH",
        "poisoned padding",
    ),
    Fault(
        "triton_tiles",
        "wide loads of what is not aligned",
        "stop = length // x.VECTOR * x.VECTOR",
        "stop = length // 8 * 8",
        "length last",
    ),
    Fault("triton_tiles", "the second part is dropped", "matmul(a[1], tl.trans(b[1]), acc)", "acc", "two parts"),
    Fault("triton_tiles", "the second part has no weights", "rest = matmul(p, b[1], rest)", "rest = rest", "two parts"),
    Fault(
        "triton_tiles", "the second part is the first", "tl.arange(0, COLS) + FIRST", "tl.arange(0, COLS)", "two parts"
    ),
    Fault(
        "triton_tiles",
        "the second part is not in delta",
        "total += tl.sum(a[1]",
        "total += 0 * tl.sum(a[1]",
        "two parts",
        backward=True,
    ),
    Fault("triton_backward", "delta is dropped", "z = p * (a - delta[:, None])", "z = p * a", backward=True),
    Fault(
        "triton_backward",
        "no tangent in delta",
        "row_delta += row_products(e_tile, t_tile)",
        "row_delta += 0",
        backward=True,
    ),
    Fault(
        "triton_backward",
        "b is dropped",
        "(scores(e, v_tile, zero) - b[:, None])",
        "scores(e, v_tile, zero)",
        backward=True,
    ),
    Fault(
        "triton_backward",
        "the mean is dropped",
        "z += (d * scale - mean[:, None]) * y",
        "z += d * scale * y",
        backward=True,
    ),
    Fault(
        "triton_backward",
        "dS is not scaled",
        "z += (d * scale - mean[:, None]) * y",
        "z += (d - mean[:, None]) * y",
        backward=True,
    ),
    Fault("triton_backward", "no tk in dq", "dq = weighted(y.to(half), tk_tile, dq)", "dq = dq", backward=True),
    Fault(
        "triton_backward", "no tangent in dv", "dv = weighted((p * c).to(half), e_tile, dv)", "dv = dv", backward=True
    ),
    Fault("triton_backward", "dtk is not scaled", "scaled(sums[1], scale), k", "sums[1], k", backward=True),
    Fault(
        "triton_backward",
        "one query head of a group",
        "< queries, group, 0)",
        "< queries, 1, 0)",
        "2 heads of 1",
        backward=True,
    ),
    Fault(
        "triton_backward",
        "the causal mask of keys is off by one",
        "tl.arange(0, KEYS)[:, None] <= start",
        "tl.arange(0, KEYS)[:, None] <= 1 + start",
        "causal",
        backward=True,
    ),
    Fault(
        "chunked", "the parts' means are not compared", "slope = of_a * of_b * (b.mean - a.mean)", "slope = of_a * 0"
    ),
    Fault(
        "chunked",
        "the mean is its centre",
        "torch.add(centre, rest, out=mean)",
        "torch.add(centre, 0 * rest, out=mean)",
    ),
    Fault("chunked", "lse in base 2", "lse.log_().add_(part.top)", "lse.log2_().add_(part.top)"),
    Fault("chunked", "dS in base 2", "_products(ds, pairs, scale)", "_products(ds, pairs, scale * LOG2E)"),
    Fault("chunked", "no tangent of values", "_add(tangent, p, keys.tv)", "pass"),
    Fault(
        "chunked",
        "half logits",
        "torch.amax(p, -1, keepdim=True, out=part.top)",
        "torch.amax(p.copy_(p.half()), -1, keepdim=True, out=part.top)",
        "sharp rows",
    ),
    Fault(
        "chunked_tiles",
        "the causal mask is off by one",
        "device=device) > i[:, None]",
        "device=device) > i[:, None] + 1",
        "causal",
    ),
    Fault(
        "chunked_tiles",
        "the mask counts a group's rows in turn",
        ".repeat(self.lengths[1])",
        ".repeat_interleave(self.lengths[1])",
        "4 heads of 2, causal",
    ),
    Fault("chunked", "delta is dropped", "-(g_out + e_tangent)", "zero", backward=True),
    Fault("chunked", "no tangent in delta", "-(g_out + e_tangent)", "-g_out", backward=True),
    Fault(
        "chunked", "b is dropped", "-(g_out + e_tangent), -mean, -b", "-(g_out + e_tangent), -mean, zero", backward=True
    ),
    Fault("chunked", "no tk in dq", "_add(dq, y, keys.tk, scale)", "pass", backward=True),
    Fault("chunked", "no tangent in dv", "_add(sums.v, c.mul_(p).mT, e)", "pass", backward=True),
    Fault(
        "chunked",
        "dtk is not scaled",
        "_add(sums.tk, y.mT, rows.q, scale)",
        "_add(sums.tk, y.mT, rows.q)",
        backward=True,
    ),
)
