"""Images in folders, zips, tars and ImageNet's archives: which are found, with what labels, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.labels import class_order
from data_pipeline.manifest import DataError
from data_pipeline.sources.find import find_source
from data_pipeline.sources.source import Source


def png(value: int) -> bytes:
    """A grey 4x4 image of one value."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def values(source: Source) -> list[int]:
    """The value of each image, read through the source."""
    images = (np.asarray(Image.open(io.BytesIO(source.read(number)))) for number in range(len(source)))
    return [int(image[0, 0]) for image in images]


def write(folder: Path, files: Iterable[str]) -> Path:
    """Image number n of value n under each name."""
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))
    return folder


TREE = ["dog/b.png", "cat/x/deep.PNG", "dog/a.jpeg", "cat/.hidden.png"]


def test_a_folder_with_one_folder_a_class(tmp_path: Path) -> None:
    """Sorted by path, whatever lies deep included; hidden files and files beside the classes are passed over."""
    folder = write(tmp_path / "data", TREE)
    (folder / "README.txt").touch()
    source = find_source(folder)
    assert (source.dataset, source.class_names, source.num_classes) == ("data", ("cat", "dog"), 2)
    assert source.labels.tolist() == [0, 1, 1]
    assert values(source) == [1, 2, 0]
    assert source.where(0) == str(folder.resolve() / "cat/x/deep.PNG")


def test_folders_of_another_layout(tmp_path: Path) -> None:
    folder = write(tmp_path, TREE)
    (folder / "dog" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"dog/notes\.txt is not an image file"):
        find_source(folder)
    (folder / "dog" / "notes.txt").unlink()
    (folder / "emu").mkdir()
    with pytest.raises(DataError, match="emu holds no images"):
        find_source(folder)
    with pytest.raises(DataError, match="has no subfolders"):
        find_source(folder / "dog")
    with pytest.raises(DataError, match="none does not exist: give a folder with one folder a class, a zip"):
        find_source(tmp_path / "none")
    (tmp_path / "a.rar").touch()
    with pytest.raises(DataError, match=r"a\.rar is none of what images are read from"):
        find_source(tmp_path / "a.rar")


def test_images_beside_the_classes_and_parts_of_a_set_are_refused(tmp_path: Path) -> None:
    stray = write(tmp_path / "stray", [*TREE, "loose.png"])
    with pytest.raises(DataError, match=r"loose\.png lies beside the folders of the classes"):
        find_source(stray)
    parts = write(tmp_path / "parts", ["train/cat/a.png", "val/cat/b.png"])
    zipped(tmp_path / "parts.zip", {"x/train/cat/a.png": png(0), "x/test/cat/b.png": png(1)})
    for path in (parts, tmp_path / "parts.zip"):
        with pytest.raises(DataError, match="which are parts of a set and no classes"):
            find_source(path)
    assert find_source(write(tmp_path / "toys", ["train/a.png", "boat/b.png"])).class_names == ("boat", "train")
    with pytest.raises(DataError, match=r"from ILSVRC2012_img_val\.tar"):
        find_source(write(tmp_path / "val", ["ILSVRC2012_val_00000001.JPEG"]))


def test_what_lies_in_class_folders_beside_images(tmp_path: Path) -> None:
    """What systems leave is passed over, links in circles and pictures of other kinds are named."""
    folder = write(tmp_path / "data", TREE)
    for name in ("Thumbs.db", "desktop.ini", "._b.png"):
        (folder / "dog" / name).touch()
    assert len(find_source(folder)) == 3
    (folder / "dog" / "more").symlink_to(folder)
    with pytest.raises(DataError, match="dog/more is a link to a folder that it lies in"):
        find_source(folder)
    (folder / "dog" / "more").unlink()
    (folder / "dog" / "c.GIF").touch()
    with pytest.raises(DataError, match=r"dog/c\.GIF is a picture of a kind that is not read: convert it to PNG"):
        find_source(folder)
    with pytest.raises(DataError, match=r"dog/c\.gif is a picture of a kind that is not read"):
        find_source(zipped(tmp_path / "a.zip", {"dog/a.png": png(0), "dog/c.gif": b"", "cat/a.png": png(1)}))


def test_numbered_folders_are_ordered_as_numbers(tmp_path: Path) -> None:
    source = find_source(write(tmp_path, [f"{number}/a.png" for number in range(12)]))
    assert source.labels.tolist() == values(source) == list(range(12))
    assert source.class_names == tuple(map(str, range(12)))
    assert class_order(["10", "9", "008"]) == ["008", "9", "10"]
    assert class_order(["10", "9", "x"]) == ["10", "9", "x"]
    with pytest.raises(DataError, match="'01' and '1' are one number"):
        class_order(["1", "2", "01"])


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "a\u202eb", "a\udcffb"])
def test_names_that_a_terminal_would_obey_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "data" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="control characters: rename it") as caught:
        find_source(tmp_path / "data")
    assert name not in str(caught.value)
    with pytest.raises(DataError, match="control characters"):
        class_order([name])


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def encrypt(path: Path) -> None:
    """Set the flag of an encrypted member in the zip's directory."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "photos/all/"])
def test_a_zip_of_class_folders(tmp_path: Path, method: int, top: str) -> None:
    members = {f"{top}{name}": png(number) for number, name in enumerate(TREE)} | {"__MACOSX/dog/._b.png": b"x"}
    source = find_source(zipped(tmp_path / "pets.zip", members, method))
    assert (source.dataset, source.class_names, source.labels.tolist()) == ("pets", ("cat", "dog"), [0, 1, 1])
    assert values(source) == [1, 2, 0]
    assert source.where(1).endswith(f"pets.zip: {top}dog/a.jpeg")


def test_edm2s_zip(tmp_path: Path) -> None:
    """Labels of dataset.json, in whatever order it lists them."""
    labels = json.dumps({"labels": [["00000/b.png", 7], ["00000/a.png", 3]]}).encode()
    path = zipped(tmp_path / "a.zip", {"00000/b.png": png(1), "00000/a.png": png(2), "dataset.json": labels})
    source = find_source(path)
    assert (source.labels.tolist(), values(source), source.num_classes) == ([3, 7], [2, 1], 8)
    assert source.class_names is None


def test_edm2s_zip_without_labels_has_one_class(tmp_path: Path) -> None:
    """Its folders hold a thousand images each and are no classes."""
    members = {f"{n:05}/img{1000 * n:08}.png": png(n) for n in range(3)} | {"dataset.json": b'{"labels": null}'}
    source = find_source(zipped(tmp_path / "a.zip", members))
    assert (source.labels.tolist(), source.num_classes, source.class_names) == ([0, 0, 0], 1, None)


BAD_ZIPS: dict[str, tuple[dict[str, bytes], str]] = {
    "leaves the folder": ({"../up.png": b""}, r"'\.\./up\.png' leaves the folder"),
    "absolute": ({"/etc/up.png": b""}, "'/etc/up.png' leaves the folder"),
    "no folders": ({"a.png": b"", "b/c.png": b""}, r"a\.png has no label: put images into a folder a class"),
    "no images": ({"a.txt": b""}, "holds no images"),
    "latents": ({"0/a.npy": b""}, "holds latents, not images: `trigscale data import-edm2`"),
    "a label missing": ({"a.png": b"", "dataset.json": b'{"labels": []}'}, r"has no label for a\.png"),
    "a label of text": (
        {"a.png": b"", "dataset.json": b'{"labels": [["a.png", "x"]]}'},
        r"the label of 'a\.png' is 'x', expected a number from 0",
    ),
    "no labels": ({"a.png": b"", "dataset.json": b"[]"}, r"dataset\.json is not"),
    "two labels": (
        {"a.png": b"", "dataset.json": b'{"labels": [["a.png", 1], ["a.png", 2]]}'},
        r"'a\.png' has the labels 1 and 2: keep one",
    ),
}


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_zips_that_are_refused(tmp_path: Path, kind: str) -> None:
    members, message = BAD_ZIPS[kind]
    with pytest.raises(DataError, match=message):
        find_source(zipped(tmp_path / "a.zip", members))


def test_encrypted_and_damaged_zips(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"dog/a.png": png(0)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"a\.zip cannot be read as a zip"):
        find_source(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match=r"a\.zip is a Git LFS pointer"):
        find_source(path)
    path.write_bytes(b"x" + whole[1:])
    with pytest.raises(DataError, match=r"the header of dog/a\.png is damaged"):
        find_source(path)
    path.write_bytes(whole)
    encrypt(path)
    with pytest.raises(DataError, match=r"a\.zip: member 'dog/a\.png' is encrypted: unpack it"):
        find_source(path)


def tarred(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_tars(tmp_path: Path) -> None:
    """cls, or json with a label; a folder of tars in the order of their names; what else is there is passed over."""
    tarred(tmp_path / "b.tar", [("2.jpg", png(2)), ("2.json", b'{"label": 5, "caption": "a dog"}')])
    tarred(tmp_path / "a.tar", [("x/0.png", png(0)), ("x/0.cls", b"4"), ("x/1.WEBP", png(1)), ("x/1.cls", b"0\n")])
    source = find_source(tmp_path)
    assert (source.labels.tolist(), values(source), source.num_classes) == ([4, 0, 5], [0, 1, 2], 6)
    assert find_source(tmp_path / "b.tar").labels.tolist() == [5]


def test_tars_that_webdataset_wrote(tmp_path: Path) -> None:
    from webdataset.writer import ShardWriter

    with ShardWriter(f"{tmp_path}/%d.tar", maxcount=2, verbose=0) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number:04}", "png": png(number), "cls": number + 1})
    source = find_source(tmp_path)
    assert (source.labels.tolist(), values(source)) == ([1, 2, 3], [0, 1, 2])


IMG2DATASET = [
    ("000000000.jpg", png(0)),
    ("000000000.json", b'{"url": "u", "caption": "c", "key": "000000000", "status": "success", "width": 4}'),
    ("000000000.txt", b"c"),
]
BAD_TARS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "img2dataset without classes": (
        IMG2DATASET,
        r"sample 000000000 has no label: its \.json has url, caption, key, status, width, and a whole number under "
        r"`label` \(or a \.cls\) is missing",
    ),
    "no label": ([("a.png", png(0)), ("a.txt", b"x")], r"sample a has no label: it has \.png, \.txt, and \.cls is"),
    "two images": ([("a.png", png(0)), ("a.jpg", png(0))], r"sample a has \.png, \.jpg, expected one image"),
    "latents": ([("a.npy", b""), ("a.cls", b"1")], "these are arrays, not images"),
    "a tensor's label": ([("a.png", png(0)), ("a.cls", b"tensor(0)")], r"its \.cls is 'tensor\(0\)', expected digits"),
    "a label of text": (
        [("a.png", png(0)), ("a.json", b'{"label": "3"}')],
        r"its \.json has the label '3', expected a",
    ),
    "a damaged json": ([("a.png", png(0)), ("a.json", b"{")], r"its \.json cannot be read"),
    "nothing": ([], "holds no images"),
}


@pytest.mark.parametrize("kind", BAD_TARS)
def test_tars_that_are_refused(tmp_path: Path, kind: str) -> None:
    members, message = BAD_TARS[kind]
    with pytest.raises(DataError, match=message):
        find_source(tarred(tmp_path / "a.tar", members))


def test_cut_and_compressed_tars(tmp_path: Path) -> None:
    path = tarred(tmp_path / "a.tar", [("a.png", png(0)), ("a.cls", b"1"), ("b.png", png(1)), ("b.cls", b"1")])
    whole = path.read_bytes()
    for size, message in ((4 * 512, "end-of-archive record: it was cut"), (4 * 512 + 700, "cannot be read as an")):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=message):
            find_source(path)
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match=r"a\.tar cannot be read as an uncompressed tar"):
        find_source(path)


def imagenet(folder: Path) -> Path:
    """The two archives and the development kit, of two classes whose numbers are not in the order of their names."""
    from scipy.io import savemat

    parts = []
    for number, name in enumerate(("n00000002", "n00000001")):
        inner = tarred(folder / "inner", [(f"{name}_{n}.JPEG", png(10 * number + n)) for n in range(2)])
        parts.append((f"{name}.tar", inner.read_bytes()))
        inner.unlink()
    tarred(folder / "ILSVRC2012_img_train.tar", parts)
    tarred(folder / "ILSVRC2012_img_val.tar", [(f"ILSVRC2012_val_0000000{n}.JPEG", png(n)) for n in (3, 1, 2)])
    rows = [(1, "n00000002", 0), (2, "n00000001", 0), (3, "n00000000", 2)]
    synsets = np.array(rows, [("ILSVRC2012_ID", "f8"), ("WNID", object), ("num_children", "f8")])
    matrix = io.BytesIO()
    savemat(matrix, {"synsets": synsets})
    top = "ILSVRC2012_devkit_t12/data"
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        for name, data in (("ILSVRC2012_validation_ground_truth.txt", b"2\n1\n1\n"), ("meta.mat", matrix.getvalue())):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder


def test_imagenets_own_archives(tmp_path: Path) -> None:
    imagenet(tmp_path)
    training, validation = (find_source(tmp_path / f"ILSVRC2012_img_{part}.tar") for part in ("train", "val"))
    assert training.class_names == validation.class_names == ("n00000001", "n00000002")
    assert (training.labels.tolist(), values(training)) == ([0, 0, 1, 1], [10, 11, 0, 1])
    assert (validation.labels.tolist(), values(validation)) == ([0, 1, 1], [1, 2, 3])
    with pytest.raises(DataError, match=r"holds ILSVRC2012_img_train\.tar and ILSVRC2012_img_val\.tar: name one"):
        find_source(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(DataError, match=r"put ILSVRC2012_devkit_t12\.tar\.gz beside them"):
        find_source(tmp_path / "ILSVRC2012_img_val.tar")


def test_files_that_change_after_they_were_found(tmp_path: Path) -> None:
    path = tarred(tmp_path / "a.tar", [("a.png", png(0)), ("a.cls", b"1")])
    source = find_source(path)
    path.write_bytes(path.read_bytes()[:530])
    with pytest.raises(DataError, match=r"a\.tar: a\.png is cut off: 18 of"):
        source.read(0)
    folder = find_source(write(tmp_path / "data", ["x/a.png"]))
    (tmp_path / "data/x/a.png").unlink()
    with pytest.raises(DataError, match=r"x/a\.png cannot be read"):
        folder.read(0)


def test_a_source_is_known_by_its_images(tmp_path: Path) -> None:
    made = [find_source(write(tmp_path / str(n), names)).digest() for n, names in enumerate((TREE, TREE, TREE[1:]))]
    assert made[0] == made[1] != made[2]
