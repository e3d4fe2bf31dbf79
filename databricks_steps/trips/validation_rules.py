"""Which trips are valid: the rules as data, and the frames of valid and of quarantined trips.

Unknown codes (rate code 99, no passengers, vendor 6, zones 264 and 265) and absent optional
columns break no rule: a third of a month may carry them. Whether a fare is one is told by the
total alone: it is the sum of its parts, or nearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.trips.column_mapping import REQUIRED
from databricks_steps.trips.limits import (
    FASTEST_MPH,
    FIRST_LOCATION,
    LAST_LOCATION,
    LEAST_FARE,
    LEAST_MILES,
    LONGEST_SECONDS,
    MOST_FARE,
    MOST_MILES,
    SHORTEST_SECONDS,
)
from databricks_steps.trips.normalize import ID_LENGTH

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

APART_DOLLARS, APART_SHARE = 5, 0.5  # how far a total may be from the sum of its parts
PARTS = (
    "fare_amount",
    "extra",
    "mta_tax",
    "tip_amount",
    "tolls_amount",
    "ehail_fee",
    "improvement_surcharge",
    "congestion_surcharge",
    "airport_fee",
    "cbd_congestion_fee",
)

# What both halves of a voided trip share in every month looked at; only amounts change sign.
VOID_KEY = (
    "trip_month",
    "vendor_id",
    "pickup_datetime",
    "dropoff_datetime",
    "pickup_location_id",
    "dropoff_location_id",
)
_VOIDED = "__voided"


@dataclass(frozen=True)
class Rule:
    """A trip breaks the rule when `condition` is true (null is not); `reason` is a text.

    Both are Spark SQL over the columns of `raw_trips`.
    """

    name: str
    condition: str
    reason: str


def _unread(column: str) -> str:
    return f"coalesce(array_contains(unreadable, '{column}'), false)"


def _missing(column: str) -> str:
    """Null as published; a text that could not be read falls under its own rule."""
    return f"({column} IS NULL AND NOT {_unread(column)})"


def _names(columns: tuple[str, ...], what: str) -> str:
    """SQL: the columns for which it is so, in people's words, and `what` of them."""
    named = ", ".join(f"if({_missing(c)}, '{c.replace('_', ' ')}', null)" for c in columns)
    return f"concat(concat_ws(' and ', {named}), ' {what}')"


def _shown(value: str, pattern: str) -> str:
    """SQL: the number as people read it. Beyond 15 digits engines write different ones."""
    return (
        f"CASE WHEN abs({value}) < 1e9D THEN format_number({value}, '{pattern}') "
        f"WHEN abs({value}) < 1e15D THEN format_number({value}, '0') "
        f"WHEN {value} < 0 THEN 'below -1e15' ELSE 'above 1e15' END"
    )


_MICROS = "(unix_micros(dropoff_datetime) - unix_micros(pickup_datetime))"
_SPEED = f"(trip_distance * 3600e6 / nullif({_MICROS}, 0))"
_PARTS = f"({' + '.join(f'coalesce({name}, 0)' for name in PARTS)})"
_TIMES = ("pickup_datetime", "dropoff_datetime")
_LOCATIONS = ("pickup_location_id", "dropoff_location_id")


def _no_location(column: str) -> str:
    return f"(NOT {column} BETWEEN {FIRST_LOCATION} AND {LAST_LOCATION})"


_LOCATIONS_SHOWN = ", ".join(
    f"if({_no_location(c)}, concat('{c.replace('_', ' ')} is ', {c}), null)" for c in _LOCATIONS
)
_REQUIRED_SQL = ", ".join(f"'{column}'" for column in REQUIRED)
_LONGEST_HOURS = LONGEST_SECONDS // 3600

RULES = (
    Rule(
        "unreadable",
        f"arrays_overlap(unreadable, array({_REQUIRED_SQL}))",
        f"concat(concat_ws(', ', array_intersect(unreadable, array({_REQUIRED_SQL}))), "
        "' cannot be read')",
    ),
    Rule("time_missing", " OR ".join(map(_missing, _TIMES)), _names(_TIMES, "not given")),
    Rule(
        "location_missing", " OR ".join(map(_missing, _LOCATIONS)), _names(_LOCATIONS, "not given")
    ),
    Rule(
        "location",
        " OR ".join(map(_no_location, _LOCATIONS)),
        f"concat(concat_ws(' and ', {_LOCATIONS_SHOWN}), "
        f"'; valid is {FIRST_LOCATION} to {LAST_LOCATION}')",
    ),
    Rule(
        "outside_month",
        "date_format(pickup_datetime, 'yyyy-MM') <> trip_month",
        "concat('picked up on ', date_format(pickup_datetime, 'yyyy-MM-dd'), "
        "'; the month of the file is ', trip_month)",
    ),
    Rule(
        "duration",
        f"NOT {_MICROS} BETWEEN {SHORTEST_SECONDS}000000 AND {LONGEST_SECONDS}000000",
        f"concat('trip took ', regexp_replace({_shown(f'{_MICROS} / 1e6D', '0.######')}, "
        f"'^-0$', '0'), ' seconds; valid is {SHORTEST_SECONDS} seconds to {_LONGEST_HOURS} hours')",
    ),
    Rule(
        "distance",
        f"{_missing('trip_distance')} OR "
        f"NOT trip_distance BETWEEN {LEAST_MILES}D AND {MOST_MILES}D",
        "if(trip_distance IS NULL, 'distance not given', "
        f"concat('distance is ', {_shown('trip_distance', '0.00####')}, "
        f"' miles; valid is {LEAST_MILES} to {MOST_MILES}'))",
    ),
    Rule(
        "fare",
        f"{_missing('fare_amount')} OR NOT fare_amount BETWEEN {LEAST_FARE}D AND {MOST_FARE}D",
        "if(fare_amount IS NULL, 'fare not given', "
        f"concat('fare is ', {_shown('fare_amount', '0.00##')}, "
        f"' dollars; valid is {LEAST_FARE:.2f} to {MOST_FARE:.2f}'))",
    ),
    Rule(
        "total",
        f"fare_amount BETWEEN {LEAST_FARE}D AND {MOST_FARE}D AND abs(total_amount - {_PARTS}) > "
        f"greatest({APART_DOLLARS}D, abs(total_amount) * {APART_SHARE}D)",
        f"concat('fare is no fare: with all its parts it makes ', {_shown(_PARTS, '0.00')}, "
        f"' dollars, the total is ', {_shown('total_amount', '0.00')}, "
        f"'; valid is a difference of {APART_DOLLARS} dollars or half of the total')",
    ),
    Rule(
        "speed",
        f"{_MICROS} > 0 AND {_SPEED} > {FASTEST_MPH}",
        f"concat('speed is ', {_shown(_SPEED, '0.0')}, "
        f"' miles per hour; valid is at most {FASTEST_MPH}')",
    ),
    Rule(
        "voided",
        _VOIDED,
        "if(fare_amount < 0, 'voids a trip with the same vendor, times, locations and fare', "
        "'voided by a row with the same vendor, times and locations and the fare negative')",
    ),
    Rule(
        "duplicate",
        f"length(trip_id) > {ID_LENGTH}",
        "concat('a further copy of the same row, number ', "
        f"cast(substring(trip_id, {ID_LENGTH + 2}) AS int) + 1, ' of its kind')",
    ),
)


def with_broken_rules(raw: DataFrame) -> DataFrame:
    """Raw trips with the rules each broke and the reasons in words; both empty for a valid trip."""
    from pyspark.sql import functions as F

    broken = F.array_compact(
        F.array(
            *(
                F.when(
                    F.expr(rule.condition),
                    F.struct(
                        F.lit(rule.name).alias("rule"),
                        F.coalesce(F.expr(rule.reason), F.lit(rule.name)).alias("reason"),
                    ),
                )
                for rule in RULES
            )
        )
    )
    # The few first: Sail hashes what stands there, whatever the hint.
    marked = F.broadcast(_voided(raw)).join(raw, "trip_id", "right").withColumn("__broken", broken)
    return marked.select(
        *schemas.RAW_TRIPS.names,
        F.col("__broken.rule").alias("rules"),
        F.col("__broken.reason").alias("reasons"),
    )


def valid_trips(checked: DataFrame) -> DataFrame:
    """The trips that broke no rule, in the columns of `trips`."""
    return checked.where("size(rules) = 0").select(*schemas.TRIPS.names)


def quarantined_trips(checked: DataFrame) -> DataFrame:
    """The other trips, with every rule and reason, in the columns of `quarantined_trips`."""
    return checked.where("size(rules) > 0").select(*schemas.QUARANTINED_TRIPS.names)


def _voided(raw: DataFrame) -> DataFrame:
    """Ids of both halves of voided trips: the i-th negative fare nets the i-th positive one.

    Few fares are negative, so that only rows with the pickup time and fare of one are sorted.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    slim = raw.select(
        "trip_id",
        "source_file",
        "source_row",
        *VOID_KEY,
        F.abs("fare_amount").alias("fare"),
        (F.col("fare_amount") < 0).alias("negative"),
    ).where("fare > 0 AND pickup_datetime IS NOT NULL AND dropoff_datetime IS NOT NULL")
    negatives = slim.where("negative").select("pickup_datetime", "fare").distinct()
    candidates = F.broadcast(negatives).join(slim, ["pickup_datetime", "fare"])
    key = [*VOID_KEY, "fare"]
    in_order = Window.partitionBy(*key, "negative").orderBy("source_file", "source_row")
    group = Window.partitionBy(*key)
    numbered = candidates.select(
        "trip_id",
        F.row_number().over(in_order).alias("number"),
        F.count_if(F.col("negative")).over(group).alias("negatives"),
        F.count_if(~F.col("negative")).over(group).alias("positives"),
    )
    paired = numbered.where("number <= least(negatives, positives)")
    return paired.select("trip_id", F.lit(True).alias(_VOIDED))
