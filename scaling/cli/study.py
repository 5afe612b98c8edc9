"""The commands `trigscale study ...`."""

from __future__ import annotations

import gc
import json
import sys
import time
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
    from scaling.run.spec import run_data
    from scaling.study.expand import expand
    from scaling.study.open import open_study

    opened = open_study(study, overrides or [])
    runs = expand(opened.config, opened.family, run_data(opened.config.data, "", ""))
    options = Options(accelerator, devices, utilisation, measured, microbatch, strategy, budget)
    plan = build_plan(opened.config, opened.family, runs, options)
    show(plan_tables(plan), plan_json(plan), as_json)


@study_app.command("status")
def study_status(
    study: StudyFile,
    overrides: Overrides = None,
    watch: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="print it again this often, until all ended"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print how far each run of a study is, and where it is on the cluster."""
    from scaling.study.open import open_study
    from scaling.study.status import last_words, status, status_table

    opened = open_study(study, overrides or [])
    while True:
        states = status(opened.folder)
        for problem in [problem for state in states for problem in state["damaged"]]:
            print(f"warning: {problem}", file=sys.stderr)
        show([status_table(opened.config.name, states), *last_words(states)], states, as_json)
        if watch is None or all(state["state"] in ("done", "failed", "cancelled") for state in states):
            return
        time.sleep(watch)


@study_app.command("logs")
def study_logs(
    study: StudyFile,
    run: Annotated[str, typer.Argument(metavar="RUN", help="the run, or how its name begins, such as scd-xs")],
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the run has ended")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a run said, on this machine or on a cluster; as JSON an object a line."""
    from scaling.study.logs import find_run, lines
    from scaling.study.open import open_study
    from scaling.study.status import has_ended

    home = find_run(open_study(study, overrides or []).folder, run)
    for line in lines(home, follow=follow, ended=lambda: has_ended(home)):
        print(json.dumps({"run": home.name, "line": line}) if as_json else line, flush=follow)


ClusterFile = Annotated[
    Path, typer.Option("--cluster", metavar="FILE", help="the cluster file, or the name of a shipped one, such as cpu")
]


@study_app.command("submit")
def study_submit(
    study: StudyFile,
    cluster: ClusterFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the graph, the batch scripts and the cost; submit nothing")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="submit what failed again")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a study on a SLURM cluster and return. The same command again submits what is neither done nor there."""
    from scaling.config.cluster import load_cluster
    from scaling.study.open import open_study
    from scaling.study.submit import outcome_json, outcome_table, preview, submit_study

    loaded, opened = load_cluster(cluster), open_study(study, overrides or [])
    if dry_run:
        show(*preview(opened, loaded), as_json)
        return
    command = " ".join(["trigscale", *sys.argv[1:]])
    outcome, done = submit_study(opened, loaded, command, retry_failed=retry_failed)
    show(outcome_table(opened.config.name, outcome, done), outcome_json(outcome, done), as_json)
    raise typer.Exit(1 if outcome.failed or outcome.refused else 0)


@study_app.command("rehearse")
def study_rehearse(
    study: StudyFile,
    overrides: Overrides = None,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", metavar="FILE", help="rehearse there, with the jobs of `submit`")
    ] = None,
    sizes_on_meta: Annotated[
        bool,
        typer.Option("--sizes-on-meta", help="run nothing: hold the planned memory of each size against the device"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try every stage of a study with a few steps and images, and say what is missing and what it will take."""
    from scaling.config.cluster import load_cluster
    from scaling.study.open import open_study
    from scaling.study.rehearsal_table import rehearsal_json, rehearsal_table
    from scaling.study.rehearse import rehearse

    opened = open_study(study, overrides or [])
    command = " ".join(["trigscale", *sys.argv[1:]])
    found = rehearse(opened, load_cluster(cluster) if cluster else None, command, on_meta=sizes_on_meta)
    show(rehearsal_table(opened.config.name, found), rehearsal_json(found), as_json)
    raise typer.Exit(0 if found.works else 1)


@study_app.command("cancel")
def study_cancel(study: StudyFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Stop all jobs of a study on the cluster. Results stay; submitted again it continues."""
    from scaling.study.open import open_study
    from scaling.study.submit import cancel_study

    names = cancel_study(open_study(study, overrides or []).folder)
    show([f"cancelled {len(names)} jobs"], {"cancelled": names}, as_json)


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


@study_app.command("compare")
def study_compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="a study: its file, name, or folder of runs")],
    second: Annotated[Path, typer.Argument(metavar="B", help="the study that is divided by it")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="folder of the page")] = Path("comparison"),
    as_json: AsJson = False,
) -> None:
    """Show two studies in one figure, and the second over the first at every size that both have."""
    from scaling.report.compare import compare, write_comparison
    from scaling.study.open import open_study

    folders = [each if each.is_dir() else open_study(each).folder for each in (first, second)]
    found = compare(*folders)
    page = write_comparison(found, to)
    show([*found.sentences(), str(page)], {**found.to_json(), "page": str(page)}, as_json)
