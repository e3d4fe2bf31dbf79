"""The five data steps as one polars process: the limit that `pipeline` is measured against.

Usage: PYTHON _polars_steps.py FOLDER OUT MONTH…, prints JSON: table → rows. Nothing of the project
is imported, and nothing is checked: no ids, no history, no proof. Run by a Python with polars.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

QUARTER, WEEK = timedelta(minutes=15), timedelta(days=7)
HALF_HOUR, HOUR, DAY = timedelta(minutes=30), timedelta(hours=1), timedelta(days=1)
MICRO = 1_000_000  # sums are of whole millionths, so that they are exact
AIRPORTS = (1, 132, 138)
NAMES = {
    "lpep_pickup_datetime": "pickup",
    "lpep_dropoff_datetime": "dropoff",
    "PULocationID": "from",
    "DOLocationID": "to",
}
PARTS = (
    *("fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount", "ehail_fee"),
    *("improvement_surcharge", "congestion_surcharge"),
)
SAME_TRIP = ("VendorID", *NAMES.values(), "month")  # what both halves of a voided trip share


def main(folder: str, out: str, *months: str) -> None:
    raw = raw_trips(Path(folder), months)
    trips = valid(raw)
    ended = trips.with_columns(
        cell=pl.col("dropoff").dt.truncate("15m"),
        seconds=(pl.col("dropoff") - pl.col("pickup")).dt.total_seconds(),
        fare=(pl.col("fare_amount") * MICRO).round().cast(pl.Int64),
        miles=(pl.col("trip_distance") * MICRO).round().cast(pl.Int64),
    )
    first = datetime.fromisoformat(f"{months[0]}-01")
    last = (datetime.fromisoformat(f"{months[-1]}-01") + timedelta(days=32)).replace(day=1)
    pickup, dropoff = (
        made.filter(pl.col("at").is_between(first, last, closed="left"))
        for made in (pickup_features(ended), dropoff_features(ended))
    )
    tables = {
        "raw_trips": raw,
        "trips": trips,
        "pickup_features": pickup,
        "dropoff_features": dropoff,
        "training_set": training_set(trips, pickup, dropoff),
    }
    for name, table in tables.items():
        table.write_parquet(Path(out) / f"{name}.parquet")
    print(json.dumps({name: len(table) for name, table in tables.items()}))


def raw_trips(folder: Path, months: tuple[str, ...]) -> pl.DataFrame:
    """Every published row of the months; types differ from file to file."""
    frames = [
        pl.read_parquet(folder / f"green_tripdata_{month}.parquet").with_columns(
            pl.lit(month).alias("month"), pl.col("VendorID").cast(pl.Int64)
        )
        for month in months
    ]
    return pl.concat(frames, how="diagonal_relaxed").rename(NAMES)


def valid(raw: pl.DataFrame) -> pl.DataFrame:
    """The trips that break no rule; both halves of a voided one and further copies go."""
    miles, fare, negative = pl.col("trip_distance"), pl.col("fare_amount"), pl.col("negative")
    micros = (pl.col("dropoff") - pl.col("pickup")).dt.total_microseconds()
    parts = (pl.col(n).cast(pl.Float64).fill_null(0) for n in PARTS if n in raw.columns)
    total = pl.col("total_amount")
    apart = (total - pl.sum_horizontal(parts)).abs()
    group = [*SAME_TRIP, "size"]
    marked = raw.with_columns(
        first=pl.struct(raw.columns).is_first_distinct(), size=fare.abs(), negative=fare < 0
    )
    marked = marked.with_columns(
        number=pl.int_range(pl.len()).over([*group, "negative"]),
        pairs=pl.min_horizontal(negative.sum().over(group), (~negative).sum().over(group)),
    )
    return marked.filter(
        pl.col("pickup").dt.strftime("%Y-%m") == pl.col("month"),
        micros.is_between(30 * MICRO, 4 * 3600 * MICRO),
        miles.is_between(0.05, 100),
        fare.is_between(2.5, 250),
        miles * 3600e6 / micros <= 80,
        (apart > pl.max_horizontal(pl.lit(5.0), total.abs() * 0.5)).fill_null(False).not_(),
        pl.col("number") >= pl.col("pairs"),
        pl.col("first"),
    )


def sums(cells: list[pl.DataFrame], windows: dict[str, tuple[str, timedelta]]) -> pl.DataFrame:
    """(here, at, one column a window): running sums of what each cell brings and takes away."""
    changes = []
    for frame in cells:
        own = {name: (m, window) for name, (m, window) in windows.items() if m in frame.columns}
        at = pl.col("cell") + QUARTER
        brought = (pl.col(measure).alias(name) for name, (measure, _) in own.items())
        changes.append(frame.select("here", at.alias("at"), *brought))
        for over in {window for _, window in own.values()}:
            gone = ((-pl.col(m)).alias(n) for n, (m, window) in own.items() if window == over)
            changes.append(frame.select("here", (at + over).alias("at"), *gone))
    every = pl.concat(changes, how="diagonal")
    names = list(windows)
    moments = every.group_by("here", "at").agg(pl.col(n).sum() for n in names).sort("here", "at")
    return moments.with_columns(pl.col(n).cum_sum().over("here") for n in names)


def cells(ended: pl.DataFrame, here: str) -> pl.DataFrame:
    grouped = ended.group_by(pl.col(here).alias("here"), "cell")
    return grouped.agg(
        trips=pl.len().cast(pl.Int64),
        fare=pl.col("fare").sum(),
        miles=pl.col("miles").sum(),
        seconds=pl.col("seconds").sum(),
    )


def pickup_features(ended: pl.DataFrame) -> pl.DataFrame:
    windows = {
        f"{measure}_{hours}": (measure, timedelta(hours=hours))
        for measure, spans in (
            ("trips", (1, 24, 168)),
            ("fare", (1, 24, 168)),
            ("miles", (1, 168)),
            ("seconds", (1,)),
        )
        for hours in spans
    }
    made = sums([cells(ended, "from")], windows)
    return made.select(
        "here",
        "at",
        "trips_1",
        "trips_24",
        mean_fare_1h=ratio("fare_1", "trips_1"),
        mean_fare_24h=ratio("fare_24", "trips_24"),
        mean_fare_7d=ratio("fare_168", "trips_168"),
        fare_per_mile_7d=ratio("fare_168", "miles_168"),
        mean_speed_1h=ratio("miles_1", "seconds_1"),
        is_airport=pl.col("here").is_in(AIRPORTS),
    )


def dropoff_features(ended: pl.DataFrame) -> pl.DataFrame:
    arrived = cells(ended, "to").with_columns(flow=pl.col("trips"))
    left = cells(ended, "from").select("here", "cell", flow=-pl.col("trips"))
    windows = {
        "trips_30m": ("trips", HALF_HOUR),
        "trips_24": ("trips", DAY),
        "trips_168": ("trips", WEEK),
        "fare_168": ("fare", WEEK),
        "miles_168": ("miles", WEEK),
        "flow_1": ("flow", HOUR),
    }
    made = sums([arrived, left], windows)
    pairs = ended.select(pl.col("to").alias("here"), "from", "cell").unique()
    pairs = pairs.sort("here", "from", "cell")
    before, after = (pl.col("cell").shift(n).over("here", "from") for n in (1, -1))
    starts = pairs.filter((before.is_null() | (before + DAY < pl.col("cell"))).fill_null(True))
    ends = pairs.filter((after.is_null() | (pl.col("cell") + DAY < after)).fill_null(True))
    edges = pl.concat(
        [
            found.select("here", at=pl.col("cell") + QUARTER + later, origins=pl.lit(change))
            for found, later, change in ((starts, timedelta(0), 1), (ends, DAY, -1))
        ]
    )
    origins = edges.group_by("here", "at").agg(pl.col("origins").sum()).sort("here", "at")
    origins = origins.with_columns(pl.col("origins").cum_sum().over("here"))
    instants = (
        pl.concat([made.select("here", "at"), origins.select("here", "at")]).unique().sort("at")
    )
    for table in (made, origins):
        instants = instants.join_asof(table.sort("at"), on="at", by="here", check_sortedness=False)
    return instants.select(
        "here",
        "at",
        "trips_30m",
        "trips_24",
        mean_fare_7d=ratio("fare_168", "trips_168"),
        fare_per_mile_7d=ratio("fare_168", "miles_168"),
        distinct_pickups_24h=pl.col("origins"),
        net_flow_1h=pl.col("flow_1"),
    )


def ratio(above: str, below: str) -> pl.Expr:
    return pl.when(pl.col(below) > 0).then(pl.col(above) / pl.col(below))


def training_set(trips: pl.DataFrame, pickup: pl.DataFrame, dropoff: pl.DataFrame) -> pl.DataFrame:
    found = trips.sort("pickup")
    for here, table, name in (("from", pickup, "p"), ("to", dropoff, "d")):
        rows = table.sort("at").with_columns(known=pl.col("at"))
        found = found.join_asof(
            rows,
            left_on="pickup",
            right_on="at",
            by_left=here,
            by_right="here",
            tolerance=WEEK,
            suffix=f"_{name}",
            check_sortedness=False,
        )
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
