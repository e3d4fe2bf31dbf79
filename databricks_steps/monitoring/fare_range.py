"""How many fares paid lie inside the fare range, of a sample of each month's trips, as served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps.features.windows import instant
from databricks_steps.inference.scorer import Scorer
from databricks_steps.interfaces import Platform, Verdict
from databricks_steps.monitoring.performance import ALL, BATCH, Row, unseen_from
from databricks_steps.monitoring.thresholds import RangeLimits
from databricks_steps.schemas import LABEL
from databricks_steps.training import dataset
from databricks_steps.training.registry import Version

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LIMITS = RangeLimits()
SAMPLE = 20_000  # trips of a month: the share is then right to 0.3 percent (one standard error)


def with_coverage(
    platform: Platform, version: Version, model: Path, scored: DataFrame, rows: Sequence[Row]
) -> list[Row]:
    """The rows of `schemas.LIVE_PERFORMANCE`, `in_range` filled in for whole months of batch.

    `scored` are trips with the inputs of the model in the folder `model`; those the version has
    learned from are left out.
    """
    scorer = Scorer.load(model)
    months = {row["trip_month"] for row in rows if _is_month(row)}
    shares = {month: _share(platform, version, scorer, scored, month) for month in sorted(months)}
    return [
        row | {"in_range": shares[row["trip_month"]]} if _is_month(row) else row for row in rows
    ]


def _is_month(row: Row) -> bool:
    return bool(row["day"] == row["slice"] == ALL and row["predictions"] == BATCH)


def _share(
    platform: Platform, version: Version, scorer: Scorer, scored: DataFrame, month: str
) -> float | None:
    """The share of a month's fares inside their range; None for too few, or without a range."""
    from pyspark.sql import functions as F

    inputs = list(scorer.spec.inputs)
    if scorer.spec.interval is None or not {*inputs} <= {*scored.columns}:
        return None
    one_in = max(platform.tables.rows("trips", [month]) // SAMPLE, 1)
    drawn = F.pmod(F.xxhash64("trip_id"), F.lit(one_in)) == 0
    trips = scored.where((F.col("trip_month") == month) & F.col(LABEL).isNotNull() & drawn)
    seen_until = unseen_from(version)
    if seen_until is not None:
        trips = trips.where(F.col("pickup_datetime") >= instant(seen_until))
    frame: Any = trips.select(*inputs, LABEL).toPandas()
    if len(frame) < LIMITS.least:
        return None
    asked = dataset.as_served(frame, platform.settings)
    found = scorer.predict_interval(asked[inputs].to_numpy(dtype="float32"))
    return round(float(asked[LABEL].between(found.low, found.high).mean()), 6)


def verdict(rows: Sequence[Row], version: Version) -> Verdict:
    """Whether the fare range holds about as many fares as it promises: `fare_range`, a warning."""
    shares = {r["trip_month"]: r["in_range"] for r in rows if r["in_range"] is not None}
    figures = {"model_version": version.number, "in_range": shares}
    off = {m: s for m, s in shares.items() if not LIMITS.low <= s <= LIMITS.high}
    told = ", ".join(f"{share:.1%} in {month}" for month, share in (off or shares).items())
    reason = (
        f"version {version.number}: of the fares paid, inside the fare range are {told}; "
        f"allowed are {LIMITS.low:.0%} to {LIMITS.high:.0%}"
        if shares
        else "too few trips with a fare to measure the fare range on"
    )
    return Verdict("fare_range", not off, reason, figures, "warn")
