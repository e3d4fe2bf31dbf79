"""What only a cluster can tell, each asked once; run there by `taxi-assets certify`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

SAYS = "probe.json"
SERVED = "system.serving.served_entities"


def main(spark: SparkSession, folder: str) -> None:
    """Write to the folder, of a volume, by item whether it holds and what was found."""
    place = Path(folder)
    found = {
        "python_file on a volume": ["ok", "this task was read from one"],
        "wheel in Python workers": _asked(lambda: workers(spark)),
        "_metadata.row_index": _asked(lambda: row_index(spark, f"{folder}/rows")),
        SERVED: _asked(lambda: served(spark)),
    }
    shutil.rmtree(place / "rows", ignore_errors=True)
    (place / SAYS).write_text(json.dumps(found), encoding="utf-8")


def workers(spark: SparkSession) -> str:
    """A function of this module, which is pickled by its name, runs in Python workers."""
    rows = spark.range(2).mapInArrow(doubled, "doubled long").collect()
    return f"a function of the wheel gave {sorted(row['doubled'] for row in rows)}"


def doubled(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for batch in batches:
        yield pa.record_batch([pa.array([2 * n for n in batch[0].to_pylist()])], ["doubled"])


def row_index(spark: SparkSession, path: str) -> str:
    """Rows of a parquet file know their place in it, and `source_row` is that."""
    spark.range(3).coalesce(1).write.mode("overwrite").parquet(path)
    rows = spark.read.parquet(path).selectExpr("id", "_metadata.row_index AS place").collect()
    places = sorted((row["id"], row["place"]) for row in rows)
    if places != [(n, n) for n in range(3)]:
        raise ValueError(f"rows and places are {places}")
    return "rows are numbered from 0"


def served(spark: SparkSession) -> str:
    """The grant for the table that says which version answered a request."""
    spark.sql(f"SELECT 1 FROM {SERVED} LIMIT 1").collect()
    return "may be read"


def _asked(ask: Callable[[], str]) -> list[Any]:
    try:
        return ["ok", ask()]
    except Exception as error:  # whatever it is, it is what the report is for
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        return ["differs", f"{type(error).__name__}: {first}"]
