"""From a source and months to files: demo, a file or folder, TLC's address, or a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_steps.errors import SourceError
from databricks_steps.months import FIRST
from databricks_steps.settings import Settings
from databricks_steps.trips import demo, downloads, normalize, reading
from databricks_steps.trips.column_mapping import matched, missing
from databricks_steps.trips.file_index import FileIndex
from databricks_steps.trips.files import (
    Layout,
    SourceColumn,
    TripFile,
    format_of,
    inspected,
    is_hidden,
    month_in,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DEMO = "demo"
TLC = "tlc:"
_TABLE = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*){2}")
_REMEDY = "Use demo, a file or folder of TLC files, tlc:green, tlc:yellow, or a table on Databricks"


@dataclass(frozen=True)
class Source:
    """What a source holds of the months asked for: files to read, and files refused."""

    files: tuple[TripFile, ...]
    refused: tuple[TripFile, ...]
    months: tuple[str, ...]

    @property
    def is_demo(self) -> bool:
        return all(file.name.startswith(demo.PREFIX) for file in self.files)

    def of(self, month: str) -> list[TripFile]:
        """The files that hold the month."""
        return [file for file in self.files if month in file.months]

    def without(self, refused: Sequence[TripFile]) -> Source:
        """The same without files that turned out to be unreadable, and the months only they hold.

        Raises:
            SourceError: no file is left.
        """
        names = {file.name for file in refused}
        kept = tuple(file for file in self.files if file.name not in names)
        everything = (*self.refused, *refused)
        _require_some(kept, everything)
        held = {month for file in kept for month in file.months}
        return Source(kept, everything, tuple(m for m in self.months if m in held))


def source(
    text: str,
    months: Sequence[str] | None,
    settings: Settings,
    spark: Callable[[], SparkSession],
    tlc_url: str = downloads.TLC_URL,
) -> Source:
    """The source's files that hold the months, or all its months.

    Raises:
        SourceError: nothing is there, nothing can be read, or a month is held by no file.
    """
    path = Path(text).expanduser()
    if text == DEMO:
        paths = demo.demo_files(settings, months)
    elif text.startswith(TLC):
        paths = downloads.tlc_files(text.removeprefix(TLC), months, settings, tlc_url)
    elif _TABLE.fullmatch(text) and format_of(text) is None and not path.exists():
        return _chosen(text, [_table(text, spark)], months)
    else:
        paths = _paths(path, months)
    index = FileIndex(settings)
    found = [index.found(path, lambda p: _with_months(inspected(p), spark)) for path in paths]
    index.save()
    return _chosen(text, found, months)


def _paths(path: Path, months: Sequence[str] | None) -> list[Path]:
    """The file, or the files of trips right in the folder, but for those of other months."""
    try:
        if path.is_file():
            if format_of(path.name) is None or is_hidden(path.name):
                raise SourceError(
                    "A file of trips is named .parquet, .csv or .csv.gz, and not hidden",
                    path,
                    "Rename it",
                )
            return [path]
        if not path.is_dir():
            raise SourceError("The source of trips must exist", repr(str(path)), _REMEDY)
        inside = sorted(path.iterdir())
    except OSError as error:
        raise SourceError(
            "The source of trips must be readable",
            f"{path}: {error.strerror}",
            "Change its permissions, or name another source",
        ) from error
    files = [p for p in inside if format_of(p.name) and not is_hidden(p.name) and not p.is_dir()]
    if not files:
        raise SourceError(
            "The folder must hold files named .parquet, .csv or .csv.gz", path, _REMEDY
        )
    return [p for p in files if months is None or month_in(p.name) in (None, *months)]


def _with_months(file: TripFile, spark: Callable[[], SparkSession]) -> TripFile:
    """The file with the months of its pickups, where its name does not say."""
    if file.problem or file.named:
        return file
    try:
        if file.format == "table":
            months = normalize.table_months(spark(), file)
        else:
            months = normalize.pickup_months(file)
    except reading.failures() as error:
        return replace(file, problem=reading.reason(error))
    problem = "" if months else f"no pickup from {FIRST} on, and no month in its name"
    return replace(file, months=months, problem=problem)


def _table(name: str, spark: Callable[[], SparkSession]) -> TripFile:
    """A table of the catalog as if it were a file; its hash is of its rows, in any order.

    Raises:
        SourceError: this platform has no such table, or it lacks columns.
    """
    session = spark()
    try:
        exists = session.catalog.tableExists(name)
    except reading.failures():  # the catalog itself is not there
        exists = False
    if not exists:
        raise SourceError(
            "A table of trips must exist in the platform's catalog",
            name,
            "Tables such as samples.nyctaxi.trips are on Databricks; here use demo or files",
        )
    names = session.read.table(name).columns
    found = matched(names)
    if problem := missing(found):
        raise SourceError("A table must hold trips", f"{name}: {problem}", _REMEDY)
    columns = tuple(
        SourceColumn(position, names[position], target)
        for target, positions in found.items()
        for position in positions
    )
    file = TripFile(name, name, "table", layout=Layout(columns))
    file = replace(file, hash=normalize.rows_hash(session, file))
    return _with_months(file, spark)


def _chosen(text: str, found: Sequence[TripFile], months: Sequence[str] | None) -> Source:
    """Files with the months asked for; every month must be held, if by a file refused."""
    files = tuple(f for f in found if not f.problem and _asked(f, months))
    refused = tuple(f for f in found if f.problem)
    held = {month for file in files for month in file.months}
    damaged = {month for file in refused for month in file.months}
    absent = [month for month in months or () if month not in held | damaged]
    if absent:
        raise SourceError(
            "Every month asked for must be in the source",
            f"{text} has no {', '.join(absent)}{_also(refused)}",
            "Name months that it holds, or another source",
        )
    _require_some(files, refused)
    if any(f.name.startswith(demo.PREFIX) for f in files) and not Source(files, (), ()).is_demo:
        raise SourceError(
            "Demo and real trips never mix", text, "Move the files named demo_… elsewhere"
        )
    return Source(files, refused, tuple(sorted(held if months is None else held & set(months))))


def _asked(file: TripFile, months: Sequence[str] | None) -> bool:
    return months is None or any(month in months for month in file.months)


def _also(refused: Sequence[TripFile]) -> str:
    return f" (not read: {_listed(refused)})" if refused else ""


def _listed(refused: Sequence[TripFile]) -> str:
    return "; ".join(f"{file.name}: {file.problem}" for file in refused)


def _require_some(files: Sequence[TripFile], refused: Sequence[TripFile]) -> None:
    if not files:
        raise SourceError(
            "At least one file of trips must be readable",
            _listed(refused) or "none is there",
            "Replace the files, or name another source",
        )
