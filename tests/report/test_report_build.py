"""The report of a made-up study: complete, self-contained, honest about what is missing."""

from __future__ import annotations

import base64
import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.analysis.summary import analyse
from scaling.analysis.table import TableError, load_scores, rows_of
from scaling.analysis.table_file import load_table
from scaling.report import build
from scaling.report.build import build_report, duration
from scaling.report.compare import compare, write_comparison
from scaling.report.findings import answer, checks, summarise
from scaling.report.paper import escape
from scaling.report.pictures import _strip_title
from scaling.report.record import ReportError, read_study
from scaling.run.home import StudyFolder, write_model
from scaling.run.samples import maker
from scaling.run.schemas import StudyRuns

NAME = 'a "b" <c> & $x_1$'
PNG = b"\x89PNG\r\n\x1a\n"
Writer = Callable[..., Path]


class Page(HTMLParser):
    """The text of a page, its tags and the addresses it refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["style"], ["script"]):
            self.pieces.append(data)

    @property
    def text(self) -> str:
        """The text with runs of white space made one space."""
        return re.sub(r"\s+", " ", " ".join(self.pieces))


def page(index: Path) -> Page:
    return Page(index.read_text(encoding="utf-8"))


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, write_study: Writer) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study") / NAME)
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def whole(study: Path) -> Page:
    return page(study / "report" / "index.html")


def test_report_holds_its_files_and_nothing_half_written(study: Path) -> None:
    assert {path.name for path in (study / "report").iterdir()} == {
        "index.html",
        "scores.csv",
        *("analysis.json", "table.tex", "methods.txt", "references.bib", "overview.png"),
        *(f"{name}.{kind}" for name in ("distance", "ratio", "sampling", "costs") for kind in ("png", "svg", "pdf")),
        *(f"training-{method}.png" for method in ("teacher", "scd", "sct")),
        *(f"samples-{curve}.png" for curve in ("teacher-9", "scd-1", "scd-2", "sct-1", "sct-2")),
    }


def test_page_is_self_contained_and_its_pictures_are_the_files(study: Path, whole: Page) -> None:
    assert whole.tags.count("script") == 1  # which sorts tables, and asks for nothing
    assert "link" not in whole.tags
    html = (study / "report" / "index.html").read_text()
    assert "url(" not in html
    assert "@import" not in html
    assert "fetch(" not in html
    assert "http" not in html.replace("http-equiv", "")
    pictures = [address for address in whole.addresses if address != "#answer"]
    assert len(pictures) == 13
    embedded = set()
    for address in pictures:
        kind, _, data = address.partition(",")
        assert kind == "data:image/png;base64"
        embedded.add(base64.b64decode(data, validate=True))
    assert embedded == {path.read_bytes() for path in (study / "report").glob("*.png")}
    assert all(content.startswith(PNG) for content in embedded)


def test_names_from_the_study_are_text(study: Path, whole: Page) -> None:
    assert NAME in whole.text
    assert "c" not in whole.tags
    assert "<c>" not in (study / "report" / "index.html").read_text()


def test_metric_is_named_with_n_and_floor_and_never_fid(whole: Page) -> None:
    assert "FD-fashion" in whole.text
    assert re.findall(r"[^.]*\bFID\b[^.]*\.", whole.text) == [" It is not FID and must not be compared with one."]
    assert "trained on the training images" in whole.text
    assert "N = 5,000" in whole.text
    assert "give 0.21 at that N" in whole.text
    assert "multiply-adds of one forward pass of one sample, counted once" in whole.text


def test_page_tells_what_was_run(whole: Page) -> None:
    for expected in (
        "trigscale study run configs/study/fashion.yaml",
        "0123456789abcdef0123456789abcdef01234567",
        "Example CPU",
        "memory 8.0 GiB",
        "torch 2.13.0",
        "9 min 11 s",
        "runs 9 min 00 s",
        "ab" * 32,
        "0.56 GiB",
        "40.5 s",
        "method: teacher size: xs seed: 0",
    ):
        assert expected in whole.text


def test_scores_csv_reads_back_as_the_rows_of_the_study(study: Path) -> None:
    def identity(row: Any) -> tuple[str, int, str, int]:
        return row.method, row.steps, row.size, row.seed

    rows = load_table(study / "report" / "scores.csv")
    assert sorted(rows, key=identity) == sorted(load_scores(study), key=identity)
    with (study / "report" / "scores.csv").open() as stream:
        lines = {(line["method"], line["steps"], line["size"]): line for line in csv.DictReader(stream)}
    ratio = float(lines["scd", "1", "m"]["fd"]) / float(lines["teacher", "9", "m"]["fd"])
    assert float(lines["scd", "1", "m"]["ratio"]) == pytest.approx(ratio)
    assert (lines["scd", "1", "m"]["n"], lines["scd", "1", "m"]["floor"]) == ("5000", "0.21")


def test_analysis_json_and_table_agree(study: Path, whole: Page) -> None:
    analysis = json.loads((study / "report" / "analysis.json").read_text())
    mean = analysis["ratios"][0]["mean"]
    assert f"{mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]" in whole.text
    assert mean["value"] == pytest.approx(1.5, rel=0.05)


def test_one_seed_is_judged_by_the_scatter_of_the_sizes_and_without_p(whole: Page) -> None:
    head = whole.text[whole.text.index(NAME, whole.text.index("Scaling study of")) + len(NAME) :].strip()
    assert head.startswith("sCD has its own teacher's distance times 1.")
    assert head.index("The largest teacher (l) reaches") < 500  # the answer comes first, and is short
    assert "Intervals (95 %) hold the scatter of the sizes about the law." in head
    assert "The same at every size? In 1 step no, it falls with size" in head
    assert re.search(r"p [<=] ", whole.text) is None
    assert "The limits are this project's own" in whole.text


def findings(folder: Path) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """The summary, and what was measured and the verdict by expectation."""
    record = read_study(folder)
    analysis = analyse([row for run in record.scores for row in rows_of(run)])
    judged = {check.expected: (check.measured, check.verdict) for check in checks(record, analysis)}
    return [*answer(record, analysis), *summarise(record, analysis)], judged


def test_summary_says_what_held_and_what_was_rejected(tmp_path: Path, write_study: Writer) -> None:
    sentences, judged = findings(write_study(tmp_path / "seeds", seeds=3))
    text = " ".join(sentences)
    assert "Intervals (95 %) hold the scatter between seeds." in text
    assert "The same at every size? In 1 step not contradicted (p = " in text
    assert "In 1 step no, it falls with size (p < 0.0001)" in text
    assert "Nothing that was expected was missed." in text
    assert {verdict for _, verdict in judged.values()} == {"met", "not contradicted"}


def test_met_is_what_lies_below_the_limit_with_its_whole_interval(tmp_path: Path, write_study: Writer) -> None:
    """A ratio of 2: the estimate may fall on either side, the interval holds both."""
    folder = write_study(tmp_path / "close", methods=("teacher", "scd"), sizes=("xs", "l"), seeds=2)
    for path in folder.glob("scd-*/scores.json"):
        scores = json.loads(path.read_text())["scores"]
        change(path, scores=[{**one, "fd": one["fd"] * (1.94 / 1.5 if one["steps"] == 1 else 1)} for one in scores])
    _, judged = findings(folder)
    measured, verdict = judged["sCD, 1 step: ratio to its teacher below 2 at every size"]
    value, low, high = map(float, re.findall(r"[0-9.]+", measured)[:3])
    assert low < 2 < high
    assert value != 2
    assert verdict == "cannot be told"
    assert judged["sCD, 2 steps: ratio to its teacher below 1.6 at every size"][1] == "met"


def test_missed_expectations_are_said_in_the_summary(tmp_path: Path, write_study: Writer) -> None:
    folder = write_study(tmp_path / "bad", methods=("teacher", "scd"), sizes=("xs", "l"), seeds=2)
    for path in folder.glob("scd-*/scores.json"):
        factor = 3.0 if path.parent.name.startswith("scd-l") else 1.1
        scores = json.loads(path.read_text())["scores"]
        change(path, scores=[{**one, "fd": factor * one["steps"] * one["fd"]} for one in scores])
    for path in folder.glob("teacher-*/scores.json"):
        change(path, untrained=20.0)
    text = page(build_report(folder)).text
    missed = text[text.index("Missed:") : text.index("Quality against compute")]
    assert "at most 2 % of the distance of an untrained network" in missed
    assert "sCD better in 2 steps than in 1 at every size (worse at xs and l)" in missed
    assert re.search(r"sCD, 1 step: ratio to its teacher below 2 at every size \(largest 4\.\d+ \[[^]]*\], l\)", missed)
    assert "sCD, 2 steps: ratio to its teacher below 1.6 at every size" in missed
    assert "sCD, 1 step: ratio the same at every size (the paper's finding)" in missed
    assert "sCT, 1 step: ratio not the same at every size (the paper's finding) - not measured" in text
    assert "2 sizes: too few to tell a power law" in text


def test_images_judged_by_strangers_are_said_at_the_head(tmp_path: Path, write_study: Writer) -> None:
    folder = write_study(tmp_path / "own", methods=("teacher",), sizes=("xs",))
    assert not any("Fashion-MNIST" in sentence for sentence in findings(folder)[0])
    change(folder / "environment.json", data={"dataset": "shards/mine"})
    assert findings(folder)[0][1].startswith("These images (shards/mine) are judged by a classifier of Fashion-MNIST")


def test_unfinished_study_is_reported_as_far_as_it_goes(tmp_path: Path, write_study: Writer) -> None:
    folder = write_study(tmp_path / "part", methods=("teacher", "scd"), sizes=("xs", "s"))
    (folder / "environment.json").unlink()
    (folder / "real.npz").unlink()
    teacher, student = sorted(folder.glob("teacher-s-*"))[0], sorted(folder.glob("scd-s-*"))[0]
    for name in ("scores.json", "timings.json"):
        (teacher / name).unlink()
    (student / "scores.json").unlink()
    (student / "metrics.jsonl").unlink()
    for path in (student / "samples").iterdir():
        path.unlink()
    text = page(build_report(folder)).text
    assert "only 2 of 4 runs scored so far" in text
    assert f"run {teacher.name}: no scores, no timings" in text
    assert f"run {student.name}: no scores, no training metrics, no samples" in text
    assert "real.npz: no real images" in text
    assert "No power law for sCD, 1 step: one size." in text


def test_students_whose_teachers_have_no_scores_have_no_ratios(tmp_path: Path, write_study: Writer) -> None:
    folder = write_study(tmp_path / "orphans", methods=("teacher", "scd"), sizes=("xs",))
    for path in folder.glob("teacher-*/scores.json"):
        path.unlink()
    index = build_report(folder)
    assert "No teacher has scores yet, so there are no ratios." in page(index).text
    assert not (folder / "report" / "ratio.png").exists()


def test_study_without_any_scores_still_shows_its_training(tmp_path: Path, write_study: Writer) -> None:
    folder = write_study(tmp_path / "young", methods=("teacher",), sizes=("xs",))
    for path in folder.glob("*/scores.json"):
        path.unlink()
    text = page(build_report(folder)).text
    assert "1 run started and none has scores yet" in text
    assert {path.name for path in (folder / "report").iterdir()} == {
        *("index.html", "overview.png", "samples-teacher-9.png", "training-teacher.png")
    }


def test_runs_that_diverged_at_once_have_no_curve(tmp_path: Path, write_study: Writer) -> None:
    folder = write_study(tmp_path / "nan", methods=("teacher",), sizes=("xs",))
    (path,) = folder.glob("*/metrics.jsonl")
    lines = [{**json.loads(line), "loss": None} for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert build_report(folder).exists()
    assert not (folder / "report" / "training-teacher.png").exists()


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such folder; run the study first"):
        build_report(tmp_path / "none")
    with pytest.raises(ReportError, match="no run has left anything here"):
        build_report(tmp_path)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("scores.json", b"{}", "scores.json: study: Field required"),
        ("timings.json", b'{"train": "long"}', "timings.json: train: "),
        ("metrics.jsonl", b'{"step": 1, "loss": 2}\nnonsense\n', "metrics.jsonl: 1 damaged lines"),
        ("samples/steps-9.npz", b"nonsense", "steps-9.npz cannot be read"),
        ("config.yaml", b"\xff", "config.yaml: is no text"),
    ],
)
def test_damaged_files_are_named_and_left_out(
    tmp_path: Path, write_run: Writer, file: str, content: bytes, message: str
) -> None:
    home = write_run(tmp_path, "teacher", "xs")
    (home / file).write_bytes(content)
    assert any(message in note for note in read_study(tmp_path).missing)
    assert message in page(build_report(tmp_path)).text


def test_another_runs_files_are_not_taken_for_its_own(tmp_path: Path, write_run: Writer) -> None:
    home, other = write_run(tmp_path, "scd", "xs"), write_run(tmp_path, "sct", "xs")
    for file in ("scores.json", "samples/steps-1.npz"):
        (home / file).write_bytes((other / file).read_bytes())
    record = read_study(tmp_path)
    assert [run.scores is None for run in record.runs] == [True, False]
    assert [sorted(run.samples) for run in record.runs] == [[2], [1, 2]]
    assert any(f"holds the scores of run {other.name}" in note for note in record.missing)
    assert any(f"holds the samples of '{other.name}, 1 steps'" in note for note in record.missing)


def test_runs_of_an_earlier_configuration_are_left_out_and_named(tmp_path: Path, write_run: Writer) -> None:
    old, new = write_run(tmp_path, "teacher", "xs", 0), write_run(tmp_path, "teacher", "xs", 1)
    write_model(StudyFolder(tmp_path).runs, StudyRuns(runs=(new.name,)))
    record = read_study(tmp_path)
    assert [run.name for run in record.runs] == [new.name]
    assert f"1 runs of an earlier configuration are kept and left out here: {old.name}" in record.missing


def test_scores_of_different_n_are_refused(tmp_path: Path, write_run: Writer) -> None:
    write_run(tmp_path, "teacher", "xs")
    write_run(tmp_path, "scd", "xs", n=1000)
    with pytest.raises(ReportError, match="one metric and one N"):
        build_report(tmp_path)


def test_pickles_and_misshapen_images_are_refused(tmp_path: Path, write_run: Writer) -> None:
    home = write_run(tmp_path, "teacher", "xs")
    path = home / "samples" / "steps-9.npz"
    made_by = np.array(maker(home.name, 9))
    pickled = np.array([{"a": 1}], dtype=object)
    np.savez(path, images=pickled, labels=np.zeros(1, np.int64), made_by=made_by, allow_pickle=True)
    assert any("steps-9.npz cannot be read" in note for note in read_study(tmp_path).missing)
    np.savez(path, images=np.zeros((2, 16, 16), np.float32), labels=np.zeros(2, np.int64), made_by=made_by)
    assert any("images is float32 [2, 16, 16]" in note for note in read_study(tmp_path).missing)


def test_resumed_metrics_count_the_later_line_and_drop_the_torn_one(tmp_path: Path, write_run: Writer) -> None:
    home = write_run(tmp_path, "scd", "xs")
    lines = [
        '{"step": 1, "loss": 5}',
        '{"step": 2, "loss": 4}',
        '{"step": 2, "loss": 3, "warmup": 1}',
        '{"step": 3, "lo',
    ]
    (home / "metrics.jsonl").write_text("\n".join(lines))
    metrics = read_study(tmp_path).runs[0].metrics
    np.testing.assert_array_equal(metrics["step"], [1, 2])
    np.testing.assert_array_equal(metrics["loss"], [5, 3])
    np.testing.assert_array_equal(metrics["warmup"], [np.nan, 1])


def test_failure_while_writing_leaves_whole_files_and_no_page(
    tmp_path: Path, write_run: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, "teacher", "xs")
    written: list[str] = []

    def full_disk(path: Path, content: bytes) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))
        written.append(path.name)
        path.write_bytes(content)

    monkeypatch.setattr(build, "write_bytes_atomic", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build_report(tmp_path)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(written)
    assert "index.html" not in written


def test_reporting_again_writes_the_same_bytes(tmp_path: Path, write_study: Writer) -> None:
    folder = write_study(tmp_path / "twice", methods=("teacher", "scd"), sizes=("xs", "l"), seeds=2)
    first = {path.name: path.read_bytes() for path in build_report(folder).parent.iterdir()}
    second = {path.name: path.read_bytes() for path in build_report(folder).parent.iterdir()}
    assert first == second


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys, numpy as np, scaling.report.build; from scaling.report.grids import grid_figure;"
        "grid_figure([('a', np.zeros((2, 8, 3), np.uint8))], 1.0); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 00 s"), (3599.7, "1 h 00 min"), (12000, "3 h 20 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_paper_gets_a_table_a_paragraph_and_references(study: Path) -> None:
    table = (study / "report" / "table.tex").read_text()
    assert table.count(r"\\") == 1 + 5 + 4  # a heading, five curves, four rows of ratios
    assert r"\quad ratio to teacher & 1.4" in table
    paragraph = (study / "report" / "methods.txt").read_text()
    assert paragraph.startswith("We trained 4 sizes with 1 seed each and evaluated Teacher, 9 steps")
    assert "FD-fashion at N = 5,000" in paragraph
    assert "2410.11081" in (study / "report" / "references.bib").read_text()
    assert escape("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"
    assert (study / "report" / "distance.pdf").read_bytes().startswith(b"%PDF")
    assert b"<text" in (study / "report" / "distance.svg").read_bytes()


def test_two_studies_in_one_figure(tmp_path: Path, study: Path, write_study: Writer) -> None:
    """The second has 1.1 times the scores of the first at the sizes that both have."""
    other = write_study(tmp_path / "other", sizes=("xs", "s", "m"))
    for path in other.glob("*/scores.json"):
        scores = json.loads(path.read_text())["scores"]
        change(path, scores=[{**one, "fd": 1.1 * one["fd"]} for one in scores])
    found = compare(study, other)
    assert len(found.ratios) == 5
    assert all(curve.mean.value == pytest.approx(1.1) and len(curve.points) == 3 for curve in found.ratios)
    index = write_comparison(found, tmp_path / "page")
    assert "other has 1.100" in page(index).text
    assert {path.name for path in index.parent.iterdir()} == {
        *("index.html", "comparison.csv", "comparison.json"),
        *(f"comparison.{kind}" for kind in ("png", "svg", "pdf")),
    }
    for path in other.glob("*/scores.json"):
        change(path, n=1000)
    with pytest.raises(TableError, match="scores compare by one metric at one N"):
        compare(study, other)


def test_samples_of_a_study_that_is_not_judged_lack_no_score(tmp_path: Path, write_study: Callable[..., Path]) -> None:
    study = write_study(tmp_path)
    path = next(study.glob("scd-xs-*")) / "scores.json"
    judged = read_study(study)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "metric": "none"}))
    assert _strip_title(judged, None, "scd", 1, "xs") == "xs   no score yet"
    assert _strip_title(read_study(study), None, "scd", 1, "xs") == "xs"
