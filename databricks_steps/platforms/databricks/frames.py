"""Frames on their way into a table: kept while used, compared, and refused with a clear word."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.errors import TableError
from databricks_steps.platforms.databricks import ddl

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STRAY, NULL = "DELTA_REPLACE_WHERE_MISMATCH", "DELTA_NOT_NULL_CONSTRAINT_VIOLATED"


def of_rows(
    spark: SparkSession, table: schemas.Table, rows: Sequence[Mapping[str, Any]] = ()
) -> DataFrame:
    """A few rows (column → value) as a frame; times without a zone are UTC."""
    values = [tuple(_with_zone(row.get(name)) for name in table.names) for row in rows]
    return spark.createDataFrame(values, table.spark())


def with_columns_of(table: schemas.Table, frame: DataFrame) -> DataFrame:
    """The table's columns in their order; null where one came later."""
    from pyspark.sql import functions as F

    held = set(frame.columns)
    fields = table.spark().fields
    return frame.select(
        *(
            F.col(f.name) if f.name in held else F.lit(None).cast(f.dataType).alias(f.name)
            for f in fields
        )
    )


def records(frame: DataFrame) -> list[dict[str, Any]]:
    """The rows of a small frame, column → value, with times in UTC."""
    return [{k: _in_utc(v) for k, v in row.asDict().items()} for row in frame.collect()]


def rows_by_month(table: schemas.Table, frame: DataFrame) -> dict[str, int]:
    """Month → rows; those of an uncut table count under the empty month."""
    column = table.month or "''"
    months = frame.selectExpr(f"{column} AS month")
    return {month: int(rows) for month, rows in months.groupBy("month").count().collect()}


def changes(table: schemas.Table, old: DataFrame, new: DataFrame, delete: bool) -> DataFrame:
    """Rows of `new` that are new or differ, and with `delete` those of `old` that are gone."""
    from pyspark.sql import functions as F

    target, source = old.alias("t"), new.alias("s")
    key = F.expr(ddl.same_key(table))
    same = key & F.expr(ddl.same_values(table))
    upserts = source.join(target, same, "left_anti").withColumn(ddl.GONE, F.lit(False))
    if not delete:
        return upserts
    gone = target.join(source, key, "left_anti").withColumn(ddl.GONE, F.lit(True))
    return upserts.union(gone)


def refuse_strays(
    table: schemas.Table, found: Collection[str], months: Sequence[str] | None
) -> None:
    """Raise TableError when months are named and others were found."""
    strays = set() if months is None else set(found) - set(months)
    if strays:
        raise TableError(
            f"A write to {table.name} must hold only the months it names",
            ", ".join(sorted(strays)),
            "Filter the frame to its months first",
        )


@contextmanager
def refusals(
    table: schemas.Table, frame: DataFrame, months: Sequence[str] | None = None
) -> Iterator[None]:
    """What Delta refuses before it commits, in our words.

    It looks at every row as it writes it; looking first would compute the frame twice.
    """
    try:
        yield
    except Exception as error:
        if STRAY in str(error):
            refuse_strays(table, rows_by_month(table, frame), months)
        if NULL in str(error):
            required = ", ".join(c.name for c in table.columns if not c.nullable)
            raise TableError(
                f"A write to {table.name} must fill every column that is NOT NULL",
                f"a null in one of {required}",
                "Fill or drop such rows first",
            ) from error
        raise


def _with_zone(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=timezone.utc)
    return value


def _in_utc(value: Any) -> Any:
    """PySpark gives times in the zone of the process, without saying so."""
    return value.astimezone(timezone.utc) if isinstance(value, datetime) else value
