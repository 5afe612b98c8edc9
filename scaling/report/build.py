"""The report of a study: one self-contained HTML file, with its figures, scores and analysis beside it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.files import clear_partials, write_bytes_atomic
from scaling.analysis.summary import Analysis, analyse, show
from scaling.analysis.table import TEACHER, TableError, curve_label, method_label, rows_of
from scaling.analysis.words import constancy_words, held_words
from scaling.config.metrics import METRICS, SPACES, metric_label
from scaling.report.claims import claims
from scaling.report.cost_figures import cost_pictures
from scaling.report.costs import RunCost, run_cost, state
from scaling.report.findings import UNTOLD, answer, caveats, checks, summarise
from scaling.report.guidance import guidance_pictures, read_sweeps
from scaling.report.metrics import metric_columns, metric_table, ratio_table
from scaling.report.page import render_page
from scaling.report.paper import BIBTEX, latex_table, methods_paragraph
from scaling.report.pictures import Picture, draw_pictures
from scaling.report.record import Record, ReportError, RunRecord, read_study
from scaling.report.slopes import read_slopes, slope_pictures
from scaling.report.style import quantity
from scaling.report.truth import TruthRecord, read_truths, truth_pictures, truth_table
from scaling.run.locks import locked
from scaling.run.schemas import Environment

PATIENCE_SECONDS = 60.0  # with another process that writes the report of the same study

CSV_COLUMNS = (
    *("run", "method", "steps", "nfe", "size", "seed", "parameters", "macs"),
    *("images", "training", "decoder", "metric", "n", "floor", "untrained", "fd", "ratio"),
)


def build_report(study_folder: Path) -> Path:
    """Write STUDY/report/ (index.html, PNG files, scores.csv, analysis.json) and return the path of index.html.

    A study that is not finished gets a report of what is there and a note of what is missing. Each file appears
    complete or not at all, index.html last. Raises ReportError when there is nothing to report or a file is malformed,
    and OSError when the folder cannot be written.
    """
    record = read_study(study_folder)
    try:
        analysis = analyse([row for run in record.scores for row in rows_of(run)]) if record.scores else None
    except TableError as error:
        raise ReportError(f"{study_folder}: {error}") from error
    truths = read_truths(study_folder, record)
    pictures = draw_pictures(record, analysis) | {"truth": truth_pictures(record, truths)}
    pictures["costs"] = cost_pictures(record)
    pictures["slopes"] = slope_pictures(read_slopes(study_folder, record))
    pictures["guidance"] = guidance_pictures(read_sweeps(study_folder, record), record.sizes)
    files = {picture.file: picture.png for section in pictures.values() for picture in section}
    for section in pictures.values():
        for picture in section:
            files |= picture.vectors
    if analysis is not None:
        label = metric_label(record.scores[0].metric)
        files["table.tex"] = latex_table(analysis, label, record.scores[0].n).encode()
        files["methods.txt"] = methods_paragraph(record, analysis, label).encode()
        files["references.bib"] = BIBTEX.encode()
        files["scores.csv"] = scores_csv(record).encode()
        files["analysis.json"] = (json.dumps(analysis.to_json(), indent=2, allow_nan=False) + "\n").encode()
    costs = [run_cost(study_folder, run) for run in record.runs]
    files["index.html"] = render_html(record, analysis, pictures, costs, truths).encode()
    folder = study_folder / "report"
    folder.mkdir(exist_ok=True)
    with locked(study_folder / ".report.lock", PATIENCE_SECONDS):
        clear_partials(folder)
        for name, content in files.items():
            write_bytes_atomic(folder / name, content)
    return folder / "index.html"


def scores_csv(record: Record) -> str:
    """One line for each run and number of steps; `load_table` reads it back."""
    teachers = {(run.size, run.seed): run.scores[0].fd for run in record.scores if run.method == TEACHER}
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in record.scores:
        teacher = teachers.get((run.size, run.seed))
        shared = {key: getattr(run, key) for key in CSV_COLUMNS if hasattr(run, key)}
        for score in run.scores:
            ratio = score.fd / teacher if teacher else ""
            writer.writerow({**shared, "steps": score.steps, "nfe": score.nfe, "fd": score.fd, "ratio": ratio})
    return stream.getvalue()


def render_html(
    record: Record,
    analysis: Analysis | None,
    pictures: dict[str, list[Picture]],
    costs: Sequence[RunCost | None] = (),
    truths: Sequence[TruthRecord] = (),
) -> str:
    """The HTML of the report; every text from the study is escaped."""
    first = record.scores[0] if record.scores else None
    return render_page(
        Path(__file__).with_name("template.html.j2"),
        record=record,
        answer=answer(record, analysis),
        summary=summarise(record, analysis),
        costs=_cost_lines(costs),
        methods=methods_paragraph(record, analysis, metric_label(first.metric)) if analysis and first else "",
        checks=checks(record, analysis) if analysis else [],
        caveats=caveats(record, analysis) if analysis else [],
        pictures=pictures,
        table=score_table(record, analysis) if analysis else [],
        curves=[] if analysis is None else _curve_table(analysis),
        metric=metric_label(first.metric) if first else None,
        features=None if first is None or first.metric not in METRICS else SPACES.get(METRICS[first.metric].space),
        truth=truth_table(truths),
        claims=claims(record) if analysis else [],
        metric_columns=metric_columns(record),
        metrics=metric_table(record),
        ratios=ratio_table(record),
        first=first,
        ran=_what_ran(record.environment) if record.environment else [],
        runs=[_run_line(run) for run in record.runs],
    )


def score_table(record: Record, analysis: Analysis) -> list[dict[str, str]]:
    """The cells of the main table, one dict for each (method, steps, size)."""
    parameters = {(run.method, run.size): run.parameters for run in record.scores}
    ratios = {(c.method, c.steps, point.size): point.ratio for c in analysis.ratios for point in c.points}
    first = record.scores[0]
    lines = []
    for one in analysis.distances:
        ratio = ratios.get((one.method, one.steps, one.size))
        lines.append(
            {
                "method": curve_label(one.method, one.steps),
                "nfe": str(one.nfe),
                "size": one.size,
                "parameters": quantity(parameters[one.method, one.size]),
                "macs": quantity(one.macs),
                "fd": show(one.fd),
                "n": f"{first.n:,}",
                "floor": f"{first.floor:.3g}",
                "seeds": str(one.seeds),
                "ratio": show(ratio) if ratio else "1" if one.method == TEACHER else "–",
            }
        )
    return lines


def _curve_table(analysis: Analysis) -> list[dict[str, str]]:
    ratios = {(curve.method, curve.steps): curve for curve in analysis.ratios}
    lines = []
    for law in analysis.laws:
        curve = ratios.get((law.method, law.steps))
        floor = law.floor
        lines.append(
            {
                "method": curve_label(law.method, law.steps),
                "alpha": show(law.alpha),
                "scatter": f"{100 * law.scatter:.1f} %" if law.dof else "–",
                "floor": show(floor.E) if floor else "–",
                "floor_alpha": show(floor.alpha) if floor else "–",
                "held_out": held_words(law).replace("-", "–"),
                "mean": show(curve.mean) if curve else "–",
                "trend": show(curve.trend) if curve and curve.trend else "–",
                "verdict": "–" if curve is None else constancy_words(curve) if curve.judges else UNTOLD,
            }
        )
    return lines


def _cost_lines(costs: Sequence[RunCost | None]) -> list[dict[str, str]]:
    """Planned against measured; `times` is how much longer than at the fastest run's speed."""
    known = [one for one in costs if one is not None]
    fastest = max((one.rate for one in known if one.rate), default=None)
    return [
        {
            "run": one.run,
            "flops": quantity(one.flops),
            "seconds": "–" if one.seconds is None else duration(one.seconds),
            "rate": "–" if one.rate is None else f"{quantity(one.rate)}FLOP/s",
            "times": f"{fastest / one.rate:.2f}" if one.rate and fastest else "–",
        }
        for one in known
    ]


def _run_line(run: RunRecord) -> dict[str, str]:
    times = run.timings.model_dump() if run.timings else {}
    seconds = {key: "–" if times.get(key) is None else duration(times[key]) for key in ("train", "sample", "evaluate")}
    images = run.metrics.get("images")
    memory = times.get("peak_memory_bytes")
    return {
        **seconds,
        "run": run.name,
        "state": state(run),
        "method": method_label(run.method),
        "size": run.size,
        "seed": "–" if run.seed is None else str(run.seed),
        "images": "–" if images is None else quantity(float(images[-1])),
        "memory": "–" if memory is None else f"{memory / 2**30:.2f} GiB",
        "threads": str(times.get("threads") or "–"),
        "config": run.config or "",
    }


def _what_ran(environment: Environment) -> list[tuple[str, str]]:
    """Name and value of everything environment.json tells."""
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in environment.stages.items())
    wall = "not recorded" if environment.wall_seconds is None else duration(environment.wall_seconds)
    return [
        ("Command", environment.command or "not recorded"),
        ("Started", environment.started or "not recorded"),
        ("Wall time, all launches", f"{wall} ({stages})" if stages else wall),
        ("Commit", environment.commit or "not a checkout"),
        ("Seeds", ", ".join(map(str, environment.seeds)) or "not recorded"),
        ("Machine", _listing(environment.machine)),
        ("Versions", _listing(environment.versions)),
        ("Data", _listing(environment.data)),
    ]


def _listing(values: dict[str, Any]) -> str:
    parts = []
    for key, value in values.items():
        if key.endswith("_bytes") and isinstance(value, int | float):
            parts.append(f"{key.removesuffix('_bytes')} {value / 2**30:.1f} GiB")
        else:
            parts.append(f"{key} {value}")
    return "; ".join(parts) or "not recorded"


def duration(seconds: float) -> str:
    """Seconds as a reader says them: "48.2 s", "7 min 05 s", "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
