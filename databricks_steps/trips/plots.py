"""Pictures of a month of trips: what they cost by hour and weekday, by zone, and what was wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

from databricks_steps.plots import bars, heat_map, zone_map

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_HOURS = tuple(f"{hour}:00" for hour in range(24))
_LEAST_TRIPS = 10  # of a zone on the map


def of_months(trips: DataFrame, months: Sequence[str]) -> dict[str, dict[str, str]]:
    """Month → caption → SVG of its valid trips; nothing for a month without any."""
    from pyspark.sql import functions as F

    # As numbers of days: names of weekdays are another thing to each engine.
    day = F.pmod(
        F.datediff(F.to_date("pickup_datetime"), F.lit("1970-01-05").cast("date")), F.lit(7)
    )
    hour = F.hour("pickup_datetime")
    paid = (F.avg("fare_amount").alias("fare"), F.count("*").alias("trips"))
    by_hour = trips.groupBy("trip_month", day.alias("day"), hour.alias("hour")).agg(*paid).collect()
    by_zone = trips.groupBy("trip_month", "pickup_location_id").agg(*paid).collect()
    return {
        month: _of_month(
            {(r["day"], r["hour"]): r["fare"] for r in by_hour if r["trip_month"] == month},
            {
                r["pickup_location_id"]: r["fare"]
                for r in by_zone
                if r["trip_month"] == month and r["trips"] >= _LEAST_TRIPS
            },
        )
        for month in months
    }


def _of_month(
    by_hour: Mapping[tuple[int, int], Any], by_zone: Mapping[int, float]
) -> dict[str, str]:
    """(Monday 0, hour) and pickup zone → mean fare, as pictures."""
    if not by_hour:
        return {}
    fares = [[by_hour.get((d, h), nan) for h in range(len(_HOURS))] for d in range(len(_DAYS))]
    return {
        "Mean fare by hour and weekday": heat_map(_DAYS, _HOURS, fares, "dollars"),
        "Mean fare by pickup zone": zone_map(by_zone, "dollars"),
    }


def rules(broken: Mapping[str, int]) -> dict[str, str]:
    """Caption → SVG of how many trips broke which rule; nothing where none did."""
    if not broken:
        return {}
    ranked = dict(sorted(broken.items(), key=lambda item: -item[1]))
    return {"Trips by the rule they broke": bars(ranked, "trips", logarithmic=True)}
