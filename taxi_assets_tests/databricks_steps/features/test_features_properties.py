"""Property tests: Spark's rows and lookups equal the brute-force oracle, row for row."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feature_oracle import GRID, Trip, known, table_rows
from hypothesis import strategies as st
from test_features import MADE, WEEK, approximately, frame
from trip_strategies import APART, EXAMPLES, MONTHS, apart, examples, worlds

from databricks_steps import schemas
from databricks_steps.features.lookups import LOOKUPS, Lookup
from databricks_steps.features.point_in_time import with_features
from databricks_steps.months import between

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

World = list[Trip]
EVERY_MONTH = between("2021-11", "2022-12")  # those without a trip among them


@pytest.fixture(scope="module")
def tried() -> list[World]:
    found = apart(examples(worlds()))
    assert len(found) >= EXAMPLES
    return found


@pytest.fixture
def trips(engine: SparkSession, tried: list[World]) -> DataFrame:
    return frame(engine, [t for world in tried for t in world]).cache()


def in_order(rows: DataFrame, names: tuple[str, ...]) -> dict[tuple[int, datetime], dict[str, Any]]:
    """(location, known_at) → features; a key that occurs twice is an error."""
    found: dict[tuple[int, datetime], dict[str, Any]] = {}
    for row in rows.collect():
        key = row["location_id"], row["known_at"]
        assert key not in found, key
        assert row["known_month"] == f"{row['known_at']:%Y-%m}"
        found[key] = {name: row[name] for name in names}
    return found


@pytest.mark.parametrize("lookup", LOOKUPS, ids=lambda x: x.table.name)
def test_rows_equal_the_oracle(trips: DataFrame, tried: list[World], lookup: Lookup) -> None:
    found = in_order(MADE[lookup.table.name](trips, EVERY_MONTH), lookup.features)
    for number, world in enumerate(tried):
        truth = table_rows(world, lookup.table, EVERY_MONTH)
        ours = {k: v for k, v in found.items() if k[0] // APART == number}
        assert set(ours) == set(truth), world
        for key, row in truth.items():
            assert ours[key] == approximately(row), (key, world)


@pytest.mark.parametrize("lookup", LOOKUPS, ids=lambda x: x.table.name)
def test_months_alone_in_a_range_and_in_any_order_give_the_same_rows(
    trips: DataFrame, lookup: Lookup
) -> None:
    make, names = MADE[lookup.table.name], lookup.features
    at_once = in_order(make(trips, MONTHS), names)
    assert at_once
    alone: dict[tuple[int, datetime], dict[str, Any]] = {}
    for month in reversed(MONTHS):
        alone |= in_order(make(trips, [month]), names)
    assert alone == at_once  # to the last bit: sums are of whole numbers


@pytest.mark.parametrize("lookup", LOOKUPS, ids=lambda x: x.table.name)
def test_lookups_equal_the_oracle(trips: DataFrame, tried: list[World], lookup: Lookup) -> None:
    """Every trip looks up the state of its location, just before it as much as long after."""
    rows = MADE[lookup.table.name](trips, EVERY_MONTH)
    found = {r["trip_id"]: r for r in with_features(trips, rows, lookup, WEEK).collect()}
    numbered = enumerate((t, world) for world in tried for t in world)
    for number, (trip, world) in numbered:
        row = found.pop(str(number))
        location = trip.origin if lookup.key == "pickup_location_id" else trip.target
        truth = known(world, lookup.table, location, trip.pickup)
        assert {n: row[n] for n in lookup.features} == approximately(truth), (trip, world)
    assert not found


Moment = tuple[int | None, datetime]
_ats = st.one_of(
    st.integers(0, 60 * 96).map(lambda n: datetime(2022, 2, 1) + n * GRID),
    st.integers(-(10**6), 60 * 86_400).map(lambda n: datetime(2022, 2, 1) + timedelta(seconds=n)),
    st.integers(0, 10**7).map(lambda n: datetime(2022, 2, 8) + timedelta(microseconds=n)),
)
_keys = st.sampled_from([None, 1, 2, 3])
_feature_rows = st.dictionaries(
    st.tuples(st.sampled_from([1, 2]), st.integers(0, 40 * 96)),
    st.one_of(st.none(), st.integers(0, 99)),
    max_size=8,
)
_lookbacks = (timedelta(days=7), timedelta(days=1), timedelta(minutes=15), timedelta(0))


@pytest.mark.parametrize("lookback", _lookbacks, ids=str)
def test_the_latest_row_known_at_the_pickup_within_the_lookback(
    engine: SparkSession, lookback: timedelta
) -> None:
    """Feature rows and trips at random, nulls and unknown keys among them, against a plain loop."""
    lookup, name = LOOKUPS[0], "pickup_mean_fare_7d"
    worlds_of_rows = examples(
        st.tuples(_feature_rows, st.lists(st.tuples(_keys, _ats), min_size=1, max_size=6))
    )
    kept, asked, truth = [], [], []
    for number, (rows, moments) in enumerate(worlds_of_rows):
        stamped = [(key, datetime(2022, 2, 1) + n * GRID, v) for (key, n), v in rows.items()]
        kept += [(key + APART * number, at, value) for key, at, value in stamped]
        for key, pickup in moments:
            location = None if key is None else key + APART * number
            asked.append((len(asked), location, pickup))
            past = [r for r in stamped if r[0] == key and pickup - lookback <= r[1] <= pickup]
            latest = max(past, key=lambda r: r[1], default=None)
            truth.append(
                (schemas.DEFAULT_FARE, None)
                if latest is None
                else (
                    schemas.DEFAULT_FARE if latest[2] is None else float(latest[2]),
                    (pickup - latest[1]) // timedelta(seconds=1),
                )
            )
    features = [c for c in lookup.table.features if c.name != name]
    table = engine.createDataFrame(
        [(key, at, None if v is None else float(v)) for key, at, v in kept],
        f"location_id int, known_at timestamp, {name} double",
    ).selectExpr("*", *(f"CAST(NULL AS {c.type}) AS {c.name}" for c in features))
    trips = engine.createDataFrame(
        asked, "trip_id int, pickup_location_id int, pickup_datetime timestamp"
    )
    found = with_features(trips, table, lookup, lookback).orderBy("trip_id").collect()
    assert [(r[name], r[lookup.age]) for r in found] == truth
