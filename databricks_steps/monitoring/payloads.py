"""`endpoint_payloads`: captured requests as one row for each trip asked for, each exactly once.

Rows are only ever added or corrected: a request that its payload table no longer keeps stays. Of a
month that has grown only the new requests are read; what is known is read again when the code or
the versions of its served entities have changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from databricks_steps import fingerprint, incremental
from databricks_steps.check_cache import CheckCache
from databricks_steps.inference import request as contract
from databricks_steps.interfaces import Commit, Outcome, Platform, Verdict
from databricks_steps.monitoring import inference_table, plots
from databricks_steps.monitoring_schemas import ENDPOINT_PAYLOADS
from databricks_steps.plots import SHARED_PLOTS

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

NAME = ENDPOINT_PAYLOADS.name
_KEPT = (
    "request_id",
    "client_request_id",
    "origin",
    "requested_at",
    "status_code",
    "latency",
    "served_entity",
    "model_version",
    "request_month",
)
_READ = (
    "request_row int, pickup_location_id int, dropoff_location_id int, trip_distance double, "
    "pickup_datetime timestamp, predicted_fare double, problem string"
)


def endpoint_payloads(
    platform: Platform, months: Sequence[str] | None, force: bool = False
) -> tuple[Outcome, ...]:
    """Merge what was captured in the months in which it was asked (UTC); default: in all.

    Without a payload table, or with an empty one, there is nothing to do and nothing wrong. Where
    nobody has asked since the last time, no row is read. The verdict is on those months, by default
    on the newest: what is old can be warned of only once.
    """
    tables = platform.tables
    table = platform.settings.table(platform.settings.payload_table)
    cache = CheckCache(platform.settings, NAME, force)
    # Before the rows: what comes meanwhile is seen later.
    seen = inference_table.content_version(platform)
    code = fingerprint.code(inference_table, contract, sys.modules[__name__])

    def merged_now() -> dict[str, int]:
        return {"": fingerprint.digest(code, seen, months, tables.contents(NAME))}

    commit, stale = None, list[str]()
    found: Mapping[str, Any] = {"requests": {}, "entities": 0}
    if seen is not None:
        known = cache.kept("merged", merged_now())
        if known:
            found = known[""]
        else:
            found, stale, commit = _merged(platform, months, force)
            cache.keep("merged", merged_now(), {"": found})
    figures = {
        "payload_table": table if seen is not None else f"no requests in {table}",
        "months": sorted(found["requests"]),
        "skipped_months": sorted(set(found["requests"]) - set(stale)),
        "requests": sum(found["requests"].values()),
        "served_entities_named": found["entities"],
    }
    judged = months if months is not None else tables.months(NAME)[-1:]
    contents = fingerprint.digest(code, *judged, tables.contents(NAME, judged))
    read = cache.one(
        "readable",
        contents,
        lambda: answered(tables.read(NAME, judged)),
        lambda each: not each["unreadable"],
    )
    drawn_of = fingerprint.digest(contents, fingerprint.code(plots, SHARED_PLOTS))
    pictures = {"": cache.one("pictures", drawn_of, lambda: drawn(tables.read(NAME, judged)))}
    verdicts = (readable(read),)
    return (Outcome(NAME, tables.rows(NAME, months), figures, commit, verdicts, pictures),)


def _merged(
    platform: Platform, months: Sequence[str] | None, force: bool
) -> tuple[dict[str, Any], list[str], Commit | None]:
    """Requests by month and how many served entities were told; months that were written; how."""
    tables = platform.tables
    requests = inference_table.requests(platform)
    if requests is None:
        return {"requests": {}, "entities": 0}, [], None
    if months is not None:
        requests = requests.where(requests["request_month"].isin(list(months)))
    versions = inference_table.entity_versions(platform)
    found = _contents(requests, versions)
    plan = incremental.plan(tables, [NAME], {m: found[m].digest for m in found}, force)
    commit = None
    if stale := plan.stale:
        delivered = requests.where(requests["request_month"].isin(stale))
        new = delivered if force else _unread(platform, delivered, versions, stale)
        if any(found[month].repeated for month in stale):
            new = _once(new)
        rows = inference_table.with_versions(new, versions).mapInArrow(_reader(), _schema())
        rows = rows.select(*ENDPOINT_PAYLOADS.names)
        commit = tables.merge(NAME, rows, made_from=plan.made_from)
    counts = {month: each.requests for month, each in found.items()}
    return {"requests": counts, "entities": len(versions)}, stale, commit


def answered(rows: DataFrame) -> dict[str, Any]:
    """How many requests were answered with 200, and how many of them cannot be read.

    With an `example` of the latter: request id and problem.
    """
    from pyspark.sql import functions as F

    good = rows.where(F.col("status_code") == inference_table.ANSWERED)
    unread = F.col("problem").isNotNull()
    example = F.struct("request_id", "problem")
    told = good.agg(
        F.count_distinct("request_id").alias("answered"),
        F.count_distinct(F.when(unread, F.col("request_id"))).alias("unread"),
        F.min(F.when(unread, example)).alias("example"),
    ).collect()[0]
    figures: dict[str, Any] = {"answered": told["answered"], "unreadable": told["unread"]}
    return figures | ({"example": list(told["example"])} if told["unread"] else {})


def by_hour(rows: DataFrame) -> list[tuple[str, int, float, float]]:
    """Hour (UTC, `25 03:00`), requests, median and 99 of 100 of their milliseconds, in order."""
    from pyspark.sql import functions as F

    asked = rows.where((F.col("request_row") == 0) & F.col("latency").isNotNull())
    hour = F.date_format("requested_at", "dd HH:00").alias("hour")
    slow = (F.percentile_approx("latency", share) for share in (0.5, 0.99))
    found = asked.groupBy(hour).agg(F.count("*"), *slow).orderBy("hour").collect()
    return [tuple(row) for row in found]


def drawn(rows: DataFrame) -> dict[str, str]:
    """Caption → SVG of the requests over time; nothing where there was none."""
    hours = by_hour(rows)
    return {"Requests and time to the answer": plots.requests_by_hour(hours)} if hours else {}


def readable(told: Mapping[str, Any]) -> Verdict:
    """What the endpoint answered with 200 can be read: the request, and a fare for each trip."""
    figures = {name: told[name] for name in ("answered", "unreadable")}
    if not told["unreadable"]:
        reason = f"all {told['answered']:,} requests that were answered can be read"
        return Verdict("readable", True, reason, figures, "warn")
    name, problem = told["example"]
    reason = (
        f"{told['unreadable']:,} of {told['answered']:,} requests that were answered cannot be "
        f"read, for example {name}: {problem}"
    )
    return Verdict("readable", False, reason, {**figures, "example": name}, "warn")


class _Contents(NamedTuple):
    """What a month of a payload table holds; `repeated` when a request was delivered twice."""

    digest: int
    requests: int
    repeated: bool


def _contents(requests: DataFrame, versions: Mapping[str, str]) -> dict[str, _Contents]:
    """Month → its contents, from ids and entities alone: no JSON is read."""
    from pyspark.sql import functions as F

    code = fingerprint.code(inference_table, contract, sys.modules[__name__])
    counted = requests.groupBy("request_month").agg(
        F.count("*").alias("rows"),
        F.count_distinct("request_id").alias("requests"),
        # Where all are delivered once, as nearly always, no two of the same cancel each other out.
        F.bit_xor(F.xxhash64("request_id", "served_entity", "model_version")).alias("hash"),
        F.collect_set("served_entity").alias("entities"),
    )
    found = {}
    for row in counted.orderBy("request_month").collect():
        named = [(entity, versions.get(entity)) for entity in sorted(row["entities"])]
        digest = fingerprint.digest(code, row["rows"], row["hash"], named)
        found[row["request_month"]] = _Contents(
            digest, row["requests"], row["rows"] > row["requests"]
        )
    return found


def _unread(
    platform: Platform, delivered: DataFrame, versions: Mapping[str, str], stale: Sequence[str]
) -> DataFrame:
    """Those of the requests that have to be read.

    A month has merely grown when that of it which is known has the digest it was written with. Of
    it nothing is read from before the first new request: what is old has files of its own.
    """
    from pyspark.sql import functions as F

    tables, key, new = platform.tables, ["request_month", "request_id"], F.col("_known").isNull()
    first = tables.read(NAME, stale).where("request_row = 0")
    known = first.select(*key, F.lit(True).alias("_known"))
    told = delivered.select(*key, "requested_at", "served_entity", "model_version")
    told = told.join(known, key, "left")
    before = _contents(told.where(~new), versions)
    grown = [m for m in before if tables.made_from(NAME, m) == before[m].digest]
    if not grown:
        return delivered
    begun = F.min(F.unix_micros("requested_at")).alias("begun")  # a number: no clock of a driver
    fresh = F.lit(False)
    for row in told.where(new).groupBy("request_month").agg(begun).collect():
        if row["request_month"] in grown:
            since = F.col("requested_at") >= F.timestamp_micros(F.lit(row["begun"]))
            fresh |= (F.col("request_month") == row["request_month"]) & since
    asked = delivered.where(fresh | ~F.col("request_month").isin(grown))
    return asked.join(first.where(fresh), key, "left_anti")


def _once(requests: DataFrame) -> DataFrame:
    """Each request once, the first of its deliveries."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    first = Window.partitionBy("request_id").orderBy("requested_at", "status_code", "response")
    numbered = requests.withColumn("_delivery", F.row_number().over(first))
    return numbered.where("_delivery = 1").drop("_delivery")


def _schema() -> str:
    types = {column.name: column.type for column in ENDPOINT_PAYLOADS.columns}
    return ", ".join(f"{name} {types[name]}" for name in _KEPT) + ", " + _READ


def _reader() -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _rows(batch)

    return rows


def _rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Captured requests (`inference_table.COLUMNS`) → a row for each trip, by `_schema`."""
    import pyarrow as pa

    places: list[int] = []
    values: list[tuple[Any, ...]] = []
    given = (batch.column(name).to_pylist() for name in inference_table.PAYLOAD)
    for place, payload in enumerate(zip(*given, strict=True)):
        trips = list(_trips(inference_table.read(*payload)))
        places += [place] * len(trips)
        values += trips
    kept = [batch.column(name).take(pa.array(places, pa.int64())) for name in _KEPT]
    kinds = (
        pa.int32(),
        pa.int32(),
        pa.int32(),
        pa.float64(),
        pa.timestamp("us", "UTC"),
        pa.float64(),
        pa.string(),
    )
    by_column: list[Any] = list(zip(*values, strict=True)) if values else [()] * len(kinds)
    made = [pa.array(column, kind) for column, kind in zip(by_column, kinds, strict=True)]
    fields = [part.strip().split(" ")[0] for part in _READ.split(",")]
    return pa.record_batch([*kept, *made], names=[*_KEPT, *fields])


def _trips(read: inference_table.Read) -> Iterator[tuple[Any, ...]]:
    """The values of `_READ` for each trip of a request; one row of nulls where none is known."""
    asked = read.asked
    if asked is None:
        yield (0, None, None, None, None, None, read.problem)
        return
    columns = (
        asked.pickup_location_id.tolist(),
        asked.dropoff_location_id.tolist(),
        asked.trip_distance.tolist(),
        asked.pickup_datetime,
        read.fares,
    )
    for row, (pickup, dropoff, miles, at, fare) in enumerate(zip(*columns, strict=True)):
        yield row, pickup, dropoff, miles, _instant(at), fare, read.problem


def _instant(at: datetime) -> datetime:
    """Wall clock as the tables hold it: as if it were UTC."""
    return at.replace(tzinfo=timezone.utc)
