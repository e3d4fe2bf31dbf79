"""What an endpoint has answered: counts, times and lookups, kept in the workspace's database.

Every process of the workspace adds what it answered four times a second, away from the way of a
query; whoever asks reads the sum. Counters outlive a restart.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    endpoint TEXT, served TEXT, entity TEXT, version TEXT, code INTEGER, bucket INTEGER,
    count INTEGER NOT NULL, rows INTEGER NOT NULL, micros INTEGER NOT NULL,
    PRIMARY KEY (endpoint, served, entity, version, code, bucket)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS looked_up (
    endpoint TEXT, source TEXT, state TEXT, count INTEGER NOT NULL,
    PRIMARY KEY (endpoint, source, state)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, at INTEGER NOT NULL,
    code INTEGER NOT NULL, message TEXT NOT NULL
);
"""
BOUNDS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 500, 1000, 5000)  # upper, of the buckets
REFUSALS_KEPT = 50  # of each endpoint
MESSAGE = 300


class Key(NamedTuple):
    """What answers are counted by; the three names are empty when no model was reached."""

    endpoint: str
    served: str
    entity: str
    version: str
    code: int
    bucket: int


class Refusal(NamedTuple):
    """A query that was refused; `at` in microseconds since 1970."""

    endpoint: str
    at: int
    code: int
    message: str


def bucket(micros: int) -> int:
    """The place of a duration among the buckets; the last one is for all longer ones."""
    return bisect_left(BOUNDS_MS, micros / 1000)


class Tally:
    """What was answered since the last time it was written."""

    def __init__(self) -> None:
        self.answers: dict[Key, list[int]] = {}
        self.looked_up: Counter[tuple[str, str, str]] = Counter()
        self.refusals: list[Refusal] = []

    def add(self, key: Key, rows: int, micros: int) -> None:
        counted = self.answers.setdefault(key, [0, 0, 0])
        counted[0] += 1
        counted[1] += rows
        counted[2] += micros


def write(connection: sqlite3.Connection, tally: Tally) -> None:
    """Add a tally to the counters, within the caller's transaction."""
    connection.executemany(
        "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "count = count + excluded.count, rows = rows + excluded.rows, "
        "micros = micros + excluded.micros",
        [(*key, *counted) for key, counted in tally.answers.items()],
    )
    connection.executemany(
        "INSERT INTO looked_up VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "count = count + excluded.count",
        [(*key, count) for key, count in tally.looked_up.items()],
    )
    kept = tally.refusals[-REFUSALS_KEPT:]
    connection.executemany(
        "INSERT INTO refusals (endpoint, at, code, message) VALUES (?, ?, ?, ?)",
        [refusal._replace(message=refusal.message[:MESSAGE]) for refusal in kept],
    )
    for endpoint in {refusal.endpoint for refusal in kept}:
        connection.execute(
            "DELETE FROM refusals WHERE endpoint = ? AND id <= (SELECT id FROM refusals "
            "WHERE endpoint = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (endpoint, endpoint, REFUSALS_KEPT),
        )


def forget(connection: sqlite3.Connection, endpoint: str) -> None:
    """Drop the counters of an endpoint that was deleted."""
    for table in ("answers", "looked_up", "refusals"):
        connection.execute(f"DELETE FROM {table} WHERE endpoint = ?", (endpoint,))


@dataclass(frozen=True)
class Answered:
    """The counters of one served model: answers by status, rows, and the times of all answers."""

    served: str
    entity: str
    version: str
    codes: Mapping[int, int]
    rows: int
    buckets: tuple[int, ...]  # one for each bound, and the last for all longer ones
    micros: int

    @property
    def count(self) -> int:
        return sum(self.codes.values())

    def errors(self, hundreds: int) -> int:
        """Answers with a status of 400 to 499, or of 500 to 599."""
        return sum(n for code, n in self.codes.items() if code // 100 == hundreds)


@dataclass(frozen=True)
class Figures:
    """All counters of one endpoint."""

    endpoint: str
    answered: tuple[Answered, ...]
    looked_up: Mapping[tuple[str, str], int]  # (feature table, state) → rows
    refusals: tuple[Refusal, ...]  # the newest first


def read(connection: sqlite3.Connection, endpoint: str) -> Figures:
    """The counters of an endpoint as of the last write of every process."""
    rows = connection.execute(
        "SELECT served, entity, version, code, bucket, count, rows, micros FROM answers "
        "WHERE endpoint = ? ORDER BY served, entity, version, code, bucket",
        (endpoint,),
    ).fetchall()
    by_model: dict[tuple[str, str, str], list[Any]] = {}
    for row in rows:
        by_model.setdefault(row[:3], []).append(row[3:])
    looked_up = connection.execute(
        "SELECT source, state, count FROM looked_up WHERE endpoint = ? ORDER BY source, state",
        (endpoint,),
    ).fetchall()
    refusals = connection.execute(
        "SELECT endpoint, at, code, message FROM refusals WHERE endpoint = ? ORDER BY id DESC",
        (endpoint,),
    ).fetchall()
    return Figures(
        endpoint,
        tuple(_answered(names, counted) for names, counted in by_model.items()),
        {(source, state): count for source, state, count in looked_up},
        tuple(Refusal(*row) for row in refusals),
    )


def _answered(names: tuple[str, str, str], counted: Iterable[tuple[int, ...]]) -> Answered:
    codes: Counter[int] = Counter()
    buckets = [0] * (len(BOUNDS_MS) + 1)
    rows = micros = 0
    for code, place, count, asked, took in counted:
        codes[code] += count
        buckets[place] += count
        rows += asked
        micros += took
    return Answered(*names, dict(codes), rows, tuple(buckets), micros)


def prometheus(figures: Figures) -> str:
    """The figures in Prometheus' text form, under the names that Databricks exports."""
    from prometheus_client import generate_latest
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    by = ["endpoint_name", "served_model_name", "entity_name", "entity_version"]
    requests = CounterMetricFamily("request_count", "Queries answered", labels=by)
    refused = CounterMetricFamily("request_4xx_count", "Queries refused", labels=by)
    failed = CounterMetricFamily("request_5xx_count", "Queries failed", labels=by)
    rows = CounterMetricFamily("prediction_count", "Rows predicted", labels=by)
    times = HistogramMetricFamily(
        "request_latency_ms", "Time from the request's head to its answer", labels=by
    )
    for each in figures.answered:
        labels = [figures.endpoint, each.served, each.entity, each.version]
        requests.add_metric(labels, each.count)
        refused.add_metric(labels, each.errors(4))
        failed.add_metric(labels, each.errors(5))
        rows.add_metric(labels, each.rows)
        times.add_metric(labels, _cumulative(each.buckets), each.micros / 1000)
    lookups = CounterMetricFamily(
        "feature_lookup_count",
        "Looked-up rows by state: fresh, or stale or unknown, where the defaults answered",
        labels=["endpoint_name", "table", "state"],
    )
    for (source, state), count in figures.looked_up.items():
        lookups.add_metric([figures.endpoint, source, state], count)
    return generate_latest(_Fixed([requests, refused, failed, rows, times, lookups])).decode()


def _cumulative(buckets: tuple[int, ...]) -> list[tuple[str, float]]:
    names = [*(f"{bound:g}" for bound in BOUNDS_MS), "+Inf"]
    total, summed = 0, []
    for name, count in zip(names, buckets, strict=True):
        total += count
        summed.append((name, float(total)))
    return summed


class _Fixed:
    """A registry, as `generate_latest` wants one, of families that are already made."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families
