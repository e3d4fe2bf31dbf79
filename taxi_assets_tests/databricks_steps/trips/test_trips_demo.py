"""The demo generator: the same rows every time, realistic fares, and the dirt in its shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from trip_samples import GREEN_TYPES

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings
from databricks_steps.trips import demo
from databricks_steps.trips.files import inspected

ROWS = 20_000


@pytest.fixture(scope="module")
def january() -> pa.Table:
    return demo.demo_trips("2022-01", ROWS)


def valid(table: pa.Table) -> pd.DataFrame:
    """Trips without the dirt, roughly."""
    frame = table.to_pandas()
    took = (frame.lpep_dropoff_datetime - frame.lpep_pickup_datetime).dt.total_seconds()
    frame["minutes"] = took / 60
    keep = frame.fare_amount.between(2.5, 250) & frame.trip_distance.between(0.05, 100)
    return frame[keep & took.between(30, 14_400)]


def test_same_month_and_size_same_rows(january: pa.Table) -> None:
    assert demo.demo_trips("2022-01", ROWS).equals(january)
    assert not demo.demo_trips("2022-02", ROWS).equals(january)
    assert not demo.demo_trips("2022-01", ROWS, seed=1).equals(january)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_tiny_months(rows: int) -> None:
    assert demo.demo_trips("2024-02", rows).num_rows == rows


def test_columns_are_those_of_a_green_month(january: pa.Table) -> None:
    assert {field.name: field.type for field in january.schema} == GREEN_TYPES


def test_dirt_is_there_in_about_the_measured_shares(january: pa.Table) -> None:
    frame = january.to_pandas()
    rows = len(frame)

    def share(of: Any) -> float:
        return float(np.asarray(of).sum()) / rows

    block = frame.RatecodeID.isna()
    together = ["passenger_count", "payment_type", "trip_type", "congestion_surcharge"]
    assert (frame[together].isna().all(axis=1) == block).all()
    assert 0.05 < share(block) < 0.15
    fares = valid(january)
    dear = fares[fares.RatecodeID.isna()].fare_amount.mean()
    assert dear > 1.2 * fares[fares.RatecodeID.notna()].fare_amount.mean()
    assert 0.04 < share(frame.trip_distance == 0) < 0.06
    assert 0.0005 < share(frame.fare_amount == 0) < 0.01
    assert frame.trip_distance.max() > 5_000
    assert frame.fare_amount.max() > 300
    took = frame.lpep_dropoff_datetime - frame.lpep_pickup_datetime
    assert took.min() < pd.Timedelta(0)
    assert took.max() > pd.Timedelta(hours=22)
    month = frame.lpep_pickup_datetime.dt.strftime("%Y-%m")
    assert 0 < share(month != "2022-01") < 0.001
    assert {99.0} < set(frame.RatecodeID.dropna())
    assert {0.0} < set(frame.passenger_count.dropna())
    assert {0.0} < set(frame.payment_type.dropna())
    assert 6 in set(frame.VendorID)
    assert {264, 265} < set(frame.DOLocationID)
    assert january.column("ehail_fee").null_count == rows


def test_nearly_every_negative_fare_has_its_twin(january: pa.Table) -> None:
    frame = january.to_pandas()
    negative = frame[frame.fare_amount < 0]
    key = ["VendorID", "lpep_pickup_datetime", "lpep_dropoff_datetime"]
    key += ["PULocationID", "DOLocationID", "trip_distance", "fare_amount", "total_amount"]
    twins = negative.assign(
        fare_amount=-negative.fare_amount, total_amount=-negative.total_amount
    ).merge(frame, on=key)
    assert 0.002 < len(negative) / len(frame) < 0.02
    assert 0.8 * len(negative) <= len(twins) < len(negative)


def test_a_model_can_learn_the_fares_but_not_perfectly(january: pa.Table) -> None:
    from sklearn.ensemble import RandomForestRegressor

    trips = valid(january).sample(frac=1, random_state=0)
    inputs = trips[["trip_distance", "PULocationID", "DOLocationID"]].assign(
        hour=trips.lpep_pickup_datetime.dt.hour, weekday=trips.lpep_pickup_datetime.dt.weekday
    )
    cut = int(len(trips) * 0.8)
    forest = RandomForestRegressor(20, min_samples_leaf=8, random_state=0)
    forest.fit(inputs[:cut], trips.fare_amount[:cut])
    assert 0.80 < forest.score(inputs[cut:], trips.fare_amount[cut:]) < 0.97


def test_files_are_made_once_and_again_for_another_generator(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = demo.demo_files(settings, ["2022-01"], rows=50)
    assert path.name == "demo_tripdata_2022-01.parquet"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert pq.read_table(path).equals(demo.demo_trips("2022-01", 50))
    first = (path.stat().st_mtime_ns, inspected(path).hash)
    demo.demo_files(settings, ["2022-01"], rows=50)
    assert (path.stat().st_mtime_ns, inspected(path).hash) == first
    path.write_bytes(b"half a file")
    demo.demo_files(settings, ["2022-01"], rows=50)
    assert inspected(path).hash == first[1]
    monkeypatch.setattr(demo, "VERSION", "next")
    written = path.stat().st_mtime_ns
    demo.demo_files(settings, ["2022-01"], rows=50)
    assert path.stat().st_mtime_ns > written


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="Demo trips need a folder"):
        demo.demo_files(Settings(home=tmp_path / "file"), None)


def test_rows_come_in_no_order(january: pa.Table) -> None:
    pickups = january.column("lpep_pickup_datetime")
    assert not pickups.equals(pc.take(pickups, pc.sort_indices(pickups)))
