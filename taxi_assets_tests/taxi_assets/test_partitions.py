"""Partitions are the months held: in calendar order, mended after a kill, known to a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from databricks_steps.errors import SettingsError
from databricks_steps.months import shift, this_month
from databricks_steps.settings import DATABRICKS, Settings
from databricks_steps.steps import STEPS
from taxi_assets import dagster_instance
from taxi_assets.partitions import (
    MONTHS,
    MONTHS_TAG,
    NAME,
    PARTITION_TAG,
    RANGE_TAGS,
    hold,
    is_in_order,
    run_months,
    without,
)

JANUARY, FEBRUARY, MARCH = "2022-01", "2022-02", "2022-03"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def partitions(instance: dg.DagsterInstance) -> list[str]:
    return list(instance.get_dynamic_partitions(NAME))


def of_range(first: str, last: str) -> dict[str, str]:
    return dict(zip(RANGE_TAGS, (first, last), strict=True))


def made(instance: dg.DagsterInstance, *months: str) -> None:
    """As earlier versions left a home: months are made, and no partition is known."""
    for month in months:
        event = dg.AssetMaterialization("raw_trips", partition=month)
        instance.report_runless_asset_event(event)


def raw_trips(settings: Settings, *months: str) -> None:
    rows = pa.table({"trip_month": [*months], "source_file": ["x"] * len(months)})
    path = str(settings.table_path("raw_trips"))
    write_deltalake(path, rows, partition_by=["trip_month"], mode="overwrite")


def test_a_month_before_the_others_keeps_the_order(instance: dg.DagsterInstance) -> None:
    hold(instance, [MARCH, FEBRUARY])
    assert partitions(instance) == [FEBRUARY, MARCH]
    hold(instance, ["2022-05"])
    hold(instance, [JANUARY, MARCH])
    assert partitions(instance) == [JANUARY, FEBRUARY, MARCH, "2022-05"]
    keys = MONTHS.get_partition_keys(dynamic_partitions_store=instance)
    assert list(keys) == [JANUARY, FEBRUARY, MARCH, "2022-05"]


def test_what_people_add_in_the_ui_is_put_in_its_place(instance: dg.DagsterInstance) -> None:
    hold(instance, [FEBRUARY, MARCH])
    instance.add_dynamic_partitions(NAME, [JANUARY])
    assert not is_in_order(instance)
    hold(instance, ())
    assert is_in_order(instance)
    assert partitions(instance) == [JANUARY, FEBRUARY, MARCH]


def test_a_range_is_the_calendars_without_months_that_are_not_held(
    instance: dg.DagsterInstance,
) -> None:
    tags = of_range(JANUARY, "2022-04")
    assert run_months(tags) == (JANUARY, FEBRUARY, MARCH, "2022-04")
    assert run_months(tags, instance) == run_months(tags)  # nothing is known of them here
    hold(instance, [JANUARY, MARCH, "2022-04"])
    assert run_months(tags, instance) == (JANUARY, MARCH, "2022-04")
    # What the launcher sends to a cluster says exactly which.
    assert run_months({**tags, MONTHS_TAG: f"{JANUARY},{MARCH}"}) == (JANUARY, MARCH)
    assert run_months(of_range("2022-04", JANUARY)) == run_months(tags)
    assert run_months(of_range(JANUARY, "banana")) == (JANUARY, "banana")
    assert run_months({PARTITION_TAG: "banana"}) == ("banana",)


def test_a_home_of_an_earlier_version_gets_the_months_it_holds(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    made(instance, MARCH, JANUARY)
    dagster_instance.hold_months(settings, instance)
    assert partitions(instance) == [JANUARY, MARCH]
    instance.delete_dynamic_partition(NAME, JANUARY)  # killed while months were put in order
    dagster_instance.hold_months(settings, instance, [FEBRUARY])
    assert partitions(instance) == [JANUARY, FEBRUARY, MARCH]


def test_months_that_real_trips_have_replaced_are_no_partitions_any_more(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    made(instance, JANUARY, FEBRUARY, "2023-05")
    raw_trips(settings, "2023-05")
    dagster_instance.hold_months(settings, instance, [JANUARY])
    assert partitions(instance) == [JANUARY, "2023-05"]  # asked for, so that it may come again
    dagster_instance.hold_months(settings, instance)
    assert partitions(instance) == ["2023-05"]


def test_what_is_no_month_or_not_over_goes(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    instance.add_dynamic_partitions(NAME, ["banana", this_month(), JANUARY])
    for platform in ("embedded", DATABRICKS):
        settings = replace(Settings(home=tmp_path), platform=platform)
        dagster_instance.hold_months(settings, instance)
        assert partitions(instance) == [JANUARY]


def test_a_month_without_rows_of_an_asset_is_told_once_and_hides_nothing(
    instance: dg.DagsterInstance,
) -> None:
    key = dg.AssetKey("drift_report")
    event = dg.AssetMaterialization(key, partition=MARCH, metadata={"triage": "none"})
    instance.report_runless_asset_event(event)
    for _ in range(2):
        without(instance, [key.path[0]], [JANUARY, MARCH], "why")
    records = instance.fetch_materializations(key, limit=9).records
    assert [record.partition_key for record in records] == [JANUARY, MARCH]


@pytest.mark.slow
@pytest.mark.parametrize("month", ["banana", shift(this_month(), 1), "1999-12"])
def test_what_is_no_month_that_is_over_is_refused_by_every_step(month: str, tmp_path: Path) -> None:
    from taxi_assets.definitions import build_defs
    from taxi_assets.resources.targets import Target

    target = Target("local", Settings(home=tmp_path, source=str(tmp_path)))
    job = build_defs(target).resolve_job_def("fare_pipeline")
    with dg.DagsterInstance.ephemeral() as found:
        found.add_dynamic_partitions(NAME, [month])
        for step in ("raw_trips", "pickup_features", "training_set"):
            with pytest.raises(SettingsError, match=f"from 2009-01 to .*'{month}'.*For example"):
                job.execute_in_process(
                    asset_selection=[dg.AssetKey(name) for name in STEPS[step].writes],
                    tags={PARTITION_TAG: month},
                    instance=found,
                )
