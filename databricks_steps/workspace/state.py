"""What the embedded workspace remembers besides feature values: `TAXI_HOME/workspace.db`.

Documents (endpoints, online stores) as JSON, the buffer of captured payloads, and counters.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from databricks_steps.settings import Settings
from databricks_steps.workspace import metrics

PAYLOAD_COLUMNS = (
    "databricks_request_id",
    "client_request_id",
    "request_time",  # microseconds since 1970, UTC
    "status_code",
    "execution_duration_ms",
    "request",
    "response",
    "served_entity_id",
    "logging_error_codes",  # JSON
    "looked_up_features",  # JSON; null when nothing was looked up
)

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS payloads (
    id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, {", ".join(PAYLOAD_COLUMNS)}
);
CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS followers (
    pid INTEGER, endpoint TEXT, mark TEXT NOT NULL, failure TEXT, PRIMARY KEY (pid, endpoint)
) WITHOUT ROWID;
{metrics.SCHEMA}
"""


def database(settings: Settings) -> Path:
    return settings.home / "workspace.db"


def connect(file: Path) -> sqlite3.Connection:
    """A connection in autocommit mode that waits for other writers; threads may share it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing, holding the database's one write lock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """A buffer of before there were looked-up features gets their column."""
    known = {row[1] for row in connection.execute("PRAGMA table_info(payloads)")}
    for column in PAYLOAD_COLUMNS:
        if column not in known:
            connection.execute(f"ALTER TABLE payloads ADD COLUMN {column}")


class State:
    """The workspace's database. Safe to share between threads."""

    def __init__(self, file: Path) -> None:
        self._connection = connect(file)
        self._lock = threading.RLock()
        self._connection.executescript(_SCHEMA)
        with self._write() as connection:
            _bring_up_to_date(connection)
            if connection.execute("SELECT 1 FROM identity").fetchone() is None:
                connection.execute("INSERT INTO identity VALUES (?)", (uuid.uuid4().hex,))
            self.identity: str = connection.execute("SELECT id FROM identity").fetchone()[0]

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, transaction(self._connection) as connection:
            yield connection

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def put(self, kind: str, name: str, document: dict[str, Any]) -> None:
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
                (kind, name, orjson.dumps(document)),
            )

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.all(kind).get(name)

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Name → document, in order of names."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT name, body FROM documents WHERE kind = ? ORDER BY name", (kind,)
            ).fetchall()
        return {name: orjson.loads(body) for name, body in rows}

    def drop(self, kind: str, name: str) -> bool:
        with self._write() as connection:
            found = connection.execute(
                "DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name)
            )
            return found.rowcount > 0

    def changes(self) -> int:
        """A number that differs when another process has written since the last question."""
        with self._lock:
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def follow(self, pid: int, endpoint: str, mark: str, failure: str | None) -> None:
        """A worker's word on an endpoint: which configuration it serves, or why it does not."""
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO followers VALUES (?, ?, ?, ?)",
                (pid, endpoint, mark, failure),
            )

    def followers(self, endpoint: str) -> dict[int, tuple[str, str | None]]:
        """Worker → the last configuration of an endpoint it tried, and its failure."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT pid, mark, failure FROM followers WHERE endpoint = ?", (endpoint,)
            ).fetchall()
        return {pid: (mark, failure) for pid, mark, failure in rows}

    def forget_followers(self) -> None:
        """Drop the words of workers of before."""
        with self._write() as connection:
            connection.execute("DELETE FROM followers")

    def figures(self, endpoint: str) -> metrics.Figures:
        """The counters of an endpoint."""
        with self._lock:
            return metrics.read(self._connection, endpoint)

    def forget_figures(self, endpoint: str) -> None:
        """Drop the counters of an endpoint that was deleted."""
        with self._write() as connection:
            metrics.forget(connection, endpoint)

    def buffer(
        self, payloads: Sequence[tuple[Any, ...]], tally: metrics.Tally | None = None
    ) -> None:
        """Keep captured payloads, (target table, *PAYLOAD_COLUMNS) each, and what they count."""
        marks = ", ".join("?" * (len(PAYLOAD_COLUMNS) + 1))
        with self._write() as connection:
            connection.executemany(
                f"INSERT INTO payloads (target, {', '.join(PAYLOAD_COLUMNS)}) VALUES ({marks})",
                payloads,
            )
            if tally is not None:
                metrics.write(connection, tally)

    def buffered(self, target: str, limit: int) -> list[tuple[Any, ...]]:
        """The oldest payloads of a table: (id, *PAYLOAD_COLUMNS) each. Ids are never used again."""
        with self._lock:
            return self._connection.execute(
                f"SELECT id, {', '.join(PAYLOAD_COLUMNS)} FROM payloads "
                "WHERE target = ? ORDER BY id LIMIT ?",
                (target, limit),
            ).fetchall()

    def waiting(self) -> int:
        """About how many payloads are buffered."""
        with self._lock:
            first, last = self._connection.execute(
                "SELECT min(id), max(id) FROM payloads"
            ).fetchone()
        return 0 if first is None else int(last - first + 1)

    def targets(self) -> dict[str, int]:
        """Table → payloads waiting for it."""
        with self._lock:
            rows = self._connection.execute("SELECT target, count(*) FROM payloads GROUP BY target")
            return dict(rows.fetchall())

    def forget(self, target: str, until: int) -> None:
        """Drop the payloads of a table that are in it."""
        with self._write() as connection:
            connection.execute("DELETE FROM payloads WHERE target = ? AND id <= ?", (target, until))
