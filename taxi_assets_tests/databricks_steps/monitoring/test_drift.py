"""Distances of histograms against raw samples, and what the verdicts say of months."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_steps import schemas
from databricks_steps.distributions import ALL, FINE, PLACES, Baseline, Bins, Counted
from databricks_steps.monitoring import drift
from databricks_steps.monitoring.drift import PSI, distances
from databricks_steps.monitoring.thresholds import DriftLimits

RNG = np.random.default_rng(7)
LEARNED = RNG.normal(10.0, 2.0, 20_000)
NONE = {"pickup_location_id": 0, "dropoff_location_id": 0}


def histogram(bins: Bins, values: Any) -> Any:
    return np.bincount(bins.places(np.asarray(values, dtype="float32")), minlength=PLACES)


def world(
    month: dict[str, Any], learned: dict[str, Any], unknown: dict[str, int] | None = None
) -> list[drift.Row]:
    bins = {name: Bins.of(np.asarray(values)) for name, values in learned.items()}
    rows = len(next(iter(month.values()))) if month else 0

    def slices(values: dict[str, Any], lost: dict[str, int]) -> dict[str, Counted]:
        counts = {name: histogram(bins[name], each) for name, each in values.items()}
        return {ALL: Counted(len(next(iter(values.values()))), counts, lost)}

    baseline = Baseline(bins, slices(learned, NONE))
    here = slices(month, unknown or NONE) if rows else {}
    here |= {"week 1": here[ALL]} if rows else {}
    return drift.measured({"2022-03": here}, "7", baseline)


@given(st.floats(-3, 3), st.floats(0.5, 2))
@settings(max_examples=25, deadline=None)
def test_wasserstein_is_that_of_the_samples_to_a_bins_width(shift: float, scale: float) -> None:
    from scipy.stats import wasserstein_distance  # a second: not where it is only collected

    inside = np.clip(LEARNED, *np.quantile(LEARNED, [0.002, 0.998]))
    now = np.clip(10.0 + shift + (inside - 10.0) * scale, inside.min(), inside.max())
    bins = Bins.of(LEARNED)
    std = float(LEARNED.std())
    found = distances(histogram(bins, inside)[1:], histogram(bins, now)[1:], bins.centres(), std)
    width = (bins.high - bins.low) / FINE
    assert found[2] == pytest.approx(wasserstein_distance(inside, now) / std, abs=width / std)


def test_the_index_is_that_of_the_deciles_by_hand() -> None:
    before = np.zeros(PLACES - 1)
    before[1:11] = 10  # ten bins, a decile each
    now = np.zeros(PLACES - 1)
    now[1:11] = [20, 0, *[10] * 8]
    index, apart, moved = distances(before, now, np.arange(PLACES - 1), 1.0)
    by_hand = (0.2 - 0.1) * np.log(0.2 / 0.1) + (1e-4 - 0.1) * np.log(1e-4 / 0.1)
    assert index == pytest.approx(by_hand)
    assert moved == pytest.approx(0.1)  # a tenth of the trips, by one
    assert 0 < apart < 1


def test_the_same_is_no_distance_and_apart_is_one() -> None:
    one, other = np.zeros(PLACES - 1), np.zeros(PLACES - 1)
    one[5], other[100] = 10, 30
    assert distances(one, one * 3, np.arange(PLACES - 1), 1.0) == (0.0, 0.0, 0.0)
    assert distances(one, other, np.arange(PLACES - 1), 1.0)[1] == pytest.approx(1.0)


def test_a_quiet_month_is_quiet_and_a_moved_one_is_in_error() -> None:
    learned = {"pickup_mean_fare_7d": LEARNED, "predicted_fare": LEARNED}
    quiet = world({n: RNG.normal(10.1, 2, 3_000) for n in learned}, learned)
    assert {row["level"] for row in quiet} == {"ok"}
    found = drift.verdicts(quiet)
    assert all(verdict.passed for verdict in found.values())
    assert found["pickup_features"].reason.startswith(
        "no feature is over a limit; the farthest, 2022-03, version 7: pickup_mean_fare_7d moved"
    )
    fares = {"pickup_mean_fare_7d": LEARNED, "pickup_mean_fare_24h": LEARNED}
    for few in (learned, fares | {"dropoff_mean_fare_7d": LEARNED}):  # two; of one quantity
        one = world({n: RNG.normal(12.0, 2, 3_000) for n in few}, few)
        assert {v.severity for v in drift.verdicts(one).values() if not v.passed} == {"warn"}
    learned |= fares
    moved = world({n: RNG.normal(12.0, 2, 3_000) for n in learned}, learned)
    verdict = drift.verdicts(moved)["pickup_features"]
    assert (verdict.check, verdict.passed, verdict.severity) == ("drift", False, "error")
    assert "2022-03, version 7: pickup_mean_fare_" in verdict.reason
    assert verdict.reason.endswith("2 of 2 features are over a limit")
    predicted = drift.verdicts(moved)["batch_predictions"]
    assert (predicted.check, predicted.severity) == ("prediction_drift", "error")
    assert drift.verdicts(moved)["dropoff_features"].reason == "no trip to compare"


def test_between_the_limits_is_a_warning() -> None:
    learned = {"pickup_mean_fare_7d": LEARNED}
    shifted = world({"pickup_mean_fare_7d": LEARNED[:5_000] + 0.6}, learned)  # 0.3 deviations
    (row,) = [r for r in shifted if r["slice"] == ALL and r["feature"] == "pickup_mean_fare_7d"]
    limits = DriftLimits()
    assert limits.wasserstein[0] < row["wasserstein"] < limits.wasserstein[1]
    assert row["level"] == ("warn" if row[PSI] > limits.index[0] else "ok")


def test_too_few_trips_tell_nothing() -> None:
    few = world({"pickup_mean_fare_7d": LEARNED[:999] + 9}, {"pickup_mean_fare_7d": LEARNED})
    (row,) = [r for r in few if r["slice"] == ALL and r["feature"] == "pickup_mean_fare_7d"]
    assert (row["level"], row["wasserstein"]) == ("few", None)
    verdict = drift.verdicts(few)["pickup_features"]
    assert (verdict.passed, verdict.reason) == (
        True,
        "too few trips to tell: 999, the baseline 20000",
    )
    assert drift.measured({"2022-03": {}}, "7", Baseline({}, {})) == []
    assert all(v.passed for v in drift.verdicts([]).values())
    assert drift.missing_values([]).passed


def test_missing_values_and_unknown_zones_are_faults_of_the_data() -> None:
    learned = {"pickup_mean_fare_7d": LEARNED}
    lost = world({"pickup_mean_fare_7d": np.full(2_000, np.nan)}, learned)
    (row,) = [r for r in lost if r["slice"] == ALL and r["feature"] == "pickup_mean_fare_7d"]
    assert (row["missing"], row["level"], row["wasserstein"]) == (1.0, "error", None)
    verdict = drift.missing_values(lost)
    assert (verdict.passed, verdict.severity) == (False, "error")
    assert verdict.reason == "missing or unknown: pickup_mean_fare_7d 100.0%"
    zones = world(
        {"pickup_mean_fare_7d": LEARNED[:2_000]},
        learned,
        {"pickup_location_id": 100, "dropoff_location_id": 0},
    )
    verdict = drift.missing_values(zones)
    assert (verdict.passed, verdict.severity) == (False, "warn")
    assert verdict.reason == "missing or unknown: pickup_location_id 5.0%"
    # What was unknown among the learned ones is no news.
    assert drift.missing_values(world({"pickup_mean_fare_7d": LEARNED}, learned)).passed


def test_every_model_input_and_the_fare_has_a_check() -> None:
    told = [name for names in drift.FEATURES.values() for name in names]
    assert sorted(told) == sorted([*(c.name for c in schemas.WATCHED_INPUTS), "predicted_fare"])
    assert set(drift.CHECKS) == set(drift.FEATURES)


def test_a_row_has_the_columns_of_its_table() -> None:
    rows = world({"predicted_fare": LEARNED}, {"predicted_fare": LEARNED})
    assert all(set(row) == set(schemas.DRIFT_REPORT.names) for row in rows)
