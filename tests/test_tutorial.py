"""docs/tutorial.md from its first line to its last, in one empty folder: its code, its study, its commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# Blocks of code of a language, and lines of commands, in the order of the text.
PARTS = re.compile(r"^```(python|yaml)\n(.*?)^```$|^    ((?:trigscale|python) [^\n]*)$", re.MULTILINE | re.DOTALL)
SHORT = {"steps": 4, "warmup_steps": 2, "batch": 16}


def shortened(study: str) -> str:
    """The study of the text with fewer steps and samples."""
    content = yaml.safe_load(study)
    for method in ("teacher", "scd"):
        content[method] |= {key: value for key, value in SHORT.items() if key in content[method]}
    content["sizes"], content["sampling"]["teacher_steps"] = ["s"], 2
    content["evaluation"] |= {"samples": 100, "resamples": 20}
    content["launch"] = {"device": "cpu"}
    return yaml.safe_dump(content)


def test_the_study_of_the_tutorial_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is printed: every key is known, and its sizes and methods are those that are spoken of."""
    from scaling.config.study import load_study

    monkeypatch.chdir(tmp_path)
    (block,) = [code for kind, code, _ in PARTS.findall(TEXT) if kind == "yaml"]
    Path("tutorial.yaml").write_text(block)
    study = load_study(Path("tutorial.yaml"))
    assert (study.name, *study.sizes, *study.methods) == ("tutorial", "xs", "s", "teacher", "scd")


@pytest.mark.nightly
def test_the_tutorial_is_walked(tmp_path: Path) -> None:
    programs = str(Path(sys.executable).parent)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{programs}:{os.environ['PATH']}"}
    walked = []
    for kind, code, command in PARTS.findall(TEXT):
        if kind == "yaml":
            (tmp_path / "tutorial.yaml").write_text(shortened(code))
            continue
        if kind == "python":
            code = code.replace("6000", "300").replace("2000", "300")
            words = [sys.executable, "-c", code]
        else:  # by a shell, which fills in what stands for a hash; a demo would not end
            words = ["bash", "-c", f"{command} --help" if " demo " in command else command]
        result = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, f"{command}\n{result.stderr[-3000:]}"
        walked.append(command)
    assert len(walked) >= 16
    assert (tmp_path / "row.ppm").read_bytes().startswith(b"P6 64 16 255\n")
    assert (tmp_path / "runs/tutorial/report/index.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "for-diffusers/model_index.json").read_text())["unet"][1] == "TrigFlowUNet"
    (again,) = (tmp_path / "runs/again").glob("scd-s-*/scores.json")
    assert json.loads(again.read_text())["metrics"][0]["n"] == 100
