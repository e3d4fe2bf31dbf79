"""The online tables: the latest features of every location, in SQLite and in memory.

`TAXI_HOME/online.db` holds one table for each published online table and a registry of what was
published from where. How values get there is in `publish`.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from databricks_steps.settings import Settings
from taxi_assets.emulator import errors

_LOG = logging.getLogger(__name__)
REFRESH_SECONDS = 0.25  # between looks for a publish of another process
REGISTRY = """
CREATE TABLE IF NOT EXISTS _registry (
    name TEXT PRIMARY KEY, source TEXT NOT NULL, store TEXT NOT NULL, delta_id TEXT NOT NULL,
    version INTEGER NOT NULL, rows INTEGER NOT NULL, mode TEXT NOT NULL, changed INTEGER NOT NULL,
    published_at TEXT NOT NULL, pipeline_id TEXT NOT NULL, columns TEXT NOT NULL
) WITHOUT ROWID
"""
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


def pipeline_id(name: str) -> str:
    """The id of the pipeline that syncs an online table: always the same for one name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def registered(connection: sqlite3.Connection, name: str) -> Published | None:
    row = connection.execute("SELECT * FROM _registry WHERE name = ?", (name,)).fetchone()
    return None if row is None else Published.from_row(row)


@dataclass(frozen=True)
class Rows:
    """An online table in memory: location → (`known_at`, the columns' values)."""

    columns: tuple[str, ...]
    by_location: Mapping[int, tuple[Any, ...]]


Snapshot = Mapping[str, Rows]  # feature table → its online table, all as of one instant


class OnlineTables:
    """Reads the online tables, by connections that cannot write.

    Lookups read `snapshot`, which a thread keeps up to date: a lookup in memory takes a fifth of
    one in SQLite, and one snapshot holds all tables as of one instant.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._refreshing = threading.Lock()
        self._watching: sqlite3.Connection | None = None
        self._seen: object = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="online tables", daemon=True)
        self.snapshot: Snapshot = {}

    def start(self) -> None:
        """Read all tables, and go on to within `REFRESH_SECONDS` of every publish."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self) -> None:
        """Bring `snapshot` up to date now."""
        with self._refreshing:
            try:
                if self._watching is None:
                    self._watching = self._connect()
                seen = self._watching.execute("PRAGMA data_version").fetchone()
                if seen != self._seen:
                    self.snapshot = _read(self._watching)
                    self._seen = seen
            except sqlite3.OperationalError as error:
                # Numbers of another connection say nothing: the next one reads all anew.
                self._seen = None
                if self._watching is not None:
                    self._watching.close()
                    self._watching = None
                    if "no such table" not in str(error):  # nothing was ever published
                        raise

    def _run(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            self._try_to_refresh()

    def _try_to_refresh(self) -> None:
        try:
            self.refresh()
        except Exception:
            _LOG.exception("the online tables could not be read; the last ones serve on")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._file.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=10,
            isolation_level=None,
            check_same_thread=False,
        )

    def published(self) -> dict[str, Published]:
        """Online name → what is published there."""
        try:
            with closing(self._connect()) as connection:
                return _published(connection)
        except sqlite3.OperationalError:  # nothing was ever published
            return {}

    def rows(self, name: str) -> dict[int, dict[str, float | int | None]]:
        """Location → its features and `known_at`, for checks against the feature table."""
        table = self.published().get(full_name(name))
        if table is None:
            raise errors.missing("Online table", name, "Publish the feature table")
        with closing(self._connect()) as connection:
            cursor = connection.execute(f'SELECT * FROM "{name}" ORDER BY location_id')
            names = [column[0] for column in cursor.description]
            return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in cursor}

    def overview(self) -> list[dict[str, object]]:
        """Each online table, with `known_at` of its newest and oldest row in microseconds."""
        shown = []
        for table in self.published().values():
            sql = f'SELECT max(known_at), min(known_at) FROM "{table.name}"'
            with closing(self._connect()) as connection:
                newest, oldest = connection.execute(sql).fetchone()
            shown.append({**as_json(table), "newest": newest, "oldest": oldest})
        return shown


def _published(connection: sqlite3.Connection) -> dict[str, Published]:
    rows = connection.execute("SELECT * FROM _registry ORDER BY name").fetchall()
    return {row[0]: Published.from_row(row) for row in rows}


def _read(connection: sqlite3.Connection) -> Snapshot:
    """Every feature table's online table, the one published last, in one transaction."""
    found: dict[str, Rows] = {}
    connection.execute("BEGIN")
    try:
        for table in sorted(_published(connection).values(), key=lambda each: each.published_at):
            columns = ", ".join(f't."{name}"' for name in table.columns)
            cursor = connection.execute(
                f'SELECT t.location_id, t.known_at, {columns} FROM "{table.name}" t'
            )
            found[table.source] = Rows(table.columns, {row[0]: row[1:] for row in cursor})
    finally:
        connection.execute("COMMIT")
    return found


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
