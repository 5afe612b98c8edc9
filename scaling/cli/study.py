"""The commands `trigscale study ...`."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import AsJson, show

study_app = typer.Typer(help="Plan, run and report a study.", no_args_is_help=True)

StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY", help="the study file, or the name of one that is shipped, such as fashion")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.SUB=VALUE]...", help="keys to change; `trigscale study keys` lists them all"),
]

ACCELERATORS = "a100-40gb, a100-80gb, h100-80gb, h200-141gb or cpu-core"  # in scaling.plan.accelerators
KEY_COLUMNS = ("key", "type", "default", "meaning")


@study_app.command("run")
def study_run(study: StudyFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Run a study from data to report. The same command again continues what is unfinished."""
    from scaling.study.open import open_study
    from scaling.study.run import run_study

    opened = open_study(study, overrides or [])
    code = run_study(opened, " ".join(["trigscale", *sys.argv[1:]]))
    if code == 0:
        report = opened.folder / "report" / "index.html"
        show([f"report: {report}"], {"report": str(report)}, as_json)
    else:
        print("some runs failed, see above; once mended, the same command again continues", file=sys.stderr)
    raise typer.Exit(code)


@study_app.command("plan")
def study_plan(
    study: StudyFile,
    overrides: Overrides = None,
    accelerator: Annotated[
        str | None, typer.Option(help=f"device to count with: {ACCELERATORS}; launch.accelerator, else cpu-core")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="devices a run; launch.devices unless given")] = None,
    microbatch: Annotated[
        int | None, typer.Option(help="images a device a pass; launch.microbatch unless given, 0: batch / devices")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="show the memory of this sharding alone")] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="assumed share of the device's peak FLOP/s, in (0, 1]")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="take the FLOP/s that this run reached: its folder or metrics.jsonl")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="device-hours: say what fits and what does not")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a study would cost; nothing runs, and nothing is written but a cache of counts."""
    gc.disable()  # to walk over all that torch brings along, again and again, was a fifth of this short command
    from scaling.plan.build import Options, build_plan
    from scaling.plan.export import plan_json
    from scaling.plan.tables.plan import plan_tables
    from scaling.run.spec import RunData
    from scaling.study.expand import expand
    from scaling.study.open import open_study

    opened = open_study(study, overrides or [])
    unknown = RunData(content_sha256="", held_out_sha256="", encoder=opened.config.data.encoder)
    runs = expand(opened.config, opened.family, unknown)
    options = Options(accelerator, devices, utilisation, measured, microbatch, strategy, budget)
    plan = build_plan(opened.config, opened.family, runs, options)
    show(plan_tables(plan), plan_json(plan), as_json)


@study_app.command("status")
def study_status(study: StudyFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print how far each run of a study is."""
    from scaling.study.open import open_study
    from scaling.study.status import status, status_table

    opened = open_study(study, overrides or [])
    states = status(opened.folder)
    for problem in [problem for state in states for problem in state["damaged"]]:
        print(f"warning: {problem}", file=sys.stderr)
    show([status_table(opened.config.name, states)], states, as_json)


@study_app.command("report")
def study_report(study: StudyFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Write the report of what is done so far."""
    from scaling.report.build import build_report
    from scaling.study.open import open_study

    report = build_report(open_study(study, overrides or []).folder)
    analysis = report.parent / "analysis.json"
    found = json.loads(analysis.read_text(encoding="utf-8")) if analysis.exists() else None
    show([str(report)], {"report": str(report), "analysis": found}, as_json)


@study_app.command("keys")
def study_keys(as_json: AsJson = False) -> None:
    """List every key of a study file: type, default, meaning and unit."""
    from scaling.config.study import StudyConfig
    from scaling.config.validation import describe
    from scaling.tables import add, table

    rows = list(describe(StudyConfig))
    made = table("keys of a study file", KEY_COLUMNS)
    for row in rows:
        add(made, *row)
    show([made], [dict(zip(KEY_COLUMNS, row, strict=True)) for row in rows], as_json)


@study_app.command("schema")
def study_schema() -> None:
    """Print the JSON Schema of a study file, by which editors check and complete it."""
    from scaling.config.study import StudyConfig

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **StudyConfig.model_json_schema()}
    print(json.dumps(schema, indent=2))


@study_app.command("advise")
def study_advise(
    study: StudyFile,
    overrides: Overrides = None,
    target: Annotated[str, typer.Option(help="the size to be predicted, which is not bought")] = "",
    budget: Annotated[float, typer.Option(help="device-hours to spend")] = 0.0,
    accelerator: Annotated[str | None, typer.Option(help=f"device to count with: {ACCELERATORS}")] = None,
    utilisation: Annotated[float | None, typer.Option(help="assumed share of the device's peak FLOP/s")] = None,
    measured: Annotated[Path | None, typer.Option(help="take the FLOP/s that this run reached")] = None,
    max_share: Annotated[float, typer.Option(help="of the budget, at most, for one size")] = 0.7,
    shorter: Annotated[bool, typer.Option("--shorter", help="consider runs of half the length too")] = False,
    dry: Annotated[bool, typer.Option("--dry", help="print study files of the chosen runs")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which runs narrow the prediction at a size most for their price. Nothing runs."""
    import yaml

    from scaling.cli.advice_tables import advice_tables
    from scaling.plan.accelerators import DEFAULT, get_accelerator
    from scaling.plan.rate import assumed_rate, measured_rate
    from scaling.study.advise import advise, study_files
    from scaling.study.open import open_study

    opened = open_study(study, overrides or [])
    device = get_accelerator(accelerator or opened.config.launch.accelerator or DEFAULT)
    precision = opened.config.precision
    rate = measured_rate(device, precision, measured) if measured else assumed_rate(device, precision, utilisation)
    advice = advise(opened, target, budget, rate, max_share, shorter=shorter)
    if dry:
        print("---\n".join(yaml.safe_dump(one, sort_keys=False) for one in study_files(advice, opened)), end="")
        return
    show(advice_tables(advice, rate), {**advice.to_json(), "device": device.name}, as_json)
