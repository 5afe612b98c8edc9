"""What a file is that is not what was expected, told by its first bytes alone, with a remedy where there is one."""

from __future__ import annotations

import codecs
import re

HEAD = 512  # bytes that are looked at
PICKLE = "a pickle"

KINDS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: `git lfs pull` brings the file",
    b"\x93NUMPY": "a .npy file, one array without a name",
    b"\x1f\x8b": "a gzip file: unpack it first",
    b"BZh": "a bzip2 file: unpack it first",
    b"\xfd7zXZ": "an xz file: unpack it first",
    b"\x28\xb5\x2f\xfd": "a Zstandard file: unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF",
    b"PAR1": "a Parquet file",
    b"\xd0\xcf\x11\xe0": "an old Excel or other Office file: save it as CSV",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19": "a PyTorch file of the old format",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
    **{bytes((0x80, protocol)): PICKLE for protocol in range(2, 6)},
}
ZIP = b"PK\x03\x04"
ZIP_NAME = 30  # where the name of a zip archive's first member begins
BOM = b"\xef\xbb\xbf"
PAGE = re.compile(rb"<(!doctype|html|\?xml)[\s>]", re.IGNORECASE)
PROTOCOL_0 = re.compile(rb"\(|c[\w.]+\n[\w.]+\n")  # a mark or a global: what it wants is told when it is walked
TAR = 257  # where a tar archive says so


def kind_of(head: bytes) -> str | None:
    """What the file is that begins with these bytes; None where they tell nothing, as those of most texts."""
    if head.startswith(ZIP):
        return _zip_kind(head)
    if head[8:10] == b'{"':
        return "a safetensors file"
    if head[TAR : TAR + 5] == b"ustar":
        return "a tar archive: unpack it first"
    if PAGE.match(head.removeprefix(BOM).lstrip()):
        return "a web page: was a download answered by a page that asks to log in?"
    return next((kind for magic, kind in KINDS.items() if head.startswith(magic)), None)


def no_pickle(head: bytes) -> str | None:
    """What the file is that begins with these bytes, where it cannot be a pickle; None where it may be one."""
    if not head:
        return "empty (download it again)"
    kind = kind_of(head)
    if kind is not None:
        return None if kind == PICKLE else kind
    return _text_kind(head.removeprefix(BOM).lstrip())


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
    if first.startswith((b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/")):
        return "an Excel or other Office file: save it as CSV"
    if first.endswith(b".npy"):
        return "an .npz of NumPy arrays"
    return "a zip archive (a data set?)"
