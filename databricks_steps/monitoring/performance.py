"""`live_performance`: predictions against the fares that came in later, by day and slice.

Only trips that the version has not learned from count: those picked up after its holdout began.
What is usual is what the version should err on the same mix of trips: see `expected_error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from math import sqrt
from typing import TYPE_CHECKING, Any

from databricks_steps.features.windows import instant
from databricks_steps.interfaces import Severity, Verdict
from databricks_steps.monitoring import ground_truth
from databricks_steps.monitoring.thresholds import ErrorLimits
from databricks_steps.months import end
from databricks_steps.schemas import LABEL
from databricks_steps.settings import Gate, Slicing
from databricks_steps.training.expected_error import KEY, ExpectedError
from databricks_steps.training.registry import HOLDOUT_FROM, Version
from databricks_steps.training.slices import column_of, name_in

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ALL, BATCH, ENDPOINT = "all", "batch", "endpoint"
OK, WARN, ERROR, FEW = "ok", "warn", "error", "few"
LIMITS = ErrorLimits()
VENDOR = Slicing("vendor", "vendor_id", 0.0)  # no slice of the gate: a model is not judged by it
SLICINGS = (*Gate().slicings, VENDOR)
Row = dict[str, Any]  # of schemas.LIVE_PERFORMANCE


@dataclass
class _Sums:
    """Sums over some predictions; the errors are of those whose fare is known."""

    predictions: int = 0
    trips: int = 0
    error: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    expected: float = 0.0  # of the absolute ones

    def add(self, other: _Sums) -> None:
        self.predictions += other.predictions
        self.trips += other.trips
        self.error += other.error
        self.absolute += other.absolute
        self.squared += other.squared
        self.expected += other.expected


def unseen_from(version: Version) -> datetime | None:
    """The first pickup that a version has not learned from: New York wall clock.

    Versions registered before this was recorded have learned all their months. None: not known.
    """
    if HOLDOUT_FROM in version.tags:
        return datetime.fromisoformat(version.tags[HOLDOUT_FROM])
    months = version.tags.get("months", "")
    return end(max(months.split(","))) if months else None


def measured(
    scored: DataFrame | None,
    payloads: DataFrame | None,
    trips: DataFrame,
    version: Version,
    seen_until: datetime | None,
    *,
    expected: ExpectedError,
    slicings: Sequence[Slicing] = SLICINGS,
    limits: ErrorLimits = LIMITS,
) -> list[Row]:
    """Rows of `schemas.LIVE_PERFORMANCE` for the months of `trips`, ordered by their key.

    `scored` are trips with the model's inputs and `predicted_fare`, `payloads` rows of
    `endpoint_payloads` of any month and version; either may be None. Trips picked up before
    `seen_until` (`unseen_from` of the version) are left out.
    """
    sources: dict[str, DataFrame] = {}
    if scored is not None:
        sources[BATCH] = ground_truth.with_fares(scored, trips)
    if payloads is not None:
        sources[ENDPOINT] = ground_truth.endpoint_predictions(payloads, trips, version.number)
    now = datetime.now(timezone.utc)
    rows: list[Row] = []
    for source, predictions in sources.items():
        found = _sums(predictions, seen_until, slicings, expected)
        for (month, day, name), sums in found.items():
            factor = 1.0 if name == ALL else expected.factor(name, limits.least)
            sums.expected *= factor or 1.0
            judged = factor is not None and expected.trips >= limits.least
            rows.append(
                {
                    "trip_month": month,
                    "day": day,
                    "slice": name,
                    "predictions": source,
                    "model_version": version.number,
                    **_figures(sums),
                    "level": _level(sums, name, limits) if judged else FEW,
                    "computed_at": now,
                }
            )
    return sorted(rows, key=lambda row: (row["trip_month"], row["predictions"], row["day"]))


def _sums(
    predictions: DataFrame,
    seen_until: datetime | None,
    slicings: Sequence[Slicing],
    expected: ExpectedError,
) -> dict[tuple[str, str, str], _Sums]:
    """(month, day, slice) → sums, in one pass: cells of all slicings at once, added up here."""
    from pyspark.sql import functions as F

    fare = F.col("predicted_fare")
    rows = predictions.where(fare.isNotNull() & ~F.isnan(fare))
    if seen_until is not None:
        rows = rows.where(F.col("pickup_datetime") >= instant(seen_until))
    cut = [s for s in slicings if column_of(s) in rows.columns]
    names = {f"_slice_{place}": name_in(rows, s) for place, s in enumerate(cut)}
    error = fare - F.col(LABEL)
    keys = [F.col("trip_month"), F.date_format("pickup_datetime", "yyyy-MM-dd").alias("_day")]
    cells = rows.groupBy(*keys, *(name.alias(key) for key, name in names.items())).agg(
        F.count("*").alias("predictions"),
        F.count(error).alias("trips"),
        F.sum(error).alias("error"),
        F.sum(F.abs(error)).alias("absolute"),
        F.sum(error * error).alias("squared"),
    )
    places = {s.name: f"_slice_{place}" for place, s in enumerate(cut)}
    found: dict[tuple[str, str, str], _Sums] = {}
    for cell in cells.collect():
        counts = (cell["predictions"], cell["trips"])
        sums = _Sums(*counts, *(cell[name] or 0.0 for name in ("error", "absolute", "squared")))
        if expected.trips:
            key = [cell[places[name]] if name in places else None for name in KEY]
            sums.expected = sums.trips * expected.of(key)
        for name in (ALL, *(cell[key] for key in names)):
            for day in (ALL, cell["_day"]) if name is not None else ():
                found.setdefault((cell["trip_month"], day, name), _Sums()).add(sums)
    return dict(sorted(found.items()))


def _figures(sums: _Sums) -> dict[str, Any]:
    trips = sums.trips
    return {
        "trips": trips,
        "coverage": trips / sums.predictions,
        # Rounded, so that the order in which Spark adds up makes no row another.
        "rmse": round(sqrt(sums.squared / trips), 6) if trips else None,
        "mae": round(sums.absolute / trips, 6) if trips else None,
        "bias": round(sums.error / trips, 6) if trips else None,
        "expected": round(sums.expected / trips, 6) if trips and sums.expected else None,
        "in_range": None,  # measured apart, of whole months: see fare_range
    }


def _level(sums: _Sums, name: str, limits: ErrorLimits) -> str:
    if sums.trips < limits.least or not sums.expected:
        return FEW
    usual = sums.expected / sums.trips
    mae = sums.absolute / sums.trips
    spread = max(sums.squared / sums.trips - mae**2, 0.0)  # rounding may leave it below 0
    surely = mae - limits.sure * sqrt(spread / sums.trips)
    warn, error = limits.ratio if name == ALL else limits.slice_ratio
    return ERROR if surely > error * usual else WARN if surely > warn * usual else OK


def verdict(rows: Sequence[Row], version: Version, *, limits: ErrorLimits = LIMITS) -> Verdict:
    """Whether the version errs as it should on these trips: `live_error`.

    In error when a month's batch predictions are. What only the endpoint shows, or one slice, is a
    warning: the features it was given may be at fault, or few trips, not what was learned.
    """
    judged = [row for row in rows if row["day"] == ALL and row["level"] != FEW]
    months = [row for row in judged if row["slice"] == ALL]
    if not months:
        return _untold(version)
    source = BATCH if any(row["predictions"] == BATCH for row in months) else ENDPOINT
    worst = max((row for row in months if row["predictions"] == source), key=_gravity)
    slices = [row for row in judged if row["slice"] != ALL and row["predictions"] == source]
    loud = [row for row in slices if row["level"] == ERROR]
    apart = [row for row in months if row["predictions"] != source and row["level"] != OK]
    told = (
        f"{worst['trip_month']}, version {version.number}, {source}: mean absolute error "
        f"{_compared(worst)}, over {worst['trips']:,} trips it has not learned from; "
        f"allowed {limits.ratio[0] - 1:+.0%}, error from {limits.ratio[1] - 1:+.0%}"
    )
    for row in sorted(loud or slices, key=lambda row: -ratio(row))[:1]:
        told += f"; the worst slice is {row['slice']}, {row['trip_month']}: {_compared(row)}"
    for row in apart:
        told += f"; {row['predictions']}, {row['trip_month']}: {_compared(row)}"
    figures = {
        "month": worst["trip_month"],
        "model_version": version.number,
        "predictions": source,
        "mae": worst["mae"],
        "expected_mae": worst["expected"],
        "ratio": ratio(worst),
        "warn": limits.ratio[0],
        "error": limits.ratio[1],
        "coverage": worst["coverage"],
    }
    severity: Severity = "error" if worst["level"] == ERROR else "warn"
    passed = worst["level"] == OK and not loud and not apart
    return Verdict("live_error", passed, told, figures, severity)


def ratio(row: Row) -> float:
    """The mean absolute error over the expected one."""
    return float(row["mae"] / row["expected"])


def whole(rows: Sequence[Row], month: str, name: str = ALL) -> Row | None:
    """The row of a whole month's batch predictions, or of one slice of it; None where none is."""
    for row in rows:
        key = (row["trip_month"], row["day"], row["slice"], row["predictions"])
        if key == (month, ALL, name, BATCH) and row["trips"] and row["expected"]:
            return row
    return None


@dataclass(frozen=True)
class Carrier:
    """A slice that carries more of the growth of the error than its share of the trips.

    `growth` is its share of what the error is more than expected, `squared` of the squared error;
    `rest` what the error of all other trips is over the expected one.
    """

    name: str
    trips: float
    squared: float
    growth: float
    ratio: float
    rest: float


def carriers(rows: Sequence[Row], month: str, limits: ErrorLimits = LIMITS) -> list[Carrier]:
    """The slices of a month that carry the growth of its error, the one with most first."""
    total = whole(rows, month)
    if total is None or total["mae"] <= total["expected"]:
        return []
    count, mae, usual = total["trips"], total["mae"], total["expected"]
    found = []
    for name in {row["slice"] for row in rows} - {ALL}:
        row = whole(rows, month, name)
        if row is None or row["trips"] >= count:
            continue
        share = row["trips"] / count
        left = count * usual - row["trips"] * row["expected"]
        if left <= 0:  # nothing would be expected of all others: too little is known of the slice
            continue
        one = Carrier(
            name,
            share,
            share * (row["rmse"] / total["rmse"]) ** 2,
            share * (row["mae"] - row["expected"]) / (mae - usual),
            ratio(row),
            (count * mae - row["trips"] * row["mae"]) / left,
        )
        if one.growth >= limits.carried and one.growth >= limits.more_than_its_trips * share:
            found.append(one)
    return sorted(found, key=lambda one: (-one.growth, one.name))


def _untold(version: Version) -> Verdict:
    reason = (
        f"too few trips with a fare that version {version.number} has not learned from, "
        "in the months or when it was trained"
    )
    figures = {"model_version": version.number}
    return Verdict("live_error", True, reason, figures, "warn")


def _gravity(row: Row) -> tuple[int, float, str]:
    return (OK, WARN, ERROR).index(row["level"]), row["mae"], row["trip_month"]


def _compared(row: Row) -> str:
    return f"{row['mae']:.2f} dollars, expected {row['expected']:.2f}, {ratio(row) - 1:+.0%}"
