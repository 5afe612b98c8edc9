"""Class balance and copies, as `data info` tells them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import writer
from data_pipeline.census import describe_census, take_census
from data_pipeline.manifest import Manifest

Samples = list[tuple[np.ndarray, int]]


def test_classes_and_copies_are_counted(samples: Samples, tmp_path: Path, pack: Callable[..., Manifest]) -> None:
    array, label = samples[3]
    samples += [(array, label), (array, (label + 1) % 7), (samples[9][0].copy(), samples[9][1])]
    pack(samples, tmp_path / "shards")
    census = take_census(tmp_path / "shards")
    assert set(census.copies) == {(23, 3, True), (24, 3, False), (25, 9, True)}
    assert census.counts.tolist() == [sum(each == c for _, each in samples) for c in range(7)]
    first, second = describe_census(census, 7, tuple("abcdefg"))
    least, most = int(census.counts.argmin()), int(census.counts.argmax())
    assert first == (
        f"classes: 7, {census.counts[least]} (class {least} ({'abcdefg'[least]})) to "
        f"{census.counts[most]} ({most} ({'abcdefg'[most]})) samples"
    )
    assert second.startswith("copies: 3 samples have the bytes of an earlier one, 1 of them under another label: ")
    assert "00000024 = 00000003" in second


def test_samples_of_one_checksum_are_compared(
    samples: Samples, tmp_path: Path, pack: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 bits collide some two hundred times in ImageNet."""
    with monkeypatch.context() as patch:
        patch.setattr(writer, "checksum", lambda raw: 7)
        pack(samples, tmp_path / "shards")
    census = take_census(tmp_path / "shards")
    assert census.copies == ()
    assert describe_census(census, 9, None)[0].startswith("classes: 9, 0 (class 7) to ")
