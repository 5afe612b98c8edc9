"""Mistakes in a study file, on the command line and in data: exit code 2, one message that helps, nothing written."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from data_pipeline.manifest import Manifest
from scaling.config.study import find_study
from scaling.evaluation.frechet import Reference
from scaling.evaluation.real import Real
from scaling.evaluation.spaces.small import FASHION_SHA256
from scaling.evaluation.spaces.space import About
from scaling.run.locks import locked
from scaling.run.spec import RunData
from scaling.study.expand import expand
from scaling.study.open import open_study
from tests.study.trainers import saved, trainer_of

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib


def assert_refused(result: Fixture, *parts: str) -> None:
    """Exit code 2 and one message on stderr, with all these parts."""
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.count("error:") == 1
    for part in parts:
        assert part in result.err


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


VSD = "{steps: 3, lr: 0.1, teacher_ema: 0.1}"
MISTAKES = {
    "unknown key": (["sizess=[xs]"], ["study.yaml", "sizess: unknown key (value ['xs'])", "did you mean 'sizes'?"]),
    "unknown key, far": (["frobnicate=1"], ["frobnicate: unknown key (value 1)", "known: name, family, sizes"]),
    "nested": (["teacher.lrr=0.1"], ["study.yaml", "teacher.lrr: unknown key (value 0.1)", "did you mean 'lr'?"]),
    "of an optional section": (["scd.warmup=3"], ["scd.warmup: unknown key (value 3)", "'warmup_steps'?"]),
    "by size": (
        ["by_size.xs.teacher.stepz=3"],
        ["study.yaml: by_size.xs.teacher", "stepz: unknown key (value 3)", "did you mean 'steps'?"],
    ),
    "by size, method": (["by_size.xs.sdc.steps=3"], ["by_size.xs.sdc", "'teacher', 'scd', 'sct'", "value 'sdc'"]),
    "by size, sampling": (["by_size.xs.sampling.seed=-1"], ["by_size.xs.sampling", "seed: ", "(value -1)"]),
    "by size, ema": (
        ["by_size.xs.ema.sigma_rel=[0.05]"],
        ["sampling.teacher_ema: 0.1 is not among ema.sigma_rel [0.05]: add it there (size xs)"],
    ),
    "by size, size": (
        ["by_size.mm.scd.steps=3"],
        ["by_size.mm: family 'nano' has no such size", "did you mean 'm'?", "by_size={}"],
    ),
    "type": (["teacher.steps=many"], ["teacher.steps: a whole number belongs here, in digits alone", "(value 'many')"]),
    "number": (["teacher.lr=1,5"], ["teacher.lr: a number belongs here, with a point", "(value '1,5')"]),
    "text": (
        ["name=12"],
        ["name: a text belongs here; a number is one in quotes of its own, such as", "(value 12)"],
    ),
    "yes or no": (["launch.tensorboard=maybe"], ["launch.tensorboard: true or false belongs here (value 'maybe')"]),
    "mapping": (["by_size=3"], ["by_size: keys and values belong here, in braces", "or by_size={} for none (value 3)"]),
    "empty list": (["seeds=[]"], ["seeds: holds too few entries: there must be 1 at least (value [])"]),
    "long list": (["launch.profile=[1, 2, 3]"], ["launch.profile: holds too many entries: there may be 2 at most"]),
    "truth for a number": (["teacher.steps=yes"], ["teacher.steps: a number belongs here, and yes, no, on, off, true"]),
    "truth among numbers": (["seeds=[0, true]"], ["seeds: a number belongs here", "(value [0, True])"]),
    "truth for a rate": (["scd.lr=on"], ["scd.lr: a number belongs here", "are none in YAML (value True)"]),
    "truth in a mapping": (["sampling.student_guidance={1: on}"], ["sampling.student_guidance: a number belongs here"]),
    "a time for a number": (
        ["teacher.steps=1:30"],
        ["override 'teacher.steps=1:30'", "is a number to base 60"],
    ),
    "no space in a mapping": (["sampling.student_guidance={1:1.5}"], ["a space, as in {1: 1.5}"]),
    "zeros in front": (["teacher.steps=0100"], ["'0100' is a number to base 8 in YAML: write it to base 10"]),
    "average twice": (["ema.sigma_rel=[0.1, 0.1]"], ["ema: sigma_rel: [0.1, 0.1] repeats an average: name each once"]),
    "steps twice": (["sampling.student_steps=[1, 1]"], ["student_steps: [1, 1] repeats an entry: name each once"]),
    "neighbours of all": (
        ["evaluation.metric=[fd-fashion, recall-fashion]", "evaluation.neighbours=100"],
        ["neighbours: 100 of each image are wanted by recall-fashion, and a set has 100", "lower it"],
    ),
    "type of a list": (["seeds=one"], ["seeds: a list belongs here, in brackets: write seeds=[one] (value 'one')"]),
    "section": (["sampling=7"], ["sampling: a section of keys belongs here: write sampling.KEY=VALUE (value 7)"]),
    "range": (["evaluation.samples=20"], ["evaluation.samples: ", "greater than or equal to 100 (value 20)"]),
    "not finite": (["teacher.lr=.nan"], ["teacher.lr: ", "finite number (value nan)"]),
    "width": (["ema.sigma_rel=[0.3]"], ["ema.sigma_rel.0: ", "less than 0.28 (value 0.3)"]),
    "missing": (["teacher={lr: 0.1}"], ["study.yaml", "teacher.steps: is required and missing"]),
    "two at once": (["seedz=1", "teacher.steps=-1"], ["seedz: unknown key", "teacher.steps: ", "(value -1)"]),
    "no teacher at all": (
        ["teacher.steps=0"],
        ["teacher.steps: is 0, which takes a network as it is, and teacher.weights names none: set steps above 0"],
    ),
    "no equals sign": (["teacher.steps"], ["override 'teacher.steps'", "write it as key=value"]),
    "no key": (["=3"], ["override '=3'", "write it as key=value"]),
    "deep": ([f"{'a.' * 2000}b=1"], ["override 'a.a.a.", "more than 20 sections deep: take dots out"]),
    "into a value": (["name.first=x"], ["override 'name.first=x'", "name holds 'tiny', not a section"]),
    "value": (
        ["sizes=[xs"],
        ["override 'sizes=[xs': the value is not valid YAML: close every bracket", "sizes=[a, b]"],
    ),
    "size": (["sizes=[xs, xxl]"], ["family 'nano' has no size 'xxl'", "xs, s, m, l"]),
    "repeated": (["sizes=[xs, xs]"], ["sizes: ['xs', 'xs'] repeats an entry"]),
    "family": (["family=nanoo"], ["family: unknown family 'nanoo'", "did you mean 'nano'?"]),
    "family file": (["family=none.yaml"], ["none.yaml: no such file"]),
    "encoder": (["data.encoder=fashion-s2d"], ["data.encoder", "'fashion-s2d'", "did you mean 'fashion-s2d-v1'?"]),
    "VAE of a formula": (["data.vae=folder"], ["data.vae: folder, but encoder 'fashion-s2d-v1' is no VAE: remove"]),
    "encoder file": (["data.encoder=mine.yaml"], ["mine.yaml: no such file"]),
    "no teacher": (["methods=[scd, sct]"], ["methods: add teacher"]),
    "method": (["methods=[teacher, scdd]"], ["methods.1: ", "'sct', 'vsd' or 'scd_vsd' (value 'scdd')"]),
    "no section": (["scd=null"], ["scd: methods names it but the file has no section scd: add one"]),
    "teacher_ema": (["scd.teacher_ema=0.2"], ["scd.teacher_ema: 0.2 is not among ema.sigma_rel [0.1]: add it there"]),
    "sampled ema": (["sampling.student_ema=0.2"], ["sampling.student_ema: 0.2 is not among ema.sigma_rel [0.1]"]),
    "guidance falls": (["scd.guidance=[2, 1]"], ["scd: guidance: [2.0, 1.0] falls: write [low, high]"]),
    "guidance of sct": (["sct.guidance=[1, 2]"], ["sct.guidance: consistency training has no teacher", "remove it"]),
    "guidance of students": (["scd.guidance=[1, 2]"], ["teacher.label_dropout: is 0, but scd.guidance needs"]),
    "guidance of the teacher": (
        ["sampling.teacher_guidance=1.4"],
        ["teacher.label_dropout: is 0, but sampling.teacher_guidance needs", "the paper takes 0.1"],
    ),
    "less than no guidance": (["sampling.teacher_guidance=0.5"], ["sampling.teacher_guidance: ", "(value 0.5)"]),
    "no strength": (
        ["scd.guidance=[1, 2]", "teacher.label_dropout=0.1", "sampling.student_guidance={1: 1.5}"],
        ["sampling.student_guidance: has strengths for steps [1], but", "sampled in steps [1, 2]: give one strength"],
    ),
    "strength unseen": (
        ["scd.guidance=[1, 2]", "teacher.label_dropout=0.1", "sampling.student_guidance={1: 2.5, 2: 1}"],
        ["sampling.student_guidance: 2.5 is outside scd.guidance [1.0, 2.0]", "choose one inside"],
    ),
    "strength judged, unseen": (
        [
            "scd.guidance=[1, 2]",
            "teacher.label_dropout=0.1",
            "sampling.student_guidance={1: 1, 2: 1}",
            "evaluation.guidance=[3]",
        ],
        ["evaluation.guidance: 3.0 is outside scd.guidance [1.0, 2.0]", "choose one inside"],
    ),
    "strength judged, of a teacher": (
        ["evaluation.guidance=[1, 2]"],
        ["is 0, but evaluation.guidance needs a teacher"],
    ),
    "strength twice": (["evaluation.guidance=[1, 1]"], ["evaluation: guidance: [1.0, 1.0] repeats a strength"]),
    "strengths that nothing judges": (
        ["evaluation.guidance=[1]", "evaluation.metric=none"],
        ["evaluation: guidance: no metric judges images at these strengths: name one"],
    ),
    "vsd without scd": (
        ["methods=[teacher, scd_vsd]"],
        ["methods: add scd: scd_vsd starts from the sCD student of its size"],
    ),
    "vsd without a teacher": (["methods=[vsd]", f"vsd={VSD}"], ["methods: add teacher"]),
    "vsd, no section": (["methods=[teacher, vsd]"], ["vsd: methods names it but the file has no section vsd"]),
    "ends of the student of scd_vsd": (
        ["methods=[teacher, scd, scd_vsd]", f"scd_vsd={VSD}", "scd.segments=2"],
        ["scd.segments: scd_vsd goes on from this student, and needs one whose one step leads to the data"],
    ),
    "start of vsd": ([f"scd_vsd={VSD}", "scd_vsd.start=scratch"], ["scd_vsd.start: unknown key (value 'scratch')"]),
    "tangent of vsd": ([f"vsd={VSD}", "vsd.warmup_steps=5"], ["vsd: warmup_steps: is of consistency models", "remove"]),
    "vsd in two steps": (
        ["methods=[teacher, vsd]", f"vsd={VSD}", "sampling.student_steps=[2]"],
        ["sampling.student_steps: [2] has no 1, and vsd makes samples in one step alone: add it"],
    ),
    "levels without guidance": (
        ["scd.guidance_sigma=[0.1, 2]"],
        ["scd: guidance_sigma: says where guidance is given, and guidance is null"],
    ),
    "no levels of guidance": (
        ["scd.guidance=[1, 2]", "scd.guidance_sigma=[2, 2]"],
        ["scd: guidance_sigma: [2.0, 2.0] holds no noise level: write [low, high]"],
    ),
    "vsd with other guidance": (
        ["methods=[teacher, scd, scd_vsd]", f"scd_vsd={VSD}", "scd_vsd.guidance=[1, 2]"],
        ["scd_vsd.guidance: give it where scd.guidance is given, and only there"],
    ),
    "N = 1": (["scd.discrete_steps=1"], ["scd: discrete_steps: 1 leaves no time between noise and data", "2 or more"]),
    "N = 10^12": (["scd.discrete_steps=1000000000000"], ["float32 cannot tell neighbours: write 65536 or less"]),
    "M = 10^9": (["scd.segments=1000000000"], ["segments: 1000000000 steps for each sample: write 1000 or less"]),
    "threads": (["launch.threads=100000"], ["launch.threads: must be less than or equal to 1024 (value 100000)"]),
    "readers": (["data.workers=100000"], ["data.workers: must be less than or equal to 256 (value 100000)"]),
    "two ways to be discrete": (
        ["scd.discrete_steps=64", "scd.discrete_double_every=9"],
        ["discrete_steps: fixes the distance that discrete_double_every halves"],
    ),
    "too many doublings": (["scd.discrete_double_every=1"], ["1 doubles more than 12 times in 18 steps", "write 2"]),
    "no derivative": (
        ["scd.discrete_steps=64", "scd.derivative=central"],
        ["derivative: central, but discrete-time training has no derivative"],
    ),
    "M = 0": (["scd.segments=0"], ["scd: segments: 0 leaves nothing to train", "1 is a consistency model as it is"]),
    "segments of a flow map": (
        ["scd.segments=2", "scd.flow_map=true"],
        ["segments: 2 fixes where each time leads, which a flow_map is told"],
    ),
    "flow map in discrete time": (
        ["scd.flow_map=true", "scd.discrete_steps=64"],
        ["flow_map: learns the velocity where it stays, and has no time before"],
    ),
    "guidance of segments": (
        ["teacher.label_dropout=0.1", "scd.segments=4", "scd.guidance=[1, 2]", "sampling.student_guidance={1: 1.5}"],
        ["has strengths for steps [1], but students with guidance are sampled in steps [4]"],
    ),
    "tangent": (["scd.tangent=cut"], ["scd.tangent: ", "'normalize', 'clip' or 'raw' (value 'cut')"]),
    "variant of nothing": (["variants.raw.tangent=raw"], ["variants.raw.of: is None: name what it varies, scd or sct"]),
    "variant of a teacher": (["variants.raw.of=teacher"], ["variants.raw.of: is 'teacher': name what it varies"]),
    "key of a variant": (
        ["variants.raw={of: scd, tangant: raw}"],
        ["variants.raw:", "tangant: unknown key (value 'raw')", "did you mean 'tangent'?"],
    ),
    "value of a variant": (
        ["variants.raw={of: scd, discrete_steps: 1}"],
        ["variants.raw:", "discrete_steps: 1 leaves no time"],
    ),
    "average of a variant": (
        ["variants.raw={of: scd, teacher_ema: 0.2}"],
        ["variants.raw.teacher_ema: 0.2 is not among ema.sigma_rel [0.1]: add it there"],
    ),
    "guidance of a variant": (
        ["variants.raw={of: sct, guidance: [1, 2]}"],
        ["variants.raw.guidance: consistency training has no teacher that could be guided"],
    ),
    "name of a variant": (["variants.scd.of=scd"], ["variants.scd", "is a method: name the variant otherwise"]),
    "letters of a variant": (
        ["variants={a-b: {of: scd}}"],
        ["variants.a-b", "by letters, digits and . _ + alone, 40 at most"],
    ),
    "variant without its section": (
        ["methods=[teacher, sct]", "scd=null", "variants.raw.of=scd"],
        ["variants.raw: the file has no section scd that it could vary: add one"],
    ),
    "strategy": (["launch.strategy=zero4"], ["launch.strategy: ", "'zero3' (value 'zero4')"]),
    "held out": (["data.held_out=null"], ["data: held_out: name held-out shards"]),
    "name": (
        ["name=../up"],
        ["name: is the name of a folder", "such as fashion-2 (value '../up')"],
    ),
    "device": (["launch.device=gpu"], ["launch.device: ", "'auto', 'cpu' or 'cuda' (value 'gpu')"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_mistakes_in_a_study(tmp_path: Path, write_study: Fixture, cli: Fixture, command: str, mistake: str) -> None:
    overrides, parts = MISTAKES[mistake]
    assert_refused(cli("study", command, write_study(tmp_path), *overrides), *parts)
    assert files(tmp_path) == ["study.yaml"]


def test_one_mistake_is_told_once_in_plain_words(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    result = cli("study", "plan", write_study(tmp_path), "seeds=[1.5]")
    assert_refused(result, "seeds.0: a whole number belongs here (value 1.5)")
    assert len(result.err.splitlines()) == 2
    told = [cli("study", "plan", tmp_path / "study.yaml", *overrides).err for overrides, _ in MISTAKES.values()]
    assert [err for err in told if "Input" in err or "Tuple" in err or "[key]" in err] == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"name: [tiny", ["study.yaml: is not valid YAML", "line 1"]),
        (b"- teacher\n- scd\n", ["study.yaml: holds a list, expected keys and values"]),
        (b"", ["study.yaml: is empty, expected keys and values"]),
        (b"name: \xff\xfe", ["study.yaml: cannot be read"]),
        (b"name: !!python/object/apply:os.system [touch evil]\n", ["study.yaml: is not valid YAML"]),
    ],
)
def test_study_files_that_are_none(tmp_path: Path, cli: Fixture, text: bytes, parts: list[str]) -> None:
    (tmp_path / "study.yaml").write_bytes(text)
    assert_refused(cli("study", "run", tmp_path / "study.yaml"), *parts)
    assert files(tmp_path) == ["study.yaml"]


def test_study_files_that_are_not_there(tmp_path: Path, cli: Fixture) -> None:
    assert_refused(cli("study", "run", tmp_path / "none.yaml"), "none.yaml: no such file")
    assert_refused(cli("study", "run", tmp_path), f"{tmp_path}: cannot be read", "directory")
    assert files(tmp_path) == []


def test_a_folder_is_not_taken_for_a_shipped_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout has a folder `scaling`, and a study of that name is shipped; a file of that name is the user's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scaling").mkdir()
    assert find_study(Path("scaling")).name == "scaling.yaml"
    (tmp_path / "fashion").touch()
    assert find_study(Path("fashion")) == Path("fashion")


def test_an_override_of_one_section_leaves_its_alias_alone(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    """`sct: *student` repeats a section; scd.steps=7 is about scd."""
    path = write_study(tmp_path)
    assert "sct: *" in path.read_text()
    plan = json.loads(cli("study", "plan", path, "--json", "scd.steps=7").out)
    assert [run["images"] for run in plan["runs"]] == [30 * 16, 7 * 16, 18 * 16]


def test_guidance_without_classes(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    nano = yaml.safe_load((Path(__file__).parents[2] / "configs" / "family" / "nano.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**nano, "common": {**nano["common"], "num_classes": 0}}))
    path = write_study(tmp_path, family=str(tmp_path / "mine.yaml"), teacher={"label_dropout": 0.1})
    result = cli("study", "run", path, "sampling.teacher_guidance=1.5")
    assert_refused(result, "guidance: num_classes of size 'xs' of family 'nano' is 0", "guidance needs classes")


# What can be planned but not run: the overrides, and the lines that the keys get in the refusal.
ENCODER = "data.vae: encoder sd-vae-ft-mse-v1 is a VAE that decodes samples: name its folder (value None)"
NOT_YET = {
    "encoder": (["data.encoder=sd-vae-ft-mse-v1"], [ENCODER]),
}


@pytest.mark.parametrize("key", NOT_YET)
def test_what_cannot_run_yet(tmp_path: Path, write_study: Fixture, cli: Fixture, key: str) -> None:
    overrides, lines = NOT_YET[key]
    result = cli("study", "run", write_study(tmp_path), *overrides)
    assert_refused(result, "study 'tiny' can be planned, but this version cannot run it:", *lines)
    assert len(result.err.strip().splitlines()) == 1 + len(lines)
    assert files(tmp_path) == ["study.yaml"]


def test_all_that_cannot_run_yet_is_told_at_once(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    overrides = [override for changes, _ in NOT_YET.values() for override in changes]
    result = cli("study", "run", write_study(tmp_path), *overrides)
    assert_refused(result, *(line for _, lines in NOT_YET.values() for line in lines))
    assert files(tmp_path) == ["study.yaml"]


# Launches that no run of the study can have: the overrides, and parts of the refusal.
MISFITS = {
    "devices": (["launch.devices=3"], ["devices: 3 does not divide the batch of 16 of teacher-xs; these do"]),
    "microbatch": (["launch.microbatch=5"], ["microbatch: 5 does not divide the 16 images"]),
    "microbatch of a share": (
        ["launch.devices=2", "launch.microbatch=16"],
        ["microbatch: 16 does not divide the 8 images"],
    ),
    "strategy": (
        ["launch.strategy=fsdp2"],
        ["launch.strategy: fsdp2 spreads a network over several devices, and there is 1: set it to auto"],
    ),
    "profile": (["launch.profile=[29, 31]"], ["launch.profile: [29, 31] ends after the last step of every run, 30"]),
}


@pytest.mark.parametrize("key", MISFITS)
def test_launches_that_do_not_fit(tmp_path: Path, write_study: Fixture, cli: Fixture, key: str) -> None:
    overrides, parts = MISFITS[key]
    assert_refused(cli("study", "run", write_study(tmp_path), *overrides), *parts)
    assert files(tmp_path) == ["study.yaml"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    result = cli("study", "run", write_study(tmp_path), "launch.device=cuda")
    assert_refused(result, "launch.device: cuda, but torch sees no GPU: set it to auto or cpu")
    assert files(tmp_path) == ["study.yaml"]


def truncate(folder: Path) -> None:
    os.truncate(folder / "shard-000000.tar", 100_000)


def flip(folder: Path) -> None:
    path = folder / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[50_000] ^= 1
    path.write_bytes(data)


def remove(folder: Path) -> None:
    (folder / "shard-000000.tar").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename_encoder(folder: Path) -> None:
    change_manifest(folder, encoder="sd-vae-v9")


def add_class(folder: Path) -> None:
    change_manifest(folder, num_classes=11)


DAMAGES: dict[Callable[[Path], None], list[str]] = {
    truncate: ["shard-000000.tar: has 100000 bytes, the manifest says", "copy the named files again"],
    flip: ["shard-000000.tar: SHA-256 is not the manifest's", "copy the named files again"],
    remove: ["shard-000000.tar: cannot be read (No such file or directory)", "copy the named files again"],
    remove_manifest: ["manifest.json does not exist", "trigscale data pack"],
    rename_encoder: ["holds latents of encoder 'sd-vae-v9', but data.encoder is 'fashion-s2d-v1'", "set data.encoder"],
    add_class: ["holds 11 classes, but num_classes of size 'xs' of family 'nano' is 10", "make them equal"],
}


@pytest.fixture
def own_shards(tmp_path: Path, shards: dict[str, str]) -> Path:
    """A copy of the training shards that may be damaged."""
    return Path(shutil.copytree(shards["source"], tmp_path / "own"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shards(
    tmp_path: Path, own_shards: Path, write_study: Fixture, cli: Fixture, damage: Callable[[Path], None]
) -> None:
    path = write_study(tmp_path, data={"source": str(own_shards)})
    damage(own_shards)
    assert_refused(cli("study", "run", path), str(own_shards), *DAMAGES[damage])
    assert not (tmp_path / "runs").exists()


def test_held_out_images_of_other_classes(
    tmp_path: Path, own_shards: Path, write_study: Fixture, cli: Fixture, shards: dict[str, str]
) -> None:
    """Names are compared, not positions: with dog absent, class 9 of the held-out images would be another."""
    held_out = Path(shutil.copytree(shards["held_out"], tmp_path / "held"))
    animals = [*"abcdefghi", "dog"]
    change_manifest(own_shards, class_names=animals)
    change_manifest(held_out, class_names=[*animals[:-1], "cat"])
    path = write_study(tmp_path, data={"source": str(own_shards), "held_out": str(held_out)})
    assert_refused(cli("study", "run", path), f"{held_out}: ", "lacks 'dog' and has besides 'cat'", "the same classes")
    assert not (tmp_path / "runs" / "tiny" / "study.json").exists()


def test_shards_damaged_after_they_were_verified(
    tmp_path: Path, own_shards: Path, homes: Fixture, write_study: Fixture, cli: Fixture
) -> None:
    path = write_study(tmp_path, data={"source": str(own_shards)})
    (homes.study / "study.json").unlink()
    flip(own_shards)
    assert_refused(cli("study", "run", path), str(own_shards), *DAMAGES[flip])
    assert not (homes.study / "study.json").exists()


def test_latents_that_do_not_fit_the_family(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    common = {"resolution": 16, "latent_channels": 4, "num_classes": 10, "channel_mult": [1], "blocks_per_level": 1}
    family = {"name": "mine", "common": {**common, "attention_resolutions": []}, "sizes": {"xs": {"model_channels": 8}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(family))
    result = cli("study", "run", write_study(tmp_path, family=str(tmp_path / "mine.yaml")))
    assert_refused(result, "holds latents [4, 8, 8], but size 'xs' of family", "takes [4, 16, 16]", "choose a family")
    assert not (tmp_path / "runs").exists()


def test_too_few_images_to_judge_by(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    result = cli("study", "run", write_study(tmp_path), "evaluation.samples=1000")
    assert_refused(result, "held-out images, 100 are needed: lower evaluation.samples")
    assert not (tmp_path / "runs").exists()


def test_a_file_where_a_folder_should_be(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    path = write_study(tmp_path)
    before = path.read_bytes()
    result = cli("study", "run", path, f"launch.folder={path}")
    assert_refused(result, f"{path}/tiny: Not a directory: choose another folder")
    assert path.read_bytes() == before
    assert files(tmp_path) == ["study.yaml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    path = write_study(tmp_path)
    (tmp_path / "runs").mkdir(mode=0o555)
    result = cli("study", "run", path)
    assert_refused(result, f"{tmp_path}/runs/tiny: Permission denied: make it writable or choose another folder")
    assert files(tmp_path) == ["study.yaml"]


def test_a_study_in_use(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    path, folder = write_study(tmp_path), tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    with locked(folder / ".lock"):
        assert_refused(cli("study", "run", path), f"{folder}: is in use by process {os.getpid()} on", "wait for it")
    assert files(folder) == [".lock"]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_a_config_edited_by_hand(tmp_path: Path, homes: Fixture, write_study: Fixture, cli: Fixture) -> None:
    study, path = write_study(tmp_path), homes.of("teacher") / "config.yaml"
    original = path.read_text()
    identity = yaml.safe_load(original)["identity"]
    edit(path, lambda content: content["spec"]["recipe"].update(lr=0.5))
    result = cli("study", "status", study)
    assert_refused(result, f"{path}: identity is {identity} but its spec hashes to", "change the study file instead")
    path.write_text(original)
    edit(path, lambda content: content["spec"]["recipe"].update(lrr=0.5))
    assert_refused(cli("study", "status", study), f"{path}:", "lrr: unknown key (value 0.5); did you mean 'lr'?")
    path.write_text(original[: len(original) // 2])
    assert_refused(cli("study", "status", study), f"{path}:", "`trigscale study run` writes it anew")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("method,steps,nfe,size,macs\n", ["line 1: no column 'fd'"]),
        ("method,steps,nfe,size,macs,fdd\n", ["line 1: unknown column 'fdd'; did you mean 'fd'?"]),
        ("method,steps,nfe,size,macs,fd\nscd,1,1,s,1e6\n", ["line 2: 5 values for 6 columns"]),
        ("method,steps,nfe,size,macs,fd\nscd,1,1,s,1e6,x\n", ["line 2, column fd: 'x' is not a number above 0"]),
        ("method,steps,nfe,size,macs,fd\n", ["a header but no rows"]),
        ("", ["line 1: no column 'fd'"]),
        ("\xff\x00", ["cannot be read as UTF-8"]),
    ],
)
def test_tables_that_cannot_be_fitted(tmp_path: Path, cli: Fixture, text: str, parts: list[str]) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("latin-1"))
    assert_refused(cli("fit", path), str(path), *parts)


def test_a_table_that_is_not_there(cli: Fixture) -> None:
    assert_refused(cli("fit", "none.csv"), "none.csv: no such file", "published/scm-imagenet512.csv")


@pytest.fixture
def untrained(tmp_path: Path, write_study: Fixture, shards: dict[str, str]) -> Path:
    """A checkpoint of a teacher before its first step."""
    study = open_study(write_study(tmp_path))
    data = RunData(content_sha256="", held_out_sha256="", encoder="fashion-s2d-v1")
    spec = expand(study.config, study.family, data)[0].spec
    return saved(trainer_of(spec, Path(shards["source"]), None), tmp_path).path


class Evil:
    """What unpickling this object would do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


def test_files_that_are_no_checkpoints(
    tmp_path: Path, untrained: Path, cli: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    to = tmp_path / "grid.png"
    data, manifest = untrained / "rank-00000.safetensors", untrained / "checkpoint.json"
    whole, text = data.read_bytes(), manifest.read_bytes()
    pickled = pickle.dumps({"model": Evil()})
    foreign = safetensors.torch.save({"x": torch.zeros(2)})
    size = f" of {len(whole)} bytes: restore it or delete it"
    refused = [
        *((data, content, f"has {len(content)}{size}") for content in (b"", whole[:-10], whole[:1000], foreign)),
        *((data, content, f"has {len(content)}{size}") for content in (b"name: tiny\n", pickled)),
        (data, pickled.ljust(len(whole), b"."), "its content does not match its hash, it was damaged: restore it"),
        *((manifest, content, "is not whole JSON") for content in (b"", b"name: tiny\n", text[:-10], text[:1000])),
        *((manifest, content, "is not whole JSON") for content in (pickled, foreign, b"[" * 100_000)),
        (manifest, b"{}", "is not of format 'trigscale-checkpoint-2': not written by this trigscale"),
        (manifest, text.replace(b'"step": 0', b'"step": 9'), "does not match its hash, it was altered: restore it"),
    ]
    for path, content, part in refused:
        original = path.read_bytes()
        assert content != original
        path.write_bytes(content)
        assert_refused(cli("sample", untrained, "--to", to), f"{path}: {part}")
        path.write_bytes(original)
    for name, content in (("file", whole), ("pickle", pickled), ("foreign", foreign)):
        (tmp_path / name).write_bytes(content)
        assert_refused(
            cli("sample", tmp_path / name, "--to", to), f"{tmp_path / name}: holds no weights: name the folder"
        )
    (tmp_path / "empty").mkdir()
    assert_refused(cli("sample", tmp_path / "empty", "--to", to), f"{tmp_path / 'empty'}: holds no weights")
    assert_refused(cli("sample", tmp_path / "none", "--to", to), "none: ")
    assert not to.exists()
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(pickled)  # noqa: S301 (it was hostile indeed)
    assert (tmp_path / "unpickled").exists()
    assert cli("sample", untrained, "--to", to, "--seeds", "0-2").code == 0
    assert to.exists()


def resealed(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    """Change the content of a checkpoint's manifest, and its hash too."""

    def changing(manifest: dict[str, Any]) -> None:
        change(manifest["content"])
        text = json.dumps(manifest["content"], sort_keys=True)
        manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()

    return changing


def claim(tensor: dict[str, Any], length: int) -> None:
    """Say that a tensor has so many elements, all of them in its file."""
    tensor["shape"], tensor["runs"] = [length], [[0, length, tensor["runs"][0][2]]]


def huge(content: dict[str, Any]) -> None:
    claim(next(iter(content["tensors"].values())), 2**50)


def no_spec(content: dict[str, Any]) -> None:
    del content["metadata"]["spec"]


SEALED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "huge": (huge, r"rank-00000.safetensors: tensors of [0-9,]{20,} bytes in a file of [0-9,]+"),
    "negative": (lambda content: claim(next(iter(content["tensors"].values())), -4), r"no tensor is 'F32' \[-4\]"),
    "type": (lambda content: next(iter(content["tensors"].values())).update(dtype="F7"), "no tensor is 'F7'"),
    "no spec": (no_spec, "does not say of which run it is"),
    "spec": (lambda content: content["metadata"].update(spec=3), "spec:"),
    "other spec": (lambda content: content["metadata"]["spec"].update(seed=5), "belongs to run .*, not to "),
}


@pytest.mark.parametrize("lie", SEALED)
def test_checkpoints_whose_hash_is_right_and_whose_content_is_not(
    tmp_path: Path, untrained: Path, cli: Fixture, lie: str
) -> None:
    """Sizes are compared with the file before memory is asked for."""
    change, told = SEALED[lie]
    path = untrained / "checkpoint.json"
    manifest = json.loads(path.read_text())
    resealed(change)(manifest)
    path.write_text(json.dumps(manifest))
    result = cli("sample", untrained, "--to", tmp_path / "grid.png")
    assert_refused(result, str(untrained))
    assert re.search(told, result.err)


def test_a_place_where_no_file_can_be(tmp_path: Path, untrained: Path, cli: Fixture) -> None:
    (tmp_path / "none").touch()
    result = cli("sample", untrained, "--to", tmp_path / "none" / "grid.png", "--seeds", "0")
    assert_refused(result, f"{tmp_path}/none: File exists: choose another folder")


def test_images_of_another_encoder(tmp_path: Path, cli: Fixture) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 16, 16), np.uint8), labels=np.arange(3))
    result = cli("data", "pack", tmp_path / "images.npz", "--to", tmp_path / "to", "--encoder", "none")
    assert_refused(result, "--encoder: unknown encoder 'none'", "fashion-s2d-v1", "sd-vae-ft-mse-v1")
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 32, 32, 3), np.uint8), labels=np.arange(3))
    result = cli("data", "pack", tmp_path / "images.npz", "--to", tmp_path / "to")
    assert_refused(result, "takes images uint8 of 16x16x1, these are uint8 of 32x32x3", "rgb-v1")
    assert not (tmp_path / "to").exists()


def test_packing_says_which_classes_there_are(tmp_path: Path, cli: Fixture) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 16, 16), np.uint8), labels=np.array([0, 2, 0]))
    result = cli("data", "pack", tmp_path / "images.npz", "--to", tmp_path / "to")
    assert result.code == 0
    assert "3 samples in 1 shards" in result.out
    assert "3 classes, 1 of them without samples: 1\n" in result.out
    for name in ("cat", "dog"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "folder" / name / "a.png")
    assert cli("data", "pack", tmp_path / "folder", "--to", tmp_path / "two").code == 0
    assert Manifest.load(tmp_path / "two").class_names == ("cat", "dog")


def test_samples_that_cannot_be_judged(tmp_path: Path, cli: Fixture) -> None:
    samples, reference = tmp_path / "samples.npz", tmp_path / "reference.npz"
    real = Real(
        About("fashion", 64, "", FASHION_SHA256), Reference(np.zeros(64), np.eye(64)), 9, 100, {"fd-fashion": 0.5}
    )
    reference.write_bytes(real.to_bytes("reference"))
    for images, parts in (
        (
            np.linspace(0, 1, 100 * 256).reshape(100, 16, 16, 1),
            ["images is float64 [100, 16, 16, 1]", "(255 * images)"],
        ),
        (np.array(3), ["images is int64 []"]),
        (np.ones((100, 16, 16, 1), np.uint8), ["0 and 1 alone"]),
        (np.zeros((30, 16, 16, 1), np.uint8), ["30 images, but", "give 100 images\n"]),  # no study draws so few
        (np.zeros((130, 16, 16, 1), np.uint8), ["130 images, but", "evaluation.samples=130"]),
    ):
        np.savez(samples, images=images)
        result = cli("evaluate", samples, "--reference", reference)
        assert_refused(result, *parts)
        assert str(samples) in result.err or len(images) in (30, 130)
    reference.write_bytes(replace(real, floors={"fd-fashion": np.nan}).to_bytes("reference"))
    np.savez(samples, images=np.zeros((100, 16, 16, 1), np.uint8))
    assert_refused(cli("evaluate", samples, "--reference", reference), f"{reference}: is not a whole", "floor is nan")


def test_options_that_do_not_exist(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    result = cli("study", "plan", write_study(tmp_path), "--jason")
    assert (result.code, "--jason" in result.err) == (2, True)
