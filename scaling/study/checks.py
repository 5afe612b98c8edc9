"""What is checked before anything of a study is run: that this version can, that the data fit, that devices suffice."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from data_pipeline.fashion import CLASS_NAMES, load_fashion
from data_pipeline.labels import require_same_classes
from data_pipeline.manifest import DataError, Manifest
from models.family import Family
from scaling.config.encoders import known_encoder
from scaling.config.metrics import TRUTH
from scaling.config.sections import EMBEDDED, Evaluation
from scaling.config.study import StudyConfig
from scaling.config.validation import ConfigError
from scaling.data.opened import open_loading
from scaling.data.reference import images_of
from scaling.data.sources import Prepared
from scaling.evaluation.real import balanced
from scaling.evaluation.spaces.dinov2 import find_dinov2
from scaling.evaluation.spaces.inception import find_inception
from scaling.evaluation.spaces.open import open_space
from scaling.evaluation.spaces.space import SpaceError
from scaling.study.launch import launch_of
from scaling.study.open import Study
from scaling.training.observe.profile import check_profile
from scaling.training.observe.trackers import check_trackers
from scaling.training.sharding.parallel import check_strategy
from scaling.training.sharding.placement import check_devices


def check_runnable(config: StudyConfig) -> None:
    """ConfigError that lists every key whose value can be planned but not run, with the value and what to set."""
    found = [f"  {key}: {reason} (value {value!r})" for key, value, reason in obstacles(config)]
    if found:
        raise ConfigError("\n".join([f"study {config.name!r} can be planned, but this version cannot run it:", *found]))


def obstacles(config: StudyConfig) -> Iterator[tuple[str, object, str]]:
    """(key, value, reason and remedy) of each key whose value can be planned but not run."""
    encoder = config.data.encoder
    if known_encoder(encoder, "data.encoder").vae is not None and config.data.vae is None:
        yield "data.vae", None, f"encoder {encoder} is a VAE that decodes samples: name its folder"
    yield from _missing_networks(config.evaluation)


def _missing_networks(evaluation: Evaluation) -> Iterator[tuple[str, object, str]]:
    """The networks whose features are to judge and that are not there."""
    if "own" in evaluation.spaces and evaluation.ruler is not None and not evaluation.ruler.is_file():
        yield "evaluation.ruler", str(evaluation.ruler), "no such file: `trigscale ruler train` makes one"
    for name, find, path in (
        ("inception", find_inception, evaluation.inception),
        ("dinov2", find_dinov2, evaluation.dinov2),
    ):
        if name in evaluation.spaces:
            try:
                find(path)
            except SpaceError as error:
                yield "evaluation.metric", evaluation.metric, str(error)


def check_embedded(study: Study) -> None:
    """What `check_fit` and `check_samples` find of the embedded images, before these are packed into launch.folder."""
    if study.config.data.source != EMBEDDED:
        return
    where = f"data.source {EMBEDDED} with encoder {study.config.data.encoder}"
    images, labels = load_fashion("test")
    latent = known_encoder(study.config.data.encoder, "data.encoder").encode(torch.from_numpy(images[:1, ..., None]))
    _check_sizes(study, where, tuple(latent.shape[1:]), len(CLASS_NAMES))
    if study.config.evaluation.metrics:
        balanced(labels, study.config.evaluation.samples)


def check_fit(study: Study, prepared: Prepared) -> None:
    """DataError unless every size of the study takes the latents and classes of the shards, held-out ones too."""
    manifest = Manifest.load(prepared.shards)
    _check_sizes(study, str(prepared.shards), manifest.latent_shape, manifest.num_classes)
    require_same_classes(manifest, Manifest.load(prepared.held_out), str(prepared.held_out))


def _check_sizes(study: Study, where: str, shape: tuple[int, ...], num_classes: int) -> None:
    """DataError unless every size takes latents of this shape and as many classes."""
    for size in study.config.sizes:
        network = study.family.size(size)
        takes = (network.latent_channels, network.resolution, network.resolution)
        if shape != takes:
            raise DataError(
                f"{where}: holds latents {list(shape)}, but size {size!r} of family {study.config.family!r} "
                f"takes {list(takes)}: choose a family with their latent_channels and resolution"
            )
        if network.num_classes not in (0, num_classes):
            raise DataError(
                f"{where}: holds {num_classes} classes, but num_classes of size {size!r} of family "
                f"{study.config.family!r} is {network.num_classes}: make them equal, or num_classes 0"
            )


def check_samples(study: Study, prepared: Prepared) -> None:
    """DataError unless the held-out shards, found whole, hold the images of each class that samples are judged by.

    SpaceError where the network of a metric is not there, or does not take these images.
    """
    evaluation, labels = study.config.evaluation, open_loading(prepared.held_out, prepared.loading).labels
    if evaluation.metrics:
        balanced(labels, evaluation.samples)
    for name in evaluation.spaces:
        if name == TRUTH:
            continue
        space = open_space(name, evaluation.files, evaluation.resize, "cpu")
        space.require(images_of(prepared, prepared.held_out).shape)


def check_launch(config: StudyConfig, family: Family, device: torch.device) -> None:
    """ConfigError or ParallelError where a run could not be spread over its devices, or watched, as asked."""
    launch = config.launch
    if device.type == "cuda" and launch.devices > torch.cuda.device_count():
        raise ConfigError(
            f"launch.devices: {launch.devices}, but torch sees {torch.cuda.device_count()} GPUs: set that or fewer"
        )
    check_profile(launch, device)
    check_trackers(launch)
    longest = max(entry.recipe.steps for size in config.sizes for entry in config.entries(size))
    if launch.profile is not None and launch.profile[1] > longest:
        raise ConfigError(
            f"launch.profile: {list(launch.profile)} ends after the last step of every run, {longest} at most: "
            "name steps that there are"
        )
    for size in config.sizes:
        check_strategy(launch_of(config, family, size), launch.devices)
        for entry in config.entries(size):
            check_devices(f"{entry.label}-{size}", entry.recipe.batch, launch.devices, launch.microbatch)
