"""Payload capture: answered queries, first into a buffer on disk, then into a Delta table.

The table has the shape of an AI-gateway inference table and one column more, what was looked up.
Each payload gets into it exactly once: the commit carries the id of its last batch, and batches up
to that id leave the buffer.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
from filelock import FileLock

from databricks_steps.errors import ServingError
from databricks_steps.settings import BATCHES, Settings
from taxi_assets.emulator.runtime import served_entities, state
from taxi_assets.emulator.runtime.lookups import FRESH, STATES, Many, One
from taxi_assets.emulator.runtime.metrics import Tally
from taxi_assets.emulator.runtime.predict import Answer, LookedUp
from taxi_assets.emulator.runtime.state import Payload, State

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

_LOG = logging.getLogger(__name__)
# A turn of the buffer holds up answers: Python's threads work one at a time. So it is short.
BUFFER_SECONDS = 0.05
LOOK_SECONDS = 0.25  # between looks for whether a flush is due
FLUSH_SECONDS = 60.0
FLUSH_ROWS = 10_000
FULL = 50_000  # payloads in memory before queries are put off
FULL_BYTES = 64 * 1024 * 1024  # and bytes of them
REQUESTER = "token"
MAX_FEATURES = 1024 * 1024  # bytes of what was looked up for one query
COMPACTED_EVERY = 240  # commits of a payload table: of a file a minute, four hours
# Of a file that is large enough: until then it is written anew each time, and kept for a day.
COMPACTED_BYTES = 16 * 1024 * 1024
# Nobody asks for an old version of a payload table: its log would outgrow its rows.
RETENTION = {
    "delta.logRetentionDuration": "interval 2 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",  # longer than vacuum waits
}
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - `known_at` is New York wall clock


class Taken(NamedTuple):
    """One answered query, as it is queued: the way of a query does no more than make it.

    `table` is the full name of the payload table, None when the endpoint captures nothing; `body`
    is None when it was too large to keep. `at` is in microseconds since 1970.
    """

    endpoint: str
    table: str | None
    answer: Answer
    body: bytes | None
    at: int
    micros: int

    @property
    def size(self) -> int:
        """About the bytes it holds, in bytes."""
        held = len(self.answer.body) + len(self.body or b"")
        if self.answer.rows > 1:  # what is looked up for one row is the online table's own
            for each in self.answer.looked_up:
                if isinstance(each.found, Many):
                    held += each.found.features.nbytes
        return held


def payload(taken: Taken) -> Payload:
    """The row of the payload table, as the buffer keeps it."""
    answer, codes = taken.answer, []
    if taken.body is None:
        codes.append("MAX_REQUEST_SIZE_EXCEEDED")
    features = orjson.dumps(features_of(answer.looked_up), option=orjson.OPT_SERIALIZE_NUMPY)
    if len(features) > MAX_FEATURES:
        codes.append("MAX_FEATURES_SIZE_EXCEEDED")
    kept = answer.looked_up and len(features) <= MAX_FEATURES
    return (
        answer.request_id,
        answer.client_id,
        taken.at,
        answer.status,
        round(taken.micros / 1000),
        None if taken.body is None else taken.body.decode(errors="replace"),
        answer.body.decode(),
        answer.served.entity_id if answer.served else None,
        orjson.dumps(codes).decode(),
        features.decode() if kept else None,
    )


def features_of(looked_up: tuple[LookedUp, ...]) -> dict[str, Any]:
    """What was looked up: feature table → location → `known_at` and features.

    A location without a row is null; one whose row was too old, or of the future, for every row of
    the query that asked for it has null features. In both cases the model was given the defaults.
    """
    return {each.lookup.source: _by_location(each) for each in looked_up}


@lru_cache(maxsize=4096)
def _of_one(
    source: str,
    names: tuple[str, ...],
    location: int,
    known_at: int,
    features: tuple[float, ...] | None,
) -> orjson.Fragment:
    """What one location answers as JSON: the same from one publish of its table to the next."""
    return orjson.Fragment(orjson.dumps({str(location): _row(names, known_at, features)}))


def _by_location(each: LookedUp) -> Any:
    names, found = each.lookup.features, each.found
    if isinstance(found, One):
        features = tuple(found.features) if found.state == FRESH else None
        place = int(each.locations)
        return _of_one(each.lookup.source, names, place, found.known_at or 0, features)
    freshest = np.argsort(found.state, kind="stable")
    locations, first = np.unique(np.asarray(each.locations)[freshest], return_index=True)
    return {
        str(location): _row(
            names,
            int(found.known_at[place]),
            found.features[place].tolist() if found.state[place] == FRESH else None,
        )
        for location, place in zip(locations, freshest[first], strict=True)
    }


def _row(
    names: tuple[str, ...], known_at: int, features: Sequence[float] | None
) -> dict[str, Any] | None:
    if not known_at:
        return None
    return {
        "known_at": (_EPOCH + timedelta(microseconds=known_at)).isoformat(),
        "features": features and dict(zip(names, features, strict=True)),
    }


def count(taken: Taken, tally: Tally) -> None:
    """Add an answered query to the figures of its endpoint."""
    answer, served = taken.answer, taken.answer.served
    names = (served.name, served.entity_name, served.entity_version) if served else ("", "", "")
    tally.add(names, answer.status, answer.rows, taken.micros)
    for each in answer.looked_up:
        for name, rows in _states(each.found):
            tally.looked_up[each.lookup.source, name] += rows
    if answer.status >= 400:
        tally.refuse(taken.at, answer.status, str(orjson.loads(answer.body)["message"]))


def _states(found: One | Many) -> list[tuple[str, int]]:
    """Name of a state and how many rows are in it."""
    if isinstance(found, One):
        return [(STATES[found.state], 1)]
    counts = np.bincount(found.state, minlength=len(STATES)).tolist()
    return [(name, rows) for name, rows in zip(STATES, counts, strict=True) if rows]


class Capture:
    """Takes payloads without making an answer wait, and writes them from a thread of its own."""

    def __init__(self, memory: State, flush: Callable[[], int]) -> None:
        """`flush` moves what is buffered to its tables."""
        self._state = memory
        self._flush = flush
        self._queue: queue.SimpleQueue[Taken] = queue.SimpleQueue()
        self._bytes_in = 0  # written by the way of queries alone
        self._bytes_out = 0  # written under the lock below
        self._buffering = threading.Lock()
        self._wake = threading.Event()
        # A flush takes its time, and what waits for the buffer would be lost in a crash.
        self._threads = [
            threading.Thread(target=work, name="capture", daemon=True)
            for work in (self._keep_buffering, self._keep_flushing)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def put(self, taken: Taken) -> None:
        self._bytes_in += taken.size
        self._queue.put(taken)

    @property
    def full(self) -> bool:
        return self._queue.qsize() >= FULL or self._bytes_in - self._bytes_out >= FULL_BYTES

    def settle(self) -> None:
        """Write what waits in this process to the buffer and the counters."""
        self._attempt(self._buffer)

    def flush(self) -> int:
        """Write everything captured so far to the tables; answers how many payloads."""
        self._buffer()
        return self._flush()

    def stop(self) -> None:
        """End the threads and flush; what cannot be written is kept for the next start."""
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=FLUSH_SECONDS)
        self._attempt(self._buffer)
        self._attempt(self._flush_waiting)

    def _keep_buffering(self) -> None:
        while not self._wake.wait(BUFFER_SECONDS):
            self._attempt(self._buffer)

    def _keep_flushing(self) -> None:
        self._due = time.monotonic() + FLUSH_SECONDS
        while not self._wake.wait(LOOK_SECONDS):
            self._attempt(self._flush_when_due)

    def _flush_waiting(self) -> int:
        """No helper is started where nothing waits."""
        return self._flush() if self._state.waiting() else 0

    def _flush_when_due(self) -> int:
        waiting = self._state.waiting()
        if waiting and waiting < FLUSH_ROWS and time.monotonic() < self._due:
            return 0
        self._due = time.monotonic() + FLUSH_SECONDS
        return self._flush() if waiting else 0

    def _attempt(self, work: Any) -> int:
        """Payloads stay queued or buffered when a disk is full; the server answers on."""
        try:
            return int(work())
        except Exception:
            _LOG.exception("captured payloads could not be written; they are kept")
            return 0

    def _buffer(self) -> int:
        with self._buffering:
            waiting = [self._queue.get() for _ in range(self._queue.qsize())]
            try:
                by_table: defaultdict[str, list[Payload]] = defaultdict(list)
                tallies: defaultdict[str, Tally] = defaultdict(Tally)
                for taken in waiting:
                    count(taken, tallies[taken.endpoint])
                    if taken.table is not None:
                        by_table[taken.table].append(payload(taken))
                if waiting:
                    self._state.buffer(by_table, tallies)
            except Exception:
                for taken in waiting:
                    self._queue.put(taken)
                raise
            self._bytes_out += sum(taken.size for taken in waiting)
            return len(waiting)


def flush(settings: Settings, memory: State | None = None) -> int:
    """Move the buffered payloads into their tables, exactly once; answers how many.

    Safe in any process and at any time: one flush runs at a time, and one that died after its
    commit is recognised by the commit.

    Raises:
        ServingError: a table cannot be written; the payloads of all others are moved.
    """
    owned = memory is None
    memory = memory or State(state.database(settings))
    try:
        with FileLock(settings.home / "capture.lock"):
            _name_entities(settings, memory)
            done = [_move(settings, memory, target) for target in memory.targets()]
    finally:
        if owned:
            memory.close()
    for _, failure in done:
        if failure is not None:
            raise failure
    return sum(moved for moved, _ in done)


def _name_entities(settings: Settings, memory: State) -> None:
    """Payloads do not wait for the table that names their versions: it is tried again."""
    try:
        served_entities.write(settings, memory)
    except Exception:
        _LOG.exception("the table of served entities could not be written")


def _move(settings: Settings, memory: State, target: str) -> tuple[int, Exception | None]:
    """Move the payloads of one table; a failure is told, not raised: others do not wait for it."""
    moved = 0
    try:
        before = _forget_committed(settings, memory, target)
        last, rows = memory.buffered(target, FLUSH_ROWS)
        while rows:
            _append(settings, memory, target, last, rows)
            memory.forget(target, last)
            moved += len(rows)
            last, rows = memory.buffered(target, FLUSH_ROWS)
    except Exception as error:
        return moved, error
    if moved:
        _compact_when_due(settings, target, before)
    return moved, None


def _application(memory: State) -> str:
    """Names this buffer in the table's log: ids count from 1 again in a new one."""
    return BATCHES + memory.identity


def _forget_committed(settings: Settings, memory: State, target: str) -> int:
    """Forget what a flush committed that died before it could; the table's version, from 0."""
    from deltalake import DeltaTable

    path = str(settings.table_path(target))
    if not DeltaTable.is_deltatable(path):
        return 0
    table = DeltaTable(path)
    committed = table.transaction_version(_application(memory))
    if committed is not None:
        memory.forget(target, committed)
    return int(table.version())


def _compact_when_due(settings: Settings, target: str, before: int) -> None:
    """After so many commits, one file of the small ones; a failure waits for the next time."""
    from deltalake import DeltaTable

    try:
        table = DeltaTable(str(settings.table_path(target)))
        if table.version() // COMPACTED_EVERY > before // COMPACTED_EVERY:
            compact(table)
    except Exception:
        _LOG.exception("the files of %s could not be made fewer", target)


def compact(table: DeltaTable) -> None:
    """Make one file of a payload table's small ones; vacuum removes those when they are old."""
    from deltalake import WriterProperties

    if not RETENTION.items() <= table.metadata().configuration.items():
        table.alter.set_table_properties(RETENTION)
    properties = WriterProperties(compression="ZSTD")
    table.optimize.compact(target_size=COMPACTED_BYTES, writer_properties=properties)


def _append(settings: Settings, memory: State, target: str, last: int, rows: list[Payload]) -> None:
    from deltalake import CommitProperties, Transaction, write_deltalake

    path = settings.table_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_deltalake(
            str(path),
            _table(rows),
            mode="append",
            schema_mode="merge",  # a table of before there were looked-up features
            name=target.rsplit(".", 1)[1],
            description="Requests to the serving endpoint and their answers, as captured",
            configuration=RETENTION,
            commit_properties=CommitProperties(
                app_transactions=[Transaction(_application(memory), last)]
            ),
        )
    except Exception as error:
        raise ServingError(
            "Captured payloads must reach their table",
            f"{target}: {error}",
            "They are kept and tried again; look at the table's folder",
        ) from error


def _table(rows: list[Payload]) -> pa.Table:
    import pyarrow as pa

    named = dict(zip(state.PAYLOAD_COLUMNS, zip(*rows, strict=True), strict=True))
    stamp, text = pa.timestamp("us", "UTC"), pa.string()
    at = pa.array(named["request_time"], pa.int64()).cast(stamp)
    codes = {written: orjson.loads(written) for written in {*named["logging_error_codes"]}}
    logged = [codes[written] for written in named["logging_error_codes"]]
    return pa.table(
        {
            "databricks_request_id": pa.array(named["databricks_request_id"], text),
            "client_request_id": pa.array(named["client_request_id"], text),
            "request_date": at.cast(pa.date32()),
            "request_time": at,
            "status_code": pa.array(named["status_code"], pa.int32()),
            "sampling_fraction": pa.array([1.0] * len(rows), pa.float64()),
            "execution_duration_ms": pa.array(named["execution_duration_ms"], pa.int64()),
            "request": pa.array(named["request"], text),
            "response": pa.array(named["response"], text),
            "served_entity_id": pa.array(named["served_entity_id"], text),
            "logging_error_codes": pa.array(logged, pa.list_(text)),
            "requester": pa.array([REQUESTER] * len(rows), text),
            "looked_up_features": pa.array(named["looked_up_features"], text),
        }
    )
