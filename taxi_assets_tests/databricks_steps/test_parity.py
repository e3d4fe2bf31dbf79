"""Every step on both engines, Sail and Spark in a JVM: the same rows, verdicts and commits.

One world of small months with what makes engines differ: dirt of every kind, the hour that New
York skips, nulls, ragged text, a month that comes late, one that is corrected, one that is emptied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from databricks_steps import schemas
from databricks_steps.interfaces import Outcome
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Gate, Settings
from databricks_steps.steps import STEPS
from databricks_steps.trips import demo
from taxi_assets_tests.engines import classic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    Table = list[tuple[Any, ...]]

# Who, when and by which run: the only columns in which two homes may differ.
OF_THE_RUN = {"computed_at", "scored_at", "moved_at", "run_id"}
DATA_STEPS = ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set")


def run(
    platform: EmbeddedPlatform, source: Path, steps: Sequence[str], months: Sequence[str]
) -> list[Any]:
    """What the steps told: rows, commits and verdicts, without what only this run knows."""
    platform = platform.with_settings(replace(platform.settings, source=str(source)))
    told: list[Any] = []
    for step in steps:
        told += [plain(outcome) for outcome in STEPS[step].run(platform, months, False)]
    return told


def plain(outcome: Outcome) -> tuple[Any, ...]:
    commit = outcome.commit and (outcome.commit.action, outcome.commit.rows)
    verdicts = [(v.check, v.passed, v.severity, rounded(dict(v.figures))) for v in outcome.verdicts]
    return outcome.name, outcome.rows, commit, verdicts


def rounded(value: Any) -> Any:
    """Figures that sums in another order may change in their last digits."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.9g}")
    return value


def rows(platform: EmbeddedPlatform, name: str) -> Table:
    """A table's rows in the order of their keys, read by neither engine."""
    table = schemas.TABLES[name]
    if not platform.tables.exists(name):
        return []
    columns = [c for c in table.names if c not in {*OF_THE_RUN, *table.computed}]
    found = DeltaTable(platform.tables.uri(name)).to_pyarrow_table().select(columns).to_pylist()
    values = [tuple(told(row[column]) for column in columns) for row in found]
    return sorted(values, key=repr)


def told(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def dirty(month: str, rows_of_it: int, seed: int = demo.SEED) -> pa.Table:
    """Demo trips with more of what is wrong in real ones, and what stands on a boundary."""
    trips = demo.demo_trips(month, rows_of_it, seed).to_pandas()
    start = datetime.fromisoformat(f"{month}-01")
    for place, (begin, minutes) in enumerate(BOUNDARIES):
        at = start + begin
        trips.loc[place, ["lpep_pickup_datetime", "lpep_dropoff_datetime"]] = [
            at,
            at + timedelta(minutes=minutes),
        ]
    after = len(BOUNDARIES)
    trips.loc[after : after + 9, "fare_amount"] = np.nan
    trips.loc[after + 10 : after + 19, "trip_distance"] = [
        -1,
        0,
        0.05,
        100,
        100.01,
        1e300,
        *[2] * 4,
    ]
    trips.loc[after + 20 : after + 29, "PULocationID"] = [0, -1, 264, 265, 99_999, 1, 2, 3, 4, 5]
    trips.loc[after + 30 : after + 39, "fare_amount"] = [2.5, 250, 250.01, -2.5, 0.1 + 0.2] * 2
    return pa.Table.from_pandas(trips, preserve_index=False)


# From the month's first instant to the pickup, and how long the trip takes in minutes.
BOUNDARIES = (
    (timedelta(0), 15),
    (timedelta(microseconds=-1), 20),
    (timedelta(minutes=15), 15),
    (timedelta(days=12, hours=2, minutes=30), 9),  # 13 March: New York skips this hour
    (timedelta(days=12, hours=1, minutes=59), 62),
    (timedelta(days=27, hours=23, minutes=59, seconds=59, microseconds=999_999), 30),
    (timedelta(days=5), 0),
    (timedelta(days=5), 4 * 60),
    (timedelta(days=5), 4 * 60 + 1),
    (timedelta(days=-400), 10),
)

CSV = """\
vendor_id,pickup_datetime,dropoff_datetime,pickup_location_id,dropoff_location_id,trip_distance,fare_amount,passenger_count
2,2022-03-01 00:00:00,2022-03-01 00:10:00,74,75,1.5,9.5,1
2,2022-03-13 02:30:00,2022-03-13 02:45:00,74,75,2.5,12.5,
2,03/14/2022 02:30:00 PM,03/14/2022 02:45:00 PM,74,75,2.5,12.5,1,beyond,the,header
2,2022-03-15 10:00:00.5,2022-03-15 10:20:00,74,,3,"14.5",2
2,2022-02-30 10:00:00,2022-03-15 10:20:00,74,75,3,14.5,2
2,2022-03-16 10:00:00,2022-03-16 10:20:00,74,75,NaN,inf,two

2,2022-03-17 10:00:00,2022-03-17 10:20:00,74,75,+3.0,1e1,3.0
2,2022-03-18 10:00:00
"""


def world(folder: Path) -> Path:
    """February and March; of the latter also text, with what no reader agrees on."""
    folder.mkdir()
    pq.write_table(dirty("2022-02", 2_500), folder / "demo_tripdata_2022-02.parquet")
    pq.write_table(dirty("2022-03", 2_500), folder / "demo_tripdata_2022-03.parquet")
    (folder / "demo_more_2022-03.csv").write_text(CSV)
    return folder


def correct(folder: Path) -> None:
    """February again: fares changed, trips gone, trips new, some of them twice."""
    trips = dirty("2022-02", 2_500).to_pandas()
    trips.loc[100:150, "fare_amount"] += 1
    more = dirty("2022-02", 60, seed=7).to_pandas()
    changed = trips.drop(index=range(400, 450))
    both = pa.Table.from_pandas(changed.head(2_300), preserve_index=False)
    added = pa.Table.from_pandas(more, schema=both.schema, preserve_index=False)
    pq.write_table(
        pa.concat_tables([both, added, both.slice(0, 5)]), folder / "demo_tripdata_2022-02.parquet"
    )


def come_late(folder: Path) -> None:
    pq.write_table(dirty("2022-01", 1_500), folder / "demo_tripdata_2022-01.parquet")


def empty(folder: Path) -> None:
    """March holds no row any more."""
    path = folder / "demo_tripdata_2022-03.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    (folder / "demo_more_2022-03.csv").unlink()


class Pair:
    """A home for each engine, on which the same is done."""

    def __init__(self, spark: SparkSession, jvm: SparkSession, folder: Path) -> None:
        settings = Settings(gate=replace(Gate(), resamples=50))
        self.sail = EmbeddedPlatform(replace(settings, home=folder / "sail"), lambda: spark)
        self.jvm = EmbeddedPlatform(replace(settings, home=folder / "jvm"), lambda: jvm)

    def run(self, source: Path, steps: Sequence[str], months: Sequence[str]) -> list[Any]:
        """Run the steps on both; what Sail's told, once it is what the JVM's told, too."""
        sail = run(self.sail, source, steps, months)
        with classic():
            jvm = run(self.jvm, source, steps, months)
        assert sail == jvm
        for name in schemas.TABLES:
            one, other = rows(self.sail, name), rows(self.jvm, name)
            differing = [pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]]
            assert (name, len(one), differing[:2]) == (name, len(other), [])
        return sail


@pytest.fixture
def pair(spark: SparkSession, jvm_session: SparkSession, tmp_path: Path) -> Pair:
    return Pair(spark, jvm_session, tmp_path)


@pytest.mark.long  # every step on a JVM, five times
def test_every_step_gives_the_same_on_both_engines(pair: Pair, tmp_path: Path) -> None:
    folder = world(tmp_path / "trips")
    first = pair.run(folder, tuple(STEPS), ["2022-02", "2022-03"])
    assert {name for name, *_ in first} == {*schemas.TABLES, "fare_model", "champion_model"} - {
        "deployments"
    }
    assert all(passed for _, _, _, verdicts in first for check, passed, *_ in verdicts)
    come_late(folder)
    pair.run(folder, DATA_STEPS, ["2022-01"])
    correct(folder)
    after_training = tuple(n for n in STEPS if n not in ("fare_model", "champion_model"))
    corrected = pair.run(folder, after_training, ["2022-02", "2022-03"])
    commits = {name: commit for name, _, commit, _ in corrected}
    assert commits["pickup_features"][0] == commits["dropoff_features"][0] == "merged"
    empty(folder)
    pair.run(folder, ("raw_trips", "trips"), ["2022-03"])
    again = pair.run(folder, DATA_STEPS[:-1], ["2022-01", "2022-02"])
    assert {commit and commit[0] for _, _, commit, _ in again} == {None, "unchanged"}


@pytest.mark.long
def test_real_months_give_the_same_on_both_engines(pair: Pair, real_data: Path) -> None:
    """To the training set: what comes after it is a function of it, and compared above."""
    pair.run(real_data / "tlc" / "green", DATA_STEPS, ["2022-01", "2022-02"])


@pytest.mark.long
@pytest.mark.parametrize("month", ["2018-07", "2018-08"])
def test_yellow_trips_give_the_same_on_both_engines(
    pair: Pair, real_data: Path, month: str
) -> None:
    pair.run(real_data / "tlc" / "yellow_samples", DATA_STEPS, [month])
