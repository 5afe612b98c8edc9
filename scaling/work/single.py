"""The commands that work on single files: sample, evaluate, doctor."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_pipeline.files import write_bytes_atomic
from data_pipeline.images import load_samples
from scaling.config.validation import validate
from scaling.evaluation.score import METRIC, Real, score
from scaling.run.spec import RunSpec
from scaling.sampling.evaluations import sampler_steps
from scaling.sampling.generate import generate
from scaling.training.checkpoints import checkpoint
from scaling.weights.trained import load_network

COLUMNS = 10
OPTIONAL = ("triton", "deepspeed", "submitit")


def sample_to_png(path: Path, to: Path, count: int, steps: int | None) -> Path:
    """Draw `count` samples of a checkpoint into one PNG, ten a row; raises CheckpointError or ConfigError."""
    found = checkpoint.load(path)
    spec = validate(RunSpec, found.metadata["spec"], f"{path}: spec")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = steps or next(iter(sampler_steps(spec)))
    if spec.method != "teacher" and chosen > 2:
        raise checkpoint.CheckpointError(f"--steps {chosen}: a consistency model is sampled in 1 or 2 steps")
    if spec.network_config().guidance and chosen not in spec.sampling.student_guidance:
        raise checkpoint.CheckpointError(
            f"--steps {chosen}: the run's sampling.student_guidance has no strength for it, only for steps "
            f"{', '.join(map(str, spec.sampling.student_guidance))}"
        )
    images, _ = generate(spec, load_network(found, spec, device), chosen, count, device)
    buffer = io.BytesIO()
    Image.fromarray(tile(images)).save(buffer, "PNG")
    write_bytes_atomic(to, buffer.getvalue())
    return to


def tile(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, C] in rows of ten: uint8 [rows H, 10 W] or [rows H, 10 W, 3]."""
    n, h, w, c = images.shape
    rows = -(-n // COLUMNS)
    padded = np.zeros((rows * COLUMNS, h, w, c), np.uint8)
    padded[:n] = images
    grid = padded.reshape(rows, COLUMNS, h, w, c).swapaxes(1, 2).reshape(rows * h, COLUMNS * w, c)
    return grid[..., 0] if c == 1 else grid


def evaluate_npz(path: Path, reference: Path) -> dict[str, Any]:
    """The distance of the images of an .npz to the real ones, with its N and floor; DataError names the file."""
    real = Real.load(reference)
    result = score(load_samples(path), real, 0, 0)
    return {"metric": METRIC, "fd": result["fd"], "n": real.samples, "floor": real.floor}
