"""README.md of a release: its model card, written from config.json and the scores for a stranger to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from models.encoders import encoder_of
from models.network import T_MAX
from scaling.config.metrics import METRICS, SPACES, metric_label
from scaling.config.recipes import StudentRecipe
from scaling.config.sections import foreign_ruler
from scaling.release.place import Place
from scaling.release.words import code, commands
from scaling.report.style import quantity
from scaling.run.schemas import MetricScores, RunScores, StepScore
from scaling.run.spec import RunSpec
from scaling.weights.folder import Average, Description

CLASSES = 20  # that are named

# Licences that the Hugging Face Hub knows by these names; others are "other".
KNOWN = ("apache-2.0", "mit", "cc0-1.0", *(f"cc-{kind}-4.0" for kind in ("by", "by-sa", "by-nc", "by-nc-sa", "by-nd")))


def card(description: Description, scores: RunScores | None, place: Place | None, sha256: str, unscored: str) -> str:
    """The text of the card. unscored: why there are no scores, where there are none."""
    return rendered(
        "card.md.j2",
        front=front_matter(description.licence),
        title=title(description),
        what=_what(description),
        grid=_grid(description) if description.grid else None,
        unverified=[plain(line) for line in description.unverified],
        code=code(description),
        equations=_equations(description),
        commands=commands(description),
        scores=_scores(scores) if scores and scores.metrics else None,
        settings=_settings(scores, description) if scores else [],
        unscored=unscored,
        place=place.table() if place else None,
        place_said=place.sentences() if place else [],
        training=_training(description),
        licence=licence_text(description),
        weights=f"{description.dtype}, SHA-256 {sha256}",
    )


def rendered(template: str, **values: Any) -> str:
    """The Markdown of a template of this folder; what comes from others goes through `plain`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def plain(text: str) -> str:
    """A text of others as a part of one line of Markdown: no line breaks, no signs that mean something there."""
    line = " ".join(str(text).split())
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#!" else sign for sign in line)


def title(description: Description) -> str:
    """What the network is called: method, size and study."""
    run, source = description.run, description.source
    if run is None:
        return plain(source.file if source else "a network")
    study = description.training.study if description.training else None
    return f"{plain(run.title)}, size {plain(run.size)}" + (f", of study {plain(study)}" if study else "")


def front_matter(licence: str | None) -> list[str]:
    """What the Hugging Face Hub reads."""
    lines = ["library_name: trigscale", "tags: [consistency-model, trigflow]"]
    if licence and licence.lower() in KNOWN:
        return [*lines, f"license: {licence.lower()}"]
    return [*lines, "license: other", f'license_name: "{_quoted(licence)}"'] if licence else lines


def _quoted(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"')


def _what(description: Description) -> str:
    network, encoder = description.network, encoder_of(description.encoder)
    kind = "diffusion model (TrigFlow)" if description.kind == "teacher" else "continuous-time consistency model (sCM)"
    classes = f"of {network['num_classes']} classes" if network["num_classes"] else "without classes"
    side, channels = network["resolution"], network["latent_channels"]
    seen = f"{side}x{side} latents of {channels} channels (encoder {plain(encoder.name)})"
    macs = f", {quantity(description.macs)} multiply-adds a pass" if description.macs else ""
    text = f"A {kind} {classes}: EDM2's U-Net with {description.parameters:,} parameters{macs}, which sees {seen}. "
    if description.kind == "student":
        steps = " or ".join(map(str, (description.sampling or {"steps": [1, 2]})["steps"]))
        text += f"It draws a sample in {steps} step{'' if steps == '1' else 's'}. "
    if description.data and description.data.class_names:
        text += f"Classes from 0 on: {', '.join(map(plain, description.data.class_names[:CLASSES]))}"
        text += ", and so on. " if len(description.data.class_names) > CLASSES else ". "
    if description.guidance:
        low, high = description.guidance
        text += f"It takes a guidance strength as an input and saw those from {low:g} to {high:g}. "
    return text + (_average(description.average) if description.average else "")


def _average(average: Average) -> str:
    if average.profile is None:
        return f"These are the raw weights after {average.updates:,} steps, and no average of them."
    width = f"sigma_rel {average.profile:g}" if average.profile < 1 else f"half-life {average.profile:,.0f} images"
    text = f"The weights are the exponential moving average of {width} after {average.updates:,} steps"
    if average.profile_error is None:
        return f"{text}."
    return f"{text}, made after training from snapshots; its profile is {average.profile_error:.2%} off."


def _grid(description: Description) -> str:
    grid = description.grid
    assert grid is not None, "asked for where there is one"
    counts = [f"{steps} step{'' if steps == 1 else 's'}" for steps in grid.steps]
    blocks = f"{' above '.join(counts)}, from the same noise" if len(counts) > 1 else f"in {counts[0]}"
    turn = ", classes in turn" if description.network["num_classes"] else ""
    return f"The first {grid.images} seeds{turn}, {blocks}. Nothing was selected."


def _equations(description: Description) -> str:
    encoder = encoder_of(description.encoder)
    decode = (
        "a VAE decodes z: that of the encoder, which is not part of this folder"
        if encoder.vae
        else f"z becomes an image by the map {encoder.map.name}"  # pyright: ignore[reportAttributeAccessIssue]
    )
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (encoder.mean, encoder.std))
    return (
        "The network gives F in f(x, t) = cos(t) x - sin(t) σ F(x / σ, t, label) with σ = 0.5; samples start from x ~ "
        f"N(0, σ²) at t = arctan(80 / σ) = {T_MAX:.4f}. Of f the latents are z = f · std / σ + mean with mean ({mean}) "
        f"and std ({std}) by channel; {decode}."
    )


def _scores(scores: RunScores) -> list[list[str]]:
    """A heading and a line for each metric and number of steps."""
    lines = [["metric", "steps", "NFE", "value [95 % for the noise of the samples]", "at infinite N", "floor"]]
    return lines + [
        [metric_label(metric.metric), str(score.steps), str(score.nfe), *_cells(metric, score)]
        for metric in scores.metrics
        for score in metric.scores
    ]


def _cells(metric: MetricScores, score: StepScore) -> list[str]:
    value = f"{score.value:.4g}"
    if score.interval:
        value += f" [{score.interval[0]:.4g}, {score.interval[1]:.4g}]"
    elif score.error:
        value += f" ± {score.error:.2g}"
    far = score.infinite
    infinite = f"{far.value:.4g} [{far.low:.4g}, {far.high:.4g}]" if far else "–"
    return [value, infinite, f"{metric.floor:.3g}"]


def _settings(scores: RunScores, description: Description) -> list[str]:
    """What each metric depends on."""
    lines = []
    if description.dtype != "fp32":
        lines.append(f"Judged in float32, before the weights were rounded to {description.dtype}.")
    for metric in scores.metrics:
        known = METRICS.get(metric.metric)
        parts = [f"N = {metric.n:,} samples" + (f", seeds {metric.seeds}" if metric.seeds else "")]
        parts += [f"features: {SPACES[known.space]}"] if known else []
        parts += [f"network {plain(metric.network)}"] if metric.network else []
        parts += [f"SHA-256 {metric.network_sha256}"] if metric.network_sha256 else []
        parts += [f"resize {metric.resize}"] if metric.resize else []
        parts += [f"against {metric.reference_n:,} real images"] if metric.reference_n else []
        parts += [f"the {metric.of_sets} of {metric.sets} sets"] if metric.sets > 1 else []
        parts += [f"untrained network {metric.untrained:.4g}"] if metric.untrained else []
        lines.append(f"{metric_label(metric.metric)}: {'; '.join(parts)}. Floor: the value of N real held-out images.")
    if scores.metrics and scores.metrics[0].metric.startswith("fd-"):
        lines.append("These distances are not FID: other features, other N. They compare runs that are judged alike.")
    source = description.data.dataset if description.data else None
    said = foreign_ruler(source or "unknown data", scores.metric) if source and "fashion" not in source else None
    return [*lines, *([f"{said}."] if said else [])]


def _training(description: Description) -> list[str]:
    run, training, data, source = description.run, description.training, description.data, description.source
    lines = []
    if source is not None:
        lines.append(f"Imported from {plain(source.file)} (SHA-256 {source.sha256}); others trained it.")
        lines += [f"Training images: {source.images:,}."] if source.images else []
        lines += [f"Its weights are an average of sigma_rel {source.ema_sigma_rel:g}."] if source.ema_sigma_rel else []
    if data is not None:
        lines.append(
            f"Data: {plain(data.dataset)}, {data.samples:,} training samples (content SHA-256 {data.content_sha256})."
        )
    if run is not None:
        lines += _recipe(run)
    if training is not None:
        lines.append(f"Computed: {training.images:,} images, {training.train_flops:.4g} FLOPs (2 a multiply-add).")
        what = f": {plain(training.device)}" if training.device else ""
        devices = f"{training.devices} device{'' if training.devices == 1 else 's'}{what}"
        hours = training.device_hours
        lines.append(
            f"Took {hours:.3g} device-hours of training ({devices})."
            if hours is not None
            else "How long it took was not recorded."
        )
        if training.teacher_flops is not None:
            hours = training.teacher_device_hours
            took = f", {hours:.3g} device-hours" if hours is not None else ""
            lines.append(f"Its teacher before it: {training.teacher_flops:.4g} FLOPs{took}.")
    return lines or ["Nothing is known of it."]


def _recipe(run: RunSpec) -> list[str]:
    recipe = run.recipe
    if not isinstance(recipe, StudentRecipe):
        start = f" from weights of SHA-256 {run.weights}" if run.weights else ""
        first = f"Trained as a TrigFlow diffusion model{start}"
    else:
        first = f"Trained by {plain(run.title)}; the run of its teacher is {run.teacher} (its average "
        first += f"{recipe.teacher_ema:g})"
        first += f"; it goes on from weights of SHA-256 {run.weights}" if run.weights else ""
    if not recipe.steps:
        return [f"{first}; taken as it is, without a step of training."]
    return [
        f"{first}: {recipe.steps:,} steps of {recipe.batch:,} images, peak learning rate {recipe.lr:g}, noise of "
        f"log σ ~ N({recipe.p_mean:g}, {recipe.p_std:g}²), dropout {recipe.dropout:g}, {run.precision}, "
        f"seed {run.seed}."
    ]


def licence_text(description: Description) -> str:
    """What may be done with the weights, and under which licence those were that they were made from."""
    lines = [plain(description.licence)] if description.licence else []
    parent = description.parent
    if parent is not None:
        terms = plain(parent.licence) if parent.licence else "terms that were not named"
        lines.append(f"It was made from weights (SHA-256 {parent.sha256}) under: {terms}")
    return "\n\n".join(lines) or "None was named: ask whoever published this before you use it."
