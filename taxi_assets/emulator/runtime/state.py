"""What the emulator remembers besides feature values: `TAXI_HOME/workspace.db`.

Documents (endpoints, online stores) as JSON, the buffer of captured payloads, and counters.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from databricks_steps.settings import Settings
from taxi_assets.emulator.runtime import metrics

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

BUFFERED_BYTES = 64 * 1024 * 1024
Payload = tuple[Any, ...]  # one value for each of PAYLOAD_COLUMNS

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS payload_batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, count INTEGER NOT NULL,
    payloads BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL);
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


class State:
    """The workspace's database. Safe to share between threads."""

    def __init__(self, file: Path) -> None:
        self._connection = connect(file)
        self._lock = threading.RLock()
        self._connection.executescript(_SCHEMA)
        with self._write() as connection:
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
            self._put(connection, kind, name, document)

    def _put(
        self, connection: sqlite3.Connection, kind: str, name: str, document: dict[str, Any]
    ) -> None:
        row = (kind, name, orjson.dumps(document))
        connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", row)

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

    def buffer(
        self,
        payloads: Mapping[str, Sequence[Payload]],
        answers: Mapping[str, metrics.Tally] | None = None,
    ) -> None:
        """Keep captured payloads by their target table, and what they count, by endpoint.

        One row for all of them: thousands a second would keep the lock from everybody else.
        """
        with self._write() as connection:
            connection.executemany(
                "INSERT INTO payload_batches (target, count, payloads) VALUES (?, ?, ?)",
                [(name, len(rows), orjson.dumps(rows)) for name, rows in payloads.items() if rows],
            )
            for endpoint, tally in (answers or {}).items():
                figures = metrics.count(self.get(metrics.KIND, endpoint), tally)
                self._put(connection, metrics.KIND, endpoint, figures)

    def buffered(self, target: str, limit: int) -> tuple[int, list[Payload]]:
        """The oldest payloads of a table, whole batches up to a limit, and the last one's id.

        The limit is about `limit` payloads or `BUFFERED_BYTES`, whichever comes first.

        Ids ascend and are never used again; without a batch the id is 0.
        """
        last, size, rows = 0, 0, []
        with self._lock:
            batches = self._connection.execute(
                "SELECT id, payloads FROM payload_batches WHERE target = ? ORDER BY id", (target,)
            )
            for number, batch in batches:
                last = number
                rows += [tuple(row) for row in orjson.loads(batch)]
                size += len(batch)
                if len(rows) >= limit or size >= BUFFERED_BYTES:
                    break
        return last, rows

    def waiting(self) -> int:
        """How many payloads are buffered."""
        with self._lock:
            found = self._connection.execute("SELECT sum(count) FROM payload_batches").fetchone()
        return int(found[0] or 0)

    def targets(self) -> dict[str, int]:
        """Table → payloads waiting for it."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT target, sum(count) FROM payload_batches GROUP BY target"
            )
            return dict(rows.fetchall())

    def forget(self, target: str, until: int) -> None:
        """Drop the batches of a table that are in it."""
        with self._write() as connection:
            connection.execute(
                "DELETE FROM payload_batches WHERE target = ? AND id <= ?", (target, until)
            )
