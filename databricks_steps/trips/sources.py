"""From a source and months to files: demo, a file or folder, TLC's address, or a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_steps.errors import SourceError
from databricks_steps.months import FIRST, shift, this_month
from databricks_steps.settings import DEMO, Settings
from databricks_steps.trips import demo, downloads, normalize, reading
from databricks_steps.trips.column_mapping import matched, missing
from databricks_steps.trips.file_index import FileIndex
from databricks_steps.trips.files import Layout, SourceColumn, TripFile, inspected, printable
from databricks_steps.trips.recognition import COPY_AGAIN, NotTripsError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TLC = "tlc:"
_TABLE = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*){2}")
SHOWN = 20  # files that are named in one message
_REMEDY = "Use demo, a file or folder of TLC files, tlc:green, tlc:yellow, or a table on Databricks"


@dataclass(frozen=True)
class Source:
    """What a source holds: files of trips, entries that are not read, and the months asked for.

    `whole` is true when its entries are all there are, whatever months were asked for.
    """

    text: str
    files: tuple[TripFile, ...]
    unread: tuple[TripFile, ...]
    months: tuple[str, ...]
    whole: bool = False

    @property
    def is_demo(self) -> bool:
        return all(file.name.startswith(demo.PREFIX) for file in self.files)

    @property
    def chosen(self) -> list[TripFile]:
        """The files that hold a month asked for."""
        return [file for file in self.files if set(file.months) & set(self.months)]

    @property
    def refused(self) -> list[TripFile]:
        """Files that should hold trips and cannot be read."""
        return [file for file in self.unread if not file.passed]

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
        held = {month for file in kept for month in file.months}
        months = tuple(m for m in self.months if m in held)
        found = replace(self, files=kept, unread=(*self.unread, *refused), months=months)
        _require_some(found)
        return found


def source(
    text: str,
    months: Sequence[str] | None,
    settings: Settings,
    spark: Callable[[], SparkSession],
    tlc_url: str = downloads.TLC_URL,
) -> Source:
    """The source's files, and of the months asked for those that it holds; all by default.

    Raises:
        SourceError: nothing is there, nothing can be read, or a month is held by no file.
    """
    found = looked_at(text, months, settings, spark, tlc_url)
    require_months(found, months)
    return found


def looked_at(
    text: str,
    months: Sequence[str] | None,
    settings: Settings,
    spark: Callable[[], SparkSession],
    tlc_url: str = downloads.TLC_URL,
) -> Source:
    """The same, even where nothing in it can be read.

    Raises:
        SourceError: there is no such source.
    """
    whole = False
    if text == DEMO:
        paths = demo.demo_files(settings, months)
    elif text.startswith(TLC):
        paths = downloads.tlc_files(text.removeprefix(TLC), months, settings, tlc_url)
    elif _TABLE.fullmatch(text) and not _is_path(text):
        return gathered(text, [_table(text, spark)], months)
    else:
        paths, whole = entries(text), True
    index = FileIndex(settings)
    found = [index.found(path, judged) for path in paths]
    index.save()
    return gathered(text, found, months, whole=whole)


def entries(text: str) -> list[Path]:
    """The file itself, or all that lies in the folder.

    Raises:
        SourceError: there is nothing of that name, or it cannot be opened.
    """
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return sorted(path.iterdir())
        if path.is_file() or path.is_symlink():
            return [path]
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(
            "The source of trips must be readable",
            f"{printable(text)[:200]}: {reading.first_line(error)}",
            "Change its permissions, or name another source",
        ) from error
    raise SourceError("The source of trips must exist", repr(printable(text)), _REMEDY)


def _is_path(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def judged(path: Path) -> TripFile:
    """What an entry is; whatever is wrong with it is said of it alone."""
    file = inspected(path)
    if file.problem:
        return file
    try:
        return normalize.surveyed(file)
    except NotTripsError as error:
        return file.refused(error.cause, error.problem, error.remedy)
    except Exception as error:  # no file stops another
        return file.refused("damaged", reading.reason(error), COPY_AGAIN)


def gathered(
    text: str,
    found: Sequence[TripFile],
    months: Sequence[str] | None,
    *,
    whole: bool = False,
    today: date | None = None,
) -> Source:
    """Entries as a source: each with its months, each content once, demo or real trips."""
    now = f"{today:%Y-%m}" if today else this_month()
    dated = [file if file.problem else _dated(file, now) for file in found]
    real = [f for f in dated if not f.problem and not f.name.startswith(demo.PREFIX)]
    if real:
        dated = [_beside_real(file) for file in dated]
    files = [file for file in dated if not file.problem]
    once = _once(files)
    held = {month for file in once for month in file.months if not file.problem}
    unread = [file for file in (*dated, *once) if file.problem]
    return Source(
        printable(text),
        tuple(file for file in once if not file.problem),
        tuple(sorted(unread, key=lambda file: file.name)),
        tuple(sorted(held if months is None else held & set(months))),
        whole,
    )


def _dated(file: TripFile, this_month: str) -> TripFile:
    """The file with its months, which lie between the first of taxis and the one before this.

    What it holds of this month, beside others, waits until the month is over.
    """
    last = shift(this_month, -1)
    months = file.months if file.named else normalize.fullest(file.pickups, this_month)
    over = tuple(month for month in months if month <= last)
    if over and min(over) >= FIRST and (over == months or not file.named):
        return replace(file, months=over, waiting=this_month if this_month in months else "")
    if not file.named:
        months = normalize.fullest(file.pickups, "9999-12")
    if months == (this_month,):
        problem = f"its month, {this_month}, is not over"
        remedy = "Nothing: it is read once the month is over"
        return file.refused("not_over", problem, remedy, passed=True)
    if file.named:
        problem = f"its month, {months[0]}, is not between {FIRST} and {last}"
        return file.refused("month", problem, "Correct the month in its name")
    told = ", ".join(f"{month} ({rows:,} trips)" for month, rows in file.pickups[:3])
    problem = f"no month between {FIRST} and {last} in its name, nor in its pickups"
    problem += f": {told}" if told else ", of which there are none"
    return file.refused("month", problem, "Correct its times, or name it by its month")


def _beside_real(file: TripFile) -> TripFile:
    """Demo trips and real ones never mix."""
    if file.problem or not file.name.startswith(demo.PREFIX):
        return file
    problem = "it holds demo trips, and real ones lie beside it"
    return file.refused("demo", problem, "Move the files named demo_… elsewhere")


def _once(files: Sequence[TripFile]) -> list[TripFile]:
    """Each content once: the file that came first is read, its copies are passed over."""
    first: dict[str, TripFile] = {}
    for file in sorted(files, key=lambda f: (f.changed, len(f.name), f.name)):
        if file.hash and file.rows != 0:
            first.setdefault(file.hash, file)
    return [
        file
        if first.get(file.hash, file) is file
        else file.refused(
            "copy",
            f"it has the same content as {first[file.hash].name}",
            "Remove it, or bring the file that it should have been",
            passed=True,
        )
        for file in files
    ]


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
    return replace(
        file,
        hash=normalize.rows_hash(session, file),
        pickups=normalize.table_pickups(session, file),
    )


def require_months(found: Source, months: Sequence[str] | None) -> None:
    """Refuse a source without a month asked for; a month may be held by a file that is refused.

    Raises:
        SourceError: a month is held by no file, or nothing can be read.
    """
    held = {month for file in found.files for month in file.months}
    damaged = {month for file in found.refused for month in file.months}
    absent = [month for month in months or () if month not in held | damaged]
    if absent:
        also = f" (not read: {_listed(found.refused)})" if found.refused else ""
        raise SourceError(
            "Every month asked for must be in the source",
            f"{found.text} has no {', '.join(absent)}{also}",
            "Name months that it holds, or another source",
        )
    _require_some(found)


def _require_some(found: Source) -> None:
    if not found.months:
        unread = found.refused or found.unread
        raise SourceError(
            "At least one file of trips must be readable",
            f"{printable(found.text)}: {_listed(unread) or 'nothing lies there'}",
            unread[0].remedy if len(unread) == 1 else "Replace the files, or name another source",
        )


def _listed(unread: Sequence[TripFile]) -> str:
    told = "; ".join(f"{file.name}: {file.problem}" for file in unread[:SHOWN])
    more = len(unread) - SHOWN
    return f"{told}; and {more:,} more" if more > 0 else told
