"""Timelines that are shipped or in the user's cache: equal to a count, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.network import NetworkConfig
from scaling.plan.memory import activations, cache, shipped
from scaling.plan.memory.activations import activation_bytes, any_width, timeline_key
from scaling.plan.memory.cache import Cache, Timeline
from scaling.plan.memory.ship import families, steps
from scaling.plan.memory.timeline import count_timeline, transient_events
from tests.ranks import run_ranks

KEY, TIMELINE = "key", [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]
OURS = NetworkConfig(4, 4, 10, 16, (1,), 1, (), head_channels=8)


def vouched(timeline: object) -> bytes:
    """A file whose hash is right, whatever is in it."""
    timelines = {KEY: timeline}
    return json.dumps({"timelines": timelines, "sha256": cache._digest(timelines)}).encode()


def written(path: Path) -> bytes:
    Cache(path).add(KEY, TIMELINE)
    return path.read_bytes()


def test_a_timeline_is_there_for_every_step_of_every_family() -> None:
    keys = {timeline_key(*step) for family in families() for step in steps(family)}
    assert keys == json.loads(shipped.FILE.read_bytes())["timelines"].keys()


@pytest.mark.skipif(not shipped.shipped(), reason="shipped for another torch or Python")
def test_what_is_shipped_is_what_is_counted() -> None:
    """Where this fails after a wanted change: python -m scaling.plan.memory.ship."""
    (counted,) = run_ranks(1, _counted)
    assert counted == {key: shipped.shipped()[key] for key in counted}


def _counted() -> dict[str, Timeline]:
    """In a fresh process: once torch's compiler has failed in one, Python's calls there hold operands for longer."""
    plain = [step for step in steps("nano") if not step[-1] or (step[2], step[3]) == (True, "fp32")]
    return {timeline_key(*step): count_timeline(*step) for step in plain}


def test_of_another_torch_nothing_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "version", lambda _: "1.0")
    shipped.shipped.cache_clear()
    assert shipped.shipped() == {}
    shipped.shipped.cache_clear()


def test_half_precisions_take_the_same_bytes() -> None:
    """Which is why their timelines have one key."""
    counted = [transient_events(OURS, 3, True, True, precision, None) for precision in ("bf16", "fp16", "fp32")]
    assert counted[0] == counted[1] != counted[2]


def test_what_was_counted_once_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of one's own is counted by the first process, and read by the next."""
    path = tmp_path / "cache" / "file.json"
    expected = count_timeline(any_width(OURS), False, False, "fp32", None)
    counts = []
    for _ in range(2):
        opened = Cache(path, cache._read(path))
        monkeypatch.setattr(activations, "opened", lambda opened=opened: opened)
        activations._timeline.cache_clear()
        counts.append(
            activation_bytes(OURS, batch=4, dual=False, checkpointing=False, precision="fp32", dropout_to=None)
        )
        assert [*opened.timelines.values()] == [expected]
        monkeypatch.setattr("scaling.plan.memory.timeline.count_timeline", None)  # a second count would fail
    assert counts[0] == counts[1] > 0
    activations._timeline.cache_clear()


def test_processes_add_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    first, second = Cache(path), Cache(path)
    first.add("a", TIMELINE)
    second.add("b", TIMELINE)
    assert cache._read(path) == {"a": TIMELINE, "b": TIMELINE}


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:-20],
        lambda whole: whole.replace(b"6", b"7", 1),
        lambda whole: b"\xff\x00" + whole,
        lambda whole: b"[" * 100_000,
        lambda whole: b"[]",
        lambda whole: b'{"timelines": []}',
        lambda whole: vouched([]),
        lambda whole: vouched([[1, 2, 3, 4, 5, "6"]]),
        lambda whole: vouched([[1, 2, 3]]),
    ],
)
def test_a_damaged_or_foreign_file_counts_for_nothing(tmp_path: Path, damage) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(damage(written(path)))
    assert cache._read(path) == {}
    Cache(path, cache._read(path)).add(KEY, TIMELINE)  # and is replaced
    assert cache._read(path) == {KEY: TIMELINE}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    opened = Cache(tmp_path / "occupied" / "trigscale" / "file.json")
    opened.add(KEY, TIMELINE)
    assert opened.get(KEY) == TIMELINE
    Cache(None).add(KEY, TIMELINE)


def test_files_of_other_versions_go_in_time(tmp_path: Path) -> None:
    for n in range(cache.KEPT + 3):
        written(tmp_path / f"timelines-{n}.json")
    newest = [f"timelines-{n}.json" for n in range(2, cache.KEPT + 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == newest


def test_the_file_lies_where_users_expect_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_cache) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "trigscale"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert user_cache() == Path.home() / ".cache" / "trigscale"


def test_other_code_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("1")
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    monkeypatch.setattr(cache, "_sources", lambda: [tmp_path / "a.py"])
    before = cache._made_by()
    (tmp_path / "a.py").write_text("2")
    assert cache._made_by() != before
    monkeypatch.setattr(cache, "version", lambda _: "1.0")
    assert cache._made_by() != before
