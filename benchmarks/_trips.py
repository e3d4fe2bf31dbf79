"""Demo trips in any number, as the table `trips`: made month by month, never all in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import JVM, Settings
from databricks_steps.trips import demo

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Most rules of trips/validation_rules.py as one filter: what is measured here comes after them.
VALID = """
    unix_seconds(dropoff_datetime) - unix_seconds(pickup_datetime) BETWEEN 30 AND 14400
    AND trip_distance BETWEEN 0.05D AND 100D AND fare_amount BETWEEN 2.5D AND 250D
    AND date_format(pickup_datetime, 'yyyy-MM') = '{month}'
"""
RENAMED = {
    "VendorID": "vendor_id",
    "lpep_pickup_datetime": "pickup_datetime",
    "lpep_dropoff_datetime": "dropoff_datetime",
    "PULocationID": "pickup_location_id",
    "DOLocationID": "dropoff_location_id",
    "RatecodeID": "rate_code_id",
}


def platform(home: Path, driver_memory: str = "3g", spark: str = JVM) -> EmbeddedPlatform:
    """An embedded platform on a home of its own."""
    return EmbeddedPlatform(Settings(home=home, driver_memory=driver_memory, spark=spark))


def store(on: EmbeddedPlatform, months: Sequence[str], rows: int) -> int:
    """Fill `trips` with about `rows` trips a month; how many there are in all."""
    for month in months:
        _store_month(on, month, rows)
    return on.tables.rows("trips", months)


def _store_month(on: EmbeddedPlatform, month: str, rows: int) -> None:
    from pyspark.sql import functions as F

    file = on.settings.home / f"{month}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    # In a process of its own: what making trips takes is no memory of the driver.
    made = [sys.executable, "-m", "benchmarks._trips", month, str(rows), str(file)]
    subprocess.run(made, check=True)
    published = on.spark.read.parquet(str(file)).withColumnsRenamed(RENAMED)
    for at in ("pickup_datetime", "dropoff_datetime"):
        published = published.withColumn(at, F.col(at).cast("timestamp"))
    valid = published.where(VALID.format(month=month)).withColumns(
        {
            "trip_id": F.concat(F.lit(f"{month}-"), F.monotonically_increasing_id()),
            "trip_month": F.lit(month),
        }
    )
    columns = [
        F.col(c.name).cast(c.type.replace("long", "bigint"))
        if c.name in valid.columns
        else F.lit(None).cast(c.type).alias(c.name)
        for c in schemas.TRIPS.columns
    ]
    on.tables.replace("trips", valid.select(*columns), [month])
    file.unlink()


def fingerprint(rows: DataFrame) -> tuple[int, str]:
    """Number of rows, and a sum over their hashes: equal for the same rows in any order."""
    from pyspark.sql import functions as F

    hashed = F.xxhash64(*rows.columns).cast("decimal(38,0)")
    found = rows.agg(F.count(F.lit(1)).alias("n"), F.sum(hashed).alias("sum")).collect()[0]
    return found["n"], str(found["sum"])


def write(month: str, rows: int, file: str) -> None:
    """Demo trips of a month as a parquet file."""
    import pyarrow.parquet as pq

    pq.write_table(demo.demo_trips(month, rows), file, row_group_size=500_000)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), sys.argv[3])
