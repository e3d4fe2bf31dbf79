"""What goes with time, what stays for ever, and what status says of growth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from deltalake import DeltaTable

from databricks_steps import schemas
from databricks_steps.errors import SettingsError
from databricks_steps.settings import KEPT, Settings
from taxi_assets import backup, dagster_instance, retention, status
from taxi_assets.emulator.runtime import capture, state
from taxi_assets.resources.alerts import JsonLines

MONTHS = dg.StaticPartitionsDefinition(["2022-01", "2022-02"])


@dg.asset(partitions_def=MONTHS, check_specs=[dg.AssetCheckSpec("sound", asset="trips")])
def trips() -> Iterator[Any]:
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True)])


@dg.asset
def model() -> None: ...


def run_of(instance: dg.DagsterInstance, assets: list[Any], month: str | None = None) -> str:
    done = dg.materialize(assets, instance=instance, partition_key=month)
    assert done.success
    return done.run_id


def test_runs_go_but_for_the_newest_and_those_that_hold_the_newest_of_an_asset_or_month(
    settings: Settings,
) -> None:
    kept = replace(settings, keep_runs=3)
    with dagster_instance.instance(settings) as instance:
        january = run_of(instance, [trips], "2022-01")
        first_model = run_of(instance, [model])
        superseded = [run_of(instance, [trips], "2022-02") for _ in range(3)]
        newest = [run_of(instance, [model]) for _ in range(3)]
        assert retention.prune_runs(kept, instance) == 3
        left = {run.run_id for run in instance.get_runs()}
        assert left == {january, superseded[-1], *newest}
        months = instance.get_materialized_partitions(dg.AssetKey("trips"))
        assert months == {"2022-01", "2022-02"}
        for name in ("trips", "model"):
            assert instance.get_latest_materialization_event(dg.AssetKey(name)) is not None
        history = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("trips"), "sound"), limit=10
        )
        assert {each.run_id for each in history} == {january, superseded[-1]}
        files = {f.stem for f in (settings.home / "dagster/history/runs").glob("*.db")}
        assert files == {*left, "index"}
        storage = settings.home / "dagster" / "storage"
        assert not storage.exists() or not (storage / first_model).exists()
        assert retention.prune_runs(kept, instance) == 0
        assert retention.prune_runs(replace(settings, keep_runs=0), instance) == 0


def test_a_run_that_a_sensor_asked_for_stays_or_it_would_be_asked_for_again(
    settings: Settings,
) -> None:
    with dagster_instance.instance(settings) as instance:
        asked = dg.materialize([model], instance=instance, tags={"dagster/run_key": "2022-01:a"})
        run_of(instance, [model])
        newest = run_of(instance, [model])
        assert retention.prune_runs(replace(settings, keep_runs=1), instance) == 1
        assert {run.run_id for run in instance.get_runs()} == {asked.run_id, newest}


def captured_on(settings: Settings, *days_ago: int) -> None:
    memory = state.State(state.database(settings))
    table = settings.table(settings.payload_table)
    for days in days_ago:
        at = int((time.time() - days * 86_400) * 1e6)
        row = (f"request-{days}", None, at, 200, 1, "{}", "{}", "entity", "[]", None)
        memory.buffer({table: [row]})
        capture.flush(settings, memory)
    memory.close()


def rows_of(settings: Settings) -> list[str]:
    table = DeltaTable(str(settings.table_path(settings.payload_table))).to_pyarrow_table()
    return sorted(table.column("databricks_request_id").to_pylist())


def test_requests_go_by_the_day_once_the_oldest_is_a_week_too_old(settings: Settings) -> None:
    captured_on(settings, 0, 29, 33, 36)
    with dagster_instance.instance(settings) as instance:
        retention.apply(settings, instance, due=False)
        assert len(rows_of(settings)) == 4
        captured_on(settings, 38, 400)
        retention.apply(replace(settings, keep_requests=0), instance, due=False)
        assert len(rows_of(settings)) == 6
        version = DeltaTable(str(settings.table_path(settings.payload_table))).version()
        retention.apply(settings, instance, due=False)
        assert rows_of(settings) == ["request-0", "request-29"]
        retention.apply(settings, instance, due=False)  # nothing more to do, nothing committed
        table = DeltaTable(str(settings.table_path(settings.payload_table)))
        assert table.version() == version + 1
    assert status.logs(settings).exists("trips") is False


def test_it_is_done_once_a_day_and_not_during_a_backup(settings: Settings) -> None:
    captured_on(settings, 75)
    with dagster_instance.instance(settings) as instance:
        with backup.files_stay(settings):
            retention.apply(settings, instance)
        assert len(rows_of(settings)) == 1
        retention.apply(settings, instance)
        assert rows_of(settings) == []
        captured_on(settings, 75)
        retention.apply(settings, instance)
        assert len(rows_of(settings)) == 1


def test_a_clock_that_was_ahead_puts_nothing_off(settings: Settings) -> None:
    captured_on(settings, 75)
    tomorrow = time.time() + 86_400
    JsonLines(settings.home / status.DISK_LOG).append([{"at": tomorrow, "bytes": {"token": 0}}])
    with dagster_instance.instance(settings) as instance:
        retention.apply(settings, instance)
        assert rows_of(settings) == []
        captured_on(settings, 75)
        retention.apply(settings, instance)  # once a day still
        assert len(rows_of(settings)) == 1


def test_a_table_that_cannot_be_read_keeps_nothing_else_from_going(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    captured_on(settings, 75)
    log = settings.table_path(settings.payload_table) / "_delta_log"
    for commit in log.iterdir():
        commit.write_text("no JSON")
    kept = replace(settings, keep_runs=1)
    with dagster_instance.instance(settings) as instance:
        newest = [run_of(instance, [model]) for _ in range(3)][-1]
        retention.apply(kept, instance)
        assert [run.run_id for run in instance.get_runs()] == [newest]
    assert "what is old was not removed" in caplog.text
    assert status.DiskLog(settings).last > 0


def test_small_files_of_captured_requests_become_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "COMPACTED_EVERY", 5)
    captured_on(settings, *range(5))
    table = DeltaTable(str(settings.table_path(settings.payload_table)))
    assert len(table.file_uris()) == 5
    captured_on(settings, 5)
    table = DeltaTable(str(settings.table_path(settings.payload_table)))
    assert len(table.file_uris()) == 1
    assert capture.RETENTION.items() <= table.metadata().configuration.items()
    captured_on(settings, 6)  # the batches that are in it are known still
    assert rows_of(settings) == [f"request-{day}" for day in range(7)]


def test_a_log_that_is_too_large_is_cut_and_kept_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOG_BYTES", 10)
    log = settings.home / "logs" / "workspace.log"
    log.parent.mkdir(parents=True)
    with log.open("a") as server, dagster_instance.instance(settings) as instance:
        server.write("a long line\n")
        server.flush()
        retention.apply(settings, instance)
        server.write("next\n")
    assert log.read_text() == "next\n"
    assert log.with_name("workspace.log.1").read_text() == "a long line\n"


def test_status_tells_size_and_growth(settings: Settings) -> None:
    log = status.DiskLog(settings)
    assert "growth is told from the second day" in status.disk_line(log.forecast())
    settings.home.mkdir()
    (settings.home / "token").write_bytes(b"x" * 10 * 2**20)
    lines = JsonLines(settings.home / status.DISK_LOG)
    lines.append([{"at": "soon"}, {"bytes": 5}, {"at": 5.0, "bytes": [1]}])
    lines.append([{"at": time.time() - 10 * 86_400, "bytes": {"token": 0}}])
    found = log.forecast()
    assert found["bytes"] == pytest.approx(10 * 2**20, rel=0.01)
    assert (found["daily"], found["days"]) == (pytest.approx(2**20, rel=0.01), 10.0)
    assert "10 MiB, +1.0 MiB a day over 10 days" in status.disk_line(found)
    (settings.home / "token").write_bytes(b"")
    assert status.disk_line(log.forecast()).endswith("a day over 10 days")


def test_what_is_kept_is_said_by_variables() -> None:
    given = dict.fromkeys(KEPT.values(), "7")
    settings = Settings.from_environment(given)
    assert (settings.keep_runs, settings.keep_requests, settings.keep_files) == (7, 7, 7)
    assert Settings.from_environment(settings.to_environment()) == settings
    for text in ("-1", "many", "9" * 10, "٣"):
        with pytest.raises(SettingsError, match="TAXI_KEEP_RUNS must be a whole number"):
            Settings.from_environment({"TAXI_KEEP_RUNS": text})


def test_judged_requests_stay_and_those_that_no_trips_came_for_go(
    settings: Settings, spark: Any
) -> None:
    from databricks_steps.platforms.embedded.tables import DeltaTables

    tables = DeltaTables(settings, lambda: spark)
    made, now = schemas.ENDPOINT_PAYLOADS, datetime.now(timezone.utc).replace(tzinfo=None)
    asked = {f"{days}": now - timedelta(days=days) for days in (200, 98, 92, 89, 40)}
    asked["judged"] = datetime(2022, 1, 5)
    rows = [
        _blank(made, request_month=f"{at:%Y-%m}", request_id=name, requested_at=at)
        for name, at in asked.items()
    ]
    tables.merge(made.name, spark.createDataFrame(rows, made.spark()))
    ride = schemas.TABLES["trips"]
    of_january = _blank(ride, trip_month="2022-01")
    tables.merge("trips", spark.createDataFrame([of_january], ride.spark()))

    def left() -> set[str]:
        table = DeltaTable(str(settings.table_path(made.name))).to_pyarrow_table()
        return {*table.column("request_id").to_pylist()}

    with dagster_instance.instance(settings) as instance:
        retention.apply(settings, instance, due=False)
        assert left() == {"89", "40", "judged"}
        version = DeltaTable(str(settings.table_path(made.name))).version()
        retention.apply(settings, instance, due=False)
        assert DeltaTable(str(settings.table_path(made.name))).version() == version
        at = datetime(2020, 1, 5)
        row = _blank(made, request_month="2020-01", request_id="old", requested_at=at)
        tables.merge(made.name, spark.createDataFrame([row], made.spark()))
        retention.apply(replace(settings, keep_requests=0), instance, due=False)
        assert left() == {"89", "40", "judged", "old"}


def test_the_rows_of_requests_are_packed_when_a_month_has_many_files(
    settings: Settings, spark: Any
) -> None:
    from databricks_steps.platforms.embedded.tables import DeltaTables

    made, month = schemas.ENDPOINT_PAYLOADS, f"{datetime.now(timezone.utc):%Y-%m}"
    tables = DeltaTables(settings, lambda: spark)
    for number in range(retention.MANY_FILES + 1):
        row = _blank(made, request_month=month, request_id=str(number))
        digest = {month: number}
        tables.merge(made.name, spark.createDataFrame([row], made.spark()), made_from=digest)
    path = str(settings.table_path(made.name))
    assert len(DeltaTable(path).file_uris()) == retention.MANY_FILES + 1
    with dagster_instance.instance(settings) as instance:
        retention.apply(settings, instance, due=False)
    assert len(DeltaTable(path).file_uris()) == 1
    again = DeltaTables(settings, lambda: spark)
    assert again.rows(made.name) == retention.MANY_FILES + 1
    assert again.made_from(made.name, month) == retention.MANY_FILES


def _blank(table: schemas.Table, **values: Any) -> tuple[Any, ...]:
    kinds = {"string": "", "int": 0, "long": 0, "double": 0.0, "boolean": False}
    now = datetime(2022, 1, 1, tzinfo=timezone.utc)
    return tuple(values.get(c.name, kinds.get(c.type, now)) for c in table.columns)


def test_the_folder_of_a_home_that_is_gone_has_no_size(tmp_path: Path) -> None:
    found = status.DiskLog(Settings(home=tmp_path / "none")).forecast()
    assert (found["bytes"], found["free"], found["daily"]) == (0, None, None)
