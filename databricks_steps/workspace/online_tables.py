"""The online tables: the latest features of every location in SQLite, and their lookup.

`TAXI_HOME/online.db` holds one table for each published online table and a registry of what was
published from where. How values get there is in `publish`.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from databricks_steps.serving.feature_spec import TableLookup
from databricks_steps.settings import Settings
from databricks_steps.workspace import errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

REGISTRY = """
CREATE TABLE IF NOT EXISTS _registry (
    name TEXT PRIMARY KEY, source TEXT NOT NULL, store TEXT NOT NULL, delta_id TEXT NOT NULL,
    version INTEGER NOT NULL, rows INTEGER NOT NULL, mode TEXT NOT NULL, changed INTEGER NOT NULL,
    published_at TEXT NOT NULL, pipeline_id TEXT NOT NULL, columns TEXT NOT NULL
) WITHOUT ROWID
"""
_AMONG = "WHERE t.location_id IN (SELECT value FROM json_each(?))"
FRESH, STALE, UNKNOWN = 0, 1, 2  # states of a looked-up row
STATES = ("fresh", "stale", "unknown")
DAY = 86_400_000_000  # microseconds
NO_LIMIT = 1 << 62
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100}){2}")


@dataclass(frozen=True)
class Published:
    """What is published under one online name, and what the last publish did.

    `mode` is `full`, `incremental` or `unchanged`; `changed` the rows it wrote or removed.
    """

    name: str
    source: str
    store: str
    delta_id: str
    version: int
    rows: int
    mode: str
    changed: int
    published_at: str
    pipeline_id: str
    columns: tuple[str, ...]

    @classmethod
    def from_row(cls, row: Sequence[object]) -> Published:
        return cls(*row[:-1], tuple(json.loads(str(row[-1]))))  # type: ignore[call-arg,arg-type]


def database(settings: Settings) -> Path:
    return settings.home / "online.db"


def full_name(text: str) -> str:
    """A three-level name that is safe as a path and as an SQL name.

    Raises:
        ApiError: it is not.
    """
    if not _NAME.fullmatch(text):
        raise errors.invalid(
            "A table's name has three levels of letters, digits, _ and -",
            repr(text[:120]),
            "Send catalog.schema.table",
        )
    return text


def registered(connection: sqlite3.Connection, name: str) -> Published | None:
    row = connection.execute("SELECT * FROM _registry WHERE name = ?", (name,)).fetchone()
    return None if row is None else Published.from_row(row)


class OnlineTables:
    """Reads the online tables; each thread has its own connection, and none can write."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                f"{self._file.absolute().as_uri()}?mode=ro", uri=True, timeout=10
            )
            self._local.connection = connection
        return connection

    def published(self) -> dict[str, Published]:
        """Online name → what is published there."""
        try:
            rows = self._connection().execute("SELECT * FROM _registry ORDER BY name").fetchall()
        except sqlite3.OperationalError:  # nothing was ever published
            return {}
        return {row[0]: Published.from_row(row) for row in rows}

    def by_source(self, source: str) -> Published:
        """The online table of a feature table, the one published last.

        Raises:
            ApiError: there is none.
        """
        found = [table for table in self.published().values() if table.source == source]
        if not found:
            raise errors.missing(
                f"The online table of {source}", "not published", "Publish the feature table"
            )
        return max(found, key=lambda table: table.published_at)

    def rows(self, name: str) -> dict[int, dict[str, float | int | None]]:
        """Location → its features and `known_at`, for checks against the feature table."""
        table = self.published().get(full_name(name))
        if table is None:
            raise errors.missing("Online table", name, "Publish the feature table")
        cursor = self._connection().execute(f'SELECT * FROM "{name}" ORDER BY location_id')
        names = [column[0] for column in cursor.description]
        return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in cursor}

    def overview(self) -> list[dict[str, object]]:
        """Each online table, with `known_at` of its newest and oldest row in microseconds."""
        shown = []
        for table in self.published().values():
            sql = f'SELECT max(known_at), min(known_at) FROM "{table.name}"'
            newest, oldest = self._connection().execute(sql).fetchone()
            shown.append({**as_json(table), "newest": newest, "oldest": oldest})
        return shown

    def lookup(self, wanted: TableLookup) -> Lookup:
        return Lookup(self, wanted)

    def select(self, sql: str, parameter: object) -> list[tuple[Any, ...]]:
        return self._connection().execute(sql, (parameter,)).fetchall()


class One(NamedTuple):
    """What a lookup answers for one location: features, `known_at` of the row, and its `state`."""

    features: list[float]
    known_at: int | None
    state: int


class Many(NamedTuple):
    """What a lookup answers for many rows, one place a row; `known_at` is 0 where UNKNOWN.

    `features` has the shape (rows, features).
    """

    features: NDArray[np.float64]
    known_at: NDArray[np.int64]
    state: NDArray[np.int8]


class Lookup:
    """One prepared lookup: locations and pickup times in (microseconds), features out.

    The defaults answer where there is no row (UNKNOWN), where the row was known longer before
    the pickup than the lookback (STALE), and for a null in the row.
    """

    def __init__(self, tables: OnlineTables, wanted: TableLookup) -> None:
        self._tables = tables
        self._wanted = wanted
        self._defaults = [float(wanted.defaults[name]) for name in wanted.features]
        days = wanted.lookback_days
        self._lookback = NO_LIMIT if days is None else days * DAY
        self._sql: tuple[str, str] | None = None

    @property
    def source(self) -> str:
        """Full name of the feature table."""
        return self._wanted.table

    @property
    def features(self) -> tuple[str, ...]:
        return self._wanted.features

    @property
    def key(self) -> str:
        return self._wanted.key

    def one(self, location: int, at: int) -> One:
        """The features of one location.

        Raises:
            ApiError: the table is not published, or lacks a feature of the model.
        """
        rows = self._select(0, location)
        if not rows:
            return One(self._defaults, None, UNKNOWN)
        known_at, *features = rows[0]
        if at - known_at > self._lookback:
            return One(self._defaults, known_at, STALE)
        return One(features, known_at, FRESH)

    def many(self, locations: NDArray[np.int64], at: NDArray[np.int64]) -> Many:
        """The features of each row's location; raises as `one` does.

        One statement answers the whole batch, so that no publish can fall in between.
        """
        keys, places = np.unique(locations, return_inverse=True)
        rows = self._select(1, json.dumps(keys.tolist()))
        features = np.tile(self._defaults, (len(keys) + 1, 1))  # the last row: nothing but defaults
        known = np.zeros(len(keys), dtype=np.int64)
        state = np.full(len(keys), UNKNOWN, dtype=np.int8)
        if rows:
            found = np.searchsorted(keys, [row[0] for row in rows])
            known[found] = [row[1] for row in rows]
            features[found] = [row[2:] for row in rows]
            state[found] = FRESH
        stale = (state[places] == FRESH) & (at - known[places] > self._lookback)
        states = np.where(stale, np.int8(STALE), state[places])
        return Many(features[np.where(stale, len(keys), places)], known[places], states)

    def _select(self, which: int, parameter: object) -> list[tuple[Any, ...]]:
        try:
            return self._tables.select((self._sql or self._prepare())[which], parameter)
        except sqlite3.OperationalError:  # published anew under another name or with other columns
            try:
                return self._tables.select(self._prepare()[which], parameter)
            except sqlite3.OperationalError as error:
                raise self._unusable(error) from error

    def _prepare(self) -> tuple[str, str]:
        table = self._tables.by_source(self._wanted.table).name
        # Qualified names: SQLite reads a bare quoted name that is no column as a text.
        columns = ", ".join(
            f'coalesce(t."{name}", {default!r})'
            for name, default in zip(self._wanted.features, self._defaults, strict=True)
        )
        self._sql = (
            f'SELECT t.known_at, {columns} FROM "{table}" t WHERE t.location_id = ?',
            f'SELECT t.location_id, t.known_at, {columns} FROM "{table}" t {_AMONG}',
        )
        return self._sql

    def _unusable(self, error: sqlite3.OperationalError) -> errors.ApiError:
        return errors.ApiError(
            "BAD_REQUEST",
            "The online table must hold every feature of the model",
            f"{self._wanted.table}: {error}",
            "Publish the feature table the model was trained with",
        )


def lookups(tables: OnlineTables, wanted: Sequence[TableLookup]) -> tuple[Lookup, ...]:
    return tuple(tables.lookup(table) for table in wanted)


def as_json(table: Published) -> Mapping[str, object]:
    """For the workspace's own route; Databricks has none like it."""
    return {
        "name": table.name,
        "source_table_name": table.source,
        "online_store": table.store,
        "version": table.version,
        "rows": table.rows,
        "mode": table.mode,
        "changed_rows": table.changed,
        "published_at": table.published_at,
    }
