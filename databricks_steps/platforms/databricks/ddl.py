"""SQL as text, written from `schemas.py`: tables made with their keys, conditions, the merge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from databricks_steps import schemas
from databricks_steps.errors import TableError

RETENTION = "interval 365 days"
TYPES: Mapping[str, str] = {
    "string": "STRING",
    "int": "INT",
    "long": "BIGINT",
    "double": "DOUBLE",
    "timestamp": "TIMESTAMP",
    "boolean": "BOOLEAN",
    "array<string>": "ARRAY<STRING>",
}
EVERYTHING, NOTHING = "true", "false"
GONE = "is_gone"  # column of a merge's changes: the row is to be deleted
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True)
class Dialect:
    """What a catalog understands: `constraints` are Unity Catalog's primary keys and tags."""

    constraints: bool = True


UNITY_CATALOG = Dialect()
SESSION_CATALOG = Dialect(constraints=False)  # Spark's own, which knows neither


def of_catalog(name: str) -> Dialect:
    """What the catalog of that name understands."""
    return SESSION_CATALOG if name == "spark_catalog" else UNITY_CATALOG


def quoted(full_name: str) -> str:
    """`p03.e2e_demo_simon.trips` with each of its parts in backticks."""
    return ".".join(f"`{part.replace('`', '``')}`" for part in full_name.split("."))


def text(value: str) -> str:
    """A string literal; Spark joins 'a''b' to ab, so quotes are escaped by a backslash."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def create(table: schemas.Table, full_name: str, dialect: Dialect = UNITY_CATALOG) -> str:
    """The statement that makes the table where there is none."""
    lines = [_column(column) for column in table.columns]
    if dialect.constraints and table.primary_key:
        lines.append(_primary_key(table))
    body = ",\n  ".join(lines)
    parts = [
        f"CREATE TABLE IF NOT EXISTS {quoted(full_name)} (\n  {body}\n)",
        "USING DELTA",
        *([f"PARTITIONED BY ({table.month})"] if table.month else []),
        f"COMMENT {text(table.comment)}",
        f"TBLPROPERTIES ({_pairs(properties(table))})",
    ]
    return "\n".join(parts)


def add_columns(full_name: str, columns: Sequence[schemas.Column]) -> str:
    """The statement that adds columns, null in the rows at hand."""
    lines = ", ".join(_column(replace(column, nullable=True)) for column in columns)
    return f"ALTER TABLE {quoted(full_name)} ADD COLUMNS ({lines})"


def properties(table: schemas.Table) -> dict[str, str]:
    """Versions are kept for a year: models are reproduced from those they were trained on.

    The log alone would not do, nor would the files: upkeep that runs by itself removes both.
    """
    kept = {
        "delta.logRetentionDuration": RETENTION,
        "delta.deletedFileRetentionDuration": RETENTION,
    }
    feed = {"delta.enableChangeDataFeed": "true"} if table.change_data_feed else {}
    return feed | kept


def tags(table: schemas.Table, full_name: str, dialect: Dialect = UNITY_CATALOG) -> str | None:
    """The statement that tags the table; None where the catalog has no tags."""
    if not dialect.constraints:
        return None
    kind = {"kind": "features"} if table.time_key else {}
    named = _pairs({"project": "taxi-assets"} | kind)
    return f"ALTER TABLE {quoted(full_name)} SET TAGS ({named})"


def of_months(table: schemas.Table, months: Sequence[str] | None, alias: str = "") -> str:
    """The condition that a row is of the months; rows of an uncut table are of any month.

    Raises:
        TableError: a month is not written YYYY-MM.
    """
    if months is not None and not months:
        return NOTHING
    if months is None or table.month is None:
        return EVERYTHING
    for month in months:
        if not _MONTH.fullmatch(month):
            raise TableError("Months must be written YYYY-MM", repr(month), "For example 2022-01")
    column = f"{alias}.{table.month}" if alias else table.month
    return f"{column} IN ({', '.join(text(month) for month in months)})"


def same_key(table: schemas.Table) -> str:
    """The condition that rows `t` and `s` are one; with the month, so that others are not read."""
    keys = [*table.primary_key, *([table.month] if table.month else [])]
    return " AND ".join(f"t.{key} = s.{key}" for key in dict.fromkeys(keys))


def same_values(table: schemas.Table) -> str:
    """The condition that they differ in nothing but when they were computed; nulls are equal."""
    compared = [name for name in _values(table) if name not in table.computed]
    return _all(f"t.{name} <=> s.{name}" for name in compared)


def merge(
    table: schemas.Table, full_name: str, changes: str, months: Sequence[str] | None = None
) -> str:
    """Apply the view `changes`, all of `months`: rows to delete are marked, others are upserted.

    Rows that are no longer wanted come marked in the view, not by WHEN NOT MATCHED BY SOURCE: with
    that clause Delta reads every month, and without deletion vectors it writes them anew.
    """
    known = f"{same_key(table)} AND {of_months(table, months, 't')}"
    columns, values = ", ".join(table.names), ", ".join(f"s.{name}" for name in table.names)
    updates = ", ".join(f"{name} = s.{name}" for name in _values(table))
    return "\n".join(
        [
            f"MERGE INTO {quoted(full_name)} AS t",
            f"USING {quoted(changes)} AS s",
            f"ON {known}",
            f"WHEN MATCHED AND s.{GONE} THEN DELETE",
            f"WHEN MATCHED THEN UPDATE SET {updates}",
            f"WHEN NOT MATCHED AND NOT s.{GONE} THEN INSERT ({columns}) VALUES ({values})",
        ]
    )


def _column(column: schemas.Column) -> str:
    required = "" if column.nullable else " NOT NULL"
    comment = f"{column.comment} [{column.unit}]" if column.unit else column.comment
    return f"{column.name} {TYPES[column.type]}{required} COMMENT {text(comment)}"


def _primary_key(table: schemas.Table) -> str:
    keys = (f"{k} TIMESERIES" if k == table.time_key else k for k in table.primary_key)
    return f"CONSTRAINT {table.name}_pk PRIMARY KEY ({', '.join(keys)})"


def _values(table: schemas.Table) -> list[str]:
    return [name for name in table.names if name not in (*table.primary_key, table.month)]


def _all(conditions: Iterable[str]) -> str:
    return " AND ".join(conditions) or EVERYTHING


def _pairs(entries: Mapping[str, str]) -> str:
    return ", ".join(f"{text(key)} = {text(value)}" for key, value in entries.items())
