"""`trigscale sample`'s numerics and files: an image is a function of its seed, and nothing is made twice."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.network import SIGMA_DATA, T_MAX
from scaling.config.families import load_family
from scaling.config.recipes import TeacherRecipe
from scaling.config.sections import Ema, Evaluation, Sampling
from scaling.config.validation import ConfigError
from scaling.run.spec import RunData, RunSpec
from scaling.sampling.draw import Draw, changed, draw_of
from scaling.sampling.generate import draw_images, labels_of
from scaling.sampling.samplers import sample_ddim
from scaling.sampling.store import File, Folder, Request, SampleError, open_target, to_npz
from scaling.work.sampling import parse_classes, parse_seeds
from tests.models.networks import network as random_network
from tests.test_sampling import GAUSSIAN, S, noise, teacher_f

CPU = torch.device("cpu")
NANO = load_family("nano").size("xs")
RECIPE = TeacherRecipe(steps=1, lr=0.1, label_dropout=0.1)
SPEC = RunSpec(
    method="teacher", size="xs", seed=0, precision="fp32", network=NANO.describe(), recipe=RECIPE, ema=Ema(),
    data=RunData(content_sha256="", held_out_sha256="", encoder="fashion-s2d-v1"), sampling=Sampling(batch=8),
    evaluation=Evaluation(), max_nonfinite_steps=1, weights=None, teacher=None, student=None,
)  # fmt: skip
DRAW = Draw(2, "heun", batch=8)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Random weights whose output is not zero."""
    return random_network(torch.float32, NANO).eval().requires_grad_(False)


def images(network: Any, draw: Draw, seeds: np.ndarray, **options: Any) -> np.ndarray:
    labels = labels_of(seeds, 10)
    return np.concatenate([made for _, made in draw_images(SPEC, network, draw, seeds, labels, CPU, **options)])


def test_an_image_depends_on_its_seed_alone(network: Any) -> None:
    """In any order, beside any others, in a last pass that is not full."""
    whole = images(network, DRAW, np.arange(20))
    np.testing.assert_array_equal(images(network, DRAW, np.array([17, 3, 4, 0])), whole[[17, 3, 4, 0]])
    assert len({image.tobytes() for image in whole}) == 20
    assert not np.array_equal(images(network, replace(DRAW, seed=1), np.arange(3)), whole[:3])


def test_guidance_by_labels_by_another_network_and_in_an_interval(network: Any) -> None:
    seeds = np.arange(4)
    plain = images(network, DRAW, seeds)
    guided = replace(DRAW, guidance=2.0)
    assert not np.array_equal(images(network, guided, seeds), plain)
    np.testing.assert_array_equal(images(network, replace(guided, guidance_sigma=(100.0, 200.0)), seeds), plain)
    np.testing.assert_array_equal(images(network, replace(guided, autoguided=True), seeds, guide=network), plain)
    other = random_network(torch.float32, NANO).eval().requires_grad_(False)
    other.unet.out_gain.fill_(0.1)
    assert not np.array_equal(images(network, replace(guided, autoguided=True), seeds, guide=other), plain)


def test_ddim_converges_at_first_order_to_the_exact_flow() -> None:
    z = noise()
    want = z * S / GAUSSIAN.variance(torch.tensor(T_MAX, dtype=torch.float64)).sqrt()
    errors = [(sample_ddim(teacher_f, z, steps) - want).abs().max().item() for steps in (40, 80, 160)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.3)
    calls: list[Tensor] = []
    sample_ddim(lambda x, t: (calls.append(t), teacher_f(x, t))[1], z, 5)
    assert len(calls) == Draw(5, "ddim").nfe == 5
    assert (SIGMA_DATA * calls[0].tan()).max().item() == pytest.approx(80)


def test_options_that_do_not_fit_the_network() -> None:
    draw = draw_of(SPEC)
    plain = SPEC.model_copy(update={"recipe": RECIPE.model_copy(update={"label_dropout": 0.0})})
    cases: tuple[tuple[RunSpec, dict[str, Any], str], ...] = (
        (plain, {"guidance": 2.0}, "never saw a sample without its label"),
        (SPEC, {"intermediate_t": 1.0}, "--intermediate-t: is for consistency models"),
        (SPEC, {"autoguided": True}, "--autoguide: needs --guidance above 1"),
    )
    for spec, options, said in cases:
        with pytest.raises(ConfigError, match=said):
            changed(draw, spec, **options)
    assert changed(draw, plain, guidance=2.0, autoguided=True).nfe == 2 * (2 * draw.steps - 1)


def test_seeds_and_classes_as_they_are_written() -> None:
    assert parse_seeds("7").tolist() == [7]
    assert parse_seeds("3-5, 9").tolist() == [3, 4, 5, 9]
    assert parse_classes("207, 88") == (207, 88)
    assert parse_classes("all") is None
    assert labels_of(np.array([4, 5, 6]), 10, (207, 88)).tolist() == [207, 88, 207]
    assert labels_of(np.array([8, 13]), 10).tolist() == [8, 3]
    for text in ("", "a", "5-3", "-1", "1,1-2", "0-99999999999"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(text)
    with pytest.raises(ConfigError, match="--classes"):
        parse_classes("cat")


def request(count: int, **settings: Any) -> Request:
    return Request(np.arange(count), np.arange(count) % 10, "me, 2 steps", settings)


def made(count: int) -> np.ndarray:
    return (np.arange(count * 12) % 251).astype(np.uint8).reshape(count, 2, 2, 3)


def test_a_killed_command_makes_what_is_missing(tmp_path: Path) -> None:
    """Parts are kept, found again by the same command, dropped by another, and put together in order."""
    first = File(tmp_path / "s.npz", request(10), to_npz)
    first.add(np.arange(6, 9), made(10)[6:9])
    first.add(np.array([0, 1, 4]), made(10)[[0, 1, 4]])
    first.save()
    again = File(tmp_path / "s.npz", request(10), to_npz)
    assert again.missing().tolist() == [2, 3, 5, 9]
    assert File(tmp_path / "t.npz", request(10), to_npz).missing().tolist() == list(range(10))
    again.add(again.missing(), made(10)[[2, 3, 5, 9]])
    again.finish()
    with np.load(tmp_path / "s.npz") as file:
        np.testing.assert_array_equal(file["images"], made(10))
        assert file["labels"].tolist() == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]
    other = File(tmp_path / "s.npz", request(10), to_npz)
    other.add(np.arange(3), made(3))
    other.save()
    assert File(tmp_path / "s.npz", request(10, guidance=2), to_npz).missing().tolist() == list(range(10))


def test_files_are_assembled_with_few_images_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes as in one go; each part is read when its turn has come."""
    one = File(tmp_path / "one.npz", request(10), to_npz)
    one.add(np.arange(10), made(10))
    one.finish()
    monkeypatch.setattr("scaling.sampling.store.BYTES", 20)
    many = File(tmp_path / "many.npz", request(10), to_npz)
    for i in range(10):
        many.add(np.array([i]), made(10)[i : i + 1])
    assert len(list(many.parts.glob("*.u8"))) >= 5
    seen: list[int] = []

    def counting(path: Path, request: Request, batches: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
        to_npz(path, request, (seen.append(len(batch)) or batch for batch in batches), shape)

    many.assemble = counting
    many.finish()
    assert max(seen) <= 2
    assert (tmp_path / "many.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


def test_a_folder_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "d", request(4))
    folder.add(np.array([1, 2]), made(4)[[1, 2]])
    again = Folder(tmp_path / "d", request(6))
    assert again.missing().tolist() == [0, 3, 4, 5]
    again.add(again.missing(), made(6)[[0, 3, 4, 5]])
    again.finish()
    labels = json.loads((tmp_path / "d" / "dataset.json").read_text())["labels"]
    assert labels == [[f"{i:06d}.png", i] for i in range(6)]
    with pytest.raises(SampleError, match="holds samples of another maker or setting"):
        Folder(tmp_path / "d", request(4, guidance=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(SampleError, match="is not empty and holds no samples"):
        Folder(tmp_path / "mine", request(4))


def test_a_zip_is_a_data_set_in_edm2s_layout(tmp_path: Path) -> None:
    target = open_target(tmp_path / "s.zip", request(3))
    target.add(np.arange(3), made(3))
    target.finish()
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        names = archive.namelist()
        assert names[:3] == [f"00000/img{i:08d}.png" for i in range(3)]
        assert json.loads(archive.read("dataset.json"))["labels"] == [[name, i] for i, name in enumerate(names[:3])]


def test_a_picture_shows_labels(tmp_path: Path) -> None:
    from PIL import Image

    target = open_target(tmp_path / "s.png", request(12))
    target.add(np.arange(12), np.zeros((12, 2, 2, 3), np.uint8))
    target.finish()
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (10 * 48, 2 * (48 + 14))
        pixels = np.asarray(picture)
    assert pixels[48:62, :48].max() > 200  # the label under the first image
    assert pixels[:48].max() == 0
    with pytest.raises(SampleError, match=r"s\.jpg: name it FILE\.png"):
        open_target(tmp_path / "s.jpg", request(3))
