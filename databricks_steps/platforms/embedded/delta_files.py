"""Data files and Delta's actions: scans, staged files put in place, differences, one merge."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from databricks_steps import schemas
from databricks_steps.errors import TableError
from databricks_steps.platforms.embedded import file_lock
from databricks_steps.platforms.embedded.delta_schema import delta_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable
    from deltalake.transaction import AddAction
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

STALE_SECONDS = 24 * 3600
LOG_RETENTION = "interval 36500 days"
CHECKPOINT_INTERVAL = "20"  # commits; of delta-rs' own hundred each look at a table reads up to all
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
CHANGE = "_change"
Partitions = dict[tuple[Any, ...], list[Path]]  # values of the partition columns → files
SOURCES = "sources"  # of a commit: table → the version it was read at


def sweep(staging: Path) -> None:
    """Remove what killed writes left behind; of folders without a lock only old ones."""
    file_lock.sweep(staging)
    oldest = time.time() - STALE_SECONDS
    for folder in staging.iterdir():
        held = folder.with_name(folder.name + file_lock.SUFFIX)
        if folder.is_dir() and not held.exists() and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def opened(name: str, root: Path, version: int | None = None) -> DeltaTable:
    """A table on disk.

    Raises:
        TableError: there is none, or its log cannot be read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        return DeltaTable(str(root), version=version)
    except TableNotFoundError as error:
        raise TableError(
            "A table must exist before it is read", name, "Run the step that writes it"
        ) from error
    except DeltaError as error:  # its message may hold a trace of calls
        raise TableError(
            "The log of a table must be readable",
            f"{name}: {str(error).splitlines()[0]}",
            "taxi-assets doctor --deep says what else is damaged; restore a backup",
        ) from error


def added(opened: DeltaTable) -> pa.Table:
    """The table's data files, a row each; by its stream, for pa.table() would import pandas."""
    import pyarrow as pa

    return pa.RecordBatchReader.from_stream(opened.get_add_actions(flatten=True)).read_all()


def by_partition(opened: DeltaTable) -> tuple[Partitions, list[str]]:
    """The table's data files by the values of its partition columns, and those columns."""
    columns: list[str] = opened.metadata().partition_columns
    root = Path(unquote(opened.table_uri.removeprefix("file://")))
    actions = added(opened)
    values = [actions.column(f"partition.{name}").to_pylist() for name in columns]
    found: Partitions = {}
    for path, *own in zip(actions.column("path").to_pylist(), *values, strict=True):
        found.setdefault(tuple(own), []).append(root / unquote(path))
    return found, columns


def is_table(root: Path) -> bool:
    """Whether there is a log: delta-rs' own answer reads it all, and steps ask for each month."""
    try:
        with os.scandir(root / "_delta_log") as entries:
            return any(entry.name.endswith((".json", ".parquet")) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False


def transactions(opened: DeltaTable) -> dict[str, int]:
    """Application → version of its last transaction, as of the opened version.

    Read at once from the last checkpoint and the commits after it: delta-rs answers for one
    application, and reads as much for each.
    """
    import pyarrow.parquet as pq

    log = Path(unquote(opened.table_uri.removeprefix("file://"))) / "_delta_log"
    checkpoints = sorted(
        int(file.name.partition(".")[0]) for file in log.glob("*.checkpoint.parquet")
    )
    first, found = 0, dict[str, int]()
    if past := [number for number in checkpoints if number <= opened.version()]:
        first = past[-1] + 1
        kept = pq.ParquetFile(log / f"{past[-1]:020}.checkpoint.parquet").read(["txn"])
        rows = [row for row in kept["txn"].to_pylist() if row and row["appId"] is not None]
        found = {row["appId"]: row["version"] for row in rows}
    for number in range(first, opened.version() + 1):
        for line in (log / f"{number:020}.json").read_text().splitlines():
            if line.startswith('{"txn"'):
                row = json.loads(line)["txn"]
                found[row["appId"]] = row["version"]
    return found


def log_stamp(root: Path) -> tuple[str, int, int]:
    """What tells a table's newest commit from any other, also of a table made anew: no file is
    opened for it."""
    log = root / "_delta_log"
    newest = max((e.name for e in os.scandir(log) if e.name.endswith(".json")), default="")
    if not newest:
        return "", 0, 0
    stat = (log / newest).stat()
    return newest, stat.st_ino, stat.st_mtime_ns


def names(opened: DeltaTable, column: str, prefix: str) -> str:
    """The names of the table's data files; with a column, only those that hold another text there.

    By the statistics of the log: a file whose least and greatest value begin with the prefix holds
    no other. One without statistics counts.
    """
    actions = added(opened)
    told = [f"{what}.{column}" for what in ("min", "max", "null_count")]
    known = [name for name in ("path", *told) if name in actions.column_names]
    actions = actions.select(known).to_pylist()

    def left_out(action: dict[str, Any]) -> bool:
        ends = [action.get(f"{end}.{column}") for end in ("min", "max")]
        inside = all(isinstance(text, str) and text.startswith(prefix) for text in ends)
        return inside and action.get(f"null_count.{column}") == 0

    return " ".join(sorted(a["path"] for a in actions if not (prefix and left_out(a))))


def scan(
    spark: SparkSession, schema: StructType, partitions: Partitions, columns: Sequence[str]
) -> DataFrame:
    """The rows of these files, by `schema`; `columns` are those of the partitions.

    Each partition is a scan of its own with its values as constants: Sail takes none from the
    names of folders, and as all files are named no folder is listed.

    Raises:
        TableError: a file is missing or empty, which Sail would take for one without rows.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, MapType, StructType

    if not partitions:
        return spark.createDataFrame([], schema)
    inside = StructType([field for field in schema if field.name not in columns])
    kinds = (ArrayType, MapType, StructType)
    nested = [field.name for field in inside if isinstance(field.dataType, kinds)]
    scans = []
    _require_there(partitions)
    for values, paths in _alike(partitions, nested):
        constants = {
            name: F.lit(value).cast(schema[name].dataType).alias(name)
            for name, value in zip(columns, values, strict=True)
        }
        rows = spark.read.schema(inside).parquet(*map(str, paths))
        scans.append(rows.select(*(constants.get(n, F.col(n)) for n in schema.names)))
    return reduce(lambda one, other: one.unionAll(other), scans)


def _require_there(partitions: Partitions) -> None:
    for paths in partitions.values():
        for path in paths:
            size = path.stat().st_size if path.exists() else None
            if not size:
                raise TableError(
                    "Every data file of a table must be there, whole",
                    f"{path} is {'missing' if size is None else 'empty'}",
                    "taxi-assets doctor --deep says what else is damaged; restore a backup",
                )


def _alike(
    partitions: Partitions, nested: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], list[Path]]]:
    """The partitions, each in parts whose files have the nested columns in the same Arrow types.

    Sail reads no two files at once whose arrays are of Utf8 here and Utf8View there, as engines
    and delta-rs write them.
    """
    import pyarrow.parquet as pq

    for values, paths in partitions.items():
        parts: dict[str, list[Path]] = {}
        for path in paths:
            kinds = []
            if nested:
                types = {field.name: str(field.type) for field in pq.read_schema(path)}
                kinds = [types.get(name, "") for name in nested]  # "": a column that came later
            parts.setdefault(" ".join(kinds), []).append(path)
        yield from ((values, part) for part in parts.values())


def records_of(
    partitions: Partitions, columns: Sequence[str], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of these files, column → value; null for a column that came later than its file.

    Raises:
        TableError: a file is missing or empty.
    """
    import pyarrow.parquet as pq

    _require_there(partitions)
    nothing = dict.fromkeys(names)
    found = []
    for values, paths in partitions.items():
        constants = dict(zip(columns, values, strict=True))
        for path in paths:
            table = pq.ParquetFile(path).read()
            lists = [_values(column) for column in table.columns]
            rows = (
                dict(zip(table.column_names, row, strict=True)) for row in zip(*lists, strict=True)
            )
            found += [nothing | row | constants for row in rows]
    return found


def _values(column: pa.ChunkedArray) -> list[Any]:
    """As Python has them; times by hand, for pyarrow would import pandas for theirs."""
    import pyarrow as pa

    if not pa.types.is_timestamp(column.type):
        listed: list[Any] = column.to_pylist()
        return listed
    micros = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_pylist()
    return [None if at is None else _EPOCH + timedelta(microseconds=at) for at in micros]


def partitioned_by(table: schemas.Table) -> list[str]:
    return [table.month] if table.month else []


def data_files(folder: Path) -> list[Path]:
    """What an engine has written below the folder, but for what it left unfinished."""
    return sorted(p for p in folder.rglob("*.parquet") if not p.name.startswith((".", "_")))


def month_of(path: Path, table: schemas.Table) -> str:
    return unquote(path.parent.name.partition("=")[2]) if table.month else ""


def place(path: Path, root: Path, column: str | None, month: str) -> AddAction:
    import pyarrow.parquet as pq
    from deltalake.transaction import AddAction

    records = pq.read_metadata(path).num_rows
    folder = root / f"{column}={month}" if column else root
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"part-{uuid.uuid4().hex}.parquet"
    path.rename(target)
    stat = target.stat()
    return AddAction(
        path=str(target.relative_to(root)),
        size=stat.st_size,
        partition_values={column: month} if column else {},
        modification_time=int(stat.st_mtime * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": records}),
    )


def write(rows: Sequence[Mapping[str, Any]], table: schemas.Table, root: Path) -> AddAction:
    """Rows as one data file in place; readers see it once its action is committed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    staged = root / f".{uuid.uuid4().hex}.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows), pa.schema(delta_schema(table))), staged)
    return place(staged, root, None, "")


def records(adds: list[AddAction]) -> int:
    return sum(int(json.loads(add.stats)["numRecords"]) for add in adds)


def changed_rows(table: schemas.Table, old: DataFrame, new: DataFrame, delete: bool) -> DataFrame:
    """Rows of `new` that are new or differ, and with `delete` those of `old` that are gone."""
    from pyspark.sql import functions as F

    keys = list(table.primary_key)
    compared = [n for n in table.names if n not in (*keys, *table.computed)]
    # Column by column: in Sail two structs of equal values, one read and one made, do not compare.
    equal = [F.col(f"old.{name}").eqNullSafe(F.col(f"new.{name}")) for name in compared]
    how = "full_outer" if delete else "right_outer"
    joined = old.alias("old").join(new.alias("new"), keys, how)
    is_old, is_new = (F.col(f"{side}.{table.names[-1]}").isNotNull() for side in ("old", "new"))
    kept = is_new & (~is_old | ~reduce(lambda one, other: one & other, equal, F.lit(True)))
    gone = is_old & ~is_new if delete else F.lit(False)
    picked = [
        F.col(name)
        if name in keys
        else F.when(is_new, F.col(f"new.{name}")).otherwise(F.col(f"old.{name}")).alias(name)
        for name in table.names
    ]
    change = F.when(is_new, "upsert").otherwise("delete").alias(CHANGE)
    return joined.where(kept | gone).select(*picked, change)


def count(folder: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def inputs_of(month: str) -> str:
    return f"made_from/{month}"


def properties(
    made_from: Mapping[str, int] | None, sources: Mapping[str, int] | None = None
) -> CommitProperties:
    """Digests of inputs as Delta's transaction identifiers, versions of sources as metadata.

    Both are atomic with the rows; transaction identifiers also outlive the log's clean-up.
    """
    from deltalake import CommitProperties, Transaction

    pairs = (made_from or {}).items()
    return CommitProperties(
        app_transactions=[Transaction(inputs_of(month), digest) for month, digest in pairs],
        custom_metadata={SOURCES: json.dumps(dict(sources))} if sources else None,
    )


def digests_of(made_from: Mapping[str, int] | None, months: Sequence[str]) -> dict[str, int]:
    """The digests of these months; all of them for the empty month."""
    every = "" in months
    return {m: digest for m, digest in (made_from or {}).items() if every or m in months}


def table_properties(table: schemas.Table) -> dict[str, str]:
    """The properties of Delta's own that the table has.

    The log is kept: models are reproduced from versions that they have recorded, and Delta forgets
    versions after a month. Data files go by the project's own vacuum, which knows them.
    """
    feed = "true" if table.change_data_feed else "false"
    return {
        "delta.enableChangeDataFeed": feed,
        "delta.logRetentionDuration": LOG_RETENTION,
        "delta.checkpointInterval": CHECKPOINT_INTERVAL,
    }


def evolve(opened: DeltaTable, table: schemas.Table) -> int:
    """Give a table that an older version of the project made what today's has; its version then.

    Columns that came later are added, null in the rows at hand.

    Raises:
        TableError: a column is of another type.
    """
    from deltalake import Field

    held = {field.name: field for field in opened.schema().fields}
    wanted = delta_schema(table).fields
    for field in wanted:
        if field.name in held and held[field.name].type != field.type:
            raise TableError(
                f"{table.name}.{field.name} is of a type that this version does not write",
                f"{held[field.name].type}, not {field.type}",
                "Use the version that made this TAXI_HOME, or an empty one",
            )
    later = [
        Field(field.name, field.type, nullable=True, metadata=field.metadata)
        for field in wanted
        if field.name not in held
    ]
    if later:
        opened.alter.add_columns(later)
    configuration = opened.metadata().configuration
    wrong = {k: v for k, v in table_properties(table).items() if configuration.get(k) != v}
    if wrong:
        opened.alter.set_table_properties(wrong)
    return int(opened.version())


def commit(
    opened: DeltaTable | None,
    uri: str,
    table: schemas.Table,
    adds: list[AddAction],
    mode: str,
    filters: list[Any] | None,
    kept: CommitProperties,
) -> None:
    """One transaction that makes the files visible; makes the table when it is not `opened`."""
    from deltalake.transaction import create_table_with_add_actions

    partition_by = partitioned_by(table) or None
    if opened is not None:
        opened.create_write_transaction(
            list(adds), mode, delta_schema(table), partition_by, filters, commit_properties=kept
        )
        return
    create_table_with_add_actions(
        uri,
        delta_schema(table),
        adds,
        mode="error",
        partition_by=partition_by,
        name=table.name,
        description=table.comment,
        configuration=table_properties(table),
        commit_properties=kept,
    )


def merge_changes(
    table: schemas.Table, target: DeltaTable, changes: Path, made_from: Mapping[str, int] | None
) -> int:
    """Apply the changes as one Delta merge, streamed; the number of rows changed."""
    import pyarrow.dataset as ds

    dataset = ds.dataset([str(path) for path in data_files(changes)], format="parquet")
    matches = [f"t.{key} = s.{key}" for key in table.primary_key]
    if table.month:  # named, for of a stream delta-rs would read every file of the table
        found = dataset.to_table([table.month])[table.month].unique().to_pylist()
        months = ", ".join(f"'{month}'" for month in found)
        matches += [f"t.{table.month} = s.{table.month}", f"t.{table.month} IN ({months})"]
    columns = {name: f"s.{name}" for name in table.names}
    metrics = (
        target.merge(
            dataset.scanner().to_reader(),
            predicate=" AND ".join(matches),
            source_alias="s",
            target_alias="t",
            commit_properties=properties(made_from),
        )
        .when_matched_delete(predicate=f"s.{CHANGE} = 'delete'")
        .when_matched_update(columns, predicate=f"s.{CHANGE} = 'upsert'")
        .when_not_matched_insert(columns, predicate=f"s.{CHANGE} = 'upsert'")
        .execute()
    )
    kinds = ("num_target_rows_inserted", "num_target_rows_updated", "num_target_rows_deleted")
    return sum(int(metrics[kind]) for kind in kinds)
