"""Tables: what is read, and what a faulty file is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.analysis.axis import by_metric, default_axis, on_axis
from scaling.analysis.columns import COLUMNS, parse_choice
from scaling.analysis.gather import drop, gather
from scaling.analysis.table import Row, TableError, check_rows, load_scores
from scaling.analysis.table_file import PUBLISHED, load_table, resolve_table
from scaling.analysis.targets import resolve_targets
from scaling.run.home import DamagedError

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
    known = {"parameters": 123.0, "metric": "fd-fashion", "n": 5000}
    assert one == Row("scd", 1, 1, "s", 3, 456.0, 12.5, **known)
    assert two == Row("scd", 2, 2, "s", 3, 456.0, 10.0, **known)
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
        ({"floor": 0}, r"metrics\.0: .*floor is 0"),
        ({"scores": []}, r"scores: "),
        ({"scores": [{"steps": 1, "nfe": 1, "fd": -1.0}]}, r"metrics\.0: .*value is -1"),
        ({"scores": [{"steps": 1, "nfe": 1, "fd": float("nan")}]}, r"scores\.0\.value: .*nan"),
    ],
)
def test_malformed_scores_name_file_key_and_value(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_scores(tmp_path, **changes)
    with pytest.raises(DamagedError, match=message) as caught:
        load_scores(tmp_path)
    assert str(path) in str(caught.value)


def test_missing_key_and_cut_file_are_named(tmp_path: Path) -> None:
    path = write_scores(tmp_path)
    path.write_text(json.dumps({key: value for key, value in SCORES.items() if key != "macs"}))
    with pytest.raises(DamagedError, match="macs: Field required"):
        load_scores(tmp_path)
    path.write_text(json.dumps(SCORES)[:-5])
    with pytest.raises(DamagedError, match=r"scores\.json: the whole file: Invalid JSON"):
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
        ((HEADER + ",fd", "scd,1,1,s,1e6,2,0"), r"line 1: column 'fd' appears twice: keep one"),
        ((HEADER + ",FID", "scd,1,1,s,1e6,2,0"), r"line 1: column 'fd' and 'FID' both hold fd: keep one"),
        (("size|macs|fid", "s|1e6|2"), r"the line is one column; columns are separated by commas, semicolons or tabs"),
        (
            ("size,params (M),fid", "s,280,2"),
            r"give parameters in units of one \(--column 'parameters=params \(M\)\*1e6'\)",
        ),
        (("size,kimg,fid", "s,280,2"), r"give images in units of one \(--column 'images=kimg\*1e3'\)"),
        (
            (HEADER, "scd,1,1,s,1e6,1.83 (0.02)"),
            r"'1\.83 \(0\.02\)' is not .*: write the value alone; the scatter is est",
        ),
        ((HEADER, "scd,1,1,s,1e6,1.83 ± 0.02"), r"write the value alone"),
        ((HEADER, "scd,1,1,s,1e6,1.83%"), r"'1\.83%' is not .*: write it without a unit$"),
        ((HEADER, "scd,1,1,s,280M,1.83"), r"write it without a unit, or .*: --column 'macs=macs\*1e6'"),
        ((HEADER, "scd,1,1,s,1.000.000,1.83"), r"'1\.000\.000' is not .*without separators"),
        ((HEADER.replace(",", ";"), "scd;1;1;s;1,0E+09;2"), r"'1,0E\+09' is not .*without separators"),
        ((HEADER, "scd,1,1,s,1e6,inf"), r"'inf' is not .*leave the cell empty where nothing was measured"),
        (('{"size": "s"}',), "looks like JSON"),
        (("PK\3\4" + "\0" * 22 + "\x13\0\0\0[Content_Types].xml",), "is an Excel or other Office file: save it as CSV"),
        (
            ("method,steps,nfe,size,GMACs,fd", "scd,1,1,s,1,2"),
            r"column 'GMACs': give macs.*\(--column 'macs=GMACs\*1e9'\)",
        ),
        (
            ("method,steps,nfe,size,GFLOPs,fd", "scd,1,1,s,1,2"),
            r"unknown column 'GFLOPs'.*multiply-add counts once",
        ),
        ((HEADER, 'scd,1,1,s,"1,000,000",2'), r"line 2, column macs: '1,000,000' is not a .*without separators"),
        ((HEADER, "scd,1,1,s,1_000_000,2"), r"line 2, column macs: '1_000_000' is not a .*without separators"),
        ((HEADER, "scd,1,1,s,1 000 000,2"), r"line 2, column macs: '1 000 000' is not a .*without separators"),
        ((HEADER, "scd,1,1'000,s,1e6,2"), r"""line 2, column nfe: "1'000" is not a whole .*without separators"""),
        (
            (HEADER.replace(",", ";"), "scd;1;1;s;1e6;2,5"),
            r"line 2, column fd: '2,5' is not .*point before decimals",
        ),
        ((HEADER, "scd,1,1,s,1e6,\u0662"), r"line 2, column fd: '\u0662' is not a number above 0$"),
        ((HEADER, "scd," + "9" * 5000 + ",1,s,1e6,2"), r"line 2, column steps: '9{76}\.\.\. is not a whole number"),
        ((HEADER, "x" * 200_000 + ",1,1,s,1e6,2"), r"after line 1: field larger than field limit"),
        ((HEADER, "x" * 100 + ",1,1,s,1e6,2"), r"line 2, column method: 'x+\.\.\. is not a name"),
        ((HEADER, "a\x1b[2J,1,1,s,1e6,2"), r"line 2, column method: 'a\\x1b\[2J' is not a name"),
        ((HEADER, '"scd,1,1,s,1e6,2', "scd,2,2,s,1e6,2"), r"after line 1: unexpected end of data: is a quote open"),
        ((HEADER, "scd,1,1,s,1e6,2\0"), r"holds NUL characters"),
        (
            (HEADER, "scd,1,1,s,102.2,2", "scd,2,2,s,102.2e9,2"),
            r"macs is 102\.2 in line 2 and 1\.022e\+11 in line 3, of one ",
        ),
        (
            (HEADER, "scd,1,1,m,280e9,2", "scd,1,1,s,102.2,2"),
            r"macs is 102\.2 in line 3 and 2\.8e\+11 in line 2, of one ta",
        ),
        (("version https://git-lfs.github.com/spec/v1",), r"is a Git LFS pointer"),
        (("PK\3\4",), "is a zip archive"),
        ((HEADER,), r"no rows"),
        (("",), r"line 1: no column 'fd'"),
        (("method,fd", "scd,2"), r"line 1: no column 'macs', 'parameters', 'training' or 'images': a law needs a cost"),
        ((HEADER, "scd,1,1,s,1e6,-"), r"a header but no rows with a score"),
    ],
)
def test_faulty_tables_name_line_column_and_value(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = write_table(tmp_path / "t.csv", *lines)
    with pytest.raises(TableError, match=message) as caught:
        load_table(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_other_spellings_mean_the_same(tmp_path: Path, separator: str) -> None:
    """Separators, blank rows, comments, our printed labels, another case of names and columns."""
    lines = (
        '# exported, with "one quote',
        "Method,Steps,NFE,Size,MACs,FID",
        ",,,,,",
        "Teacher,9,17,S,1e6,2.5",
        "  # in the middle",
        "sCD,1,1,s,1e6,3",
        "   ",
        "SCT,1,1,S,1e6,4",
        "sCD + VSD,1,1,S,1e6,5",
        "Mine,1,1,S,1e6,6",
        "mine,2,2,S,1e6,6",
    )
    path = write_table(tmp_path / "t.csv", *(line.replace(",", separator) for line in lines))
    named = [
        ("teacher", 9, 17, 2.5),
        ("scd", 1, 1, 3.0),
        ("sct", 1, 1, 4.0),
        ("scd_vsd", 1, 1, 5.0),
        ("Mine", 1, 1, 6.0),
    ]
    named.append(("Mine", 2, 2, 6.0))
    assert load_table(path) == [Row(method, steps, nfe, "S", 0, 1e6, fd) for method, steps, nfe, fd in named]
    path.write_text(path.read_text().replace("2.5", "x"))
    with pytest.raises(TableError, match="line 4, column fd"):
        load_table(path)


def test_tables_as_other_programs_export_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A data frame's index and its 1.0 for 1, Excel's sep= and separators at the ends of lines, names with signs."""
    expected = [Row("teacher", 9, 17, "s", 0, 1e6, 2.5), Row("scd", 1, 1, "s", 0, 1e6, 3.0)]
    frame = (
        f",{HEADER},seed",
        "0,teacher,9.0,17.0,s,1e6,2.5,0.0",
        "1,scd,1.0,1.0,s,1e6,3,0.0",
        "2,sct,1,1,s,1e6,#N/A,0",
    )
    assert load_table(write_table(tmp_path / "t.csv", *frame)) == expected
    assert "columns that are not used: number 1, which has no name" in caplog.text
    assert "line 4 without a score" in caplog.text
    excel = ("sep=;", "Method;Steps;NFE;Size;MACs;FID (↓);", "teacher;9;17;s;1e6;2.5;", "scd;1;1;s;1e6;3;")
    assert load_table(write_table(tmp_path / "t.csv", *excel)) == expected


def test_every_column_that_the_report_writes_is_known(tmp_path: Path) -> None:
    values = "scd,1,1,s,1e6,2,3,fd-fashion,5000,4e5,1e15,1e6,0,r,0.2,500,1.5,here"
    path = write_table(tmp_path / "t.csv", ",".join(COLUMNS), values)
    assert load_table(path) == [
        Row("scd", 1, 1, "s", 3, 1e6, 2.0, None, 4e5, 1e15, 1e6, "fd-fashion", 5000, 0.0),
    ]


def test_costs_too_small_for_networks_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_table(write_table(tmp_path / "t.csv", HEADER, "scd,1,1,s,102.2,2", "scd,1,1,m,280.5,2"))
    assert "macs is 280.5 at most (line 3), few for a network: are they GMACs?" in caplog.text
    for column, value, likely in (
        ("#Params", 280, "millions"),
        ("images", 200, "thousands"),
        ("training", 6, "in ano"),
    ):
        caplog.clear()
        load_table(write_table(tmp_path / "t.csv", f"size,{column},fid", f"s,{value},2", "m,300,1"))
        assert f"is 300 at most (line 3), few for a network: are they {likely}" in caplog.text
    caplog.clear()
    for path in PUBLISHED.glob("*.csv"):
        assert load_table(path)
    assert caplog.text == ""


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


def test_columns_are_named_by_the_user_and_scaled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ("Model Size,FID,GMACs,notes,IS", "2e8,2.5,100.8,good,170", "8e8,-,279.3,?,180")
    path = write_table(tmp_path / "t.csv", *lines)
    chosen = [parse_choice(text) for text in ("parameters=Model Size", "fd=FID", "fd=IS", "macs=GMACs*1e9")]
    rows = load_table(path, chosen)
    assert [(row.metric, row.fd, row.parameters, row.macs) for row in rows] == [
        ("FID", 2.5, 2e8, pytest.approx(100.8e9)),
        ("IS", 170.0, 2e8, pytest.approx(100.8e9)),
        ("IS", 180.0, 8e8, pytest.approx(279.3e9)),
    ]
    assert (rows[0].method, rows[0].steps, rows[0].nfe, rows[0].seed, rows[0].size) == ("all", 1, 1, 0, "100800000000")
    assert "columns that are not used: 'notes'" in caplog.text
    assert "line 3 without a score, passed over" in caplog.text
    assert {name: len(group) for name, group in by_metric(rows).items()} == {"FID": 1, "IS": 2}
    assert list(by_metric(rows, "is")) == ["IS"]
    with pytest.raises(TableError, match="--metric kid: there is none; the table has FID, IS"):
        by_metric(rows, "kid")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fd", "give MEANING=NAME"),
        ("quality=FID", "meanings are method"),
        ("size=Size*2", "a factor above 0, of macs"),
        ("fd=KID", "column 'KID' is not in the header, which has 'method'"),
    ],
)
def test_words_on_columns_that_cannot_be_followed(tmp_path: Path, word: str, message: str) -> None:
    path = write_table(tmp_path / "t.csv", HEADER, "scd,1,1,s,1e6,2")
    with pytest.raises(TableError, match=message):
        load_table(path, [parse_choice(word)])


def test_scores_of_several_n_are_refused_by_line(tmp_path: Path) -> None:
    rows = load_table(write_table(tmp_path / "t.csv", HEADER + ",n", "scd,1,1,s,1e6,2,5000", "scd,2,2,s,1e6,2,50000"))
    with pytest.raises(TableError, match=r"line 3: the score at N = 50000, line 2 at N = 5000"):
        by_metric(rows)


def test_laws_are_fitted_against_any_cost(tmp_path: Path) -> None:
    header = "size,parameters,training flops,images,fd"
    rows = load_table(write_table(tmp_path / "t.csv", header, "s,2e8,8e18,1e7,2", "m,8e8,4e19,2e7,1"))
    assert default_axis(rows) == "parameters"
    assert [row.macs for row in on_axis(rows, "training")] == [4e18, 2e19]
    assert [row.macs for row in on_axis(rows, "images")] == [1e7, 2e7]
    with pytest.raises(TableError, match=r"no MACs in line 2, line 3; every row has parameters, training, images"):
        on_axis(rows, "macs")
    with pytest.raises(TableError, match="give one of macs"):
        on_axis(rows, "price")


def test_targets_are_costs_sizes_of_the_table_and_of_its_family() -> None:
    rows = [row for row in load_table(PUBLISHED / "scm-imagenet512.csv") if row.size in ("S", "M", "L")]
    found = resolve_targets(["xxl", "m", "macs=5e11"], rows, "macs")
    assert found["xxl"] == pytest.approx(552.1e9, rel=0.01)  # in EDM2's count, from the three sizes that it printed
    assert (found["m"], found["macs=5e11"]) == (180.8e9, 5e11)
    for word, message in (
        ("huge", "no such size in the table, which has S, M, L"),
        ("macs=-1", "give a number above 0"),
    ):
        with pytest.raises(TableError, match=message):
            resolve_targets([word], rows, "macs")
    with pytest.raises(TableError, match="fitted against macs here"):
        resolve_targets(["images=1e9"], rows, "macs")


def test_several_sources_keep_their_teachers_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_table(tmp_path / f"{name}.csv", HEADER, "teacher,9,17,s,1e6,2", "scd,1,1,s,1e6,3")
    rows = gather([str(tmp_path / "one.csv"), str(tmp_path / "two.csv")])
    assert [row.size for row in rows] == ["one:s", "one:s", "two:s", "two:s"]
    check_rows(rows)
    write_scores(tmp_path / "study")
    assert len(gather([str(tmp_path / "study")])) == 2


def test_the_highest_scores_are_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    rows = load_table(PUBLISHED / "scm-imagenet512.csv")
    kept = drop(rows, 2)
    assert sorted({row.fd for row in rows} - {row.fd for row in kept}) == [9.86, 10.13]
    assert "line 17 (10.13), line 22 (9.86)" in caplog.text
    with pytest.raises(TableError, match="leave some"):
        drop(rows, 35)
