"""What a study file may hold, and `study plan` counts, but this version cannot run yet."""

from __future__ import annotations

from collections.abc import Iterator

from models.encoders import get_encoder
from scaling.config.study import StudyConfig
from scaling.config.validation import ConfigError


def check_runnable(config: StudyConfig) -> None:
    """ConfigError that lists every key whose value can be planned but not run, with the value and what to set."""
    found = [f"  {key}: {reason} (value {value!r})" for key, value, reason in _obstacles(config)]
    if found:
        raise ConfigError("\n".join([f"study {config.name!r} can be planned, but this version cannot run it:", *found]))


def _obstacles(config: StudyConfig) -> Iterator[tuple[str, object, str]]:
    """(key, value, reason and remedy) of each."""
    evaluation, encoder = config.evaluation, config.data.encoder
    if "vsd" in config.methods:
        yield "methods", list(config.methods), "vsd cannot be trained: remove it"
    if get_encoder(encoder).codec is None:
        yield "data.encoder", encoder, "its VAE cannot make images to judge: use an encoder without a VAE"
        if config.launch.grid_steps:
            yield "launch.grid_steps", config.launch.grid_steps, "nor can it make images to look at: set 0"
    if evaluation.metric == "fid":
        yield "evaluation.metric", evaluation.metric, "FID cannot be measured: set fd-fashion, on the embedded data set"
    if evaluation.repeats > 1:
        yield "evaluation.repeats", evaluation.repeats, "one set of samples is judged: set 1"
