"""Whether feature rows can be trusted: unique keys, and no knowledge of the future.

Nothing here uses the way features are computed: the brute force reads the definitions anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.features import windows
from databricks_steps.features.lookups import Lookup
from databricks_steps.interfaces import Verdict
from databricks_steps.spark_compat import kept

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SAMPLE = 200  # trips, of all months that are measured together
SHOWN = 3  # keys of a month
TOLERANCE = 1e-6


def bad_keys(rows: DataFrame, table: schemas.Table) -> dict[str, list[str]]:
    """Month → some keys that occur twice in it, or hold a null; every month that has any."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    month, keys = str(table.month), list(table.primary_key)
    missing = F.lit(False)
    for key in keys:
        missing = missing | F.col(key).isNull()
    bad = rows.groupBy(month, *keys).count().where((F.col("count") > 1) | missing)
    place = F.row_number().over(Window.partitionBy(month).orderBy(*keys))
    found: dict[str, list[str]] = {}
    for row in bad.withColumn("_place", place).where(F.col("_place") <= SHOWN).collect():
        found.setdefault(row[month], []).append(", ".join(f"{k}={row[k]}" for k in keys))
    return found


def key_unique(bad: Iterable[str]) -> Verdict:
    """No two rows of a month share the primary key, and no part of it is null."""
    shown = "; ".join(list(bad)[:SHOWN])
    reason = f"a key is null or occurs twice: {shown}" if shown else "every key occurs once"
    return Verdict("key_unique", not shown, reason)


def compared(
    asked: Mapping[str, DataFrame],
    trips: DataFrame,
    lookup: Lookup,
    look_up: Callable[[DataFrame], DataFrame],
) -> dict[str, dict[str, Any]]:
    """Month → what a sample of its trips looks up, against what the trips ended by then tell.

    `trips` and `values` count what was compared, `wrong` are sentences on what differs. `asked`
    is month → the trips to sample (together `SAMPLE`, by hash, of each month as many), `trips`
    those that features may be made from, `look_up` what everything else uses: trips → trips with
    the lookup's features.
    """
    from pyspark.sql import functions as F

    each = math.ceil(SAMPLE / len(asked))
    samples = [month.orderBy(F.xxhash64("trip_id")).limit(each) for month in asked.values()]
    with kept(reduce(lambda one, other: one.unionAll(other), samples)) as sample:
        columns = ("trip_id", "trip_month", *lookup.features)
        looked_up = look_up(sample).select(*columns)
        found = looked_up.join(recomputed(sample, trips, lookup), "trip_id", "left").collect()
    months: dict[str, dict[str, Any]] = {}
    for row in sorted(found, key=lambda row: str(row["trip_id"])):
        month = months.setdefault(row["trip_month"], nothing_compared())
        month["trips"] += 1
        month["values"] += len(lookup.features)
        for name in lookup.features:
            value, truth = row[name], float(row[f"true_{name}"])
            if abs(float(value) - truth) > TOLERANCE:
                month["wrong"].append(
                    f"trip {row['trip_id']} looked up {name} {value}, "
                    f"but trips ended by then give {truth}"
                )
    return months


def nothing_compared() -> dict[str, Any]:
    """The figures of a month of which no trip was sampled."""
    return {"trips": 0, "values": 0, "wrong": []}


def no_future_knowledge(months: Iterable[Mapping[str, Any]]) -> Verdict:
    """What a sample of trips looks up equals what the trips ended by then tell.

    `months` are figures of `compared`.
    """
    months = list(months)
    wrong = [sentence for month in months for sentence in month["wrong"]]
    trips, values = (sum(month[name] for month in months) for name in ("trips", "values"))
    figures = {
        "trips_compared": trips,
        "values_compared": values,
        "values_that_differ": len(wrong),
    }
    if wrong:
        reason = f"{len(wrong)} of {values} values differ; for one, {wrong[0]}"
    elif trips:
        reason = f"{trips} trips looked up exactly what the trips ended by then tell"
    else:
        reason = "there is no trip to look up for"
    return Verdict("no_future_knowledge", not wrong, reason, figures)


def recomputed(sample: DataFrame, trips: DataFrame, lookup: Lookup) -> DataFrame:
    """`trip_id` and `true_<feature>` by brute force, from trips that ended before the pickup."""
    from pyspark.sql import functions as F

    pickup = F.col("pickup_datetime")
    quarter = F.floor(F.minute(pickup) / 15).cast("int") * 15
    instant = F.date_trunc("hour", pickup) + F.make_dt_interval(mins=quarter)
    asked = F.broadcast(
        sample.select("trip_id", F.col(lookup.key).alias("at_location"), instant.alias("at"))
    )
    if lookup.table is schemas.PICKUP_FEATURES:
        truth = asked.join(
            _pickup_truth(_ended(asked, trips, "pickup_location_id")), "trip_id", "left"
        )
    else:
        arrived = _dropoff_truth(_ended(asked, trips, "dropoff_location_id"))
        left = _ended(asked, trips, "pickup_location_id").groupBy("trip_id")
        leaving = left.agg(F.count(F.when(_within("1 HOUR"), 1)).alias("leaving"))
        flow = F.coalesce("arriving", F.lit(0)) - F.coalesce("leaving", F.lit(0))
        truth = (
            asked.join(arrived, "trip_id", "left")
            .join(leaving, "trip_id", "left")
            .withColumn("true_dropoff_net_flow_1h", flow)
        )
    columns = [
        F.coalesce(F.col(f"true_{name}"), F.lit(default)).cast("double").alias(f"true_{name}")
        for name, default in lookup.defaults.items()
    ]
    return truth.select("trip_id", *columns)


def _ended(asked: DataFrame, trips: DataFrame, here: str) -> DataFrame:
    """Each asked instant with the trips of its location that ended in the week before it."""
    from pyspark.sql import functions as F

    other = trips.select(
        F.col(here).alias("_here"),
        F.col("pickup_location_id").alias("_origin"),
        F.col("pickup_datetime").alias("_started"),
        F.col("dropoff_datetime").alias("_ended"),
        # To the millionth, as features are summed: over short trips a speed shows the difference.
        (F.round(F.col("fare_amount") * windows.MICRO) / windows.MICRO).alias("_fare"),
        (F.round(F.col("trip_distance") * windows.MICRO) / windows.MICRO).alias("_miles"),
    )
    week = F.expr("INTERVAL 7 DAYS")
    by_then = (F.col("_ended") < F.col("at")) & (F.col("_ended") >= F.col("at") - week)
    return asked.join(other, (F.col("_here") == F.col("at_location")) & by_then)


def _within(span: str) -> Column:
    from pyspark.sql import functions as F

    return F.col("_ended") >= F.col("at") - F.expr(f"INTERVAL {span}")


def _pickup_truth(ended: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    hour, day = _within("1 HOUR"), _within("24 HOURS")
    seconds = F.unix_seconds("_ended") - F.unix_seconds("_started")
    speed = F.sum(F.when(hour, F.col("_miles"))) / (F.sum(F.when(hour, seconds)) / 3600)
    return ended.groupBy("trip_id").agg(
        F.count(F.when(hour, 1)).alias("true_pickup_trip_count_1h"),
        F.count(F.when(day, 1)).alias("true_pickup_trip_count_24h"),
        F.avg(F.when(hour, F.col("_fare"))).alias("true_pickup_mean_fare_1h"),
        F.avg(F.when(day, F.col("_fare"))).alias("true_pickup_mean_fare_24h"),
        F.avg("_fare").alias("true_pickup_mean_fare_7d"),
        (F.sum("_fare") / F.sum("_miles")).alias("true_pickup_fare_per_mile_7d"),
        speed.alias("true_pickup_mean_speed_1h"),
    )


def _dropoff_truth(ended: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    day = _within("24 HOURS")
    return ended.groupBy("trip_id").agg(
        F.count(F.when(_within("30 MINUTES"), 1)).alias("true_dropoff_trip_count_30m"),
        F.count(F.when(day, 1)).alias("true_dropoff_trip_count_24h"),
        F.avg("_fare").alias("true_dropoff_mean_fare_7d"),
        (F.sum("_fare") / F.sum("_miles")).alias("true_dropoff_fare_per_mile_7d"),
        F.countDistinct(F.when(day, F.col("_origin"))).alias("true_dropoff_distinct_pickups_24h"),
        F.count(F.when(_within("1 HOUR"), 1)).alias("arriving"),
    )
