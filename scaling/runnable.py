"""What a study file may hold, and `study plan` counts, but this version cannot run yet."""

from __future__ import annotations

from collections.abc import Iterator

from models.encoders import get_encoder
from scaling.config import ConfigError, StudyConfig


def check_runnable(config: StudyConfig) -> None:
    """ConfigError that lists every key whose value can be planned but not run, with the value and what to set."""
    found = [f"  {key}: {reason} (value {value!r})" for key, value, reason in _obstacles(config)]
    if found:
        raise ConfigError("\n".join([f"study {config.name!r} can be planned, but this version cannot run it:", *found]))


def _obstacles(config: StudyConfig) -> Iterator[tuple[str, object, str]]:
    """(key, value, reason and remedy) of each."""
    evaluation, launch, encoder = config.evaluation, config.launch, config.data.encoder
    if "vsd" in config.methods:
        yield "methods", list(config.methods), "vsd cannot be trained: remove it"
    if config.precision == "fp16":
        yield "precision", config.precision, "there is no loss scaling: set bf16 or fp32"
    if get_encoder(encoder).codec is None:
        yield "data.encoder", encoder, "its VAE cannot make images to judge: use an encoder without a VAE"
    if evaluation.metric == "fid":
        yield "evaluation.metric", evaluation.metric, "FID cannot be measured: set fd-fashion, on the embedded data set"
    if evaluation.repeats > 1:
        yield "evaluation.repeats", evaluation.repeats, "one set of samples is judged: set 1"
    if launch.devices > 1:
        yield "launch.devices", launch.devices, "a run takes one device: set 1"
    if launch.strategy != "auto":
        yield "launch.strategy", launch.strategy, "a run takes one device, where nothing is sharded: set auto"
    if launch.microbatch:
        yield "launch.microbatch", launch.microbatch, "a batch is one pass: set 0"
