"""Judges attention against plain formulas in float64 on the inputs as they are, with bounds derived for each element.

Truth knows nothing of the package under test. Its bounds add what the arithmetic may cost:
- rounding to half (unit u: 2^-11 fp16, 2^-8 bf16): P and W = P (dS - mu) once for the matrix unit, the result once:
  2u P|v| for the value, 2u ((P (|dS| + |mu|)) |v| + P |tv|) for the tangent. Half logits or half sums break this.
  What is common to a row of dS must not cost digits: with c_j the mean of dS under P over the keys up to j and
  r_j = max over i >= j of |c_i - mu|, centring W on a running mean, whatever the blocks, costs the tangent at most
  u (P (|dS - mu| + 2 r)) |v| + u P |tv| and its last rounding. Both bounds must hold.
- below the normal range of half a rounding costs `tiny` at most, not u: P~ = e^(S - max) has l = sum P~ >= 1.
- arithmetic in float32 (unit e = 2^-24, 2^-53 for float64): a sum of n products is off by e growth(n) times the sum of
  their absolute values, growth(n) = 4 + 2 sqrt(n): the probabilistic bound (Higham and Mary 2019) and a few roundings
  more. Hence S by sigma = e (growth(D) |scale| |q||k| + 2 (max - S) + 8), where the second term is the rounding of the
  exponent and the third that of exp; P relatively by pi = sigma + sum P sigma + e growth(Nk); dS as S is; mu by what P
  and dS are off by. These enter value, tangent and gradients to first order.
Backward: A = G v^T + E tv^T, M = E v^T, delta = rowsum(G out + E tangent), b = rowsum(E out), Z = P (A - delta +
C (M - b)), Y = P (M - b), C = dS - mu; delta and b are off by what the path's own out and tangent may be off by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tests.kernels.cases import Case

GRADIENTS = ("dq", "dk", "dv", "dtq", "dtk", "dtv")


class Path(Protocol):
    """The four functions of a path module; see kernels/NOTES.md."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]: ...

    def jvp(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tq: Tensor | None,
        tk: Tensor | None,
        tv: Tensor | None,
        scale: float,
        causal: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        scale: float,
        causal: bool,
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def jvp_backward(
        self,
        grad: Tensor | None,
        grad_tangent: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tq: Tensor | None,
        tk: Tensor | None,
        tv: Tensor | None,
        out: Tensor,
        tangent: Tensor,
        lse: Tensor,
        mean: Tensor,
        scale: float,
        causal: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]: ...


def growth(n: int) -> float:
    """Roundings in a sum of n products, in units of e times the sum of absolute values."""
    return 4 + 2 * n**0.5


def plain_jvp(
    q: Tensor, k: Tensor, v: Tensor, tq: Tensor, tk: Tensor, tv: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Value and tangent [B, H, Nq, Dv] by the plain formula, differentiable; heads of k and v serve groups of q's."""
    k, v, tk, tv = (repeat_heads(x, q.shape[1]) for x in (k, v, tk, tv))
    s = (scale * q @ k.mT).masked_fill(hidden(q, k, causal), -torch.inf)
    p = torch.softmax(s, -1)
    ds = scale * (tq @ k.mT + q @ tk.mT)
    h = p * (ds - (p * ds).sum(-1, keepdim=True))
    return p @ v, h @ v + p @ tv


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """[B, G, N, D] as [B, H, N, D]: each head in turn serves H // G query heads."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def hidden(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """[Nq, Nk], true where query i must not see key j > i."""
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    return mask.triu(1) if causal else ~mask


@dataclass(frozen=True)
class Units:
    """What one rounding costs: u to the input's type (0 where that is the type of the sums), tiny below its normal
    range, e in the sums. For float64 the truth itself rounds: e counts twice."""

    u: float
    tiny: float
    e: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> Units:
        """The units for inputs of this type."""
        info = torch.finfo(dtype)
        if dtype in (torch.float16, torch.bfloat16):
            return cls(info.eps / 2, info.tiny * info.eps / 2, 2.0**-24)
        return cls(0.0, info.tiny, info.eps if dtype == torch.float64 else info.eps / 2)


class Truth:
    """Value, tangent, lse and mean of a case in float64 and the bound of each; probabilities for the gradients."""

    def __init__(self, case: Case) -> None:
        self.case, self.units = case, Units.of(case.q.dtype)
        q, tq = case.q.double(), _double(case.tq, case.q)
        k, v = (repeat_heads(x.double(), q.shape[1]) for x in (case.k, case.v))
        tk, tv = (repeat_heads(_double(t, x), q.shape[1]) for t, x in ((case.tk, case.k), (case.tv, case.v)))
        self.wide = (q, k, v, tq, tk, tv)
        self.unseen = hidden(q, k, case.causal)
        s = (case.scale * q @ k.mT).masked_fill(self.unseen, -torch.inf)
        self.p = torch.softmax(s, -1)
        self.ds = (case.scale * (tq @ k.mT + q @ tk.mT)).masked_fill(self.unseen, 0)
        self.mean = (self.p * self.ds).sum(-1)
        self.c = self.ds - self.mean[..., None]
        self.lse = torch.logsumexp(s, -1)
        self.out = self.p @ v
        self.tangent = (self.p * self.c) @ v + self.p @ tv
        self._bounds(s)

    def _bounds(self, s: Tensor) -> None:
        """Sets pi, off_ds, off_mean and the bounds of out, tangent, lse and mean."""
        case, (q, k, v, tq, tk, tv), p = self.case, self.wide, self.p
        u, tiny, e = self.units.u, self.units.tiny, self.units.e
        exact = 0.0 if case.exact else e * growth(q.shape[-1]) * abs(case.scale)
        gap = (s.amax(-1, keepdim=True) - s).masked_fill(self.unseen, 0)
        sigma = exact * q.abs() @ k.abs().mT + e * (2 * gap + 8)
        off_log = (p * sigma).sum(-1, keepdim=True)
        if (off_log > 0.1).any():
            raise ValueError(f"{case.name}: float32 logits say nothing here; choose an exact case")
        many = e * growth(k.shape[2])
        self.pi = sigma + off_log + many
        self.off_ds = exact * (tq.abs() @ k.abs().mT + q.abs() @ tk.abs().mT)
        size = p * (self.ds.abs() + self.mean.abs()[..., None])
        self.off_mean = (p * (self.off_ds + self.pi * self.c.abs()) + many * size).sum(-1)
        self.off_c = self.off_ds + self.off_mean[..., None]
        seen = (~self.unseen).double()
        self.normal = torch.exp(s.amax(-1) - self.lse)[..., None]  # 1 / l
        small = tiny * (self.normal * (seen @ v.abs()) + 1)
        majorant = size @ v.abs() + p @ tv.abs()
        centred = (p * (self.c.abs() + 2 * self._wander())) @ v.abs() + p @ tv.abs() + self.tangent.abs()
        self.off_out = (2 * u + many) * p @ v.abs() + (p * self.pi) @ v.abs() + small
        self.off_tangent = (
            torch.minimum(2 * u * majorant, u * centred)
            + many * majorant
            + (p * (self.pi * self.c.abs() + self.off_c)) @ v.abs()
            + (p * self.pi) @ tv.abs()
            + small
            + tiny * self.normal * (seen @ tv.abs())
        )
        # A float32 number near lse is e |lse| away from the next; an exact case's logits are rounded to base 2.
        self.off_lse = off_log[..., 0] + many + 4 * e * self.lse.abs()
        self.off_mean_32 = self.off_mean + 2 * e * self.mean.abs()

    def _wander(self) -> Tensor:
        """r [B, H, Nq, Nk]: how far the running mean of dS may still be from mu at this key or later."""
        running = (self.p * self.ds).cumsum(-1) / self.p.cumsum(-1)
        away = (running - self.mean[..., None]).abs().nan_to_num(0)  # no weight yet: nothing to centre
        return away.flip(-1).cummax(-1).values.flip(-1)


def gradients(case: Case, grad: Tensor | None, grad_tangent: Tensor | None) -> list[Tensor]:
    """Gradients of <grad, out> + <grad_tangent, tangent> to q, k, v, tq, tk, tv by autograd in float64."""
    given = zip(case.six, (case.q, case.k, case.v) * 2, strict=True)
    leaves = [_double(x, like).detach().requires_grad_() for x, like in given]
    q, k, v, tq, tk, tv = leaves
    results = plain_jvp(q, k, v, tq, tk, tv, case.scale, case.causal)
    pairs = [(y, g.double()) for y, g in zip(results, (grad, grad_tangent), strict=True) if g is not None]
    found = torch.autograd.grad([y for y, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


def gradient_bounds(truth: Truth, grad: Tensor | None, grad_tangent: Tensor | None) -> list[Tensor]:
    """What each gradient may be off by, in the order and the shapes of `gradients`."""
    q, k, v, tq, tk, tv = (x.abs() for x in truth.wide)
    u, tiny, e = truth.units.u, truth.units.tiny, truth.units.e
    p, pi, c, off_c = truth.p, truth.pi, truth.c.abs(), truth.off_c
    g, t = (torch.zeros_like(truth.out) if x is None else x.double().abs() for x in (grad, grad_tangent))
    width, many = e * growth(v.shape[-1]), e * growth(max(q.shape[2], k.shape[2]))
    a, m = g @ v.mT + t @ tv.mT, t @ v.mT
    off_delta = (g * truth.off_out + t * truth.off_tangent).sum(-1, keepdim=True)
    off_b = (t * truth.off_out).sum(-1, keepdim=True)
    delta = (g * truth.out.abs() + t * truth.tangent.abs()).sum(-1, keepdim=True)
    b = (t * truth.out.abs()).sum(-1, keepdim=True)
    # p is exp(S - lse) here: off by pi and by the rounding of lse.
    pi = pi + truth.off_lse[..., None]
    z_size, y_size = p * (a + delta + (truth.ds.abs() + truth.mean.abs()[..., None]) * (m + b)), p * (m + b)
    off_z = (u + width + many) * z_size + pi * z_size + p * (off_delta + c * off_b + off_c * (m + b))
    off_y = (u + width + many) * y_size + pi * y_size + p * off_b
    off_p, off_w = (u + many) * p + pi * p, (u + many) * p * c + p * (pi * c + off_c)
    seen = ~truth.unseen
    off_z, off_y, off_p, off_w = (x * seen + tiny * seen for x in (off_z, off_y, off_p, off_w))
    s = abs(truth.case.scale)
    heads = truth.case.k.shape[1]
    bounds = [s * (off_z @ k + off_y @ tk), s * (off_z.mT @ q + off_y.mT @ tq), off_p.mT @ g + off_w.mT @ t]
    bounds += [s * off_y @ k, s * off_y.mT @ q, off_p.mT @ t]
    return [_group(x, heads) if i % 3 else x for i, x in enumerate(bounds)]


def ratio(got: Tensor, want: Tensor, bound: Tensor) -> float:
    """The largest |got - want| / bound, with 0 / 0 = 0; inf where got is not finite."""
    if got.shape != want.shape:
        raise AssertionError(f"shape {tuple(got.shape)} instead of {tuple(want.shape)}")
    off = (got.detach().double() - want).abs()
    found = torch.where(off == 0, 0.0, off / bound).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return float(found.max()) if found.numel() else 0.0


def judge_forward(path: Path, case: Case) -> dict[str, float]:
    """Ratios to the bound of forward's out and lse and of jvp's out, tangent, lse and mean."""
    truth = Truth(case)
    out, lse = path.forward(case.q, case.k, case.v, case.scale, case.causal)
    found = {"forward out": ratio(out, truth.out, truth.off_out), "forward lse": ratio(lse, truth.lse, truth.off_lse)}
    out, tangent, lse, mean = path.jvp(*case.six, case.scale, case.causal)
    found |= {"out": ratio(out, truth.out, truth.off_out), "lse": ratio(lse, truth.lse, truth.off_lse)}
    found |= {"tangent": ratio(tangent, truth.tangent, truth.off_tangent)}
    return found | {"mean": ratio(mean, truth.mean, truth.off_mean_32)}


def judge_backward(path: Path, case: Case, through: Sequence[str] = ("out", "tangent", "both")) -> dict[str, float]:
    """Ratios to the bound of all gradients of a loss of out alone, of the tangent alone, of both."""
    truth = Truth(case)
    grad, grad_tangent = case.cotangents()
    found: dict[str, float] = {}
    if "out" in through:
        out, lse = path.forward(case.q, case.k, case.v, case.scale, case.causal)
        got = path.backward(grad, case.q, case.k, case.v, out, lse, case.scale, case.causal)
        found |= _compare("out", got, truth, grad, None)
    for label, g in (("tangent", None), ("both", grad)):
        if label in through:
            out, tangent, lse, mean = path.jvp(*case.six, case.scale, case.causal)
            six = path.jvp_backward(g, grad_tangent, *case.six, out, tangent, lse, mean, case.scale, case.causal)
            if [x is None for x in six] != [x is None for x in case.six]:
                raise AssertionError("gradients of absent tangents are None, those of present ones are not")
            found |= _compare(label, six, truth, g, grad_tangent)
    return found


def _compare(
    label: str, got: Sequence[Tensor | None], truth: Truth, grad: Tensor | None, grad_tangent: Tensor | None
) -> dict[str, float]:
    """Ratios of the gradients that are there; rounding a gradient to its type costs one unit more."""
    u, tiny = truth.units.u + truth.units.e, truth.units.tiny
    wants, bounds = gradients(truth.case, grad, grad_tangent), gradient_bounds(truth, grad, grad_tangent)
    return {
        f"{name} of {label}": ratio(x, want, bound + u * want.abs() + tiny)
        for name, x, want, bound in zip(GRADIENTS, got, wants, bounds, strict=False)
        if x is not None
    }


def _group(x: Tensor, heads: int) -> Tensor:
    """Sums [B, H, N, D] over the query heads that share one of `heads` key heads."""
    return x.unflatten(1, (heads, -1)).sum(2)


def _double(x: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.float64) if x is None else x.double()
