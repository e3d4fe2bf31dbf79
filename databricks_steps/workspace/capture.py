"""Payload capture: answered invocations, first into a buffer on disk, then into a Delta table.

The table has the shape of an AI-gateway inference table. Each payload gets into it exactly once:
the commit carries the id of its last payload, and payloads up to that id leave the buffer.
"""

from __future__ import annotations

import fcntl
import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import orjson

from databricks_steps.errors import ServingError
from databricks_steps.settings import Settings
from databricks_steps.workspace import state
from databricks_steps.workspace.state import State

if TYPE_CHECKING:
    import pyarrow as pa

_LOG = logging.getLogger(__name__)
BUFFER_SECONDS = 0.5
FLUSH_SECONDS = 60.0
FLUSH_ROWS = 10_000
FULL = 50_000  # payloads in memory before requests are put off
REQUESTER = "token"

Payload = tuple[Any, ...]  # (target table, *state.PAYLOAD_COLUMNS)


class Capture:
    """Takes payloads without making an answer wait, and writes them from a thread of its own."""

    def __init__(self, settings: Settings, memory: State) -> None:
        self._settings = settings
        self._state = memory
        self._queue: queue.SimpleQueue[Payload | None] = queue.SimpleQueue()
        self._buffering = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._wake = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def put(self, payload: Payload) -> None:
        self._queue.put(payload)

    @property
    def full(self) -> bool:
        return self._queue.qsize() >= FULL

    def flush(self) -> int:
        """Write everything captured so far to the tables; answers how many payloads."""
        self._buffer()
        return flush(self._settings, self._state)

    def stop(self) -> None:
        """End the thread and flush; what cannot be written is kept for the next start."""
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=FLUSH_SECONDS)
        self._attempt(self._buffer)
        self._attempt(lambda: flush(self._settings, self._state))

    def _run(self) -> None:
        due = time.monotonic() + FLUSH_SECONDS
        waiting = 0
        while not self._wake.wait(BUFFER_SECONDS):
            waiting += self._attempt(self._buffer)
            if waiting >= FLUSH_ROWS or (waiting and time.monotonic() >= due):
                self._attempt(lambda: flush(self._settings, self._state))
                waiting = 0
            if not waiting:
                due = time.monotonic() + FLUSH_SECONDS

    def _attempt(self, work: Any) -> int:
        """Payloads stay queued or buffered when a disk is full; the server answers on."""
        try:
            return int(work())
        except Exception:
            _LOG.exception("captured payloads could not be written; they are kept")
            return 0

    def _buffer(self) -> int:
        with self._buffering:
            payloads: list[Payload] = []
            while not self._queue.empty():
                payload = self._queue.get()
                if payload is not None:
                    payloads.append(payload)
            if payloads:
                try:
                    self._state.buffer(payloads)
                except Exception:
                    for payload in payloads:
                        self._queue.put(payload)
                    raise
            return len(payloads)


def flush(settings: Settings, memory: State | None = None) -> int:
    """Move the buffered payloads into their tables, exactly once; answers how many.

    Safe in any process and at any time: one flush runs at a time, and one that died after its
    commit is recognised by the commit.
    """
    owned = memory is None
    memory = memory or State(state.database(settings))
    moved = 0
    try:
        with _alone(settings):
            for target in memory.targets():
                _forget_committed(settings, memory, target)
                while rows := memory.buffered(target, FLUSH_ROWS):
                    _append(settings, memory, target, rows)
                    memory.forget(target, rows[-1][0])
                    moved += len(rows)
    finally:
        if owned:
            memory.close()
    return moved


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    with (settings.home / "capture.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _application(memory: State) -> str:
    """Names this buffer in the table's log: ids count from 1 again in a new one."""
    return f"taxi-workspace-payloads-{memory.identity}"


def _forget_committed(settings: Settings, memory: State, target: str) -> None:
    from deltalake import DeltaTable

    path = str(settings.table_path(target))
    if DeltaTable.is_deltatable(path):
        committed = DeltaTable(path).transaction_version(_application(memory))
        if committed is not None:
            memory.forget(target, committed)


def _append(settings: Settings, memory: State, target: str, rows: list[tuple[Any, ...]]) -> None:
    from deltalake import CommitProperties, Transaction, write_deltalake

    path = settings.table_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_deltalake(
            str(path),
            _table(rows),
            mode="append",
            name=target.rsplit(".", 1)[1],
            description="Requests to the serving endpoint and their answers, as captured",
            commit_properties=CommitProperties(
                app_transactions=[Transaction(_application(memory), rows[-1][0])]
            ),
        )
    except Exception as error:
        raise ServingError(
            "Captured payloads must reach their table",
            f"{target}: {error}",
            "They are kept and tried again; look at the table's folder",
        ) from error


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    import pyarrow as pa

    _, request_ids, client_ids, times, codes, durations, requests, responses, served, logged = zip(
        *rows, strict=True
    )
    at = [datetime.fromtimestamp(micros / 1e6, timezone.utc) for micros in times]
    stamp = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "databricks_request_id": pa.array(request_ids, pa.string()),
            "client_request_id": pa.array(client_ids, pa.string()),
            "request_date": pa.array([moment.date() for moment in at], pa.date32()),
            "request_time": pa.array(times, pa.int64()).cast(stamp),
            "status_code": pa.array(codes, pa.int32()),
            "sampling_fraction": pa.array([1.0] * len(rows), pa.float64()),
            "execution_duration_ms": pa.array(durations, pa.int64()),
            "request": pa.array(requests, pa.string()),
            "response": pa.array(responses, pa.string()),
            "served_entity_id": pa.array(served, pa.string()),
            "logging_error_codes": pa.array(
                [orjson.loads(codes) for codes in logged], pa.list_(pa.string())
            ),
            "requester": pa.array([REQUESTER] * len(rows), pa.string()),
        }
    )
