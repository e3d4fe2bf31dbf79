"""What a file is, told from its content: how it is packed, and whether it is parquet or text.

Names decide nothing here. What holds no trips is said in people's words, with what to do.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

Packing = Literal["", "gzip", "bz2", "xz", "zip"]
HEAD_BYTES = 1 << 16

EXPORT = "Export the trips as parquet or CSV"
COPY_AGAIN = "Copy the whole file again under the same name, or remove it"
UNPACK = "Unpack it, and put what is inside into the folder"
FETCH = "Fetch it again: this is what the server answered in place of the file"


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


_OPENERS: dict[str, Callable[[Path], Any]] = {
    "gzip": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
}
_PACKED: dict[bytes, Packing] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
# How a file begins → what it is, and what to do.
_OTHERS: dict[bytes, tuple[str, str]] = {
    b"PARE": ("an encrypted parquet file", "Write it without encryption"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", UNPACK),
    b"\x04\x22\x4d\x18": ("compressed with lz4", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"ORC": ("an ORC file", EXPORT),
    b"Obj\x01": ("an Avro file", EXPORT),
    b"ARROW1": ("an Arrow (Feather) file", EXPORT),
    b"\x89HDF": ("an HDF5 file", EXPORT),
    b"SQLite format 3": ("a SQLite database", EXPORT),
    b"\xd0\xcf\x11\xe0": ("an Excel or other Office file", "Save it as CSV"),
    b"%PDF": ("a PDF document", EXPORT),
    b"\x89PNG": ("a picture", "Remove it"),
    b"\xff\xd8\xff": ("a picture", "Remove it"),
    b"\x7fELF": ("a program", "Remove it"),
}
# The same of text, past blanks and a byte order mark.
_OTHER_TEXTS: dict[str, tuple[str, str]] = {
    "version https://git-lfs": (
        "a Git LFS pointer, not the data",
        "Fetch the data (git lfs pull) and copy it again",
    ),
    "<": ("a page of HTML or XML, not trips", FETCH),
    "{": ("JSON, not a table of trips", EXPORT),
    "[": ("JSON, not a table of trips", EXPORT),
    "%!": ("a PostScript document", EXPORT),
}
_BOMS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_CONTROL = bytes(b for b in range(32) if b not in b"\t\n\r\f\x1a\x1b") + b"\x7f"
_MOST_CONTROL = 0.05  # of a text's bytes: NULs of broken exports are few


class NotTripsError(ValueError):
    """A file that holds no trips: the cause in a word, what it is, and what to do."""

    def __init__(self, cause: str, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.cause, self.problem, self.remedy = cause, problem, remedy


@dataclass(frozen=True)
class Content:
    """What a file holds: parquet, or text of an encoding; how it is packed, how it begins."""

    format: Literal["parquet", "csv"]
    packing: Packing = ""
    encoding: str = ""
    start: str = ""


def recognized(path: Path) -> Content:
    """What the file is.

    Raises:
        NotTripsError: it is no parquet file and no text, or not whole.
        OSError: it cannot be read.
        Exception: one of `reading.damages()`; it is packed, and damaged.
    """
    size = path.stat().st_size
    if not size:
        raise NotTripsError("empty", "it is empty (0 bytes)", COPY_AGAIN)
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
        stream.seek(-min(4, size), io.SEEK_END)
        tail = stream.read(4)
    packing = _packing(head)
    if packing:
        with unpacked(path, packing) as inside:
            head = inside.read(HEAD_BYTES)
        _require_one_table(head, packing)
    elif head.startswith(b"PAR1"):
        if tail == b"PAR1" and size > 8:
            return Content("parquet")
        problem = "it is truncated: the parquet footer is missing"
        raise NotTripsError("truncated", problem, COPY_AGAIN)
    return _text(head, packing)


@contextmanager
def unpacked(path: Path, packing: Packing) -> Iterator[IO[bytes]]:
    """The bytes of a file, without its packing."""
    if packing == "zip":
        with zipfile.ZipFile(path) as archive, archive.open(_only_entry(archive)) as stream:
            yield stream
    else:
        with _OPENERS.get(packing, _plain)(path) as stream:
            yield stream


def damages() -> tuple[type[Exception], ...]:
    """What unpacking a damaged file raises, besides `EOFError`, `OSError` and `zlib.error`."""
    return (lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


def _packing(head: bytes) -> Packing:
    return next((packing for magic, packing in _PACKED.items() if head.startswith(magic)), "")


def _only_entry(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file in a zip archive, but for what systems put beside it."""
    names = archive.namelist()
    if "[Content_Types].xml" in names:
        raise NotTripsError("format", "it is an Excel or other Office file", "Save it as CSV")
    entries = [
        entry
        for entry in archive.infolist()
        if not entry.is_dir()
        and not entry.filename.startswith("__MACOSX/")
        and not Path(entry.filename).name.startswith(".")
    ]
    if len(entries) != 1:
        problem = f"it is a zip archive of {len(entries)} files"
        raise NotTripsError("archive", problem, UNPACK)
    if entries[0].flag_bits & 1:
        raise NotTripsError("archive", "it is a zip archive with a password", UNPACK)
    return entries[0]


def _require_one_table(head: bytes, packing: Packing) -> None:
    """Refuse what is packed and is no text itself."""
    if inner := _packing(head):
        twice = f"it is compressed with {packing} twice" if inner == packing else ""
        problem = twice or f"it is compressed with {inner}, and then with {packing}"
        raise NotTripsError("packed", problem, "Compress it once, or not at all")
    if head.startswith(b"PAR1"):
        problem = f"it is a parquet file compressed with {packing}"
        raise NotTripsError("packed", problem, "Unpack it: parquet is compressed by itself")
    if head[257:262] == b"ustar":
        raise NotTripsError("archive", f"it is a tar archive, packed with {packing}", UNPACK)


def _text(head: bytes, packing: Packing) -> Content:
    """What begins so, as text."""
    other = next((what for magic, what in _OTHERS.items() if head.startswith(magic)), None)
    if head[257:262] == b"ustar":
        other = ("a tar archive", UNPACK)
    if other is not None:
        raise NotTripsError("format", f"it is {other[0]}", other[1])
    encoding = _encoding(head)
    start = head.decode(encoding, errors="replace")
    shown = start.lstrip("\ufeff \t\r\n")
    told = next((what for begin, what in _OTHER_TEXTS.items() if shown.startswith(begin)), None)
    if told is not None:
        raise NotTripsError("format", f"it is {told[0]}", told[1])
    if encoding == "utf-8-sig":
        control = sum(head.count(byte) for byte in _CONTROL)
        if control > len(head) * _MOST_CONTROL:
            raise NotTripsError("format", "it is neither parquet nor text", EXPORT)
    return Content("csv", packing, encoding, start)


def _encoding(head: bytes) -> str:
    """By the byte order mark; without one, every other byte of UTF-16 is zero."""
    found = next((name for mark, name in _BOMS.items() if head.startswith(mark)), "")
    if found or len(head) < 4:
        return found or "utf-8-sig"
    even, odd = head[0::2], head[1::2]
    for zeros, others, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros.count(0) > 0.9 * len(zeros) and others.count(0) < 0.1 * len(others):
            return name
    return "utf-8-sig"
