"""The fare interval: stretched to its share, measured on rows it has not seen, never negative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from databricks_steps import schemas
from databricks_steps.inference.feature_spec import FareInterval, FeatureSpec
from databricks_steps.inference.scorer import GROUPS, groups, spread, stretched
from databricks_steps.settings import Interval, Settings
from databricks_steps.training.intervals import calibrated

WANTED = Interval()
SPEC = FeatureSpec.current(Settings())


def sample(rows: int, seed: int, noise: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fares, predictions and trees: the trees agree far more than fares scatter."""
    chance = np.random.default_rng(seed)
    predicted = chance.uniform(10, 60, rows)
    scale = 0.5 + predicted / 30
    fares = predicted + chance.normal(0, noise, rows) * scale
    trees = predicted[:, None] + chance.normal(0, 0.5, (rows, 40)) * scale[:, None]
    return fares, predicted, trees


def rides(**columns: np.ndarray) -> np.ndarray:
    """Rides of which no feature is known, as the graph takes them."""
    (rows,) = {len(values) for values in columns.values()}
    defaults = {c.name: c.default or 0.0 for c in schemas.MODEL_INPUTS}
    given: dict[str, Any] = {**defaults, **columns}
    table = [np.broadcast_to(given[name], rows) for name in SPEC.inputs]
    return np.column_stack(table).astype("float32")


def coverage(fares: np.ndarray, predicted: np.ndarray, trees: np.ndarray, by: object) -> float:
    found = stretched(predicted, trees, by)  # type: ignore[arg-type]
    return float(((fares >= found.low) & (fares <= found.high)).mean())


def test_trees_that_agree_too_much_are_stretched_to_the_share_wanted() -> None:
    rows = sample(6_000, 1)
    found = calibrated(*rows, WANTED)
    assert found.rows == 3_000
    assert found.low_stretch > 3
    assert found.coverage == pytest.approx(0.8, abs=0.025)
    unseen = sample(20_000, 2)
    assert coverage(*unseen, found) == pytest.approx(0.8, abs=0.02)
    cheap = unseen[1] < 20  # the spread of the trees carries where fares scatter more
    parts = [coverage(*(part[rows] for part in unseen), found) for rows in (cheap, ~cheap)]
    assert parts == pytest.approx([0.8, 0.8], abs=0.05)


def test_a_trip_of_two_rows_is_not_judged_by_itself() -> None:
    fares, predicted, trees = sample(3_000, 1)
    twice = [np.concatenate([part, part]) for part in (fares, predicted, trees)]
    trips = np.concatenate([np.arange(3_000)] * 2)
    found = calibrated(*twice, WANTED, trips=trips)
    once = calibrated(fares, predicted, trees, WANTED)
    assert (found.rows, found.coverage) == (3_000, once.coverage)
    assert found.high_stretch == pytest.approx(once.high_stretch, rel=0.01)


def test_each_group_of_rides_has_stretches_of_its_own() -> None:
    """Airports scatter four times as much as the trees say, other rides half as much."""

    def asked(rows: int, seed: int) -> tuple[np.ndarray, ...]:
        fares, predicted, trees = sample(rows, seed)
        airport = np.arange(rows) % 3 == 0
        fares = predicted + (fares - predicted) * np.where(airport, 4.0, 0.5)
        group = groups(rides(trip_distance=np.full(rows, 12.0), pickup_is_airport=airport), SPEC)
        return fares, predicted, trees, group, airport

    fares, predicted, trees, group, _ = asked(6_000, 1)
    one = calibrated(fares, predicted, trees, WANTED)
    own = calibrated(fares, predicted, trees, WANTED, group)
    assert len(own.groups) == GROUPS
    assert own.groups[0] == (own.low_stretch, own.high_stretch)  # no such ride was seen
    assert own.groups[: GROUPS // 2] == own.groups[GROUPS // 2 :]  # nor one with features
    fares, predicted, trees, group, airport = asked(20_000, 2)

    def covered(low: np.ndarray, high: np.ndarray) -> list[float]:
        inside = (fares >= low) & (fares <= high)
        return [float(inside[rows].mean()) for rows in (airport, ~airport)]

    found = stretched(predicted, trees, own, group)
    assert covered(found.low, found.high) == pytest.approx([0.8, 0.8], abs=0.03)
    found = stretched(predicted, trees, one)
    assert covered(found.low, found.high)[0] < 0.7


def test_a_ride_of_which_no_feature_is_known_is_not_told_with_more_certainty() -> None:
    """Where features are known fares scatter half as much; of airports there are too few rides."""

    def asked(rows: int, seed: int) -> tuple[np.ndarray, ...]:
        fares, predicted, trees = sample(rows, seed)
        known, airport = np.arange(rows) % 4 < 2, np.arange(rows) % 100 < 4
        fares = predicted + (fares - predicted) * np.where(known, 0.5, 1.0)
        given = rides(
            trip_distance=np.full(rows, 12.0),
            pickup_is_airport=airport,
            pickup_mean_fare_7d=np.where(known, 40.0, schemas.DEFAULT_FARE),
        )
        return fares, predicted, trees, groups(given, SPEC), known, airport

    fares, predicted, trees, group, *_ = asked(6_000, 1)
    own = calibrated(fares, predicted, trees, WANTED, group)
    fares, predicted, trees, group, known, airport = asked(100_000, 2)
    found = stretched(predicted, trees, own, group)
    inside = (fares >= found.low) & (fares <= found.high)
    for rows in (airport, ~airport):
        shares = [float(inside[rows & half].mean()) for half in (known, ~known)]
        assert shares == pytest.approx([0.8, 0.8], abs=0.04)
        widths = [float((found.high - found.low)[rows & half].mean()) for half in (known, ~known)]
        assert widths[0] < 0.6 * widths[1]


def test_versions_of_before_features_had_groups_keep_theirs() -> None:
    asked = rides(trip_distance=np.array([12.0, 12.0]), pickup_mean_fare_7d=np.array([15.0, 40.0]))
    group = groups(asked, SPEC)
    assert group.tolist() == [24, 54]
    old = tuple((float(n), float(n)) for n in range(GROUPS // 2))
    interval = FareInterval(0.1, 0.9, 0.1, 1.0, 1.0, 0.8, 100, old)
    found = stretched(np.full(2, 100.0), np.full((2, 5), 100.0), interval, group)
    assert (found.high - found.fares).tolist() == pytest.approx([2.4, 2.4])


def test_a_group_is_told_by_distance_airports_type_and_features() -> None:
    asked = rides(
        trip_distance=np.array([0.5, 1.0, 1.0, 12.0, 12.0]),
        dropoff_is_airport=np.array([0, 0, 1, 0, 1]),
        trip_type=np.array([0, 0, 0, 2, 2]),
    )
    assert groups(asked, SPEC).tolist() == [0, 6, 9, 26, 29]
    for name in ("pickup_mean_fare_7d", "dropoff_trip_count_24h"):
        known = asked.copy()
        known[1, SPEC.inputs.index(name)] += 1
        assert groups(known, SPEC).tolist() == [0, 36, 9, 26, 29]
    assert GROUPS == 60


def test_trees_that_scatter_too_much_are_drawn_in() -> None:
    found = calibrated(*sample(6_000, 3, noise=0.1), WANTED)
    assert 0 <= found.low_stretch < 1
    assert coverage(*sample(20_000, 4, noise=0.1), found) == pytest.approx(0.8, abs=0.03)


def test_an_interval_holds_the_fare_and_is_never_negative() -> None:
    fares, predicted, trees = sample(2_000, 5, noise=30.0)
    found = stretched(predicted, trees, calibrated(fares, predicted, trees, WANTED))
    assert (found.low <= found.fares).all()
    assert (found.fares <= found.high).all()
    assert found.low.min() == 0.0
    assert (found.fares == predicted).all()


def test_equal_trees_spread_as_far_as_the_floor_and_no_rows_give_none() -> None:
    fares = np.array([10.0, 20.0])
    below, above = spread(fares, np.full((2, 5), [[10.0], [21.0]]), 0.1, 0.9, 0.1)
    assert below.tolist() == [0.1, 0.1]
    assert above.tolist() == [0.1, 1.0]
    none = spread(np.empty(0), np.empty((0, 5)), 0.1, 0.9, 0.1)
    assert [side.shape for side in none] == [(0,), (0,)]


def test_constant_errors_need_no_stretch_on_the_side_without_any() -> None:
    predicted = np.linspace(10, 20, 400)
    trees = predicted[:, None] + np.array([-1.0, 0.0, 1.0])
    found = calibrated(predicted + 0.4, predicted, trees, WANTED)  # every fare is 0.4 above
    assert found.low_stretch == 0.0
    assert found.high_stretch == pytest.approx(0.4 / 0.8)
    assert coverage(predicted + 0.399, predicted, trees, found) == 1.0
    assert coverage(predicted + 0.401, predicted, trees, found) == 0.0
