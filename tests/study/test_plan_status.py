"""What a study would cost, how far it is, which keys it has, and which of them make another run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from models.family import count_macs, count_parameters
from scaling.cli.main import app
from scaling.config.families import load_family
from scaling.config.sections import NetworkFiles
from scaling.config.study import StudyConfig
from scaling.config.validation import describe, validate
from scaling.run.home import write_model
from scaling.run.schemas import RunScores
from scaling.run.spec import PlannedRun, RunData, RunFile, RunSpec, dump_run, load_run
from scaling.study.expand import expand
from scaling.study.open import open_study
from slurm.graph import Job
from slurm.submissions import Submission, Submissions

ROOT = Path(__file__).parents[2]
DATA = RunData(content_sha256="a" * 64, held_out_sha256="b" * 64, encoder="fashion-s2d-v1")
Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib


def test_a_plan_adds_up(tmp_path: Path, write_study: Fixture, cli: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    path = write_study(tmp_path, sizes=["xs", "s"], seeds=[0, 1], by_size={"s": {"scd": {"steps": 5}}})
    plan = json.loads(cli("study", "plan", path, "--json").out)
    runs = plan["runs"]
    assert [re.sub("-[0-9a-f]{12}$", "", run["run"]) for run in runs] == [
        f"{method}-{size}" for _ in range(2) for size in ("xs", "s") for method in ("teacher", "scd", "sct")
    ]
    assert len({run["run"] for run in runs}) == 12
    # By hand: forward passes a step (backward 2, tangent 1, teacher's velocity 1) and evaluations a sample.
    forwards = {"teacher": 3, "scd": 5, "sct": 4}
    evaluations = {"teacher": 2 * 3 - 1, "scd": 1 + 2, "sct": 1 + 2}
    for run in runs:
        method, size, _ = run["run"].split("-")
        network = load_family("nano").size(size)
        macs, steps = count_macs(network), {"teacher": 30, "scd": 5 if size == "s" else 18, "sct": 18}[method]
        assert (run["parameters"], run["forward_macs"]) == (count_parameters(network), macs)
        assert run["images"] == steps * 16
        assert run["train_flops"] == 2 * macs * forwards[method] * steps * 16
        assert run["evaluation_flops"] == 2 * macs * evaluations[method] * 100
        assert run["device_hours"] * 3600 * 6e10 == pytest.approx(run["train_flops"] + run["evaluation_flops"])
    assert plan["accelerator"]["name"] == "cpu-core"
    for key, total in plan["totals"].items():
        assert total == pytest.approx(12 if key == "runs" else sum(run[key] for run in runs))
    table = cli("study", "plan", path, "by_size.s.sct.steps=3000000").out
    assert "study tiny: 12 runs" in table
    lines = [line.split() for line in table.splitlines() if line.strip()]
    seconds = [printed_seconds(line[-2:]) for line in lines if re.search("-[0-9a-f]{12}$", line[0])]
    (total,) = (printed_seconds(line[-2:]) for line in lines if line[0] == "total")
    assert len(seconds) == 12
    assert total > 3600
    assert total == pytest.approx(sum(seconds), rel=0.01)
    assert [entry.name for entry in tmp_path.iterdir()] == ["study.yaml"]


def printed_seconds(words: list[str]) -> float:
    number, unit = words
    return float(number.replace(",", "")) * {"s": 1, "h": 3600}[unit]


def test_sizes_may_be_left_out(cli: Fixture) -> None:
    """Keys of sizes that a study leaves out wait in its file; the other runs stay what they are."""
    path = ROOT / "configs" / "study" / "fashion.yaml"
    whole, part = (json.loads(cli("study", "plan", path, *more, "--json").out)["runs"] for more in ((), ("sizes=[s]",)))
    assert [run["run"] for run in part] == [run["run"] for run in whole if run["size"] == "s"]


def states(cli: Fixture, path: Path) -> list[tuple[str, int]]:
    return [(run["state"], run["step"]) for run in json.loads(cli("study", "status", path, "--json").out)]


SCORES = RunScores.model_validate(
    {"study": "tiny", "run": "", "method": "teacher", "size": "xs", "seed": 0, "parameters": 1, "macs": 1}
    | {"metric": "fd-fashion", "n": 100, "floor": 1.0, "scores": [{"steps": 3, "nfe": 5, "fd": 12.345}]}
)


def test_status_follows_a_run(tmp_path: Path, homes: Fixture, write_study: Fixture, cli: Fixture) -> None:
    path, home = write_study(tmp_path), homes.of("teacher")
    waiting = ("waiting", 0)
    assert states(cli, path) == [waiting] * 3
    (home / "metrics.jsonl").write_text('{"step": 4, "loss": 0.5}\n{"step": 8, "loss": null}\n{"step": 12, "lo')
    assert states(cli, path) == [("training", 8), waiting, waiting]
    (home / "metrics.jsonl").write_text('{"step": 4, "loss": 0.5}\n{"step": 30, "loss": 0.25}\n')
    assert states(cli, path) == [("trained", 30), waiting, waiting]
    (home / "samples").mkdir()
    (home / "samples" / "steps-3.npz").touch()
    assert states(cli, path) == [("sampled", 30), waiting, waiting]
    write_model(home / "scores.json", SCORES.model_copy(update={"run": home.name}))
    (first, *_) = json.loads(cli("study", "status", path, "--json").out)
    known = {"run": home.name, "state": "done", "step": 30, "steps": 30, "loss": 0.25, "fd": {"3": 12.345}}
    assert first == {**known, "images_per_second": None, "seconds_left": None, "damaged": []}
    table = cli("study", "status", path).out
    assert all(part in table for part in ("study tiny", "30/30", "3: 12.35", "waiting"))


def test_status_and_report_before_the_first_launch(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    path = write_study(tmp_path)
    for command, reason in (("status", "no study was launched here"), ("report", "run the study first")):
        result = cli("study", command, path)
        assert (result.code, result.out) == (2, "")
        assert str(tmp_path / "runs" / "tiny") in result.err
        assert reason in result.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.slow
def test_status_without_the_cluster_says_what_the_files_say(
    tmp_path: Path, homes: Fixture, write_study: Fixture, cli: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that was copied from its cluster, or whose controller is down."""
    path, submissions = write_study(tmp_path), Submissions(homes.study.resolve() / "slurm")
    submissions.prepare()
    name = next(iter(homes.runs.values())).name
    job = Job(name, ("true",), homes.study / "log.txt")
    submissions.write(Submission("0001-teacher-ab", "teacher", {0: job}, cluster="far", number=7))
    monkeypatch.setenv("PATH", str(tmp_path))
    result = cli("study", "status", path, "--json")
    assert result.code == 0, result.err
    for entry in json.loads(result.out):
        assert (entry["state"], entry["job"]["state"]) == ("waiting", "unknown")
        assert "no such program: run this on a login node" in entry["job"]["reason"]
    assert "login node" in cli("study", "status", path).out


def test_status_after_a_study(tmp_path: Path, finished: Fixture, write_study: Fixture, cli: Fixture) -> None:
    shutil.copytree(finished.study, tmp_path / "runs" / "tiny")
    found = json.loads(cli("study", "status", write_study(tmp_path), "--json").out)
    assert [run["run"] for run in found] == list(finished.runs)
    for run in found:
        scores = json.loads((finished.study / run["run"] / "scores.json").read_text())["metrics"][0]["scores"]
        assert (run["state"], run["step"]) == ("done", run["steps"])
        assert run["fd"] == {str(score["steps"]): score["value"] for score in scores}


def test_every_key_is_described(cli: Fixture) -> None:
    rows = json.loads(cli("study", "keys", "--json").out)
    assert [row["key"] for row in rows] == [key for key, *_ in describe(StudyConfig)]
    assert {"name", "teacher.lr", "scd.warmup_steps", "sct.p_std", "launch.threads", "data.held_out"} <= {
        row["key"] for row in rows
    }
    assert [row["key"] for row in rows if len(row["meaning"]) < 10 or not row["type"] or not row["default"]] == []
    types = {row["key"]: row["type"] for row in rows}
    assert types["scd.guidance"] == "tuple[float, float] | None"
    assert types["teacher.dropout_max_resolution"] == "int | None"
    assert types["launch.device"] == "'auto' | 'cpu' | 'cuda'"
    assert types["sizes"] == "tuple[str, ...]"
    assert types["launch.folder"] == "Path"
    table = re.sub(r"\s", "", cli("study", "keys").out)
    assert "keysofastudyfile" in table


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group of commands."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = sorted(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(cli: Fixture, words: tuple[str, ...]) -> None:
    result = cli(*words, "--help")
    assert result.code == 0
    usage, described, *_ = result.out.strip().split("\n\n")
    assert " ".join([*words, "[OPTIONS]"]) in usage
    assert described.strip().endswith(".")


def test_help_needs_no_heavy_package() -> None:
    script = (
        "import sys\nfrom scaling.cli.main import app, run_cli\n"
        "code = run_cli(lambda: app(sys.argv[1:]))\n"
        "print(code, sorted({'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    for words in ((), ("study", "run")):
        result = subprocess.run(
            [sys.executable, "-c", script, *words, "--help"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert result.stdout.splitlines()[-1] == "0 []"


def runs_of(content: dict[str, Any]) -> list[PlannedRun]:
    study = validate(StudyConfig, content, "study")
    return expand(study, load_family(study.family), DATA)


def identities(content: dict[str, Any]) -> list[str]:
    return [run.spec.identity() for run in runs_of(content)]


ALL = ("teacher", "scd", "sct", "vsd", "scd_vsd")
STUDENTS = ALL[1:]
CONSISTENT = ("scd", "sct", "scd_vsd")
# Keys of the variants of Algorithm 1, with another value of each.
TECHNIQUES: dict[str, Any] = {
    "adaptive_weighting": False,
    "derivative": "plain",
    "derivative_step": 0.02,
    "discrete_steps": 256,
    "discrete_double_every": 10,
    "segments": 2,
    "flow_map": True,
    "flow_map_same": 0.4,
}
TO_THE_DATA = {"segments", "flow_map"}  # sCD+VSD leads to the data, and so does the sCD that it starts from
# Another valid value for every key of a study file that a run's result follows from.
OTHER_VALUES: dict[str, Any] = {
    **{f"{method}.steps": 31 for method in ALL},
    **{f"sct.{key}": value for key, value in TECHNIQUES.items()},
    **{
        f"{method}.{key}": value
        for method in ("scd", "scd_vsd")
        for key, value in TECHNIQUES.items()
        if key not in TO_THE_DATA
    },
    **{f"{method}.batch": 17 for method in ALL},
    **{f"{method}.lr": 0.011 for method in ALL},
    **{f"{method}.lr_decay_steps": 11 for method in ALL},
    **{f"{method}.optimizer": "radam" for method in ALL},
    **{f"{method}.lr_rampup_images": 101 for method in ALL},
    **{f"{method}.lr_cooldown": 0.5 for method in ALL},
    **{f"{method}.p_mean": -0.123 for method in ALL},
    **{f"{method}.p_std": 1.23 for method in ALL},
    **{f"{method}.dropout": 0.123 for method in ALL},
    **{f"{method}.dropout_max_resolution": 4 for method in ALL},
    "teacher.label_dropout": 0.3,
    **{f"{method}.start": "scratch" for method in ("scd", "sct")},
    **{f"{method}.teacher_ema": 0.05 for method in STUDENTS},
    **{f"{method}.warmup_steps": 9 for method in CONSISTENT},
    **{f"{method}.tangent": "clip" for method in CONSISTENT},
    **{f"{method}.tangent_norm": "rms" for method in CONSISTENT},
    **{f"{method}.tangent_constant": 0.2 for method in CONSISTENT},
    **{f"{method}.guidance": [1, 3] for method in ("scd", "vsd", "scd_vsd")},
    **{f"{method}.guidance_sigma": [0.1, 2] for method in ("scd", "vsd", "scd_vsd")},
    **{f"{method}.vsd_p_mean": 0.3 for method in ("vsd", "scd_vsd")},
    **{f"{method}.vsd_p_std": 1.9 for method in ("vsd", "scd_vsd")},
    "scd_vsd.vsd_weight": 0.5,
    "seeds": [7],
    "sizes": ["s"],
    "precision": "bf16",
    "by_size": {"xs": {"teacher": {"lr": 0.5}}},
    "ema.sigma_rel": [0.1, 0.05, 0.2],
    "ema.half_life_images": [1000],
    "sampling.teacher_steps": 4,
    "sampling.teacher_guidance": 1.5,
    "sampling.student_guidance": {1: 1.5, 2: 1.5},
    "sampling.intermediate_t": 0.9,
    "sampling.teacher_ema": 0.05,
    "sampling.student_ema": 0.05,
    "sampling.batch": 51,
    "sampling.seed": 1,
    "evaluation.metric": "fid",
    "evaluation.samples": 101,
    "evaluation.repeats": 3,
    "evaluation.resamples": 21,
    "evaluation.of_sets": "minimum",
    "evaluation.resize": "legacy-tf",
    "evaluation.neighbours": 5,
    "evaluation.slopes": True,
    "evaluation.guidance": [1, 1.5],
    "max_nonfinite_steps": 21,
}
# Keys that say where things lie, how they are named and how they are run. The data's content is in the identity.
FREE_VALUES: dict[str, Any] = {
    "name": "other",
    "data.source": "elsewhere",
    "data.held_out": "elsewhere",
    "data.workers": 3,
    "data.read_ahead": 5,
    "data.cache": "elsewhere",
    "data.cache_gb": 2.5,
    "data.on_bad_shard": "skip",
    "data.bad_share": 0.02,
    "evaluation.ruler": "elsewhere",
    "evaluation.inception": "elsewhere",
    "evaluation.dinov2": "elsewhere",
    "launch.folder": "elsewhere",
    "launch.device": "auto",
    "launch.threads": 2,
    "launch.workers": 1,
    "launch.checkpoint_seconds": 5.0,
    "launch.checkpoint_keep": 3,
    "launch.checkpoint_keep_steps": 10,
    "launch.ema_snapshot_steps": 10,
    "launch.log_every": 7,
    "launch.grid_steps": 10,
    "launch.tensorboard": True,
    "launch.wandb": "project",
    "launch.profile": [2, 4],
    "launch.memory_snapshot": True,
    "launch.accelerator": "h100-80gb",
    "launch.devices": 2,
    "launch.strategy": "fsdp2",
    "launch.shard_devices": 2,
    "launch.compile": True,
    "launch.stop_seconds": 5.0,
    "launch.microbatch": 4,
    "launch.activation_checkpointing": True,
}
# The family counts by the networks in it, methods by which runs there are, the encoder beside the data's content,
# weights by theirs (test_weights.py), variants by the runs that they are; sCT is refused guidance, VSD the keys of
# tangents; students with guidance need one strength for each number of steps. Windows and a VAE's weights stand beside
# the data's content too.
OTHERWISE = {
    "family",
    "methods",
    "data.encoder",
    "data.vae",
    "data.window_blocks",
    "data.window_block",
    "teacher.weights",
    "teacher.guide",
    "sct.guidance",
    *(f"vsd.{key}" for key in ("warmup_steps", "tangent", "tangent_norm", "tangent_constant", *TECHNIQUES)),
    *(f"{method}.{key}" for method in ("scd", "scd_vsd") for key in TO_THE_DATA),
    "scd.weights",
    "sct.guidance_sigma",
    "sct.weights",
    "variants",
    "sampling.student_steps",
}


def changed(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {**content, head: changed(content.get(head, {}), rest, value) if rest else value}


@pytest.fixture
def everything(content: dict[str, Any]) -> dict[str, Any]:
    """The tiny study with every method, two averages, and guidance."""
    vsd = {"steps": 3, "batch": 8, "lr": 0.1, "teacher_ema": 0.1, "guidance": [1, 2]}
    content = {**content, "methods": [*ALL], **dict.fromkeys(("vsd", "scd_vsd"), vsd)}
    for key, value in {
        "ema.sigma_rel": [0.1, 0.05],
        "teacher.label_dropout": 0.1,
        "scd.guidance": [1, 2],
        "sampling.student_guidance": {1: 1.5, 2: 1.4},
    }.items():
        content = changed(content, key, value)
    return content


def test_every_key_is_in_one_list() -> None:
    assert sorted([*OTHER_VALUES, *FREE_VALUES, *OTHERWISE]) == sorted(key for key, *_ in describe(StudyConfig))


# Which runs stay the same (in the order of ALL) when a key of one method changes: sCD+VSD starts from sCD.
UNCHANGED = {
    "scd": [True, False, True, True, False],
    "sct": [True, True, False, True, True],
    "vsd": [True, True, True, False, True],
    "scd_vsd": [True, True, True, True, False],
}


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_key_that_changes_results_makes_another_run(everything: dict[str, Any], key: str) -> None:
    """Of its own method; of those too that start from it."""
    before, after = identities(everything), identities(changed(everything, key, OTHER_VALUES[key]))
    unchanged = UNCHANGED.get(key.partition(".")[0], [False] * 5)
    assert [a == b for a, b in zip(before, after, strict=True)] == unchanged


def test_steps_of_students_make_other_runs(content: dict[str, Any]) -> None:
    after = identities(changed(content, "sampling.student_steps", [1]))
    assert set(after).isdisjoint(identities(content))


@pytest.mark.parametrize("key", FREE_VALUES)
def test_a_key_that_changes_no_result_keeps_the_run(everything: dict[str, Any], key: str) -> None:
    assert identities(changed(everything, key, FREE_VALUES[key])) == identities(everything)


@pytest.mark.parametrize("section", ["ema", "sampling"])
def test_sections_of_one_size_reach_its_runs_alone(content: dict[str, Any], section: str) -> None:
    changes = {"ema": {"sigma_rel": [0.1, 0.2]}, "sampling": {"teacher_steps": 7}}[section]
    both = {**content, "sizes": ["xs", "s"]}
    before, after = runs_of(both), runs_of({**both, "by_size": {"s": {section: changes}}})
    assert [a.spec == b.spec for a, b in zip(before, after, strict=True)] == [True] * 3 + [False] * 3
    for run in after[3:]:
        assert (
            getattr(run.spec, section).model_dump().items()
            >= {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}.items()
        )


def test_methods_left_out_leave_the_others_as_they_are(content: dict[str, Any]) -> None:
    teacher, scd, _ = identities(content)
    assert identities({**content, "methods": ["scd", "teacher"]}) == [teacher, scd]


def leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def altered(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, list):
        return [*value, *value] or [1]
    if value is None or isinstance(value, str):
        return f"{value}x"
    return value + 1


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("method", ALL)
def test_every_value_of_a_run_is_in_its_identity(everything: dict[str, Any], method: str) -> None:
    (spec,) = (run.spec for run in runs_of(everything) if run.spec.method == method)
    plain = spec.model_dump(mode="json")
    seen = {spec.identity()}
    paths = list(leaves(plain))
    assert len(paths) > 30
    for path in paths:
        copy = json.loads(json.dumps(plain))
        inner = copy
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = altered(inner[path[-1]])
        seen.add(RunSpec.model_construct(**copy).identity())
    assert len(seen) == len(paths) + 1


def test_a_config_file_gives_back_its_run(tmp_path: Path, write_study: Fixture) -> None:
    tiny = {"lr": 1e-05, "p_mean": -0.1 - 0.2, "p_std": 1e22}
    guided = {"guidance": [1, 2]}
    path = write_study(
        tmp_path,
        methods=["scd_vsd", "vsd", "sct", "teacher", "scd"],
        seeds=[2**40],
        teacher={**tiny, "label_dropout": 0.1},
        scd={**tiny, **guided},
        sct=tiny,
        vsd={**tiny, **guided, "steps": 5, "teacher_ema": 0.1},
        scd_vsd={**tiny, **guided, "steps": 5, "teacher_ema": 0.1},
        sampling={"teacher_guidance": 1.5, "student_guidance": {1: 1.5, 2: 1.25}},
    )
    study = open_study(path)
    for run in expand(study.config, study.family, DATA):
        file = RunFile(
            study=study.config.name,
            identity=run.spec.identity(),
            spec=run.spec,
            shards=tmp_path / """it's "here" """,
            references={"fashion": tmp_path / "größe: [x]"},
            networks=NetworkFiles(),
            teacher_home=tmp_path if run.parent else None,
            launch=study.config.launch,
        )
        (tmp_path / "config.yaml").write_text(dump_run(file), encoding="utf-8")
        back = load_run(tmp_path)
        assert back.model_dump(mode="json") == file.model_dump(mode="json")
        assert back.spec.identity() == run.spec.identity()
        assert type(back.spec.recipe) is type(run.spec.recipe)
        assert back.spec.network_config() == run.spec.network_config()
