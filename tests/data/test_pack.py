"""`data pack` for any size and colour, `data import-edm2`, and `data verify` in processes."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.manifest import DataError, Manifest
from data_pipeline.reader import LatentReader
from data_pipeline.verify import verify
from models.encoders import get_encoder
from models.vae import open_decoder
from scaling.config.encoders import known_encoder
from tests.data.conftest import random_pictures

Cli = Callable[..., Any]
CPU = torch.device("cpu")


def decoded(shards: Path) -> np.ndarray:
    """The images of a folder of shards, uint8 [N, H, W, C]."""
    reader = LatentReader(shards)
    arrays, _ = reader.read(np.arange(len(reader)))
    decoder = open_decoder(get_encoder(reader.manifest.encoder), None, CPU)
    return decoder.latents(torch.from_numpy(arrays).float()).numpy()


def test_a_folder_of_colour_images(tmp_path: Path, images: Path, cli: Cli) -> None:
    """As they are, and resized: of another size than any encoder of ours names."""
    assert cli("pack", images, "--to", tmp_path / "whole", "--encoder", "rgb-v1").code == 0
    paths = sorted(images.rglob("*.png"))
    made = decoded(tmp_path / "whole")
    assert made.shape == (40, 30, 40, 3)
    assert np.abs(made.astype(int) - np.stack([np.asarray(Image.open(path)) for path in paths])).max() == 0
    assert cli("pack", images, "--to", tmp_path / "small", "--encoder", "rgb-v1", "--size", 12).code == 0
    assert Manifest.load(tmp_path / "small").shape == (3, 12, 12)
    assert Manifest.load(tmp_path / "small").class_names == ("cat", "dog", "emu")


def test_images_of_many_kinds_are_converted_and_counted(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "in" / "x").mkdir(parents=True)
    for number, (image, mode) in enumerate(zip(random_pictures(3), ("L", "RGBA", "RGB"), strict=True)):
        image.convert(mode).save(tmp_path / "in" / "x" / f"{number}.png")
    result = cli("pack", tmp_path / "in", "--to", tmp_path / "out", "--encoder", "rgb-v1")
    assert (result.code, "images of other kinds, converted: 1 grey, 1 alpha" in result.out) == (0, True)
    random_pictures(1)[0].resize((9, 9)).save(tmp_path / "in" / "x" / "3.png")
    result = cli("pack", tmp_path / "in", "--to", tmp_path / "other", "--encoder", "rgb-v1")
    assert "x/3.png is 9x9x3, but " in result.err
    assert "bring all to one size, or give --size" in result.err
    result = cli("pack", tmp_path / "in", "--to", tmp_path / "other", "--encoder", "grey-v1")
    assert "has colours, and grey images are asked for" in result.err
    assert not (tmp_path / "other").exists()


def test_an_npz_of_grey_images(tmp_path: Path, cli: Cli) -> None:
    images = np.random.Generator(np.random.Philox(0)).integers(256, size=(5, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", images=images, labels=np.arange(5))
    assert cli("pack", tmp_path / "mnist.npz", "--to", tmp_path / "out", "--encoder", "grey-v1").code == 0
    np.testing.assert_array_equal(decoded(tmp_path / "out")[..., 0], images)
    words = ("--encoder", "grey-v1", "--size", 14)
    assert cli("pack", tmp_path / "mnist.npz", "--to", tmp_path / "half", *words).code == 0
    assert Manifest.load(tmp_path / "half").shape == (1, 14, 14)


def cifar(folder: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR's binary files of random images; the training images [N, 32, 32, 3] and labels."""
    folder.mkdir()
    random = np.random.Generator(np.random.Philox(classes))
    images, labels = random.integers(256, size=(6, 3, 32, 32), dtype=np.uint8), random.integers(classes, size=6)
    coarse = b"\x07" if classes == 100 else b""
    records = [coarse + bytes([label]) + image.tobytes() for image, label in zip(images, labels.tolist(), strict=True)]
    names = ("fine_label_names.txt", "train.bin", "test.bin") if classes == 100 else (
        "batches.meta.txt", "data_batch_1.bin", "test_batch.bin")  # fmt: skip
    (folder / names[0]).write_text("\n".join(f"class {n}" for n in range(classes)) + "\n\n")
    (folder / names[1]).write_bytes(b"".join(records[:4]))
    (folder / names[2]).write_bytes(b"".join(records[4:]))
    if classes == 10:
        (folder / "data_batch_2.bin").write_bytes(records[3])
    return images.transpose(0, 2, 3, 1), labels


@pytest.mark.parametrize("classes", [10, 100])
def test_cifars_binary_files(tmp_path: Path, cli: Cli, classes: int) -> None:
    images, labels = cifar(tmp_path / "in", classes)
    assert cli("pack", tmp_path / "in", "--to", tmp_path / "train", "--encoder", "rgb-v1").code == 0
    test = "test.bin" if classes == 100 else "test_batch.bin"
    assert cli("pack", tmp_path / "in" / test, "--to", tmp_path / "test", "--encoder", "rgb-v1").code == 0
    order = [0, 1, 2, 3] + ([3] if classes == 10 else [])
    np.testing.assert_array_equal(decoded(tmp_path / "train"), images[order])
    np.testing.assert_array_equal(decoded(tmp_path / "test"), images[4:])
    assert LatentReader(tmp_path / "train").labels.tolist() == labels[order].tolist()
    names = Manifest.load(tmp_path / "test").class_names
    assert names is not None
    assert names[1] == "class 1"
    (tmp_path / "in" / test).write_bytes(b"x" * 100)
    result = cli("pack", tmp_path / "in" / test, "--to", tmp_path / "bad", "--encoder", "rgb-v1")
    assert "has 100 bytes, expected a multiple of" in result.err
    spoilt = tmp_path / "in" / ("train.bin" if classes == 100 else "data_batch_2.bin")
    spoilt.write_bytes(b"\xff\xff" + spoilt.read_bytes()[2:])
    result = cli("pack", tmp_path / "in", "--to", tmp_path / "bad", "--encoder", "rgb-v1")
    assert f"{spoilt}: holds label 255, expected 0 to {classes - 1}" in result.err


def test_cifars_pickles_are_not_read(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps({b"data": b""}, 2))
    result = cli("pack", tmp_path / "cifar-10-batches-py", "--to", tmp_path / "out", "--encoder", "rgb-v1")
    assert (result.code, "holds pickles, which are not read: take CIFAR's binary version" in result.err) == (2, True)


def test_constants_of_pixels_are_measured_too(tmp_path: Path, images: Path, cli: Cli) -> None:
    assert cli("pack", images, "--to", tmp_path / "out", "--encoder", "rgb-v1", "--size", 12).code == 0
    file = tmp_path / "mine.yaml"
    assert (
        "has constants already: give one of your own a --name"
        in cli("info", tmp_path / "out", "--fit-encoder", file).err
    )
    assert cli("info", tmp_path / "out", "--fit-encoder", file, "--name", "mine-v1").code == 0
    encoder = known_encoder(str(file), "data.encoder")
    assert (encoder.name, encoder.shards) == ("mine-v1", "rgb-v1")
    arrays, _ = LatentReader(tmp_path / "out").read(np.arange(40))
    x = encoder.normalize(torch.from_numpy(arrays.astype(np.float64)))
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.full((3,), 0.5, dtype=x.dtype), rtol=1e-5, atol=0)


def edm2_zip(path: Path, arrays: dict[str, np.ndarray], labels: Any = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(name, buffer.getvalue())
        known = [[name, number % 3] for number, name in enumerate(arrays)] if labels == 0 else labels
        archive.writestr("dataset.json", json.dumps({"labels": known}))
    return path


def moments(count: int) -> dict[str, np.ndarray]:
    random = np.random.Generator(np.random.Philox(3)).standard_normal((count, 8, 4, 4)).astype(np.float32)
    random[:, 4:] = np.exp(random[:, 4:])
    return {f"00000/img-mean-std-{number:08d}.npy": array for number, array in enumerate(random)}


def test_edm2s_latents(tmp_path: Path, cli: Cli) -> None:
    arrays = moments(7)
    path = edm2_zip(tmp_path / "img512-sd.zip", arrays)
    result = cli("import-edm2", path, "--to", tmp_path / "out", "--shard-samples", 3)
    assert result.code == 0, result.err
    reader = LatentReader(tmp_path / "out")
    manifest = verify(tmp_path / "out")
    assert (manifest.encoder, manifest.moments, manifest.shape) == ("edm2-sd-vae-v1", True, (8, 4, 4))
    assert reader.labels.tolist() == [number % 3 for number in range(7)]
    np.testing.assert_array_equal(reader.read(np.arange(7))[0], np.stack([*arrays.values()]).astype(np.float16))
    assert "float16_error 0.000" in result.out


def test_an_interrupted_import_goes_on(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from scaling.data import import_edm2 as module

    path = edm2_zip(tmp_path / "a.zip", moments(7))
    assert cli("import-edm2", path, "--to", tmp_path / "whole", "--shard-samples", 3).code == 0
    read = module._moments

    def failing(path: Path, archive: Any, name: str) -> np.ndarray:
        if name.endswith("4.npy"):
            raise DataError("the power went")
        return read(path, archive, name)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_moments", failing)
        assert cli("import-edm2", path, "--to", tmp_path / "out", "--shard-samples", 3).code == 2
    assert (tmp_path / "out" / "shard-000000.tar").exists()
    assert cli("import-edm2", path, "--to", tmp_path / "out", "--shard-samples", 3).code == 0
    for each in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / each.name).read_bytes() == each.read_bytes()


BAD_LATENTS: dict[str, tuple[dict[str, np.ndarray], Any, str]] = {
    "sampled": ({"a.npy": np.zeros((4, 8, 8), np.float32)}, 0, "has 4 channels: latents that were sampled once"),
    "another shape": ({"a.npy": np.zeros((8, 8), np.float32)}, 0, "expected floats [8, h, w]"),
    "no deviations": ({"a.npy": np.full((8, 4, 4), -1, np.float32)}, 0, "hold negative numbers"),
    "no labels": ({"a.npy": np.zeros((8, 4, 4), np.float32)}, None, "has no labels"),
    "a label missing": ({"a.npy": np.zeros((8, 4, 4), np.float32)}, [], "has no label for a.npy"),
    "images": ({}, 0, "holds no .npy latents"),
}


@pytest.mark.parametrize("kind", BAD_LATENTS)
def test_zips_that_are_no_latents_of_edm2(tmp_path: Path, cli: Cli, kind: str) -> None:
    arrays, labels, said = BAD_LATENTS[kind]
    result = cli("import-edm2", edm2_zip(tmp_path / "a.zip", arrays, labels), "--to", tmp_path / "out")
    assert (result.code, said in result.err) == (2, True), result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.nightly
def test_verifying_in_processes_finds_the_same(tmp_path: Path, cli: Cli) -> None:
    path = edm2_zip(tmp_path / "a.zip", moments(7))
    assert cli("import-edm2", path, "--to", tmp_path / "out", "--shard-samples", 3).code == 0
    assert verify(tmp_path / "out", 2) == verify(tmp_path / "out")
    tar = tmp_path / "out" / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    data[-12000] ^= 1
    tar.write_bytes(data)
    said = []
    for processes in (1, 2):
        with pytest.raises(DataError) as caught:
            verify(tmp_path / "out", processes)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "shard-000001.tar" in said[0]
