"""Files of torch.export and of ONNX give our samples, for any size of batch, where this project is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.encoders import get_encoder
from scaling.release.exported import ExportError, Graph, Sampler, write_graph
from tests.release.strangers import run_without
from tests.release.students import noises, own_samples, student

ENCODER = get_encoder("fashion-s2d-v1")
PROGRAM = """
import torch
made = [torch.export.load(sys.argv[1]).module()(**given) for given in torch.load(sys.argv[2])]
torch.save(made, sys.argv[3])
"""


def cases(net: Any, steps: int, **extra: float) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Inputs of a file and our latents, for one sample and for five."""
    found = []
    for count in (1, 5):
        noise, renoise, labels = noises(net, count)
        inputs = {name: torch.full((count,), value) for name, value in extra.items()}
        own = ENCODER.denormalize(own_samples(net, noise, renoise, labels, steps, **inputs))
        given = {"noise": noise, "labels": labels, **inputs} | ({"renoise": renoise} if steps == 2 else {})
        found.append((given, own))
    return found


def test_what_is_traced_is_our_sampler() -> None:
    """Before it is traced; the files themselves are for the night, as torch takes a minute for each."""
    net, _ = student(guidance=(1.0, 3.0))
    for given, own in (*cases(net, 1, guidance=2.0), *cases(net, 2, guidance=2.0)):
        graph = Graph(net, ENCODER, 2 if "renoise" in given else 1, 1.1)
        assert {*graph.inputs} == given.keys()
        assert (Sampler(graph)(**given) - own).abs().max() <= 1e-6


@pytest.mark.nightly
def test_one_step_of_torch_export(tmp_path: Path) -> None:
    """Beyond 64 positions attention is an operator of ours, which the file must not hold."""
    net, _ = student(resolution=12, levels=1)
    expected = cases(net, 1)
    facts = write_graph(Graph(net, ENCODER, 1, 1.1), tmp_path / "one.pt2")
    assert facts["inputs"] == {"noise": ["batch", 4, 12, 12], "labels": ["batch"]}
    program = torch.export.load(tmp_path / "one.pt2")
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {name for name in targets if not name.startswith(("aten.", "<built-in"))} == set()
    for given, own in expected:
        assert own.std() > 0.2
        assert (program.module()(**given) - own).abs().max() <= 1e-5


@pytest.mark.nightly
def test_two_guided_steps_elsewhere(tmp_path: Path) -> None:
    net, _ = student("edm2", levels=1, guidance=(1.0, 3.0))
    expected = cases(net, 2, guidance=2.0)
    write_graph(Graph(net, ENCODER, 2, 1.1), tmp_path / "two.pt2")
    torch.save([given for given, _ in expected], tmp_path / "given.pt")
    run_without(PROGRAM, tmp_path, "two.pt2", "given.pt", "made.pt")
    for made, (_, own) in zip(torch.load(tmp_path / "made.pt"), expected, strict=True):
        assert (made - own).abs().max() <= 1e-5


@pytest.mark.nightly
def test_two_steps_of_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    net, _ = student(resolution=12, levels=1)
    expected = cases(net, 2)
    write_graph(Graph(net, ENCODER, 2, 1.1), tmp_path / "made.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "made.onnx", providers=["CPUExecutionProvider"])
    assert {one.shape[0] for one in session.get_inputs()} == {"batch"}
    facts = json.loads(session.get_modelmeta().custom_metadata_map["trigscale"])
    assert (facts["steps"], facts["encoder"]) == (2, "fashion-s2d-v1")
    for given, own in expected:
        (made,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        assert np.abs(made - own.numpy()).max() <= 2e-5


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    net, _ = student()
    with pytest.raises(ExportError, match=r"ends in none of \.pt2, \.onnx"):
        write_graph(Graph(net, ENCODER, 1, 1.1), tmp_path / "file.bin")
    imported = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnx":
            raise ImportError(name, name=name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExportError, match=r"needs onnx: pip install 'trigscale\[onnx\]'"):
        write_graph(Graph(net, ENCODER, 1, 1.1), tmp_path / "file.onnx")
    assert [*tmp_path.iterdir()] == []
