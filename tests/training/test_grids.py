"""Grids of samples: what they show, that sharding does not change them, and that they change nothing in training."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from scaling.config.families import CONFIGS
from scaling.config.sections import Launch
from scaling.config.validation import ConfigError
from scaling.run.metrics import read_metrics
from scaling.sampling.generate import generate
from scaling.sampling.pictures import to_png
from scaling.study.checks import check_runnable
from scaling.study.open import open_study
from scaling.training.observe.grids import Grids
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World, joined
from tests.ranks import run_ranks
from tests.training.watched import CPU, STEPS, noise_shards, run, small_network, spec_of

ALONE = World(0, 1, CPU)
EVERY = Launch(grid_steps=2)
VAE = "sd-vae-ft-mse-v1"


def pieces(tensors: Mapping[str, Tensor], world: World) -> dict[str, Piece]:
    """This rank's run of each tensor; later ranks have more."""
    found = {}
    for name, tensor in tensors.items():
        first, last = (tensor.numel() * (world.rank + n) ** 2 // world.size**2 for n in (0, 1))
        found[name] = Piece(tensor.flatten()[first:last], first, tuple(tensor.shape))
    return found


def drawn(
    home: Path, method: str, world: World = ALONE, step: int = 4, changes: Mapping[str, Tensor] | None = None
) -> list[Path]:
    spec = spec_of(method)
    network = small_network(spec)
    weights = {**dict(network.named_parameters()), **(changes or {})}
    grids = Grids(spec, EVERY, home, world)
    return grids.draw(step, pieces(weights, world), pieces(dict(network.named_buffers()), world))


def draw_as_rank(home: Path, method: str) -> list[Path]:
    with joined(CPU) as world:
        return drawn(home, method, world)


def test_a_picture_is_8_rows_of_8_images_in_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 2, 3), dtype=np.uint8)
    picture = np.asarray(Image.open(io.BytesIO(to_png(images, 8))))
    assert picture.shape == (24, 16, 3)
    for n, image in enumerate(images):
        row, column = divmod(n, 8)
        assert np.array_equal(picture[3 * row : 3 * row + 3, 2 * column : 2 * column + 2], image)


def test_a_grid_is_drawn_every_so_many_steps_or_never(tmp_path: Path) -> None:
    spec = spec_of("teacher")
    assert [step for step in range(7) if Grids(spec, EVERY, tmp_path, ALONE).due(step)] == [0, 2, 4, 6]
    assert not any(Grids(spec, Launch(), tmp_path, ALONE).due(step) for step in range(7))


@pytest.mark.parametrize(("method", "steps"), [("teacher", [2]), ("scd", [1, 2])])
def test_a_grid_shows_the_first_samples_of_the_network(tmp_path: Path, method: str, steps: list[int]) -> None:
    paths = drawn(tmp_path, method)
    assert paths == [tmp_path / "grids" / f"step-00000004-{n}.png" for n in steps]
    assert sorted((tmp_path / "grids").iterdir()) == paths
    for path, n in zip(paths, steps, strict=True):
        spec = spec_of(method)
        images, _ = generate(spec, small_network(spec), n, 70, CPU)
        assert path.read_bytes() == to_png(images[:64], 8)
        assert len(np.unique(images.reshape(70, -1), axis=0)) == 70
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in drawn(tmp_path, method, step=6)] == first


def test_ranks_that_share_the_weights_draw_what_one_draws(tmp_path: Path) -> None:
    for name in ("one", "ranks"):
        (tmp_path / name).mkdir()
    (wanted,) = drawn(tmp_path / "one", "teacher")
    first, *others = run_ranks(3, draw_as_rank, tmp_path / "ranks", "teacher")
    assert others == [[], []]
    assert [path.read_bytes() for path in first] == [wanted.read_bytes()]


def test_no_global_generator_is_touched(tmp_path: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    wanted = torch.rand(2).tolist(), np.random.rand(2).tolist()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    drawn(tmp_path, "scd")
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist()) == wanted  # noqa: NPY002


def test_samples_that_are_not_finite_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, tensor = next(iter(small_network(spec_of("teacher")).named_parameters()))
    with caplog.at_level(logging.WARNING):
        assert drawn(tmp_path, "teacher", changes={name: tensor * float("nan")}) == []
    assert "no grid of 2-step samples after step 4: cannot decode: the samples hold NaN" in caplog.text
    assert list((tmp_path / "grids").iterdir()) == []


def test_an_encoder_without_images_is_refused_where_grids_are_asked_for(tmp_path: Path) -> None:
    spec = spec_of("teacher")
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"encoder": VAE})})
    with pytest.raises(ConfigError, match=r"launch.grid_steps: 2, but encoder .* to its folder, or grid_steps to 0"):
        Grids(spec, EVERY, tmp_path, ALONE)
    Grids(spec, Launch(), tmp_path, ALONE)


def test_a_study_is_told_before_it_starts() -> None:
    content = [f"data.encoder={VAE}", "launch.grid_steps=100"]
    study = open_study(CONFIGS / "study" / "fashion.yaml", content)
    with pytest.raises(ConfigError, match=f"data.vae: encoder {VAE} is a VAE that decodes samples: name its folder"):
        check_runnable(study.config)


def without_clock(home: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock and the machine say."""
    return [
        {key: value for key, value in line.items() if key not in ("images_per_second", "memory_bytes")}
        for line in read_metrics(home / "metrics.jsonl").lines
    ]


@pytest.mark.parametrize("method", ["teacher", "scd"])
def test_grids_leave_training_as_it_is(tmp_path: Path, method: str) -> None:
    reader, spec = noise_shards(tmp_path / "shards"), spec_of(method)
    plain = Launch(log_every=1, threads=1)
    run(spec, tmp_path / "plain", reader, plain)
    run(spec, tmp_path / "watched", reader, plain.model_copy(update={"grid_steps": 2}))
    assert without_clock(tmp_path / "watched") == without_clock(tmp_path / "plain")
    assert len(without_clock(tmp_path / "plain")) == STEPS
    names = {path.name for path in (tmp_path / "watched" / "grids").iterdir()}
    samplers = ["2"] if method == "teacher" else ["1", "2"]
    assert names == {f"step-0000000{step}-{n}.png" for step in (2, 4, 6) for n in samplers}
    assert not (tmp_path / "plain" / "grids").exists()
