"""Rows of a feature table for the contract of the tables, and how rows and changes are read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.interfaces import Tables
from taxi_assets_tests.databricks_steps.platforms import delta_spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TABLE = schemas.DROPOFF_FEATURES
NAME = TABLE.name
JANUARY, FEBRUARY, MARCH = datetime(2022, 1, 31, 23, 45), datetime(2022, 2, 1), datetime(2022, 3, 1)
NOW, LATER = datetime(2023, 1, 1), datetime(2024, 1, 1)
BOTH = ["2022-01", "2022-02"]
Row = tuple[Any, ...]


def row(
    location: int, at: datetime, count: int = 1, computed: datetime = NOW, fare: float | None = 4.5
) -> Row:
    return (location, at, count, 2, None, fare, 5, -6, computed, f"{at:%Y-%m}")


def rows(tables: Tables, months: Sequence[str] | None = None, **kwargs: Any) -> list[Row]:
    return sorted(tuple(r) for r in tables.read(NAME, months, **kwargs).collect())


def feed(tables: Tables, running: SparkSession, after: int) -> list[tuple[int, str]]:
    """The change data feed of the commits after a version: location and kind of change."""
    assert tables.version(NAME) is not None
    if tables.version(NAME) == after:
        return []
    if delta_spark.RUNNING:
        reader = running.read.option("readChangeFeed", "true").option("startingVersion", after + 1)
        changes = reader.table(tables.uri(NAME)).select("location_id", "_change_type").collect()
        return sorted((change[0], change[1]) for change in changes)
    import pyarrow as pa
    from deltalake import DeltaTable

    read = DeltaTable(tables.uri(NAME)).load_cdf(starting_version=after + 1).read_all()
    columns = (pa.table(read).column(n).to_pylist() for n in ("location_id", "_change_type"))
    return sorted(zip(*columns, strict=True))
