"""The Tables port over Unity Catalog: Delta tables by their three-level names, through Spark alone.

A table is made by SQL with its keys and comments before its first rows. Each write is one commit
with a note of its months, the digests of their inputs and its sources (see `history.py`); a merge
that also brings months without rows adds those in a commit of their own.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.interfaces import Action, Commit, described, require_a_month
from databricks_steps.platforms.databricks import ddl, frames, history
from databricks_steps.platforms.databricks.history import History, Note
from databricks_steps.settings import Settings
from databricks_steps.spark_compat import kept

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

LOG = logging.getLogger(__name__)


@dataclass
class _Seen:
    """What was read of a table as of its newest commit; counts are made when they are wanted."""

    history: History
    rows_by_month: dict[str, int] | None = None


class UnityTables:
    """Delta tables `<catalog>.<schema>.<table>` of the session's catalogs."""

    def __init__(self, settings: Settings, spark: Callable[[], SparkSession]) -> None:
        self._settings, self._spark = settings, spark
        self._dialect = ddl.of_catalog(settings.catalog)
        self._known: dict[str, _Seen] = {}

    def uri(self, name: str) -> str:
        return self._settings.table(described(name).name)

    def exists(self, name: str) -> bool:
        return bool(self._spark().catalog.tableExists(self._quoted(name)))

    def version(self, name: str) -> int | None:
        return self._newest(name).newest.version if self.exists(name) else None

    def read(
        self, name: str, months: Sequence[str] | None = None, version: int | None = None
    ) -> DataFrame:
        """The rows; an empty frame for no months, or when the table does not exist."""
        table = described(name)
        if (months is not None and not months) or not self.exists(name):
            return frames.of_rows(self._spark(), table)
        reader = self._spark().read
        if version is not None:
            reader = reader.option("versionAsOf", version)
        found = reader.table(self._quoted(name)).where(ddl.of_months(table, months))
        return frames.with_columns_of(table, found)

    def months(self, name: str) -> list[str]:
        return sorted(self._rows_by_month(name))

    def rows(self, name: str, months: Sequence[str] | None = None) -> int:
        counts = self._rows_by_month(name)
        return sum(n for month, n in counts.items() if months is None or month in months)

    def contents(self, name: str, months: Sequence[str] | None = None) -> str:
        """The commits that last changed rows of the months, by hand or not; upkeep is not one."""
        seen = self._seen(name)
        return seen.history.contents(months) if seen else ""

    def made_from(self, name: str, month: str = "") -> int | None:
        """None also after a change by other means: the month is then to be computed again."""
        seen = self._seen(name)
        return seen.history.made_from(month) if seen else None

    def sources(self, name: str) -> dict[str, int]:
        seen = self._seen(name)
        return seen.history.sources() if seen else {}

    def replace(
        self,
        name: str,
        frame: DataFrame,
        months: Sequence[str] | None = None,
        made_from: Mapping[str, int] | None = None,
        sources: Mapping[str, int] | None = None,
    ) -> Commit:
        """Replace these months (or the whole table) by the frame, in one commit.

        Raises:
            TableError: the frame holds a month that is not among `months`.
        """
        table = described(name)
        chosen = _named(table, months)
        existed = self._make(table)
        note = Note(chosen, made_from or {}, sources or {})
        self._overwrite(table, frame.select(*table.names), ddl.of_months(table, chosen), note)
        newest = self._newest(name).newest
        counted = newest.metrics.get("numOutputRows") if newest.note == note else None
        rows = self.read(name, chosen).count() if counted is None else int(counted)
        return Commit(name, "replaced" if existed else "created", newest.version, rows)

    def merge(
        self,
        name: str,
        frame: DataFrame,
        months: Sequence[str] | None = None,
        made_from: Mapping[str, int] | None = None,
    ) -> Commit:
        """Upsert by primary key; with `months`, rows of those months not in the frame go.

        Months that hold no rows yet are written in a commit of their own. Of the others only
        rows that differ go into the merge: Delta writes every file with a row that matches anew,
        whether or not it changes.
        """
        table = described(name)
        chosen = _named(table, months)
        existed = self._make(table)
        empty, added, changed = self._without_rows(table, chosen), 0, 0
        held = None if months is None else [m for m in months if m not in empty]
        only_new = "" in empty or held == []
        with kept(frame.select(*table.names)) as rows:
            counts = frames.rows_by_month(table, rows)
            frames.refuse_strays(table, counts, chosen)
            if empty:
                new = [month for month in counts if "" in empty or month in empty]
                added = sum(counts[month] for month in new)
                self._add(table, rows, new, history.digests_of(made_from, empty))
            if not only_new:
                digests = history.digests_of(made_from, [""] if held is None else held)
                changed = self._change(table, rows, held, counts, digests)
        action: Action = "merged" if changed else "appended" if added else "unchanged"
        if only_new:
            action = "appended" if existed else "created"
        return self._done(table, action, added + changed)

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Commit:
        """Append a few rows (column → value) of an uncut table in one commit."""
        table = described(name)
        existed = self._make(table)
        self._append(table, frames.of_rows(self._spark(), table, rows), Note())
        return self._done(table, "appended" if existed else "created", len(rows))

    def amend(
        self, name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
    ) -> Commit | None:
        """Replace a small uncut table's rows by what `change` makes of them; None if unchanged."""
        keys = described(name).primary_key
        before = sorted(self.records(name), key=lambda row: [str(row[key]) for key in keys])
        after = change(before)
        if after == before:
            return None
        return self.replace(name, frames.of_rows(self._spark(), described(name), after))

    def records(self, name: str, months: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of a small table, column → value, times in UTC; none when it is missing."""
        return frames.records(self.read(name, months))

    def foreign(self, name: str) -> DataFrame | None:
        full = name if name.count(".") == 2 else self._settings.table(name)
        if not self._spark().catalog.tableExists(ddl.quoted(full)):
            return None
        return self._spark().read.table(ddl.quoted(full))

    def foreign_contents(self, name: str, without: tuple[str, str] = ("", "")) -> str | None:
        """The newest commit; rows to leave out are not told apart."""
        from pyspark.errors import PySparkException

        full = name if name.count(".") == 2 else self._settings.table(name)
        if not self._spark().catalog.tableExists(ddl.quoted(full)):
            return None
        try:
            newest = history.read(self._spark(), ddl.quoted(full), limit=1).newest
        except (PySparkException, IndexError) as error:  # its history is a grant of its own
            LOG.warning("the history of %s cannot be read, so it counts as new: %s", full, error)
            return uuid.uuid4().hex
        return f"{newest.version}@{newest.at}"

    def _quoted(self, name: str) -> str:
        return ddl.quoted(self.uri(name))

    def _newest(self, name: str) -> History:
        return history.read(self._spark(), self._quoted(name), limit=1)

    def _seen(self, name: str) -> _Seen | None:
        """What is known of the table; read again only when it has a newer commit.

        Steps ask for each month by itself, and a history of a year is long.
        """
        if not self.exists(name):
            return None
        newest, known = self._newest(name).newest, self._known.get(name)
        if known is None or known.history.newest != newest:
            known = _Seen(history.read(self._spark(), self._quoted(name)))
            self._known[name] = known
        return known

    def _rows_by_month(self, name: str) -> dict[str, int]:
        """Month → rows; an unpartitioned table counts under the empty month."""
        table, seen = described(name), self._seen(name)
        if seen is None:
            return {}
        if seen.rows_by_month is None:
            rows = self.read(name, version=seen.history.newest.version)
            seen.rows_by_month = frames.rows_by_month(table, rows)
        return seen.rows_by_month

    def _without_rows(self, table: schemas.Table, months: Sequence[str] | None) -> list[str]:
        """Those of the months that hold no rows; "" for all of a table without any."""
        held = self._rows_by_month(table.name)
        if months is not None:
            return [month for month in months if month not in held]
        return [] if held else [""]

    def _make(self, table: schemas.Table) -> bool:
        """Make the table where there is none, add columns that came later; whether it existed."""
        from pyspark.errors import PySparkException

        if self.exists(table.name):
            held = self._spark().read.table(self._quoted(table.name)).columns
            if later := [column for column in table.columns if column.name not in held]:
                self._spark().sql(ddl.add_columns(self.uri(table.name), later))
            return True
        full, spark = self.uri(table.name), self._spark()
        spark.sql(ddl.create(table, full, self._dialect))
        tags = ddl.tags(table, full, self._dialect)
        try:
            if tags:
                spark.sql(tags)
        except PySparkException as error:  # they are for people who browse; a policy may refuse
            LOG.warning("%s has no tags: %s", full, error)
        return False

    def _add(
        self, table: schemas.Table, rows: DataFrame, months: list[str], made_from: Mapping[str, int]
    ) -> None:
        """Put in the rows of months that held none; without any, keep the digests alone.

        By replacing nothing: two appends of the same rows would both be taken, two replacements of
        the same months are a conflict for one of them.
        """
        touched = _touched(table, months)
        if months:
            empty = ddl.of_months(table, touched)
            self._overwrite(table, rows.where(empty), empty, Note(touched, made_from))
        else:
            self._remember(table, made_from)

    def _change(
        self,
        table: schemas.Table,
        rows: DataFrame,
        held: list[str] | None,
        present: Collection[str],
        made_from: Mapping[str, int],
    ) -> int:
        """Merge the rows into months that hold some; the number of rows changed."""
        months = _touched(table, present if held is None else held)
        old, new = self.read(table.name, months), rows.where(ddl.of_months(table, months))
        different = frames.changes(table, old, new, delete=held is not None)
        with kept(different) as changes:
            counts = frames.rows_by_month(table, changes)
            if counts:
                self._merge(table, changes, Note(_touched(table, counts), made_from))
            else:
                self._remember(table, made_from)
        return sum(counts.values())

    def _merge(self, table: schemas.Table, changes: DataFrame, note: Note) -> None:
        spark, view = self._spark(), f"taxi_{uuid.uuid4().hex}"
        changes.createOrReplaceTempView(view)
        try:
            with history.noted(spark, note) as noted, frames.refusals(table, changes):
                spark.sql(ddl.merge(table, self.uri(table.name), view, note.months))
        finally:
            spark.catalog.dropTempView(view)
        if not noted:
            self._mark(table, note)

    def _remember(self, table: schemas.Table, made_from: Mapping[str, int]) -> None:
        """Keep the digests of inputs that gave the same rows again."""
        seen = self._seen(table.name)
        if seen is None or not seen.history.remembers(made_from):
            self._mark(table, Note((), made_from))

    def _mark(self, table: schemas.Table, note: Note) -> None:
        """A commit with a note and without rows: no row is replaced by none.

        Appending none would commit nothing.
        """
        self._overwrite(table, frames.of_rows(self._spark(), table), ddl.NOTHING, note)

    def _overwrite(self, table: schemas.Table, rows: DataFrame, replaced: str, note: Note) -> None:
        """Put the rows in the place of those that meet the condition."""
        with frames.refusals(table, rows, note.months):
            writer = rows.write.format("delta").option(history.OPTION, note.text())
            writer = writer.mode("overwrite").option("replaceWhere", replaced)
            writer.saveAsTable(self._quoted(table.name))

    def _append(self, table: schemas.Table, rows: DataFrame, note: Note) -> None:
        with frames.refusals(table, rows):
            writer = rows.write.format("delta").option(history.OPTION, note.text())
            writer.mode("append").saveAsTable(self._quoted(table.name))

    def _done(self, table: schemas.Table, action: Action, rows: int) -> Commit:
        return Commit(table.name, action, self._newest(table.name).newest.version, rows)


def _named(table: schemas.Table, months: Sequence[str] | None) -> tuple[str, ...] | None:
    """The months a write names; None for all, and for a table that is not cut by months."""
    require_a_month(table, months)
    return None if months is None else _touched(table, months)


def _touched(table: schemas.Table, months: Iterable[str]) -> tuple[str, ...] | None:
    """The months as a note names them; None for a table that is not cut by months."""
    return tuple(sorted(set(months))) if table.month else None
