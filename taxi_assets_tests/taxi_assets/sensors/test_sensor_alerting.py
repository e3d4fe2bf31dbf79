"""`alert_sensor`: every event once, in batches, whatever dies in between."""

from __future__ import annotations

import json
import time
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.error import SerializableErrorInfo
from world import World

from taxi_assets.resources.alerts import AlertLog, JsonLines
from taxi_assets.sensors import event_reader

pytestmark = pytest.mark.slow  # runs of Dagster
NAME = "alert_sensor"


def judge(world: World, check: str, passed: bool, asset: str = "trips") -> None:
    """An evaluation outside of any run, as Dagster's API reports one."""
    world.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(asset), check_name=check, passed=passed, metadata={}
        )
    )


def run(world: World, job: str, month: str, **facts: Any) -> dg.DagsterRun:
    world.tell(**facts)
    done = world.repository.get_job(job).execute_in_process(
        instance=world.instance, tags=world.tags(month), raise_on_error=False
    )
    found = world.instance.get_run_by_id(done.run_id)
    assert found is not None
    return found


def rows(world: World) -> list[dict[str, Any]]:
    return JsonLines(world.settings.home / "alerts.jsonl").rows()


def test_nothing_happened(world: World) -> None:
    assert world.said(NAME) == "0 events read; 0 new, 0 resolved, 0 open; 0 told"


def test_a_check_that_fails_is_told_with_its_month_and_resolved_when_it_passes(
    world: World,
) -> None:
    first = run(world, "new_month", "2023-01", failing=["drift_report"])
    assert "1 new, 0 resolved, 1 open" in world.said(NAME)
    run(world, "new_month", "2022-12")
    assert "0 new, 0 resolved, 1 open" in world.said(NAME)
    run(world, "new_month", "2023-01", failing=["drift_report"])
    world.tick(NAME)
    run(world, "retrain", "2023-01")
    assert "0 new, 1 resolved, 0 open" in world.said(NAME)
    key = "check drift_report: triage 2023-01"
    assert world.alerts() == [("error", key), ("resolved", key)]
    told = rows(world)[0]
    link = f"http://127.0.0.1:3000/runs/{first.run_id}"
    assert told["where"] == {"asset": "drift_report", "month": "2023-01", "link": link}
    assert "a retrain is asked for where it helps" in told["remedy"]
    assert told["of"] == "error"


def test_the_checks_that_triage_sums_up_are_not_told_beside_it(world: World) -> None:
    run(world, "new_month", "2023-01", failing=["batch_predictions", "drift_report"])
    world.tick(NAME)
    assert world.problems() == ["check drift_report: triage 2023-01"]


def test_a_run_that_fails_is_told_with_step_and_reason_and_resolved_when_one_succeeds(
    world: World,
) -> None:
    failed = run(world, "new_month", "2022-03", broken=["pickup_features"])
    run(world, "new_month", "2022-03", broken=["pickup_features"])
    world.tick(NAME)
    (told,) = rows(world)
    assert told["key"] == "run new_month 2022-03"
    assert told["what"] == (
        f"run {failed.run_id[:8]} of new_month for 2022-03 failed in pickup_features: "
        "RuntimeError: pickup_features broke"
    )
    assert told["where"]["asset"] == "pickup_features"
    run(world, "new_month", "2022-04")
    run(world, "retrain", "2022-03")
    world.tick(NAME)
    assert world.problems() == ["run new_month 2022-03"]
    run(world, "new_month", "2022-03")
    world.tick(NAME)
    assert world.problems() == []


def test_a_part_of_a_job_is_another_problem_than_the_job(world: World) -> None:
    world.tell(broken=["trips"])
    job, tags = world.repository.get_job("new_month"), world.tags("2022-03")
    for names in (["trips"], ["raw_trips"]):
        job.execute_in_process(
            instance=world.instance,
            asset_selection=[dg.AssetKey(name) for name in names],
            tags=tags,
            raise_on_error=False,
        )
    world.tick(NAME)
    assert world.problems() == ["run new_month (trips) 2022-03"]


def test_a_run_whose_blocking_check_failed_is_one_problem_not_two(world: World) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("rows_conserved", asset="trips", blocking=True)])
    def trips() -> dg.MaterializeResult:  # type: ignore[type-arg]
        return dg.MaterializeResult(
            check_results=[dg.AssetCheckResult(passed=False, check_name="rows_conserved")]
        )

    done = dg.materialize([trips], instance=world.instance, raise_on_error=False)
    assert not done.success
    world.tick(NAME)
    assert world.alerts() == [("error", "check trips: rows_conserved")]


def test_a_run_that_a_person_canceled_is_no_problem(world: World) -> None:
    world.instance.report_run_canceled(world.queue("retrain", dg.DagsterRunStatus.STARTED))
    world.tick(NAME)
    assert world.alerts() == []


def test_a_burst_is_read_in_batches_and_nothing_is_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_reader, "BATCH", 100)
    count = event_reader.BATCH + 7
    for number in range(count):
        judge(world, f"c{number}", passed=False)
    said = [world.said(NAME) for _ in range(3)]
    assert [text.partition(";")[0] for text in said] == [
        "100 events read, more to come",
        "7 events read",
        "0 events read",
    ]
    assert [key for _, key in world.alerts()] == [f"check trips: c{n}" for n in range(count)]


def test_events_of_all_types_are_read_in_their_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_reader, "BATCH", 3)
    for passed in (False, False, True, False):
        judge(world, "other", passed)
        run(world, "new_month", "2022-03", broken=[] if passed else ["raw_trips"])
    judge(world, "other", passed=True)
    for _ in range(20):
        world.tick(NAME)
    assert [alert for alert in world.alerts() if "run" in alert[1]] == [
        ("error", "run new_month 2022-03"),
        ("resolved", "run new_month 2022-03"),
        ("error", "run new_month 2022-03"),
    ]
    assert [severity for severity, key in world.alerts() if key == "check trips: other"] == [
        "error",
        "resolved",
        "error",
        "resolved",
    ]


@pytest.mark.parametrize("afterwards", [pytest.param(0, marks=pytest.mark.long), 3])
def test_what_gets_the_ids_of_a_deleted_run_is_told(world: World, afterwards: int) -> None:
    """The newest run is deleted in the UI; SQLite gives its events' ids to the next ones."""
    for _ in range(2):
        newest = run(world, "new_month", "2022-03")
        world.tick(NAME)
    world.instance.delete_run(newest.run_id)
    failed = run(world, "new_month", "2022-04", broken=["raw_trips"])
    for _ in range(afterwards):  # the ids go beyond where it had read
        run(world, "new_month", "2022-05")
    world.tick(NAME)
    world.tick(NAME)
    assert world.alerts() == [("error", "run new_month 2022-04")]
    assert failed.run_id in rows(world)[0]["where"]["link"]


def test_a_home_whose_events_are_older_than_the_cursor_goes_on_telling(world: World) -> None:
    """As restored from a backup in which the cursors were copied last."""
    run(world, "new_month", "2022-03", failing=["drift_report"])
    world.tick(NAME)
    kept = rows(world)
    for record in world.instance.get_runs():
        world.instance.delete_run(record.run_id)
    judge(world, "volume", passed=False)
    world.tick(NAME)
    assert rows(world)[: len(kept)] == kept
    assert world.alerts()[len(kept) :] == [("error", "check trips: volume")]
    assert world.said(NAME).startswith("0 events read")


@pytest.mark.parametrize("dies", [0, 1, 2, 3, 4])
def test_a_daemon_that_dies_before_it_keeps_its_cursor_tells_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, dies: int
) -> None:
    monkeypatch.setattr(event_reader, "BATCH", 4)
    for number in range(5):
        judge(world, "volume", passed=False)
        judge(world, f"c{number}", passed=False)
        judge(world, "volume", passed=True)
        judge(world, f"c{number}", passed=number % 2 == 0)
    for step in range(8):
        world.tick(NAME, keep=step != dies)
        world = world.restarted()
    assert world.alerts() == [
        alert
        for n in range(5)
        for alert in [
            ("error", "check trips: volume"),
            ("error", f"check trips: c{n}"),
            ("resolved", "check trips: volume"),
            *([("resolved", f"check trips: c{n}")] if n % 2 == 0 else []),
        ]
    ]


def sensor_state(world: World, sensor: str) -> InstigatorState:
    """The sensor's state as the daemon keeps it."""
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="world"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "world"), sensor)
    return world.instance.add_instigator_state(
        InstigatorState(
            origin,
            InstigatorType.SENSOR,
            InstigatorStatus.DECLARED_IN_CODE,
            SensorInstigatorData(),
        )
    )


def ticked(world: World, state: InstigatorState, status: TickStatus, at: float) -> None:
    """A tick of a sensor as the daemon writes it."""
    failed = status == TickStatus.FAILURE
    error = SerializableErrorInfo("OSError: no volume\n", [], "OSError") if failed else None
    world.instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id,
            instigator_name=state.instigator_name,
            instigator_type=InstigatorType.SENSOR,
            status=status,
            timestamp=at,
            selector_id=state.selector_id,
            error=error,
            run_ids=[],
        )
    )


def test_a_sensor_is_heard_when_the_clock_that_was_ahead_is_right_again(world: World) -> None:
    state, ahead = sensor_state(world, "new_trips_sensor"), time.time() + 86_400
    ticked(world, state, TickStatus.SUCCESS, ahead)
    cursor = {"version": 1, "ticks": {state.selector_id: ahead}}
    world.cursors[NAME] = json.dumps(cursor)
    world.tick(NAME)
    ticked(world, state, TickStatus.FAILURE, time.time())
    for _ in range(2):
        world.tick(NAME)
        assert world.alerts() == [("error", "sensor new_trips_sensor")]
    ticked(world, state, TickStatus.SUCCESS, time.time())
    world.tick(NAME)
    assert world.problems() == []


def test_a_sensor_whose_tick_failed_is_told_and_resolved_when_it_ticks_again(world: World) -> None:
    state, now = sensor_state(world, "new_trips_sensor"), time.time() - 100
    ticked(world, state, TickStatus.SKIPPED, now)
    for second in (1, 2):
        ticked(world, state, TickStatus.FAILURE, now + second)
        world.tick(NAME)
    (told,) = rows(world)
    assert (told["key"], told["what"]) == (
        "sensor new_trips_sensor",
        "new_trips_sensor failed: OSError: no volume",
    )
    ticked(world, state, TickStatus.STARTED, now + 3)
    world.tick(NAME)
    assert world.problems() == ["sensor new_trips_sensor"]
    ticked(world, state, TickStatus.SUCCESS, now + 3)
    world.tick(NAME)
    world.tick(NAME, keep=False)
    assert world.alerts()[1:] == [("resolved", "sensor new_trips_sensor")]
    assert AlertLog(world.settings).problems() == []
