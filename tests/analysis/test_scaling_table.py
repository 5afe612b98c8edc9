"""Tables: what is read, and what a faulty file is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.analysis.table import Row, TableError, check_rows, load_scores, load_table, resolve_table

HEADER = "method,steps,nfe,size,macs,fd"
SCORES: dict[str, Any] = {
    "study": "fashion",
    "run": "scd-s-1a2b3c4d",
    "method": "scd",
    "size": "s",
    "seed": 3,
    "parameters": 123,
    "macs": 456,
    "metric": "fd-fashion",
    "n": 5000,
    "floor": 0.21,
    "untrained": None,
    "scores": [
        {"steps": 1, "nfe": 1, "fd": 12.5, "replicates": [12.0, 13.0]},
        {"steps": 2, "nfe": 2, "fd": 10.0, "replicates": []},
    ],
}


def write_scores(study: Path, **changes: object) -> Path:
    scores = SCORES | changes
    path = study / str(scores["run"]) / "scores.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(scores))
    return path


def write_table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_scores_become_one_row_for_each_number_of_steps(tmp_path: Path) -> None:
    write_scores(tmp_path)
    one, two = load_scores(tmp_path)
    assert one == Row("scd", 1, 1, "s", 3, 456.0, 12.5)
    assert two == Row("scd", 2, 2, "s", 3, 456.0, 10.0)
    assert one.replicates is not None
    np.testing.assert_array_equal(one.replicates, [12.0, 13.0])
    assert two.replicates is None


@pytest.mark.parametrize(("key", "value"), [("n", 10000), ("metric", "fid")])
def test_scores_of_another_metric_or_n_are_refused_by_run(tmp_path: Path, key: str, value: object) -> None:
    write_scores(tmp_path)
    write_scores(tmp_path, run="teacher-s-0", method="teacher", **{key: value})
    with pytest.raises(TableError, match=rf"teacher-s-0 .*{value}.*scd-s-1a2b3c4d.*one metric and one N"):
        load_scores(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"macs": "many"}, r"macs: .*'many'"),
        ({"floor": 0}, r"floor: .*0"),
        ({"scores": []}, r"scores: "),
        ({"scores": [{"steps": 1, "nfe": 1, "fd": -1.0}]}, r"scores\.0\.fd: .*-1\.0"),
        ({"scores": [{"steps": 1, "nfe": 1, "fd": float("nan")}]}, r"scores\.0\.fd: .*nan"),
    ],
)
def test_malformed_scores_name_file_key_and_value(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_scores(tmp_path, **changes)
    with pytest.raises(TableError, match=message) as caught:
        load_scores(tmp_path)
    assert str(path) in str(caught.value)


def test_missing_key_and_cut_file_are_named(tmp_path: Path) -> None:
    path = write_scores(tmp_path)
    path.write_text(json.dumps({key: value for key, value in SCORES.items() if key != "macs"}))
    with pytest.raises(TableError, match="macs: Field required"):
        load_scores(tmp_path)
    path.write_text(json.dumps(SCORES)[:-5])
    with pytest.raises(TableError, match=r"scores\.json: cannot be read as JSON"):
        load_scores(tmp_path)


def test_study_without_scores_is_told_to_run(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="run the study first"):
        load_scores(tmp_path)


def test_table_is_read_with_and_without_seeds(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", HEADER, "teacher,9,17,s,1e6,2.5", "", "scd,1,1,s,1e6,3")
    assert load_table(path) == [Row("teacher", 9, 17, "s", 0, 1e6, 2.5), Row("scd", 1, 1, "s", 0, 1e6, 3.0)]
    path = write_table(
        tmp_path / "t.csv", "\ufeffseed, fd ,macs,size,nfe,steps,method", '4,2.5,1e6,"s, wide",17,9,teacher'
    )
    assert load_table(path) == [Row("teacher", 9, 17, "s, wide", 4, 1e6, 2.5)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((HEADER, "scd,1,1,s,1e6,2", "scd,2,2,s,1e6,-3"), r"line 3, column fd: '-3'"),
        ((HEADER, "scd,1,1,s,inf,2"), r"line 2, column macs: 'inf'"),
        ((HEADER, "scd,1,1,s,nan,2"), r"line 2, column macs: 'nan'"),
        ((HEADER, "scd,1.5,1,s,1e6,2"), r"line 2, column steps: '1\.5' is not a whole number"),
        ((HEADER, "scd,0,1,s,1e6,2"), r"line 2, column steps: '0'"),
        ((HEADER, "scd,1,1,,1e6,2"), r"line 2, column size: ''"),
        ((HEADER, "scd,1,1,s,1e6"), r"line 2: 5 values for 6 columns"),
        ((HEADER, "scd,1,1,s,1e6,2,9"), r"line 2: 7 values for 6 columns"),
        ((HEADER + ",seed", "scd,1,1,s,1e6,2,x"), r"line 2, column seed: 'x'"),
        (("method,steps,nfe,size,macs", "scd,1,1,s,1e6"), r"line 1: no column 'fd'"),
        ((HEADER + ",sed", "scd,1,1,s,1e6,2,0"), r"line 1: unknown column 'sed'; did you mean 'seed'"),
        ((HEADER + ",fd", "scd,1,1,s,1e6,2,0"), r"line 1: column 'fd' appears 2 times"),
        ((HEADER + ",n", "scd,1,1,s,1e6,2,5000", "scd,2,2,s,1e6,2,50000"), r"line 3, column n: '50000'.*'5000'"),
        ((HEADER,), r"no rows"),
        (("",), r"line 1: no column 'method'"),
    ],
)
def test_faulty_tables_name_line_column_and_value(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = write_table(tmp_path / "t.csv", *lines)
    with pytest.raises(TableError, match=message) as caught:
        load_table(path)
    assert str(path) in str(caught.value)


def test_binary_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "b.csv", tmp_path / "none.csv"):
        with pytest.raises(TableError, match=path.name):
            load_table(path)


def test_published_tables_are_found_unless_a_file_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = resolve_table("published/scm-imagenet512.csv")
    assert len(load_table(packaged)) == 35
    (tmp_path / "published").mkdir()
    write_table(tmp_path / "published" / "scm-imagenet512.csv", HEADER, "scd,1,1,s,1e6,2")
    assert len(load_table(resolve_table("published/scm-imagenet512.csv"))) == 1


@pytest.mark.parametrize("name", ["published/other.csv", "scm-imagenet512.csv", "published/../table.py"])
def test_unknown_tables_list_the_known(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TableError, match=r"no such file; published tables are .*published/scm-imagenet512\.csv"):
        resolve_table(name)


def test_rows_that_contradict_each_other_are_refused() -> None:
    teacher, student = Row("teacher", 9, 17, "s", 0, 1e6, 2.0), Row("scd", 1, 1, "s", 0, 1e6, 3.0)
    check_rows([teacher, student, Row("scd", 2, 2, "s", 0, 1e6, 2.5)])
    with pytest.raises(TableError, match="two rows of scd with 1 steps for size 's', seed 0"):
        check_rows([teacher, student, Row("scd", 1, 1, "s", 0, 1e6, 4.0)])
    with pytest.raises(TableError, match="two teachers for size 's', seed 0"):
        check_rows([teacher, Row("teacher", 18, 35, "s", 0, 1e6, 1.9)])
    with pytest.raises(TableError, match=r"macs 2e\+06 and 1e\+06"):
        check_rows([student, Row("scd", 2, 2, "s", 0, 2e6, 2.5)])
