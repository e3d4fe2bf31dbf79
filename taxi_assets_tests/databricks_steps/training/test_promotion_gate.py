"""The gate: slices by value and by band, verdicts with their sentence, boundaries, no champion."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from databricks_steps.settings import Gate, Slicing
from databricks_steps.training import bootstrap, promotion_gate, slices
from databricks_steps.training.feature_ages import AgeError
from databricks_steps.training.promotion_gate import Champion
from databricks_steps.trips.zones import boroughs

GATE = Gate(slice_rows=100)
NONE = Champion(None, None, "there is no champion yet")


def holdout(rows: int = 1_000) -> pd.DataFrame:
    """Trips of 0.5, 1.5, 3, 7 and 20 miles in turn, from Manhattan and, one in ten, from JFK."""
    n = np.arange(rows)
    return pd.DataFrame(
        {
            "trip_distance": np.array([0.5, 1.5, 3.0, 7.0, 20.0])[n % 5],
            "pickup_hour": n % 24,
            "pickup_is_airport": (n % 10 == 0).astype(int),
            "pickup_location_id": np.where(n % 10 == 0, 132, 74),
            "fare_amount": 10.0 + n % 7,
        }
    )


def test_boroughs_of_zones_zip_codes_and_nowhere() -> None:
    ids = [1, 74, 132, 138, 61, 18, 6, 264, 265, 266, 0, 10_001]
    assert list(boroughs(ids)) == [
        *("Newark", "Manhattan", "Queens", "Queens", "Brooklyn", "Bronx", "Staten Island"),
        *["unknown"] * 5,
    ]


def test_boroughs_are_those_of_the_zone_list(real_data: Path) -> None:
    with (real_data / "zones" / "taxi_zone_lookup.csv").open() as file:
        listed = {int(row["LocationID"]): row["Borough"] for row in csv.DictReader(file)}
    names = {"EWR": "Newark", "Unknown": "unknown", "N/A": "unknown"}
    expected = [names.get(borough, borough) for borough in listed.values()]
    assert list(boroughs(list(listed))) == expected


def test_a_band_begins_at_its_bound_and_empty_bands_are_left_out() -> None:
    frame = pd.DataFrame({"trip_distance": [0.99, 1.0, 1.99, 10.0, 80.0]})
    found = slices.members(frame, Slicing("distance", "trip_distance", 0.1, "miles", (1, 2, 10)))
    assert {name: list(np.flatnonzero(rows)) for name, rows in found.items()} == {
        "distance under 1 miles": [0],
        "distance 1 to 2 miles": [1, 2],
        "distance 10 and more miles": [3, 4],
    }


def test_errors_by_slice_by_hand() -> None:
    frame = holdout()
    fares = frame["fare_amount"].to_numpy()
    predicted = fares + np.where(frame["pickup_is_airport"] == 1, 3.0, -1.0)
    found = {s.name: s for s in slices.errors(frame, predicted, fares + 2.0, GATE)}
    jfk, rest = found["airport 1"], found["airport 0"]
    assert (jfk.rows, jfk.rmse, jfk.mae, jfk.bias) == (100, 3.0, 3.0, 3.0)
    assert (jfk.champion_rmse, jfk.growth, jfk.significantly_worse) == (2.0, 0.5, True)
    assert (rest.rows, rest.rmse, rest.bias, rest.significantly_worse) == (900, 1.0, -1.0, False)
    assert found["borough Queens"].rows == 100


def test_resampled_sums_are_those_of_draws_with_replacement() -> None:
    values = np.random.default_rng(2).normal(5, 2, 500)
    sums = bootstrap.resampled_sums(np.column_stack([np.ones(500), values, values]), 2_000)
    assert sums.shape == (2_000, 3)
    assert (sums[:, 0] == 500).all()
    assert (sums[:, 1] == sums[:, 2]).all()  # the same draws: what makes a comparison paired
    assert sums[:, 1].std() == pytest.approx(500**0.5 * values.std(), rel=0.05)
    again = bootstrap.resampled_sums(values[:, None], 2_000)
    assert np.allclose(again[:, 0], sums[:, 1], rtol=1e-12)  # the same draws every time


def test_a_baseline_must_be_beaten_in_every_metric_the_gate_names() -> None:
    ours = {"rmse": 3.0, "r2": 0.9}
    weak, strong = {"rmse": 4.0, "r2": 0.8}, {"rmse": 2.9, "r2": 0.91}
    assert promotion_gate.beats_baseline(ours, {"mean": weak}, GATE).passed
    lost = promotion_gate.beats_baseline(ours, {"metered_fare": strong, "mean": weak}, GATE)
    assert not lost.passed
    assert lost.reason == (
        "not better than the metered fare in rmse, the metered fare in r2: RMSE 3.00, R² 0.900 "
        "(metered fare: RMSE 2.90, R² 0.910; mean: RMSE 4.00, R² 0.800)"
    )
    assert not promotion_gate.beats_baseline(
        ours, {"mean": ours}, GATE
    ).passed  # as good is not better
    only_rmse = replace(GATE, beat=("rmse",))
    assert promotion_gate.beats_baseline(
        ours, {"mean": {"rmse": 3.1, "r2": 0.95}}, only_rmse
    ).passed


def test_the_line_must_be_beaten_at_every_age_of_the_features() -> None:
    line = {"metered_fare": {"rmse": 4.0, "r2": 0.8}}
    ours = {"rmse": 3.0, "r2": 0.9}
    good, bad = AgeError("fresh", 3.0, 1.0, 0.0, {}), AgeError("none", 4.0, 2.0, 1.0, {})
    passed = promotion_gate.beats_baseline(ours, line, GATE, (good,))
    assert passed.passed
    assert passed.figures["rmse_at_fresh"] == 3.0
    lost = promotion_gate.beats_baseline(ours, line, GATE, (good, bad))  # as good is not better
    assert not lost.passed
    assert lost.reason.startswith("not better than the metered fare with features none: 4.00:")


def test_a_significantly_better_champion_refuses_with_difference_and_interval() -> None:
    fares = holdout()["fare_amount"].to_numpy()
    noise = np.random.default_rng(1).normal(0, 1, len(fares))
    good, bad = fares + noise, fares + 3 * noise
    lost = promotion_gate.champion_not_better(fares, bad, Champion("4", good), GATE)
    assert not lost.passed
    assert lost.reason.startswith("significantly worse than champion 4 on the same 1,000 trips: ")
    assert lost.figures["low"] > 0
    assert promotion_gate.champion_not_better(fares, good, Champion("4", bad), GATE).passed
    assert promotion_gate.champion_not_better(fares, good, Champion("4", good), GATE).passed


def test_without_a_champion_to_compare_both_comparisons_say_so() -> None:
    frame = holdout()
    fares = frame["fare_amount"].to_numpy()
    gone = Champion("7", None, "champion 7 needs features that no longer exist (x); not compared")
    for champion in (NONE, gone):
        cut = slices.errors(frame, fares + 1, None, GATE)
        for verdict in (
            promotion_gate.champion_not_better(fares, fares + 1, champion, GATE),
            promotion_gate.slices(cut, champion, GATE),
        ):
            assert verdict.passed
            assert verdict.reason.startswith(champion.why_not)


def test_a_slice_worse_by_more_than_its_limit_refuses_even_where_the_whole_is_better() -> None:
    frame = holdout(4_000)
    fares = frame["fare_amount"].to_numpy()
    chance = np.random.default_rng(3)
    champion = Champion("2", fares + chance.normal(0, 2, len(fares)))
    airport = frame["pickup_is_airport"].to_numpy() == 1
    ours = fares + chance.normal(0, 1, len(fares)) * np.where(airport, 3.0, 1.0)
    assert promotion_gate.champion_not_better(fares, ours, champion, GATE).passed
    verdict = promotion_gate.slices(
        slices.errors(frame, ours, champion.fares, GATE), champion, GATE
    )
    assert not verdict.passed
    assert verdict.reason.startswith("worse than champion 2: ")
    assert "airport 1 (400 trips): RMSE " in verdict.reason
    assert "(limit +15%)" in verdict.reason
    wide = replace(GATE, slicings=tuple(replace(s, limit=1.0) for s in GATE.slicings))
    assert promotion_gate.slices(
        slices.errors(frame, ours, champion.fares, wide), champion, wide
    ).passed
    few = replace(GATE, slice_rows=401)  # too small to be judged, shown all the same
    kept = promotion_gate.slices(slices.errors(frame, ours, champion.fares, few), champion, few)
    assert "airport 1" in kept.figures
    assert "airport 1" not in kept.reason


def test_a_champion_is_its_own_equal_in_every_slice() -> None:
    frame = holdout()
    fares = frame["fare_amount"].to_numpy() + 1.0
    verdict = promotion_gate.slices(
        slices.errors(frame, fares, fares, GATE), Champion("1", fares), GATE
    )
    assert verdict.passed
    assert "+0.0%" in verdict.reason


@pytest.mark.parametrize(("difference", "passed"), [(0.0, True), (0.01, True), (0.0101, False)])
def test_parity_is_allowed_up_to_its_limit(difference: float, passed: bool) -> None:
    verdict = promotion_gate.onnx_parity(difference, 50, GATE)
    assert verdict.passed is passed
    assert verdict.reason == (
        f"largest difference {difference:.6f} dollars on 50 trips; allowed is 0.01"
    )
