"""One file of trips: what it is, what it holds, and why it cannot be read, if so.

Only headers and footers are looked at here; reading.py reads the rows.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from databricks_steps.months import FIRST
from databricks_steps.trips import reading
from databricks_steps.trips.column_mapping import matched, missing, unmatched

Format = Literal["parquet", "csv", "table"]
SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv"}
HASH_DIGITS = 16
_MONTH = re.compile(r"(?<!\d)(20\d\d-(?:0[1-9]|1[0-2]))(?!\d)", re.ASCII)
_CHUNK = 1 << 20
_HEADER_BYTES = 1 << 16
_OTHERS = {
    b"PAR1": "a parquet file that is named as text",
    b"PK\x03\x04": "a zip archive (or spreadsheet), not text",
    b"<": "a page of HTML or XML, not text of trips",
}


@dataclass(frozen=True)
class SourceColumn:
    """A column of the source: its place, name, and the column of ours that it is.

    The place is that of a leaf of a parquet file, a field of text, or a column of a table.
    """

    position: int
    name: str
    target: str


@dataclass(frozen=True)
class Layout:
    """How to read a file: its known columns, the names of the others, how text is written.

    `width` is the number of fields of a text's header.
    """

    columns: tuple[SourceColumn, ...]
    width: int = 0
    unknown: tuple[str, ...] = ()
    delimiter: str = ","
    encoding: str = "utf-8-sig"


@dataclass(frozen=True)
class TripFile:
    """One file (or table) of trips. `months` begin with the one that holds most of its rows.

    `named` is true when the month is in the name: then every row is of that month.
    `problem` is the reason why the file cannot be read.
    """

    path: str
    name: str
    format: Format
    hash: str = ""
    months: tuple[str, ...] = ()
    named: bool = False
    layout: Layout = Layout(())
    problem: str = ""


def format_of(name: str) -> Format | None:
    """The format by the name's ending; None for a file that is not one of trips."""
    lower = name.lower()
    return next((f for suffix, f in SUFFIXES.items() if lower.endswith(suffix)), None)


def is_hidden(name: str) -> bool:
    """Files of systems and engines, such as `._x.parquet` and `_SUCCESS`."""
    return name.startswith((".", "_"))


def month_in(name: str) -> str | None:
    """The one month that the name carries, if it carries one."""
    found = set(_MONTH.findall(name))
    return found.pop() if len(found) == 1 else None


def inspected(path: Path) -> TripFile:
    """The file with its hash, month and layout; or with the reason why it cannot be read."""
    month = month_in(path.name)
    file = TripFile(
        path=str(path.absolute()),
        name=path.name,
        format=format_of(path.name) or "parquet",
        months=(month,) if month else (),
        named=month is not None,
    )
    try:
        problem = _too_early(month) or _not_data(path)
        if problem:
            return replace(file, problem=problem)
        digest = _hash(path)
        layout, found = _csv(path) if file.format == "csv" else _parquet(path)
    except OSError as error:
        return replace(file, problem=f"it cannot be read: {error.strerror or error}")
    except (EOFError, zlib.error) as error:
        return replace(file, problem=f"its compression is damaged: {error}")
    except reading.damages() as error:
        return replace(file, problem=f"it cannot be read: {reading.first_line(error)}")
    return replace(file, hash=digest, layout=layout, problem=missing(found))


def _too_early(month: str | None) -> str:
    return f"its month, {month}, is before {FIRST}" if month and month < FIRST else ""


def _not_data(path: Path) -> str:
    """What a file that holds no trips at all is, told from its first and last bytes."""
    size = path.stat().st_size if path.is_file() else None
    if not size:
        return "it is not a file" if size is None else "it is empty (0 bytes)"
    if not _is_utf8(str(path)):
        return "its name, or its folder's, is not UTF-8"
    with path.open("rb") as stream:
        head = stream.read(64)
        stream.seek(-min(4, size), io.SEEK_END)
        tail = stream.read(4)
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the data (git lfs pull fetches it)"
    if format_of(path.name) == "csv":
        return _not_text(path.name, head)
    if head[:4] != b"PAR1":
        return "it is not a parquet file (it does not begin with PAR1)"
    return "" if tail == b"PAR1" else "it is truncated: the parquet footer is missing"


def _is_utf8(name: str) -> bool:
    return name.encode(errors="replace").decode() == name


def _not_text(name: str, head: bytes) -> str:
    zipped, named = head.startswith(b"\x1f\x8b"), name.lower().endswith(".gz")
    if zipped and not named:
        return "it is compressed with gzip but not named .csv.gz"
    if named and not zipped:
        return "it is named .csv.gz but not compressed with gzip"
    return _other_format(head)


def _other_format(head: bytes) -> str:
    """What begins so and is no text of trips; empty for what may be."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((f"it is {what}" for magic, what in _OTHERS.items() if start.startswith(magic)), "")


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:HASH_DIGITS]


def _parquet(path: Path) -> tuple[Layout, dict[str, list[int]]]:
    """The layout by the footer. Leaves that lie inside others are no columns of trips."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with reading.parquet(str(path)) as file:
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        arrow = file.schema_arrow
    for field in arrow:
        if pa.types.is_timestamp(field.type) and field.type.tz:
            pc.local_timestamp(pa.array([0], field.type))  # raises for a zone that there is not
    places = [i for i, leaf in enumerate(leaves) if leaf.path == leaf.name]
    names = [leaves[i].name for i in places]
    found = matched(names)
    columns = tuple(
        SourceColumn(places[position], names[position], target)
        for target, positions in found.items()
        for position in positions
    )
    return Layout(columns, unknown=unmatched(names, found)), found


def _csv(path: Path) -> tuple[Layout, dict[str, list[int]]]:
    """The layout by the header line; a gzip is read to its end, so that damage shows."""
    start = _start(path)
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = start.decode(encoding, errors="replace")
    headers = {d: next(reading.records(io.StringIO(text, newline=""), d), []) for d in ",;\t|"}
    delimiter = max(headers, key=lambda d: len(matched(headers[d])))
    names = headers[delimiter]
    found = matched(names)
    columns = tuple(
        SourceColumn(position, names[position], target)
        for target, positions in found.items()
        for position in positions
    )
    return Layout(columns, len(names), unmatched(names, found), delimiter, encoding), found


def _start(path: Path) -> bytes:
    if not path.name.lower().endswith(".gz"):
        with path.open("rb") as plain:
            return plain.read(_HEADER_BYTES)
    with gzip.open(path, "rb") as stream:
        start = stream.read(_HEADER_BYTES)
        while stream.read(_CHUNK):
            pass
    if start.startswith(b"\x1f\x8b"):
        raise ValueError("it is compressed with gzip twice")
    return start
