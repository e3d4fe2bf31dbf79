"""What the commits of a table say: what months were made from, which were written, the sources.

Each write leaves a note in its commit, as Delta's `userMetadata`; DESCRIBE HISTORY tells the notes
and, by their absence, what others changed. A change without a note makes the months it may have
touched count as unknown, so they are computed again; upkeep changes no rows and does not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOG = logging.getLogger(__name__)
OPTION = "userMetadata"  # of a writer
CONF = "spark.databricks.delta.commitInfo.userMetadata"  # of a session, for statements
NOTE = "taxi"
OLD = "old"
# Operations that change no rows. An operation that is not named here counts as a change of any
# month. So does FSCK: it commits only when it gave up files that are gone, with their rows.
UPKEEP = frozenset(
    {
        "ADD COLUMNS",
        "ADD CONSTRAINT",
        "ADD FEATURE",
        "ANALYZE",
        "ANALYZE TABLE",
        "CHANGE COLUMN",
        "CHANGE COLUMNS",
        "CLUSTER BY",
        "COMPUTE STATS",
        "CREATE TABLE",
        "DROP CONSTRAINT",
        "DROP FEATURE",
        "Empty Commit",
        "OPTIMIZE",
        "REORG",
        "REORG TABLE UPGRADE UNIFORM",
        "SET TAGS",
        "SET TBLPROPERTIES",
        "UNSET TAGS",
        "UNSET TBLPROPERTIES",
        "UPGRADE PROTOCOL",
        "VACUUM END",
        "VACUUM START",
    }
)


@dataclass(frozen=True)
class Note:
    """What a write says of itself: the `months` it touched, None for any, () for no rows at all."""

    months: tuple[str, ...] | None = None
    made_from: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        months = None if self.months is None else sorted(self.months)
        said = {"months": months, "made_from": dict(self.made_from), "sources": dict(self.sources)}
        return json.dumps({NOTE: said})

    @classmethod
    def of(cls, text: str | None) -> Note | None:
        """The note in a commit's metadata; None when there is none, or others wrote it."""
        try:
            said = json.loads(text or "null")[NOTE]
            months = None if said["months"] is None else tuple(said["months"])
            return cls(months, dict(said["made_from"]), dict(said["sources"]))
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True)
class Entry:
    """One commit. `at` is its time in milliseconds, `metrics` what it counted."""

    version: int
    at: int
    operation: str
    note: Note | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)

    def touches(self, month: str) -> bool:
        """Whether it may have changed rows of the month; of any for the empty month."""
        if self.operation in UPKEEP:
            return False
        if self.note is None or self.note.months is None:
            return True
        return month in self.note.months if month else bool(self.note.months)


@dataclass(frozen=True)
class History:
    """The commits that the log still holds, the newest first."""

    entries: tuple[Entry, ...]

    @property
    def newest(self) -> Entry:
        return self.entries[0]

    def made_from(self, month: str) -> int | None:
        """The digest the month was last written with; None when it was changed since without."""
        for entry in self.entries:
            if entry.note is not None and month in entry.note.made_from:
                return entry.note.made_from[month]
            if entry.touches(month):
                return None
        return None

    def remembers(self, made_from: Mapping[str, int]) -> bool:
        return all(self.made_from(month) == digest for month, digest in made_from.items())

    def sources(self) -> dict[str, int]:
        for entry in self.entries:
            if entry.note is not None and entry.note.sources:
                return dict(entry.note.sources)
        return {}

    def contents(self, months: Sequence[str] | None) -> str:
        """For each month (or the table), which commit last may have changed its rows."""
        chosen = [""] if months is None else sorted(months)
        return " ".join(f"{month}={self._changed(month)}" for month in chosen)

    def _changed(self, month: str) -> str:
        """The commit's time as well: a table made anew counts its versions from 0 again.

        Two changes that both left the log look the same; so did the digests of what was made from
        them, which are kept in logs no longer than this one.
        """
        for entry in self.entries:
            if entry.touches(month):
                return f"{entry.version}@{entry.at}"
        return OLD


def digests_of(made_from: Mapping[str, int] | None, months: Sequence[str]) -> dict[str, int]:
    """The digests of these months; all of them for the empty month."""
    every = "" in months
    return {m: digest for m, digest in (made_from or {}).items() if every or m in months}


def read(spark: SparkSession, table: str, limit: int | None = None) -> History:
    """The history of a table (its name, quoted), of its newest commits alone with `limit`."""
    from pyspark.sql import functions as F

    statement = f"DESCRIBE HISTORY {table}" + (f" LIMIT {limit}" if limit else "")
    at = F.unix_millis("timestamp").alias("at")
    rows = spark.sql(statement).select("version", at, "operation", OPTION, "operationMetrics")
    entries = [
        Entry(version, at, operation, Note.of(note), metrics or {})
        for version, at, operation, note, metrics in rows.collect()
    ]
    return History(tuple(sorted(entries, key=lambda entry: -entry.version)))


@contextmanager
def noted(spark: SparkSession, note: Note) -> Iterator[bool]:
    """Statements inside commit with the note; False where the session may not be told to.

    Serverless compute refuses most settings of a session.
    """
    from pyspark.errors import PySparkException

    try:
        before = spark.conf.get(CONF, None)
        spark.conf.set(CONF, note.text())
    except PySparkException as error:
        LOG.warning("%s cannot be set here: %s", CONF, error)
        yield False
        return
    try:
        yield True
    finally:
        if before is None:
            spark.conf.unset(CONF)
        else:
            spark.conf.set(CONF, before)
