"""Our package `kernels` beside transformers, diffusers and Hugging Face's `kernels`: docs/huggingface-kernels.md."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABSENT = [name for name in ("transformers", "diffusers") if find_spec(name) is None]
needs_hugging_face = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")

# Modules and names of Hugging Face's kernels 0.17.2 that others import.
# fmt: off
THEIR_MODULES = {
    "archs", "backends", "benchmark", "cli", "compat", "deps", "hf_hub", "importer", "install", "layer", "load",
    "locking", "python_deps", "resolver", "status", "validate", "variants",
}
THEIR_NAMES = {"CUDAProperties", "Device", "KernelizeFallback", "LayerRepository", "Mode", "get_kernel", "kernelize"}
# fmt: on

DETECTION = """
from importlib.metadata import distributions
from transformers.utils import is_kernels_available
from diffusers.utils import is_kernels_available as diffusers_finds_kernels
if not list(distributions(name="kernels")):
    assert not is_kernels_available() and not diffusers_finds_kernels()
"""
SMALL_MODELS = """
import tempfile
import torch
from diffusers import AutoencoderKL
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

torch.set_num_threads(1)
size = dict(vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
tokens, image = torch.tensor([[1, 2, 3]]), torch.randn(1, 3, 16, 16)
cases = [
    (BertModel(BertConfig(**size)), lambda model: model(input_ids=tokens).last_hidden_state),
    (LlamaModel(LlamaConfig(**size)), lambda model: model(input_ids=tokens).last_hidden_state),
    (AutoencoderKL(block_out_channels=(8,), norm_num_groups=2), lambda model: model(image).sample),
]
for model, run in cases:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder, local_files_only=True)
        assert torch.equal(run(model.eval()), run(loaded.eval())), type(model)
"""


def python(script: str, folder: Path, *search_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script in a new interpreter with `folder` as its working directory."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(map(str, search_path))}
    return subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def installed(tmp_path: Path) -> bool:
    """Whether trigscale is installed, rather than run straight from a checkout."""
    return python("import slurm.graph", tmp_path).returncode == 0


@needs_hugging_face
@pytest.mark.parametrize(
    "order",
    [
        pytest.param(("kernels", "transformers", "diffusers"), id="kernels first"),
        pytest.param(("diffusers", "transformers", "kernels"), id="kernels last", marks=pytest.mark.nightly),
    ],
)
def test_models_of_both_libraries_run_beside_ours(tmp_path: Path, installed: bool, order: tuple[str, ...]) -> None:
    script = f"import {', '.join(order)}\nfrom kernels.attention import attention\n" + DETECTION + SMALL_MODELS
    run = python(script, tmp_path, *([] if installed else [ROOT]))
    assert run.returncode == 0, run.stderr


def test_networks_find_our_attention_behind_hugging_faces_package(tmp_path: Path, installed: bool) -> None:
    if not installed:
        pytest.skip("trigscale is not installed: a checkout on PYTHONPATH comes before Hugging Face's package")
    theirs = tmp_path / "site" / "kernels" / "__init__.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("")
    run = python("import kernels, models.unet; print(kernels.__file__)", tmp_path, tmp_path / "site")
    assert run.returncode == 0, f"import from kernels.attention, not from kernels:\n{run.stderr}"
    assert run.stdout.strip() == str(theirs)


def test_no_name_of_ours_is_theirs(tmp_path: Path) -> None:
    assert not THEIR_MODULES & {path.stem for path in (ROOT / "kernels").iterdir()}
    run = python("import kernels; print(*dir(kernels))", tmp_path, ROOT)
    assert "attention" in run.stdout.split()
    assert not THEIR_NAMES & set(run.stdout.split())
