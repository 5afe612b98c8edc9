"""`trigscale model list | show | import-edm2`, as a user types them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.family import count_macs
from models.network import NetworkConfig
from scaling.analysis.published_fids import TABLES, published_fids
from scaling.analysis.summary import analyse
from scaling.analysis.table_file import PUBLISHED, load_table
from scaling.config.families import CONFIGS, load_family
from scaling.plan.costs import count
from scaling.weights.edm2 import import_edm2
from tests.models.edm2_files import TINY, random_state, write_network

Fixture = Any  # conftest.py says what it is
# EDM2's parameters, the multiply-adds of convolutions, linear layers and attention in 10^9, and what EDM2 prints.
IMG512 = {
    "xxs": (31_309_029, None, None),
    "xs": (124_713_253, 45.0, None),
    "s": (280_212_837, 100.8, 102.2e9),
    "m": (497_807_781, 178.9, 180.8e9),
    "l": (777_498_085, 279.3, 282.2e9),
    "xl": (1_119_283_749, 402.0, 405.9e9),
    "xxl": (1_523_164_773, 546.9, 552.1e9),
}
# Size S as printed: EDM2 without and with guidance, the teacher, and the consistency models in one and two steps.
S512 = {"edm2": 2.56, "edm2-guided": 2.23, "teacher": 2.29, "sct-1": 10.13, "sct-2": 9.86, "scd-1": 3.07}
S512 |= {"scd-2": 2.50, "scd_vsd-1": 3.37, "scd_vsd-2": 2.70}
XL64 = {"edm2": 1.33, "teacher": 1.38, "sct-1": 2.04, "sct-2": 1.48, "scd-1": 2.44, "scd-2": 1.66}


def test_list_prints_every_size_of_every_family(cli: Fixture) -> None:
    result = cli("model", "list", "--json")
    assert result.code == 0
    rows = {(row["family"], row["size"]): row for row in json.loads(result.out)}
    known = [load_family(path.stem) for path in (CONFIGS / "family").glob("*.yaml")]
    assert rows.keys() == {(family.name, size) for family in known for size in family.sizes}
    for size, (parameters, macs, printed) in IMG512.items():
        row = rows["img512", size]
        assert (row["parameters"], row["published_macs"]) == (parameters, printed)
        assert macs is None or round(row["macs"] / 1e9, 1) == macs
    assert rows["img512", "s"]["published_fid"] == S512
    assert rows["img64", "xl"]["published_fid"] == XL64
    for table in TABLES["img64"]:  # its column `macs` was not published: it holds our count
        for published in load_table(PUBLISHED / table):
            assert published.macs == pytest.approx(rows["img64", published.size.lower()]["macs"], rel=1e-3)
    assert rows["img512", "xs"]["published_fid"] == rows["nano", "s"]["published_fid"] == {}


def test_list_of_one_family_for_people(cli: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = cli("model", "list", "img512")
    assert result.code == 0
    for text in ("1,523,164,773", "546.9 G", "552.1 G", "2.56/2.23", "10.13/9.86", "3.37/2.70", "published FID"):
        assert text in result.out
    assert "…" not in result.out
    plain = cli("model", "list", "nano").out
    assert "724,267" in plain
    assert "FID" not in plain


def test_show_a_preset(cli: Fixture) -> None:
    result = cli("model", "show", "nano/xs", "--json")
    facts = json.loads(result.out)
    assert (facts["preset"], facts["parameters"]) == ("nano/xs", 46_003)
    assert facts["network"]["model_channels"] == 8
    assert facts["macs"] == count_macs(load_family("nano").size("xs"))


@pytest.mark.parametrize(("kind", "parameterization"), [("edm", "edm"), ("trigflow-teacher", "trigflow")])
def test_import_and_show(cli: Fixture, tmp_path: Path, kind: str, parameterization: str) -> None:
    path = write_network(tmp_path / "network-snapshot-0002147-0.100.pkl", random_state(TINY))
    to = tmp_path / "model"
    result = cli("model", "import-edm2", path, "--to", to, *(["--as", kind] if kind != "edm" else []))
    assert result.code == 0, result
    for text in (str(to), "45,923 parameters", f"parameterization {parameterization}", "edm2-sd-vae-v1", "BY-NC-SA"):
        assert text in result.out
    facts = json.loads(cli("model", "show", to, "--json").out)
    assert (facts["parameterization"], facts["preset"]) == (parameterization, None)
    assert facts["encoder"]["name"] == "edm2-sd-vae-v1"
    assert facts["source"]["ema_sigma_rel"] == 0.1
    assert "BY-NC-SA" in facts["licence"]
    shown = cli("model", "show", to).out
    assert "network.time_embedding" in shown
    assert facts["sha256"][:16] in shown


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # to import it raises
from scaling.cli.main import app
for target in sys.argv[1:]:
    app(["model", "show", target, "--json"], standalone_mode=False)
"""


def test_presets_and_weights_at_rest_are_shown_without_torch(tmp_path: Path) -> None:
    path = write_network(tmp_path / "x.pkl", random_state(TINY))
    folder = import_edm2(path, tmp_path / "model", "edm").folder
    command = [sys.executable, "-c", WITHOUT_TORCH, "img512/s", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    for text in ('"parameters": 280212837', '"parameterization": "edm"', '"channel_mult": ['):
        assert text in found.stdout


def test_a_hostile_file_is_refused(cli: Fixture, tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'it-ran'}",)

    path = tmp_path / "network-snapshot-0002147-0.100.pkl"
    path.write_bytes(pickle.dumps({"ema": Program()}))
    result = cli("model", "import-edm2", path, "--to", tmp_path / "model")
    assert (result.code, result.out) == (2, "")
    assert f"error: {path}: refused: it wants to use posix.system" in result.err
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


MISTAKES = {
    "no such pickle": (["import-edm2", "none.pkl", "--to", "to"], "none.pkl"),
    "a folder": (["import-edm2", ".", "--to", "to"], "directory"),
    "text": (
        ["import-edm2", "text.pkl", "--to", "to"],
        "text.pkl: is a text that begins with 'hello', not a pickle of EDM2",
    ),
    "a pointer": (
        ["import-edm2", "pointer.pkl", "--to", "to"],
        "pointer.pkl: is a Git LFS pointer, not the file itself",
    ),
    "no parent": (["import-edm2", "good.pkl", "--to", "text.pkl/no"], "text.pkl: File exists: choose another folder"),
    "occupied": (["import-edm2", "good.pkl", "--to", "full"], "full exists and is not an empty folder"),
    "a file in the way": (["import-edm2", "good.pkl", "--to", "text.pkl"], "text.pkl"),
    "no model": (["show", "full"], "config.json: no such file: name a folder made by"),
    "no preset": (["show", "img512"], "'img512' is neither a folder of weights nor FAMILY/SIZE, such as img512/s"),
    "no size": (["show", "img512/xxxl"], "family 'img512' has no size 'xxxl': its sizes are xxs, xs, s, m, l, xl, xxl"),
    "no family": (["list", "img51"], "unknown family 'img51'; did you mean 'img512'?"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(cli: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_network(Path("good.pkl"), random_state(TINY))
    Path("text.pkl").write_text("hello")
    Path("pointer.pkl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    Path("full").mkdir()
    Path("full/thesis.tex").touch()
    before = sorted(map(str, tmp_path.rglob("*")))
    arguments, message = MISTAKES[mistake]
    result = cli("model", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("error:") == 1
    assert message in result.err
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("table", sorted(path.name for path in PUBLISHED.glob("*.csv")))
def test_every_published_table_can_be_fitted(table: str) -> None:
    analysis = analyse(load_table(PUBLISHED / table))
    assert analysis.distances
    assert analysis.laws or all("one size" in note for note in analysis.notes if "no power law" in note)


def test_ratios_to_the_own_teacher_are_those_of_the_tables() -> None:
    fids = published_fids("img512")
    ratios = [fids[size]["scd-2"] / fids[size]["teacher"] for size in ("s", "m", "l", "xl", "xxl")]
    assert [round(ratio, 3) for ratio in ratios] == [1.092, 1.13, 1.091, 1.072, 1.087]


def test_multiply_adds_that_follow_from_two_sizes_are_those_of_a_count() -> None:
    first = NetworkConfig(4, 4, 7, 4, (1, 2), 1, (2,), head_channels=4)
    sizes = {"a": first, "b": replace(first, model_channels=20), "c": replace(first, model_channels=8), "d": first}
    sizes["other"] = replace(first, blocks_per_level=2, model_channels=8)
    for config in sizes.values():
        assert count(config).forward_macs == count_macs(config)
