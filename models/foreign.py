"""What a file is that is no pickle of EDM2, told by its first bytes alone."""

from __future__ import annotations

import codecs
import re

HEAD = 512  # bytes that are looked at

KINDS = {
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip file: unpack it first",
    b"BZh": "a bzip2 file: unpack it first",
    b"\xfd7zXZ": "an xz file: unpack it first",
    b"\x28\xb5\x2f\xfd": "a Zstandard file: unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a PNG image",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19": "a PyTorch file of the old format",
    b"version https://git-lfs": "a pointer of Git LFS to the file (`git lfs pull` gets it)",
}
ZIP = b"PK\x03\x04"
ZIP_NAME = 30  # where the name of a zip archive's first member begins
BOM = b"\xef\xbb\xbf"
PROTOCOL_0 = re.compile(rb"\(|c[\w.]+\n[\w.]+\n")  # a mark or a global: what it wants is told when it is walked
TAR = 257  # where a tar archive says so


def foreign_kind(head: bytes) -> str | None:
    """A name for the file that begins with these bytes, and what to do about it; None where it may be a pickle."""
    if not head:
        return "empty (download it again)"
    if head.startswith(ZIP):
        return _zip_kind(head)
    if head[8:10] == b'{"':
        return "a safetensors file"
    if head[TAR : TAR + 5] == b"ustar":
        return "a tar archive: unpack it first"
    for magic, name in KINDS.items():
        if head.startswith(magic):
            return name
    text = head.removeprefix(BOM).lstrip()
    if text.startswith(b"<"):
        return "a web page (the download failed)"
    return _text_kind(text)


def _text_kind(text: bytes) -> str | None:
    """EDM2's pickles begin with the byte 0x80, with which no text in UTF-8 does; those of protocol 0 are texts."""
    if PROTOCOL_0.match(text):
        return None
    try:
        decoded = codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return None
    if all(character.isprintable() or character.isspace() for character in decoded):
        return f"a text that begins with {decoded[:40]!r}"
    return None


def _zip_kind(head: bytes) -> str:
    """PyTorch names its members FOLDER/data.pkl and so on, NumPy NAME.npy."""
    first = head[ZIP_NAME : ZIP_NAME + int.from_bytes(head[26:28], "little")]
    if first.endswith((b"/data.pkl", b"/.format_version", b"/version")):
        return "a PyTorch file (a zip archive, such as a training state)"
    if first.endswith(b".npy"):
        return "an .npz of NumPy arrays"
    return "a zip archive (a data set?)"
