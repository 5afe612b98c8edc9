"""What attention cannot do is refused with an error that says what it can do, never answered with a wrong number."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from kernels.attention import Path, attention, attention_jvp
from tests.kernels.cases import Spec
from tests.kernels.routes import module

SPEC = Spec("refusal", "refusal", 5, 7, 16, 24, heads=4, groups=2)
NAMES = ("q", "k", "v", "tq", "tk", "tv")


def six(dtype: torch.dtype = torch.float32, **changes: Any) -> dict[str, Any]:
    """The arguments of attention_jvp by name, some of them replaced by what a function makes of them."""
    args = dict(zip(NAMES, SPEC.draw(dtype, torch.device("cpu")).six, strict=True))
    return {name: changes[name](x) if name in changes else x for name, x in args.items()}


@pytest.mark.parametrize(
    ("error", "change", "message"),
    [
        (
            ValueError,
            {"q": lambda x: x[0]},
            r"q has shape \(4, 5, 16\): attention takes \[batch, heads, length, width\]",
        ),
        (ValueError, {"v": lambda x: x[None]}, r"v has shape \(1, 1, 2, 7, 24\)"),
        (
            NotImplementedError,
            {n: lambda x: x.long() for n in NAMES},
            "int64.*float16, bfloat16, float32 or float64",
        ),
        (NotImplementedError, {"q": lambda x: x.to(torch.complex64)}, "complex64"),
        (ValueError, {"k": lambda x: x.double()}, "k is torch.float64.*q is torch.float32"),
        (ValueError, {"v": lambda x: x.half()}, "v is torch.float16.*q is torch.float32"),
        (ValueError, {"k": lambda x: x.to("meta")}, "k is .*on meta.*q is .* on cpu"),
        (ValueError, {"q": lambda x: x[..., :-1]}, "differ in batch or width"),
        (ValueError, {"q": lambda x: x.repeat(2, 1, 1, 1)}, "differ in batch or width"),
        (ValueError, {"v": lambda x: x[:, :, :-1]}, "differ in batch, heads or length"),
        (ValueError, {"v": lambda x: x[:, :1]}, "differ in batch, heads or length"),
        (ValueError, {"q": lambda x: x[:, :3]}, "3 query heads cannot share 2 key heads"),
        (ValueError, {n: lambda x: x[:, :, :0] for n in ("k", "v")}, "zero keys"),
        (ValueError, {n: lambda x: x[..., :0] for n in ("q", "k")}, "width 0"),
    ],
)
def test_what_does_not_fit_is_refused(error: type[Exception], change: dict[str, Any], message: str) -> None:
    """By both functions, naming the argument, what it is and what it may be."""
    args = six(**change)
    with pytest.raises(error, match=message):
        attention(args["q"], args["k"], args["v"])
    with pytest.raises(error, match=message):
        attention_jvp(**args)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tk": lambda x: x[:, :1]}, r"tk has shape \(1, 1, 7, 16\): give it the shape of k, \(1, 2, 7, 16\)"),
        ({"tv": lambda x: x[..., :16]}, "tv has shape"),
        ({"tq": lambda x: x.double()}, "tq is torch.float64.* q is torch.float32"),
        ({"tv": lambda x: x.to("meta")}, "tv is .*meta"),
    ],
)
def test_a_tangent_unlike_its_tensor_is_refused(change: dict[str, Any], message: str) -> None:
    """It is named, with what it should be."""
    with pytest.raises(ValueError, match=message):
        attention_jvp(**six(**change))


def test_an_unknown_path_is_refused() -> None:
    """With the names of those that there are."""
    calls: list[tuple[Any, int]] = [(attention, 3), (attention_jvp, 6)]
    for call, count in calls:
        args = list(six().values())[:count]
        with pytest.raises(ValueError, match="'cudnn' is unknown") as error:
            call(*args, path="cudnn")
        assert all(path in str(error.value) for path in get_args(Path))


@pytest.mark.parametrize(
    ("error", "option", "message"),
    [
        (NotImplementedError, {"dropout_p": 0.1}, "dropout_p is not supported.*causal=True"),
        (
            NotImplementedError,
            {"attn_mask": torch.ones(5, 7)},
            "attn_mask is not supported.*causal=True",
        ),
        (TypeError, {"is_causal": True}, "is_causal"),
    ],
)
def test_dropout_and_masks_are_refused(error: type[Exception], option: dict[str, Any], message: str) -> None:
    """By name, with what there is instead."""
    args = six()
    with pytest.raises(error, match=message):
        attention(args["q"], args["k"], args["v"], **option)
    with pytest.raises(error, match=message):
        attention_jvp(**args, **option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scale": torch.tensor(0.5, requires_grad=True)}, "scale is a tensor.*multiply q by it"),
        ({"scale": torch.tensor(0.5)}, "scale is a tensor"),
        ({"scale": "1"}, "scale is str"),
        ({"causal": torch.ones(5, 7, dtype=torch.bool)}, "causal is Tensor.*True or False.*no masks"),
        ({"causal": None}, "causal is NoneType"),
    ],
)
@pytest.mark.parametrize("path", ["plain", "chunked"])
def test_options_of_another_kind_are_refused(option: dict[str, Any], message: str, path: Any) -> None:
    """By name, on every path, with what to give instead."""
    args = six()
    with pytest.raises(TypeError, match=message):
        attention(args["q"], args["k"], args["v"], **option, path=path)
    with pytest.raises(TypeError, match=message):
        attention_jvp(**args, **option, path=path)


def test_a_scale_that_a_transform_differentiates_is_refused() -> None:
    """Under torch.func it does not say that it requires a gradient, or carries a tangent."""
    args = six()
    for transform in (torch.func.grad, torch.func.jacfwd):
        with pytest.raises(TypeError, match="scale is a tensor"):
            transform(lambda s: attention(args["q"], args["k"], args["v"], scale=s).sum())(torch.tensor(0.5))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_tensor_is_named(name: str) -> None:
    """A numpy array, or None where there must be a tensor."""
    for wrong in (lambda x: x.numpy(), lambda x: x.tolist()) + ((lambda _: None,) if name in "qkv" else ()):
        changes: Any = {name: wrong}
        args = six(**changes)
        with pytest.raises(TypeError, match=f"^{name} is (ndarray|list|NoneType): attention takes torch tensors"):
            attention_jvp(**args)
        if name in "qkv":
            with pytest.raises(TypeError, match=f"^{name} is "):
                attention(args["q"], args["k"], args["v"])


@pytest.mark.parametrize(
    ("dtype", "width", "message"),
    [(torch.float64, 16, "float64"), (torch.float16, 257, "257"), (torch.bfloat16, 16, "bfloat16|needs a GPU")],
)
def test_what_triton_cannot_do_names_the_path_that_can(dtype: torch.dtype, width: int, message: str) -> None:
    """float64, wide heads and, on a CPU, bfloat16 are refused by all four functions; none falls back in silence."""
    x = torch.zeros(1, 1, 4, width, dtype=dtype)
    row, triton = torch.zeros(1, 1, 4), module("triton")
    calls = [
        lambda: triton.forward(x, x, x, 1.0, False),
        lambda: triton.jvp(x, x, x, x, x, x, 1.0, False),
        lambda: triton.backward(x, x, x, x, x, row, 1.0, False),
        lambda: triton.jvp_backward(x, x, x, x, x, x, x, x, x, x, row, row, 1.0, False),
        lambda: attention(x, x, x, path="triton"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "path='chunked'" in str(error.value)
