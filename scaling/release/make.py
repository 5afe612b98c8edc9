"""`trigscale release`: from a run to a folder that a stranger can load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.files import atomic_folder, refuse_occupied, write_bytes_atomic, write_json_atomic, write_text_atomic
from models.encoders import encoder_of
from models.release import ALONE, CARD, GRID, SCORES, SUMS
from scaling.config.sections import Precision
from scaling.config.validation import ConfigError
from scaling.release.card import card
from scaling.release.chosen import Chosen, Wanted, choose
from scaling.release.grid import draw_grid, grid_facts, grid_png
from scaling.release.place import Place, place_in
from scaling.run.devices import any_device
from scaling.weights.folder import (
    SPLIT,
    Description,
    SavedModel,
    load_model,
    sampled_as,
    write_sums,
    write_weights,
)


@dataclass(frozen=True)
class Options:
    """What a user chose of a release. vae: the folder of the VAE that decodes its picture, None for the run's own."""

    wanted: Wanted = field(default_factory=Wanted)
    dtype: Precision = "fp32"
    licence: str | None = None
    vae: Path | None = None
    unverified: bool = False
    split: int = SPLIT


def release(path: Path, to: Path, options: Options) -> SavedModel:
    """Write the release of a run, a checkpoint or weights at rest to a new folder; the same inputs give the same bytes.

    Raises a UserError or an OSError that names the file; nothing half-written remains.
    """
    refuse_place(to)  # before a long work
    chosen = choose(path, options.wanted)
    if chosen.description.unverified and not options.unverified:
        raise ConfigError(_refusal(path, chosen))
    if chosen.description.dtype not in ("fp32", options.dtype):
        raise ConfigError(
            f"--dtype {options.dtype}: {path} holds {chosen.description.dtype}, of which nothing finer can be made: "
            f"give --dtype {chosen.description.dtype}"
        )
    vae = _vae(chosen, options)
    drawable = encoder_of(chosen.description.encoder).vae is None or vae is not None
    description = _described(path, chosen, options, drawable)
    with atomic_folder(to) as partial:
        write_weights(partial, description, chosen.state, shown=to, split=options.split)
        write_sums(partial)
        saved = load_model(partial)  # what is drawn and told is what was written
        if description.grid is not None:
            network = saved.network(any_device())
            images = draw_grid(sampled_as(saved), network, description.grid, vae)
            write_bytes_atomic(partial / GRID, grid_png(images, description.grid))
        place = _place(chosen)
        write_json_atomic(partial / SCORES, _scores(chosen, place))
        text = card(description, chosen.scores, place, saved.sha256, _unscored(description, chosen))
        write_text_atomic(partial / CARD, text)
        write_bytes_atomic(partial / ALONE, (Path(__file__).parent / "carried" / ALONE).read_bytes())
        write_sums(partial)
    return load_model(to)


def refuse_place(to: Path) -> None:
    """Refuse an occupied folder (OSError), and one inside a release, whose list of files would no longer hold."""
    refuse_occupied(to)
    around = [folder for folder in to.absolute().parents if (folder / SUMS).is_file() and (folder / CARD).is_file()]
    if around:
        raise ConfigError(f"--to: {to} lies inside {around[0]}, a release that lists its files: choose another folder")


def _described(path: Path, chosen: Chosen, options: Options, drawable: bool) -> Description:
    """What config.json says."""
    known = chosen.description
    if known.source is not None and options.licence is not None and options.licence != known.licence:
        raise ConfigError(f"--licence: {path} was imported, and stays under the licence of its source: {known.licence}")
    licence = options.licence or known.licence or (known.parent.licence if known.parent else None)
    facts = {"dtype": options.dtype, "licence": licence, "grid": None}
    described = known.model_copy(update=facts)
    if not drawable:
        return described
    return described.model_copy(update={"grid": grid_facts(known.run)})


def _vae(chosen: Chosen, options: Options) -> Path | None:
    """The VAE that decodes the picture: the user's, or the run's where it still lies there."""
    return options.vae or (chosen.vae if chosen.vae and chosen.vae.is_dir() else None)


def _place(chosen: Chosen) -> Place | None:
    spec = chosen.description.run
    if chosen.home is None or chosen.scores is None or spec is None:
        return None
    return place_in(chosen.home.path.parent, spec.label, spec.size)


def _scores(chosen: Chosen, place: Place | None) -> dict[str, Any]:
    """scores.json: the scores of these very weights with all settings, and those of the runs beside them."""
    scores = chosen.scores.model_dump(mode="json") if chosen.scores else None
    return {"scores": scores, "curve": place.facts() if place else None}


def _unscored(description: Description, chosen: Chosen) -> str:
    """Why there are no scores."""
    if chosen.scores is not None:
        return "The study of this run was not judged (evaluation.metric: none)."
    if description.source is not None:
        return "Imported weights, which were not judged here."
    if description.average is None or chosen.home is None or chosen.home.read_scores() is None:
        return "These weights were not judged."
    return "Not these weights were judged, but another average of the same run or its last step: no score is theirs."


def _refusal(path: Path, chosen: Chosen) -> str:
    reasons = "\n".join(f"  {reason}" for reason in chosen.missing)
    return (
        f"{path}: not all of its making can be verified:\n{reasons}\nName the folder of the run where it was trained, "
        "beside its data, or release it with --unverified, which the card then says"
    )
