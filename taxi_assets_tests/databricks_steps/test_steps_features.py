"""Feature and training steps on Delta tables: corrections, order of months, time travel, leaks."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from databricks_steps import schemas, steps
from databricks_steps.errors import TableError
from databricks_steps.features.lookups import Lookup
from databricks_steps.interfaces import Outcome
from databricks_steps.monitoring import month_report
from databricks_steps.platforms.embedded.feature_store import DeltaFeatureStore
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.training import dataset
from databricks_steps.training.registry import HOLDOUT_FROM, TAUGHT_FROM, Version
from databricks_steps.training.tariff import Audit
from databricks_steps.trips.demo import demo_trips

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.slow

JANUARY, FEBRUARY, MARCH = MONTHS = ("2022-01", "2022-02", "2022-03")
FEATURES = ("pickup_features", "dropoff_features")


class Laptop:
    """A platform on a home of its own, and the files of its source."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        settings = Settings(home=folder / "home", source=str(folder / "source"))
        self.source = folder / "source"
        self.source.mkdir(parents=True)
        self.platform = EmbeddedPlatform(settings, lambda: spark)

    def land(self, month: str, rows: int = 2_000, seed: int = 1) -> None:
        """A month's file as published; with another seed, a corrected one."""
        table = demo_trips(month, rows, seed)
        pq.write_table(table, self.source / f"green_tripdata_{month}.parquet")

    def run(self, *names: str, months: Sequence[str] | None = None) -> list[Outcome]:
        return [o for n in names for o in steps.STEPS[n].run(self.platform, months, False)]

    def rows(self, name: str, version: int | None = None) -> set[tuple[Any, ...]]:
        return without_computed(name, self.platform.tables.read(name, version=version))


def without_computed(name: str, rows: DataFrame) -> set[tuple[Any, ...]]:
    computed = schemas.TABLES[name].computed
    kept = [n for n in schemas.TABLES[name].names if n not in computed]
    found = [tuple(row) for row in rows.select(*kept).collect()]
    assert len(set(found)) == len(found)
    return set(found)


def test_a_new_tariff_and_a_small_month_are_learned(laptop: Laptop) -> None:
    """Trips of the old tariff are left out, and of the newest month half is learned at least."""
    for month, rows in ((FEBRUARY, 2_000), (MARCH, 300)):
        table = demo_trips(month, rows)
        begun = pc.greater_equal(table["lpep_pickup_datetime"], datetime(2022, 2, 15))
        dearer = pc.if_else(begun, pc.multiply(table["fare_amount"], 1.35), table["fare_amount"])
        place = table.schema.get_field_index("fare_amount")
        pq.write_table(
            table.set_column(place, "fare_amount", pc.round(dearer, 2)),
            laptop.source / f"green_tripdata_{month}.parquet",
        )
    laptop.run("raw_trips", "trips", *FEATURES, "training_set")
    rows = laptop.platform.tables.read("training_set")
    first = rows.agg(F.date_format(F.min("pickup_datetime"), "yyyy-MM-dd").alias("day")).collect()
    assert first[0]["day"] == "2022-02-15"
    split = {r["split"]: r["count"] for r in counted(rows.where(f"trip_month = '{MARCH}'"))}
    assert split["train"] == pytest.approx(split["holdout"], abs=5)
    assert {r["split"] for r in counted(rows.where(f"trip_month = '{FEBRUARY}'"))} == {"train"}

    def audit(months: str, taught: str, held: str) -> Audit:
        """February as a champion of these finds it."""
        tags = {"months": months, TAUGHT_FROM: taught, HOLDOUT_FROM: held}
        unused: Any = None
        champion = month_report.Judged(Version("1", "", {}, tags), Path(), unused, unused)
        trips = laptop.platform.tables.read("trips", [FEBRUARY])
        learned = month_report.metered_trips(laptop.platform)
        return month_report.audited(champion, trips, FEBRUARY, learned)

    before = audit(JANUARY, "2022-01-01T00:00:00", "2022-01-25T00:00:00")
    assert (before.changed, before.since) == (True, "2022-02-15")
    # Once it is learned, the days that were not taught cost what was taught.
    after = audit(f"{JANUARY},{FEBRUARY}", "2022-02-15T00:00:00", "2022-02-22T09:00:00")
    assert (after.changed, after.before_month) == (False, FEBRUARY)


def counted(rows: DataFrame) -> list[Any]:
    return rows.groupBy("split").count().collect()


def test_a_month_without_a_valid_trip_is_a_month(laptop: Laptop) -> None:
    laptop.run("raw_trips", "trips", *FEATURES, months=[JANUARY])
    table = demo_trips(FEBRUARY, 200)
    place = table.schema.get_field_index("trip_distance")
    still = table.set_column(place, "trip_distance", pa.array([0.0] * len(table)))
    pq.write_table(still, laptop.source / f"green_tripdata_{FEBRUARY}.parquet")
    made = laptop.run("raw_trips", "trips", *FEATURES, months=[FEBRUARY])
    assert {outcome.name for outcome in made} >= {"trips", *FEATURES}
    tables = laptop.platform.tables
    assert tables.rows("trips", [FEBRUARY]) == 0
    assert tables.rows("quarantined_trips", [FEBRUARY]) == len(table)
    alone = {name: laptop.rows(name) for name in FEATURES}
    laptop.run(*FEATURES, months=[JANUARY, FEBRUARY])  # at once: the same
    assert {name: laptop.rows(name) for name in FEATURES} == alone
    with pytest.raises(TableError, match="none in 2022-04"):
        laptop.run("pickup_features", months=["2022-04"])


@pytest.fixture
def laptop(spark: SparkSession, tmp_path: Path) -> Laptop:
    made = Laptop(spark, tmp_path / "one")
    for month in MONTHS:
        made.land(month)
    made.run("raw_trips", "trips")
    return made


@pytest.mark.long
def test_months_one_by_one_backwards_and_at_once_give_the_same_tables(
    spark: SparkSession, tmp_path: Path, laptop: Laptop
) -> None:
    at_once = {name: (laptop.run(name), laptop.rows(name))[1] for name in FEATURES}
    for order in (MONTHS, MONTHS[::-1]):
        other = Laptop(spark, tmp_path / order[0])
        for month in order:
            other.land(month)
            made = other.run("raw_trips", "trips", *FEATURES, months=[month])
            assert all(v.passed for o in made for v in o.verdicts), made
        late = {o.name: o.figures["skipped_months"] for o in other.run(*FEATURES)}
        # Those computed before the month they reach into had landed were stale, no others.
        fresh = list(MONTHS) if order == MONTHS else [JANUARY]
        for name in FEATURES:
            assert late[name] == fresh
            assert other.rows(name) == at_once[name]
            assert other.platform.tables.months(name) == list(MONTHS)


@pytest.mark.long
def test_real_months_in_any_order_give_the_same_tables(
    spark: SparkSession, settings: Settings, real_data: Path
) -> None:
    """A range, month by month, and in reverse: compared by the hashes of all rows."""
    green = replace(settings, source=str(real_data / "tlc" / "green"))
    platform = EmbeddedPlatform(green, lambda: spark)
    for name in ("raw_trips", "trips"):
        steps.STEPS[name].run(platform, MONTHS, False)

    def hashes(*runs: Sequence[str]) -> list[tuple[int, str]]:
        found = []
        for name in FEATURES:
            shutil.rmtree(platform.tables.uri(name), ignore_errors=True)
            for months in runs:
                (made,) = steps.STEPS[name].run(platform, months, False)
                assert all(verdict.passed for verdict in made.verdicts), made
            kept = [n for n in schemas.TABLES[name].names if n != "computed_at"]
            hashed = F.xxhash64(*kept).cast("decimal(38,0)")
            read = platform.tables.read(name)
            row = read.agg(F.count(F.lit(1)).alias("rows"), F.sum(hashed).alias("sum")).first()
            assert row is not None
            found.append((row["rows"], str(row["sum"])))
        return found

    at_once = hashes(MONTHS)
    assert [rows for rows, _ in at_once] == [229_429, 507_336]
    assert hashes(*([month] for month in MONTHS)) == at_once
    assert hashes(*([month] for month in reversed(MONTHS))) == at_once


def test_a_corrected_month_is_computed_again_with_the_one_it_reaches_into(
    spark: SparkSession, tmp_path: Path, laptop: Laptop
) -> None:
    laptop.run(*FEATURES)
    (again,) = laptop.run("pickup_features")
    assert again.figures["skipped_months"] == list(MONTHS)
    before = {name: laptop.rows(name) for name in FEATURES}

    laptop.land(JANUARY, seed=2)
    laptop.run("raw_trips", "trips", months=[JANUARY])
    corrected = laptop.run(*FEATURES)
    assert [o.figures["skipped_months"] for o in corrected] == [[MARCH], [MARCH]]
    assert all(verdict.passed for o in corrected for verdict in o.verdicts)

    clean = Laptop(spark, tmp_path / "clean")
    for month in MONTHS:
        clean.land(month, seed=2 if month == JANUARY else 1)
    clean.run("raw_trips", "trips", *FEATURES)
    for name in FEATURES:
        assert laptop.rows(name) == clean.rows(name)
        changed = {row[-1] for row in laptop.rows(name) ^ before[name]}
        assert changed == {JANUARY, FEBRUARY}


def test_rows_that_a_correction_leaves_as_they_were_keep_when_they_were_computed(
    laptop: Laptop,
) -> None:
    def computed() -> Mapping[Any, Any]:
        rows = laptop.platform.tables.read("pickup_features").collect()
        return {(*r[:-2], r["known_month"]): r["computed_at"] for r in rows}

    laptop.run("pickup_features")
    before = computed()
    laptop.land(JANUARY, seed=2)
    laptop.run("raw_trips", "trips", "pickup_features")
    after = computed()
    same, new = before.keys() & after.keys(), after.keys() - before.keys()
    assert same
    assert new
    assert all(after[key] == before[key] for key in same)
    assert min(after[key] for key in new) > max(before.values())


def test_a_later_correction_changes_nothing_of_what_an_earlier_training_set_saw(
    laptop: Laptop,
) -> None:
    tables, two = laptop.platform.tables, [JANUARY, FEBRUARY]
    laptop.run(*FEATURES, "training_set", months=two)
    saw, versions = laptop.rows("training_set"), tables.sources("training_set")
    read = ("trips", *FEATURES)
    assert versions == {name: tables.version(name) for name in read}
    assert len(saw) == tables.rows("trips", two)

    laptop.land(JANUARY, seed=2)
    laptop.run("raw_trips", "trips", *FEATURES, months=[JANUARY])
    laptop.run(*FEATURES, "training_set", months=two)
    now = laptop.rows("training_set")
    assert not saw & {row for row in now if row[-1] == JANUARY}
    assert all(tables.sources("training_set")[name] > versions[name] for name in read)

    as_of = dataset.training_rows(laptop.platform, two, versions)
    assert without_computed("training_set", as_of) == saw
    assert laptop.rows("training_set", version=0) == saw
    newest = dataset.training_rows(laptop.platform, two, tables.sources("training_set"))
    assert without_computed("training_set", newest) == now


def test_a_second_training_set_of_the_same_rows_is_skipped_and_keeps_its_sources(
    laptop: Laptop,
) -> None:
    laptop.run(*FEATURES, "training_set")
    sources = laptop.platform.tables.sources("training_set")
    (again,) = laptop.run("training_set")
    assert (again.figures["skipped"], again.commit) == (True, None)
    assert again.figures["source_versions"] == sources
    assert laptop.platform.tables.sources("raw_trips") == {}
    assert laptop.platform.tables.sources("batch_predictions") == {}


class RoundingStore(DeltaFeatureStore):
    """Planted: looks features up at the pickup rounded up to the next quarter of an hour."""

    def look_up(
        self,
        trips: DataFrame,
        lookups: Sequence[Lookup],
        months: Sequence[str] | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> DataFrame:
        exact = trips.withColumnRenamed("pickup_datetime", "exact")
        up = "timestamp_seconds(ceil(unix_seconds(exact) / 900) * 900) AS pickup_datetime"
        return super().look_up(exact.selectExpr("*", up), lookups, months, versions)


def test_a_store_that_rounds_time_up_fails_the_check_of_the_step(laptop: Laptop) -> None:
    honest = laptop.run(*FEATURES)
    assert {o.name: o.verdicts[1].passed for o in honest} == dict.fromkeys(FEATURES, True)
    laptop.platform.features = RoundingStore(laptop.platform.settings, laptop.platform.tables)
    for outcome in laptop.run(*FEATURES):
        unique, honesty = outcome.verdicts
        assert (unique.check, unique.passed) == ("key_unique", True)
        assert (honesty.check, honesty.passed) == ("no_future_knowledge", False)
        assert "but trips ended by then give" in honesty.reason


def test_a_month_before_that_is_absent_or_old_is_no_leak(laptop: Laptop) -> None:
    """Trips of its first days would look into rows that are still to be made: not asked about."""
    for table in FEATURES:
        (alone,) = laptop.run(table, months=[FEBRUARY])
        assert all(verdict.passed for verdict in alone.verdicts), alone
        compared = alone.verdicts[1].figures["trips_compared"]
        assert compared == 200

    laptop.run(*FEATURES)
    laptop.land(JANUARY, seed=2)
    laptop.run("raw_trips", "trips", months=[JANUARY])
    asked = steps._asked(laptop.platform, FEBRUARY, [JANUARY])
    (earliest,) = asked.selectExpr(
        "date_format(min(pickup_datetime), 'yyyy-MM-dd HH:mm:ss')"
    ).collect()[0]
    assert "2022-02-08 00:00:00" <= earliest < "2022-02-08 06:00:00"
    for outcome in laptop.run(*FEATURES, months=[FEBRUARY]):
        assert all(verdict.passed for verdict in outcome.verdicts), outcome


def test_a_month_that_loses_all_its_trips_loses_its_rows(laptop: Laptop) -> None:
    laptop.run(*FEATURES)
    table = demo_trips(JANUARY, 500, 1)
    free = table.set_column(
        table.schema.get_field_index("fare_amount"), "fare_amount", pa.array([0.0] * len(table))
    )
    pq.write_table(free, laptop.source / f"green_tripdata_{JANUARY}.parquet")
    laptop.run("raw_trips", "trips", months=[JANUARY])
    emptied = laptop.run(*FEATURES)
    assert all(verdict.passed for o in emptied for verdict in o.verdicts), emptied
    for name in FEATURES:
        assert laptop.platform.tables.months(name) == [FEBRUARY, MARCH]
    (again,) = laptop.run("pickup_features")
    assert again.figures["skipped_months"] == [FEBRUARY, MARCH]


def test_what_a_lookup_answers_by_default_is_an_input_of_the_training_set(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop.run(*FEATURES, "training_set")
    assert laptop.run("training_set")[0].figures["skipped"] is True
    monkeypatch.setattr(Lookup, "defaults", property(lambda self: dict.fromkeys(self.features, 1)))
    assert laptop.run("training_set")[0].figures["skipped"] is False


def test_without_features_there_is_no_training_set(laptop: Laptop) -> None:
    with pytest.raises(TableError, match="pickup_features is needed: it holds no rows"):
        laptop.run("training_set")


def test_a_month_reads_of_the_one_before_only_what_its_longest_window_needs(
    laptop: Laptop, engine: SparkSession
) -> None:
    """The bound is handed down to the scan of the files, so that their row groups are skipped."""
    from databricks_steps.features.windows import ended_between

    on = EmbeddedPlatform(laptop.platform.settings, lambda: engine)
    read = ended_between(on.tables.read("trips", [JANUARY, FEBRUARY]), [FEBRUARY])
    text = "date_format({}(dropoff_datetime), 'yyyy-MM-dd HH:mm:ss')"
    (earliest, latest) = read.selectExpr(text.format("min"), text.format("max")).collect()[0]
    assert "2022-01-24 23:45:00" <= earliest < "2022-01-25 06:00:00"
    assert latest < "2022-03-01"
    plan = io.StringIO()
    with redirect_stdout(plan):
        read.explain()
    bound = {  # as Spark and as Sail tell what is handed down
        "PushedFilters: [": "GreaterThanOrEqual(dropoff_datetime,2022-01-24 23:45:00.0)",
        " predicate=": "dropoff_datetime@3 >= 1643067900000000",
    }
    handed_down = [line for line in plan.getvalue().splitlines() if any(k in line for k in bound)]
    assert len(handed_down) == 2  # a scan for each month
    assert all(any(text in line for text in bound.values()) for line in handed_down), handed_down


def test_without_the_month_before_features_still_come(laptop: Laptop) -> None:
    """A first month, and one behind a gap: nothing to reach back into, nothing made up."""
    only = replace(laptop.platform.settings, home=laptop.platform.settings.home.parent / "gap")
    gap = EmbeddedPlatform(only, lambda: laptop.platform.spark)
    for month in (JANUARY, MARCH):
        steps.STEPS["raw_trips"].run(gap, [month], False)
    steps.STEPS["trips"].run(gap, None, False)
    (made,) = steps.STEPS["pickup_features"].run(gap, None, False)
    assert made.figures["months"] == [JANUARY, MARCH]
    assert all(verdict.passed for verdict in made.verdicts)
    laptop.run("pickup_features")
    march = laptop.platform.tables.read("pickup_features", [MARCH])
    late = "known_at >= '2022-03-08 00:15:00'"  # by then no window reaches into February
    assert without_computed(
        "pickup_features", gap.tables.read("pickup_features", [MARCH]).where(late)
    ) == without_computed("pickup_features", march.where(late))
