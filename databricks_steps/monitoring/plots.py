"""Pictures of months: histograms against the baseline, drift, error and requests over time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps import plots
from databricks_steps.distributions import ALL, FINE, Bins, Counted
from databricks_steps.errors import TableError
from databricks_steps.plots import BLUE, GREY, INK, PALE, axes_of, svg

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from databricks_steps.distributions import Array

_BARS = 32
_LEAST_TRIPS = 10  # of a zone on a map
_FEATURES = 16  # that moved most
_SCALE = (0.0, 1.0)  # standard deviations


def histogram(feature: str, bins: Bins, before: Counted, now: Counted) -> str:
    """Shares of the month's trips over those of the baseline, as an SVG text."""
    figure, axes = axes_of(feature, "share of the trips")
    counts = [each.counts[feature] for each in (before, now)]
    edges, bars = bars_of(bins, [each[2 : 2 + FINE] for each in counts])
    for every, inner, color, name in zip(
        counts, bars, (GREY, BLUE), ("learned from", "this month"), strict=True
    ):
        axes.stairs(inner / max(int(every.sum()), 1), edges, color=color, label=name)
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def bars_of(bins: Bins, counts: Sequence[Array]) -> tuple[Array, list[Array]]:
    """Edges (bars + 1,) and heights (bars,) of several counts (FINE,) of the same bins.

    A feature of few values, an hour, has a bar for each: even bars would leave gaps among them.
    """
    import numpy as np

    used = np.flatnonzero(sum(counts))
    if not 1 < used.size <= _BARS:
        edges = np.linspace(bins.low, bins.high, _BARS + 1)
        return edges, [each.reshape(_BARS, -1).sum(1) for each in counts]
    places = bins.centres()[1 + used]  # the first lies under the bins
    between = (places[1:] + places[:-1]) / 2
    ends = [2 * places[0] - between[0], 2 * places[-1] - between[-1]]
    return np.array([ends[0], *between, ends[1]]), [each[used] for each in counts]


def error_by_day(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean absolute error by day, against the one expected of the day's trips."""
    figure, axes = axes_of("day", "mean absolute error, dollars")
    for source, color in (("batch", BLUE), ("endpoint", GREY)):
        days = sorted(
            (int(row["day"][-2:]), row["mae"], row["expected"])
            for row in rows
            if row["predictions"] == source and row["slice"] == "all" and row["day"] != "all"
            if row["mae"] is not None and row["expected"] is not None
        )
        if days:
            day, error, expected = zip(*days, strict=True)
            axes.plot(day, error, "o-", color=color, markersize=3, label=source)
            axes.plot(day, expected, "--", color=color, linewidth=1, label=f"{source}, expected")
            axes.legend(frameon=False, fontsize=8)
    plots.from_zero(axes)
    return svg(figure)


def heat_map(rows: Sequence[Mapping[str, Any]]) -> str:
    """How far each feature moved, month by month, of rows of `schemas.DRIFT_REPORT`."""
    whole = [row for row in rows if row["slice"] == ALL and row["wasserstein"] is not None]
    months = sorted({row["trip_month"] for row in whole})
    most: dict[str, float] = {}
    for row in whole:
        most[row["feature"]] = max(row["wasserstein"], most.get(row["feature"], 0.0))
    features = sorted(most, key=lambda name: -most[name])[:_FEATURES]
    moved = {(row["feature"], row["trip_month"]): row["wasserstein"] for row in whole}
    values = [[moved.get((name, month), nan) for month in months] for name in features]
    return plots.heat_map(features, months, values, "standard deviations moved", _SCALE)


def error_by_month(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean absolute error of each month, and the one expected of its trips; `rows` as by day."""
    figure, axes = axes_of("", "mean absolute error, dollars")
    told = [row for row in rows if row["slice"] == row["day"] == ALL and row["mae"] is not None]
    for source, color in (("batch", BLUE), ("endpoint", GREY)):
        months = {row["trip_month"]: row for row in told if row["predictions"] == source}
        if months:
            names = sorted(months)
            axes.plot(names, [months[m]["mae"] for m in names], "o-", color=color, label=source)
            wanted = [months[m]["expected"] for m in names]
            axes.plot(names, wanted, "--", color=color, linewidth=1, label=f"{source}, expected")
            axes.legend(frameon=False, fontsize=8)
    plots.from_zero(axes)
    axes.tick_params(axis="x", rotation=45)
    return svg(figure)


def requests_by_hour(hours: Sequence[tuple[str, int, float, float]]) -> str:
    """Requests by hour, of `payloads.by_hour`, and how long they took."""
    figure, axes = axes_of("hour, UTC", "requests", height=3.6)
    names, requests, median, slow = zip(*hours, strict=True)
    axes.bar(range(len(names)), requests, color=PALE)
    step = len(names) // 6 + 1
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=30, fontsize=7)
    beside = axes.twinx()
    beside.set_ylabel("milliseconds to the answer", fontsize=8, color=INK)
    beside.tick_params(labelsize=8, colors=INK)
    beside.plot(range(len(names)), median, "-", color=BLUE, label="half of the answers")
    beside.plot(range(len(names)), slow, "--", color=GREY, label="99 of 100")
    plots.from_zero(beside)
    beside.legend(frameon=False, fontsize=8)
    return svg(figure)


def errors_by_zone(scored: DataFrame) -> dict[str, dict[int, float]]:
    """Month → pickup zone → mean absolute error of the fares predicted, dollars.

    Zones of few trips are left out.
    """
    from pyspark.sql import functions as F

    error = F.abs(F.col("predicted_fare") - F.col("fare_amount"))
    rows = scored.groupBy("trip_month", "pickup_location_id")
    found: dict[str, dict[int, float]] = {}
    for month, zone, mae, trips in rows.agg(F.avg(error), F.count(error)).collect():
        if trips >= _LEAST_TRIPS:
            found.setdefault(month, {})[zone] = mae
    return found


def outlines(geometry: Path) -> dict[int, str]:
    """Zone → its outline for a map, of a GeoJSON of polygons whose `LocationID` is the zone.

    Raises:
        TableError: it cannot be read as that.
    """
    try:
        found: dict[int, list[list[list[float]]]] = {}
        for each in json.loads(geometry.read_text(encoding="utf-8"))["features"]:
            shape = each["geometry"]
            parts = shape["coordinates"]
            parts = [parts] if shape["type"] == "Polygon" else parts
            found.setdefault(int(each["properties"]["LocationID"]), []).extend(p[0] for p in parts)
        return plots.projected(found)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TableError(
            "TAXI_ZONES must name a GeoJSON of polygons with a property LocationID",
            f"{geometry}: {error!r}",
            "Correct it, or unset it: the map is that of New York then",
        ) from error
