"""From files as published to rows of `raw_trips`: one set of names and types, nothing dropped.

Spark reads the rows; a value that cannot be read as its column's type becomes null and the
column's name goes to `unreadable`. Times stay New York wall clock, as published.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.months import FIRST
from databricks_steps.trips import values
from databricks_steps.trips.files import HASH_DIGITS, SourceColumn, TripFile

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

ID_LENGTH = len("2022-01-0123456789abcdef")
LEAST_SHARE = 0.001  # of a file's rows that a month must hold to be one of its months
_ROW = "__row"
_HASH = "__hash"
_ROW_BITS = 33  # of monotonically_increasing_id; the bits above number the partition


def raw_trips(spark: SparkSession, files: Sequence[TripFile], months: Sequence[str]) -> DataFrame:
    """Rows of the months in these files, each with its stable id."""
    frames = [file_rows(spark, file) for file in files]
    if not frames:
        return spark.createDataFrame([], schemas.RAW_TRIPS.spark())
    rows = reduce(lambda one, other: one.unionByName(other), frames)
    return with_trip_ids(rows.where(rows["trip_month"].isin(*months)))


def file_rows(spark: SparkSession, file: TripFile) -> DataFrame:
    """Every row of one file in the columns of `raw_trips`, but for the id."""
    from pyspark.sql import functions as F  # noqa: N812

    published = _published(_scan(spark, file), file)
    return published.select(
        *(column.name for column in schemas.PUBLISHED),
        F.lit(file.name).alias("source_file"),
        F.col(_ROW).cast("long").alias("source_row"),
        F.lit(file.hash).alias("source_hash"),
        "unreadable",
        _trip_month(file).alias("trip_month"),
    )


def pickup_months(spark: SparkSession, file: TripFile) -> tuple[str, ...]:
    """Months that hold at least a thousandth of the file's rows by pickup; the fullest first."""
    from pyspark.sql import functions as F  # noqa: N812

    month = F.date_format("pickup_datetime", "yyyy-MM").alias("month")
    published = _published(_scan(spark, file), file)
    counted = published.groupBy(month).agg(F.count(F.lit(1)).alias("rows")).collect()
    total = sum(row["rows"] for row in counted)
    least = max(total * LEAST_SHARE, 1)
    found = [r for r in counted if (r["month"] or "") >= FIRST and r["rows"] >= least]
    return tuple(r["month"] for r in sorted(found, key=lambda r: (-r["rows"], r["month"])))


def rows_hash(spark: SparkSession, file: TripFile) -> str:
    """16 digits that change when a row of the table does; the order of rows does not matter."""
    from pyspark.sql import functions as F  # noqa: N812

    # A sum, not an exclusive or: two copies of a row must count.
    total = F.sum(F.pmod(_HASH, F.lit((1 << 40) - 87))).alias("total")
    hashed = _published(_scan(spark, file), file).select(_hash().alias(_HASH))
    row = hashed.agg(F.count(F.lit(1)).alias("rows"), total).collect()[0]
    return hashlib.sha256(f"{row['rows']} {row['total']}".encode()).hexdigest()[:HASH_DIGITS]


def with_trip_ids(rows: DataFrame) -> DataFrame:
    """`trip_id`: the month, a hash of what was published, and which copy of it the row is.

    The publisher may reorder a file and the ids stay; further copies get `-1`, `-2` and so on.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F  # noqa: N812

    hashed = rows.withColumn(_HASH, _hash())
    same = Window.partitionBy("trip_month", _HASH).orderBy("source_file", "source_row")
    copy = F.row_number().over(same) - 1
    digits = F.lpad(F.lower(F.hex(_HASH)), 16, "0")
    trip_id = F.concat_ws("-", "trip_month", digits, F.when(copy > 0, copy.cast("string")))
    return hashed.withColumn("trip_id", trip_id).select(*schemas.RAW_TRIPS.names)


def _hash() -> Column:
    """Of every published column; Spark's hash skips nulls, so which are null is hashed too."""
    from pyspark.sql import functions as F  # noqa: N812

    names = [column.name for column in schemas.PUBLISHED]
    nulls = [
        F.when(F.col(name).isNull(), F.lit(1 << i)).otherwise(0) for i, name in enumerate(names)
    ]
    return F.xxhash64(*names, reduce(lambda one, other: one + other, nulls))


def _scan(spark: SparkSession, file: TripFile) -> DataFrame:
    """The file's known columns as `s` and their place, in their types; with each row's number."""
    from pyspark.sql import functions as F  # noqa: N812

    names = {column.name.lower() for column in file.layout.columns}
    if file.format == "parquet" and len(names) < len(file.layout.columns):
        return _by_place(spark, file)
    if file.format == "table":
        frame = spark.read.table(file.path).withColumn(_ROW, F.monotonically_increasing_id())
    else:
        frame = _csv(spark, file) if file.format == "csv" else _parquet(spark, file)
    known = (F.col(_quoted(c.name)).alias(f"s{c.position}") for c in _read(file))
    return frame.select(_ROW, *known)


def _read(file: TripFile) -> list[SourceColumn]:
    """The columns that hold values at all."""
    return [column for column in file.layout.columns if column.type != "void"]


def _by_place(spark: SparkSession, file: TripFile) -> DataFrame:
    """A file with names that differ in case alone, such as `airport_fee` and `Airport_fee`.

    Spark cannot tell them apart but for a setting that serverless compute refuses. No publisher
    does this, joined files do: they are read here, whole.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    read = _read(file)
    with pq.ParquetFile(file.path, coerce_int96_timestamp_unit="us") as opened:
        table = opened.read([column.name for column in read])
    values = {f"s{c.position}": table[c.name] for c in read}
    values[_ROW] = pa.array(range(len(table)), pa.int64())
    types = (*(f"s{c.position} {_read_as(c)}" for c in read), f"{_ROW} bigint")
    return spark.createDataFrame(pa.table(values), ", ".join(types))


def _parquet(spark: SparkSession, file: TripFile) -> DataFrame:
    from pyspark.sql import functions as F  # noqa: N812

    schema = ", ".join(f"{_quoted(c.name)} {_read_as(c)}" for c in _read(file))
    reader = spark.read.schema(schema)
    for mode in ("datetimeRebaseMode", "int96RebaseMode"):
        reader = reader.option(mode, "CORRECTED")
    frame = reader.parquet(_literal(file.path))
    return frame.select("*", F.col("_metadata.row_index").alias(_ROW))


def _csv(spark: SparkSession, file: TripFile) -> DataFrame:
    """Text, one task a file, so that the running number of a row is its place in the file."""
    from pyspark.sql import functions as F  # noqa: N812

    width = file.layout.width
    frame = spark.read.csv(
        _literal(file.path),
        schema=", ".join(f"c{position} string" for position in range(width)),
        sep=file.layout.delimiter,
        encoding=file.layout.encoding,
        header=True,
        multiLine=True,
        quote='"',
        escape='"',
        ignoreLeadingWhiteSpace=True,
        ignoreTrailingWhiteSpace=True,
        mode="PERMISSIVE",
    )
    number = F.monotonically_increasing_id().bitwiseAND(F.lit((1 << _ROW_BITS) - 1))
    some = F.coalesce(*(F.col(f"c{position}") for position in range(width))).isNotNull()
    return frame.withColumn(_ROW, number).where(some)


def _published(scan: DataFrame, file: TripFile) -> DataFrame:
    """The scan's columns as ours: `PUBLISHED`, `unreadable` and the row's number.

    In stages, each naming the columns of the one before, so that no expression is repeated.
    """
    from pyspark.sql import functions as F  # noqa: N812

    kinds = {column.name: column.type for column in schemas.PUBLISHED}
    read = _read(file)
    present = scan.select(
        _ROW,
        *(values.present(F.col(f"s{c.position}"), c.type).alias(f"p{c.position}") for c in read),
    )
    typed = present.select(
        "*",
        *(
            values.typed(F.col(f"p{c.position}"), c.type, kinds[c.target], c.zone).alias(
                f"v{c.position}"
            )
            for c in read
        ),
    )
    published, unreadable = [], []
    for column in schemas.PUBLISHED:
        sources = [c for c in read if c.target == column.name]
        published.append(_first(sources, "v", column.type).alias(column.name))
        if sources:
            bad = _first(sources, "p", "").isNotNull() & _first(sources, "v", "").isNull()
            unreadable.append(F.when(bad, F.lit(column.name)))
    return typed.select(*published, F.array_compact(F.array(*unreadable)).alias("unreadable"), _ROW)


def _first(sources: Sequence[SourceColumn], prefix: str, kind: str) -> Column:
    """The first of the columns that holds a value; nulls of the type when there is no column."""
    from pyspark.sql import functions as F  # noqa: N812

    if not sources:
        return F.lit(None).cast(kind)
    return F.coalesce(*(F.col(f"{prefix}{c.position}") for c in sources))


def _trip_month(file: TripFile) -> Column:
    from pyspark.sql import functions as F  # noqa: N812

    most = F.lit(file.months[0] if file.months else None).cast("string")
    if file.named:
        return most
    month = F.date_format("pickup_datetime", "yyyy-MM")
    return F.when(month.isin(*file.months), month).otherwise(most)


def _read_as(column: SourceColumn) -> str:
    return "bigint" if column.type == "nanos" else column.type


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _literal(path: str) -> str:
    """Spark takes a path for a pattern; here it is a name."""
    return re.sub(r"([\\*?\[\]{},])", r"\\\1", path)
