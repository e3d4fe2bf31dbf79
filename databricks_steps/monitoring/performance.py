"""`live_performance`: predictions against the fares that came in later, by day and slice.

Only trips that the version has not learned from count: those picked up after its holdout began.
What is usual is the version's own error on that holdout, slice by slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import sqrt
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import ModelError
from databricks_steps.features.windows import instant
from databricks_steps.interfaces import Severity, Verdict
from databricks_steps.monitoring import ground_truth
from databricks_steps.monitoring.thresholds import ErrorLimits
from databricks_steps.months import end
from databricks_steps.schemas import LABEL
from databricks_steps.settings import Gate, Settings, Slicing
from databricks_steps.training import registry
from databricks_steps.training.registry import HOLDOUT_FROM, Version
from databricks_steps.training.slices import column_of, name_in

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ALL, BATCH, ENDPOINT = "all", "batch", "endpoint"
OK, WARN, ERROR, FEW = "ok", "warn", "error", "few"
LIMITS = ErrorLimits()
Row = dict[str, Any]  # of schemas.LIVE_PERFORMANCE


@dataclass(frozen=True)
class Reference:
    """What a version's errors are compared with: slice → (MAE in dollars, rows) on its holdout."""

    slices: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, version: Version) -> Reference:
        """As the version's run and its checks recorded them."""
        found: dict[str, tuple[float, int]] = {}
        if "mae" in version.metrics:
            rows = int(version.metrics.get("holdout_rows", LIMITS.least))
            found[ALL] = (version.metrics["mae"], rows)
        try:
            told = {
                verdict.check: verdict.figures for verdict in registry.verdicts(settings, version)
            }
        except ModelError:  # one that was registered by other means
            return cls(found)
        for name, figures in told.get("slices", {}).items():
            found[name] = (figures["mae"], figures["rows"])
        return cls(found)

    def mae(self, name: str, least: int) -> float | None:
        """The error of a slice; None where the holdout held too few of it."""
        mae, rows = self.slices.get(name, (0.0, 0))
        return mae if mae > 0 and rows >= least else None


@dataclass
class _Sums:
    """Sums over some predictions; the errors are of those whose fare is known."""

    predictions: int = 0
    trips: int = 0
    error: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0

    def add(self, other: _Sums) -> None:
        self.predictions += other.predictions
        self.trips += other.trips
        self.error += other.error
        self.absolute += other.absolute
        self.squared += other.squared


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
    reference: Reference,
    slicings: Sequence[Slicing] = Gate().slicings,
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
        for (month, day, name), sums in _sums(predictions, seen_until, slicings).items():
            rows.append(
                {
                    "trip_month": month,
                    "day": day,
                    "slice": name,
                    "predictions": source,
                    "model_version": version.number,
                    **_figures(sums),
                    "level": _level(sums, name, reference, limits),
                    "computed_at": now,
                }
            )
    return sorted(rows, key=lambda row: (row["trip_month"], row["predictions"], row["day"]))


def _sums(
    predictions: DataFrame, seen_until: datetime | None, slicings: Sequence[Slicing]
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
    found: dict[tuple[str, str, str], _Sums] = {}
    for cell in cells.collect():
        counts = (cell["predictions"], cell["trips"])
        sums = _Sums(*counts, *(cell[name] or 0.0 for name in ("error", "absolute", "squared")))
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
        "in_range": None,  # measured apart, of whole months: see fare_range
    }


def _level(sums: _Sums, name: str, reference: Reference, limits: ErrorLimits) -> str:
    usual = reference.mae(name, limits.least)
    if usual is None or sums.trips < limits.least:
        return FEW
    mae = sums.absolute / sums.trips
    spread = max(sums.squared / sums.trips - mae**2, 0.0)  # rounding may leave it below 0
    surely = mae - limits.sure * sqrt(spread / sums.trips)
    warn, error = limits.ratio if name == ALL else limits.slice_ratio
    return ERROR if surely > error * usual else WARN if surely > warn * usual else OK


def verdict(
    rows: Sequence[Row],
    version: Version,
    *,
    reference: Reference,
    limits: ErrorLimits = LIMITS,
) -> Verdict:
    """Whether the version errs as it did on its holdout: `live_error`.

    In error when a month's batch predictions are. What only the endpoint shows, or one slice, is a
    warning: the features it was given may be at fault, or few trips, not what was learned. The
    figure `windows` holds the days of the months, and whether each was over its limit.
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
    usual = reference.slices[ALL][0]
    told = (
        f"{worst['trip_month']}, version {version.number}, {source}: mean absolute error "
        f"{_compared(worst, reference)}, over {worst['trips']:,} trips it has not learned from; "
        f"allowed {limits.ratio[0] - 1:+.0%}, error from {limits.ratio[1] - 1:+.0%}"
    )
    for row in sorted(loud or slices, key=lambda row: -_ratio(row, reference))[:1]:
        name = f"{row['slice']}, {row['trip_month']}"
        told += f"; the worst slice is {name}: {_compared(row, reference)}"
    for row in apart:
        told += f"; {row['predictions']}, {row['trip_month']}: {_compared(row, reference)}"
    figures = {
        "month": worst["trip_month"],
        "model_version": version.number,
        "predictions": source,
        "mae": worst["mae"],
        "holdout_mae": usual,
        "ratio": worst["mae"] / usual,
        "warn": limits.ratio[0],
        "error": limits.ratio[1],
        "coverage": worst["coverage"],
        "windows": [[row["day"], row["level"] == ERROR] for row in _days(rows, source)],
    }
    severity: Severity = "error" if worst["level"] == ERROR else "warn"
    passed = worst["level"] == OK and not loud and not apart
    return Verdict("live_error", passed, told, figures, severity)


def _untold(version: Version) -> Verdict:
    reason = (
        f"too few trips with a fare that version {version.number} has not learned from, "
        "in the months or on its holdout"
    )
    figures = {"model_version": version.number, "windows": []}
    return Verdict("live_error", True, reason, figures, "warn")


def _days(rows: Sequence[Row], source: str) -> list[Row]:
    """The days that are judged, oldest first."""
    days = [row for row in rows if row["slice"] == ALL and row["predictions"] == source]
    judged = [row for row in days if row["day"] != ALL and row["level"] != FEW]
    return sorted(judged, key=lambda row: str(row["day"]))


def _gravity(row: Row) -> tuple[int, float, str]:
    return (OK, WARN, ERROR).index(row["level"]), row["mae"], row["trip_month"]


def _ratio(row: Row, reference: Reference) -> float:
    return float(row["mae"] / reference.slices[row["slice"]][0])


def _compared(row: Row, reference: Reference) -> str:
    usual = reference.slices[row["slice"]][0]
    return (
        f"{row['mae']:.2f} dollars after {usual:.2f} on the holdout, {row['mae'] / usual - 1:+.0%}"
    )
