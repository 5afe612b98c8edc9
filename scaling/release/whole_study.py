"""`trigscale study release`: every finished run of a study as a release, and one card that says how they compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.files import atomic_folder, write_bytes_atomic, write_text_atomic
from models.release import CARD
from scaling.analysis.summary import Analysis, analyse
from scaling.analysis.table import method_label, rows_of
from scaling.config.metrics import metric_label
from scaling.config.validation import ConfigError
from scaling.release.card import front_matter, licence_text, plain, rendered
from scaling.release.make import Options, refuse_place, release
from scaling.report.build import score_table
from scaling.report.figures import distance_figure, ratio_figure
from scaling.report.findings import answer, caveats
from scaling.report.record import Record, read_study
from scaling.report.style import quantity
from scaling.run.home import RunHome, StudyFolder
from scaling.weights.folder import SavedModel, load_model, write_sums

DISTANCE, RATIO = "distance.png", "ratio.png"


@dataclass(frozen=True)
class Set:
    """What was released: folders by name, and the runs that are not done."""

    folder: Path
    releases: dict[str, SavedModel]
    left_out: tuple[str, ...]


def release_study(study: Path, to: Path, options: Options) -> Set:
    """Write the releases of all finished runs of the study in folder `study` to a new folder, with an index card.

    All or nothing: raises as `scaling.release.make.release`, ConfigError where no run is done.
    """
    refuse_place(to)
    homes = StudyFolder(study).homes()
    done = [home for home in homes if home.read_scores() is not None]
    if not done:
        raise ConfigError(f"{study}: no run of the study is done: run it first")
    left_out = tuple(home.name for home in homes if home not in done)
    names = _names(done)
    record = read_study(study)
    analysis = analyse([row for run in record.scores for row in rows_of(run)]) if record.scores else None
    with atomic_folder(to) as partial:
        for name, home in names.items():
            release(home.path, partial / name, options)
        figures = _figures(record, analysis) if analysis else {}
        for name, content in figures.items():
            write_bytes_atomic(partial / name, content)
        made = {name: load_model(partial / name) for name in names}
        write_text_atomic(partial / CARD, _card(record, analysis, made, left_out, options))
        write_sums(partial)
    return Set(to, {name: load_model(to / name) for name in names}, left_out)


def _names(homes: list[RunHome]) -> dict[str, RunHome]:
    """METHOD-SIZE of each run, with its seed where there are several."""
    scores = {home.name: home.read_scores() for home in homes}
    several = len({found.seed for found in scores.values() if found}) > 1
    names = {}
    for home in homes:
        found = scores[home.name]
        assert found is not None, "asked for of finished runs alone"
        names[f"{found.method}-{found.size}" + (f"-seed{found.seed}" if several else "")] = home
    return names


def _figures(record: Record, analysis: Analysis) -> dict[str, bytes]:
    first = record.scores[0]
    label = metric_label(first.metric)
    figures = {DISTANCE: distance_figure(analysis, label, first.n, first.floor).png()}
    return figures | ({RATIO: ratio_figure(analysis).png()} if analysis.ratios else {})


def _card(
    record: Record,
    analysis: Analysis | None,
    made: dict[str, SavedModel],
    left_out: tuple[str, ...],
    options: Options,
) -> str:
    descriptions = {name: saved.description for name, saved in made.items()}
    first = next(iter(descriptions.values()))
    hours = [each.training.device_hours if each.training else None for each in descriptions.values()]
    licences = {each.licence for each in descriptions.values()}
    return rendered(
        "study.md.j2",
        front=front_matter(first.licence if len(licences) == 1 else None),
        name=plain(record.name),
        methods=", ".join(dict.fromkeys(method_label(run.method) for run in record.runs)),
        sizes=", ".join(map(plain, record.sizes)),
        answer=answer(record, analysis),
        figures=[name for name in (DISTANCE, RATIO) if analysis and (name == DISTANCE or analysis.ratios)],
        table=score_table(record, analysis) if analysis else [],
        metric=metric_label(record.scores[0].metric) if analysis else "",
        caveats=caveats(record, analysis) if analysis else [],
        folders=[_line(name, saved) for name, saved in made.items()],
        example=next(iter(made)),
        left_out=[plain(name) for name in left_out],
        data=first.data,
        hours=sum(hour for hour in hours if hour) if any(hours) else None,
        licence=licence_text(first) if len(licences) == 1 else "Each folder names its own.",
    )


def _line(name: str, saved: SavedModel) -> list[str]:
    """A row of the table of folders."""
    description = saved.description
    training = description.training
    hours = f"{training.device_hours:.3g}" if training and training.device_hours else "–"
    flops = f"{quantity(training.train_flops)}" if training else "–"
    return [f"[{name}]({name})", f"{description.parameters:,}", flops, hours, description.dtype, saved.sha256[:16]]
