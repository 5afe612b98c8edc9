"""Attention on a GPU: what the interpreter cannot show. Accuracy is in test_attention_cases_gpu.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.attention import attention, attention_jvp
from tests.kernels.cases import Case, Spec
from tests.kernels.judge import Truth, ratio
from tests.kernels.routes import label

pytestmark = pytest.mark.gpu
NAMES = ("q", "k", "v", "tq", "tk", "tv")
HALF = (torch.float16, torch.bfloat16)
SPEC = Spec("gpu", "GPU", 257, 301, 64, 64, batch=2, heads=4, groups=2)


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Give the memory of large tests back."""
    yield
    torch.cuda.empty_cache()


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal numbers, drawn on the GPU."""
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda", dtype=dtype)


def within(case: Case, out: Tensor, tangent: Tensor) -> None:
    """Value and tangent within their bounds."""
    truth = Truth(case)
    assert ratio(out, truth.out, truth.off_out) <= 1
    assert ratio(tangent, truth.tangent, truth.off_tangent) <= 1


def run(case: Case, **options: Any) -> tuple[Tensor, Tensor]:
    """attention_jvp of a case."""
    return attention_jvp(*case.six, scale=case.scale, causal=case.causal, **options)


def pull(case: Case) -> list[Tensor]:
    """out, tangent and all gradients of <G, out> + <E, tangent>."""
    leaves = [x.detach().requires_grad_() for x in case.six if x is not None]
    out, tangent = attention_jvp(*leaves, scale=case.scale, causal=case.causal)
    return [out, tangent, *torch.autograd.grad((out, tangent), leaves, case.cotangents())]


@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=label)
def test_the_gpu_takes_triton_unless_told(device: torch.device, dtype: torch.dtype) -> None:
    """Bit for bit the same as asking for it; float64 and wide heads take the chunked path."""
    case = SPEC.draw(dtype, device)
    for got, want in zip(run(case), run(case, path="triton"), strict=True):
        assert torch.equal(got, want)
    wide = replace(SPEC, d=264, dv=264).draw(dtype, device)
    for other in (wide, SPEC.draw(torch.float64, device)):
        assert torch.equal(run(other)[1], run(other, path="chunked")[1])


@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=label)
def test_twenty_runs_give_the_same_bits(device: torch.device, dtype: torch.dtype) -> None:
    """Value, tangent and gradients, whatever else the GPU does."""
    case = replace(SPEC, causal=True, nq=300).draw(dtype, device)
    first = pull(case)
    for _ in range(19):
        noise = randn(512, 512, dtype=dtype)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            noise = noise @ noise
        assert all(torch.equal(x, y) for x, y in zip(pull(case), first, strict=True))
    torch.cuda.synchronize()


@pytest.mark.parametrize("n", [16384, 65536])
@pytest.mark.parametrize("through", ["forward", "jvp", "backward", "jvp_backward"])
def test_memory_is_linear_in_the_length(n: int, through: str) -> None:
    """Above inputs and outputs: statistics of 16 bytes a row forward, a few copies of a row backward."""
    width = 64
    six = [randn(1, 1, n, width, dtype=torch.bfloat16, seed=i) for i in range(6)]
    leaves = [x.requires_grad_("backward" in through) for x in six]
    grad = randn(1, 1, n, width, dtype=torch.bfloat16, seed=6)
    count = {"forward": 1, "jvp": 2, "backward": 1 + 3, "jvp_backward": 2 + 6}[through]

    def call() -> list[Tensor]:
        if through in ("forward", "backward"):
            results = [attention(*leaves[:3])]
            given = leaves[:3]
        else:
            results, given = list(attention_jvp(*leaves)), leaves
        grads = torch.autograd.grad(results, given, [grad] * len(results)) if "backward" in through else ()
        return [*results, *grads]

    call()  # compiles, and lets autograd and cuBLAS allocate what they keep
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = call()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before - sum(x.nbytes for x in results)
    assert len(results) == count
    assert extra <= n * (16 if "backward" not in through else 16 + 4 * width * 4) + 2**20


@pytest.mark.parametrize("dtype", HALF, ids=label)
def test_65536_keys(dtype: torch.dtype) -> None:
    """Sampled rows of a long sequence against float64, and the last row of the causal one, which sees all keys."""
    n = 65536
    case = Case("long", *(randn(1, 1, n, 64, dtype=dtype, seed=i) for i in range(6)), scale=0.125)
    rows = torch.tensor([0, 1, 127, 128, 30000, n - 1], device="cuda")
    assert case.tq is not None
    sample = replace(case, q=case.q[:, :, rows], tq=case.tq[:, :, rows])
    within(sample, *(x[:, :, rows] for x in run(case)))
    last = replace(case, q=case.q[:, :, -1:], tq=case.tq[:, :, -1:])
    within(last, *(x[:, :, -1:] for x in run(replace(case, causal=True))))


def test_70000_heads(device: torch.device) -> None:
    """Beyond the 65,535 blocks that a grid has in its second dimension; first and last heads judged, gradients too."""
    spec = Spec("gpu", "many heads", 16, 16, 16, 16, batch=7000, heads=10, groups=10)
    case = spec.draw(torch.float16, device)
    found, ends = pull(case), [0, 1, 6998, 6999]
    part = replace(case, **{n: getattr(case, n)[ends] for n in NAMES})
    within(part, *(x[ends] for x in found[:2]))
    grad, grad_tangent = case.cotangents()
    alone = [x.detach().requires_grad_() for x in part.six if x is not None]
    results = attention_jvp(*alone, scale=case.scale)
    want = torch.autograd.grad(results, alone, (grad[ends], grad_tangent[ends]))
    assert all(torch.equal(x[ends], y) for x, y in zip(found[2:], want, strict=True))


@pytest.mark.parametrize("axis", ["batch", "row"])
def test_offsets_beyond_two_to_the_31(axis: str) -> None:
    """Tensors cut out of 4.3 GB and more, NaN between: each element lies where 32 bits do not reach."""
    n, d = (96, 64) if axis == "batch" else (2200, 64)
    shape = (2, 1, n, d)
    stride = (2**31 + 64, n * d, d, 1) if axis == "batch" else (n * 2**20, n * 2**20, 2**20, 1)
    if axis == "row":
        shape = (1, 1, n, d)
    size = sum((length - 1) * step for length, step in zip(shape, stride, strict=True)) + 1
    apart = n * d if axis == "batch" else d  # the six lie side by side in each other's gaps
    home = torch.full((size + 6 * apart,), torch.nan, dtype=torch.float16, device="cuda")
    views = [home.as_strided(shape, stride, i * apart) for i in range(6)]
    views = [view.copy_(randn(*shape, dtype=torch.float16, seed=i)) for i, view in enumerate(views)]
    case = Case("far", *views, scale=0.125)
    within(case, *run(case))
    near = replace(case, **{name: getattr(case, name).contiguous() for name in NAMES})
    assert all(torch.equal(x, y) for x, y in zip(pull(case), pull(near), strict=True))


def test_results_beyond_two_to_the_31() -> None:
    """2^31 and some elements of value and tangent: queries are one row expanded, so that all rows must be equal."""
    queries, d = 2**25 + 77, 64
    q, tq, k, v = (randn(1, 1, n, d, dtype=torch.float16, seed=i) for i, n in enumerate((1, 1, 16, 16)))
    one = Case("one row", q, k, v, tq, None, None, scale=0.1)
    out, tangent = run(replace(one, q=q.expand(1, 1, queries, d), tq=tq.expand(1, 1, queries, d)))
    within(one, out[:, :, :1], tangent[:, :, :1])
    for x in (out, tangent):
        assert x.amax((0, 1, 2)).equal(x[0, 0, 0])
        assert x.amin((0, 1, 2)).equal(x[0, 0, 0])


def test_the_callers_stream_is_used(device: torch.device) -> None:
    """Inputs that are written late on a side stream are waited for there, not on the default stream."""
    case = SPEC.draw(torch.bfloat16, device)
    want = pull(case)
    blank = {n: torch.zeros_like(getattr(case, n)) for n in NAMES}
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # a tenth of a second
        for name, x in blank.items():
            x.copy_(getattr(case, name))
        got = pull(replace(case, **blank))
    side.synchronize()
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


def test_the_tensors_device_is_used(device: torch.device) -> None:
    """Tensors of a second GPU while the first is current."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    case = SPEC.draw(torch.bfloat16, torch.device("cuda", 1))
    got, want = pull(case), pull(SPEC.draw(torch.bfloat16, device))
    assert all(torch.equal(x.to(device), y) for x, y in zip(got, want, strict=True))


def compiled() -> int:
    """Kernels compiled so far."""
    functions = [x for m in ("forward", "backward") for x in vars(import_module(f"kernels.triton_{m}")).values()]
    caches = [cache for x in functions if hasattr(x, "device_caches") for cache in x.device_caches.values()]
    return sum(len(cache[0]) for cache in caches)


@pytest.mark.parametrize("change", ["lengths", "batch and heads", "scale"])
def test_nothing_is_compiled_again(device: torch.device, change: str) -> None:
    """Lengths (two variants: short and long), batch, heads and scale are arguments, not constants, of a kernel."""
    changes: dict[str, list[dict[str, Any]]] = {
        "lengths": [
            {"nq": n, "nk": m} for n, m in ((1, 1), (7, 16), (16, 17), (64, 200), (255, 256), (1, 31), (300, 7))
        ],
        "batch and heads": [{"batch": b, "heads": h, "groups": g} for b, h, g in ((1, 1, 1), (3, 1, 1), (16, 6, 2))],
        "scale": [{"scale": s} for s in (1.0, 0.0, 0.5, 2.0)],
    }
    spec = replace(SPEC, nq=64, nk=64, d=24, dv=40)  # of width 24 some strides are multiples of 16, some are not
    for nq in (64, 300):
        pull(replace(spec, nq=nq).draw(torch.bfloat16, device))
    before = compiled()
    assert before > 0
    for values in changes[change]:
        pull(replace(spec, **values).draw(torch.bfloat16, device))
    assert compiled() == before


def test_a_call_is_captured_in_a_cuda_graph(device: torch.device) -> None:
    """A replay computes on what the inputs hold then."""
    case, other = (replace(SPEC, name=name).draw(torch.bfloat16, device) for name in ("GPU", "GPU again"))
    want = run(other)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(case)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(case)
    for x, y in zip(case.six, other.six, strict=True):
        if x is not None and y is not None:
            x.copy_(y)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize("transform", ["func.jvp", "compile"])
def test_transforms_reach_the_kernels(device: torch.device, transform: str) -> None:
    """The tangent of torch.func.jvp is the kernel's; torch.compile without breaks changes no bit."""
    case = SPEC.draw(torch.bfloat16, device)
    want = run(case)
    calls: dict[str, Callable[[], Any]] = {
        "func.jvp": lambda: torch.func.jvp(lambda q, k, v: attention(q, k, v), case.six[:3], case.six[3:]),
        "compile": lambda: torch.compile(attention_jvp, fullgraph=True, backend="aot_eager")(*case.six),
    }
    assert all(torch.equal(x, y) for x, y in zip(calls[transform](), want, strict=True))
