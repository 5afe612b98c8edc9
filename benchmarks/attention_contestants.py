"""Who takes part in benchmarks/attention.py, and on which shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention import PLAIN_KEYS, attention, attention_jvp

# Floating-point operations per Nq Nk D, of matrix products alone, by what is computed.
OPERATIONS = {"forward": 4, "jvp": 12, "jvp of q": 8, "jvp, backward of out": 22, "forward, backward": 14}
PEER = "jvp_flash_attention"
FLASH = "flash-attn"  # its forward and backward, where it is installed
PEER_WIDTHS = (32, 64, 128, 256)  # and lengths that are multiples of 32, which all of ours are

Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # q, k, v and their tangents


class Shape(NamedTuple):
    """q, k and v are [batch, heads, length, width]."""

    name: str
    batch: int
    heads: int
    length: int
    width: int
    dtype: torch.dtype

    def record(self) -> dict[str, Any]:
        """The shape as it stands in the file."""
        return {**self._asdict(), "dtype": str(self.dtype).removeprefix("torch.")}


def draw(shape: Shape, device: str) -> Six:
    """Standard normal inputs."""
    generator = torch.Generator(device).manual_seed(0)
    size = (shape.batch, shape.heads, shape.length, shape.width)
    q, k, v, tq, tk, tv = (torch.randn(size, generator=generator, device=device).to(shape.dtype) for _ in range(6))
    return q, k, v, tq, tk, tv


class Contestant(NamedTuple):
    """`make` prepares a call, which returns what it computes."""

    name: str
    computes: str
    make: Callable[[Six], Callable[[], Any]]


def gpu_shapes() -> Iterator[Shape]:
    """The most wanted first: time may run out."""
    bf16, fp16 = torch.bfloat16, torch.float16
    tokens = 2**17  # of all heads together
    for length in (4096, 8192, 16384, 1024, 2048):
        for width in (128, 64, 72):
            yield Shape("long", 1, tokens // length, length, width, bf16)
    for size, channels in (("S", 192), ("XXL", 448)):
        for batch in (32, 256):
            # Heads of 64 channels; 3 times the channels at 16x16, 4 times at 8x8.
            yield Shape(f"U-Net {size}", batch, 3 * channels // 64, 256, 64, bf16)
            yield Shape(f"U-Net {size}", batch, 4 * channels // 64, 64, 64, bf16)
    yield Shape("long", 1, tokens // 4096, 4096, 64, fp16)
    yield Shape("U-Net S", 32, 9, 256, 64, fp16)


def cpu_shapes() -> Iterator[Shape]:
    """Small enough for minutes on two cores."""
    for length, heads in ((64, 64), (256, 16), (1024, 4), (2048, 2), (4096, 1)):
        for width in (64, 128):
            yield Shape("U-Net" if length < 1024 else "long", 1, heads, length, width, torch.float32)


def contestants(device: str, shape: Shape) -> Iterator[Contestant]:
    """Ours first, by the path that it chooses: its tangent is what the others' are compared with."""
    yield Contestant("ours", "jvp", lambda x: lambda: attention_jvp(*x))
    if device == "cuda" or shape.length <= PLAIN_KEYS:
        yield Contestant("ours, chunked", "jvp", lambda x: lambda: attention_jvp(*x, path="chunked"))
    yield Contestant("MATH under func.jvp", "jvp", lambda x: lambda: math_jvp(x))
    yield Contestant(PEER, "jvp", lambda x: lambda: peer_jvp(x))
    yield Contestant("ours, tq alone", "jvp of q", lambda x: lambda: ours_of_q(x))
    yield Contestant("ours, forward", "forward", lambda x: lambda: attention(*x[:3]))
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "MATH": SDPBackend.MATH}
    if device == "cuda":
        backends = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
    for name, backend in backends.items():
        yield Contestant(f"SDPA {name}", "forward", lambda x, backend=backend: lambda: sdpa(x, backend))
    yield Contestant(FLASH, "forward", lambda x: lambda: attention(*x[:3], path="flash"))
    yield Contestant("ours, with backward", "jvp, backward of out", lambda x: lambda: ours_step(x))
    yield Contestant("SDPA flash, with backward", "forward, backward", lambda x: lambda: sdpa_step(x))
    yield Contestant(f"{FLASH}, with backward", "forward, backward", lambda x: lambda: flash_step(x))
    if shape.name.startswith("U-Net"):
        yield Contestant("ours, channels first", "jvp", lambda x: ours_channels_first(x))


def ours_of_q(x: Six) -> tuple[Tensor, Tensor]:
    """The derivative in q alone: the other tangents are absent, not zero."""
    q, k, v, tq, *_ = x
    return attention_jvp(q, k, v, tq, None, None)


def math_jvp(x: Six) -> tuple[Tensor, Tensor]:
    """What PyTorch itself offers: forward mode through the plain formula, all logits at once."""
    with sdpa_kernel(SDPBackend.MATH):
        out, tangent, *_ = torch.func.jvp(F.scaled_dot_product_attention, x[:3], x[3:])
    return out, tangent


def peer_jvp(x: Six) -> tuple[Any, ...]:
    """jvp_flash_attention from PyPI, by its own advice with dual tensors."""
    if find_spec(PEER) is None:
        raise NotImplementedError("not installed")
    if x[0].shape[3] not in PEER_WIDTHS or not x[0].is_cuda:
        raise NotImplementedError("no such width" if x[0].is_cuda else "needs a GPU")
    peer = import_module(f"{PEER}.jvp_attention").JVPAttn
    with forward_ad.dual_level():
        dual = peer.fwd_dual(*(forward_ad.make_dual(p, t) for p, t in zip(x[:3], x[3:], strict=True)))
        return tuple(forward_ad.unpack_dual(dual))


def sdpa(x: Six, backend: SDPBackend) -> Tensor:
    """One of PyTorch's own forwards; RuntimeError where it does not know the shape."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*x[:3])


def ours_step(x: Six) -> tuple[Tensor, ...]:
    """As in training: value and JVP, then the gradient of the value."""
    q, k, v = (y.detach().requires_grad_() for y in x[:3])
    with torch.enable_grad():
        out, _ = attention_jvp(q, k, v, *x[3:], tangent_grad=False)
        return torch.autograd.grad(out, (q, k, v), x[3])


def sdpa_step(x: Six) -> tuple[Tensor, ...]:
    """What training without JVP costs."""
    q, k, v = (y.detach().requires_grad_() for y in x[:3])
    with torch.enable_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), x[3])


def flash_step(x: Six) -> tuple[Tensor, ...]:
    """The same by the package flash-attn."""
    q, k, v = (y.detach().requires_grad_() for y in x[:3])
    with torch.enable_grad():
        return torch.autograd.grad(attention(q, k, v, path="flash"), (q, k, v), x[3])


def ours_channels_first(x: Six) -> Callable[[], Any]:
    """The layout in which the U-Net's convolutions leave q, k and v."""
    q, k, v, tq, tk, tv = (y.mT.contiguous().mT for y in x)
    return lambda: attention_jvp(q, k, v, tq, tk, tv)
