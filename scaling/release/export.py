"""`trigscale export`: a consistency model in the formats of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from data_pipeline.files import refuse_occupied
from models.release import CONFIG
from scaling.config.methods import PARTS
from scaling.config.recipes import StudentRecipe
from scaling.config.validation import ConfigError
from scaling.release.diffusers_folder import write_diffusers
from scaling.release.exported import ENDINGS, ExportError, Graph, write_graph
from scaling.run.spec import RunSpec
from scaling.sampling.draw import draw_of
from scaling.weights.folder import load_model
from scaling.work.sampling import hold


def export(path: Path, to: Path, *, steps: int | None = None, vae: Path | None = None) -> dict[str, Any]:
    """Write what holds weights to FILE.pt2, FILE.onnx, or a folder of diffusers; what was done.

    Raises ConfigError, ExportError, or what the reading of weights and the writing of files raise.
    """
    graph = to.suffix in ENDINGS
    if not graph and to.suffix:
        raise ConfigError(f"--to {to}: ends in none of {', '.join(ENDINGS)}, and is no folder's name for diffusers")
    if steps is not None and not graph:
        raise ConfigError("--steps: a folder of diffusers takes both, and its pipeline is told: leave it out")
    if graph and vae is not None:
        raise ConfigError("--vae: a graph ends with latents: leave it out")
    if graph and to.exists():
        raise FileExistsError(f"{to} exists: choose another name or remove it first")
    if not graph:
        refuse_occupied(to)
    held = hold(path, torch.device("cpu"))
    if not isinstance(held.spec.recipe, StudentRecipe):
        raise ExportError(f"{path}: {held.spec.name()} is a teacher: what is exported samples in 1 or 2 steps")
    _check_sampler(path, held.spec, steps if graph else None)
    if not graph and PARTS[held.spec.method].one_step:
        raise ExportError(
            f"{path}: {held.spec.name()} is a generator of one step, and a pipeline of diffusers takes two as well: "
            "export it to a file"
        )
    if graph:
        encoder, middle = held.spec.data.latent_encoder(), held.spec.sampling.intermediate_t
        return write_graph(Graph(held.network, encoder, steps or 1, middle), to)
    licence = load_model(path).description.licence if (path / CONFIG).is_file() else None
    return write_diffusers(held.network, held.spec, to, vae=vae, licence=licence)


def _check_sampler(path: Path, spec: RunSpec, steps: int | None) -> None:
    """Graphs and pipelines hold the steps of a consistency model alone."""
    sampler = draw_of(spec).sampler
    if sampler != "student":
        raise ExportError(
            f"{path}: {spec.name()} is not sampled as a consistency model, but by its {sampler}: release it, and the "
            "file sample.py of the release samples it"
        )
    if steps == 2 and PARTS[spec.method].one_step:
        raise ExportError(f"{path}: {spec.name()} is a generator of one step: choose 1")
