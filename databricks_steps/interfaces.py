"""What a step may ask of its platform (tables, features, Spark), and what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from databricks_steps import schemas
from databricks_steps.errors import TableError
from databricks_steps.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from sklearn.pipeline import Pipeline

    from databricks_steps.features.lookups import Lookup


Action = Literal["created", "replaced", "appended", "merged", "unchanged"]
Severity = Literal["warn", "error"]


@dataclass(frozen=True)
class Commit:
    """What one write did. `version` is the table's version afterwards."""

    table: str
    action: Action
    version: int
    rows: int


@dataclass(frozen=True)
class Verdict:
    """The answer of one check: `reason` is the sentence people read, `figures` its numbers.

    A check that failed with severity `warn` never blocks.
    """

    check: str
    passed: bool
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    severity: Severity = "error"


@dataclass(frozen=True)
class Outcome:
    """What a step made of a table (or model): how many rows, by which commit, the verdicts.

    `pictures` is month, or "" for all → caption → SVG text.
    """

    name: str
    rows: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    commit: Commit | None = None
    verdicts: tuple[Verdict, ...] = ()
    pictures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values; what JSON has no word for is text."""
        commit = asdict(self.commit) if self.commit else None
        verdicts = [vars(each) | {"figures": dict(each.figures)} for each in self.verdicts]
        told = {**vars(self), "figures": dict(self.figures), "commit": commit, "verdicts": verdicts}
        plain: dict[str, Any] = json.loads(json.dumps(told, default=str))
        return plain

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Outcome:
        commit = Commit(**told["commit"]) if told["commit"] else None
        verdicts = tuple(Verdict(**each) for each in told["verdicts"])
        plain = {name: told[name] for name in ("name", "rows", "figures", "pictures")}
        return cls(**plain, commit=commit, verdicts=verdicts)


def described(name: str) -> schemas.Table:
    """The table of that name.

    Raises:
        TableError: `schemas.py` describes none.
    """
    if name not in schemas.TABLES:
        raise TableError(
            "A table must be described in schemas.py", repr(name), "Add it there, or fix the name"
        )
    return schemas.TABLES[name]


def require_a_month(table: schemas.Table, months: Sequence[str] | None) -> None:
    """Refuse a write that names no month at all: it is nothing, or everything, to no one's wish.

    Raises:
        TableError: `months` is empty.
    """
    if months is not None and not months:
        raise TableError(
            f"A write to {table.name} must name a month, or none for the whole table",
            "no months",
            "Skip the write where there is nothing to do",
        )


class TableLog(Protocol):
    """What of the tables of `schemas.TABLES` can be had without Spark."""

    def exists(self, name: str) -> bool: ...

    def months(self, name: str) -> list[str]:
        """Months that hold rows, ascending."""
        ...

    def rows(self, name: str, months: Sequence[str] | None = None) -> int: ...

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Commit:
        """Append a few rows (column → value) of an uncut table in one commit."""
        ...

    def records(self, name: str, months: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of a small table, column → value; none when it is missing."""
        ...


class Tables(TableLog, Protocol):
    """Named tables of `schemas.TABLES`. Each write is one atomic commit, and safe to repeat."""

    def read(
        self, name: str, months: Sequence[str] | None = None, version: int | None = None
    ) -> DataFrame:
        """The rows, of some months or all; an empty frame when the table does not exist yet."""
        ...

    def version(self, name: str) -> int | None:
        """The current version; None when the table does not exist."""
        ...

    def uri(self, name: str) -> str: ...

    def replace(
        self,
        name: str,
        frame: DataFrame,
        months: Sequence[str] | None = None,
        made_from: Mapping[str, int] | None = None,
        sources: Mapping[str, int] | None = None,
    ) -> Commit:
        """Replace these months (or the whole table) by the frame, which may be empty.

        `made_from` (month, or "" for all → digest of the inputs) and `sources` (table → the
        version it was read at) are kept in the same commit.
        """
        ...

    def merge(
        self,
        name: str,
        frame: DataFrame,
        months: Sequence[str] | None = None,
        made_from: Mapping[str, int] | None = None,
    ) -> Commit:
        """Upsert by primary key; with `months`, rows of those months not in the frame go.

        Rows that differ in nothing but their `computed` columns are left as they are.
        """
        ...

    def amend(
        self, name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
    ) -> Commit | None:
        """Replace a small uncut table's rows by what `change` makes of them, without Spark.

        None where they stay as they are: nothing is committed then.
        """
        ...

    def foreign(self, name: str) -> DataFrame | None:
        """A table that others write, with whatever columns they gave it; None when it is missing.

        `name` may be one of the settings' schema, or a full one.
        """
        ...

    def foreign_contents(self, name: str, without: tuple[str, str] = ("", "")) -> str | None:
        """A text that changes whenever rows of a table of others are written; None without it.

        Rows whose column `without[0]` begins with `without[1]` may come without changing it,
        where the table's log tells them apart.
        """
        ...

    def contents(self, name: str, months: Sequence[str] | None = None) -> str:
        """A text that changes whenever rows of these months are written."""
        ...

    def made_from(self, name: str, month: str = "") -> int | None:
        """The digest of the inputs that the month was last written with."""
        ...

    def sources(self, name: str) -> dict[str, int]:
        """Table → version, as the newest write that named its sources read them."""
        ...


class FeatureStore(Protocol):
    """Point-in-time lookups, and models that are logged with theirs."""

    def look_up(
        self,
        trips: DataFrame,
        lookups: Sequence[Lookup],
        months: Sequence[str] | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> DataFrame:
        """The trips with every feature of the lookups, and its age, as known at the pickup.

        `months` are the months the trips were picked up in: they bound what is read. `versions`
        (table → version) asks the feature tables as they were then; default: as they are now.
        """
        ...

    def log_model(
        self,
        pipeline: Pipeline,
        lookups: Sequence[Lookup],
        training_set: DataFrame,
        arguments: Mapping[str, Any],
    ) -> str:
        """Log a pipeline with its lookups to the active MLflow run, and register it.

        `training_set` holds rows of `schemas.TRAINING_SET`; `arguments` are those of MLflow's
        scikit-learn flavor. Gives the number of the new version.
        """
        ...


class Platform(Protocol):
    """Where a step runs. The session starts when it is first asked for."""

    @property
    def settings(self) -> Settings: ...

    @property
    def tables(self) -> Tables: ...

    @property
    def features(self) -> FeatureStore: ...

    @property
    def spark(self) -> SparkSession: ...

    def user(self) -> str:
        """Whom a step acts for: what the ledger names."""
        ...

    def at_work(self) -> AbstractContextManager[None]:
        """What a step runs inside of: it says in people's words what the engine runs out of."""
        ...

    def with_settings(self, settings: Settings) -> Platform:
        """The same tables and session under other settings."""
        ...

    def tracked_run(self) -> AbstractContextManager[str]:
        """An MLflow run to log to; gives its id, and ends it as finished or failed."""
        ...
