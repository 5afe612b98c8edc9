"""One- and two-step sampling of a consistency model as one graph: a file of torch.export, or of ONNX.

Both files stand alone: the graph holds the weights, normalised once and for all, and operations of ATen or ONNX alone.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_pipeline.errors import UserError
from data_pipeline.files import appearing, make_parents
from kernels import reference
from models.encoders import Encoder
from models.frozen import bake
from models.network import SIGMA_DATA, NetworkConfig
from models.trigflow import TrigFlowNet
from scaling.sampling.samplers import sample_student

ENDINGS = (".pt2", ".onnx")
OPSET = 20
EXAMPLES = 3  # of the batch that is traced: neither 0 nor 1, which a graph would take for constants


class ExportError(UserError):
    """A network that cannot be exported as was asked, or a package that this needs; the message says what to do."""


@dataclass(frozen=True)
class Graph:
    """What is exported: a network, its encoder, the steps, and the time of the second one in radians."""

    network: TrigFlowNet
    encoder: Encoder
    steps: int
    intermediate_t: float

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in order; those that the sampler does not need are left out."""
        config = self.network.config
        wanted = {"noise": True, "renoise": self.steps == 2, "labels": bool(config.num_classes)}
        return tuple(name for name, needed in {**wanted, "guidance": config.guidance}.items() if needed)

    def facts(self) -> dict[str, Any]:
        """What whoever runs the file must know of it."""
        config = self.network.config
        shape = ["batch", config.latent_channels, config.resolution, config.resolution]
        return {
            "inputs": {name: shape if name in ("noise", "renoise") else ["batch"] for name in self.inputs},
            "output": "latents",
            "steps": self.steps,
            "intermediate_t": self.intermediate_t if self.steps == 2 else None,
            "encoder": self.encoder.name,
            "classes": config.num_classes,
        }


class Sampler(nn.Module):
    """noise, renoise ~ N(0, I) [B, C, H, W], labels int64 [B], guidance [B] -> latents of the encoder [B, C, H, W]."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph, self.net = graph, bake(graph.network)
        statistics = torch.tensor([graph.encoder.mean, graph.encoder.std])[:, :, None, None]
        self.mean = nn.Buffer(
            statistics[0].clone()
        )  # a tensor of its own: a view is saved with all that it shows a part of
        self.scale = nn.Buffer(statistics[1] / SIGMA_DATA)

    def forward(
        self,
        noise: Tensor,
        renoise: Tensor | None = None,
        labels: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """The samples, no longer normalised, as the decoder of the encoder takes them."""
        known = noise.new_full(noise.shape[:1], -1, dtype=torch.int64) if labels is None else labels

        def f(x: Tensor, t: Tensor) -> Tensor:
            return self.net(x, t, known, guidance=guidance)

        fresh = noise if renoise is None else renoise
        steps, t = self.graph.steps, self.graph.intermediate_t
        return sample_student(f, SIGMA_DATA * noise, SIGMA_DATA * fresh, steps, t) * self.scale + self.mean


def write_graph(graph: Graph, path: Path) -> dict[str, Any]:
    """Write FILE.pt2 (torch.export) or FILE.onnx, complete or not at all, for batches of any size; its facts.

    The network is changed (`models.frozen.bake`). Raises ExportError, and OSError where the file cannot be written.
    """
    if path.suffix not in ENDINGS:
        raise ExportError(f"{path}: ends in none of {', '.join(ENDINGS)}: the ending says what is written")
    if path.suffix == ".onnx":
        _need_onnx(path)
    make_parents(path)
    with warnings.catch_warnings():  # torch's own, of what it is about to change in itself
        warnings.simplefilter("ignore", FutureWarning)
        program, facts = trace(graph), graph.facts()
        (_write_onnx if path.suffix == ".onnx" else _write_pt2)(program, facts, path)
    return {"file": str(path), **facts}


@torch.no_grad()
def trace(graph: Graph) -> torch.export.ExportedProgram:
    """The sampler as a graph of ATen's operations with a symbolic batch size."""
    sampler = Sampler(graph).eval()
    arguments = example(graph.network.config, graph.inputs)
    batch = {name: {0: torch.export.Dim("batch")} for name in arguments}
    program = torch.export.export(sampler, (), arguments, dynamic_shapes=batch, strict=False)
    return program.run_decompositions({torch.ops.trigscale.attention.default: _plain_attention})


def example(config: NetworkConfig, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Inputs of those names for a few samples."""
    shape = (EXAMPLES, config.latent_channels, config.resolution, config.resolution)
    every: dict[str, Callable[[], Tensor]] = {
        "noise": lambda: torch.randn(shape, generator=torch.Generator().manual_seed(0)),
        "renoise": lambda: torch.randn(shape, generator=torch.Generator().manual_seed(1)),
        "labels": lambda: torch.arange(EXAMPLES) % max(config.num_classes, 1),
        "guidance": lambda: torch.ones(EXAMPLES),
    }
    return {name: every[name]() for name in names}


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, path: str) -> tuple[Tensor, Tensor]:
    """What stands in the graph for our operator, which no other program knows: all logits at once."""
    return reference.attention(q, k, v, scale, causal, torch.float32), q.new_zeros(q.shape[:3])


def _write_pt2(program: torch.export.ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    with appearing(path) as stream:
        torch.export.save(program, stream, extra_files={"trigscale.json": json.dumps(facts)})


def _need_onnx(path: Path) -> None:
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ExportError(f"{path}: ONNX needs {error.name}: pip install 'trigscale[onnx]'") from error


def _write_onnx(program: torch.export.ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it says that torchvision is missing, which nothing needs
    made: Any = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=[*facts["inputs"]], output_names=["latents"],
        verbose=False, external_data=False,
    )  # fmt: skip
    model = made.model_proto
    _name_batch(model.graph)
    onnx.helper.set_model_props(model, {"trigscale": json.dumps(facts)})
    with appearing(path) as stream:
        stream.write(model.SerializeToString())


def _name_batch(graph: Any) -> None:
    """Call the symbolic dimension of an ONNX graph "batch"; torch gives it a name such as s30."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if symbol in dimension.dim_param:
                dimension.dim_param = dimension.dim_param.replace(symbol, "batch")
