"""One file of trips: what it is, what it holds, and why it cannot be read, if so.

recognition.py tells what a file is, reading.py reads its rows; here is what is known of it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from databricks_steps.trips import reading, recognition
from databricks_steps.trips.column_mapping import REQUIRED, matched, missing, unmatched
from databricks_steps.trips.recognition import COPY_AGAIN, Content, NotTripsError, Packing

Format = Literal["parquet", "csv", "table"]
ENDINGS = (".parquet", ".parq", ".pq", ".csv", ".tsv")
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zip")
UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".download")
HASH_DIGITS = 16
_MONTH = re.compile(r"(?<!\d)(20\d\d-(?:0[1-9]|1[0-2]))(?!\d)", re.ASCII)
_CHUNK = 1 << 20
_SHOWN = 60  # letters of a first line
_OTHER_SERVICES = {
    "dispatchingbasenum": "for-hire vehicles",
    "hvfhslicensenum": "high-volume for-hire vehicles",
}
NAME_COLUMNS = "Name its columns as TLC does, or as raw_trips in docs/tables.md"
UNREADABLE = "unreadable"  # the cause that may go without a change of the file
PERMISSIONS = "Change its permissions, or remove it"


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

    Of a text, `width` is the number of fields of the header, `packing` what it is packed with,
    `decimal` what stands before decimals.
    """

    columns: tuple[SourceColumn, ...]
    width: int = 0
    unknown: tuple[str, ...] = ()
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    packing: Packing = ""
    decimal: str = "."


@dataclass(frozen=True)
class TripFile:
    """One entry of a source: a file (or table) of trips, or what lies beside such.

    `months` begin with the one that holds most of its rows; `named` is true when the month is in
    the name: then every row is of that month. `pickups` are months of pickups and their rows,
    where the name does not say, `waiting` the one of them that is not over. `problem` is the reason
    why it is not read, `cause` the kind of problem in a word, `remedy` what to do; `passed` is true
    of what is passed over, being no file of trips or the copy of one. `hash` is of the content
    without its packing.
    """

    path: str
    name: str
    format: Format
    hash: str = ""
    months: tuple[str, ...] = ()
    named: bool = False
    layout: Layout = Layout(())
    problem: str = ""
    cause: str = ""
    remedy: str = ""
    passed: bool = False
    size: int = 0
    changed: int = 0  # when, in nanoseconds
    rows: int | None = None
    pickups: tuple[tuple[str, int], ...] = ()
    waiting: str = ""

    def refused(self, cause: str, problem: str, remedy: str, *, passed: bool = False) -> TripFile:
        """The same, with why it is not read."""
        return replace(self, cause=cause, problem=problem, remedy=remedy, passed=passed)


def is_hidden(name: str) -> bool:
    """Files of systems and engines, such as `._x.parquet` and `_SUCCESS`."""
    return name.startswith((".", "_"))


def promises_trips(name: str) -> bool:
    """Whether a name says that trips are inside: by its ending or a month."""
    lower = name.lower()
    for packed in PACKED_ENDINGS:
        lower = lower.removesuffix(packed)
    return lower.endswith(ENDINGS) or month_in(name) is not None


def month_in(name: str) -> str | None:
    """The one month that the name carries, if it carries one."""
    found = set(_MONTH.findall(name))
    return found.pop() if len(found) == 1 else None


def printable(name: str) -> str:
    """A name as text that can be written anywhere: what is not UTF-8 as `\\xe9`."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def inspected(path: Path) -> TripFile:
    """The entry with its hash, month and layout; or with the reason why it is not read."""
    month = month_in(path.name)
    file = TripFile(
        path=str(path.absolute()),
        name=printable(path.name),
        format="parquet",
        months=(month,) if month else (),
        named=month is not None,
    )
    try:
        stat = path.stat() if path.exists() else path.lstat()
        size = 0 if path.is_dir() else stat.st_size  # a folder's own says nothing
        file = replace(file, size=size, changed=stat.st_mtime_ns)
        return _passed_over(path, file) or _of_content(path, file)
    except NotTripsError as error:
        if promises_trips(path.name):
            return file.refused(error.cause, error.problem, error.remedy)
        return file.refused("other", error.problem, error.remedy, passed=True)
    except Exception as error:  # no file stops another
        return file.refused(*_damage(error))


def _damage(error: Exception) -> tuple[str, str, str]:
    """Cause, problem and remedy of a file that cannot be opened or is not whole."""
    line = reading.first_line(error)
    if isinstance(error, OSError) and error.errno is not None:
        return UNREADABLE, f"it cannot be opened: {line}", PERMISSIONS
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)):
        return "damaged", f"its compression is damaged: {line}", COPY_AGAIN
    return "damaged", f"it cannot be read: {line}", COPY_AGAIN


def _passed_over(path: Path, file: TripFile) -> TripFile | None:
    """The entry with why it is not even opened; None for a file to look into."""
    if path.is_dir():
        remedy = "Move its files up, or name the subfolder as a source of its own"
        hidden = "it is a folder of a system" if is_hidden(path.name) else "it is a subfolder"
        return file.refused("folder", hidden, remedy, passed=True)
    if is_hidden(path.name):
        problem = "it is hidden: its name begins with a point or an underscore"
        return file.refused("hidden", problem, "Rename it, if it holds trips", passed=True)
    if path.name.lower().endswith((*UNFINISHED, "~")):
        problem = "its name says that it is still being written, or a backup"
        return file.refused("unfinished", problem, "Rename it, if it holds trips", passed=True)
    if not path.is_file():
        problem = "it is a link that leads nowhere" if path.is_symlink() else "it is not a file"
        return file.refused("not_a_file", problem, "Put the file itself in its place")
    if not _is_utf8(str(path)):
        return file.refused("name", "its name, or its folder's, is not UTF-8", "Rename it")
    return None


def _of_content(path: Path, file: TripFile) -> TripFile:
    content = recognition.recognized(path)
    with recognition.unpacked(path, content.packing) as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    file = replace(file, format=content.format, hash=digest.hexdigest()[:HASH_DIGITS])
    layout, names, rows = _csv(content) if content.format == "csv" else _parquet(path)
    file = replace(file, layout=layout, rows=rows)
    if not missing(matched(names)):
        return file
    error = _no_trips(names, content)
    if promises_trips(path.name) or matched(names):
        return file.refused(error.cause, error.problem, error.remedy)
    return file.refused("other", error.problem, error.remedy, passed=True)


def _no_trips(names: list[str], content: Content) -> NotTripsError:
    """Why a table with columns of these names holds no trips that can be read."""
    keys = {re.sub(r"[^a-z]", "", name.lower()) for name in names}
    service = next((what for key, what in _OTHER_SERVICES.items() if key in keys), None)
    if service is not None:
        remedy = "Remove it: trips of green and yellow taxis are read"
        return NotTripsError("service", f"it holds trips of {service}", remedy)
    if {"startlon", "startlat"} <= keys or {"pickuplongitude", "pickuplatitude"} <= keys:
        problem = "it gives places as longitude and latitude, not as taxi zones"
        remedy = "Take the month as TLC publishes it today; of yellow taxis it has zones since 2011"
        return NotTripsError("places", problem, remedy)
    found = matched(names)
    problem = missing(found)
    if content.format == "csv":
        shown = repr(content.start.strip("\ufeff \t\r\n").partition("\n")[0][:_SHOWN].strip())
        if not shown.strip("'"):
            return NotTripsError("empty", "it holds nothing but blanks", COPY_AGAIN)
        values = sum(bool(re.fullmatch(r"[-+:./\dT ]*\d[-+:./\d ]*", name)) for name in names)
        if not found and values * 2 >= len(names) > 1:
            problem = f"it has no header: its first line is {shown}"
            return NotTripsError("header", problem, "Put a line with the names of columns first")
        if not found:
            problem = f"it is text without a column of trips: its first line is {shown}"
            return NotTripsError("columns", problem, NAME_COLUMNS)
    elif len(found) <= len(REQUIRED) // 2:
        problem += f"; it has {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
    return NotTripsError("columns", problem, NAME_COLUMNS)


def _is_utf8(name: str) -> bool:
    return name.encode(errors="replace").decode() == name


def _parquet(path: Path) -> tuple[Layout, list[str], int]:
    """The layout by the footer. Leaves that lie inside others are no columns of trips."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        with reading.parquet(str(path)) as file:
            leaves = [file.schema.column(i) for i in range(len(file.schema))]
            arrow, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:  # whatever part of it Arrow stumbles over
        if isinstance(error, OSError) and error.errno is not None:
            raise
        line = reading.first_line(error)
        raise ValueError(f"its parquet footer is damaged: {line}") from error
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
    return Layout(columns, unknown=unmatched(names, found)), names, rows


def _csv(content: Content) -> tuple[Layout, list[str], None]:
    """The layout by the header line."""
    text = content.start
    headers = {d: next(reading.records(io.StringIO(text, newline=""), d), []) for d in ",;\t|"}
    delimiter = max(headers, key=lambda d: (len(matched(headers[d])), len(headers[d])))
    names = headers[delimiter]
    found = matched(names)
    columns = tuple(
        SourceColumn(position, names[position], target)
        for target, positions in found.items()
        for position in positions
    )
    unknown = unmatched(names, found)
    layout = Layout(columns, len(names), unknown, delimiter, content.encoding, content.packing)
    return layout, names, None
