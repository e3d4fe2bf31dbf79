"""The Tables port over Delta (delta-rs): the engine writes data files, each write is one commit.

The engine writes parquet files into a staging folder inside the table, they are renamed to their
place, and one Delta transaction makes them visible: rows pass neither the driver nor Python. Only
the rows that a merge finds changed do, streamed into delta-rs.
Killed before the commit, nothing has happened; what is left behind no reader ever sees. A merge
decides by one version of the table and commits on that version alone: where another writer came
first, it is done again.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.errors import SettingsError, TableError
from databricks_steps.interfaces import Action, Commit, described, require_a_month
from databricks_steps.platforms.embedded import delta_files, file_lock
from databricks_steps.settings import Settings

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable
    from deltalake.transaction import AddAction
    from pyspark.sql import DataFrame, SparkSession

LOG = logging.getLogger(__name__)
STAGED_FILES = "_staging"
ATTEMPTS = 5  # of a merge that other writers come before


class _ConflictError(Exception):
    """Another writer has changed the table since a merge decided what to write."""


@dataclass(frozen=True)
class _Known:
    """A table as of one version: its files, and rows by month ("" where it has none)."""

    opened: DeltaTable
    stamp: object
    files: delta_files.Partitions
    rows: dict[str, int]

    @cached_property
    def transactions(self) -> dict[str, int]:
        """Application → version of its last transaction."""
        return delta_files.transactions(self.opened)

    @classmethod
    def of(cls, opened: DeltaTable, table: schemas.Table, stamp: object) -> _Known:
        files, _ = delta_files.by_partition(opened)
        actions = delta_files.added(opened)
        counts = actions.column("num_records").to_pylist()
        column = f"partition.{table.month}"
        months = actions.column(column).to_pylist() if table.month else [""] * len(counts)
        rows: dict[str, int] = {}
        for month, count in zip(months, counts, strict=True):
            rows[month] = rows.get(month, 0) + count
        return cls(opened, stamp, files, rows)


class DeltaTables:
    """Delta tables under `TAXI_HOME/warehouse/<catalog>/<schema>/<table>`."""

    def __init__(self, settings: Settings, spark: Callable[[], SparkSession]) -> None:
        self._settings = settings
        self._spark = spark
        self._known: dict[str, _Known] = {}

    def uri(self, name: str) -> str:
        return str(self._settings.table_path(described(name).name))

    def exists(self, name: str) -> bool:
        return delta_files.is_table(Path(self.uri(name)))

    def version(self, name: str) -> int | None:
        return self._open(name).version() if self.exists(name) else None

    def read(
        self, name: str, months: Sequence[str] | None = None, version: int | None = None
    ) -> DataFrame:
        """The rows as the engine reads the files themselves; an empty frame for no files."""
        table = described(name)
        files = self._files(table, months, version) if self.exists(name) else {}
        return delta_files.scan(
            self._spark(), table.spark(), files, delta_files.partitioned_by(table)
        )

    def months(self, name: str) -> list[str]:
        return sorted(month for month, rows in self._rows_by_month(name).items() if rows)

    def rows(self, name: str, months: Sequence[str] | None = None) -> int:
        """Number of rows, from the table's log: no file is read."""
        counts = self._rows_by_month(name)
        return sum(n for month, n in counts.items() if months is None or month in months)

    def contents(self, name: str, months: Sequence[str] | None = None) -> str:
        """The names of the data files: they are never rewritten in place."""
        files = self._files(described(name), months, None) if self.exists(name) else {}
        return " ".join(sorted(path.name for paths in files.values() for path in paths))

    def made_from(self, name: str, month: str = "") -> int | None:
        if not self.exists(name):
            return None
        return self._newest(name).transactions.get(delta_files.inputs_of(month))

    def sources(self, name: str) -> dict[str, int]:
        """Read from the newest commit that carries them: later ones may only tidy up."""
        if not self.exists(name):
            return {}
        for commit in self._open(name).history():
            if delta_files.SOURCES in commit:
                kept: dict[str, int] = json.loads(commit[delta_files.SOURCES])
                return kept
        return {}

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
        require_a_month(table, months)
        existed = self._prepared(table) is not None
        with self._staged(table, frame) as stage:
            adds = self._move(table, stage, months)
            filters = [(table.month, "in", list(months))] if table.month and months else None
            kept = delta_files.properties(made_from, sources)
            with self._lock(table):
                version = self._commit(table, adds, "overwrite", filters, kept)
        action: Action = "replaced" if existed else "created"
        return Commit(name, action, version, delta_files.records(adds))

    def merge(
        self,
        name: str,
        frame: DataFrame,
        months: Sequence[str] | None = None,
        made_from: Mapping[str, int] | None = None,
    ) -> Commit:
        """Upsert by primary key; with `months`, rows of those months not in the frame go.

        Months that hold no rows yet get their files as Spark wrote them, in a commit of their own.
        Of the others only rows that differ are written, so the change data feed holds what
        changed and a second run commits nothing.
        """
        table = described(name)
        require_a_month(table, months)
        for _ in range(ATTEMPTS):
            with suppress(_ConflictError):
                return self._merged(table, frame, months, made_from)
            LOG.warning("another writer changed %s meanwhile: the merge is done again", name)
        raise TableError(
            f"Other writers keep changing {name}",
            f"{ATTEMPTS} merges came too late",
            "Let the other runs of this home end, then run again",
        )

    def _merged(
        self,
        table: schemas.Table,
        frame: DataFrame,
        months: Sequence[str] | None,
        made_from: Mapping[str, int] | None,
    ) -> Commit:
        """One attempt of `merge`.

        Raises:
            _ConflictError: another writer came first.
        """
        version, added = self._prepared(table), 0
        existed = version is not None
        empty = self._without_rows(table, months)
        held = None if months is None else [m for m in months if m not in empty]
        with self._staged(table, frame) as stage:
            if empty:
                adds = self._move(table, stage, months, empty)
                added = delta_files.records(adds)
                digests = delta_files.digests_of(made_from, empty)
                with self._lock(table):
                    self._still_at(table, version)
                    if adds or not existed:
                        kept = delta_files.properties(digests)
                        version = self._commit(table, adds, "append", None, kept)
                    else:
                        version = self._remember(table, digests)
            if "" in empty or held == []:
                action: Action = "appended" if existed else "created"
                return Commit(table.name, action, self._open(table.name).version(), added)
            digests = delta_files.digests_of(made_from, [""] if held is None else held)
            with self._differences(table, stage, held) as changes, self._lock(table):
                self._still_at(table, version)
                if changes is None:
                    version = self._remember(table, digests)
                    action = "appended" if added else "unchanged"
                    return Commit(table.name, action, version, added)
                target = self._open(table.name)
                count = delta_files.merge_changes(table, target, changes, digests)
                return Commit(table.name, "merged", target.version(), added + count)

    def _without_rows(self, table: schemas.Table, months: Sequence[str] | None) -> list[str]:
        """Those of the months that hold no rows; "" for all of a table without any."""
        held = {month for month, rows in self._rows_by_month(table.name).items() if rows}
        if table.month and months is not None:
            return [month for month in months if month not in held]
        return [] if held else [""]

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Commit:
        """Append a few rows (column → value) of an uncut table in one commit, without Spark."""
        table = described(name)
        existed = self._prepared(table) is not None
        adds = [delta_files.write(rows, table, Path(self.uri(name)))]
        with self._lock(table):
            version = self._commit(table, adds, "append", None, delta_files.properties(None))
        return Commit(name, "appended" if existed else "created", version, len(rows))

    def amend(
        self, name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
    ) -> Commit | None:
        """Replace a small uncut table's rows by what `change` makes of them; None if unchanged.

        Processes do so one after another.
        """
        table = described(name)
        existed = self._prepared(table) is not None
        with self._lock(table):
            before = self.records(name)
            after = change(before)
            if after == before:
                return None
            adds = [delta_files.write(after, table, Path(self.uri(name)))]
            kept = delta_files.properties(None)
            version = self._commit(table, adds, "overwrite", None, kept)
        return Commit(name, "replaced" if existed else "created", version, len(after))

    def records(self, name: str, months: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of a small table, column → value, without Spark; none when it is missing."""
        table = described(name)
        if not self.exists(name) or (months is not None and not months):
            return []
        return delta_files.records_of(
            self._files(table, months, None), delta_files.partitioned_by(table), table.names
        )

    def foreign(self, name: str) -> DataFrame | None:
        """Read from the files as they are now, with the columns that the table's log names."""
        from deltalake import DeltaTable
        from pyspark.sql.types import StructType

        path = str(self._settings.table_path(name))
        if not DeltaTable.is_deltatable(path):
            return None
        opened = DeltaTable(path)
        schema = StructType.fromJson(json.loads(opened.schema().to_json()))
        for field in schema.fields:
            field.nullable = True  # a promise of others, which an engine would believe
        return delta_files.scan(self._spark(), schema, *delta_files.by_partition(opened))

    def foreign_contents(self, name: str, without: tuple[str, str] = ("", "")) -> str | None:
        """The names of the data files, but for those that hold only rows to leave out."""
        from deltalake import DeltaTable

        path = str(self._settings.table_path(name))
        if not DeltaTable.is_deltatable(path):
            return None
        return delta_files.names(DeltaTable(path), *without)

    def _open(self, name: str, version: int | None = None) -> DeltaTable:
        return delta_files.opened(name, Path(self.uri(name)), version)

    def _files(
        self, table: schemas.Table, months: Sequence[str] | None, version: int | None
    ) -> delta_files.Partitions:
        if months is not None and not months:
            return {}
        if version is None:
            found = self._newest(table.name).files
        else:
            found, _ = delta_files.by_partition(self._open(table.name, version))
        if table.month is None or months is None:
            return found
        return {values: paths for values, paths in found.items() if values[0] in months}

    def _rows_by_month(self, name: str) -> dict[str, int]:
        """Month → rows; an unpartitioned table counts under the empty month."""
        return self._newest(name).rows if self.exists(name) else {}

    def _newest(self, name: str) -> _Known:
        """The table as of now; its log is read again only when it has grown or is another.

        Steps ask for each month by itself.
        """
        stamp = delta_files.log_stamp(Path(self.uri(name)))
        known = self._known.get(name)
        if known is None or known.stamp != stamp:
            known = self._known[name] = _Known.of(self._open(name), described(name), stamp)
        return known

    @contextmanager
    def _staged(self, table: schemas.Table, frame: DataFrame) -> Iterator[Path]:
        """The frame's rows as parquet files in a folder of its own, gone afterwards."""
        root = Path(self.uri(table.name))
        staging = root / STAGED_FILES
        try:
            staging.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                "TAXI_HOME must be writable",
                f"{staging}: {error.strerror}",
                "Set TAXI_HOME to a folder you may write to",
            ) from error
        delta_files.sweep(staging)
        with file_lock.folder(staging / uuid.uuid4().hex) as stage:
            writer = frame.select(*table.names).write
            if table.month:
                writer = writer.partitionBy(table.month)
            writer.parquet(str(stage))
            yield stage

    def _move(
        self,
        table: schemas.Table,
        stage: Path,
        months: Sequence[str] | None,
        only: Sequence[str] | None = None,
    ) -> list[AddAction]:
        """Rename the staged files to their place in the table; one add action a file.

        A file of a month that is not among `months` is refused; with `only` files of other
        months stay where they are.
        """
        root = Path(self.uri(table.name))
        files = delta_files.data_files(stage)
        found = {path: delta_files.month_of(path, table) for path in files}
        strays = {m for m in found.values() if table.month and months and m not in months}
        if strays:
            raise TableError(
                f"A write to {table.name} must hold only the months it names",
                ", ".join(sorted(strays)),
                "Filter the frame to its months first",
            )
        return [
            delta_files.place(path, root, table.month, found[path])
            for path in files
            if only is None or found[path] in only or "" in only
        ]

    def _prepared(self, table: schemas.Table) -> int | None:
        """The version that a write decides by, with every column of today; None without a table."""
        if not self.exists(table.name):
            return None
        with self._lock(table):
            return delta_files.evolve(self._open(table.name), table)

    @contextmanager
    def _lock(self, table: schemas.Table) -> Iterator[None]:
        """Alone with the table among its writers."""
        with file_lock.alone(Path(self.uri(table.name))):
            yield

    def _still_at(self, table: schemas.Table, version: int | None) -> None:
        """The table is as it was when a write was decided; None is one that was not there.

        Raises:
            _ConflictError: another writer came first.
        """
        if self.version(table.name) != version:
            raise _ConflictError

    def _commit(
        self,
        table: schemas.Table,
        adds: list[AddAction],
        mode: str,
        filters: list[Any] | None,
        kept: CommitProperties,
    ) -> int:
        """Make the files visible; the version in which they are. Under `_lock`."""
        opened = self._open(table.name) if self.exists(table.name) else None
        delta_files.commit(opened, self.uri(table.name), table, adds, mode, filters, kept)
        return self._open(table.name).version()

    def _remember(self, table: schemas.Table, made_from: Mapping[str, int]) -> int:
        """Keep the digests of inputs that gave the same rows again; a commit without rows."""
        if any(self.made_from(table.name, m) != digest for m, digest in made_from.items()):
            kept = delta_files.properties(made_from)
            return self._commit(table, [], "append", None, kept)
        return self._open(table.name).version()

    @contextmanager
    def _differences(
        self, table: schemas.Table, stage: Path, months: Sequence[str] | None
    ) -> Iterator[Path | None]:
        """A folder with the rows to upsert and to delete, or None when nothing differs.

        Without `months` no row of another month than the staged ones is read.
        """
        staged: delta_files.Partitions = {}
        for path in delta_files.data_files(stage):
            month = delta_files.month_of(path, table)
            staged.setdefault((month,) if table.month else (), []).append(path)
        by = delta_files.partitioned_by(table)
        new = delta_files.scan(self._spark(), table.spark(), staged, by)
        if (read := months) is None and table.month:
            read = [month for (month,) in staged]
        staging = Path(self.uri(table.name)) / STAGED_FILES
        with file_lock.folder(staging / uuid.uuid4().hex) as folder:
            old = self.read(table.name, read)
            changes = delta_files.changed_rows(table, old, new, months is not None)
            changes.repartition(1).write.parquet(str(folder))
            yield folder if delta_files.count(folder) else None
