"""One file of trips: what it is, what it holds, and why it cannot be read, if so.

Only headers and footers are looked at here; rows are Spark's to read (normalize.py).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from databricks_steps.trips.columns import matched, missing, unmatched

Format = Literal["parquet", "csv", "table"]
SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv"}
HASH_DIGITS = 16
_MONTH = re.compile(r"(?<!\d)(20\d\d-(?:0[1-9]|1[0-2]))(?!\d)")
_CHUNK = 1 << 20
_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class SourceColumn:
    """A column of the source: its place, name, Spark type, and the column of ours that it is."""

    position: int
    name: str
    type: str
    target: str
    zone: str = ""


@dataclass(frozen=True)
class Layout:
    """How to read a file: its known columns, the names of the others, how text is written."""

    columns: tuple[SourceColumn, ...]
    width: int = 0
    unknown: tuple[str, ...] = ()
    delimiter: str = ","
    encoding: str = "UTF-8"


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
    """Spark's own rule: it would read such a file as empty."""
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
        problem = _not_data(path)
        if problem:
            return replace(file, problem=problem)
        digest = _hash(path)
        layout, found = _csv(path) if file.format == "csv" else _parquet(path)
    except OSError as error:
        return replace(file, problem=f"it cannot be read: {error.strerror or error}")
    except (EOFError, zlib.error) as error:
        return replace(file, problem=f"its compression is damaged: {error}")
    except (ValueError, csv.Error) as error:
        return replace(file, problem=f"it cannot be read: {str(error).splitlines()[0]}")
    return replace(file, hash=digest, layout=layout, problem=missing(found))


def _not_data(path: Path) -> str:
    """What a file that holds no trips at all is, told from its first and last bytes."""
    if not path.is_file():
        return "it is not a file"
    size = path.stat().st_size
    if size == 0:
        return "it is empty (0 bytes)"
    with path.open("rb") as stream:
        head = stream.read(64)
        stream.seek(-min(4, size), io.SEEK_END)
        tail = stream.read(4)
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the data (git lfs pull fetches it)"
    if format_of(path.name) == "csv":
        return _not_text(path.name, zipped=head.startswith(b"\x1f\x8b"))
    if head[:4] != b"PAR1":
        return "it is not a parquet file (it does not begin with PAR1)"
    return "" if tail == b"PAR1" else "it is truncated: the parquet footer is missing"


def _not_text(name: str, *, zipped: bool) -> str:
    if zipped and not name.endswith(".gz"):
        return "it is compressed with gzip but not named .csv.gz"
    if name.endswith(".gz") and not zipped:
        return "it is named .csv.gz but not compressed with gzip"
    return ""


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:HASH_DIGITS]


def _parquet(path: Path) -> tuple[Layout, dict[str, list[int]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, arrow = file.schema, file.schema_arrow
        leaves = [schema.column(i) for i in range(len(schema))]
    flat = [leaf for leaf in leaves if leaf.path == leaf.name]
    found = matched([leaf.name for leaf in flat])
    columns = []
    for target, positions in found.items():
        for position in positions:
            leaf = flat[position]
            zone = getattr(arrow.field(leaf.name).type, "tz", None) or ""
            columns.append(SourceColumn(position, leaf.name, _spark_type(leaf), target, zone))
    unknown = unmatched([leaf.name for leaf in flat], found)
    return Layout(tuple(columns), len(flat), unknown), found


def _spark_type(leaf: Any) -> str:
    """The Spark type that reads the column; `void` for all null, `nanos` for nanoseconds."""
    logical: dict[str, Any] = json.loads(leaf.logical_type.to_json())
    kind = logical["Type"]
    if kind == "Null":
        return "void"
    if kind == "Timestamp":
        return "nanos" if logical["timeUnit"] == "nanoseconds" else "timestamp"
    if kind == "Decimal":
        return f"decimal({leaf.precision},{leaf.scale})"
    if kind == "Date":
        return "date"
    if kind == "Int" and not logical["isSigned"] and logical["bitWidth"] >= 32:
        return "bigint" if logical["bitWidth"] == 32 else "decimal(20,0)"
    return {
        "BOOLEAN": "boolean",
        "INT32": "int",
        "INT64": "bigint",
        "INT96": "timestamp",
        "FLOAT": "float",
        "DOUBLE": "double",
    }.get(leaf.physical_type, "string")


def _csv(path: Path) -> tuple[Layout, dict[str, list[int]]]:
    """The layout by the header line; a gzip is read to its end, so that damage shows."""
    start = _start(path)
    encoding = "UTF-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "UTF-8"
    text = start.decode("utf-16" if encoding == "UTF-16" else "utf-8-sig", errors="replace")
    header = next((line for line in text.splitlines() if line.strip()), "")
    names, delimiter = max(
        ((next(csv.reader([header], delimiter=d), []), d) for d in ",;\t|"),
        key=lambda split: len(matched(split[0])),
    )
    found = matched(names)
    columns = tuple(
        SourceColumn(position, f"c{position}", "string", target)
        for target, positions in found.items()
        for position in positions
    )
    return Layout(columns, len(names), unmatched(names, found), delimiter, encoding), found


def _start(path: Path) -> bytes:
    if not path.name.endswith(".gz"):
        with path.open("rb") as plain:
            return plain.read(_HEADER_BYTES)
    with gzip.open(path, "rb") as stream:
        start = stream.read(_HEADER_BYTES)
        while stream.read(_CHUNK):
            pass
    return start
