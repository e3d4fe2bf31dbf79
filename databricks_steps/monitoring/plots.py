"""Pictures of a month: histograms against the baseline, error by day, and the map of the zones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps.distributions import FINE, Bins, Counted
from databricks_steps.errors import TableError
from databricks_steps.training.plots import BLUE, GREY, axes_of, svg

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_BARS = 32
_LEAST_TRIPS = 10  # of a zone on the map


def histogram(feature: str, bins: Bins, before: Counted, now: Counted) -> str:
    """Shares of the month's trips over those of the baseline, as an SVG text."""
    import numpy as np

    figure, axes = axes_of(feature, "share of the trips")
    edges = np.linspace(bins.low, bins.high, _BARS + 1)
    for each, color, name in ((before, GREY, "learned from"), (now, BLUE, "this month")):
        inner = each.counts[feature][2 : 2 + FINE].reshape(_BARS, -1).sum(1)
        shares = inner / max(int(each.counts[feature].sum()), 1)
        axes.stairs(shares, edges, color=color, label=name)
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


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
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def zone_map(scored: DataFrame, month: str, geometry: Path) -> str:
    """The pickup zones by mean absolute error of the predicted fares, as an SVG text.

    `geometry` is a GeoJSON of polygons whose property `LocationID` is the zone.

    Raises:
        TableError: it cannot be read as that.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Polygon

    shapes = _polygons(geometry)
    errors = _errors_by_zone(scored, month)
    top = sorted(errors.values())[int(len(errors) * 0.95)] if errors else 1.0
    figure, axes = axes_of("", "", height=6.0)
    for zone, rings in shapes:
        known = zone in errors
        color = colormaps["YlOrRd"](min(errors[zone] / top, 1.0)) if known else "#eef1f4"
        for ring in rings:
            axes.add_patch(Polygon(ring, facecolor=color, edgecolor="white", linewidth=0.3))
    axes.autoscale_view()
    axes.set_aspect(1.32)  # a degree of latitude against one of longitude, in New York
    axes.set_axis_off()
    axes.set_title(f"darkest from {top:.2f} dollars on", fontsize=8, color=GREY)
    return svg(figure)


def _errors_by_zone(scored: DataFrame, month: str) -> dict[int, float]:
    from pyspark.sql import functions as F

    error = F.abs(F.col("predicted_fare") - F.col("fare_amount"))
    rows = scored.where(F.col("trip_month") == month).groupBy("pickup_location_id")
    found = rows.agg(F.avg(error).alias("mae"), F.count(error).alias("trips")).collect()
    return {r["pickup_location_id"]: r["mae"] for r in found if r["trips"] >= _LEAST_TRIPS}


def _polygons(geometry: Path) -> list[tuple[int, list[list[list[float]]]]]:
    """Zone → the outer ring of each of its parts."""
    try:
        found = []
        for each in json.loads(geometry.read_text(encoding="utf-8"))["features"]:
            shape = each["geometry"]
            parts = shape["coordinates"]
            parts = [parts] if shape["type"] == "Polygon" else parts
            found.append((int(each["properties"]["LocationID"]), [part[0] for part in parts]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(
            "TAXI_ZONES must name a GeoJSON of polygons with a property LocationID",
            f"{geometry}: {error!r}",
            "Correct it, or unset it: reports go without the map",
        ) from error
    return found
