"""Sets of images and references from elsewhere: each layout comes back, each fault names its file."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from data_pipeline.manifest import DataError
from models.encoders import get_encoder
from scaling.cli.main import app
from scaling.data.sources import pack_images
from scaling.evaluation.images.sets import open_images
from scaling.evaluation.references import read_reference
from scaling.run.samples import Samples
from scaling.sampling.pictures import png
from scaling.work.evaluating import parse_metrics

IMAGES = np.random.default_rng(0).integers(256, size=(7, 8, 8, 3), dtype=np.uint8)


def write(folder: Path) -> list[Path]:
    """The same images in every layout."""
    pngs = [png(image) for image in IMAGES]
    (folder / "dir" / "sub").mkdir(parents=True)
    for i, data in enumerate(pngs):
        (folder / "dir" / "sub" / f"{i}.png").write_bytes(data)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i, data in enumerate(pngs):
            archive.writestr(f"00000/{i}.png", data)
        archive.writestr("dataset.json", "{}")
    (folder / "tars").mkdir()
    for part in range(2):
        with tarfile.open(folder / "tars" / f"{part}.tar", "w") as archive:
            for i, data in list(enumerate(pngs))[part * 4 : part * 4 + 4]:
                for name, content in ((f"{i}.png", data), (f"{i}.cls", b"3")):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    np.savez(folder / "adm.npz", arr_0=IMAGES, arr_1=np.arange(7))
    (folder / "ours.npz").write_bytes(Samples(IMAGES, np.arange(7), "me").to_npz())
    pack_images(IMAGES, np.arange(7), get_encoder("rgb-v1"), folder / "shards", "x", 7)
    return [folder / name for name in ("dir", "images.zip", "tars", "adm.npz", "ours.npz", "shards")]


def test_every_layout_gives_the_same_images(tmp_path: Path) -> None:
    for path in write(tmp_path):
        images = open_images(path)
        assert (images.count, images.shape) == (7, (8, 8, 3)), path
        for size in (7, 3):
            np.testing.assert_array_equal(np.concatenate(list(images.batches(size))), IMAGES, err_msg=str(path))


def test_faults_of_sets_name_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    small = tmp_path / "dir" / "sub" / "3.png"
    small.write_bytes(png(IMAGES[3, :4]))
    with pytest.raises(DataError, match=r"sub/3\.png is 4x8x3, but .*sub/0\.png is 8x8x3"):
        list(open_images(tmp_path / "dir").batches(9))
    small.write_bytes(small.read_bytes()[:60])
    with pytest.raises(DataError, match=r"sub/3\.png cannot be read as an image"):
        list(open_images(tmp_path / "dir").batches(9))
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[0]).convert("P").save(buffer, "PNG")
    small.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"sub/3\.png is not plain \(palette\): convert it"):
        list(open_images(tmp_path / "dir").batches(9))
    whole = (tmp_path / "ours.npz").read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "ours.npz").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"ours\.npz"):
            list(open_images(tmp_path / "ours.npz").batches(3))
    np.savez(tmp_path / "floats.npz", images=IMAGES / 255)
    with pytest.raises(DataError, match=r"floats\.npz: images is float64"):
        open_images(tmp_path / "floats.npz")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none", "text.txt"):
        (tmp_path / "text.txt").write_text("hello")
        with pytest.raises(DataError, match=name):
            open_images(tmp_path / name)


def test_nothing_of_a_set_goes_missing_in_silence(tmp_path: Path) -> None:
    """What `data pack` refuses or passes over, in a folder, a zip and a tar alike."""
    write(tmp_path)
    folder = tmp_path / "dir"
    for name in ("._0.png", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert open_images(folder).count == 7
    webp = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(webp, "WEBP", lossless=True)
    (folder / "a.webp").write_bytes(webp.getvalue())
    np.testing.assert_array_equal(next(open_images(folder).batches(1))[0], IMAGES[0])
    (folder / "b.bmp").touch()
    with pytest.raises(DataError, match=r"b\.bmp is a picture of a kind that is not read: convert it to PNG"):
        open_images(folder)
    for name, other in (("x.zip", "x.gif"), ("__MACOSX.zip", "__MACOSX/._a.png")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a.png", png(IMAGES[0]))
            archive.writestr(other, b"x")
    with pytest.raises(DataError, match=r"x\.gif' is a picture of a kind that is not read"):
        open_images(tmp_path / "x.zip")
    assert open_images(tmp_path / "__MACOSX.zip").count == 1


def test_cut_tars_and_twofold_members_are_refused(tmp_path: Path) -> None:
    """A tar cut between members ends like a shorter one; of two members of one name a reader by name sees one."""
    write(tmp_path)
    tar = tmp_path / "tars" / "0.tar"
    with tarfile.open(tar) as archive:
        cut = archive.getmembers()[4].offset
    tar.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"0\.tar ends without an end-of-archive record: it was cut"):
        open_images(tmp_path / "tars")
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        for name, image in zip(("a.png", "b.png"), IMAGES, strict=False):
            archive.writestr(name, png(image))
    twice.write_bytes(twice.read_bytes().replace(b"b.png", b"a.png"))
    with pytest.raises(DataError, match=r"member 'a\.png' is there twice"):
        open_images(twice)


def test_a_member_whose_checksum_is_another_is_refused(tmp_path: Path) -> None:
    """Pixels of a stored JPEG may change without a decoder seeing it."""
    write(tmp_path)
    path = tmp_path / "images.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b"IEND")] ^= 32
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"images\.zip: 00000/0\.png is damaged: its checksum is another"):
        list(open_images(path).batches(9))


def test_options_that_would_say_nothing_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    words = ["evaluate", str(tmp_path / "dir"), "--reference", str(tmp_path / "adm.npz")]
    for name, value in (("--steps", "3"), ("--seeds", "5-9"), ("--guidance", "2"), ("--vae", "x")):
        with pytest.raises(typer.BadParameter, match="holds images, which are judged as they are"):
            app([*words, name, value], standalone_mode=False)
    with pytest.raises(typer.BadParameter, match="is the folder of a search: give --search too"):
        app([*words, "--to", str(tmp_path)], standalone_mode=False)
    assert [metric.name for metric in parse_metrics("FID, Fd-Fashion")] == ["fid", "fd-fashion"]


MEAN, COVARIANCE = np.arange(3.0), np.diag([1.0, 2, 3])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_references_of_other_tools(tmp_path: Path, protocol: int) -> None:
    """mu and sigma of clean-fid, EDM and ADM; EDM2's pickle, which is read as data."""
    np.savez(tmp_path / "fid.npz", mu=MEAN, sigma=COVARIANCE, arr_0=IMAGES)
    content = {
        "num_images": 9,
        "fid": {"mu": MEAN, "sigma": COVARIANCE},
        "fd_dinov2": {"mu": MEAN[:2], "sigma": np.eye(2)},
    }
    (tmp_path / "r.pkl").write_bytes(pickle.dumps(content, protocol))
    if protocol == 2:
        with pytest.raises(DataError, match=r"r\.pkl: refused: it wants to use _codecs\.encode"):
            read_reference(tmp_path / "r.pkl", "inception", 3)
        return
    for name in ("fid.npz", "r.pkl"):
        real = read_reference(tmp_path / name, "inception", 3)
        assert real is not None
        np.testing.assert_array_equal(real.reference.mean, MEAN)
        np.testing.assert_array_equal(real.reference.covariance, COVARIANCE)
        with pytest.raises(DataError, match=f"{name}: holds statistics of 3 features, but inception has 2048"):
            read_reference(tmp_path / name, "inception", 2048)
    found = read_reference(tmp_path / "r.pkl", "dinov2", 2)
    assert found is not None
    assert found.count == 9
    with pytest.raises(DataError, match="holds statistics of inception, dinov2, none of own"):
        read_reference(tmp_path / "r.pkl", "own", 64)
    assert read_reference(tmp_path, "own", 64) is None


class Evil:
    """What unpickling this object would do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


def test_pickles_that_are_no_statistics_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content, said in (
        ({"fid": {"mu": Evil(), "sigma": 0}}, "refused: it wants to use"),
        ({"other": 1}, "holds no statistics of EDM2"),
        ({"fid": {"mu": 1, "sigma": 2}}, "a int where an array belongs"),
        ({"fid": {"mu": np.array(["a"]), "sigma": np.eye(3)}}, "an array of type 'U1'"),
        ({"fid": {"mu": MEAN * np.nan, "sigma": COVARIANCE}}, "the mean holds NaN"),
        ({"fid": {"mu": MEAN, "sigma": -COVARIANCE}}, "indefinite"),
    ):
        (tmp_path / "r.pkl").write_bytes(pickle.dumps(content, 4))
        with pytest.raises(DataError, match=rf"r\.pkl: .*{said}"):
            read_reference(tmp_path / "r.pkl", "inception", 3)
    assert not (tmp_path / "unpickled").exists()
