"""Publishing a feature table: the latest row of each location, from Delta into the online table.

The first time the table is read; afterwards only its change data feed. Either way the online table
changes in one transaction: a reader sees the old rows or the new ones.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from databricks_steps import schemas
from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import online_tables, state
from taxi_assets.emulator.runtime.online_tables import Published

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
KEY, TIME = "location_id", "known_at"
_REMOVALS = ("delete", "update_preimage")

Latest = dict[int, tuple[int, tuple[float | None, ...]]]  # location → (known_at, features)


@dataclass(frozen=True)
class Changes:
    """Rows of a change data feed as columns; `present` is false where the row went."""

    locations: NDArray[np.int64]
    times: NDArray[np.int64]
    values: NDArray[np.float64]
    commits: NDArray[np.int64]
    present: NDArray[np.bool_]


def publish(settings: Settings, source: str, online_name: str, store: str) -> Published:
    """Bring an online table to its feature table's current version; safe to repeat.

    Raises:
        ApiError: the source is no feature table, or cannot be read.
    """
    name, table = online_tables.full_name(online_name), _feature_table(source)
    columns = tuple(column.name for column in table.features)
    delta = _open(settings, source)
    file = online_tables.database(settings)
    connection = state.connect(file)
    try:
        with state.transaction(connection):
            connection.execute(online_tables.REGISTRY)
            before = online_tables.registered(connection, name)
            if before is not None and before.source != source:
                raise errors.ApiError(
                    "RESOURCE_ALREADY_EXISTS",
                    "An online table has one source",
                    f"{name} is published from {before.source}",
                    "Publish under another name",
                )
            mode, changed = _apply(connection, delta, before, name, columns)
            after = Published(
                name,
                source,
                store,
                str(delta.metadata().id),
                delta.version(),
                connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0],
                mode,
                changed,
                datetime.now(timezone.utc).isoformat(),
                online_tables.pipeline_id(name),
                columns,
            )
            _register(connection, after)
    finally:
        connection.close()
    return after


def _feature_table(source: str) -> schemas.Table:
    table = schemas.TABLES.get(online_tables.full_name(source).rsplit(".", 1)[1])
    if table is None or table.primary_key != (KEY, TIME):
        raise errors.invalid(
            "Only a feature table with the primary key (location_id, known_at) can be published",
            source,
            "Publish pickup_features or dropoff_features",
        )
    return table


def _open(settings: Settings, source: str) -> Any:
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    path = settings.table_path(source)
    try:
        return DeltaTable(str(path))
    except TableNotFoundError:
        raise errors.missing("Table", source, "Materialize it first") from None


def _apply(
    connection: sqlite3.Connection,
    delta: Any,
    before: Published | None,
    name: str,
    columns: tuple[str, ...],
) -> tuple[str, int]:
    """Bring the rows up to date; answers how, and how many rows it wrote or removed."""
    same = before is not None and before.delta_id == str(delta.metadata().id)
    if before is not None and same and before.columns == columns:
        if before.version == delta.version():
            return "unchanged", 0
        changes = _changes(delta, before.version, columns)
        if changes is not None:
            return "incremental", _apply_changes(connection, delta, name, columns, changes)
    return "full", _replace(connection, name, columns, latest(delta, columns))


def _replace(
    connection: sqlite3.Connection, name: str, columns: tuple[str, ...], rows: Latest
) -> int:
    declared = ", ".join(f'"{column}" REAL' for column in columns)
    connection.execute(f'DROP TABLE IF EXISTS "{name}"')
    connection.execute(
        f'CREATE TABLE "{name}" ({KEY} INTEGER PRIMARY KEY, {declared}, {TIME} INTEGER NOT NULL)'
    )
    _upsert(connection, name, columns, rows)
    return len(rows)


def _upsert(
    connection: sqlite3.Connection, name: str, columns: tuple[str, ...], rows: Latest
) -> None:
    marks = ", ".join("?" * (len(columns) + 2))
    connection.executemany(
        f'INSERT OR REPLACE INTO "{name}" VALUES ({marks})',
        ((location, *values, at) for location, (at, values) in rows.items()),
    )


def latest(delta: Any, columns: Sequence[str], locations: Iterable[int] | None = None) -> Latest:
    """The latest row of each location (or of these); batches stream, the table is never held."""
    import pyarrow.dataset

    wanted = None
    if locations is not None:
        wanted = pyarrow.dataset.field(KEY).isin(list(locations))
    scanner = delta.to_pyarrow_dataset().scanner(columns=[KEY, TIME, *columns], filter=wanted)
    found: Latest = {}
    for batch in scanner.to_batches():
        if batch.num_rows:
            keys, times, values = _arrays(batch, columns)
            order = np.lexsort((times, keys))
            last = order[np.append(keys[order][1:] != keys[order][:-1], True)]
            for index in last:
                location, at = int(keys[index]), int(times[index])
                if location not in found or found[location][0] < at:
                    found[location] = (at, _row(values[index]))
    return found


def _arrays(
    batch: Any, columns: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Keys, times in microseconds, and features; what is null in a feature is NaN."""
    import pyarrow as pa

    times = batch.column(TIME).cast(pa.timestamp("us", batch.schema.field(TIME).type.tz))
    values = [batch.column(c).cast(pa.float64()).to_numpy(zero_copy_only=False) for c in columns]
    return (
        batch.column(KEY).cast(pa.int64()).to_numpy(zero_copy_only=False),
        times.cast(pa.int64()).to_numpy(zero_copy_only=False),
        np.column_stack(values),
    )


def _row(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if value != value else value for value in values.tolist())  # noqa: PLR0124


def _changes(delta: Any, since: int, columns: Sequence[str]) -> Changes | None:
    """What changed after a version; None when the feed cannot say, and all must be read."""
    import pyarrow as pa

    feed_on = delta.metadata().configuration.get("delta.enableChangeDataFeed") == "true"
    if delta.version() < since or not feed_on:
        return None
    wanted = [KEY, TIME, *columns, "_change_type", "_commit_version"]
    try:
        feed = delta.load_cdf(
            starting_version=since + 1, ending_version=delta.version(), columns=wanted
        )
        rows = [batch for batch in pa.RecordBatchReader.from_stream(feed) if batch.num_rows]
    except Exception as error:  # vacuumed files, cleaned logs, the feed switched on later
        _LOG.info("no change data feed since version %s, reading the table: %s", since, error)
        return None
    parts = [_arrays(batch, columns) for batch in rows]
    types = [batch.column("_change_type").cast(pa.string()).to_pylist() for batch in rows]
    commits = [batch.column("_commit_version").to_numpy(zero_copy_only=False) for batch in rows]
    empty = np.empty(0, dtype=np.int64)
    return Changes(
        np.concatenate([empty, *(part[0] for part in parts)]),
        np.concatenate([empty, *(part[1] for part in parts)]),
        np.concatenate([np.empty((0, len(columns))), *(part[2] for part in parts)]),
        np.concatenate([empty, *(commit.astype(np.int64) for commit in commits)]),
        np.array([kind not in _REMOVALS for batch in types for kind in batch], dtype=bool),
    )


def _net(changes: Changes) -> Changes:
    """The state each (location, time) ended in: the last commit's, where presence beats removal.

    A replaced month deletes and inserts the same keys in one commit.
    """
    order = np.lexsort((changes.present, changes.commits, changes.times, changes.locations))
    keys, times = changes.locations[order], changes.times[order]
    if not len(order):
        return changes
    last = order[np.append((keys[1:] != keys[:-1]) | (times[1:] != times[:-1]), True)]
    return Changes(*(getattr(changes, field)[last] for field in vars(changes)))


def _apply_changes(
    connection: sqlite3.Connection,
    delta: Any,
    name: str,
    columns: tuple[str, ...],
    changes: Changes,
) -> int:
    current = dict(connection.execute(f'SELECT {KEY}, {TIME} FROM "{name}"').fetchall())
    net = _net(changes)
    written: Latest = {}
    gone: set[int] = set()
    for index in range(len(net.locations)):  # ascending by location, then time
        location, at = int(net.locations[index]), int(net.times[index])
        if net.present[index] and at >= current.get(location, at):
            written[location] = (at, _row(net.values[index]))
        elif not net.present[index] and at == current.get(location):
            gone.add(location)
    # The row shown went and no later one came: the next-latest is known to the table alone.
    orphans = gone - written.keys()
    if orphans:
        written |= latest(delta, columns, orphans)
    _upsert(connection, name, columns, written)
    removed = [(location,) for location in orphans - written.keys()]
    connection.executemany(f'DELETE FROM "{name}" WHERE {KEY} = ?', removed)
    return len(written) + len(removed)


def _register(connection: sqlite3.Connection, table: Published) -> None:
    row = vars(replace(table)) | {"columns": json.dumps(table.columns)}
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT OR REPLACE INTO _registry VALUES ({marks})", tuple(row.values()))


def unpublish(settings: Settings, store: str) -> int:
    """Remove every table of an online store; answers how many there were."""
    connection = state.connect(online_tables.database(settings))
    try:
        with state.transaction(connection):
            connection.execute(online_tables.REGISTRY)
            names = connection.execute(
                "SELECT name FROM _registry WHERE store = ?", (store,)
            ).fetchall()
            for (name,) in names:
                connection.execute(f'DROP TABLE IF EXISTS "{name}"')
            connection.execute("DELETE FROM _registry WHERE store = ?", (store,))
    finally:
        connection.close()
    return len(names)
