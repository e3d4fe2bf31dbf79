"""From files as published to rows of `raw_trips`: one set of names and types, nothing dropped.

Rows are read and normalized as Arrow batches inside the engine's Python workers; a value that
cannot be read as its column's type becomes null and the column's name goes to `unreadable`. Times
stay New York wall clock, as published.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.months import FIRST
from databricks_steps.trips import column_mapping, parsing, reading
from databricks_steps.trips.files import HASH_DIGITS, TripFile

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame, SparkSession

ID_LENGTH = len("2022-01-0123456789abcdef")
# What a month must hold to be one of a file's months: a share of the rows of the fullest month,
# and so many rows, or a larger share. A clock that went astray makes no month.
LEAST_SHARE, LEAST_ROWS, FEW_SHARE = 0.01, 100, 0.05
MOST_UNREADABLE = 0.5  # of the values of a column that every trip needs
_DAY_FIRST = r"^(1[3-9]|2\d|3[01])/\d{1,2}/\d{4}"
_MONTH_FIRST = r"^\d{1,2}/(1[3-9]|2\d|3[01])/\d{4}"
_SLASHES = r"^\d{1,2}/\d{1,2}/\d{4}"  # either of them
_WRITTEN = {"day_first": _DAY_FIRST, "month_first": _MONTH_FIRST, "slashes": _SLASHES}
_ROW = "__row"
_HASH = "__hash"


def raw_trips(spark: SparkSession, files: Sequence[TripFile], months: Sequence[str]) -> DataFrame:
    """Rows of the months in these files, each with its stable id."""
    tables = [file for file in files if file.format == "table"]
    parts = [(f, part) for f in files if f.format != "table" for part in reading.parts(f)]
    frames = [_table_rows(spark, table, months) for table in tables]
    if parts:
        # One task each, without a shuffle: the number of a task is all that the engine knows.
        tasks = spark.range(0, len(parts), 1, len(parts))
        frames.append(tasks.mapInArrow(_parts_reader(parts, months), _row_schema()))
    if not frames:
        return spark.createDataFrame([], schemas.RAW_TRIPS.spark())
    return with_trip_ids(reduce(lambda one, other: one.unionByName(other), frames))


def file_rows(file: TripFile, groups: range | None = None) -> Iterator[pa.RecordBatch]:
    """Every row of a file, or of some of its row groups, normalized by `published`."""
    import pyarrow as pa

    for first, batch in reading.batches(file, groups):
        numbers = pa.array(range(first, first + batch.num_rows), pa.int64())
        yield published(batch, file, numbers)


def published(batch: pa.RecordBatch, file: TripFile, numbers: pa.Array) -> pa.RecordBatch:
    """A file's known columns, in the order of its layout, as `raw_trips` but for the id.

    `numbers` (rows,) are the positions of the rows in their file.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = batch.num_rows
    columns, unread = {}, {}
    for column in schemas.PUBLISHED:
        columns[column.name], unread[column.name] = _column(batch, file, column)
    columns |= {
        "source_file": pa.repeat(file.name, rows),
        "source_row": numbers,
        "source_hash": pa.repeat(file.hash, rows),
        "unreadable": _names(unread),
        "trip_month": _trip_month(columns["pickup_datetime"], file),
    }
    for name, array in columns.items():
        if pa.types.is_timestamp(array.type):
            columns[name] = pc.cast(array, pa.timestamp("us", "UTC"))
    return pa.RecordBatch.from_pydict(columns)


def surveyed(file: TripFile) -> TripFile:
    """The file with the number of its rows and, where its name has no month, months of pickups.

    A column that every trip needs and that cannot be read in most rows is a problem of the file.

    Raises:
        Exception: one of `reading.failures()`; the file is damaged.
    """
    import numpy as np

    columns = tuple(c for c in file.layout.columns if c.target in column_mapping.REQUIRED)
    slim = replace(file, layout=replace(file.layout, columns=columns))
    seen = {c.name: _Seen() for c in schemas.PUBLISHED if c.name in column_mapping.REQUIRED}
    pickups: Counter[str] = Counter()
    rows = 0
    for _, batch in reading.batches(slim):
        rows += batch.num_rows
        for column in schemas.PUBLISHED:
            if column.name in seen:
                values, unread = _column(batch, slim, column)
                seen[column.name].take(batch, slim, column, values, unread)
                if column.name == "pickup_datetime" and not file.named:
                    months, counts = np.unique(_months(values), return_counts=True)
                    pickups.update(dict(zip(map(str, months), map(int, counts), strict=True)))
    pickups.pop("NaT", None)
    file = replace(file, rows=rows, pickups=tuple(sorted(pickups.items())))
    problems = {name: found.problem(name) for name, found in seen.items()}
    layout = file.layout
    commas = any(problems[name] and found.commas for name, found in seen.items())
    if commas and layout.delimiter != "," and layout.decimal == ".":
        return surveyed(replace(file, layout=replace(layout, decimal=",")))
    problem = next(filter(None, problems.values()), None)
    return file.refused("values", *problem) if problem else file


class _Seen:
    """What was seen of a column's values: how many there are, and which cannot be read."""

    def __init__(self) -> None:
        self.present = self.unread = self.day_first = self.month_first = self.slashes = 0
        self.example = ""

    def take(
        self,
        batch: pa.RecordBatch,
        file: TripFile,
        column: schemas.Column,
        values: pa.Array,
        unread: pa.Array,
    ) -> None:
        import pyarrow.compute as pc

        missed = pc.sum(unread).as_py() or 0
        self.present += len(values) - values.null_count + missed
        self.unread += missed
        if not missed and column.type != "timestamp":
            return
        for place, source in enumerate(file.layout.columns):
            if source.target != column.name:
                continue
            text = parsing.present(batch.column(place))
            if missed and not self.example:
                self.example = str(next(v for v in text.filter(unread) if v.is_valid))
            if str(text.type) == "string":
                for name, pattern in _WRITTEN.items():
                    count = pc.sum(pc.match_substring_regex(text, pattern)).as_py() or 0
                    setattr(self, name, getattr(self, name) + count)

    @property
    def commas(self) -> bool:
        """Whether what cannot be read looks like numbers with decimal commas."""
        return bool(re.fullmatch(r"[+-]?[\d.]*,\d+", self.example))

    def problem(self, name: str) -> tuple[str, str] | None:
        """Why the file cannot be read for this column, and what to do; None when it can."""
        least = MOST_UNREADABLE * self.present
        if self.day_first and not self.month_first and self.slashes > least:
            told = f"{name} is written day first, for example {self.example!r}"
            return told, "Write times as 2022-01-31 18:30:00"
        if not self.unread or self.unread <= least:
            return None
        told = f"{name} cannot be read in {self.unread:,} of {self.present:,} rows"
        remedy = "Write numbers as 12.50 and times as 2022-01-31 18:30:00"
        if self.commas:
            return f"{told}: decimals have a comma, for example {self.example!r}", remedy
        return f"{told}, for example {self.example!r}", remedy


def table_pickups(spark: SparkSession, table: TripFile) -> tuple[tuple[str, int], ...]:
    """Months of pickups of a table in the catalog, and their rows."""
    from pyspark.sql import functions as F

    month = F.date_format("pickup_datetime", "yyyy-MM").alias("month")
    counted = _table_rows(spark, table).groupBy(month).agg(F.count(F.lit(1)).alias("rows"))
    return tuple(sorted((row["month"], row["rows"]) for row in counted.collect() if row["month"]))


def fullest(pickups: Iterable[tuple[str, int]], last: str) -> tuple[str, ...]:
    """Those of the months, up to `last`, that a file is said to hold; the fullest first."""
    counts = {month: rows for month, rows in pickups if FIRST <= month <= last}
    most = max(counts.values(), default=0)
    least = max(most * LEAST_SHARE, min(LEAST_ROWS, most * FEW_SHARE))
    found = [month for month, rows in counts.items() if rows >= least]
    return tuple(sorted(found, key=lambda month: (-counts[month], month)))


def rows_hash(spark: SparkSession, table: TripFile) -> str:
    """16 digits that change when a row of the table does; the order of rows does not matter."""
    from pyspark.sql import functions as F

    # A sum, not an exclusive or: two copies of a row must count.
    total = F.sum(F.pmod(_HASH, F.lit((1 << 40) - 87))).alias("total")
    hashed = _table_rows(spark, table).select(_hash().alias(_HASH))
    row = hashed.agg(F.count(F.lit(1)).alias("rows"), total).collect()[0]
    return hashlib.sha256(f"{row['rows']} {row['total']}".encode()).hexdigest()[:HASH_DIGITS]


def problem(file: TripFile) -> str:
    """Why reading every row of the file fails, or an empty text; a table is not read here."""
    if file.format != "table":
        try:
            for _ in file_rows(file):
                pass
        except reading.failures() as error:
            return reading.reason(error)
    return ""


def with_trip_ids(rows: DataFrame) -> DataFrame:
    """`trip_id`: the month, a hash of what was published, and which copy of it the row is.

    The publisher may reorder a file and the ids stay; further copies get `-1`, `-2` and so on.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    hashed = rows.withColumn(_HASH, _hash())
    same = Window.partitionBy("trip_month", _HASH).orderBy("source_file", "source_row")
    copy = F.row_number().over(same) - 1
    digits = F.lpad(F.lower(F.hex(_HASH)), 16, "0")
    trip_id = F.concat_ws("-", "trip_month", digits, F.when(copy > 0, copy.cast("string")))
    return hashed.withColumn("trip_id", trip_id).select(*schemas.RAW_TRIPS.names)


def _hash() -> Column:
    """Of every published column; Spark's hash skips nulls, so which are null is hashed too."""
    from pyspark.sql import functions as F

    names = [column.name for column in schemas.PUBLISHED]
    nulls = [
        F.when(F.col(name).isNull(), F.lit(1 << i)).otherwise(0) for i, name in enumerate(names)
    ]
    return F.xxhash64(*names, reduce(lambda one, other: one + other, nulls))


def _parts_reader(
    parts: Sequence[tuple[TripFile, range]], months: Sequence[str]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """From numbers of parts to the rows of the months in these parts."""

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for rows in file_rows(*parts[number]):
                    yield of_months(rows, months)

    return read


def of_months(rows: pa.RecordBatch, months: Sequence[str]) -> pa.RecordBatch:
    """Those of the rows, as `published` gives them, whose month is one of these."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return rows.filter(pc.is_in(rows["trip_month"], value_set=pa.array(months, pa.string())))


def _table_rows(
    spark: SparkSession, table: TripFile, months: Sequence[str] | None = None
) -> DataFrame:
    """Rows of a table (of some months), normalized; numbered as the engine comes upon them."""
    from pyspark.sql import functions as F

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            *_, numbers = batch.columns
            rows = published(batch, table, numbers)
            yield rows if months is None else of_months(rows, months)

    frame = spark.read.table(table.path)
    known = [
        F.col(_quoted(column.name)).alias(f"s{place}")
        for place, column in enumerate(table.layout.columns)
    ]
    numbered = frame.select(*known, F.monotonically_increasing_id().alias(_ROW))
    return numbered.mapInArrow(read, _row_schema())


def _row_schema() -> Any:
    """Spark's schema of what `published` gives."""
    from pyspark.sql.types import StructType

    fields = schemas.RAW_TRIPS.spark().fields
    return StructType([field for field in fields if field.name != schemas.TRIP_ID.name])


def _column(
    batch: pa.RecordBatch, file: TripFile, column: schemas.Column
) -> tuple[pa.Array, pa.Array]:
    """Its values (rows,), and where there is one that cannot be read.

    Of several columns of the source the first that holds a value counts.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    given = [
        parsing.present(batch.column(place))
        for place, source in enumerate(file.layout.columns)
        if source.target == column.name
    ]
    if file.layout.decimal == "," and column.type not in ("string", "timestamp"):
        given = [parsing.with_points(text) for text in given]
    if not given:
        nothing = pa.nulls(batch.num_rows)
        return parsing.typed(nothing, column.type), nothing.is_valid()
    array = pc.coalesce(*(parsing.typed(each, column.type) for each in given))
    there = reduce(pc.or_, (each.is_valid() for each in given))
    return array, pc.and_(there, array.is_null())


def _names(unread: Mapping[str, pa.Array]) -> pa.Array:
    """Column → where it cannot be read (rows,), as the names for each row, in the same order."""
    import numpy as np
    import pyarrow as pa

    marks = np.stack([mask.to_numpy(zero_copy_only=False) for mask in unread.values()], axis=1)
    ends = np.concatenate([[0], marks.sum(axis=1).cumsum()])
    names = pa.array(list(unread)).take(pa.array(np.nonzero(marks)[1]))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), names)


def _months(times: pa.Array) -> np.ndarray[Any, Any]:
    """The month of each time (rows,); not-a-time for null."""
    found: np.ndarray[Any, Any] = times.to_numpy(zero_copy_only=False).astype("datetime64[M]")
    return found


def _trip_month(pickups: pa.Array, file: TripFile) -> pa.Array:
    """The month in the file's name; else that of the pickup, if it is one of the file's months.

    The month that waits until it is over is one of them; rows of others go with the fullest.
    """
    import numpy as np
    import pyarrow as pa

    if not file.months:
        return pa.nulls(len(pickups), pa.string())
    place = np.zeros(len(pickups), np.int32)
    own = [*file.months, file.waiting] if file.waiting else file.months
    if not file.named:
        months = _months(pickups)
        for number, month in enumerate(own):
            place[months == np.datetime64(month)] = number
    return pa.array(own).take(pa.array(place))


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
